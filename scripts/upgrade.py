"""Server streams of gRPC that last while a proxy is replaced; messages are plain bytes, so no .proto is needed.

    upgrade.py serve              # prints its port
    upgrade.py stream PORT FILE   # one stream through the proxy

A stream has a message every 50 ms, and ends with status OK once there is FILE.end. FILE.begun is made with the first message. The client
fails if the status is another one, or if no message came after FILE.replaced was there.
"""

import pathlib
import sys
import time
from concurrent import futures

import grpc

PATIENCE = 120


def ticks(request, context):
    end = pathlib.Path(request.decode() + ".end")
    while context.is_active():
        # Looked at first, so that a message follows all that happened before.
        is_over = end.exists()
        yield b"tick"
        if is_over:
            return
        time.sleep(0.05)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {"Ticks": grpc.unary_stream_rpc_method_handler(ticks)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("upgrade.Test", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def stream(port, file):
    count = late = 0
    replaced = pathlib.Path(file + ".replaced")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        # A process that is being replaced refuses no connection, but the next one may not have started.
        call = channel.unary_stream("/upgrade.Test/Ticks")(file.encode(), timeout=PATIENCE, wait_for_ready=True)
        for message in call:
            assert message == b"tick", message
            if count == 0:
                pathlib.Path(file + ".begun").touch()
            count += 1
            late += replaced.exists()
        assert call.code() == grpc.StatusCode.OK, (call.code(), call.details())
    assert late > 0, f"none of {count} messages came from the process that was replaced"
    print(f"a gRPC stream of {count} messages, {late} of them after its process was replaced: OK")


if __name__ == "__main__":
    {"serve": serve, "stream": stream}[sys.argv[1]](*sys.argv[2:])
