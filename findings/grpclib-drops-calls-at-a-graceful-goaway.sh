#!/usr/bin/env bash
# grpclib: a server that drains loses all calls that it is about to answer.
#
# The guess: GOAWAY(NO_ERROR) with the highest stream ID says that no call is lost: the client opens no new streams and reads
# the answers to the open ones (RFC 9113, section 6.8). It is how gRPC servers drain, at a deployment or at the age of a
# connection (`max_connection_age`), and a client library does it without its user.
#
# The behaviour: grpclib's client closes the connection when GOAWAY comes, whatever its error code and last stream are. All open
# calls fail with StreamTerminatedError, which is no GRPCError and has no status, so code that retries by status does not
# retry. A stream that has brought messages ends in the same way. The server goes on and answers a connection that is gone.
# grpcio on the same server reads both answers.
#
# The versions: grpclib 0.4.9 and grpcio 1.76.0, a server of h2 4.4.1, Python 3.11.7, in plaintext on loopback.
#
# The output seen:
#   grpclib unary: StreamTerminatedError Connection lost
#   grpclib stream: 1 message, StreamTerminatedError Connection lost
#   grpcio unary: OK
#   grpcio stream: 2 messages, OK
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check grpclib==0.4.9 grpcio==1.76.0 h2==4.4.1
"$dir/venv/bin/python" --version

timeout 60 "$dir/venv/bin/python" - <<'PY' | tee "$dir/seen"
import asyncio

import grpc
import grpclib.client
import grpclib.exceptions
import h2.config
import h2.connection
import h2.events
import hyperframe.frame

MESSAGE = b"\0\0\0\0\x02ab"


async def serve(reader, writer):
    """Each connection has one call. It gets GOAWAY when it has been sent, and is answered half a second later."""
    http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    http2.initiate_connection()
    tasks = []
    writer.write(http2.data_to_send())

    async def answer(stream, path):
        http2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        if path == "/a.S/stream":
            http2.send_data(stream, MESSAGE)
        writer.write(http2.data_to_send())
        await asyncio.sleep(0.2)
        writer.write(hyperframe.frame.GoAwayFrame(0, last_stream_id=2**31 - 1, error_code=0).serialize())
        await asyncio.sleep(0.5)
        http2.send_data(stream, MESSAGE)
        http2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        writer.write(http2.data_to_send())

    try:
        while data := await reader.read(65536):
            for event in http2.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    tasks.append(asyncio.create_task(answer(event.stream_id, dict(event.headers)[":path"])))
            writer.write(http2.data_to_send())
    except OSError:
        pass
    writer.close()


class Identity:
    __content_subtype__ = "proto"

    def encode(self, message, _type):
        return message

    def decode(self, data, _type):
        return data


async def with_grpclib(port, path):
    messages = 0
    channel = grpclib.client.Channel("127.0.0.1", port, codec=Identity())
    try:
        if path == "/a.S/unary":
            await grpclib.client.UnaryUnaryMethod(channel, path, bytes, bytes)(b"", timeout=10)
            return "OK"
        async with grpclib.client.UnaryStreamMethod(channel, path, bytes, bytes).open(timeout=10) as stream:
            await stream.send_message(b"", end=True)
            async for _ in stream:
                messages += 1
        end = "OK"
    except grpclib.exceptions.StreamTerminatedError as error:
        end = f"StreamTerminatedError {error}"
    finally:
        channel.close()
    return end if path == "/a.S/unary" else f"{messages} message{'s' * (messages > 1)}, {end}"


def with_grpcio(port, path):
    messages = 0
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            if path == "/a.S/unary":
                channel.unary_unary(path)(b"", timeout=10)
            else:
                for _ in channel.unary_stream(path)(b"", timeout=10):
                    messages += 1
            end = "OK"
        except grpc.RpcError as error:
            end = error.code().name
    return end if path == "/a.S/unary" else f"{messages} messages, {end}"


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for kind in ("unary", "stream"):
        print(f"grpclib {kind}: {await with_grpclib(port, f'/a.S/{kind}')}")
    for kind in ("unary", "stream"):
        print(f"grpcio {kind}: {await asyncio.to_thread(with_grpcio, port, f'/a.S/{kind}')}")


asyncio.run(main())
PY

diff - "$dir/seen" <<'SEEN' && echo "as described"
grpclib unary: StreamTerminatedError Connection lost
grpclib stream: 1 message, StreamTerminatedError Connection lost
grpcio unary: OK
grpcio stream: 2 messages, OK
SEEN
