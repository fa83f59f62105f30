#!/usr/bin/env bash
# Hypercorn answers none of the streams that its own GOAWAY says it has taken.
#
# The guess: a server that has had enough of a connection sends GOAWAY(NO_ERROR) with the last stream that it took,
# answers the streams up to that one (RFC 9113, section 6.8), and closes.
#
# The behaviour: `keep_alive_max_requests` (1,000 by default) also counts the requests of an HTTP/2 connection. The
# 1,001st makes GOAWAY, whose last-stream-id covers every open stream. The state machine below (h2 for Python) takes a
# connection for closed once it has sent GOAWAY and refuses all that is sent later, and Hypercorn passes over its error.
# So the request that was one too many gets no answer, nor does an older one that is still at work. A client may not
# send them elsewhere, since the server says that it has them. The connection was still open after the 4 s that we
# looked at it, so nothing had told the client.
#
# The versions: Hypercorn 0.18.0, h2 4.3.0, Python 3.11.7, both sides in plaintext on loopback.
#
# The output seen:
#   stream 1989 is for a slow page, the 995th request
#   request 1001 is on stream 2001
#   GOAWAY: error code 0, last stream 2001
#   then: silence for 4 s, connection open
#   answers complete: 999 of 1001, stream 1989: False, stream 2001: False
set -euo pipefail

dir=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$dir"
}
trap finish EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check hypercorn==0.18.0 h2==4.3.0
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')

cat > "$dir/page.py" <<'EOF'
import asyncio


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})
EOF

cat > "$dir/client.py" <<'EOF'
import socket, sys, time
import h2.config, h2.connection, h2.events

for attempt in range(100):
    try:
        peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
peer.settimeout(4)
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
http2.initiate_connection()
complete, goaway, end = set(), None, None


def ask(path):
    stream = http2.get_next_available_stream_id()
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", path)]
    http2.send_headers(stream, head, end_stream=True)
    return stream


def turn():
    global goaway, end
    peer.sendall(http2.data_to_send())
    try:
        data = peer.recv(65536)
    except TimeoutError:
        end = "silence for 4 s, connection open"
        return
    if not data:
        end = "connection closed"
    for event in http2.receive_data(data) if data else []:
        if isinstance(event, h2.events.StreamEnded):
            complete.add(event.stream_id)
        if isinstance(event, h2.events.ConnectionTerminated):
            goaway = event


asked = 0
while not goaway and not end and asked < 1100:
    asked += 1
    if asked == 995:
        slow = ask("/slow")
        print(f"stream {slow} is for a slow page, the 995th request")
        continue
    last = ask("/")
    while last not in complete and not goaway and not end:
        turn()
print(f"request {asked} is on stream {last}")
if goaway:
    print(f"GOAWAY: error code {int(goaway.error_code)}, last stream {goaway.last_stream_id}")
while not end:
    turn()
print(f"then: {end}")
answered = f"stream {slow}: {slow in complete}, stream {last}: {last in complete}"
print(f"answers complete: {len(complete)} of {asked}, {answered}")
taken = goaway and goaway.error_code == 0 and goaway.last_stream_id >= last
sys.exit(0 if taken and slow not in complete and last not in complete and "open" in end else 1)
EOF

cd "$dir"
"$dir/venv/bin/hypercorn" --bind "127.0.0.1:$port" page:app >"$dir/log" 2>&1 &
server=$!
timeout 180 "$dir/venv/bin/python" "$dir/client.py" "$port"
