#!/usr/bin/env bash
# node's http2 server: a response that is exactly as long as the window does not end until there is more window.
#
# The guess: the end of a response needs no window. RFC 9113 section 6.9.1 lets an empty DATA frame with END_STREAM be sent
# when none is left, and a server that has been given the whole body, and its length, can set END_STREAM on the last frame.
#
# The behaviour: node writes the data of a body in frames without END_STREAM and ends it by an empty one, even for
# `response.end(body)` with a content-length and for respondWithFile. nghttp2, below it, holds an empty frame back like any other
# while the stream's window is not above zero. So all bytes come at once, and the end only behind a WINDOW_UPDATE, of one
# byte, say. A client that grants window for the rest that content-length promises, which is nothing, waits for good. The same
# happens when SETTINGS make windows smaller by as much as is left.
#
# The versions: node 20.20.2 (nghttp2 1.61.0), and 26.10.0 (nghttp2 1.70.0) from the npm package `node`, in plaintext on
# loopback.
#
# The output seen, of either version, for a body of 60,000 bytes:
#   end with all bytes: window of 60000: 60000 bytes, no end in 2 s; it came behind WINDOW_UPDATE
#   end with all bytes: window of 60001: 60000 bytes, ended by an empty frame
#   a file by the server: window of 60000: 60000 bytes, no end in 2 s; it came behind WINDOW_UPDATE
#   a file by the server: window of 60001: 60000 bytes, ended by an empty frame
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund --prefix "$dir" node@26.10.0
head -c 60000 /dev/zero >file

cat >windows.mjs <<'JS'
import http2 from "node:http2";
import net from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

const SIZE = 60_000;
const server = http2.createServer((request, response) => {
  if (request.url === "/file") return response.stream.respondWithFile("file");
  response.setHeader("content-length", SIZE);
  response.end(Buffer.alloc(SIZE));
});
server.listen(0, "127.0.0.1");
await once(server, "listening");

function frame(type, flags, stream, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const number = (value) => Buffer.from([value >>> 24, value >>> 16, value >>> 8, value].map((byte) => byte & 255));
const field = (name, value) =>
  Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value)]);

// One request whose stream has this window; the connection's is far larger.
async function ask(path, window) {
  const socket = net.connect(server.address().port, "127.0.0.1");
  let received = Buffer.alloc(0);
  const seen = { bytes: 0, last: -1, ended: false };
  socket.on("data", (data) => {
    received = Buffer.concat([received, data]);
    while (received.length >= 9 && received.length >= 9 + received.readUIntBE(0, 3)) {
      const length = received.readUIntBE(0, 3);
      const [type, flags] = [received[3], received[4]];
      if (type === 0) {
        seen.bytes += length;
        seen.last = length;
        seen.ended = (flags & 1) === 1;
      }
      received = received.subarray(9 + length);
    }
  });
  const fields = [field(":path", path), field(":authority", "localhost")];
  socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  socket.write(frame(4, 0, 0, Buffer.concat([Buffer.from([0, 4]), number(window)])));
  socket.write(frame(8, 0, 0, number(1 << 20)));
  socket.write(frame(4, 1, 0));
  // :method GET and :scheme http are in HPACK's static table.
  socket.write(frame(1, 5, 1, Buffer.concat([Buffer.from([0x82, 0x86]), ...fields])));
  await sleep(2_000);
  const atOnce = seen.ended;
  socket.write(frame(8, 0, 1, number(1)));
  await sleep(500);
  socket.destroy();
  const end = atOnce ? (seen.last === 0 ? "ended by an empty frame" : "ended") : "no end in 2 s";
  const later = !atOnce && seen.ended ? "; it came behind WINDOW_UPDATE" : "";
  return `window of ${window}: ${seen.bytes} bytes, ${end}${later}`;
}

console.log(`node ${process.versions.node}, nghttp2 ${process.versions.nghttp2}`);
let same = true;
for (const [name, path] of [["end with all bytes", "/end"], ["a file by the server", "/file"]]) {
  for (const [window, expected] of [
    [SIZE, "no end in 2 s; it came behind WINDOW_UPDATE"],
    [SIZE + 1, "ended by an empty frame"],
  ]) {
    const found = await ask(path, window);
    console.log(`${name}: ${found}`);
    same &&= found === `window of ${window}: ${SIZE} bytes, ${expected}`;
  }
}
process.exit(same ? 0 : 1);
JS

timeout 60 node windows.mjs
timeout 60 node_modules/node/bin/node windows.mjs
