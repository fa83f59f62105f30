"""CPU per request of proxies that terminate TLS; scripts/tls-cost starts what it needs."""

import argparse
import os
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time

from ports import free_port

SUITE, GROUP = "TLS_AES_128_GCM_SHA256", "X25519"
# Options of h2load, path and requests.
LOADS = {
    "small-1x64": (["-c1", "-m64"], "/small", 60_000),
    "small-8x8": (["-c8", "-m8"], "/small", 60_000),
    "down-1M-4x8": (["-c4", "-m8"], "/large", 1_200),
    "up-64K-4x8": (["-c4", "-m8", "-d", "{docs}/body"], "/small", 6_000),
}
# Connections that get as far as SETTINGS, one after another; whether they resume a session.
HANDSHAKES = {"handshake": (False, 800), "resumed": (True, 800)}
SHAPES = [*LOADS, *HANDSHAKES]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HAPROXY = """
global
    nbthread 1
    maxconn 2000
    tune.h2.max-concurrent-streams 1024
    tune.h2.initial-window-size 1048576
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend front
    bind 127.0.0.1:{port} ssl crt {work}/both.pem alpn h2
    default_backend back
backend back
    server one 127.0.0.1:{backend} {protocol}
"""


# ---- the proxies; each is a command and what it adds to the environment ----

def app(binary):
    def command(port, args):
        own = {
            "CORES": "1",
            "LOG": "error",
            "ADMIN_LISTEN_ADDR": "127.0.0.1:0",
            "OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{port}",
            "OUTBOUND_ENDPOINTS": f"127.0.0.1:{args.backend}",
            "OUTBOUND_SERVER_TLS_CERT": f"{args.work}/tls.pem",
            "OUTBOUND_SERVER_TLS_KEY": f"{args.work}/tls.key",
        }
        if args.both:
            own |= {"OUTBOUND_CONNECT_TLS": "on", "OUTBOUND_CONNECT_TLS_CA": f"{args.work}/ca.pem"}
        return [binary], {f"LINKERD2_PROXY_{name}": value for name, value in own.items()}
    return command


def haproxy(port, args):
    path = f"{args.work}/haproxy.cfg"
    with open(path, "w") as file:
        protocol = f"ssl verify required ca-file {args.work}/ca.pem alpn h2" if args.both else "proto h2"
        file.write(HAPROXY.format(port=port, work=args.work, backend=args.backend, protocol=protocol))
    return ["haproxy", "-db", "-f", path], {}


def nghttpx(port, args):
    options = [
        f"--frontend=127.0.0.1,{port}", f"--cacert={args.work}/ca.pem",
        f"--backend=127.0.0.1,{args.backend};/;proto=h2" + (";tls;sni=localhost" if args.both else ""), "--workers=1",
        # The process that fetches OCSP responses would be counted before the load, and be gone after.
        "--no-ocsp", "--log-level=ERROR",
        "--frontend-http2-max-concurrent-streams=1024", "--frontend-http2-window-size=1M",
        "--frontend-http2-connection-window-size=16M", "--backend-http2-window-size=1M",
    ]
    return ["nghttpx", "--conf=/dev/null", *options, f"{args.work}/tls.key", f"{args.work}/tls.pem"], {}


