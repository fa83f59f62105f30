"""Real clients, proxies and a last hop in a chain with the release binary; scripts/chains starts this and says what it takes.

CHAINS has the peers, CLIENTS the clients, OPERATIONS what is done with each pair. A cell fails if a request is neither answered
whole nor fails to its client where it may, if the last hop has seen it more often than it may, or not whole.
"""

import argparse
import collections
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import threading
import time

import grpc

import endpoints
from ports import free_port

# Seconds after which a wait has failed. It bounds a run, and tests no speed: the machine may be slow.
PATIENCE = 60
MEBIBYTE = 1 << 20
SIZES = [70_001, 0, 1, 16_384, 300_000]


def pattern(token, size):
    lines = "".join(f"{token} {n}\n" for n in range(size // (len(token) + 3) + 1))
    return lines[:size].encode()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def framed(messages):
    return b"".join(struct.pack(">BI", 0, len(it)) + it for it in messages)


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not in {PATIENCE} s")
        time.sleep(0.01)


# ---- requests and their outcomes ----

@dataclasses.dataclass
class Request:
    token: str
    # get, post or stream; slow and wait are held by the last hop, upload by the client.
    kind: str
    method: str = "GET"
    size: int = 0
    # Whether the response has content-length. An upload that is cancelled has one, too, then.
    length: bool = False
    messages: list = None
    data: bytes = b""
    grpc: bool = False

    @property
    def path(self):
        if self.grpc:
            return f"/chains.{self.kind}/{self.token}"
        return f"/{self.kind}/{self.token}?size={self.size}{'&length' if self.length else ''}"

    @property
    def headers(self):
        if self.grpc:
            return {"content-type": "application/grpc", "te": "trailers"}
        # A client sends no content-length of its own with a body whose end it does not know.
        return {"content-length": str(len(self.data))} if self.kind == "upload" and self.length else {}

    @property
    def body(self):
        return framed(self.messages) if self.grpc else self.data

    @property
    def response(self):
        if not self.grpc:
            return pattern(self.token, self.size)
        return framed([digest(self.body).encode()]) if self.kind == "post" else self.body

    @property
    def cancels(self):
        return self.kind in ("slow", "upload")


@dataclasses.dataclass
class Outcome:
    """How a request ended for its client."""

    token: str
    status: int = None
    echo: str = None
    grpcStatus: str = None
    bytes: int = 0
    sum: str = ""
    error: str = None

    def verdict(self, request):
        """whole, failed, or a fault."""
        if self.echo not in (None, request.token):
            return f"mixed up with {self.echo}"
        if self.error or self.status is None:
            return "failed"
        if self.status != 200 or request.grpc and self.grpcStatus not in (None, "0"):
            return "failed"
        if (self.bytes, self.sum) != (len(request.response), digest(request.response)):
            cut = self.bytes < len(request.response)
            return f"ends cleanly with {self.bytes} bytes of {len(request.response)}" if cut else f"{self.bytes} other bytes"
        if request.grpc and self.grpcStatus is None:
            return "ends cleanly without grpc-status"
        return "whole" if self.echo else "whole, without a token"

    def __str__(self):
        return f"status {self.status}, grpc-status {self.grpcStatus}, {self.bytes} bytes, {self.error or 'no error'}"


class Tokens:
    """Makes the requests of a cell; each has a token of its own."""

    def __init__(self, prefix, grpc):
        self.prefix, self.grpc, self.made = f"{prefix}-", grpc, set()

    def make(self, kind, method="GET", body=0, uniform=False, messages=1):
        number = len(self.made)
        token = f"{self.prefix}{number}"
        self.made.add(token)
        size = SIZES[number % len(SIZES)] if kind in ("get", "post") else 70_000
        request = Request(token, kind, "POST" if self.grpc else method, size, number % 2 == 0, grpc=self.grpc)
        # h2load sends the same body with each request.
        body = pattern("any" if uniform else token, body)
        if self.grpc:
            step = max(-(-len(body) // messages), 1)
            request.messages = [body[at:at + step] for at in range(0, len(body), step)] or [b""]
        else:
            request.data = body
        return request


# ---- clients: each is started with requests, sends them at once, and has their outcomes when all have ended ----

class Client:
    # Whether all requests have the same body, and whether the client reports sums instead of outcomes.
    uniform = aggregate = False

    def __init__(self, site, port, requests):
        self.site, self.port, self.requests = site, port, requests
        self.folder, self.processes = site.folder(), []
        self.start()

    def run(self, command, stdin=subprocess.DEVNULL):
        with open(self.folder / f"out{len(self.processes)}", "wb") as out:
            process = subprocess.Popen(command, stdin=stdin, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        self.processes.append(process)
        self.site.processes.append(process)
        return process

    def cancel(self):
        """The client is killed, which closes its connections."""
        for process in self.processes:
            process.kill()

    def wait(self):
        """The output of all processes, once they have ended."""
        for process in self.processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.site.processes.remove(process)
        return "".join((self.folder / f"out{n}").read_text(errors="replace") for n in range(len(self.processes)))

    def body_file(self, request):
        file = self.folder / f"{request.token}.body"
        file.write_bytes(request.body)
        return file


class Node(Client):
    def start(self):
        self.input = self.run(["node", "scripts/chains.mjs", "request", str(self.port)], subprocess.PIPE).stdin
        self.input.write(json.dumps({"requests": [
            {"token": it.token, "path": it.path, "method": it.method, "headers": it.headers, "cancels": it.cancels,
             "half": it.kind == "upload", "body": str(self.body_file(it)) if it.body else None}
            for it in self.requests
        ]}).encode() + b"\n")
        self.input.flush()

    def cancel(self):
        self.input.write(b"cancel\n")
        self.input.flush()

    def outcomes(self):
        lines = self.wait().splitlines()
        self.input.close()
        return [Outcome(**json.loads(line)) if line.startswith("{") else Outcome("node", error=line) for line in lines]


class Curl(Client):
    """A process for each request: curl 7.88.1 fails with the second one on a connection with prior knowledge, also without the
    proxy ("Error in the HTTP2 framing layer")."""

    def start(self):
        for request in self.requests:
            config = self.folder / f"{request.token}.config"
            config.write_text(self.section(request))
            half = request.kind == "upload"
            process = self.run(["curl", "-q", "--config", str(config)], subprocess.PIPE if half else subprocess.DEVNULL)
            if half:
                threading.Thread(target=self.upload, args=(process.stdin, request.body), daemon=True).start()

    def upload(self, pipe, body):
        # The pipe stays open: curl is killed while it waits for the rest.
        try:
            pipe.write(body[:len(body) // 2])
            pipe.flush()
        except OSError:
            pass

    def section(self, it):
        options = {
            "url": f"http://127.0.0.1:{self.port}{it.path}", "request": it.method, "output": self.folder / it.token,
            "dump-header": self.folder / f"{it.token}.head", "max-time": PATIENCE,
            "write-out": f"{it.token}\\t%{{http_code}}\\t%{{exitcode}}\\t%{{errormsg}}\\n",
        }
        if it.kind == "upload":
            # Standard input, read without blocking.
            options["upload-file"] = "."
        elif it.body:
            options["data-binary"] = f"@{self.body_file(it)}"
        lines = [f'{name} = "{value}"' for name, value in options.items()]
        lines += [f'header = "{name}: {value}"' for name, value in it.headers.items()]
        return "\n".join(["http2-prior-knowledge", "silent", *lines, ""])

    def outcomes(self):
        outcomes = []
        for line in self.wait().splitlines():
            token, *told = line.split("\t")
            if len(told) != 3:
                continue
            code, exit_code, message = told
            # The file has the head and the trailers.
            head, body = self.folder / f"{token}.head", self.folder / token
            fields = dict(re.findall(r"^([\w-]+): (.*?)\r?$", head.read_text() if head.exists() else "", re.M))
            data = body.read_bytes() if body.exists() else b""
            outcomes.append(Outcome(
                token, int(code) or None, fields.get("x-token"), fields.get("grpc-status"), len(data), digest(data),
                None if exit_code == "0" else f"curl {exit_code} {message}",
            ))
        return outcomes


class H2load(Client):
    """Reports only how many requests succeeded, and the bytes of all responses."""

    uniform = aggregate = True

    def start(self):
        targets = self.folder / "targets"
        targets.write_text("".join(f"http://127.0.0.1:{self.port}{it.path}\n" for it in self.requests))
        first, number = self.requests[0], str(len(self.requests))
        command = ["h2load", "-n", number, "-c", "1", "-m", number, "-N", str(PATIENCE), "-i", str(targets)]
        command += ["-d", str(self.body_file(first))] if first.body else []
        command += [word for name, value in first.headers.items() for word in ("-H", f"{name}: {value}")]
        self.run(command)

    def outcomes(self):
        told = self.wait()
        counts = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", told, re.M)
        statuses = re.search(r"^status codes: (\d+) 2xx, (.*)$", told, re.M)
        data = re.search(r"^traffic: .* \S+ \((\d+)\) data$", told, re.M)
        if not (counts and statuses and data):
            return f"h2load says {told.strip()[-300:]}"
        # A response with 2xx whose stream is reset counts as failed only.
        whole = min(int(counts[1]), int(statuses[1]))
        return whole, int(data[1]), f"{counts[0]}; {statuses[0]}; {data[1]} bytes"


class Grpcio(Client):
    def start(self):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)
        self.cancelled = threading.Event()
        self.seen, self.calls, self.threads = [], [], []
        for it in self.requests:
            call = self.channel.stream_stream(f"/chains.{it.kind}/{it.token}")(self.messages(it), timeout=PATIENCE)
            self.calls.append((it, call))
            self.threads.append(threading.Thread(target=self.read, args=(it, call), daemon=True))
            self.threads[-1].start()

    def messages(self, request):
        half = len(request.messages) // 2 if request.kind == "upload" else None
        yield from request.messages[:half]
        if request.kind == "upload":
            self.cancelled.wait(PATIENCE)

    def read(self, request, call):
        outcome, got = Outcome(request.token), []
        try:
            got.extend(call)
        except grpc.RpcError as error:
            outcome.error = f"{error.code().name} {error.details()}"
        else:
            outcome.status, outcome.grpcStatus = 200, "0"
        data = framed(got)
        outcome.bytes, outcome.sum = len(data), digest(data)
        outcome.echo = dict(call.initial_metadata() or ()).get("x-token")
        self.seen.append(outcome)

    def cancel(self):
        for request, call in self.calls:
            if request.cancels:
                call.cancel()
        self.cancelled.set()

    def outcomes(self):
        for thread in self.threads:
            thread.join(PATIENCE + 5)
        self.channel.close()
        return list(self.seen)


CLIENTS = {"curl": Curl, "h2load": H2load, "grpcio": Grpcio, "node": Node}


# ---- chains ----

class LastHop:
    def __init__(self, site, http1):
        self.site, self.journal = site, site.folder() / "journal"
        self.ports = [free_port(), free_port()]
        self.port = self.ports[http1]
        self.start()

    def start(self, *again):
        # The second port listens before the first.
        command = ["node", "scripts/chains.mjs", "serve", str(self.journal), *map(str, self.ports), *again]
        self.site.start_listening(command, self.ports[0])
        self.process, self.log = self.site.processes[-1], self.site.log

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.site.processes.remove(self.process)

    def events(self, name):
        """For each token, the number of events of this name and the last one."""
        counts, last = collections.Counter(), {}
        for line in self.journal.read_text().splitlines(keepends=True):
            # The last line may be incomplete.
            event = json.loads(line) if line.endswith("\n") else {}
            if event.get("event") == name:
                counts[event["token"]] += 1
                last[event["token"]] = event
        return counts, last


def haproxy(site, back):
    """HAProxy 2.6.12 stands still where streams share a connection to a server, or where much goes both ways on one stream: while
    the buffer of a stream is full it reads nothing of the connection, WINDOW_UPDATE neither. Hence max-reuse."""
    port, config = free_port(), site.folder() / "haproxy.cfg"
    config.write_text(f"""
        global
          nbthread 1
        defaults
          mode http
          timeout connect 5s
          timeout client {PATIENCE}s
          timeout server {PATIENCE}s
          option abortonclose
        listen chain
          bind 127.0.0.1:{port} proto h2
          server back 127.0.0.1:{back} proto h2 max-reuse 0
        \n""")
    return site.start_listening(["haproxy", "-db", "-f", str(config)], port)


def nginx(to, http2=True):
    def start(site, back):
        port, root = free_port(), site.folder()
        temporary = " ".join(
            f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (root / "nginx.conf").write_text(f"""
            daemon off; master_process off; pid {root}/pid; error_log {root}/log error;
            events {{ worker_connections 1024; }}
            http {{
              access_log off; {temporary} client_max_body_size 0;
              upstream back {{ server 127.0.0.1:{back}; keepalive 16; }}
              server {{ listen 127.0.0.1:{port}{" http2" if http2 else ""}; location / {{ {to} }} }}
            }}""")
        command = ["nginx", "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "log")]
        return site.start_listening(command, port)

    return start


def nghttpx(site, back):
    port = free_port()
    command = ["nghttpx", "--conf=/dev/null", f"--frontend=127.0.0.1,{port};no-tls", "--workers=1", "--log-level=WARN"]
    return site.start_listening([*command, f"--backend=127.0.0.1,{back};/;proto=h2", "--errorlog-file=/dev/stderr"], port)


PROXY_PASS = 'proxy_pass http://back; proxy_http_version 1.1; proxy_set_header connection ""; proxy_request_buffering off;'


@dataclasses.dataclass
class Chain:
    name: str
    peer: object
    # Whether the binary is behind the peer, instead of before it.
    behind: bool = False
    # Whether the last hop speaks HTTP/1.1, which has no gRPC.
    http1: bool = False
    # The version of HTTP between the binary and its endpoint.
    protocol: str = "http2"
    settings: dict = dataclasses.field(default_factory=dict)
    # Whether the peer itself sends END_STREAM where its own connection is lost in the middle of a response without content-length.
    ends_responses: bool = False
    # Whether a request without content-length that is reset in its middle may be whole at the last hop; it is counted then.
    ends_requests: bool = False


CHAINS = [
    # HAProxy 2.6.12 ends responses with END_STREAM when the last hop is lost in their middle. Before their heads it says
    # REFUSED_STREAM, also after the last hop has done a part of the request. On a busy machine it ends
    # some requests with END_STREAM that got RST_STREAM(CANCEL) alone.
    Chain(
        "before HAProxy", haproxy, ends_responses=True, ends_requests=True,
        settings={"OUTBOUND_HTTP_RETRY_REFUSED_NON_IDEMPOTENT": "false"},
    ),
    Chain("before nginx grpc_pass", nginx("grpc_pass grpc://back;")),
    Chain("before nginx proxy_pass", nginx(PROXY_PASS), http1=True),
    Chain("before nginx HTTP/1.1", nginx(PROXY_PASS, http2=False), http1=True, protocol="http1"),
    Chain("behind nghttpx", nghttpx, behind=True),
]


class Setup:
    """The processes of a chain."""

    def __init__(self, site, chain, direct):
        self.site, self.chain, self.proxy = site, chain, None
        self.hop = LastHop(site, chain.http1)
        back = self.start_proxy(self.hop.port) if chain.behind and not direct else self.hop.port
        self.port = chain.peer(site, back)
        self.peer, self.peer_log = site.processes[-1], site.log
        if not chain.behind and not direct:
            self.port = self.start_proxy(self.port)

    def start_proxy(self, back):
        case = endpoints.Case(self.chain.name, None, self.chain.protocol, settings=self.chain.settings)
        self.proxy = endpoints.Proxy(self.site, case, [back], 2)
        return self.proxy.port

    def ended(self):
        """Processes that should be running and are not."""
        processes = [self.hop.process, self.peer, *([self.proxy.process] if self.proxy else [])]
        return [process for process in processes if process.poll() is not None]

    def explain(self):
        lines = []
        if self.proxy:
            try:
                grown = {name: value - self.proxy.before.get(name, 0) for name, value in self.proxy.counters().items()}
                lines.append("metrics: " + ", ".join(f"{name}: {value}" for name, value in grown.items() if value))
            except OSError as error:
                lines.append(f"no metrics: {error}")
        logs = {"the proxy": self.proxy and self.proxy.log, "the peer": self.peer_log, "the last hop": self.hop.log}
        for name, log in logs.items():
            if log:
                lines += [f"log of {name}: {line}" for line in log.read_text(errors="replace").splitlines()[-5:]]
        return lines


# ---- operations on a chain, with one client ----

class Cell:
    def __init__(self, setup, client, name):
        self.setup, self.hop, self.client, self.name = setup, setup.hop, client, name
        self.tokens = Tokens(re.sub(r"\W+", "-", name), grpc=client is Grpcio)
        self.faults, self.told = [], []

    def stream(self):
        """From here on all requests are gRPC."""
        self.tokens.grpc = True
        return self

    def make(self, number, kind, *args, **more):
        return [self.tokens.make(kind, *args, uniform=self.client.uniform, **more) for _ in range(number)]

    def start(self, *groups):
        """Clients for these requests: one for all, or one for each group if it sends the same body with all requests."""
        if not self.client.aggregate:
            groups = [[request for group in groups for request in group]]
        return [self.client(self.setup.site, self.setup.port, group) for group in groups if group]

    def fault(self, text):
        self.faults.append(text)

    def finish(self, what, clients, may_fail=lambda _: False, must_fail=lambda _: False, is_cancelled=lambda _: False):
        """Waits for the clients, and checks each request at both ends."""
        counts, whole = collections.Counter(), set()
        for client in clients:
            outcomes = client.outcomes()
            if client.aggregate:
                self.finish_aggregate(what, client, outcomes, may_fail, must_fail, counts)
                continue
            seen = {outcome.token: outcome for outcome in outcomes}
            for request in client.requests:
                outcome = seen.pop(request.token, None)
                if is_cancelled(request):
                    counts["cancelled"] += 1
                    continue
                verdict = outcome.verdict(request) if outcome else "lost: no end"
                if verdict.startswith("ends cleanly") and may_fail(request) and self.may_end_cleanly(request):
                    counts["cut by the peer"] += 1
                    continue
                if verdict == "whole":
                    whole.add(request.token)
                counts[verdict if verdict in ("whole", "failed") else "wrong"] += 1
                allowed = ["failed"] if must_fail(request) else ["whole", "failed"] if may_fail(request) else ["whole"]
                if verdict not in allowed:
                    wanted = " or ".join(allowed)
                    self.fault(f"{what}: {request.method} {request.path}: {verdict}, expected {wanted}: {outcome}")
            for outcome in seen.values():
                self.fault(f"{what}: an outcome without a request, {outcome.token}: {outcome}")
        self.finish_last_hop(what, [request for client in clients for request in client.requests], whole, may_fail, is_cancelled)
        self.told.append(f"{what}: " + ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items())))

    def finish_last_hop(self, what, requests, whole, may_fail, is_cancelled):
        heads, _ = self.hop.events("head")
        _, ends = self.hop.events("end")
        for request in requests:
            name, end, seen = f"{what}: {request.method} {request.path}", ends.get(request.token), heads[request.token]
            # A GET may be sent again when its connection is lost.
            if seen > 1 and not (request.method == "GET" and may_fail(request)):
                self.fault(f"{name}: doubled, {seen} times at the last hop")
            if is_cancelled(request):
                continue
            if not end and (request.token in whole or not may_fail(request)):
                self.fault(f"{name}: lost, {seen} times at the last hop and never whole")
            if end and (end["bytes"], end["sum"]) != (len(request.body), digest(request.body)):
                self.fault(f"{name}: {end['bytes']} bytes of {len(request.body)} at the last hop, or others")
        for token in heads:
            if token.startswith(self.tokens.prefix) and token not in self.tokens.made:
                self.fault(f"{what}: {token} is at the last hop, and was not sent")

    def finish_aggregate(self, what, client, outcomes, may_fail, must_fail, counts):
        number = len(client.requests)
        if isinstance(outcomes, str):
            return self.fault(f"{what}: {outcomes}")
        whole, data, told = outcomes
        counts["whole"] += whole
        if number - whole:
            counts["failed"] += number - whole
        most = sum(not must_fail(request) or self.may_end_cleanly(request) for request in client.requests)
        least = sum(not may_fail(request) for request in client.requests)
        if not least <= whole <= most:
            self.fault(f"{what}: {client.requests[0].path} and {number - 1} more: {told}; expected {least} to {most} of {number}")
        wanted = sum(len(request.response) for request in client.requests)
        excused = any(may_fail(request) and self.may_end_cleanly(request) for request in client.requests)
        if whole == number and data != wanted and not excused:
            self.fault(f"{what}: {client.requests[0].path} and {number - 1} more: {data} bytes, expected {wanted}")

    def may_end_cleanly(self, request):
        return self.setup.chain.ends_responses and not (request.length or request.grpc)

    def whole(self, what, *groups):
        self.finish(what, self.start(*groups))

    def await_heads(self, requests):
        wanted = {request.token for request in requests}
        until("the requests that are held reach the last hop", lambda: wanted <= self.hop.events("head")[0].keys())


def get(cell):
    cell.whole("sent", cell.make(40, "get"))


def post(cell):
    cell.whole("sent", cell.make(12, "post", "POST", MEBIBYTE))


def stream(cell):
    cell.stream().whole("sent", cell.make(12, "stream", body=50_000, messages=25))


def cancel(cell):
    """Downloads that have begun, and uploads that are half sent, beside others."""
    slow = cell.make(5, "slow", body=100 if cell.tokens.grpc else 0)
    uploads = [] if cell.client.aggregate else cell.make(5, "upload", "POST", MEBIBYTE, messages=64)
    # A client that is killed ends all its requests, so the others have another one.
    lost = cell.client in (Curl, H2load)
    others = [cell.make(10, "get"), cell.make(5, "post", "POST", MEBIBYTE)]
    if lost:
        clients, beside = cell.start(slow, uploads), cell.start(*others)
    else:
        clients, beside = cell.start(slow, uploads, *others), []
    cell.await_heads(slow + uploads)
    for client in clients:
        client.cancel()
    held = {request.token for request in slow + uploads}
    until("what is cancelled is cancelled at the last hop", lambda: held <= cell.hop.events("cancel")[0].keys())
    ended = cell.hop.events("end")[0]
    for request in uploads:
        if ended[request.token] and cell.setup.chain.ends_requests and "content-length" not in request.headers:
            cell.told.append(f"{request.token} cancelled, and whole at the last hop")
        elif ended[request.token]:
            cell.fault(f"{request.path}: cancelled in its middle, and whole at the last hop")
    if lost:
        for client in clients:
            client.wait()
        cell.finish("beside", beside)
    else:
        cell.finish("sent", clients, is_cancelled=lambda request: request.cancels)
    cell.whole("after", cell.make(10, "get"), cell.make(5, "post", "POST", MEBIBYTE))


def restart(cell):
    """The last hop is killed with requests in all states, and comes back."""
    cell.whole("before", cell.make(10, "get"))
    body = 100 if cell.tokens.grpc else 0
    slow = [cell.make(4, "slow", body=body), cell.make(3, "slow", "POST", 100)]
    wait = [cell.make(3, "wait", body=body), cell.make(3, "wait", "POST", 100)]
    flood = [cell.make(15, "get", body=body), cell.make(15, "post", "POST", 200_000)]
    clients = cell.start(*slow, *wait, *flood)
    cell.await_heads(itertools.chain(*slow, *wait))
    cell.hop.kill()
    down = cell.start(cell.make(4, "get"), cell.make(4, "post", "POST", 1_000))
    cell.hop.start(cell.tokens.prefix)

    def must_fail(request):
        # A GET that waits for its head may be sent again.
        return request.kind == "slow" or request.kind == "wait" and request.method == "POST"

    def may_fail(request):
        return True

    cell.finish("open", clients, may_fail, must_fail)
    cell.finish("while down", down, may_fail)
    cell.whole("after", cell.make(20, "get"), cell.make(10, "post", "POST", 200_000))


OPERATIONS = {"GET": get, "POST 1 MiB": post, "gRPC stream": stream, "cancel": cancel, "restart": restart}


def check(setup, client, operation, name):
    cell = Cell(setup, CLIENTS[client], name)
    if setup.proxy:
        setup.proxy.before = setup.proxy.counters()
    try:
        OPERATIONS[operation](cell)
    except TimeoutError as error:
        cell.fault(str(error))
    for process in setup.ended():
        cell.fault(f"{process.args[0]} has ended: {process.returncode}")
    print(f"{'FAILED' if cell.faults else 'ok    '} {name:48} {'; '.join(cell.told)}", flush=True)
    if cell.faults:
        more = len(cell.faults) - 10
        lines = [*cell.faults[:10], *([f"and {more} more"] if more > 0 else []), *setup.explain()]
        print(*(f"         {line}" for line in lines), sep="\n", flush=True)
    return not cell.faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()
    options.tls, options.cap = False, PATIENCE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began, results = time.monotonic(), []
    for chain in CHAINS:
        cells = []
        # The clients speak HTTP/2 with prior knowledge.
        if options.direct and chain.protocol == "http1":
            continue
        for client, operation in itertools.product(CLIENTS, OPERATIONS):
            # gRPC needs trailers, which nginx does not pass from HTTP/1.1.
            if chain.http1 and (client == "grpcio" or operation == "gRPC stream"):
                continue
            name = f"{client:6} {chain.name:23} {operation}"
            if all(word in name for word in options.only):
                cells.append((client, operation, name))
        if cells:
            with endpoints.Site(options) as site:
                setup = Setup(site, chain, options.direct)
                for cell in cells:
                    results.append(check(setup, *cell))
                    if setup.ended():
                        break
    print(f"{len(results)} cells in {time.monotonic() - began:.0f} s, {results.count(False)} failures")
    sys.exit(not results or not all(results))


if __name__ == "__main__":
    main()
