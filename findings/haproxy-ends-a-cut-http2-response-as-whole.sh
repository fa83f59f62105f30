#!/usr/bin/env bash
# HAProxy: an HTTP/2 client is told that a response which its server gave up has ended, unless it had a `content-length`.
#
# The guess: a proxy that has sent half of a response cannot take it back, but it can say so: by RST_STREAM to an HTTP/2 client
# (RFC 9113, section 8.1), or by closing the connection of an HTTP/1.1 client before the last chunk. RFC 9112, section 8,
# has such a response as incomplete.
#
# The behaviour: toward HTTP/1.1 it is as guessed. Toward HTTP/2 the 1,000 bytes are followed by an empty DATA frame with
# END_STREAM, so that the client has a complete response: after a lost HTTP/2 connection, after RST_STREAM(INTERNAL_ERROR),
# and after an HTTP/1.1 server that closed between two chunks. Only where the head has a `content-length` does the client
# find that bytes are missing, by counting them itself. So the same cut is seen or not by the client's version of HTTP,
# and a download or a list that is streamed is short without any error.
#
# The versions: HAProxy 2.6.12-1+deb12u4 (Debian 12), curl 7.88.1 as client, HTTP/2 servers of h2 4.3.0 for Python and HTTP/1.1
# ones by hand, plaintext on loopback.
#
# The output seen:
#   HTTP/2 client, /lost: 200, 1000 bytes, exit code 0
#   HTTP/2 client, /lost-length: 200, 1000 bytes, exit code 92
#   HTTP/2 client, /reset: 200, 1000 bytes, exit code 0
#   HTTP/2 client, /reset-length: 200, 1000 bytes, exit code 92
#   HTTP/2 client, /http1: 200, 1000 bytes, exit code 0
#   HTTP/2 client, /http1-length: 200, 1000 bytes, exit code 92
#   HTTP/1.1 client, each of the six: 200, 1000 bytes, exit code 18
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo "$(haproxy -v | sed -n 1p)"
echo "$(curl --version | sed -n 1p)"
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check h2==4.3.0

cat > "$dir/cut.py" <<'EOF'
import socket, subprocess, sys, threading, time
import h2.config, h2.connection, h2.events

folder = sys.argv[1]

def listener():
    return socket.create_server(("127.0.0.1", 0))

def port(sock):
    return sock.getsockname()[1]

def respond(http2, peer, stream, path):
    """A head, 1,000 bytes, and half a second later the end that the path asks for."""
    fields = [(":status", "200")] + ([("content-length", "5000")] if "length" in path else [])
    http2.send_headers(stream, fields)
    http2.send_data(stream, bytes(1000))
    peer.sendall(http2.data_to_send())
    time.sleep(0.5)
    if path.startswith("/reset"):
        http2.reset_stream(stream, error_code=2)
        peer.sendall(http2.data_to_send())
        time.sleep(0.5)

def serve_http2(peer):
    http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    http2.initiate_connection()
    peer.sendall(http2.data_to_send())
    with peer:
        while data := peer.recv(65536):
            events = http2.receive_data(data)
            peer.sendall(http2.data_to_send())
            for event in events:
                if isinstance(event, h2.events.RequestReceived):
                    return respond(http2, peer, event.stream_id, dict(event.headers)[b":path"].decode())

def serve_http1(peer):
    with peer:
        head = peer.recv(65536).decode()
        framing = "Content-Length: 5000" if "length" in head.split("\r\n")[0] else "Transfer-Encoding: chunked"
        peer.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        peer.sendall(bytes(1000) if "length" in framing.lower() else b"3e8\r\n" + bytes(1000) + b"\r\n")
        time.sleep(0.5)

def serve(sock, handler):
    while True:
        peer, _ = sock.accept()
        threading.Thread(target=handler, args=(peer,), daemon=True).start()

http2, http1, front = listener(), listener(), listener()
for sock, handler in ((http2, serve_http2), (http1, serve_http1)):
    threading.Thread(target=serve, args=(sock, handler), daemon=True).start()
front_port = port(front)
front.close()
with open(f"{folder}/haproxy.cfg", "w") as config:
    config.write(f"""
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend all
    bind 127.0.0.1:{front_port}
    use_backend http1 if {{ path_beg /http1 }}
    default_backend http2
backend http1
    server one 127.0.0.1:{port(http1)}
backend http2
    server one 127.0.0.1:{port(http2)} proto h2
""")
proxy = subprocess.Popen(["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"], stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", front_port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    changed = False
    for name, option, without_length, with_length in (
        ("HTTP/2", "--http2-prior-knowledge", 0, 92),
        ("HTTP/1.1", "--http1.1", 18, 18),
    ):
        for path in ("/lost", "/lost-length", "/reset", "/reset-length", "/http1", "/http1-length"):
            curl = ["curl", "-sS", option, "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}, %{size_download} bytes"]
            done = subprocess.run([*curl, f"http://127.0.0.1:{front_port}{path}"], capture_output=True, text=True)
            print(f"{name} client, {path}: {done.stdout}, exit code {done.returncode} {done.stderr.strip()}", flush=True)
            expected = with_length if "length" in path else without_length
            changed |= (done.stdout, done.returncode) != ("200, 1000 bytes", expected)
    sys.exit(changed)
finally:
    proxy.terminate()
    proxy.wait()
EOF
timeout 120 "$dir/venv/bin/python" "$dir/cut.py" "$dir"
