"""The events that clients of gRPC meet in scripts/grpc-clients.py, and how each is made to happen."""

import asyncio
import dataclasses
import signal

import h2.settings

import grpc_endpoint
import grpc_relay

# Of limits that a call is to reach, and all of it in milliseconds. Calls have begun long before.
PERIOD = 2
TIME = f"{PERIOD * 1000}ms"
# Seconds after which a call that has an end for the proxy is taken for one that has none for its client.
ENDLESS = 4
# Of waits that nothing is to happen in.
SHORT = "300ms"

WINDOWLESS = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
SMALL_HEADS = {h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 1000}


@dataclasses.dataclass
class Row:
    """An event, and what is seen of it."""

    event: str
    case: str
    settings: dict = dataclasses.field(default_factory=dict)
    kind: str = "unary"
    call: dict = dataclasses.field(default_factory=dict)
    # The endpoint's settings. `None`: nothing listens there.
    endpoint: dict = dataclasses.field(default_factory=dict)
    play: callable = None
    # The text in place of the proxy's frames, where these depend on which side is first.
    wire: str = None
    holds: str = None
    # Whether the call, or the last one, is to succeed. `None`: it may.
    succeeds: bool = False
    # Whether it is in the table. If not, clients' reports depend on chance.
    is_listed: bool = True
    # Whether it takes time, so that it runs apart from rows that use the processor.
    timed: bool = False


# ---- how rows go ----

@dataclasses.dataclass
class Site:
    """A row for one client."""

    row: Row
    # As grpc-clients.py has them.
    client: object
    proxy: object
    endpoint: grpc_endpoint.Endpoint
    relay: grpc_relay.Relay
    # Of all clients of the row.
    barrier: asyncio.Barrier
    number: int

    def path(self, case):
        return f"/rows.Row{self.number}_{self.client.name.replace('-', '_')}/{case}"

    def call(self, case, kind="unary", **options):
        return self.client.call(self.relay.port, self.path(case), kind, **options)

    async def begun(self, call, case):
        """Until it is open: a stream has had two messages, another call has come to the endpoint."""
        await (call.two if call.kind == "stream" else self.endpoint.arrived(self.path(case))).wait()

    async def once(self, action):
        """Does it when all clients of the row have come here."""
        if await self.barrier.wait() == 0:
            action()


@dataclasses.dataclass
class Cell:
    code: str
    details: str
    messages: int
    tries: int
    wire: str
    note: str = ""

    def __str__(self):
        notes = []
        if self.tries == 0:
            notes.append("not sent")
        elif self.tries > 1:
            notes.append(f"{self.tries} tries")
        if self.note:
            notes.append(self.note)
        return ", ".join([self.code, *notes])


async def seen(site, call, case, note=""):
    code, details = await call.end
    requests = site.relay.requests(site.path(case))
    wire = site.row.wire or (requests[-1].end if requests else "nothing")
    return Cell(code, details, call.messages, len(requests), wire, note)


async def alone(site):
    """One call."""
    row = site.row
    call = site.call(row.case, row.kind, **row.call)
    if row.case.startswith("two_"):
        if not row.holds == "responses":
            await call.two.wait()
        site.endpoint.may_end(site.path(row.case)).set()
    cell = await seen(site, call, row.case)
    if row.case.startswith("two_") and call.messages != 2:
        cell.note = f"{call.messages} of 2 messages"
    # A head that has not come whole has been sent all the same.
    cell.tries = max(cell.tries, min(site.relay.begun, 1))
    return cell


async def endless(site):
    """One call, whose end some clients never see."""
    row = site.row
    call = site.call(row.case, row.kind)
    if row.case.startswith("two_"):
        await call.two.wait()
        site.endpoint.may_end(site.path(row.case)).set()
    while not any(not stream.is_open for stream in site.relay.requests(site.path(row.case))):
        await asyncio.sleep(0.05)
    ended, _ = await asyncio.wait([call.end], timeout=ENDLESS)
    if ended:
        return await seen(site, call, row.case)
    return Cell(f"no end in {ENDLESS} s", "", call.messages, 1, site.relay.requests(site.path(row.case))[-1].end)


async def own_deadline(site):
    """One call, whose client sees its deadline pass before it sees what the proxy makes of that."""
    call = site.call(site.row.case, site.row.kind, timeout=PERIOD)
    site.endpoint.may_end(site.path(site.row.case)).set()
    await asyncio.wait([call.end], timeout=PERIOD + 1)
    note = "" if call.end.done() else "of the proxy"
    site.relay.release.set()
    return await seen(site, call, site.row.case, note)


async def not_read(site):
    """A stream that its client stops reading, and then goes on with."""
    call = site.call(site.row.case, "stream", hold=True)
    while not any(not stream.is_open for stream in site.relay.requests(site.path(site.row.case))):
        await asyncio.sleep(0.1)
    site.client.tell(read=call.id)
    return await seen(site, call, site.row.case)