class Proxy:
    """A fresh process on CPU 0."""

    def __init__(self, command, args):
        self.port = free_port()
        argv, env = command(self.port, args)
        self.log = open(f"{args.work}/proxy.log", "w+")
        path = os.environ["PATH"] + ":/usr/sbin"
        self.process = subprocess.Popen(
            ["taskset", "-c", "0", *argv], env={**os.environ, **env, "PATH": path}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        for _ in range(200):
            try:
                connect(self.port, tls_context()).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        self.end()
        self.log.seek(0)
        sys.exit(f"{argv[0]} does not serve: {self.log.read()}")

    def tasks(self):
        """Threads of all processes of the session that it leads: nghttpx has its worker in a child."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    session = int(stat.read().rpartition(")")[2].split()[3])
                if session == self.process.pid:
                    yield from (f"/proc/{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task"))
            except FileNotFoundError:
                pass

    def cpu_us(self):
        """User and system time. Not from stat, which has hundredths of a second."""
        total = 0
        for task in self.tasks():
            with open(f"{task}/schedstat") as schedstat:
                total += int(schedstat.read().split()[0])
        return total / 1e3

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


# ---- the load ----

def load(shape, port, args, part=1):
    """Returns the number of requests, none of which has failed."""
    options, path, requests = LOADS[shape]
    requests //= part
    options = [option.format(docs=f"{args.work}/docs") for option in options]
    run = subprocess.run(
        ["h2load", "-t1", f"-n{requests}", f"--tls13-ciphers={SUITE}", f"--groups={GROUP}", *options,
         f"https://127.0.0.1:{port}{path}"], capture_output=True, text=True, timeout=120)
    for expected in (f" {requests} succeeded, 0 failed", f"status codes: {requests} 2xx", f"Cipher: {SUITE}",
                     f"Server Temp Key: {GROUP}", "Application protocol: h2"):
        if expected not in run.stdout:
            sys.exit(f"{shape}: no {expected!r} in what h2load says:\n{run.stdout}{run.stderr}")
    return requests


def tls_context():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def connect(port, context, session=None):
    """A connection on which the proxy's SETTINGS have come, and with them tickets."""
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), session=session)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(PREFACE)
    if not connection.recv(4096):
        raise ConnectionError("the proxy has hung up")
    if connection.cipher()[0] != SUITE:
        sys.exit(f"the cipher is {connection.cipher()[0]}")
    return connection


def handshakes(shape, port, _, part=1):
    """Returns their number."""
    resumed, connections = HANDSHAKES[shape]
    connections //= part
    context, session = tls_context(), None
    if resumed:
        with connect(port, context) as connection:
            session = connection.session
    for _ in range(connections):
        with connect(port, context, session) as connection:
            if connection.session_reused != resumed:
                sys.exit(f"{shape}: a session was resumed: {connection.session_reused}")
            session = connection.session if resumed else None
    return connections


# ---- the whole ----

def measure(shape, command, args):
    """Microseconds of CPU a request, after a warm-up."""
    run = load if shape in LOADS else handshakes
    proxy = Proxy(command, args)
    try:
        run(shape, proxy.port, args, part=10)
        before = proxy.cpu_us()
        count = run(shape, proxy.port, args)
        return (proxy.cpu_us() - before) / count
    finally:
        proxy.end()


def main(args):
    os.sched_setaffinity(0, {1})
    # Idle CPUs of a virtual machine wake late, unless they poll while this is open.
    awake = open("/dev/cpu_dma_latency", "wb", buffering=0) if os.access("/dev/cpu_dma_latency", os.W_OK) else None
    if awake:
        awake.write(bytes(4))
    proxies = {"app": app(args.app), "other": app(args.other), "haproxy": haproxy, "nghttpx": nghttpx}
    if not args.other:
        del proxies["other"]
    proxies = {name: command for name, command in proxies.items() if not args.proxies or name in args.proxies}
    shapes = [shape for shape in SHAPES if not args.shapes or shape in args.shapes]
    found = {(shape, name): [] for shape in shapes for name in proxies}
    for _ in range(args.rounds):
        for shape, name in found:
            found[shape, name].append(measure(shape, proxies[name], args))
    first, *others = proxies
    print("| CPU in us, median |", *(f"{name} |" for name in proxies), *(f"{first} against {other} |" for other in others))
    print("| --- |", *("---: |" for _ in [*proxies, *others]))
    for shape in shapes:
        ours = found[shape, first]
        cells = [f"{statistics.median(found[shape, name]):.1f} |" for name in proxies]
        for other in others:
            # Of each round by itself, since what else the machine does changes.
            ratios = [a / b for a, b in zip(ours, found[shape, other])]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
        print(f"| {shape} |", *cells, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--backend", type=int, required=True)
    parser.add_argument("--app", required=True)
    parser.add_argument("--other")
    parser.add_argument("--shapes", type=str.split)
    parser.add_argument("--proxies", type=str.split)
    parser.add_argument("--both", action="store_true")
    main(parser.parse_args())
