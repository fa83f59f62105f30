"""A control plane of grpcio before the release binary; scripts/linkerd starts this."""

import collections
import concurrent.futures
import contextlib
import os
import pathlib
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import destination_pb2 as api
import destination_pb2_grpc
import grpc
import net_pb2 as net
from ports import free_port
from prometheus_client.openmetrics.parser import text_string_to_metric_families

APP, WORK = sys.argv[1], pathlib.Path(sys.argv[2])
ONE, TWO, THREE, FOUR = map(int, sys.argv[3:])
# Seconds after which a wait has failed. It bounds a run, and tests no speed: the machine may be slow.
PATIENCE = 60
# Pages without another form ignore it.
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class ControlPlane(destination_pb2_grpc.DestinationServicer):
    """Sends each new stream of a path its state, and then the updates that come."""

    def __init__(self):
        # For both below: a new stream gets each update once, in the state or behind it.
        self.lock = threading.Lock()
        # By path, all updates so far as one: a stream that is cut between two would leave the proxy with a state of the past.
        self.states = {}
        self.streams = collections.defaultdict(list)
        self.profiles = {}
        self.asked = collections.Counter()
        self.tokens = set()

    def Get(self, question, context):
        self.tokens.add(question.context_token)
        updates = queue.Queue()
        with self.lock:
            self.asked[question.path] += 1
            is_known = question.path in self.states
            if is_known:
                updates.put(self.states[question.path])
                self.streams[question.path].append(updates)
        if not is_known:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such destination")
        if not context.add_callback(lambda: updates.put(None)):
            updates.put(None)  # the stream has been cut already
        return iter(updates.get, None)

    def GetProfile(self, question, context):
        if question.path not in self.profiles:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no profile")
        yield self.profiles[question.path]
        while context.is_active():
            time.sleep(0.05)

    def send(self, path, *updates):
        with self.lock:
            for update in updates:
                self.states[path] = merged(self.states.get(path), update)
                for stream in self.streams[path]:
                    stream.put(update)

    def serve(self, port):
        # It says GOAWAY to each connection before long, as a server behind a load balancer may, and then cuts its streams.
        age = [("grpc.max_connection_age_ms", 1_000), ("grpc.max_connection_age_grace_ms", 500)]
        options = [*age, ("grpc.so_reuseport", 0)]
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), options=options)
        destination_pb2_grpc.add_DestinationServicer_to_server(self, server)
        assert server.add_insecure_port(f"127.0.0.1:{port}") == port, "the port is taken"
        server.start()
        return server


def merged(state, update):
    """The state after an update, as an update; `None` is no state yet."""
    if update.HasField("no_endpoints") or state is None or state.HasField("no_endpoints"):
        return update
    replaced = [*update.remove.addrs, *(one.addr for one in update.add.addrs)]
    addrs = [one for one in state.add.addrs if one.addr not in replaced]
    return add(*addrs, *update.add.addrs, **{**state.add.metric_labels, **update.add.metric_labels})


def address(port, weight=1, **more):
    ip = net.IPAddress(ipv4=int.from_bytes(socket.inet_aton("127.0.0.1"), "big"))
    return api.WeightedAddr(addr=net.TcpAddress(ip=ip, port=port), weight=weight, **more)


def add(*addrs, **labels):
    return api.Update(add=api.WeightedAddrSet(addrs=addrs, metric_labels=labels))


def remove(port):
    return api.Update(remove=api.AddrSet(addrs=[address(port).addr]))


@contextlib.contextmanager
def proxy(control):
    listen, admin = free_port(), free_port()
    variables = {
        "OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{listen}",
        "OUTBOUND_DISCOVERY": "linkerd",
        "OUTBOUND_SLOW_START": "0",
        "OUTBOUND_CONNECT_EXP_BACKOFF_MAX": "500ms",
        "DESTINATION_SVC_ADDR": f"127.0.0.1:{control}",
        "DESTINATION_CONTEXT": '{"ns":"shop"}',
        "DESTINATION_PROFILE_SUFFIXES": "profiled.example",
        "ADMIN_LISTEN_ADDR": f"127.0.0.1:{admin}",
        "CORES": "2",
        "LOG": "error",
    }
    env = os.environ | {f"LINKERD2_PROXY_{name}": value for name, value in variables.items()}
    process = subprocess.Popen([APP], env=env)
    try:
        until("the proxy is ready", lambda: page(admin, "live").startswith("live"))
        yield listen, admin
        assert process.poll() is None, f"the proxy has ended with {process.returncode}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def page(admin, path):
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{admin}/{path}", headers={"accept": OPENMETRICS})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.read().decode()
    except OSError:
        return ""


def until(what, is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {PATIENCE} s: {what}"
        time.sleep(0.02)


def ask(listen, host, version="1.1"):
    """The body and the status of a response."""
    args = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), f"--http{version}", "--write-out", "%{http_code}"]
    done = subprocess.run([*args, "--connect-to", f"::127.0.0.1:{listen}", f"http://{host}/"], capture_output=True, text=True)
    assert done.returncode == 0, f"{host}: {done.stderr}"
    return done.stdout.replace("\n", " ")