def ending(number):
    async def play(site):
        """A call that is open when the proxy is ended."""
        call = site.call(site.row.case, site.row.kind)
        await site.begun(call, site.row.case)
        await site.once(lambda: site.proxy.end(number))
        if site.row.case in ("late", "two_ok"):
            await site.relay.go_away.wait()
            site.endpoint.may_end(site.path(site.row.case)).set()
        return await seen(site, call, site.row.case)
    return play


async def call_in_drain(site):
    """A call after GOAWAY, when the proxy accepts no connections any more."""
    call = site.call("two_hang", "stream")
    await site.begun(call, "two_hang")
    await site.once(lambda: site.proxy.end(signal.SIGTERM))
    site.relay.server.close()
    await site.relay.last_go_away.wait()
    return await seen(site, site.call("ok"), "ok")


async def call_after_go_away(site):
    """A call after GOAWAY beside an open one, while the proxy accepts new connections."""
    site.call("two_hang", "stream")
    await (site.relay.go_away if site.relay.holds else site.relay.last_go_away).wait()
    call = site.call("ok")
    # Held back until then: the second GOAWAY of a drain, which says which calls are left out.
    while not site.relay.requests(site.path("ok")) and not call.end.done():
        await asyncio.sleep(0.01)
    site.relay.release.set()
    cell = await seen(site, call, "ok")
    if cell.code == "OK":
        cell.note = "on a new connection" if site.relay.connections > 1 else ""
    else:
        cell.note = f"and the next call {await site.call('ok_again').code()}"
    return cell


async def call_after_idleness(site):
    """A call after the end of a connection that had none for some time."""
    await site.call("ok").end
    await site.relay.closed.wait()
    # A client closes its connection a moment before its calls know of that: tonic ends one in between unsent.
    while not (cell := await seen(site, site.call("ok_again"), "ok_again")).tries:
        await asyncio.sleep(0.05)
    return cell


async def taken(site):
    """A call where another one has taken all there is."""
    if site.client.name == "grpcio":
        site.client.call(site.proxy.port, "/rows.Other/hang", "unary")
        await site.endpoint.arrived("/rows.Other/hang").wait()
    await site.barrier.wait()
    return await seen(site, site.call("ok"), "ok")


async def connected(site):
    """A call where another client has taken all connections."""
    if site.client.name == "grpcio":
        site.proxy.other = await asyncio.open_connection("127.0.0.1", site.proxy.port)
    await site.barrier.wait()
    cell = await seen(site, site.call("ok"), "ok")
    # Whether the request is on its way before the end of the connection is chance.
    cell.tries = 1
    return cell


async def many(site):
    """More calls than there may be streams, once the client knows how many."""
    await site.call("ok").end
    calls = [site.call("slow") for _ in range(6)]
    codes = {await call.code() for call in calls}
    cell = await seen(site, calls[0], "slow")
    connections = site.relay.connections
    cell.tries, cell.code = 1 if cell.tries == len(calls) else cell.tries, " and ".join(sorted(codes))
    cell.note = "waits" if connections == 1 else f"{connections} connections"
    return cell


def unary(event, case, settings=None, **more):
    return Row(event, case, settings or {}, play=more.pop("play", alone), **more)


def stream(event, case, settings=None, **more):
    return Row(event, case, settings or {}, kind="stream", play=more.pop("play", alone), **more)


FIELDS = [[f"field-{number}", "value"] for number in range(101)]


