// The last hop of a chain, and node's http2 client of one.
//
//     chains.mjs serve JOURNAL HTTP2_PORT HTTP1_PORT [PREFIX]   # PREFIX: of tokens whose requests are held no more
//     chains.mjs request PORT    # reads {requests} from a line of stdin; the next line cancels the ones that may be
import { createHash } from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import readline from "node:readline";

// As in chains.py. A piece that is missing, repeated or another request's changes the checksum.
function pattern(token, size) {
  let lines = "";
  for (let n = 0; lines.length < size; n++) lines += `${token} ${n}\n`;
  return lines.slice(0, size);
}

// Paths are /KIND/TOKEN, and of gRPC /chains.KIND/TOKEN, whose response is the request's body or, for `post`, its checksum. A
// `slow` response stops in its middle, a `wait` one before its head, for ever, but for PREFIX.
function answer(journal, again, req, res) {
  const url = new URL(req.url, "http://chain");
  const [, service, token] = url.pathname.split("/");
  let kind = service.split(".").pop();
  if (again && token.startsWith(again) && ["slow", "wait"].includes(kind)) kind = "get";
  const grpc = req.headers["content-type"]?.startsWith("application/grpc");
  const echo = grpc && !["wait", "post", "upload"].includes(kind);
  const size = Number(url.searchParams.get("size"));
  const record = (event, more) => fs.writeSync(journal, `${JSON.stringify({ token, event, ...more })}\n`);
  record("head", { method: req.method });

  res.setHeader("x-token", token);
  if (grpc) {
    res.setHeader("content-type", "application/grpc");
    if (kind !== "wait") res.flushHeaders();
  } else if (url.searchParams.has("length")) res.setHeader("content-length", size);

  const hash = createHash("sha256");
  let bytes = 0;
  req.on("data", (chunk) => {
    hash.update(chunk);
    bytes += chunk.length;
    if (echo) res.write(chunk);
  });
  req.on("end", () => {
    // A stream that is reset ends for its reader as well.
    if (req.stream ? req.stream.aborted : !req.complete) return;
    const sum = hash.digest("hex");
    record("end", { bytes, sum });
    if (kind === "wait" || kind === "upload") return;
    if (kind === "slow") return grpc || res.write(pattern(token, size).slice(0, size / 2));
    if (!grpc) return res.end(pattern(token, size));
    if (kind === "post") res.write(Buffer.concat([Buffer.from([0, 0, 0, 0, sum.length]), Buffer.from(sum)]));
    res.addTrailers({ "grpc-status": "0" });
    res.end();
  });
  res.on("close", () => res.writableEnded || record("cancel"));
  for (const side of [req, res]) side.on("error", () => {});
}

function serve(path, http2Port, http1Port, again) {
  const handler = answer.bind(null, fs.openSync(path, "a"), again);
  const server = http.createServer(handler);
  server.listen(Number(http1Port), "127.0.0.1", () => http2.createServer(handler).listen(Number(http2Port), "127.0.0.1"));
}

function fetch(session, { token, path, method, headers, body, cancels, half }) {
  // close() of node 20 ends the request with END_STREAM before it resets the stream, unless trailers are still to come.
  const options = { endStream: !body, waitForTrailers: half };
  const stream = session.request({ ":path": path, ":method": method, ...headers }, options);
  stream.on("wantTrailers", () => half || stream.sendTrailers({}));
  const hash = createHash("sha256");
  const seen = { token, bytes: 0 };
  const grpcStatus = (fields) => (seen.grpcStatus = fields["grpc-status"] ?? seen.grpcStatus);
  stream.on("response", (fields) => {
    seen.status = fields[":status"];
    seen.echo = fields["x-token"];
    grpcStatus(fields);
  });
  stream.on("trailers", grpcStatus);
  stream.on("data", (chunk) => {
    hash.update(chunk);
    seen.bytes += chunk.length;
  });
  stream.on("error", (error) => (seen.error = `${error.code} ${error.message}`));
  const closed = new Promise((done) => stream.on("close", done));
  closed.then(() => console.log(JSON.stringify({ ...seen, sum: hash.digest("hex") })));
  const content = body && fs.readFileSync(body);
  if (half) stream.write(content.subarray(0, content.length / 2));
  else if (body) stream.end(content);
  return { closed, cancel: () => cancels && stream.close(http2.constants.NGHTTP2_CANCEL) };
}

async function request(port) {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const { requests } = JSON.parse((await lines.next()).value);
  // Two connections, so that both workers have one.
  const sessions = [0, 1].map(() => http2.connect(`http://127.0.0.1:${port}`));
  for (const session of sessions) session.on("error", () => {});
  const streams = requests.map((it, n) => fetch(sessions[n % 2], it));
  lines.next().then(() => streams.forEach((stream) => stream.cancel()));
  await Promise.all(streams.map((stream) => stream.closed));
  process.exit(0);
}

const [command, ...rest] = process.argv.slice(2);
({ serve, request })[command](...rest);
