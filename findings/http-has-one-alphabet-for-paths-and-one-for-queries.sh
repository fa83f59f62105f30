#!/usr/bin/env bash
# The http crate, below hyper, and Node: a quotation mark is taken in a path and not in a query, a grave accent the other way round.
#
# The guess: a server either refuses all bytes that RFC 3986 has in neither a path nor a query (" ` < > { } | ^ and the backslash), or
# passes them, as other servers do. Path and query have the same alphabet there, but for the question mark, which a query may hold.
#
# The behaviour: http::Uri has a table for paths and another for queries. Both take { } | ^ and the backslash, and refuse < and >.
# The quotation mark is taken in a path alone, for clients that send JSON there, and the grave accent in a query alone. Node's http2
# and http clients send all of these as they are. Over HTTP/2 such a request is reset with PROTOCOL_ERROR before an application sees it,
# over HTTP/1.1 it is answered with 400: a search for "a b" with its quotation marks works as /search/"ab" and not as /search?q="ab".
#
# The versions: http 1.5.0, hyper 1.12.0 (hyper-util 0.1.21), Node 20.20.2, in plaintext on loopback.
#
# The output seen, by version of HTTP the bytes that are refused:
#   HTTP/1.1 path <>` query "<>
#   HTTP/2 path <>` query "<>
set -euo pipefail

dir=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$dir"
}
trap finish EXIT
mkdir "$dir/src"
echo "node $(node --version)"

cat > "$dir/Cargo.toml" <<'EOF'
[package]
name = "targets"
version = "0.0.0"
edition = "2021"

[dependencies]
http = "=1.5.0"
hyper = { version = "=1.12.0", features = ["http1", "http2", "server"] }
hyper-util = { version = "=0.1.21", features = ["http1", "http2", "server-auto", "tokio"] }
tokio = { version = "=1.54.1", features = ["macros", "net", "rt"] }

[profile.dev]
debug = false
EOF

cat > "$dir/src/main.rs" <<'EOF'
use hyper::{body::Incoming, service::service_fn, Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let greet = service_fn(|_: Request<Incoming>| async { Ok::<_, hyper::Error>(Response::new(String::new())) });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), greet).await;
        });
    }
}
EOF

cat > "$dir/client.mjs" <<'EOF'
import http from "node:http";
import http2 from "node:http2";

const port = process.argv[2];

function over1(path) {
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port, path, agent: false };
    http.get(options, (response) => resolve(response.resume().statusCode)).on("error", reject);
  });
}

const session = http2.connect(`http://127.0.0.1:${port}`);

function over2(path) {
  return new Promise((resolve) => {
    const stream = session.request({ ":path": path });
    stream.on("response", (head) => resolve(head[":status"]));
    stream.on("error", () => resolve(stream.rstCode === http2.constants.NGHTTP2_PROTOCOL_ERROR ? 400 : stream.rstCode));
    stream.resume();
  });
}

async function refused(ask, start) {
  let bytes = "";
  for (const byte of '"<>\\^`{|}') {
    const status = await ask(`${start}a${byte}b`);
    if (status === 400) bytes += byte;
    else if (status !== 200) throw new Error(`${start} ${byte}: ${status}`);
  }
  return bytes;
}

for (const [version, ask] of [["HTTP/1.1", over1], ["HTTP/2", over2]]) {
  console.log(`${version} path ${await refused(ask, "/")} query ${await refused(ask, "/?")}`);
}
session.close();
EOF

CARGO_TARGET_DIR="$dir/target" cargo build --quiet --jobs 1 --manifest-path "$dir/Cargo.toml"
"$dir/target/debug/targets" >"$dir/output" &
server=$!
for _ in {1..100}; do [ -s "$dir/output" ] && break; sleep 0.1; done
timeout 30 node "$dir/client.mjs" "$(head -n 1 "$dir/output")" | tee "$dir/seen"
diff - "$dir/seen" <<'EOF'
HTTP/1.1 path <>` query "<>
HTTP/2 path <>` query "<>
EOF
