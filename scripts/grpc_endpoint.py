"""An endpoint of gRPC whose responses break off, are malformed or never come, as the method of a call says.

| path | response |
| --- | --- |
| ok | a message and status 0 |
| slow, late | the same after half a second, and once it may end |
| hang | none |
| close | none; the connection closes |
| reset_CODE | none; RST_STREAM |
| http_STATUS | this status, with a body that is not gRPC's |
| large_head, malformed | a head of 70 KiB, or with a field that HTTP/2 forbids |
| flood | 16 MiB in messages, and status 0 |
| one_END | a head, a message, and then END: ok, hang, close, reset_CODE, half (a part of a message, and nothing more), |
| | no_trailers (END_STREAM without), no_status (trailers without `grpc-status`), large_trailers (70 KiB) |
| two_END | the same with two messages, and END once it may end |
"""

import asyncio
import struct

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

# A message of google.protobuf.BytesValue.
MESSAGE = b"\x0a\x02ab"
FLOOD = b"\x0a\xfc\xff\x03" + bytes(65_532)
FLOODS = 256
LARGE = ("large", "a" * 70_000)


def framed(message):
    return struct.pack(">BI", 0, len(message)) + message


class Endpoint:
    """Listens on a port of loopback. `settings` are those of HTTP/2 that differ from h2's."""

    def __init__(self, settings=None):
        self.settings = settings or {}
        # By path: whether the call has come, and whether a response that has two messages may end.
        self.arrivals, self.ends = {}, {}

    async def start(self):
        self.server = await asyncio.start_server(lambda *stream: Connection(self, *stream).run(), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def arrived(self, path):
        return self.arrivals.setdefault(path, asyncio.Event())

    def may_end(self, path):
        return self.ends.setdefault(path, asyncio.Event())


class Connection:
    """A connection of the proxy's."""

    def __init__(self, endpoint, reader, writer):
        self.endpoint, self.reader, self.writer = endpoint, reader, writer
        config = h2.config.H2Configuration(
            client_side=False, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False)
        self.http2 = h2.connection.H2Connection(config)
        self.tasks = {}
        self.window = asyncio.Condition()

    async def run(self):
        initial = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1000, **self.endpoint.settings}
        self.http2.local_settings = h2.settings.Settings(client=False, initial_values=initial)
        self.http2.initiate_connection()
        try:
            self.flush()
            while data := await self.reader.read(65_536):
                for event in self.http2.receive_data(data):
                    self.handle(event)
                self.flush()
                async with self.window:
                    self.window.notify_all()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        for task in self.tasks.values():
            task.cancel()
        self.writer.close()

    def flush(self):
        self.writer.write(self.http2.data_to_send())

    def handle(self, event):
        match event:
            case h2.events.RequestReceived(stream_id=stream):
                path = dict(event.headers)[":path"]
                self.endpoint.arrived(path).set()
                self.tasks[stream] = asyncio.create_task(self.respond(stream, path))
            case h2.events.DataReceived(stream_id=stream):
                self.http2.acknowledge_received_data(event.flow_controlled_length, stream)
            case h2.events.StreamReset(stream_id=stream):
                if task := self.tasks.get(stream):
                    task.cancel()

    async def respond(self, stream, path):
        try:
            await self.answer(stream, path)
            self.flush()
        except h2.exceptions.ProtocolError:
            pass  # the stream was reset meanwhile

    async def answer(self, stream, path):
        kind, _, argument = path.rsplit("/", 1)[1].partition("_")
        match kind:
            case "ok" | "slow" | "late":
                if kind == "late":
                    await self.endpoint.may_end(path).wait()
                await asyncio.sleep(0.5 if kind == "slow" else 0)
                self.head(stream)
                self.http2.send_data(stream, framed(MESSAGE))
                self.trailers(stream)
            case "flood":
                self.head(stream)
                for _ in range(FLOODS):
                    await self.send(stream, framed(FLOOD))
                self.trailers(stream)
            case "one" | "two":
                self.head(stream)
                for _ in range(1 + (kind == "two")):
                    self.http2.send_data(stream, framed(MESSAGE))
                self.flush()
                if kind == "two":
                    await self.endpoint.may_end(path).wait()
                self.end(stream, *argument.partition("_")[::2])
            case "http":
                self.http2.send_headers(stream, [(":status", argument), ("content-type", "text/plain")])
                self.http2.send_data(stream, b"not gRPC\n", end_stream=True)
            case "large":
                self.head(stream, LARGE)
            case "malformed":
                self.head(stream, ("connection", "close"))
            case _:
                self.end(stream, kind, argument)

    def end(self, stream, kind, argument):
        match kind:
            case "ok":
                self.trailers(stream)
            case "reset":
                self.http2.reset_stream(stream, h2.errors.ErrorCodes[argument])
            case "close":
                self.writer.close()
            case "half":
                self.http2.send_data(stream, framed(MESSAGE)[:6])
            case "no":
                if argument == "status":
                    self.http2.send_headers(stream, [("other", "field")], end_stream=True)
                else:
                    self.http2.end_stream(stream)
            case "large":
                self.trailers(stream, LARGE)
            case "hang":
                pass
            case _:
                raise ValueError(f"no such case: {kind}")

    def head(self, stream, *more):
        self.http2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc"), *more])

    def trailers(self, stream, *more):
        self.http2.send_headers(stream, [("grpc-status", "0"), *more], end_stream=True)

    async def send(self, stream, data):
        """All of it, as the windows allow."""
        while data:
            async with self.window:
                await self.window.wait_for(lambda: self.http2.local_flow_control_window(stream) > 0)
            room = min(self.http2.local_flow_control_window(stream), self.http2.max_outbound_frame_size)
            self.http2.send_data(stream, data[:room])
            data = data[room:]
            self.flush()
            await self.writer.drain()
