"""A back end, HTTP/1.1 or HTTP/2 as it is spoken to, whose page tries it out and tells it what came of that.

    browser.py http1|http2 ADMIN_PORT

Prints its port, then the page's verdict, a line for each case, and last "end". The proxy in front of it should speak the
version of HTTP that is named, and has its admin server at ADMIN_PORT.
"""

import asyncio
import base64
import collections
import hashlib
import json
import pathlib
import random
import socket
import struct
import sys
import urllib.request
import zlib

import hypercorn.asyncio
import hypercorn.config

PAGE = pathlib.Path(__file__).with_suffix(".html")
COOKIES = [(b"set-cookie", b"first=1"), (b"set-cookie", b"second=2")]
TAG = b'"tag"'
TYPES = {"js": b"text/javascript", "css": b"text/css", "png": b"image/png", "bin": b"application/octet-stream"}

protocol, admin = sys.argv[1:]
requests = collections.Counter()
not_modified = 0
cancelled = asyncio.Event()


# ---- what the page loads ----

def script(number, size, noise):
    text = f"loaded.add({number}); // "
    return {}, (text + noise.randbytes(size).hex()).encode()


def style(number, size, noise):
    text = f":root {{ --loaded-{number}: yes; }} /* {noise.randbytes(size).hex()} */"
    return {}, text.encode()


def image(number, size, noise):
    """Noise, and the digest of what it is on a canvas."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = [noise.randbytes(3 * size) for _ in range(size)]
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    pixels = hashlib.sha256()
    for row in rows:
        for at in range(0, len(row), 3):
            pixels.update(row[at:at + 3] + b"\xff")
    return {"pixels": pixels.hexdigest()}, png


def binary(_number, size, noise):
    return {}, noise.randbytes(size)


def resources():
    """A name, what the page knows of it, and the body, for each of 49; the upload is the 50th."""
    plan = [("js", script, [0, 100, 1000, 8000, 16 << 10, 32 << 10, 64 << 10, 100, 100, 100, 100, 512 << 10])]
    plan += [("css", style, [0, 100, 1000, 8000, 16 << 10, 32 << 10, 64 << 10, 100, 100, 100, 100, 256 << 10])]
    plan += [("png", image, [1, 2, 3, 5, 8, 16, 32, 64, 100, 128, 200, 256])]
    plan += [("bin", binary, [0, 1, 100, 16383, 16384, 16385, 65535, 65536, 65537, 100, 1 << 20, 1 << 20, 4 << 20])]
    noise = random.Random(1)
    number = 0
    for kind, make, sizes in plan:
        for size in sizes:
            more, body = make(number, size, noise)
            integrity = "sha256-" + base64.b64encode(hashlib.sha256(body).digest()).decode()
            known = {"number": number, "kind": kind, "size": len(body), "integrity": integrity, **more}
            yield f"/{number}.{kind}", known, body
            number += 1


RESOURCES = {name: (known, body) for name, known, body in resources()}


def page():
    known = {name: known for name, (known, _) in RESOURCES.items()}
    constants = f"const protocol = {json.dumps(protocol)}, resources = {json.dumps(known)};"
    return PAGE.read_text().replace("/* constants */", constants).encode()


# ---- the server ----

async def app(scope, receive, send):
    if scope["type"] == "http":
        requests[scope["http_version"]] += 1
        await answer(scope, receive, send)
    elif scope["type"] == "websocket":
        await echo(scope, receive, send)


async def answer(scope, receive, send):
    global not_modified
    path, fields = scope["path"], scope["headers"]

    async def respond(body, kind=b"text/plain", more=(), status=200):
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    if path in RESOURCES:
        known, body = RESOURCES[path]
        await respond(body, TYPES[known["kind"]])
    elif path == "/":
        await respond(page(), b"text/html; charset=utf-8", COOKIES)
    elif path == "/digest":
        await respond(hashlib.sha256(await read(receive)).hexdigest().encode())
    elif path == "/cookies":
        # HTTP/2 may have a field for each.
        await respond(b"; ".join(value for name, value in fields if name == b"cookie"))
    elif path == "/tagged":
        tagged = [(b"etag", TAG), (b"cache-control", b"no-cache")]
        if (b"if-none-match", TAG) in fields:
            not_modified += 1
            await send({"type": "http.response.start", "status": 304, "headers": tagged})
            await send({"type": "http.response.body"})
        else:
            await respond(b"tagged", more=tagged)
    elif path == "/endless":
        await endless(receive, send)
    elif path == "/cancelled":
        await asyncio.wait_for(cancelled.wait(), 20)
        await respond(b"yes")
    elif path == "/state":
        connections = await asyncio.to_thread(client_connections)
        state = {"requests": requests, "not_modified": not_modified, "connections": connections}
        await respond(json.dumps(state).encode(), b"application/json")
    elif path == "/verdict":
        verdict = await read(receive)
        await respond(b"")
        print(verdict.decode(), "end", sep="\n", flush=True)
    else:
        await respond(b"", status=404)


async def read(receive):
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            return body


async def endless(receive, send):
    async def disconnect():
        while (await receive())["type"] != "http.disconnect":
            pass
        cancelled.set()

    gone = asyncio.create_task(disconnect())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        await send({"type": "http.response.body", "body": bytes(1024), "more_body": True})
        await asyncio.sleep(0)


async def echo(scope, receive, send):
    """Says which version of HTTP it came by, then sends back what it gets; "close CODE" closes."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": scope["http_version"]})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        text = event.get("text")
        if text and text.startswith("close "):
            await send({"type": "websocket.close", "code": int(text.split()[1])})
        else:
            await send({"type": "websocket.send", "text": text, "bytes": event.get("bytes")})


def client_connections():
    """How many connections the proxy has taken."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as metrics:
        for line in metrics.read().decode().splitlines():
            if line.startswith("tcp_open_total{") and 'peer="src"' in line:
                return int(line.split()[-1])
    raise LookupError("no tcp_open_total")


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 120
    config.loglevel = "WARNING"
    # Its own way to end would wait for connections.
    asyncio.run(hypercorn.asyncio.serve(app, config, shutdown_trigger=asyncio.Event().wait))


main()
