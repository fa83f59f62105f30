"""A relay of TCP between one client and the proxy, which reads the frames of HTTP/2 that pass."""

import asyncio
import dataclasses

import hpack

PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
DATA, HEADERS, RST_STREAM, PING, GOAWAY, CONTINUATION = 0, 1, 3, 6, 7, 9
ACK, END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
ERRORS = ("NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
          "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY "
          "HTTP_1_1_REQUIRED").split()
# Behind the first GOAWAY of a connection, and behind the second.
PINGS = [b"1 GOAWAY", b"2 GOAWAY"]


@dataclasses.dataclass
class Stream:
    """A request, and how the proxy has ended it."""

    path: str
    head: dict = None
    end: str = "nothing"
    # Whether the client has ended it.
    is_given_up: bool = False

    @property
    def is_open(self):
        return self.end == "nothing"


class Frames:
    """The frames of one direction of a connection."""

    def __init__(self, skipped=0):
        self.buffer, self.skipped = b"", skipped
        self.decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self.block = None

    def feed(self, data):
        """Yields each frame that is whole: its bytes, type, flags, stream and payload; of a block of fields the fields as well,
        with its last frame."""
        self.buffer += data
        if self.skipped:
            if len(self.buffer) < self.skipped:
                return
            yield self.buffer[:self.skipped], None, 0, 0, b"", None
            self.buffer, self.skipped = self.buffer[self.skipped:], 0
        while len(self.buffer) >= 9:
            end = 9 + int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < end:
                return
            frame, self.buffer = self.buffer[:end], self.buffer[end:]
            kind, flags, stream = frame[3], frame[4], int.from_bytes(frame[5:9], "big") & 0x7fffffff
            yield frame, kind, *self.block_of(kind, flags, stream, frame[9:])

    def block_of(self, kind, flags, stream, payload):
        """Flags are those of a block's HEADERS."""
        if kind == HEADERS:
            padding = payload[0] if flags & PADDED else 0
            start = bool(flags & PADDED) + 5 * bool(flags & PRIORITY)
            self.block = flags, payload[start:len(payload) - padding]
        elif kind == CONTINUATION:
            self.block = self.block[0], self.block[1] + payload
        if kind not in (HEADERS, CONTINUATION) or not flags & END_HEADERS:
            return flags, stream, payload, None
        return self.block[0], stream, payload, dict(self.decoder.decode(self.block[1]))


class Relay:
    """Listens on a port of loopback, for one client of the proxy at `port`. `holds` is what it keeps back on its way to the client:
    with "ends" the frames that end streams, with "last GOAWAY" a connection's second GOAWAY, until `release` is set, and with
    "responses" each response until it has ended.

    Behind each GOAWAY it sends a PING of its own, whose ACK says that the client has read the GOAWAY."""

    def __init__(self, port, holds=None):
        self.proxy, self.holds = port, holds
        self.release = asyncio.Event()
        # The requests of all connections, in the order in which they came.
        self.streams = []
        # Connections, and requests of which a part has come at least.
        self.connections = self.begun = 0
        self.go_aways = []
        # Whether the client has read a GOAWAY, the last one of a drain, and whether a connection has ended.
        self.go_away, self.last_go_away, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def start(self):
        self.server = await asyncio.start_server(self.connect, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def requests(self, path):
        return [stream for stream in self.streams if stream.path == path]

    async def connect(self, reader, writer):
        self.connections += 1
        try:
            from_proxy, to_proxy = await asyncio.open_connection("127.0.0.1", self.proxy)
        except OSError:
            writer.close()
            return
        await Connection(self).run((reader, writer), (from_proxy, to_proxy))
        # A client may end its connection instead of an ACK.
        for event in (self.go_away, self.last_go_away, self.closed):
            event.set()


class Connection:
    """A client's connection."""

    def __init__(self, relay):
        self.relay = relay
        self.streams = {}
        self.go_aways = 0

    async def run(self, client, proxy):
        await asyncio.gather(self.pump(client[0], proxy[1], Frames(PREFACE), self.of_client),
                             self.pump(proxy[0], client[1], Frames(), self.of_proxy))

    async def pump(self, reader, writer, frames, observe):
        held = b""
        try:
            while data := await reader.read(65_536):
                for frame, kind, *parts in frames.feed(data):
                    if kind == PING and observe == self.of_client and parts[2] in PINGS:
                        (self.relay.go_away, self.relay.last_go_away)[PINGS.index(parts[2])].set()
                        continue
                    ends = observe(kind, *parts)
                    if ends and self.relay.holds == "ends" or self.go_aways == 2 and self.relay.holds == "last GOAWAY":
                        await self.relay.release.wait()
                    held += frame
                    if kind == GOAWAY and observe == self.of_proxy and self.go_aways <= len(PINGS):
                        held += bytes([0, 0, 8, PING, 0, 0, 0, 0, 0]) + PINGS[self.go_aways - 1]
                    if self.relay.holds == "responses" and any(one.head and one.is_open for one in self.streams.values()):
                        continue
                    writer.write(held)
                    held = b""
                await writer.drain()
        except OSError:
            pass
        for stream in self.streams.values():
            # Nothing is noted of streams that a client ends.
            if observe == self.of_client:
                stream.is_given_up = True
            if observe == self.of_proxy and stream.is_open and not stream.is_given_up:
                code = f"GOAWAY({self.relay.go_aways[-1]})" if self.relay.go_aways else "no GOAWAY"
                stream.end = f"{code}, connection closed"
        writer.write(held)
        writer.close()

    def of_client(self, kind, flags, stream, payload, fields):
        self.relay.begun += kind == HEADERS and stream not in self.streams
        if fields and stream not in self.streams:
            self.streams[stream] = Stream(fields.get(":path"))
            self.relay.streams.append(self.streams[stream])
        if kind == RST_STREAM and stream in self.streams:
            self.streams[stream].is_given_up = True

    def of_proxy(self, kind, flags, stream, payload, fields):
        """Notes it; whether it ends a stream."""
        if kind == GOAWAY:
            self.relay.go_aways.append(ERRORS[int.from_bytes(payload[4:8], "big")])
            self.go_aways += 1
        seen = self.streams.get(stream)
        if seen is None:
            return False
        # An RST_STREAM(NO_ERROR) behind the end is for the rest of the request.
        if kind == RST_STREAM and seen.is_open:
            seen.end = f"RST_STREAM({ERRORS[int.from_bytes(payload, 'big')]})"
        elif fields and flags & END_STREAM:
            status = fields.get("grpc-status")
            where = "trailers" if seen.head else "head" if status else f"HTTP {fields[':status']}"
            seen.end = f"{where}, status {status}" if status else where
        elif fields:
            seen.head = fields
        elif kind == DATA and flags & END_STREAM:
            status = seen.head[":status"]
            seen.end = "END_STREAM without trailers" if status == "200" else f"HTTP {status}"
        return not seen.is_open
