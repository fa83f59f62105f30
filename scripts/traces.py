"""The cases of scripts/traces: LISTEN ADMIN COLLECTOR, all ports of loopback."""

import queue
import subprocess
import sys
import time
import urllib.request
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

listen, admin, collector = sys.argv[1:]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PATIENCE = 60


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.messages = queue.Queue()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.server.add_insecure_port(f"127.0.0.1:{collector}")
        self.server.start()

    def Export(self, request, context):
        self.messages.put(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self, count):
        """Waits for so many spans, each with its resource's attributes."""
        found = []
        while len(found) < count:
            for of_resource in self.messages.get(timeout=PATIENCE).resource_spans:
                resource = attributes(of_resource.resource)
                found += [(resource, span) for of_scope in of_resource.scope_spans for span in of_scope.spans]
        assert len(found) == count, found
        return found


def attributes(of):
    values = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}
    assert len(values) == len(of.attributes), of
    return values


def ask(*options):
    url = f"http://127.0.0.1:{listen}/cart?token=secret"
    run = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", *options, url], check=True, capture_output=True, text=True)
    return run.stdout.split("|")


def metric(name):
    page = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics").read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


def wait_for(name, value, or_more=False):
    until = time.monotonic() + PATIENCE
    while (now := metric(name)) != value and not (or_more and now > value):
        assert time.monotonic() < until, (name, now)
        time.sleep(0.05)


def sampled(state="a=1,=bad"):
    return "-H", f"traceparent: 00-{TRACE}-{PARENT}-01", "-H", f"tracestate: {state}"


def check(pair, seen):
    (resource, server), (_, client) = pair
    assert resource["service.name"] == "proxy" and resource["deployment.environment.name"] == "test one", resource
    kinds = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT
    assert (server.kind, client.kind) == kinds, pair
    assert server.trace_id.hex() == client.trace_id.hex() == TRACE
    assert server.parent_span_id.hex() == PARENT and client.parent_span_id == server.span_id
    assert client.span_id.hex() in seen, (client, seen)
    for span in server, client:
        found = attributes(span)
        assert found["url.path"] == "/cart" and found["http.response.status_code"] == 200, found
        assert "secret" not in str(span)
        now = time.time_ns()
        assert now - 120e9 < span.start_time_unix_nano <= span.end_time_unix_nano <= now, span
    assert attributes(server)["user_agent.original"].startswith("curl/")
    assert [event.name for event in client.events] == ["first byte"]


one = Collector()
seen = ask(*sampled())
assert seen[0].startswith(f"00-{TRACE}-") and seen[0].endswith("-01") and PARENT not in seen[0], seen
assert seen[1] == "a=1,=bad", seen
check(one.spans(2), seen[0])
seen = ask("-H", f"b3: {TRACE}-{PARENT}-1")
check(one.spans(2), seen[2])
plain = f"00-{TRACE}-{PARENT}-fe", "a=1,,b", f"{TRACE}-{PARENT}-0"
assert ask("-H", f"traceparent: {plain[0]}", "-H", f"tracestate: {plain[1]}", "-H", f"b3: {plain[2]}") == list(plain)
one.server.stop(None).wait()
for _ in range(20):
    ask(*sampled())
wait_for("trace_spans_waiting", 40)
wait_for("trace_export_retries_total", 2, or_more=True)
two = Collector()
assert len({span.span_id for _, span in two.spans(40)}) == 40
wait_for("trace_spans_exported_total", 44)
wait_for("trace_spans_waiting", 0)
assert metric("trace_spans_lost_total") == 0
two.server.stop(None).wait()
