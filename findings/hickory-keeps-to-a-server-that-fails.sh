#!/usr/bin/env bash
# hickory-resolver: the second name server is of no use when the first one fails, with SERVFAIL, REFUSED or by silence.
#
# The guess: with two name servers and the first out of order, the second's answer is used, as by libc. The
# documentation of `NameServerConfig::trust_negative_responses` says so too: on an error code other than NXDOMAIN the
# query goes to the other servers, whatever the setting is.
#
# The behaviour, one server at a time in the order given (`num_concurrent_reqs` 1, `UserProvidedOrder`): SERVFAIL and
# REFUSED are returned at once, without a look at the next server. Silence does lead to the next server, but the time
# for all servers together is that for one of them (`timeout`), so it is up. Either way the two retries (`attempts`)
# begin with the first server again. The second server gets no query at all.
# With the default options, two servers at a time, both are asked. What comes first counts, the error too: the second
# server's answer, 50 ms later here, is not waited for. Only silence is made up for.
#
# The versions: hickory-resolver 0.26.3 with tokio, name servers of Python 3.11.7 over UDP on loopback.
#
# The output seen (the healthy server says 127.0.0.9):
#   SERVFAIL, 1 at a time: error: DNS error: error response: Server Failure; the other server was asked: False
#   REFUSED, 1 at a time: error: DNS error: error response: Query Refused; the other server was asked: False
#   silence, 1 at a time: error: request timed out; the other server was asked: False
#   SERVFAIL, 2 at a time: error: DNS error: error response: Server Failure; the other server was asked: True
#   REFUSED, 2 at a time: error: DNS error: error response: Query Refused; the other server was asked: True
#   silence, 2 at a time: [127.0.0.9]; the other server was asked: True
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"

cat > "$dir/Cargo.toml" <<'EOF'
[package]
name = "lookup"
version = "0.0.0"
edition = "2021"

[dependencies]
hickory-resolver = "=0.26.3"
tokio = { version = "1", features = ["macros", "rt"] }

[profile.dev]
debug = false
EOF

cat > "$dir/src/main.rs" <<'EOF'
use hickory_resolver::{config::*, net::runtime::TokioRuntimeProvider, Resolver};
use std::{env, net::Ipv4Addr};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<u16> = env::args().skip(1).map(|arg| arg.parse().unwrap()).collect();
    let servers = args[1..].iter().map(|&port| {
        let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
        server.connections[0].port = port;
        server
    });
    let config = ResolverConfig::from_parts(None, vec![], servers.collect());
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = std::time::Duration::from_secs(1);
    if args[0] == 1 {
        options.num_concurrent_reqs = 1;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    }
    match builder.build().unwrap().lookup_ip("a.test.").await {
        Ok(found) => println!("{:?}", found.iter().collect::<Vec<_>>()),
        Err(error) => println!("error: {error}"),
    }
}
EOF

cat > "$dir/servers.py" <<'EOF'
import socket, subprocess, sys, threading, time


def serve(server, code, queries):
    """Answers each query with the code, the healthy server after 50 ms and with an address; None is silence."""
    while True:
        query, client = server.recvfrom(4096)
        queries.append(query)
        end = 12
        while query[end]:
            end += query[end] + 1
        question, kind = query[12 : end + 5], query[end + 2]
        address = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\x09" if code == 0 and kind == 1 else b""
        head = query[:2] + bytes([0x81, 0x80 | (code or 0), 0, 1, 0, 1 if address else 0, 0, 0, 0, 0])
        if code == 0:
            time.sleep(0.05)
        if code is not None:
            server.sendto(head + question + address, client)


def lookup(name, code, parallel):
    asked, ports = ([], []), []
    for answer, queries in zip((code, 0), asked):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        ports.append(str(server.getsockname()[1]))
        threading.Thread(target=serve, args=(server, answer, queries), daemon=True).start()
    run = [sys.argv[1], str(parallel), *ports]
    output = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    print(f"{name}, {parallel} at a time: {output}; the other server was asked: {bool(asked[1])}")
    return output.startswith("error"), bool(asked[1])


seen = [
    lookup("SERVFAIL", 2, 1),
    lookup("REFUSED", 5, 1),
    lookup("silence", None, 1),
    lookup("SERVFAIL", 2, 2),
    lookup("REFUSED", 5, 2),
    lookup("silence", None, 2),
]
never, ignored, used = (True, False), (True, True), (False, True)
sys.exit(0 if seen == [never, never, never, ignored, ignored, used] else 1)
EOF

CARGO_TARGET_DIR="$dir/target" cargo build --quiet --jobs 1 --manifest-path "$dir/Cargo.toml"
timeout 120 python3 "$dir/servers.py" "$dir/target/debug/lookup"
