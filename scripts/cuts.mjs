// An endpoint whose responses do not end, and node's http2 client of it.
//
//     cuts.mjs serve                 # prints its port
//     cuts.mjs test PORT CAUSE PID   # PID: the proxy's process, which "shutdown" ends
import http2 from "node:http2";

// "ab", as gRPC has it.
const MESSAGE = Buffer.from([0, 0, 0, 0, 2, 0x61, 0x62]);

function serve() {
  const server = http2.createServer();
  server.on("stream", (stream, { ":path": path }) => {
    stream.on("error", () => {});
    if (path.startsWith("/cuts.Test/")) {
      stream.respond({ "content-type": "application/grpc" });
      stream.write(MESSAGE);
      if (path.endsWith("Half")) stream.write(MESSAGE.subarray(0, 6));
      return;
    }
    stream.respond();
    stream.write("part");
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

// How a response ends: the error's code, or "whole".
function fetch(port, started) {
  return new Promise((resolve) => {
    const session = http2.connect(`http://127.0.0.1:${port}`);
    session.on("error", () => {});
    const stream = session.request({ ":path": "/" });
    let error;
    stream.on("data", started);
    stream.on("error", (it) => (error = it));
    stream.on("close", () => {
      session.destroy();
      resolve(error ? error.code : "whole");
    });
  });
}

async function test(port, cause, pid) {
  const stop = () => cause === "shutdown" && process.kill(Number(pid), "SIGTERM");
  const seen = await fetch(port, stop);
  const ok = seen === "ERR_HTTP2_STREAM_ERROR";
  console.log(ok ? "ok    " : "FAILED", "node", cause, seen);
  process.exit(ok ? 0 : 1);
}

const [command, ...rest] = process.argv.slice(2);
({ serve, test })[command](...rest);
