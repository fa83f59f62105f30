"""The cases of scripts/health, which starts this."""

import argparse
import collections
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
import urllib.request
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from ports import free_port

PREFIX = "LINKERD2_PROXY_"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
# Seconds after which a wait has failed. It bounds a run, and tests no speed: the machine may be slow.
PATIENCE = 60
SERVICE, METHOD = "test.Echo", "/test.Echo/Call"


def until(what):
    """Waits for a value that is true, and returns it."""
    end = time.monotonic() + PATIENCE
    while not (value := what()):
        if time.monotonic() > end:
            raise SystemExit("FAILED: waited in vain")
        time.sleep(0.01)
    return value


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class App:
    """The release binary, with health checks 20 times a second."""

    def __init__(self, path, ports, **settings):
        self.port, self.admin = free_port(), free_port()
        endpoints = ",".join(f"127.0.0.1:{port}" for port in ports)
        checks = {"HEALTH_CHECK_INTERVAL": "50ms", "HEALTH_CHECK_TIMEOUT": f"{PATIENCE}s"}
        variables = {"ENDPOINTS": endpoints, "LISTEN_ADDR": f"127.0.0.1:{self.port}", "SLOW_START": "0", **checks, **settings}
        env = {f"{PREFIX}OUTBOUND_{name}": value for name, value in variables.items()}
        env |= {f"{PREFIX}ADMIN_LISTEN_ADDR": f"127.0.0.1:{self.admin}", f"{PREFIX}LOG": "info", f"{PREFIX}CORES": "2"}
        self.process = subprocess.Popen([path], env=env, stdout=subprocess.PIPE, text=True)
        self.log = []
        threading.Thread(target=lambda: self.log.extend(self.process.stdout), daemon=True).start()
        until(lambda: listens(self.admin))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def endpoint(self, port):
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/destinations", timeout=5).read()
        (destination,) = json.loads(page)["destinations"]
        return next(one for one in destination["endpoints"] if one["address"].endswith(f":{port}"))

    def logs(self, text, count):
        """Waits for so many lines with the text, of which there must not be more."""
        def found():
            return [line for line in list(self.log) if text in line]

        until(lambda: len(found()) >= count)
        lines = found()
        assert len(lines) == count, lines
        return lines

    def sees(self, port, verdict):
        until(lambda: self.endpoint(port)["health_checks"]["verdict"] == verdict)


class Service:
    """A server of grpcio that counts its calls."""

    def __init__(self, with_health=True):
        self.calls = 0
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        handler = grpc.unary_unary_rpc_method_handler(self.call)
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Call": handler})])
        if with_health:
            self.health = health.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
            self.health.set(SERVICE, SERVING)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def call(self, request, _):
        self.calls += 1
        return request


class Load:
    """Calls through the proxy, one after the other, until it is stopped."""

    def __init__(self, port):
        self.codes, self.is_over = collections.Counter(), False
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        call = self.channel.unary_unary(METHOD)
        while not self.is_over:
            try:
                call(b"hello", timeout=PATIENCE)
                self.codes["OK"] += 1
            except grpc.RpcError as error:
                self.codes[error.code().name] += 1

    def sends(self, count):
        """Waits for the ends of so many calls more."""
        end = self.codes.total() + count
        until(lambda: self.codes.total() >= end)

    def stop(self):
        self.is_over = True
        self.thread.join()
        self.channel.close()


