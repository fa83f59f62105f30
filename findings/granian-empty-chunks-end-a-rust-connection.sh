#!/usr/bin/env bash
# Granian and the h2 crate: a page that is compressed as it is made ends its connection after 20 views.
#
# The guess: an application may send an empty chunk of a response and it is as if it had not (ASGI says nothing else;
# HTTP/1.1 servers have to drop it, since an empty chunk would end the body). HTTP/2 allows DATA frames without data.
#
# The behaviour: Granian writes one DATA frame for each chunk, of no bytes and without END_STREAM for an empty one. Such
# chunks are common: zlib returns nothing for most small pieces that it is given. The h2 crate, below hyper, reqwest and
# tonic, counts them over a connection's life, and the count never goes down. The 101st ends the connection with
# GOAWAY(ENHANCE_YOUR_CALM), and all that is open on it. It does not matter how long ago the others came, or how much
# data came in between. The limit is a constant. The error speaks of too many DATA frames.
#
# The versions: Granian 2.8.9 (Python 3.11.7), h2 0.4.20, tokio 1.54.1, in plaintext on loopback.
#
# The output seen, for a page of six rows, five of them without bytes of their own:
#   response 21: connection error detected: detected excessive load generating behavior (b"too_many_data_frames")
set -euo pipefail

dir=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$dir"
}
trap finish EXIT
mkdir "$dir/src"
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check granian==2.8.9
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')

cat > "$dir/page.py" <<'EOF'
import asyncio
import zlib


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-encoding", b"gzip")]})
    gzip = zlib.compressobj(wbits=31)
    for row in range(6):
        await send({"type": "http.response.body", "body": gzip.compress(b"row %d\n" % row), "more_body": True})
        await asyncio.sleep(0.001)
    await send({"type": "http.response.body", "body": gzip.flush()})
EOF

cat > "$dir/Cargo.toml" <<'EOF'
[package]
name = "reader"
version = "0.0.0"
edition = "2021"

[dependencies]
bytes = "=1.12.2"
h2 = "=0.4.20"
http = "=1.5.0"
tokio = { version = "=1.54.1", features = ["macros", "net", "rt", "time"] }

[profile.dev]
debug = false
EOF

cat > "$dir/src/main.rs" <<'EOF'
use http::Request;
use std::{env, error::Error, future::poll_fn, time::Duration};
use tokio::{net::TcpStream, time::sleep};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let authority = env::args().nth(1).unwrap();
    let mut tries = 0;
    let socket = loop {
        match TcpStream::connect(&authority).await {
            Ok(socket) => break socket,
            Err(error) if tries == 100 => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
        tries += 1;
    };
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    for number in 1..=100 {
        if let Err(error) = read(&mut client, &authority).await {
            return println!("response {number}: {error}");
        }
    }
    println!("100 responses read");
}

async fn read<B: bytes::Buf>(client: &mut h2::client::SendRequest<B>, authority: &str) -> Result<(), Box<dyn Error>> {
    let request = Request::get(format!("http://{authority}/")).body(())?;
    poll_fn(|cx| client.poll_ready(cx)).await?;
    let mut body = client.send_request(request, true)?.0.await?.into_body();
    while let Some(chunk) = body.data().await {
        let bytes = chunk?.len();
        body.flow_control().release_capacity(bytes)?;
    }
    Ok(())
}
EOF

CARGO_TARGET_DIR="$dir/target" cargo build --quiet --jobs 1 --manifest-path "$dir/Cargo.toml"
cd "$dir"
"$dir/venv/bin/granian" --interface asgi --http 2 --host 127.0.0.1 --port "$port" page:app >"$dir/log" 2>&1 &
server=$!
output=$(timeout 60 "$dir/target/debug/reader" "127.0.0.1:$port")
echo "$output"
[[ $output == "response 21: "*too_many_data_frames* ]]
