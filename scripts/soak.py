"""Load and faults, a victim beside them, and a table of what the proxy holds meanwhile; scripts/soak starts what it needs."""

import argparse
import asyncio
import os
import random
import socket
import struct
import time
import urllib.request
import weakref

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
CANCEL = struct.pack(">I", 8)
# The victim's streams, and the pause between the requests of one.
STREAMS, PAUSE = 8, 0.005
# Growth that counts as none, over the part of the run that is looked at.
NO_SLOPE = 4 << 20


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def get(stream, path):
    """HEADERS of a GET, as literals without indexing."""
    authority = b"soak.example"
    block = bytes([0x82, 0x86, 4, len(path)]) + path + bytes([1, len(authority)]) + authority
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


class Connection:
    """A client's end of a connection; closed connections look like the end of what is read."""

    # Those whose client is cut short are closed at the end.
    every = weakref.WeakSet()

    @classmethod
    async def silent(cls, port):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        cls.every.add(self)
        return self

    @classmethod
    async def open(cls, port, window=None):
        self = await cls.silent(port)
        settings = b"" if window is None else struct.pack(">HI", 4, window)
        self.send(PREFACE, frame(SETTINGS, 0, 0, settings), frame(SETTINGS, ACK, 0))
        return self

    def send(self, *frames):
        self.writer.write(b"".join(frames))

    async def next(self):
        """Kind, flags, stream and payload. None: the connection is closed."""
        try:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def read_to_end(self):
        while await self.next():
            pass

    def kill(self):
        """Ends with a TCP reset."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


# ---- the victim ----

class Victim:
    """Eight streams, one request after another on each."""

    def __init__(self):
        self.took, self.requests, self.errors = [], 0, []

    async def run(self, port):
        while True:
            connection = await Connection.open(port)
            waiting, ended = {}, asyncio.Event()
            ids = iter(range(1, 2**31, 2))
            reading = asyncio.create_task(self.read(connection, waiting, ended))
            try:
                await asyncio.gather(*(self.stream(connection, ids, waiting, ended) for _ in range(STREAMS)))
            finally:
                reading.cancel()
                connection.writer.close()

    async def read(self, connection, waiting, ended):
        while read := await connection.next():
            kind, flags, stream, payload = read
            if kind == PING and not flags & ACK:
                connection.send(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY:
                break
            if stream not in waiting:
                continue
            if kind == DATA and payload:
                connection.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
                waiting[stream][1] += len(payload)
            if kind == HEADERS and payload[:1] != b"\x88":
                self.end(waiting, stream, f"answer {payload!r}")
            elif kind == RST_STREAM:
                self.end(waiting, stream, f"reset {payload!r}")
            elif kind in (HEADERS, DATA) and flags & END_STREAM:
                whole = waiting[stream][1] == 128
                self.end(waiting, stream, None if whole else f"{waiting[stream][1]} bytes")
        ended.set()
        for stream in list(waiting):
            self.end(waiting, stream, "connection lost")

    def end(self, waiting, stream, error):
        done, _ = waiting.pop(stream)
        if error:
            self.errors.append(error)
        if not done.done():
            done.set_result(error)

    async def stream(self, connection, ids, waiting, ended):
        while not ended.is_set():
            stream, started = next(ids), time.monotonic()
            done = asyncio.get_running_loop().create_future()
            waiting[stream] = [done, 0]
            connection.send(get(stream, b"/small"))
            try:
                async with asyncio.timeout(10):
                    await done
            except TimeoutError:
                self.errors.append("hung")
                return
            self.requests += 1
            self.took.append(time.monotonic() - started)
            await asyncio.sleep(PAUSE)

    def p99_ms(self):
        """Since it was asked last."""
        took, self.took = sorted(self.took), []
        return took[len(took) * 99 // 100] * 1e3 if took else 0.0


# ---- faults; each is done again and again ----
# By asyncio.timeout, since asyncio.wait_for of Python 3.11 forgets a cancellation that comes together with the result: the fault would
# go on after the end.

async def cancel(port):
    """Requests that are cancelled at some point of their answers, fewer at a time than counts as an attack."""
    connection = await Connection.open(port)
    for first in range(1, 400, 40):
        streams = range(first, first + 40, 2)
        connection.send(*(get(stream, b"/large") for stream in streams))
        await asyncio.sleep(random.uniform(0, 0.1))
        connection.send(*(frame(RST_STREAM, 0, stream, CANCEL) for stream in streams))
    connection.kill()


async def attack(port):
    """Requests that are cancelled at once, until the proxy has had enough."""
    connection = await Connection.open(port)
    connection.send(*(get(stream, b"/small") + frame(RST_STREAM, 0, stream, CANCEL) for stream in range(1, 4000, 2)))
    async with asyncio.timeout(10):
        await connection.read_to_end()


async def vanish(port):
    """A client that is killed in the middle of its answers."""
    connection = await Connection.open(port, window=1 << 20)
    connection.send(*(get(stream, b"/large") for stream in range(1, 20, 2)))
    await asyncio.sleep(random.uniform(0, 0.2))
    connection.kill()


async def stall(port):
    """A client that reads a little of its answers now and then, and then hangs up."""
    connection = await Connection.open(port, window=0)
    streams = range(1, 100, 2)
    connection.send(*(get(stream, b"/large") for stream in streams))
    for _ in range(10):
        await asyncio.sleep(0.5)
        connection.send(*(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 1000)) for stream in streams))
    connection.writer.close()


async def stutter(port):
    """Half a preface, and then nothing for a while."""
    connection = await Connection.silent(port)
    connection.send(PREFACE[:12])
    await asyncio.sleep(random.uniform(0, 3))
    connection.writer.close()


async def flood(port):
    """Many PINGs at once."""
    connection = await Connection.open(port)
    connection.send(frame(PING, 0, 0, bytes(8)) * 20_000)
    try:
        async with asyncio.timeout(2):
            await connection.read_to_end()
    except TimeoutError:
        connection.writer.close()


async def again(fault, port, pause):
    while True:
        try:
            await fault(port)
        except OSError:
            pass
        await asyncio.sleep(random.uniform(0, 2 * pause))


# ---- processes ----

async def ended(process):
    if process.returncode is None:
        process.terminate()
        await process.wait()


async def load(port, path, clients, *options):
    """h2load, over and over."""
    while True:
        command = ["h2load", "-c", str(clients), "-m", "8", "-D", "3", *options, f"http://127.0.0.1:{port}{path}"]
        quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
        process = await asyncio.create_subprocess_exec(*command, **quiet)
        try:
            await process.wait()
        finally:
            await ended(process)


async def restart(port, docs, counted):
    """An endpoint that is there for a while, and not for another."""
    while True:
        command = ["nghttpd", "--no-tls", "--address=127.0.0.1", f"--htdocs={docs}", str(port)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            await asyncio.sleep(random.uniform(1, 4))
        finally:
            await ended(process)
        counted.append(port)
        await asyncio.sleep(random.uniform(0, 1))


# ---- what the proxy holds ----

def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def total(found, name, labels=""):
    return int(sum(value for key, value in found.items() if key.startswith(name + "{") and labels in key))


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))


async def sample(args, started):
    found = await asyncio.to_thread(metrics, args.admin)
    return {
        "time": time.monotonic() - started,
        "rss": resident(args.pid),
        "sockets": len(os.listdir(f"/proc/{args.pid}/fd")),
        "threads": len(os.listdir(f"/proc/{args.pid}/task")),
        "clients": total(found, "tcp_open_connections", 'peer="src"'),
        "in_flight": total(found, "http_in_flight"),
    }


def slope(samples, key):
    """Least squares, in units a second, and its standard error."""
    times, values = [s["time"] for s in samples], [s[key] for s in samples]
    mean_time, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - mean_time) ** 2 for t in times)
    if not spread or len(samples) < 3:
        return 0.0, 0.0
    rate = sum((t - mean_time) * (v - mean) for t, v in zip(times, values)) / spread
    rest = sum((v - mean - rate * (t - mean_time)) ** 2 for t, v in zip(times, values))
    return rate, (rest / (len(samples) - 2) / spread) ** 0.5


async def main(args):
    started, samples, restarts, victim = time.monotonic(), [], [], Victim()
    before = await sample(args, started)
    tasks = [
        load(args.inbound, "/small", 4, "--rps=100"),
        load(args.inbound, "/large", 2, "--rps=10"),
        load(args.inbound, "/small", 2, "--rps=20", "-d", os.path.join(args.docs, "large")),
        load(args.outbound, "/small", 2, "--rps=100"),
        restart(args.restarting, args.docs, restarts),
        again(cancel, args.inbound, 0.5),
        again(cancel, args.outbound, 0.5),
        again(attack, args.inbound, 2),
        again(vanish, args.inbound, 0.2),
        again(vanish, args.outbound, 0.2),
        *(again(stall, args.inbound, 1) for _ in range(4)),
        *(again(stutter, args.inbound, 0.5) for _ in range(4)),
        again(flood, args.inbound, 2),
    ]
    tasks = [asyncio.create_task(task) for task in tasks]
    suffering = asyncio.create_task(victim.run(args.inbound))

    print("   time  RSS MiB  sockets  threads  clients  in flight  restarts  victim: requests  P99 ms  errors")
    step = max(1.0, args.seconds / 30)
    while time.monotonic() - started < args.seconds:
        await asyncio.sleep(step)
        now = await sample(args, started)
        samples.append(now)
        print(
            f"{now['time']:6.0f}s  {now['rss'] / 2**20:7.1f}  {now['sockets']:7}  {now['threads']:7}  {now['clients']:7}"
            f"  {now['in_flight']:9}  {len(restarts):8}  {victim.requests:16}  {victim.p99_ms():6.1f}  {len(victim.errors):6}",
            flush=True,
        )
        broken = [task for task in [*tasks, suffering] if task.done()]
        if broken:
            await broken[0]

    for task in [*tasks, suffering]:
        task.cancel()
    await asyncio.gather(*tasks, suffering, return_exceptions=True)
    for connection in Connection.every:
        connection.writer.transport.abort()
    after = await settled(args, started)

    # The first third is for buffers to grow to what the load needs.
    steady = samples[len(samples) // 3 :]
    over = steady[-1]["time"] - steady[0]["time"]
    growth, error = (over * value for value in slope(steady, "rss"))
    sockets, _ = (over * value for value in slope(steady, "sockets"))
    print(f"after: RSS {after['rss'] / 2**20:.1f} MiB, {after['sockets']} sockets, {after['clients']} clients, "
          f"{after['in_flight']} in flight")
    print(f"slope over the last {over:.0f} s: {growth / 2**20:+.2f} +- {error / 2**20:.2f} MiB, {sockets:+.1f} sockets")
    found = [
        (victim.errors, f"the victim saw {len(victim.errors)} errors, the first: {victim.errors[:1]}"),
        # The load comes in bursts of megabytes: a slope that their scatter explains is none.
        (growth > max(NO_SLOPE, 0.05 * steady[0]["rss"]) + 3 * error, "resident memory grows"),
        (after["clients"] > 0, "connections of clients are left"),
        (after["in_flight"] > 0, "requests are left"),
        (after["threads"] > before["threads"], "threads are left"),
    ]
    found = [text for is_so, text in found if is_so]
    print("no slope, no errors, nothing left" if not found else "\n".join(found))
    return 1 if found else 0


async def settled(args, started):
    """What is held once all clients are gone: they have until their connections notice."""
    for _ in range(60):
        after = await sample(args, started)
        if after["clients"] == 0 and after["in_flight"] == 0:
            break
        await asyncio.sleep(0.5)
    return after


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ["pid", "inbound", "outbound", "restarting", "admin"]:
        parser.add_argument(f"--{option}", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--docs", required=True)
    raise SystemExit(asyncio.run(main(parser.parse_args())))
