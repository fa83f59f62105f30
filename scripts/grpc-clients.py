"""What gRPC clients make of the proxy's answers, resets, drains and limits; scripts/grpc-clients starts this and says how.

grpc_rows.py has the events. Each has a proxy and an endpoint of its own, and each client has a relay before the proxy, which
notes what is sent to it. Rows that take no time run first, all at once, then the others.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import pathlib
import signal
import sys
import tomllib

import grpc_endpoint
import grpc_relay
import grpc_rows
from grpc_rows import Cell, Site

# Seconds after which a wait has failed. It bounds a run, and tests no speed: the machine may be slow.
PATIENCE = 60
ROWS_AT_ONCE = 10

COMMON = {
    "CORES": "1", "LOG": "info", "LOG_FORMAT": "json", "ADMIN_LISTEN_ADDR": "127.0.0.1:0",
    "OUTBOUND_LISTEN_ADDR": "127.0.0.1:0", "OUTBOUND_MAX_CONNECTIONS": "1000",
    # A fault of one call's connection must not meet another call.
    "OUTBOUND_CONNECT_HTTP2_MAX_STREAMS_PER_CONNECTION": "1", "OUTBOUND_MAX_CONNECTIONS_PER_ENDPOINT": "1000",
    "OUTBOUND_BREAKER_CONSECUTIVE_FAILURES": "0", "OUTBOUND_CONNECT_EXP_BACKOFF_MIN": "1ms",
    "OUTBOUND_HTTP_FAILFAST_TIMEOUT": "30s", "OUTBOUND_CONNECT_TIMEOUT": "30s",
}


# ---- the clients ----

class Call:
    """A call as its client sees it."""

    def __init__(self, kind):
        self.kind = kind
        self.messages, self.two = 0, asyncio.Event()
        self.end = asyncio.get_running_loop().create_future()

    def take(self, line):
        if "message" in line:
            self.messages += 1
            if self.messages == 2:
                self.two.set()
        elif self.end.cancelled():
            pass  # its row has been given up
        elif self.end.done():
            raise ValueError(f"a call ends twice: {self.end.result()}, {line}")
        else:
            self.end.set_result((line["code"], line["details"]))

    async def code(self):
        return (await self.end)[0]


class Client:
    """A process that makes calls as grpc_callers.py says."""

    def __init__(self, name, version, command):
        self.name, self.version, self.command = name, version, command
        self.calls = {}

    async def start(self):
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*self.command, stdin=pipe, stdout=pipe, limit=1 << 24)
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        while line := await self.process.stdout.readline():
            line = json.loads(line)
            self.calls[line["id"]].take(line)
        for call in self.calls.values():
            if not call.end.done():
                call.end.set_exception(EOFError(f"{self.name} has ended"))

    def tell(self, **line):
        self.process.stdin.write(json.dumps(line).encode() + b"\n")

    def call(self, port, path, kind, **options):
        call = Call(kind)
        call.id = len(self.calls)
        self.calls[call.id] = call
        self.tell(id=call.id, port=port, path=path, kind=kind, **options)
        return call


# ---- the proxy ----

class Proxy:
    """The binary, on a port that it takes itself."""

    async def start(self, app, settings):
        env = {name: value for name, value in os.environ.items() if not name.startswith("LINKERD2_PROXY_")}
        env |= {f"LINKERD2_PROXY_{name}": value for name, value in settings.items() if value is not None}
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(app, env=env, stdout=pipe, limit=1 << 20)
        while True:
            line = await self.process.stdout.readline()
            if not line:
                raise EOFError("the proxy has ended")
            fields = json.loads(line)["fields"]
            if fields.get("message") == "listening":
                self.port = int(fields["addr"].rsplit(":", 1)[1])
                break
        self.log = asyncio.create_task(self.process.stdout.read())
        return self

    def end(self, number):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


# ---- the table ----

class Table:
    def __init__(self, args, clients):
        self.args, self.clients = args, clients
        self.faults = []

    async def run(self, row, number):
        """The cells of a row."""
        endpoint = await grpc_endpoint.Endpoint(row.endpoint).start()
        if row.endpoint is None:
            endpoint.server.close()
        settings = {"OUTBOUND_ENDPOINTS": f"127.0.0.1:{endpoint.port}"} | COMMON | row.settings
        proxy = await Proxy().start(self.args.app, settings)
        barrier = asyncio.Barrier(len(self.clients))

        async def play(client):
            relay = await grpc_relay.Relay(proxy.port, row.holds).start()
            try:
                async with asyncio.timeout(PATIENCE):
                    return await row.play(Site(row, client, proxy, endpoint, relay, barrier, number))
            except TimeoutError:
                self.faults.append(f"{row.event}: {client.name}: nothing in {PATIENCE} s")
                return Cell("no end", "", 0, 1, "nothing")

        try:
            cells = await asyncio.gather(*map(play, self.clients))
        finally:
            proxy.end(signal.SIGKILL)
            await proxy.process.wait()
        for client, cell in zip(self.clients, cells):
            if self.args.verbose:
                print(f"{row.event}: {client.name}: {cell}: {cell.messages} messages, {cell.wire}; {cell.details}")
            if row.succeeds is not None and (cell.code == "OK") != row.succeeds:
                self.faults.append(f"{row.event}: {client.name} sees {cell}")
        return cells

    async def lines(self, sections):
        """The table in Markdown."""
        all_rows = [row for section in sections.values() for row in section]
        cells = {}
        for timed in (False, True):
            phase = [row for row in all_rows if row.timed == timed]
            # Some at a time: a call that is late for want of a processor looks like another outcome.
            room = asyncio.Semaphore(ROWS_AT_ONCE)

            async def run(row):
                async with room:
                    return await self.run(row, all_rows.index(row))

            done = await asyncio.gather(*map(run, phase))
            cells |= {id(row): its for row, its in zip(phase, done)}
        names = [f"{client.name} {client.version}" for client in self.clients]
        for section, its_rows in sections.items():
            yield f"### {section}", ""
            yield f"| event | the proxy sends | {' | '.join(names)} |",
            yield f"| {' | '.join(['---'] * (2 + len(names)))} |",
            for row in filter(lambda row: row.is_listed, its_rows):
                wires = {cell.wire for cell in cells[id(row)]}
                # Calls that a client itself ends, or does not send, cannot be seen.
                wires = sorted(wires - {"nothing"}) or ["nothing"]
                yield f"| {row.event} | {' or '.join(wires)} | {' | '.join(map(str, cells[id(row)]))} |",
            yield "",


BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"


async def main():
    arguments = argparse.ArgumentParser()
    for name in ("app", "work", "npm", "tonic"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--write", action="store_true")
    arguments.add_argument("--verbose", action="store_true")
    arguments.add_argument("--only", default="")
    arguments.add_argument("--clients", default="")
    args = arguments.parse_args()
    if args.write and args.only + args.clients:
        arguments.error("--write has all events and clients")
    here = pathlib.Path(__file__).parent

    def python(name):
        version = importlib.metadata.version(name)
        return Client(name, version, [sys.executable, here / "grpc_callers.py", name])

    def node(name, package):
        version = json.loads((pathlib.Path(args.npm) / "node_modules" / package / "package.json").read_text())["version"]
        return Client(name, version, ["node", here / "grpc-clients.mjs", name, args.npm])

    def rust(name):
        locked = tomllib.loads((here.parent / "Cargo.lock").read_text())["package"]
        return Client(name, next(one["version"] for one in locked if one["name"] == name), [args.tonic])

    clients = [python("grpcio"), python("grpclib"), node("grpc-js", "@grpc/grpc-js"),
               node("connect-node", "@connectrpc/connect-node"), rust("tonic")]
    clients = [client for client in clients if args.clients in client.name]
    sections = grpc_rows.rows(pathlib.Path(args.work))
    for title, section in sections.items():
        sections[title] = [row for row in section if args.only in row.event]
    table = Table(args, clients)
    try:
        await asyncio.gather(*(client.start() for client in clients))
        text = "".join(line + "\n" for group in [group async for group in table.lines(sections)] for line in group)
    finally:
        for client in clients:
            if client.process.returncode is None:
                client.process.kill()
            await client.process.wait()
    print(text)
    for fault in table.faults:
        print("FAULT", fault)
    page = here.parent / "docs" / "grpc-clients.md"
    before, old, after = split(page.read_text())
    if args.write:
        page.write_text(before + BEGIN + "\n" + text + END + after)
    elif old.strip() != text.strip() and not args.only + args.clients:
        print("differs from docs/grpc-clients.md:")
        print("".join(f"- {line}\n" for line in old.splitlines() if line not in text.splitlines()), end="")
        print("".join(f"+ {line}\n" for line in text.splitlines() if line not in old.splitlines()), end="")
        return True
    return bool(table.faults)


def split(page):
    before, rest = page.split(BEGIN)
    return before, *rest.split(END)


if __name__ == "__main__":
    # Of connections that end when they are of no interest any more.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(main()))
