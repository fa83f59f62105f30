"""Real servers behind the release binary, and h2load before it; scripts/endpoints starts this and says what it takes.

CASES has the servers, RATES the pairs whose rates are compared. A case fails if one response of its runs is not 2xx.
"""

import argparse
import collections
import dataclasses
import http.client
import http.server
import os
import pathlib
import re
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from ports import free_port

REPLY = b"0123456789\n"
BODY = b"a body of thirty-two bytes, POST\n"[:32]
# The least share of the rate of connections without an end that connections of 1,000 requests must have, and how many times
# that is measured before it counts as missed: other processes disturb a measurement, and do not make one look better. Beside
# builds on all processors three of five measurements are below it.
LEAST_RATE, TRIES = 0.8, 10
# Requests to a server without the proxy.
DIRECT = 1_500
# h2load's clients and the streams of each.
ONE, FEW, MANY, SHARED = (1, 1), (4, 4), (8, 8), (1, 64)


# ---- servers: each function starts one, and returns its port ----

class Python(http.server.BaseHTTPRequestHandler):
    # http.server writes head and body apart. On a connection that stays, Nagle's algorithm then holds the body back until the
    # head is acknowledged, which takes 40 ms for any client: 25 requests a second.
    disable_nagle_algorithm = True

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(REPLY)))
        self.end_headers()
        self.wfile.write(REPLY)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, *args):
        pass


def serve_python(kind, version, backlog):
    """In a process of its own; prints its port."""
    Python.protocol_version = version
    server = getattr(http.server, kind)
    server.request_queue_size = int(backlog)
    server = server(("127.0.0.1", 0), Python)
    print(server.server_port, flush=True)
    server.serve_forever()


async def asgi(scope, receive, send):
    """For Hypercorn and Granian. On /chunks the body comes in pieces, of which some are empty."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    chunks = scope["path"] == "/chunks"
    headers = [] if chunks else [(b"content-length", b"%d" % len(REPLY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if chunks:
        for chunk in (REPLY, b""):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if chunks else REPLY})


def python(kind, version="HTTP/1.0", backlog=128):
    command = [sys.executable, __file__, "serve-python", kind, version, str(backlog)]
    return lambda site: site.start_printing(command)


def nginx(*settings, http2=True, body="return"):
    """`body`: return, or proxy for a server that reads what comes and passes it on to one that is nginx as well."""

    def start(site):
        port, root = free_port(), site.folder()
        listen = " ".join(word for word in ("ssl" if site.tls else "", "http2" if http2 else "") if word)
        inner = f"unix:{root}/inner"
        certs = f"ssl_certificate {site.work}/tls.pem; ssl_certificate_key {site.work}/tls.key;" if site.tls else ""
        temporary = " ".join(
            f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        reply = f'return 200 "{REPLY.decode().strip()}\\n";'
        (root / "nginx.conf").write_text(f"""
            daemon off; master_process off; pid {root}/pid; error_log {root}/log warn;
            events {{ worker_connections 4096; }}
            http {{
              access_log off; {temporary}
              server {{
                listen 127.0.0.1:{port} {listen}; listen {site.unix(port, root)} {listen}; {certs} {" ".join(setting + ";" for setting in settings)}
                location / {{ {reply if body == "return" else f"proxy_pass http://{inner};"} }}
              }}
              server {{ listen {inner}; location / {{ {reply} }} }}
            }}""")
        command = ["nginx", "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "log")]
        return site.start_listening(command, port)

    return start


def hypercorn(site):
    port, config = free_port(), site.folder() / "config.toml"
    # Hypercorn 0.18.0 loses requests itself at this limit (1,000 by default): its GOAWAY covers all that are open, and it
    # answers none of them. No client can tell that from requests that are still to be answered.
    config.write_text("keep_alive_max_requests = 1000000000\n")
    certs = ["--certfile", f"{site.work}/tls.pem", "--keyfile", f"{site.work}/tls.key"] if site.tls else []
    command = [sys.executable, "-m", "hypercorn", "--config", str(config), "--bind", f"127.0.0.1:{port}"]
    return site.start_listening([*command, *certs, "endpoints:asgi"], port)


def granian(site):
    port = free_port()
    certs = ["--ssl-certificate", f"{site.work}/tls.pem", "--ssl-keyfile", f"{site.work}/tls.key"] if site.tls else []
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--http", "2", "--no-ws", "--no-log"]
    return site.start_listening([*command, "--port", str(port), *certs, "endpoints:asgi"], port)


NODE = """
const [kind, limit, folder, tls, path] = process.argv.slice(1);
const http2 = require('http2'), http = require('http'), fs = require('fs');
const options = tls && { key: fs.readFileSync(`${folder}/tls.key`), cert: fs.readFileSync(`${folder}/tls.pem`) };
const answer = (req, res) => req.on('end', () => res.end('0123456789\\n')).resume();
const server = kind === 'http1' ? http.createServer(answer)
  : tls ? http2.createSecureServer(options, answer) : http2.createServer(answer);
