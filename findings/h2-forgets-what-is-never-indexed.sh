#!/usr/bin/env bash
# The h2 crate: a field that its sender has marked as never to be indexed is, once received, a field as any other.
#
# The guess: `HeaderValue::is_sensitive` says of a received field whether it came as a literal that is never indexed, as
# `set_sensitive` has it sent so. A proxy that copies fields from a request to the next then keeps to RFC 7541, section 6.2.3:
# an intermediary must use the same representation for it, and so must not put the value into a table.
#
# The behaviour: the decoder takes the literal and drops the mark; `is_sensitive` is false. If it is sent on, nothing keeps it out of the
# table of the next connection. Only what h2's encoder leaves out of the table by name (`authorization`, `cookie`,
# `set-cookie` and six more) stays out. Node's http2 tells its receiver which fields were marked.
#
# The versions: h2 0.4.20 with http 1.5.0; Node 20.20.2 as the client of both, and as the other server. The two fields of the
# request are `x-secret`, which is marked, and `x-plain`, which is not.
#
# The output seen:
#   node: marked: x-secret
#   h2: marked: none
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
name = "marks"
version = "0.0.0"
edition = "2021"

[dependencies]
h2 = "=0.4.20"
http = "=1.5.0"
tokio = { version = "=1.54.1", features = ["macros", "net", "rt"] }

[profile.dev]
debug = false
EOF

cat > "$dir/src/main.rs" <<'EOF'
use http::Response;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let (socket, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let fields = request.headers().iter().filter(|(_, value)| value.is_sensitive());
        let marked: Vec<_> = fields.map(|(name, _)| name.as_str()).collect();
        let marked = if marked.is_empty() { "none".to_owned() } else { marked.join(" ") };
        respond.send_response(Response::builder().header("x-marked", marked).body(()).unwrap(), true).unwrap();
    }
}
EOF

cat > "$dir/ask.mjs" <<'EOF'
import http2 from "node:http2";
import { once } from "node:events";

const ask = async (port) => {
  const client = http2.connect(`http://127.0.0.1:${port}`);
  const request = client.request({ "x-secret": "s", "x-plain": "p", [http2.sensitiveHeaders]: ["x-secret"] });
  const [head] = await once(request, "response");
  client.close();
  return head["x-marked"];
};
const own = http2.createServer((request, response) => {
  response.setHeader("x-marked", request.headers[http2.sensitiveHeaders].join(" ") || "none");
  response.end();
});
await once(own.listen(0, "127.0.0.1"), "listening");
const found = { node: await ask(own.address().port), h2: await ask(process.argv[2]) };
own.close();
for (const [server, marked] of Object.entries(found)) console.log(`${server}: marked: ${marked}`);
if (found.node !== "x-secret" || found.h2 !== "none") throw new Error("not as described");
EOF

cargo build --quiet --manifest-path "$dir/Cargo.toml" --target-dir "$dir/target"
"$dir/target/debug/marks" > "$dir/port" &
server=$!
for _ in $(seq 100); do [ -s "$dir/port" ] && break; sleep 0.1; done
node "$dir/ask.mjs" "$(cat "$dir/port")"
echo "as described"
