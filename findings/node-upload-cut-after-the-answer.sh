#!/usr/bin/env bash
# Node: an upload that is cut off after the answer is, to its reader, endless in HTTP/1.1 and whole in HTTP/2.
#
# The guess: a handler that reads a request's body is told by an error of the stream when the client goes away in the
# middle of it. Node does so while the server has not answered: ECONNRESET, or a premature close. That the server has
# said 200 and goes on to read, as servers that log or store what they are sent do, should make no difference.
#
# The behaviour, for 3 bytes of an announced 1,000 that are read with `pipeline`, the client gone after the answer:
# - `http`: the promise never settles. The request has no 'end', 'error', 'aborted' or 'close' event, and what the
#   pipeline holds (a file that it writes, say) is not given back. Without a timeout of its own, the handler waits.
# - `http2` with the compatibility API, the stream reset with CANCEL: the promise resolves. The bytes that came are
#   taken for the whole upload, `complete` is true and `aborted` is false. (That `complete` is true for an aborted
#   request is documented.)
#
# The versions: Node 20.20.2, both sides on loopback.
#
# The output seen:
#   http  before the answer: error ECONNRESET after 3 bytes, complete false, aborted true
#   http  after the answer: nothing within 2 s after 3 bytes, complete false, aborted false
#   http2 before the answer: error ERR_STREAM_PREMATURE_CLOSE after 3 bytes, complete true, aborted true
#   http2 after the answer: resolved after 3 bytes, complete true, aborted false
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo "node $(node --version)"

cat > "$dir/cut.mjs" <<'EOF'
import http from "node:http";
import http2 from "node:http2";
import net from "node:net";
import { once } from "node:events";
import { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

const cases = [
  [http, "before"],
  [http, "after"],
  [http2, "before"],
  [http2, "after"],
];
const expected = ["error", "nothing", "error", "resolved"];
let failed = false;
for (const [index, [library, when]] of cases.entries()) {
  let report;
  const reported = new Promise((resolve) => (report = resolve));
  const server = library.createServer(async (request, response) => {
    if (when === "after") response.end("taken");
    let bytes = 0;
    const count = new Writable({ write: (chunk, encoding, done) => ((bytes += chunk.length), done()) });
    const read = pipeline(request, count).then(
      () => "resolved",
      (error) => `error ${error.code}`,
    );
    const outcome = await Promise.race([read, sleep(2300, "nothing within 2 s")]);
    report([outcome, `${outcome} after ${bytes} bytes, complete ${request.complete}, aborted ${request.aborted}`]);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const cut = library === http ? await upload(server.address().port) : await uploadHttp2(server.address().port);
  await sleep(200);
  cut();
  const [outcome, line] = await reported;
  console.log(`${library === http ? "http " : "http2"} ${when} the answer: ${line}`);
  if (!outcome.startsWith(expected[index])) failed = true;
  server.close();
}
process.exit(failed ? 1 : 0);

async function upload(port) {
  const socket = net.connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.on("error", () => {}).resume();
  socket.write("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nabc");
  return () => socket.destroy();
}

// The frames are written by hand: Node's own client may send END_STREAM ahead of RST_STREAM.
async function uploadHttp2(port) {
  const frame = (type, flags, stream, payload) => {
    const head = Buffer.alloc(9);
    head.writeUIntBE(payload.length, 0, 3);
    head.writeUInt8(type, 3);
    head.writeUInt8(flags, 4);
    head.writeUInt32BE(stream, 5);
    return Buffer.concat([head, Buffer.from(payload, "latin1")]);
  };
  const socket = net.connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.on("error", () => {}).resume();
  socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  socket.write(frame(4, 0, 0, "")); // SETTINGS
  socket.write(frame(1, 4, 1, "\x83\x86\x84\x41\x06a.test\x0f\x0d\x041000")); // HEADERS: POST, content-length 1000
  socket.write(frame(0, 0, 1, "abc")); // DATA
  return () => {
    socket.write(frame(3, 0, 1, "\0\0\0\x08")); // RST_STREAM: CANCEL
    setTimeout(() => socket.destroy(), 500);
  };
}
EOF
timeout 60 node "$dir/cut.mjs"