if (kind === 'http1') server.maxRequestsPerSocket = +limit;
else if (+limit) server.on('session', session => {
  let streams = 0;
  session.on('stream', () => { if (++streams === +limit) session.goaway(); });
});
server.listen(...(path ? [path] : [0, '127.0.0.1']), () => console.log(path ? 0 : server.address().port));
"""


def node(kind="http2", limit=0, unix=False):
    """`unix`: another one, with the same files, listens on a Unix domain socket."""

    def start(site):
        command = ["node", "-e", NODE, kind, str(limit), str(site.work), "tls" if site.tls else ""]
        port = site.start_printing(command)
        if unix:
            path = site.unix(port, site.folder())
            site.start_printing([*command, path.removeprefix("unix:")])
        return port

    return start


# ---- what is run ----

@dataclasses.dataclass
class Case:
    name: str
    server: object
    # What the proxy speaks with it.
    protocol: str = "http2"
    # Requests of a run, one at a time and 64 at a time.
    requests: tuple = (20_000, 20_000)
    shapes: tuple = (ONE, MANY)
    cores: tuple = (2,)
    path: str = "/"
    endpoints: int = 1
    # Variables of the proxy, less their prefix.
    settings: dict = dataclasses.field(default_factory=dict)
    tls: bool = True
    # Whether the proxy connects to the servers' Unix domain sockets, which they have beside their ports.
    unix: bool = False


FOREVER = "keepalive_requests 1000000000"
CASES = [
    # RATES has the other shapes of these.
    Case("nginx-h2", nginx(), shapes=(SHARED,)),
    Case("nginx-h2-forever", nginx(FOREVER), shapes=()),
    Case("nginx-h1", nginx(http2=False), "http1", shapes=(SHARED,)),
    Case("nginx-h1-forever", nginx(FOREVER, http2=False), "http1", shapes=()),

    Case("nginx-unix-h2", nginx(), shapes=(ONE, MANY, SHARED), unix=True),
    Case("nginx-unix-h1", nginx(http2=False), "http1", shapes=(ONE, MANY, SHARED), unix=True),
    Case("nginx-unix-h2-20", nginx("keepalive_requests 20"), unix=True),
    Case("nginx-h2-20", nginx("keepalive_requests 20"), shapes=(ONE, MANY, SHARED), cores=(1, 2)),
    Case("nginx-h2-1", nginx("keepalive_timeout 0"), requests=(4_000, 4_000), cores=(1, 2)),
    # Takes no body before its SETTINGS are acknowledged: a POST that comes sooner gets REFUSED_STREAM.
    Case("nginx-h2-strict", nginx("keepalive_requests 20", "http2_body_preread_size 0"), requests=(10_000, 20_000)),
    Case("nginx-h2-proxy", nginx("keepalive_requests 20", body="proxy"), requests=(5_000, 5_000)),
    Case("nginx-h2-three", nginx(), shapes=(MANY, SHARED), endpoints=3),
    Case("nginx-h2-20-three", nginx("keepalive_requests 20"), requests=(10_000, 20_000), endpoints=3),
    Case("nginx-h1-20", nginx("keepalive_requests 20", http2=False), "http1", cores=(1, 2)),
    Case("nginx-h1-1", nginx("keepalive_timeout 0", http2=False), "http1", requests=(4_000, 4_000), cores=(1, 2)),
    Case("nginx-h1-20-three", nginx("keepalive_requests 20", http2=False), "http1", (10_000, 20_000), endpoints=3),

    # http.server as it is: HTTP/1.0, and 5 connections in its backlog. The kernel drops the SYN, or the last ACK, of those that
    # overflow it, and tries again after 1, 3, 7 s. 1,000 requests that h2load itself sends there 64 at a time take 15 to 100 s.
    Case("python-threads", python("ThreadingHTTPServer", backlog=5), "http1", (1_000, 1_000), (ONE, FEW), tls=False),
    Case("python-threads-128", python("ThreadingHTTPServer"), "http1", (2_000, 2_000), cores=(1, 2), tls=False),
    Case("python-threads-1.1", python("ThreadingHTTPServer", "HTTP/1.1"), "http1", (2_000, 2_000), tls=False),
    Case("python-plain", python("HTTPServer", backlog=5), "http1", (1_000, 1_000), (ONE, FEW), tls=False),
    Case("python-plain-128", python("HTTPServer"), "http1", (2_000, 2_000), cores=(1, 2), tls=False),
    # Serves one connection until that closes: there must not be a second one.
    Case("python-plain-1.1", python("HTTPServer", "HTTP/1.1"), "http1", (2_000, 2_000), cores=(1,),
         settings={"OUTBOUND_CONNECT_HTTP1_MAX_CONNECTIONS": "1"}, tls=False),

    Case("hypercorn", hypercorn, requests=(3_000, 3_000)),
    Case("hypercorn-chunks", hypercorn, requests=(1_500, 1_500), path="/chunks"),
    Case("granian", granian, cores=(1, 2), requests=(10_000, 10_000)),
    Case("granian-chunks", granian, requests=(5_000, 5_000), path="/chunks"),
    Case("node-h2", node(), requests=(10_000, 10_000)),
    Case("node-unix-h2", node(unix=True), requests=(10_000, 10_000), unix=True),
    Case("node-unix-h1", node("http1", unix=True), "http1", requests=(10_000, 10_000), unix=True, tls=False),
    # Ends its sessions by GOAWAY alone: node 20.20.2 itself did not always survive the other ways.
    Case("node-h2-100", node(limit=100), requests=(10_000, 10_000)),
    Case("node-h1-20", node("http1", 20), "http1", requests=(10_000, 10_000), tls=False),
]
# Connections of 1,000 requests, and without an end.
RATES = [("nginx-h2", "nginx-h2-forever"), ("nginx-h1", "nginx-h1-forever")]


@dataclasses.dataclass
class Run:
    """What h2load says of one run."""

    wanted: int
    succeeded: int = 0
    statuses: str = ""
    failed: str = ""
    per_second: float = 0.0
    # CPU time of the proxy for each request.
    micros: float = 0.0

    def is_good(self):
        return self.succeeded == self.wanted


class Site:
    """All processes of a case, with TLS on both sides or without."""

    def __init__(self, options):
        self.app, self.work, self.tls, self.cap = options.app, options.work, options.tls, options.cap
        self.processes, self.sockets = [], {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            self.signal(process, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            # Children that are left, or the process itself.
            self.signal(process, signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()

    @staticmethod
    def signal(process, which):
        """Each process has a session of its own, so this reaches its children."""
        try:
            os.killpg(process.pid, which)
        except ProcessLookupError:
            pass

    def folder(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.work))

    def unix(self, port, folder):
        """The Unix domain socket of the server that has this port."""
        return self.sockets.setdefault(port, f"unix:{folder}/socket")

    def start(self, command, stdout=None, env=None):
        self.log = self.folder() / "log"
        with open(self.log, "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout or log, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
            )
        self.processes.append(process)
        return process

    def start_printing(self, command):
        line = self.start(command, subprocess.PIPE).stdout.readline()
        if not line:
            raise SystemExit(f"{command[0]} did not start: {self.log.read_text()}")
        return int(line)

    def start_listening(self, command, port, env=None):
        process = self.start(command, env=env)
        until = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"{command[0]} did not start: {self.log.read_text()}")


class Proxy:
    def __init__(self, site, case, ports, cores):
        self.site, self.port, self.admin = site, free_port(), free_port()
        settings = {
            "OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{self.port}",
            "OUTBOUND_ENDPOINTS": ",".join(site.sockets[port] if case.unix else f"127.0.0.1:{port}" for port in ports),
            "OUTBOUND_CONNECT_PROTOCOL": case.protocol,
            "ADMIN_LISTEN_ADDR": f"127.0.0.1:{self.admin}",
            "CORES": str(cores),
            "LOG": os.environ.get("LINKERD2_PROXY_LOG", "warn"),
            **case.settings,
        }
        if site.tls:
            settings |= {
                "OUTBOUND_SERVER_TLS_CERT": f"{site.work}/tls.pem", "OUTBOUND_SERVER_TLS_KEY": f"{site.work}/tls.key",
                "OUTBOUND_CONNECT_TLS": "on", "OUTBOUND_CONNECT_TLS_CA": f"{site.work}/ca.pem",
            }
            settings |= {"OUTBOUND_CONNECT_TLS_SERVER_NAME": "127.0.0.1"} if case.unix else {}
        env = {f"LINKERD2_PROXY_{name}": value for name, value in settings.items()}
        # The admin server's is the last port that the proxy binds.
        site.start_listening([site.app], self.admin, env)
        self.process, self.log = site.processes[-1], site.log
        self.before = self.counters()

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counters(self):
        """Those that tell how requests ended."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        counters = {}
        for line in text.splitlines():
            told = re.match(r"(response|http_\w+|\w*reset\w*)_total\{(.*)\} (\d+)$", line)
            if told:
                labels = re.findall(r'(?:status_code|reason|peer|code|limit)="([^"]+)"', told[2])
                name = " ".join([told[1].removeprefix("http_"), *labels])
                counters[name] = counters.get(name, 0) + int(told[3])
        return counters

    def explain(self, method, path):
        """What the metrics and the log say since the start, and what 64 requests are answered with now."""
        lines = []
        try:
            grown = {name: value - self.before.get(name, 0) for name, value in self.counters().items()}
            lines.append(", ".join(f"{name}: {value}" for name, value in grown.items() if value))
        except OSError as error:
            lines.append(f"no metrics: {error}")
        seen = collections.Counter()

        def ask():
            for _ in range(4):
                try:
                    context = ssl._create_unverified_context() if self.site.tls else None
                    connect = http.client.HTTPSConnection if context else http.client.HTTPConnection
                    client = connect("127.0.0.1", self.port, timeout=5, **({"context": context} if context else {}))
                    client.request(method, path, BODY if method == "POST" else None)
                    reply = client.getresponse()
                    reply.read()
                    seen[f"{reply.status} {reply.headers.get('proxy-error', '')}".strip()] += 1
                    client.close()
                except (OSError, http.client.HTTPException) as error:
                    seen[repr(error)] += 1

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines += [f"{count} of 64 later requests: {what}" for what, count in seen.most_common()]
        ended = [process for process in self.site.processes if process.poll() is not None]
        lines += [f"{process.args[0]} has ended: {process.returncode}" for process in ended]
        lines += [f"log: {line}" for line in self.log.read_text(errors="replace").splitlines()[-5:]]
        return lines