def grpc_service(path):
    """NOT_SERVING and back, under load."""
    first, second = Service(), Service()
    with App(path, [first.port, second.port], HEALTH_CHECK=f"grpc:{SERVICE}") as app:
        for service in (first, second):
            app.sees(service.port, "healthy")
        load = Load(app.port)
        until(lambda: first.calls > 50 and second.calls > 50)
        for _ in range(5):
            first.health.set(SERVICE, NOT_SERVING)
            app.sees(first.port, "unhealthy")
            # The calls that were sent before each worker saw it.
            load.sends(10)
            calls, others = first.calls, second.calls
            until(lambda: second.calls > others + 100)
            assert first.calls == calls, f"{first.calls - calls} calls went to an unhealthy endpoint"
            first.health.set(SERVICE, SERVING)
            app.sees(first.port, "healthy")
            until(lambda: first.calls > calls + 20)
        load.stop()
        assert list(load.codes) == ["OK"], load.codes
        lines = app.logs("endpoint is unhealthy", 5)
        assert all("NOT_SERVING" in line for line in lines), lines
    return f"{load.codes['OK']} calls, none failed"


def grpc_unknown(path):
    """A server without the service, and one without a health service."""
    known, without = Service(), Service(with_health=False)
    with App(path, [known.port, without.port], HEALTH_CHECK="grpc:test.Missing") as app:
        for service in (known, without):
            app.sees(service.port, "unhealthy")
        error = app.endpoint(known.port)["health_checks"]["error"]
        assert "does not know the service" in error, error
        error = app.endpoint(without.port)["health_checks"]["error"]
        assert "set HEALTH_CHECK to http:/PATH or off" in error, error
        app.logs("grpc-status 12", 1)
    return error


def nginx(path, work, http2, tls):
    """`return 503` at a path, and `return 204` after a reload."""
    ports = [free_port(), free_port()]
    options = f"{' ssl' if tls else ''}{' http2' if http2 else ''}"
    certs = f"ssl_certificate {work}/tls.pem; ssl_certificate_key {work}/tls.key;" if tls else ""

    def write(status):
        servers = "".join(
            f"server {{ listen 127.0.0.1:{port}{options}; {certs} location = /healthz {{ return {code}; }}"
            f' location / {{ return 200 "{name}"; }} }}\n'
            for port, code, name in zip(ports, (200, status), ("first", "second")))
        temp = "".join(f"{kind}_temp_path {work}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (work / "nginx.conf").write_text(
            f"daemon off; pid {work}/nginx.pid; error_log stderr crit; events {{}}\n"
            f"http {{ access_log off; {temp}\n{servers}}}\n")

    write(503)
    server = subprocess.Popen(["nginx", "-p", str(work), "-c", str(work / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        until(lambda: all(map(listens, ports)))
        settings = {"HEALTH_CHECK": "http:/healthz", "CONNECT_PROTOCOL": "http2" if http2 else "http1"}
        if tls:
            settings |= {"CONNECT_TLS": "on", "CONNECT_TLS_CA": str(work / "ca.pem")}
        with App(path, ports, **settings) as app:
            app.sees(ports[0], "healthy")
            app.sees(ports[1], "unhealthy")

            def answers():
                url = f"http://127.0.0.1:{app.port}/"
                return collections.Counter(urllib.request.urlopen(url, timeout=10).read().decode() for _ in range(100))

            assert answers() == {"first": 100}
            assert "503" in app.endpoint(ports[1])["health_checks"]["error"]
            write(204)
            server.send_signal(1)
            app.sees(ports[1], "healthy")
            until(lambda: answers()["second"] > 20)
    finally:
        server.terminate()
        server.wait()
    return "503, and 204 after a reload"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    args = parser.parse_args()
    app, work = os.path.abspath(args.app), args.work.resolve()
    cases = [("grpcio, NOT_SERVING", lambda: grpc_service(app)), ("grpcio, no such service", lambda: grpc_unknown(app))]
    for http2 in (True, False):
        for tls in (False, True):
            name = f"nginx, HTTP/{'2' if http2 else '1.1'}{', TLS' if tls else ''}"
            cases.append((name, lambda http2=http2, tls=tls: nginx(app, work, http2, tls)))
    for name, case in cases:
        print(f"ok     {name}: {case()}", flush=True)
    # Servers of grpcio have threads that do not end by themselves.
    os._exit(0)


main()
