"""gRPC clients of Python that make calls as they are told, and say what became of each.

    grpc_callers.py grpcio|grpclib

Each line of stdin is a call, {"id", "port", "path", "kind": "unary" or "stream"} and, if need be, "timeout" in seconds,
"metadata" (pairs), "size" of the message in bytes, and "hold": the call is not read on behind its first message before a line
{"read": id}. Calls to one port share a channel. Each message is a line of stdout, {"id", "message"}, and so is the end, {"id",
"code", "details"}, whose code is the name of gRPC's, or of an exception that has none.
"""

import asyncio
import json
import sys
import threading


def message(size):
    return bytes(size) if size else b"\x0a\x02ab"


def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


# ---- grpcio ----

def grpcio():
    import grpc

    channels, holds = {}, {}

    def call(id, port, path, kind, timeout=None, metadata=(), size=None, hold=False):
        channel, options = channels[port], {"timeout": timeout, "metadata": [tuple(pair) for pair in metadata]}
        try:
            if kind == "unary":
                channel.unary_unary(path)(message(size), **options)
                say(id=id, message=True)
            else:
                for _ in channel.unary_stream(path)(message(size), **options):
                    say(id=id, message=True)
                    if hold:
                        holds[id].wait()
            say(id=id, code="OK", details="")
        except grpc.RpcError as error:
            say(id=id, code=error.code().name, details=error.details())

    for line in sys.stdin:
        task = json.loads(line)
        if "read" in task:
            holds[task["read"]].set()
            continue
        if task["port"] not in channels:
            # Channels to one port would share a connection otherwise.
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels[task["port"]] = grpc.insecure_channel(f"127.0.0.1:{task['port']}", options=options)
        holds[task["id"]] = threading.Event()
        threading.Thread(target=call, kwargs=task, daemon=True).start()


# ---- grpclib ----

class Identity:
    """A codec whose messages are bytes."""

    __content_subtype__ = "proto"

    def encode(self, message, _type):
        return message

    def decode(self, data, _type):
        return data


async def grpclib():
    import grpclib.client
    import grpclib.exceptions

    channels, holds, tasks = {}, {}, set()

    async def call(id, port, path, kind, timeout=None, metadata=(), size=None, hold=False):
        options = {"timeout": timeout, "metadata": [tuple(pair) for pair in metadata]}
        try:
            if kind == "unary":
                await grpclib.client.UnaryUnaryMethod(channels[port], path, bytes, bytes)(message(size), **options)
                say(id=id, message=True)
            else:
                async with grpclib.client.UnaryStreamMethod(channels[port], path, bytes, bytes).open(**options) as stream:
                    await stream.send_message(message(size), end=True)
                    async for _ in stream:
                        say(id=id, message=True)
                        if hold:
                            await holds[id].wait()
            say(id=id, code="OK", details="")
        except grpclib.exceptions.GRPCError as error:
            say(id=id, code=error.status.name, details=error.message)
        except Exception as error:
            say(id=id, code=type(error).__name__, details=str(error))

    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        task = json.loads(line)
        if "read" in task:
            holds[task["read"]].set()
            continue
        if task["port"] not in channels:
            channels[task["port"]] = grpclib.client.Channel("127.0.0.1", task["port"], codec=Identity())
        holds[task["id"]] = asyncio.Event()
        running = asyncio.create_task(call(**task))
        tasks.add(running)


if __name__ == "__main__":
    asyncio.run(grpclib()) if sys.argv[1] == "grpclib" else grpcio()
