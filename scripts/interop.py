"""A gRPC server and a client that tries each kind of call on it; messages are plain bytes, so no .proto is needed.

    interop.py serve [DIR]        # prints its port
    interop.py test PORT|unix:/path [DIR]
    interop.py cuts PORT CAUSE CODE PID   # of the endpoint scripts/cuts.mjs

DIR has ca.pem, tls.pem and tls.key for mutual TLS; without it there is none.
"""

import os
import pathlib
import signal
import sys
import threading
import time
from concurrent import futures

import grpc

OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]
LARGE = bytes(4 << 20)
DETAIL = "no such thing: \u00e9\u20ac 100%"

started = threading.Event()
cancelled = threading.Event()


# ---- the server ----

def echo(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata([("initial", metadata.get("ask", "-"))])
    context.set_trailing_metadata([("trailing-bin", metadata.get("ask-bin", b"-"))])
    return request


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, DETAIL)


def hang(request, context):
    cancelled.clear()
    started.set()
    ended = threading.Event()
    context.add_callback(ended.set)
    if ended.wait(20):
        started.clear()
        cancelled.set()
    return b""


def has_started(request, context):
    return b"yes" if started.wait(10) else b"no"


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(10) else b"no"


def collect(requests, context):
    return b"".join(requests)


def repeat(request, context):
    for _ in range(int(request)):
        yield request


def chat(requests, context):
    yield from requests


def half(requests, context):
    """Answers and ends without reading what the client sends."""
    next(requests)
    yield b"enough"


def broken(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "after one")


def read(directory):
    """What is trusted; and what is shown, a key and its certificate."""
    return [(pathlib.Path(directory) / name).read_bytes() for name in ("ca.pem", "tls.key", "tls.pem")]


def serve(directory=None):
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Echo": unary(echo), "Fail": unary(fail),
        "Hang": unary(hang), "Started": unary(has_started), "WasCancelled": unary(was_cancelled),
        "Repeat": stream(repeat), "Broken": stream(broken),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat), "Half": grpc.stream_stream_rpc_method_handler(half),
    }
    server = grpc.server(futures.ThreadPoolExecutor(128), options=OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("interop.Test", handlers)])
    if directory:
        ca, key, cert = read(directory)
        credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


# ---- the client ----

def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def cases(channel):
    def method(kind, name):
        return getattr(channel, kind)(f"/interop.Test/{name}")

    call = method("unary_unary", "Echo")

    def unary():
        assert call(b"hello", timeout=10) == b"hello"

    def empty_message():
        assert call(b"", timeout=10) == b""

    def metadata():
        rsp, done = call.with_call(b"x", metadata=[("ask", "a value"), ("ask-bin", b"\0\xff")], timeout=10)
        assert ("initial", "a value") in [tuple(pair) for pair in done.initial_metadata()]
        assert ("trailing-bin", b"\0\xff") in [tuple(pair) for pair in done.trailing_metadata()]

    def large_messages():
        assert call(LARGE, timeout=30) == LARGE

    def client_streaming():
        parts = [bytes([n]) * 1000 for n in range(100)]
        assert method("stream_unary", "Collect")(iter(parts), timeout=10) == b"".join(parts)

    def server_streaming():
        assert list(method("unary_stream", "Repeat")(b"100", timeout=10)) == [b"100"] * 100

    def bidirectional_streaming():
        turn = threading.Semaphore(1)

        def requests():
            for n in range(50):
                assert turn.acquire(timeout=10)
                yield b"%d" % n

        for n, answer in enumerate(method("stream_stream", "Chat")(requests(), timeout=20)):
            assert answer == b"%d" % n  # each is answered before the next is sent
            turn.release()
        assert n == 49

    def server_ends_first():
        go_on = threading.Event()

        def requests():
            yield b"first"
            go_on.wait(10)

        assert list(method("stream_stream", "Half")(requests(), timeout=10)) == [b"enough"]
        go_on.set()

    def status_with_details():
        assert code_of(lambda: method("unary_unary", "Fail")(b"", timeout=10)) == (grpc.StatusCode.NOT_FOUND, DETAIL)

    def status_after_messages():
        got = []
        code = code_of(lambda: got.extend(method("unary_stream", "Broken")(b"", timeout=10)))
        assert code == (grpc.StatusCode.DATA_LOSS, "after one"), code

    def unknown_method():
        assert code_of(lambda: method("unary_unary", "Nope")(b"", timeout=10))[0] == grpc.StatusCode.UNIMPLEMENTED

    def deadline():
        before = time.monotonic()
        # Longer than the call needs to get there, or there is nothing that could be cancelled.
        pending = method("unary_unary", "Hang").future(b"", timeout=2)
        assert method("unary_unary", "Started")(b"", timeout=10) == b"yes"
        code, _ = code_of(pending.result)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
        # The server itself ends the call after 20 s.
        assert time.monotonic() - before < 15
        assert method("unary_unary", "WasCancelled")(b"", timeout=15) == b"yes"

    def cancel():
        pending = method("unary_unary", "Hang").future(b"", timeout=20)
        assert method("unary_unary", "Started")(b"", timeout=10) == b"yes"
        pending.cancel()
        assert pending.cancelled()
        assert method("unary_unary", "WasCancelled")(b"", timeout=15) == b"yes"

    def many_at_once():
        pending = [call.future(b"%d" % n, timeout=20) for n in range(500)]
        assert [one.result() for one in pending] == [b"%d" % n for n in range(500)]

    return [unary, empty_message, metadata, large_messages, client_streaming, server_streaming,
            bidirectional_streaming, server_ends_first, status_with_details, status_after_messages, unknown_method,
            deadline, cancel, many_at_once]


def connect(port, directory):
    target = port if port.startswith("unix:") else f"127.0.0.1:{port}"
    if not directory:
        # The authority of the calls, where it is not the target.
        authority = os.environ.get("INTEROP_AUTHORITY")
        return grpc.insecure_channel(target, options=OPTIONS + [("grpc.default_authority", authority)] * bool(authority))
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*read(directory)), options=OPTIONS)


def test(port, directory=None):
    failed = 0
    with connect(port, directory) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        all_cases = cases(channel)
        for case in all_cases:
            try:
                case()
                print("ok    ", case.__name__)
            except Exception as error:  # whatever it is, the other cases still run
                failed += 1
                print("FAILED", case.__name__, repr(error))
    print(f"{len(all_cases) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


def cuts(port, cause, code, pid):
    """Calls that the proxy ends, after a message and within one. The proxy is asked to end for the cause "shutdown"."""
    failed = 0
    with connect(port, None) as channel:
        calls = [(name, channel.unary_stream(f"/cuts.Test/{name}")(b"")) for name in ("Whole", "Half")]
        messages = [next(call) for _, call in calls]
        if cause == "shutdown":
            os.kill(int(pid), signal.SIGTERM)
        for (name, call), message in zip(calls, messages):
            seen, details = code_of(lambda: list(call))
            wanted = code if name == "Whole" else "INTERNAL"
            ok = (message, seen.name) == (b"ab", wanted)
            failed += not ok
            print("ok    " if ok else "FAILED", "grpcio", cause, name, seen.name, details)
    sys.exit(failed > 0)


if __name__ == "__main__":
    {"serve": serve, "test": test, "cuts": cuts}[sys.argv[1]](*sys.argv[2:])