def large(size):
    """Metadata of that many bytes, as HTTP/2 counts them."""
    return {"metadata": [[f"large-{number:02}", "a" * 984] for number in range(size // 1024)]}


def rows(work):
    routes = work / "routes.yaml"
    routes.write_text("""
backends: {some: {endpoints: [127.0.0.1:1]}}
routes:
- rules:
  - matches: [{method: {service: other.Calls}}]
    backendRefs: [{name: some}]
""")
    without = work / "without.yaml"
    without.write_text("""
backends: {some: {endpoints: [127.0.0.1:1]}}
routes: [{rules: [{backendRefs: [{name: some, weight: 0}]}]}]
""")
    codes = "CANCEL REFUSED_STREAM INTERNAL_ERROR ENHANCE_YOUR_CALM HTTP_1_1_REQUIRED PROTOCOL_ERROR NO_ERROR".split()
    elsewhere = {"OUTBOUND_ENDPOINTS": None}
    age = {"OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE": "1s", "OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE": "1s"}
    grace = {"SHUTDOWN_GRACE_PERIOD": SHORT}
    return {
        "Before the response's head": [
            unary("no connection to the endpoint", "ok", {"OUTBOUND_HTTP_FAILFAST_TIMEOUT": SHORT}, endpoint=None),
            unary("endpoint closes the connection", "close"),
            *(unary(f"endpoint resets with {code}", f"reset_{code}") for code in codes),
            *(unary(f"endpoint answers HTTP {status}, not gRPC", f"http_{status}")
              for status in (400, 401, 403, 404, 429, 500, 502, 503, 504)),
            unary("response is malformed", "malformed"),
            unary("response's head is too large", "large_head"),
            unary("no status in trailers", "one_no_status"),
            unary("response ends without trailers", "one_no_trailers", play=endless, timed=True),
            unary("deadline of the proxy passes", "hang", {"OUTBOUND_HTTP_REQUEST_TIMEOUT": TIME}, timed=True),
            unary("the call's own deadline passes", "hang", play=own_deadline, holds="ends", wire="head, status 4, if it is first",
                  timed=True),
            unary("nothing moves for the stream idle timeout", "hang",
                  {"OUTBOUND_SERVER_HTTP2_STREAM_IDLE_TIMEOUT": TIME}, timed=True),
            unary("endpoint takes nothing of the request", "hang",
                  {"OUTBOUND_CONNECT_HTTP2_WRITE_STALL_TIMEOUT": TIME}, call={"size": 200_000},
                  endpoint=WINDOWLESS, timed=True),
        ],
        "In the middle of a stream, behind two messages": [
            *(stream(f"endpoint resets with {code}", f"two_reset_{code}") for code in codes),
            stream("connection to the endpoint is lost", "two_close"),
            stream("response ends without trailers", "two_no_trailers", play=endless, timed=True),
            stream("no status in trailers", "two_no_status"),
            stream("trailers are too large", "two_large_trailers"),
            stream("deadline of the proxy passes", "two_hang", {"OUTBOUND_HTTP_REQUEST_TIMEOUT": TIME}, timed=True),
            stream("the same within a message", "two_half", {"OUTBOUND_HTTP_REQUEST_TIMEOUT": TIME}, timed=True),
            stream("the call's own deadline passes", "two_hang", play=own_deadline, holds="ends",
                   wire="trailers, status 4, if it is first", timed=True),
            stream("nothing moves for the stream idle timeout", "two_hang",
                   {"OUTBOUND_SERVER_HTTP2_STREAM_IDLE_TIMEOUT": TIME}, timed=True),
            stream("client stops reading for the write stall timeout", "flood",
                   {"OUTBOUND_SERVER_HTTP2_WRITE_STALL_TIMEOUT": TIME}, play=not_read, timed=True),
            stream("messages and a reset come at once", "two_reset_INTERNAL_ERROR", holds="responses", is_listed=False),
            stream("messages and trailers with a status come at once", "two_hang",
                   {"OUTBOUND_HTTP_REQUEST_TIMEOUT": TIME}, holds="responses", timed=True),
        ],
        "Limits": [
            unary("too many requests in flight", "ok", {"OUTBOUND_MAX_IN_FLIGHT": "1"}, play=taken),
            unary("no route", "ok", elsewhere | {"OUTBOUND_ROUTES": str(routes)}),
            unary("the route has no back end", "ok", elsewhere | {"OUTBOUND_ROUTES": str(without)}),
            unary("authority is not allowed", "ok", elsewhere | {
                "OUTBOUND_DISCOVERY": "authority", "OUTBOUND_DISCOVERY_SUFFIXES": "example"}),
            unary("101 fields of metadata", "ok", call={"metadata": FIELDS}),
            unary("20 KiB of metadata, of 16 KiB", "ok", call=large(20_480)),
            unary("80 KiB of metadata", "ok", call=large(81_920)),
            unary("400 KiB of metadata", "ok", call=large(409_600), wire="connection closed"),
            unary("more metadata than the endpoint takes", "ok", call=large(8_192), endpoint=SMALL_HEADS),
            unary("more calls than streams on a connection", "slow",
                  {"OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS": "2"}, play=many, succeeds=True),
            unary("too many connections of clients", "ok", {"OUTBOUND_MAX_CONNECTIONS": "1"}, play=connected,
                  wire="connection closed"),
        ],
        "Drains": [
            unary("SIGTERM, call ends in the grace", "late", play=ending(signal.SIGTERM), succeeds=None),
            stream("SIGTERM, stream ends in the grace", "two_ok", play=ending(signal.SIGTERM), succeeds=None),
            unary("SIGTERM, call open past the grace, no head", "hang", grace, play=ending(signal.SIGTERM)),
            stream("SIGTERM, stream open past the grace", "two_hang", grace, play=ending(signal.SIGTERM)),
            unary("new call while the process drains", "ok", play=call_in_drain),
            unary("age's grace is over, no head", "hang", age, timed=True),
            stream("age's grace is over, in mid-stream", "two_hang", age, timed=True),
            unary("new call after the age's GOAWAY", "ok", age | {
                "OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE": "1m"}, play=call_after_go_away, succeeds=None, timed=True),
            unary("new call between the two GOAWAYs of the age", "ok", age | {
                "OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE": "1m"}, play=call_after_go_away, holds="last GOAWAY",
                succeeds=None, timed=True),
            unary("new call after the end of an idle connection", "ok",
                  {"OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_IDLE": "1s"}, play=call_after_idleness, succeeds=True, timed=True),
            unary("the process is killed, no head", "hang", play=ending(signal.SIGKILL)),
            stream("the process is killed, in mid-stream", "two_hang", play=ending(signal.SIGKILL)),
        ],
    }
