#!/usr/bin/env bash
# grpcio and hyper: no call by a Unix domain socket gets through, until the client is told to call itself otherwise.
#
# The guess: `unix:/path` is how gRPC's name syntax writes a socket, so a client of gRPC's C library talks to a server in Rust by
# it as it does by TCP. It does not matter what `:authority` is there, since the socket is the only host.
#
# The behaviour: the C library sends the path as the authority, percent-encoded (`%2Ftmp%2F...`). That is a registered name by
# RFC 3986, section 3.2.2, but the `http` crate's `Authority` takes `%` before an `@` only, and h2 resets a stream whose
# pseudo-header field it cannot parse, with PROTOCOL_ERROR. The service is not asked, and the client reports INTERNAL. The
# channel's option `grpc.default_authority` mends it. grpcio's own server takes both.
#
# The versions: grpcio 1.76.0; hyper 1.12.0, hyper-util 0.1.21, and what they resolve to of h2 0.4 and http 1. The answer of the
# servers is NOT_FOUND.
#
# The output seen:
#   hyper, by default: INTERNAL: RST_STREAM with error code 1
#   hyper, default_authority localhost: NOT_FOUND: localhost was asked
#   grpcio, by default: NOT_FOUND: no such thing
#   grpcio, default_authority localhost: NOT_FOUND: no such thing
set -euo pipefail

dir=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$dir"
}
trap finish EXIT
mkdir "$dir/src"

cat > "$dir/Cargo.toml" <<'EOF'
[package]
name = "by-socket"
version = "0.0.0"
edition = "2021"

[dependencies]
hyper = { version = "=1.12.0", features = ["http2", "server"] }
hyper-util = { version = "=0.1.21", features = ["tokio"] }
tokio = { version = "=1.54.1", features = ["macros", "net", "rt"] }

[profile.dev]
debug = false
EOF

cat > "$dir/src/main.rs" <<'EOF'
use hyper::{body::Incoming, server::conn::http2, service::service_fn, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tokio::net::UnixListener;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = UnixListener::bind(std::env::args().nth(1).unwrap()).unwrap();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let serve = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service_fn(answer));
        tokio::spawn(serve);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let authority = request.uri().authority().map_or("nobody", |authority| authority.as_str());
    let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
    Ok(response.header("grpc-message", format!("{authority} was asked")).body(String::new()).unwrap())
}
EOF

cat > "$dir/call.py" <<'EOF'
import sys
from concurrent import futures

import grpc

hyper, folder = sys.argv[1:]


def not_found(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(not_found)


own = f"unix:{folder}/grpcio.sock"
server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
server.add_generic_rpc_handlers((Handler(),))
assert server.add_insecure_port(own)
server.start()

found = {}
for name, target in [("hyper", f"unix:{hyper}"), ("grpcio", own)]:
    for how, options in [("by default", []), ("default_authority localhost", [("grpc.default_authority", "localhost")])]:
        with grpc.insecure_channel(target, options=options) as channel:
            try:
                channel.unary_unary("/a.Service/Call")(b"", timeout=30, wait_for_ready=True)
            except grpc.RpcError as error:
                found[name, how] = error.code().name
                details = error.details().removeprefix("Received ").rstrip(".")
                print(f"{name}, {how}: {error.code().name}: {details}")
server.stop(None)
assert list(found.values()) == ["INTERNAL", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"], found
EOF

python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.76.0
cargo build --quiet --manifest-path "$dir/Cargo.toml" --target-dir "$dir/target"
"$dir/target/debug/by-socket" "$dir/hyper.sock" &
server=$!
"$dir/venv/bin/python" "$dir/call.py" "$dir/hyper.sock" "$dir"
echo "as described"