def h2load(site, port, path, method, requests, shape, http1=False):
    clients, streams = shape
    scheme = "https" if site.tls else "http"
    command = ["h2load", "-n", str(requests), "-c", str(clients), "-m", str(streams), "-N", "30"]
    command += ["-d", str(site.work / "body")] if method == "POST" else []
    command += ["--h1"] if http1 else []
    run = Run(requests)
    try:
        result = subprocess.run(
            [*command, f"{scheme}://127.0.0.1:{port}{path}"], stdin=subprocess.DEVNULL, timeout=site.cap,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
    except subprocess.TimeoutExpired:
        run.failed = f"h2load was not done in {site.cap:.0f} s"
        return run
    statuses = re.search(r"^status codes: (\d+) 2xx, (.*)$", result.stdout, re.M)
    counts = re.search(r"^requests: .* (\d+) succeeded, (\d+ failed, \d+ errored, \d+ timeout)", result.stdout, re.M)
    rate = re.search(r"^finished in .*?, ([\d.]+) req/s", result.stdout, re.M)
    if not (statuses and counts and rate):
        run.failed = f"h2load says {result.stdout.strip()[-300:]}"
        return run
    # A response with 2xx whose stream is reset counts as failed only.
    run.succeeded = min(int(counts[1]), int(statuses[1]))
    run.failed, run.statuses, run.per_second = counts[2], statuses[2], float(rate[1])
    return run


def without_proxy(site, port, path, method):
    """What a careful client loses, one connection after another, for h2load does not open a second one after GOAWAY.

    It sends again what GOAWAY leaves out or REFUSED_STREAM ends, as RFC 9113 allows it to.
    """

    def frame(kind, flags, stream, payload=b""):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    block = bytes([0x83 if method == "POST" else 0x82, 0x87 if site.tls else 0x86, 4, len(path)]) + path.encode() + b"\1\1a"
    context = ssl.create_default_context(cafile=site.work / "ca.pem")
    context.set_alpn_protocols(["h2"])
    run, left = Run(DIRECT), DIRECT
    refused, lost = 0, collections.Counter()
    while left:
        connection = socket.create_connection(("127.0.0.1", port), 5)
        if site.tls:
            connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(8, 0, 0, b"\x3f\0\0\0"))
        streams, statuses, following, last, buffer, end = set(), {}, 1, None, bytearray(), ""
        while not end and (streams or left and last is None):
            out = b""
            while left and last is None and len(streams) < 16:
                out += frame(1, 4 if method == "POST" else 5, following, block)
                out += frame(0, 1, following, BODY) if method == "POST" else b""
                streams.add(following)
                following, left = following + 2, left - 1
            try:
                connection.sendall(out)
                got = connection.recv(65536)
                end = "" if got else "the connection closed"
            except OSError as error:
                got, end = b"", str(error)
            buffer += got
            while len(buffer) >= 9 and len(buffer) >= 9 + int.from_bytes(buffer[:3], "big"):
                size, kind, flags = int.from_bytes(buffer[:3], "big"), buffer[3], buffer[4]
                stream, payload = int.from_bytes(buffer[5:9], "big"), bytes(buffer[9:9 + size])
                del buffer[:9 + size]
                if kind == 1:
                    # Behind updates of the table's size; 0x88 is 200.
                    statuses.setdefault(stream, payload.lstrip(bytes(range(0x20, 0x40)))[:1] == b"\x88")
                elif kind == 4 and not flags & 1:
                    connection.sendall(frame(4, 1, 0))
                elif kind == 7:
                    last = int.from_bytes(payload[:4], "big")
                    beyond = {stream for stream in streams if stream > last}
                    streams -= beyond
                    left, refused = left + len(beyond), refused + len(beyond)
                if stream in streams and kind == 3:
                    streams.remove(stream)
                    if payload == b"\0\0\0\7":
                        left, refused = left + 1, refused + 1
                    else:
                        lost[f"RST_STREAM {payload[3]}"] += 1
                elif stream in streams and kind in (0, 1) and flags & 1:
                    streams.remove(stream)
                    run.succeeded += statuses.get(stream, False)
                    lost["another status"] += not statuses.get(stream, False)
        lost[end] += len(streams)
        connection.close()
    run.failed = ", ".join(f"{count} {what}" for what, count in lost.items() if count)
    run.statuses = f"{refused} sent again"
    return run


