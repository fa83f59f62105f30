#!/usr/bin/env bash
# grpclib and an empty frame of DATA: a call whose messages are all whole, and whose status is OK, is an AssertionError.
#
# The guess: DATA without bytes changes nothing (RFC 9113, section 6.1, allows it anywhere in a body), so that a stream of messages
# that ends with such a frame and trailers is the same as one that ends with the trailers.
#
# The behaviour: grpclib's client queues the frames of a stream, and takes an entry without bytes to acknowledge for the end. Once the
# frame is read before the trailers have come, the next message is one that is cut: "Received less data than expected". The status in
# the trailers is not looked at. If both come in one read the end is known already, and the call is OK; so the same server fails some
# of its calls. grpcio takes both for OK. Servers send such frames for chunks of a body that turn out to be empty.
#
# The versions: grpclib 0.4.9 and grpcio 1.76.0 with Python 3.11; the server is h2 4.3.0. In plaintext on loopback.
#
# The output seen:
#   grpclib at once OK
#   grpclib apart AssertionError: Received less data than expected
#   grpcio at once OK
#   grpcio apart OK
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 --version
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check grpclib==0.4.9 grpcio==1.76.0 h2==4.3.0

cat > "$dir/calls.py" <<'EOF'
import asyncio

import grpc.aio
import grpclib.client
import h2.config
import h2.connection
import h2.events

MESSAGE = b"\0\0\0\0\x02ab"


class Identity:
    __content_subtype__ = "proto"

    def encode(self, message, _type):
        return message

    def decode(self, data, _type):
        return data


async def serve(reader, writer):
    http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    http2.initiate_connection()

    async def answer(stream, path):
        http2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        http2.send_data(stream, MESSAGE)
        http2.send_data(stream, b"")
        if path != "/test/at-once":
            writer.write(http2.data_to_send())
            await asyncio.sleep(0.5)
        http2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        writer.write(http2.data_to_send())

    paths, answers = {}, []
    while data := await reader.read(65_536):
        for event in http2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                paths[event.stream_id] = dict(event.headers)[b":path"].decode()
            elif isinstance(event, h2.events.StreamEnded):
                answers.append(asyncio.create_task(answer(event.stream_id, paths[event.stream_id])))
        writer.write(http2.data_to_send())
    writer.close()


async def by_grpclib(port, path):
    channel = grpclib.client.Channel("127.0.0.1", port, codec=Identity())
    try:
        async with grpclib.client.UnaryStreamMethod(channel, path, bytes, bytes).open() as stream:
            await stream.send_message(b"", end=True)
            assert [message async for message in stream] == [b"ab"]
        return "OK"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        channel.close()


async def by_grpcio(port, path):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(path)(b"")
        assert [message async for message in call] == [b"ab"]
        return (await call.code()).name


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name, call in (("grpclib", by_grpclib), ("grpcio", by_grpcio)):
        for path in ("at-once", "apart"):
            print(name, path.replace("-", " "), await asyncio.wait_for(call(port, f"/test/{path}"), 20))


asyncio.run(main())
EOF

timeout 120 "$dir/venv/bin/python" "$dir/calls.py" 2>"$dir/errors" | tee "$dir/seen" || { cat "$dir/errors" >&2; exit 1; }
diff - "$dir/seen" <<'EOF'
grpclib at once OK
grpclib apart AssertionError: Received less data than expected
grpcio at once OK
grpcio apart OK
EOF
