#!/usr/bin/env bash
# rustls and clients that put a port into the server name: no handshake, though the server has one certificate alone.
#
# The guess: a server that has one certificate has no use for the name that a client asks for, so that it does not matter what it is; RFC
# 6066 (section 3) lets a server go on where it does not know the name. rustls itself takes an IP address there, which that section
# forbids, for no name at all.
#
# The behaviour: a name that is neither a host name nor an address, as one with a port or with a star, ends the handshake with the alert
# illegal_parameter. That is before the resolver of certificates is asked, and rustls::server::Acceptor does the same, so that an
# application cannot choose. The server says that the server name must contain one host name. The server of Node, with the same
# certificate, takes all four names.
#
# The versions: rustls 0.23.46 with ring, Node 20.20.2; the client is openssl s_client of OpenSSL 3.0. On loopback.
#
# The output seen:
#   rustls localhost taken
#   rustls 127.0.0.1 taken
#   rustls localhost:8443 alert illegal parameter
#   rustls *.example.com alert illegal parameter
#   node localhost taken
#   node 127.0.0.1 taken
#   node localhost:8443 taken
#   node *.example.com taken
set -euo pipefail

dir=$(mktemp -d)
servers=()
finish() {
    for server in "${servers[@]}"; do kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap finish EXIT
mkdir "$dir/src"
echo "node $(node --version), $(openssl version)"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -days 2 2>"$dir/openssl.log"

cat > "$dir/Cargo.toml" <<'EOF'
[package]
name = "server"
version = "0.0.0"
edition = "2021"

[dependencies]
rustls = { version = "=0.23.46", default-features = false, features = ["ring", "std", "tls12"] }

[profile.dev]
debug = false
EOF

cat > "$dir/src/main.rs" <<'EOF'
use rustls::{
    pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer},
    ServerConfig, ServerConnection,
};
use std::{net::TcpListener, sync::Arc};

fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let cert = CertificateDer::from_pem_file(format!("{dir}/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{dir}/key.pem")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key).unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for socket in listener.incoming() {
        let mut socket = socket.unwrap();
        let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        if let Err(error) = connection.complete_io(&mut socket) {
            eprintln!("{error}");
        }
    }
}
EOF

cat > "$dir/server.mjs" <<'EOF'
import { readFileSync } from "node:fs";
import tls from "node:tls";

const read = (name) => readFileSync(`${process.argv[2]}/${name}.pem`);
const server = tls.createServer({ cert: read("cert"), key: read("key") }, (socket) => socket.end());
server.on("tlsClientError", (error) => console.error(error.message));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
EOF

# try SERVER PORT: the name of each row.
try() {
    for name in localhost 127.0.0.1 localhost:8443 '*.example.com'; do
        if timeout 20 openssl s_client -connect "127.0.0.1:$2" -servername "$name" </dev/null >"$dir/client" 2>&1; then
            echo "$1 $name taken"
        else
            echo "$1 $name $(grep -o 'alert [a-z ]*' "$dir/client" | head -n 1)"
        fi
    done
}

# started FILE: the port that a server has printed.
started() {
    for _ in {1..100}; do [ -s "$1" ] && break; sleep 0.1; done
    head -n 1 "$1"
}

CARGO_TARGET_DIR="$dir/target" cargo build --quiet --jobs 1 --manifest-path "$dir/Cargo.toml"
"$dir/target/debug/server" "$dir" >"$dir/rustls" &
servers+=($!)
node "$dir/server.mjs" "$dir" >"$dir/node" &
servers+=($!)
{ try rustls "$(started "$dir/rustls")"; try node "$(started "$dir/node")"; } | tee "$dir/seen"
diff - "$dir/seen" <<'EOF'
rustls localhost taken
rustls 127.0.0.1 taken
rustls localhost:8443 alert illegal parameter
rustls *.example.com alert illegal parameter
node localhost taken
node 127.0.0.1 taken
node localhost:8443 taken
node *.example.com taken
EOF
