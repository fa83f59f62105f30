#!/usr/bin/env bash
# undici: over HTTP/2, `fetch` resolves with the first bytes of a response that its server has given up.
#
# The guess: a response that ends without END_STREAM is not complete (RFC 9113, section 8.1), so `text()` rejects with
# "terminated", as it does over HTTP/1.1. With `allowH2` the same code is to behave the same.
#
# The behaviour: RST_STREAM with CANCEL or NO_ERROR in the middle of a body ends it without an error. `content-length`
# is not compared with what came: 3 bytes of 1,000 are the body. With INTERNAL_ERROR, and when the connection is lost,
# the promise rejects. So the server's choice of a code decides whether a client can tell.
#
# The versions: undici 7.30.2 (8 asks for a newer Node), Node 20.20.2, both sides on loopback, TLS. The server's frames
# are written by hand, and there is no END_STREAM among them.
#
# The output seen:
#   HTTP/2, CANCEL: resolved with 3 bytes
#   HTTP/2, INTERNAL_ERROR: rejected: terminated
#   HTTP/2, NO_ERROR: resolved with 3 bytes
#   HTTP/2, CANCEL, content-length 1000: resolved with 3 bytes
#   HTTP/2, INTERNAL_ERROR, content-length 1000: rejected: terminated
#   HTTP/2, NO_ERROR, content-length 1000: resolved with 3 bytes
#   HTTP/2, connection lost: rejected: terminated
#   HTTP/1.1, connection lost: rejected: terminated
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo "node $(node --version)"
cd "$dir"
echo '{"private": true}' >package.json
npm install --silent --no-audit --no-fund undici@7.30.2
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=localhost 2>openssl.log

cat > cut.mjs <<'EOF'
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import tls from "node:tls";
import { Agent, fetch } from "undici";

const lost = "connection lost";
const cases = [
  // name, error code of RST_STREAM, content-length, expected
  ["HTTP/2, CANCEL", 8, false, "resolved"],
  ["HTTP/2, INTERNAL_ERROR", 2, false, "rejected"],
  ["HTTP/2, NO_ERROR", 0, false, "resolved"],
  ["HTTP/2, CANCEL, content-length 1000", 8, true, "resolved"],
  ["HTTP/2, INTERNAL_ERROR, content-length 1000", 2, true, "rejected"],
  ["HTTP/2, NO_ERROR, content-length 1000", 0, true, "resolved"],
  ["HTTP/2, connection lost", lost, false, "rejected"],
  ["HTTP/1.1, connection lost", lost, false, "rejected"],
];
let current;

// The server writes frames by itself: Node's own may send END_STREAM ahead of RST_STREAM.
const frame = (type, flags, stream, payload) => {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
};
const options = { key: readFileSync("key.pem"), cert: readFileSync("cert.pem"), ALPNProtocols: ["h2", "http/1.1"] };
const server = tls.createServer(options, async (socket) => {
  const [, code, announce] = current;
  socket.on("error", () => {});
  if (socket.alpnProtocol === "h2") {
    socket.write(frame(4, 0, 0, Buffer.alloc(0))); // SETTINGS
    await request(socket);
    socket.write(frame(4, 1, 0, Buffer.alloc(0))); // SETTINGS, ACK
    const length = announce ? Buffer.from("\x0f\x0d\x041000", "latin1") : Buffer.alloc(0);
    socket.write(frame(1, 4, 1, Buffer.concat([Buffer.from([0x88]), length]))); // HEADERS: 200
    socket.write(frame(0, 0, 1, Buffer.from("abc"))); // DATA
  } else {
    await once(socket, "data");
    socket.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  }
  await sleep(300);
  if (code === lost) socket.destroy();
  else socket.write(frame(3, 0, 1, Buffer.from([0, 0, 0, code]))); // RST_STREAM
});
await once(server.listen(0, "127.0.0.1"), "listening");

// Resolves once HEADERS have come, which follow the preface of 24 bytes and some other frames.
function request(socket) {
  let data = Buffer.alloc(0);
  return new Promise((resolve) => {
    socket.on("data", (piece) => {
      data = Buffer.concat([data, piece]);
      for (let at = 24; at + 9 <= data.length; at += 9 + data.readUIntBE(at, 3)) if (data[at + 3] === 1) resolve();
    });
  });
}

let failed = false;
for (current of cases) {
  const [name, , , expected] = current;
  const dispatcher = new Agent({ allowH2: name.startsWith("HTTP/2"), connect: { rejectUnauthorized: false } });
  const get = async () => {
    const response = await fetch(`https://localhost:${server.address().port}/`, { dispatcher });
    return `resolved with ${(await response.text()).length} bytes`;
  };
  const read = get().catch((error) => `rejected: ${error.message}`);
  const outcome = await Promise.race([read, sleep(5000, "nothing within 5 s")]);
  console.log(`${name}: ${outcome}`);
  if (!outcome.startsWith(expected)) failed = true;
  await dispatcher.destroy();
}
process.exit(failed ? 1 : 0);
EOF
timeout 60 node cut.mjs