class Report:
    def __init__(self):
        self.failures, self.runs = [], 0

    def fail(self, *lines):
        self.failures.append(lines[0])
        print(f"FAILED {lines[0]}", *lines[1:], sep="\n         ", flush=True)

    def run(self, case, proxy, cores, method, requests, shape):
        """Runs h2load against the proxy."""
        cpu = proxy.cpu_seconds()
        run = h2load(proxy.site, proxy.port, case.path, method, requests, shape)
        run.micros = (proxy.cpu_seconds() - cpu) / requests * 1e6
        if not run.statuses:
            # h2load has said nothing.
            run.succeeded = proxy.counters().get("response 200", 0) - proxy.before.get("response 200", 0)
        name = f"{case.name:19} {method:4} {shape[0]} x {shape[1]:<2}  CORES={cores}"
        self.runs += 1
        if run.is_good():
            speed = f"{run.per_second:8.0f}/s  {run.micros:4.0f} us CPU"
            print(f"ok     {name}  {run.succeeded:6} of {requests:6}  {speed}", flush=True)
        else:
            self.fail(
                f"{name}  {run.succeeded:6} of {requests:6}: {run.failed}; {run.statuses or 'by the metrics'}",
                *proxy.explain(method, case.path),
            )
        proxy.before = proxy.counters()
        return run

    def direct(self, site, case, port):
        """Whether the server itself is good."""
        good = True
        for method in ("GET", "POST"):
            if case.protocol == "http1":
                clients = 1 if "plain" in case.name else 8
                run = h2load(site, port, case.path, method, DIRECT // 3, (clients, 1), http1=True)
            else:
                run = without_proxy(site, port, case.path, method)
            if not run.is_good():
                good = False
                self.fail(
                    f"{case.name:19} {method:4} without the proxy: {run.succeeded} of {run.wanted}: {run.failed}; {run.statuses}"
                )
        return good


def check(options, report, case):
    for cores in case.cores:
        with Site(options) as site:
            ports = [case.server(site) for _ in range(case.endpoints)]
            if cores == case.cores[0]:
                good = report.direct(site, case, ports[0])
                if options.direct:
                    print(f"{'ok    ' if good else 'FAILED'} {case.name} without the proxy", flush=True)
            if options.direct or not case.shapes:
                return
            proxy = Proxy(site, case, ports, cores)
            for shape in case.shapes:
                for method in ("GET", "POST"):
                    report.run(case, proxy, cores, method, case.requests[shape != ONE], shape)


def compare(options, report, limited, endless):
    """Rates in turns; the rounds together have all requests, with TLS half of them."""
    with Site(options) as site:
        proxies = [(case, Proxy(site, case, [case.server(site)], 2)) for case in (limited, endless)]
        for shape in (ONE, MANY):
            requests = -(-limited.requests[shape != ONE] // options.rounds // (2 if options.tls else 1))
            for method in ("GET", "POST"):
                what = f"{limited.name} to {endless.name}, {method} {shape[0]} x {shape[1]}"
                best = 0.0
                for _ in range(TRIES):
                    rounds = [
                        [report.run(case, proxy, 2, method, requests, shape) for case, proxy in proxies]
                        for _ in range(options.rounds)
                    ]
                    if not all(run.is_good() for runs in rounds for run in runs):
                        break
                    one, other = (statistics.median(run.per_second for run in runs) for runs in zip(*rounds))
                    print(f"       {what}: {one / other:.2f} of the rate", flush=True)
                    best = max(best, one / other)
                    if best >= LEAST_RATE:
                        break
                else:
                    report.fail(f"{what}: {best:.2f} of the rate")


def main():
    if sys.argv[1:2] == ["serve-python"]:
        return serve_python(*sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--cap", type=float, default=60)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    (options.work / "body").write_bytes(BODY)

    def is_wanted(case):
        return (case.tls or not options.tls) and case.name.startswith(tuple(options.only or [""]))

    cases = [case for case in CASES if is_wanted(case)]
    if options.list:
        return print(*(case.name for case in cases), sep="\n")
    began, report = time.monotonic(), Report()
    for case in cases:
        # A handshake costs as much as some ten requests.
        check(options, report, dataclasses.replace(case, requests=tuple(n // 8 for n in case.requests)) if options.tls else case)
    named = {case.name: case for case in cases}
    for limited, endless in RATES:
        if limited in named and endless in named and not options.direct:
            compare(options, report, named[limited], named[endless])
    print(f"{report.runs} runs in {time.monotonic() - began:.0f} s, {len(report.failures)} failures")
    if report.failures:
        print(*report.failures, sep="\n")
        sys.exit(1)
    if not report.runs and not options.direct:
        sys.exit("no such case")


if __name__ == "__main__":
    main()
