"""Readers and endpoints that stop, beside others, with adaptive windows; scripts/windows starts this and says why."""

import argparse
import asyncio
import hashlib
import json
import pathlib
import struct
import subprocess
import time
import types
import urllib.request

from endpoints import Case, Proxy, Site
from ports import free_port
from soak import DATA, END_STREAM, WINDOW_UPDATE, Connection, frame, get

# A sixteenth of the limit is meant for readers that have stopped: with these, windows shrink as far as they do.
READERS, SIZE, LIMIT = 64, 4 << 20, 64 << 20
UPLOADS = 24
# Longer than the streams of a client that does not read need to be known for that.
SETTLED = 2
PATIENCE = 30

# Frames as large as the proxy takes: nghttp2, which nghttpd and node have, sends none above 16 KiB.
NGINX = """
daemon off; master_process off; pid {root}/pid; error_log {root}/log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  http2_chunk_size 64k;
  server {{ listen 127.0.0.1:{port} http2; root {docs}; }}
}}"""
# GET: the file. POST of the file: reads nothing until there is a file `go`, and answers other bodies with 400.
NODE = """
const [docs] = process.argv.slice(1);
const http2 = require('http2'), fs = require('fs'), crypto = require('crypto');
const server = http2.createServer((req, res) => {
  if (req.method === 'GET') return fs.createReadStream(docs + req.url).pipe(res);
  const digest = crypto.createHash('sha256');
  const expected = crypto.createHash('sha256').update(fs.readFileSync(docs + '/file')).digest('hex');
  req.pause();
  const timer = setInterval(() => {
    if (!fs.existsSync(docs + '/go')) return;
    clearInterval(timer);
    req.on('data', data => digest.update(data)).on('end', () => {
      res.statusCode = digest.digest('hex') === expected ? 200 : 400;
      res.end();
    }).resume();
  }, 50);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""


def nghttpd(site, docs):
    port = free_port()
    return site.start_listening(["nghttpd", "--no-tls", "--address=127.0.0.1", f"--htdocs={docs}", str(port)], port)


def nginx(site, docs):
    port, root = free_port(), site.folder()
    (root / "nginx.conf").write_text(NGINX.format(root=root, port=port, docs=docs))
    return site.start_listening(["nginx", "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "log")], port)


def node(site, docs):
    return site.start_printing(["node", "-e", NODE, str(docs)])


def connections(proxy, side):
    with urllib.request.urlopen(f"http://127.0.0.1:{proxy.admin}/connections", timeout=10) as page:
        all = json.load(page)["connections"]
    return [connection for connection in all if connection["peer"] == side and connection["http2"]]


async def small_window(proxy, side):
    """Waits until a connection to that side grants its streams windows far below the full ones, and returns it."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for connection in await asyncio.to_thread(connections, proxy, side):
            if connection["http2"]["granted"]["stream"] <= 1 << 20:
                return connection
        await asyncio.sleep(0.1)
    raise SystemExit(f"no window toward {side} has shrunk")


async def rest(connection):
    """Grants window for all of a stream, and reads it to its end."""
    connection.send(*(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", SIZE)) for stream in (0, 1)))
    digest, ended = hashlib.sha256(), False
    while not ended:
        read = await asyncio.wait_for(connection.next(), PATIENCE)
        if read is None or read[0] == 3:
            raise SystemExit(f"a stopped reader's stream ended early: {read}")
        kind, flags, stream, payload = read
        if kind == DATA and stream == 1:
            digest.update(payload)
            ended = flags & END_STREAM
    return digest.hexdigest()


async def curl(port, *arguments):
    command = ["curl", "--silent", "--show-error", "--fail", "--http2-prior-knowledge", "--max-time", str(PATIENCE), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command[:-1], f"http://127.0.0.1:{port}{command[-1]}", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"curl failed: {process.returncode}")
    return out


def proxy_of(site, port):
    settings = {
        "OUTBOUND_CONNECT_HTTP2_ADAPTIVE_FLOW_CONTROL": "true",
        "OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL": "true",
        "OUTBOUND_MAX_BUFFERED_BYTES": str(LIMIT),
    }
    return Proxy(site, Case("windows", None, settings=settings), [port], 1)


async def downloads(site, server, docs, expected):
    proxy = proxy_of(site, server(site, docs))
    readers = [await Connection.open(proxy.port, window=0) for _ in range(READERS)]
    for reader in readers:
        reader.send(get(1, b"/file"))
    await small_window(proxy, "dst")
    for _ in range(3):
        beside = hashlib.sha256(await curl(proxy.port, "/file")).hexdigest()
        assert beside == expected, "a download beside stopped readers is not what was asked for"
    got = [await rest(reader) for reader in readers]
    assert got == [expected] * READERS, "a stopped reader got other bytes"
    for reader in readers:
        reader.writer.close()
    print(f"ok  {server.__name__}: {READERS} stopped readers, windows shrank, all bytes in order", flush=True)


async def uploads(site, docs, path, expected):
    proxy = proxy_of(site, node(site, docs))
    # All on one connection, which has large windows at first.
    command = ["h2load", "-n", str(UPLOADS), "-c", "1", "-m", str(UPLOADS), "-d", str(path)]
    uploading = site.start([*command, f"http://127.0.0.1:{proxy.port}/"], stdout=subprocess.PIPE)
    await small_window(proxy, "src")
    assert hashlib.sha256(await curl(proxy.port, "/file")).hexdigest() == expected, "a download beside stopped uploads"
    (docs / "go").touch()
    told, _ = await asyncio.to_thread(uploading.communicate, timeout=PATIENCE)
    assert f"status codes: {UPLOADS} 2xx".encode() in told, f"an upload is not what was sent: {told}"
    print(f"ok  h2load to node: {UPLOADS} uploads that nobody read, windows shrank, all bytes in order", flush=True)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    options = parser.parse_args()
    docs = options.work / "docs"
    docs.mkdir()
    content = b"".join(struct.pack(">Q", number) for number in range(SIZE // 8))
    (docs / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    options = types.SimpleNamespace(app=options.app, work=options.work, tls=False, cap=60)
    for server in (nghttpd, nginx, node):
        with Site(options) as site:
            await downloads(site, server, docs, expected)
    with Site(options) as site:
        await uploads(site, docs, docs / "file", expected)


if __name__ == "__main__":
    asyncio.run(main())
