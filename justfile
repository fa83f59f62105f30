# All that CI runs, in its order.
ci:
    .ci/run

# All tests.
test:
    cargo test --workspace

# Formatting and lints.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# The documentation, without warnings.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The manual as a book, in target/manual.
manual:
    scripts/manual

# The libraries' public interfaces against the committed lists; `just api --write` writes the lists.
api *args:
    scripts/api {{args}}

# The benches; `just bench --test` runs each once.
bench *args:
    cargo bench -p benches -- {{args}}

# What windows do over links; `just matrix --quick` in half a minute, without it the whole plan. Then the report.
matrix *args:
    cargo run --release -p benches -- matrix {{args}}
    cargo run --release -p benches -- report

# h2load and ghz against the set-up of the benches.
outside *args:
    cargo run --release -p benches -- outside {{args}}

# 100,000 requests of h2load through the release binary.
smoke: _release
    scripts/smoke

# gRPC from Python through the release binary; `just interop --tls` has mutual TLS.
interop *args: _release
    scripts/interop {{args}}

# The reports of gRPC clients, against docs/grpc-clients.md; `just grpc-clients --write` writes it there.
grpc-clients *args: _release
    scripts/grpc-clients {{args}}

# curl, nghttp, openssl and h2load through the release binary's TLS.
tls: _release
    scripts/tls

# curl and h2load over HTTP/1.1 and HTTP/2 through the release binary.
curl: _release
    scripts/curl

# nginx, Python, node and other servers behind the release binary; `just endpoints --only nginx-h2` has some of them only.
endpoints *args: _release
    scripts/endpoints {{args}}

# The files of deploy/ against the release binary.
deploy: _release
    scripts/deploy

# The Debian package of the release binary.
package: _release
    scripts/package

# The image of the binary that `just pgo` makes.
image:
    scripts/image

# Ten upgrades of the release binary under requests, and ten restarts under socket activation.
upgrade: _release
    scripts/upgrade

# nginx, nghttpd and grpcio behind the release binary, by routes and by authority.
routes: _release
    scripts/routes

# The release binary with a control plane of grpcio.
linkerd: _release
    scripts/linkerd

# The release binary with dnsmasq as its name server.
dns: _release
    scripts/dns

# curl, h2load, grpcio and node before the release binary and HAProxy, nginx or nghttpx; `just chains --direct` leaves it out.
chains *args: _release
    scripts/chains {{args}}

# Chromium through the release binary.
browser: _release
    scripts/browser

# What 10,000 idle connections cost.
idle: _release
    scripts/idle

# Attacks of full size on the release binary.
attacks rounds="1": _release
    scripts/attacks {{rounds}}

# Load and faults for a time, and what the release binary holds meanwhile.
soak seconds="60": _release
    scripts/soak {{seconds}}

# The back end, the proxy and traffic through both.
demo *args:
    cargo run --release -p app -- demo {{args}}

# The binary for deployment, built for what was counted under load.
pgo:
    scripts/pgo

_release:
    cargo build --release -p app
