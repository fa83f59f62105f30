// Sends requests by node, which opens connections anew as it has to: over HTTP/2 on eight connections with eight requests at a
// time, and over HTTP/1.1 on a connection for each. Arguments: port, number of requests over HTTP/2, a folder, and `one` or `each`,
// for one download that outlasts all processes but the first, or one from each process. The file `begun` is made in the folder with
// the first download, and requests go on until there is the file `done`.
import fs from "node:fs";
import http from "node:http";
import http2 from "node:http2";

const [port, wanted, folder, downloads] = [process.argv[2], Number(process.argv[3]), process.argv[4], process.argv[5]];
const REFUSED_STREAM = http2.constants.NGHTTP2_REFUSED_STREAM;
const path = "/small";
const size = 128;
const longSize = 16 << 20;
const counts = { http2: 0, refused: 0, http1: 0, connections: 0, downloads: 0 };
const failures = new Map();

const fail = (reason) => failures.set(reason, (failures.get(reason) ?? 0) + 1);
const check = (status, length) => {
  if (status !== 200 || length !== size) fail(`status ${status} with ${length} bytes`);
};
const isOver = () => counts.http2 >= wanted && fs.existsSync(`${folder}/done`);

function request(session) {
  return new Promise((resolve) => {
    const stream = session.request({ ":path": path });
    let status;
    let length = 0;
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.on("data", (chunk) => (length += chunk.length));
    stream.on("error", (error) => {
      // Node says that there was GOAWAY some turns of its loop after it has read it. A request that is made in between is not sent
      // (nghttp2's START_STREAM_NOT_ALLOWED), and fails as if the server had refused it (RFC 9113 section 8.7).
      if (stream.rstCode === REFUSED_STREAM && session.closed && status === undefined) counts.refused += 1;
      else fail(`HTTP/2: ${error.code} ${error.message}`);
    });
    stream.on("close", () => {
      if (stream.rstCode === 0) {
        check(status, length);
        counts.http2 += 1;
      }
      resolve();
    });
  });
}

async function overHttp2() {
  while (!isOver()) {
    const session = http2.connect(`http://127.0.0.1:${port}`);
    session.on("error", (error) => fail(`connection of HTTP/2: ${error.code} ${error.message}`));
    counts.connections += 1;
    const some = async () => {
      // GOAWAY closes a session for new requests, while open ones finish.
      while (!session.closed && !session.destroyed && !isOver()) await request(session);
    };
    await Promise.all(Array.from({ length: 8 }, some));
    if (!session.destroyed) session.close();
  }
}

function overHttp1() {
  return new Promise((resolve) => {
    const req = http.get({ port, path, agent: false }, (rsp) => {
      let length = 0;
      rsp.on("data", (chunk) => (length += chunk.length));
      rsp.on("error", (error) => fail(`HTTP/1.1 response: ${error.code}`));
      rsp.on("close", () => {
        check(rsp.statusCode, length);
        counts.http1 += 1;
        resolve();
      });
    });
    req.on("error", (error) => {
      fail(`HTTP/1.1: ${error.code}`);
      resolve();
    });
  });
}

async function connectOften() {
  while (!isOver()) await overHttp1();
}

// Most of a response is read after the upgrades, from the process that it began on.
async function downloadOverAll() {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  const stream = session.request({ ":path": "/long" });
  let length = 0;
  const ended = new Promise((resolve) => {
    stream.on("error", (error) => fail(`download: ${error.code} ${error.message}`));
    stream.on("close", resolve);
  });
  await new Promise((resolve) => stream.on("response", resolve));
  fs.writeFileSync(`${folder}/begun`, "");
  while (!isOver()) {
    // Slowly: a stream of which nothing is read for long is reset.
    await new Promise((resolve) => setTimeout(resolve, 500));
    length += stream.read()?.length ?? 0;
  }
  if (!session.closed) fail("download: its connection got no GOAWAY");
  stream.on("data", (chunk) => (length += chunk.length));
  await ended;
  if (length !== longSize) fail(`download of ${length} bytes`);
  session.close();
}

// The process drains while most of the response is read. The next process starts after that.
async function downloadFromEach() {
  while (!isOver()) {
    const session = http2.connect(`http://127.0.0.1:${port}`);
    session.on("error", (error) => fail(`download: ${error.code} ${error.message}`));
    const stream = session.request({ ":path": "/long" });
    let length = 0;
    let status;
    stream.on("response", (headers) => {
      status = headers[":status"];
      fs.writeFileSync(`${folder}/begun`, "");
    });
    stream.on("error", (error) => {
      if (stream.rstCode !== REFUSED_STREAM || status !== undefined) fail(`download: ${error.code} ${error.message}`);
    });
    const ended = new Promise((resolve) => stream.on("close", resolve));
    while (!session.closed && !isOver()) await new Promise((resolve) => setTimeout(resolve, 10));
    const isDrained = session.closed;
    stream.on("data", (chunk) => (length += chunk.length));
    await ended;
    if (status !== undefined && length !== longSize) fail(`download of ${length} bytes`);
    if (isDrained && length === longSize) counts.downloads += 1;
    session.close();
  }
}

const download = downloads === "each" ? downloadFromEach : downloadOverAll;
await Promise.all([download(), ...Array.from({ length: 8 }, overHttp2), connectOften(), connectOften()]);
const failed = [...failures.values()].reduce((sum, count) => sum + count, 0);
console.log(`${counts.http2} requests over HTTP/2 on ${counts.connections} connections, ${counts.http1} over HTTP/1.1: ${failed} failed`);
console.log(`${counts.refused} requests were made after GOAWAY, and not sent`);
if (downloads === "each") console.log(`${counts.downloads} downloads ended on a process that drained`);
for (const [reason, count] of failures) console.log(`${count}: ${reason}`);
process.exitCode = failed === 0 ? 0 : 1;
