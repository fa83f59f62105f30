# Shared by the scripts that run the release binary before a back end on loopback. Sourced, not run.

app=${APP:-target/release/app}
work=$(mktemp -d)
pids=()

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

# A loopback port that is free now.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# await PORT: until something listens there, 10 s at most.
await() {
  for _ in $(seq 200); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
    sleep 0.05
  done
  echo "nothing listens on port $1" >&2
  return 1
}

# start_app LISTEN_PORT BACKEND_PORT [ADMIN_PORT]: the proxy, in the background. Its process id is in $app_pid.
start_app() {
  [ -x "$app" ] || { echo "$app is missing: run cargo build --release -p app, or set APP" >&2; return 1; }
  LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR="127.0.0.1:$1" \
  LINKERD2_PROXY_OUTBOUND_ENDPOINTS="127.0.0.1:$2" \
  LINKERD2_PROXY_ADMIN_LISTEN_ADDR="127.0.0.1:${3:-0}" \
  LINKERD2_PROXY_LOG=${LINKERD2_PROXY_LOG:-warn} \
    "$app" &
  app_pid=$!
  pids+=("$app_pid")
  await "$1"
}