def load(listen, named, *options):
    """h2load, of whose requests none may fail."""
    args = ["h2load", *options, "-H", named, f"http://127.0.0.1:{listen}/"]
    done = subprocess.run(args, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert re.search(r"^requests: .* 0 failed, 0 errored, 0 timeout$", done.stdout, re.M), done.stdout
    assert re.search(r"^status codes: [1-9]\d* 2xx, 0 3xx, 0 4xx, 0 5xx$", done.stdout, re.M), done.stdout


def series(admin, name):
    """The samples of a name, by a parser that refuses what is not OpenMetrics."""
    families = text_string_to_metric_families(page(admin, "metrics"))
    return [sample for family in families for sample in family.samples if sample.name == name]


def endpoints_of_both_versions(control, listen, admin):
    control.send("web.example:80", add(address(ONE)))
    control.send("files.example:80", add(address(THREE), zone="a"))
    assert ask(listen, "web.example") == "one 200"
    assert ask(listen, "files.example", "2-prior-knowledge") == "three 200"
    assert control.tokens == {'{"ns":"shop"}'}, control.tokens
    labels = [one.labels for one in series(admin, "http_balancer_endpoint_connections")]
    assert any(one.get("dst_zone") == "a" for one in labels), labels


def updates_are_followed(control, listen, admin):
    control.send("web.example:80", add(address(TWO)), remove(ONE))
    until("requests go to the other endpoint alone", lambda: {ask(listen, "web.example") for _ in range(8)} == {"two 200"})
    control.send("web.example:80", api.Update(no_endpoints=api.NoEndpoints(exists=True)))
    until("there is none", lambda: ask(listen, "web.example") == "503")
    control.send("web.example:80", add(address(ONE)))
    until("there is one again", lambda: ask(listen, "web.example") == "one 200")


def weights(control, listen, admin):
    control.send("weighted.example:80", add(address(THREE, 1), address(FOUR, 3)))
    load(listen, ":authority: weighted.example", "-n", "4000", "-c", "8", "-m", "8")
    # An endpoint that is late for want of a processor gets fewer for a while: wrong weights would be seen each time.
    for _ in range(10):
        shares = collections.Counter(ask(listen, "weighted.example", "2-prior-knowledge") for _ in range(80))
        assert shares.keys() <= {"three 200", "four 200"}, shares
        if 45 <= shares["four 200"] <= 75:
            return
        print(f"       {shares}", flush=True)
    raise AssertionError(shares)


def names_that_are_not_known(control, listen, admin):
    for version in "1.1", "2-prior-knowledge":
        started = time.monotonic()
        assert ask(listen, "unknown.example", version) == "403"
        assert time.monotonic() - started < 2, "it is answered at once"
    control.send("gone.example:80", api.Update(no_endpoints=api.NoEndpoints(exists=False)))
    assert ask(listen, "gone.example") == "403"
    assert sum(one.value for one in series(admin, "http_denied_total")) == 3


def profiles(control, listen, admin):
    control.profiles["a.profiled.example:80"] = api.DestinationProfile(fully_qualified_name="canonical.example")
    control.send("canonical.example:80", add(address(FOUR)))
    assert ask(listen, "a.profiled.example", "2-prior-knowledge") == "four 200"
    control.profiles["b.profiled.example:80"] = api.DestinationProfile(endpoint=address(THREE))
    assert ask(listen, "b.profiled.example", "2-prior-knowledge") == "three 200"
    control.profiles["c.profiled.example:80"] = api.DestinationProfile(opaque_protocol=True)
    assert ask(listen, "c.profiled.example") == "503"
    # Without a profile the name is a destination as others.
    control.send("d.profiled.example:80", add(address(ONE)))
    assert ask(listen, "d.profiled.example") == "one 200"


def load_over_goaways(control, listen, admin):
    """h2load sends while the server says GOAWAY again and again, and each time the streams are opened anew."""
    before = control.asked["files.example:80"]
    load(listen, ":authority: files.example", "--duration", "5", "-c", "2", "-m", "8")
    assert control.asked["files.example:80"] >= before + 2, "the connection was not replaced"


def the_control_plane_goes_and_comes_back(control, listen, admin):
    ask(listen, "web.example")
    SERVER.stop(0).wait(PATIENCE)
    until("the streams are gone", lambda: all(not one.value for one in series(admin, "control_destination_streams")))
    assert ask(listen, "web.example") == "one 200", "the last endpoints stay"
    control.states["web.example:80"] = add(address(TWO))
    with serving(control, PORT):
        until("the new endpoints count", lambda: ask(listen, "web.example") == "two 200")


@contextlib.contextmanager
def serving(control, port):
    server = control.serve(port)
    try:
        yield server
    finally:
        server.stop(0).wait(PATIENCE)


PORT = free_port()
CONTROL = ControlPlane()
with serving(CONTROL, PORT) as SERVER, proxy(PORT) as (LISTEN, ADMIN):
    for case in (
        endpoints_of_both_versions,
        updates_are_followed,
        weights,
        names_that_are_not_known,
        profiles,
        load_over_goaways,
        the_control_plane_goes_and_comes_back,
    ):
        case(CONTROL, LISTEN, ADMIN)
        print(f"ok     {case.__name__}", flush=True)
