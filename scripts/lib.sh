# Shared by the scripts that run the release binary before a back end on loopback. Sourced, not run.

app=${APP:-target/release/app}
work=$(mktemp -d)
pids=()
# Seconds after which a wait has failed. It bounds a run, and tests no speed: the machine may be slow.
patience=60
# Modules that scripts share are not kept compiled in the source tree.
export PYTHONDONTWRITEBYTECODE=1

# Ends what was started, the last first.
stop() {
  local at
  for ((at = ${#pids[@]} - 1; at >= 0; at--)); do
    kill "${pids[at]}" 2>/dev/null && wait "${pids[at]}" 2>/dev/null || true
  done
  pids=()
}

finish() {
  stop
  rm -rf "$work"
}
trap finish EXIT

# A loopback port that is free, and that no other script gets soon.
free_port() { python3 scripts/ports.py; }

# until_so WHAT COMMAND...: again and again until the command succeeds, $patience seconds at most.
until_so() {
  local what=$1 end=$((SECONDS + patience))
  shift
  while [ "$SECONDS" -lt "$end" ]; do
    if "$@"; then return; fi
    sleep 0.05
  done
  echo "not so after $patience s: $what" >&2
  return 1
}

# await PORT [ADDRESS]: until something listens there.
await() { until_so "something listens on port $1" listens "$@"; }
listens() { (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null; }

# start_app LISTEN_PORT BACKEND_PORT [ADMIN_PORT]: the proxy, in the background. Its process id is in $app_pid. With an empty
# BACKEND_PORT variables of the caller say where requests go. LISTEN_PORT may be unix:/path, which needs ADMIN_PORT.
start_app() {
  [ -x "$app" ] || { echo "$app is missing: run cargo build --release -p app, or set APP" >&2; return 1; }
  local listen_addr=127.0.0.1:$1
  case $1 in unix:*) listen_addr=$1 ;; esac
  LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR=$listen_addr \
  LINKERD2_PROXY_OUTBOUND_ENDPOINTS="${2:+127.0.0.1:$2}" \
  LINKERD2_PROXY_ADMIN_LISTEN_ADDR="127.0.0.1:${3:-0}" \
  LINKERD2_PROXY_LOG=${LINKERD2_PROXY_LOG:-warn} \
    "$app" &
  app_pid=$!
  pids+=("$app_pid")
  # The admin server's is the last port that the proxy binds.
  await "${3:-$1}"
}

# need_grpcio: Python with grpcio, in $python; pip installs it into a virtual environment under target/.
need_grpcio() {
  local venv=target/interop-venv grpcio=1.76.0
  python=$venv/bin/python
  if ! "$python" -c "import grpc; assert grpc.__version__ == '$grpcio'" 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "grpcio==$grpcio"
  fi
}

# make_certs: an authority, $work/ca.pem, and what it has issued for 127.0.0.1, $work/tls.pem and $work/tls.key.
make_certs() {
  local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${key[@]}" -days 1 -subj /CN=authority -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
  openssl req "${key[@]}" -subj /CN=test -keyout "$work/tls.key" -out "$work/tls.csr" 2>/dev/null
  echo "subjectAltName=IP:127.0.0.1,DNS:localhost,URI:spiffe://example/test" >"$work/tls.ext"
  openssl x509 -req -in "$work/tls.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 1 \
    -extfile "$work/tls.ext" -out "$work/tls.pem" 2>/dev/null
}

# with_tls COMMAND...: runs it with settings for mutual TLS on both sides of the proxy.
with_tls() {
  local direction=LINKERD2_PROXY_OUTBOUND
  local "${direction}_SERVER_TLS_CERT=$work/tls.pem" "${direction}_SERVER_TLS_KEY=$work/tls.key"
  local "${direction}_SERVER_TLS_CLIENT_CA=$work/ca.pem"
  local "${direction}_SERVER_TLS_ALLOWED_CLIENTS=spiffe://example/test"
  local "${direction}_CONNECT_TLS=on" "${direction}_CONNECT_TLS_CA=$work/ca.pem"
  local "${direction}_CONNECT_TLS_CERT=$work/tls.pem" "${direction}_CONNECT_TLS_KEY=$work/tls.key"
  export "${!LINKERD2_PROXY_OUTBOUND_@}"
  "$@"
}
