#!/usr/bin/env bash
# nginx: `keepalive_timeout 0` makes an HTTP/2 connection good for one request, however many it has been sent.
#
# The guess: the option turns off idle connections, so a connection closes when it has nothing left to do. A client that
# sends ten requests at once, as HTTP/2 is for, has ten answers, and then the end of the connection.
#
# The behaviour: the first request's HEADERS make GOAWAY(NO_ERROR, last stream 1), which is sent ahead of the answer's
# own HEADERS. The other nine, which were in the same segment, are not answered, and no RST_STREAM tells so. SETTINGS
# had just announced 128 concurrent streams. So the client has to send them again, each on a connection of its own.
#
# The versions: nginx 1.22.1 (Debian 12), client of h2 4.3.0 and hyperframe 6.1.0 for Python, plaintext on loopback.
#
# The output seen:
#   sent: requests on streams 1 to 19, in one write
#   got: SettingsFrame(0), WindowUpdateFrame(0), SettingsFrame(0), GoAwayFrame(0), HeadersFrame(1), DataFrame(1), closed
#   announced streams: 128, GOAWAY: error code 0, last stream 1
set -euo pipefail

dir=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$dir"
}
trap finish EXIT
nginx -v
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check h2==4.3.0 hyperframe==6.1.0
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')

cat > "$dir/nginx.conf" <<EOF
daemon off;
master_process off;
pid $dir/pid;
error_log $dir/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    keepalive_timeout 0;
    server {
        listen 127.0.0.1:$port http2;
        location / { return 200 "page"; }
    }
}
EOF

cat > "$dir/client.py" <<'EOF'
import socket, sys, time
import h2.config, h2.connection
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, SettingsFrame

for attempt in range(100):
    try:
        peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
peer.settimeout(5)
http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
http2.initiate_connection()
for stream in range(1, 20, 2):
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")]
    http2.send_headers(stream, head, end_stream=True)
peer.sendall(http2.data_to_send())
print("sent: requests on streams 1 to 19, in one write")

data, end = b"", "open after 5 s"
try:
    while piece := peer.recv(65536):
        data += piece
    end = "closed"
except TimeoutError:
    pass
frames = []
while len(data) >= 9:
    frame, length = Frame.parse_frame_header(memoryview(data[:9]))
    frame.parse_body(memoryview(data[9 : 9 + length]))
    frames.append(frame)
    data = data[9 + length :]
print("got:", ", ".join(f"{type(frame).__name__}({frame.stream_id})" for frame in frames) + f", {end}")

settings = next(frame.settings for frame in frames if isinstance(frame, SettingsFrame))
announced = settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
goaway = next((frame for frame in frames if isinstance(frame, GoAwayFrame)), None)
if not goaway:
    sys.exit("no GOAWAY")
print(f"announced streams: {announced}, GOAWAY: error code {goaway.error_code}, last stream {goaway.last_stream_id}")
answers = [frame for frame in frames if isinstance(frame, HeadersFrame)]
early = len(answers) == 1 and frames.index(goaway) < frames.index(answers[0])
silent = {frame.stream_id for frame in frames} == {0, 1}
sys.exit(0 if early and silent and goaway.error_code == 0 and goaway.last_stream_id == 1 else 1)
EOF

nginx -p "$dir" -c "$dir/nginx.conf" 2>"$dir/stderr" &
server=$!
timeout 30 "$dir/venv/bin/python" "$dir/client.py" "$port"
