//! The configuration of a proxy: plain values that are checked before.
//!
//! A new variable is a new field, so the structs that have most of them are `#[non_exhaustive]`.

use crate::{ClientName, Discovery, DomainSuffix, EndpointAddr, HostPort, Network, StreamAddr};
use http_h2::{ClientParams, ServerParams};
use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

/// Everything a proxy process is set up with.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Remote clients to the local application. `None`: the direction is off.
    pub inbound: Option<Direction>,
    /// Local clients to remote endpoints. `None`: the direction is off.
    pub outbound: Option<Direction>,
    /// How long the addresses of names count.
    pub dns: Dns,
    /// Linkerd's control plane. `None`: no direction asks it.
    pub control_plane: Option<ControlPlane>,
    /// Where the admin server listens.
    pub admin_listen_addr: StreamAddr,
    /// How long requests may go on once the process is told to end; zero ends them at once.
    pub shutdown_grace_period: Duration,
    /// How long clients are served as before once the process is told to end; the grace period follows.
    pub shutdown_lame_duck_period: Duration,
    /// How long a process that is to take over may take until it is ready; above zero.
    pub upgrade_timeout: Duration,
    /// Whether a request to the admin server may end the process.
    pub shutdown_endpoint_enabled: bool,
    /// Whether the admin server takes commands from other hosts, not from loopback alone.
    pub admin_remote_control: bool,
    /// Worker threads, at most 1024.
    pub cores: NonZeroUsize,
    /// A filter of log lines in `tracing`'s syntax. It is not checked here.
    pub log: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Lines about requests. `None`: there are none.
    pub access_log: Option<AccessLog>,
    /// Spans of requests. `None`: there are none.
    pub traces: Option<Traces>,
}

/// One direction: a listener, endpoints, and the bounds between them.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// Where clients connect to; with port 0 the system picks one.
    pub listen_addr: StreamAddr,
    /// The permissions of the socket's file, if `listen_addr` is the path of one; at most 0o777. `None`: as the umask leaves them.
    pub listen_mode: Option<u32>,
    /// Where requests go to, none twice; at least one, unless there are routes.
    pub endpoints: Vec<EndpointAddr>,
    /// The file of [routes](crate::routes) that requests go by, which is not read here. `None`: all go to `endpoints`.
    pub routes: Option<PathBuf>,
    /// Where requests go by their authorities, instead. `None`: to `endpoints`, or by `routes`.
    pub discovery: Option<Discovery>,
    /// How long a destination of `routes` or `discovery` may go without a request before its connections are closed; above
    /// zero.
    pub discovery_idle_timeout: Duration,
    /// Destinations of `routes` or `discovery` that each worker is connected to at once; above zero.
    pub max_destinations: usize,
    /// How long a client may take to show which protocol it speaks; above zero.
    pub detect_timeout: Duration,
    /// How long a client may take for the head of an HTTP/1.1 request; above zero.
    pub server_http1_header_read_timeout: Duration,
    /// HTTP/2 toward clients; `flow_control`, `max_connection_idle` and `write_stall_timeout` are always set.
    pub server: ServerParams,
    /// TCP toward clients.
    pub accept: TcpParams,
    /// Connections that may wait to be accepted, 1..=65535.
    pub accept_backlog: u32,
    /// Networks whose connections begin with a PROXY protocol header; empty: there are none.
    pub accept_proxy_protocol_networks: Vec<Network>,
    /// Connections that clients may have open; above zero. More are closed as soon as they are accepted.
    pub max_connections: usize,
    /// TLS toward clients. `None`: there is none.
    pub server_tls: Option<ServerTls>,
    /// Connections toward endpoints.
    pub connect: Connect,
    /// How an endpoint that keeps failing is left alone.
    pub breaker: Breaker,
    /// Time in which a new endpoint's share grows to all of it.
    pub slow_start: Duration,
    /// Requests that may wait for an endpoint; above zero.
    pub http_queue_capacity: usize,
    /// How long requests wait while no endpoint is ready, before they are answered with 503; above zero.
    pub http_failfast_timeout: Duration,
    /// The longest a request may take before it is answered with 504; above zero. `None`: no limit.
    pub http_request_timeout: Option<Duration>,
    /// Fields that a request may have beside its pseudo-fields; one with more is answered with 431.
    pub http_max_headers_count: usize,
    /// Bytes that the path and query of a request may have, above zero; one with more is answered with 414.
    pub http_max_uri_length: usize,
    /// The field in which endpoints are told the client's address. `None`: they are not told.
    pub http_forwarded: Option<Forwarded>,
    /// The requests that one client may send. `None`: no limit.
    pub http_rate_limit: Option<RateLimit>,
    /// Which requests are sent again.
    pub http_retry: Retry,
    /// Requests in flight at once, each from its head to its response's end, waiting ones included; above zero.
    pub max_in_flight: usize,
    /// Bytes that connections may hold for readers that have stopped, beside the windows they are set to have.
    pub max_buffered_bytes: usize,
}

/// How endpoints are connected to.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// The protocol that is spoken with endpoints.
    pub protocol: EndpointProtocol,
    /// HTTP/1.1 toward endpoints.
    pub http1: ConnectHttp1,
    /// HTTP/2 toward endpoints; `flow_control`, `max_concurrent_reset_streams` and `write_stall_timeout` are always set.
    pub http2: ClientParams,
    /// How long a connection may take to open, with its TLS; above zero.
    pub timeout: Duration,
    /// How long an endpoint of HTTP/2 may take for its SETTINGS after that; above zero.
    pub handshake_timeout: Duration,
    /// The wait between attempts.
    pub backoff: Backoff,
    /// TCP toward endpoints.
    pub tcp: TcpParams,
    /// The PROXY protocol header that connections begin with. `None`: they have none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS toward endpoints. `None`: there is none.
    pub tls: Option<ConnectTls>,
    /// Connections to one endpoint, over all workers; above zero.
    pub max_connections: usize,
    /// Streams on a connection; above zero. `None`: as many as the endpoint takes.
    pub max_streams: Option<usize>,
    /// How long a connection may go without a request; above zero.
    pub max_idle: Duration,
    /// Trailers of requests are not sent to endpoints.
    pub drop_request_trailers: bool,
    /// Health checks of endpoints.
    pub health_check: HealthCheck,
}

/// Health checks of endpoints: the request, how often it is sent, and how many results change the verdict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// The request that is sent. `None`: endpoints are not checked.
    pub request: Option<HealthCheckRequest>,
    /// The pause between two checks of an endpoint; above zero.
    pub interval: Duration,
    /// How long a check may take; above zero.
    pub timeout: Duration,
    /// Consecutive failed checks that make a healthy endpoint unhealthy; above zero.
    pub unhealthy_threshold: u32,
    /// Consecutive passed checks that make an unhealthy endpoint healthy; above zero.
    pub healthy_threshold: u32,
}

/// The request of a health check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HealthCheckRequest {
    /// `grpc.health.v1.Health/Check` of a service. Empty: of the server as a whole.
    Grpc(String),
    /// GET of a path, which begins with a slash and may have a query.
    Http(String),
}

impl HealthCheck {
    /// Whether gRPC would have to be sent in HTTP/1.1, which cannot be.
    pub(crate) fn is_grpc_over(&self, protocol: EndpointProtocol) -> bool {
        protocol == EndpointProtocol::Http1 && matches!(self.request, Some(HealthCheckRequest::Grpc(_)))
    }
}

/// TLS toward clients. Files are PEM; whether they exist and are valid is not checked here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerTls {
    /// The certificate that clients see, with its key.
    pub identity: TlsIdentity,
    /// How long a handshake may take; above zero.
    pub handshake_timeout: Duration,
    /// Clients' certificates. `None`: they are not asked for one.
    pub client: Option<ClientCert>,
}

/// TLS toward endpoints. Files are PEM; whether they exist and are valid is not checked here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectTls {
    /// The authorities that may issue endpoints' certificates. `None`: the ones that the system trusts.
    pub ca: Option<PathBuf>,
    /// The name that endpoints' certificates must have: an IP address, an IPv6 one without brackets, or a DNS name.
    /// `None`: the host that each endpoint was found by.
    pub server_name: Option<String>,
    /// The certificate that endpoints see, with its key. `None`: none.
    pub identity: Option<TlsIdentity>,
    /// Endpoints' certificates are not verified.
    pub insecure_skip_verify: bool,
}

/// Files with a certificate, its chain behind it, and its private key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsIdentity {
    /// The certificate and its chain.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// How clients' certificates are checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientCert {
    /// A file with the authorities that may issue them.
    pub ca: PathBuf,
    /// Whether a client must have one.
    pub auth: ClientAuth,
    /// The clients whose requests are served. `None`: all that may connect.
    pub allowed: Option<Vec<ClientName>>,
    /// Whether endpoints are told of it in `x-forwarded-client-cert`.
    pub forward: bool,
}

/// Whether a client must have a certificate. One that is shown is always verified.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ClientAuth {
    /// It must; the default.
    #[default]
    Required,
    /// It may.
    Optional,
}

/// The protocol that is spoken with endpoints.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum EndpointProtocol {
    /// HTTP/2; the default.
    #[default]
    Http2,
    /// HTTP/1.1.
    Http1,
    /// The protocol of each request's client.
    Same,
}

/// The field in which endpoints are told the client's address, behind the client's own entries.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Forwarded {
    /// `x-forwarded-for`.
    XForwardedFor,
    /// `forwarded` (RFC 7239), with the address as `for`.
    Forwarded,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ProxyProtocol {
    /// Version 1, a line of text.
    V1,
    /// Version 2, which is binary.
    V2,
}

/// The requests that one client, by its address, may send, or that a route may get.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RateLimit {
    /// Requests a second, in the long run.
    pub per_second: NonZeroU32,
    /// Requests at once, after a time without any.
    pub burst: NonZeroU32,
}

/// Connections of HTTP/1.1 to one endpoint, which have one request at a time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ConnectHttp1 {
    /// Over all workers; above zero.
    pub max_connections: usize,
    /// Connections without a request, over all workers; above zero.
    pub max_idle: usize,
    /// How long one may go without a request; above zero.
    pub max_connection_idle: Duration,
}

/// When an endpoint is left alone, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Breaker {
    /// Failures in a row; 0: it never is.
    pub consecutive_failures: u32,
    /// At first; above zero and at most `max_ejection`.
    pub min_ejection: Duration,
    /// At most.
    pub max_ejection: Duration,
}

/// Which requests are sent again, and how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// GET and HEAD after 502, 503, 504 or a lost connection.
    pub gateway_errors: bool,
    /// Requests of methods that are not idempotent after REFUSED_STREAM.
    pub refused_non_idempotent: bool,
    /// gRPC calls after UNAVAILABLE or a lost connection.
    pub grpc_unavailable: bool,
    /// Retries for each request: 0.0..=100.0.
    pub budget_ratio: f64,
    /// Retries a second that are added to the budget.
    pub budget_min_per_second: u32,
    /// Bytes of a body that are kept to be sent again.
    pub buffer_size: usize,
}

/// A wait that doubles from `min` to `max`, with a random part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first wait; above zero and at most `max`.
    pub min: Duration,
    /// The longest wait, the random part included.
    pub max: Duration,
    /// The largest random part, as a ratio of the wait that it is added to: 0.0..=100.0.
    pub jitter: f64,
}

/// Options of TCP sockets.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct TcpParams {
    /// Idle time before TCP keep-alive probes, 1 s..=32767 s; a fraction of a second is cut off by the system.
    /// `None`: no probes.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`), 1 ms..=2147483647 ms. `None`: the system's
    /// choice.
    pub user_timeout: Option<Duration>,
}

/// How the answers of name servers are used.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Dns {
    /// A shorter TTL counts as this; at most `max_ttl`. `None`: no TTL is too short.
    pub min_ttl: Option<Duration>,
    /// A longer TTL counts as this. `None`: no TTL is too long.
    pub max_ttl: Option<Duration>,
    /// How long a name keeps its addresses after the first answer that it does not exist, or has no
    /// address; 30 s by default. Zero: they are dropped at once.
    pub negative_hold: Duration,
}

/// How Linkerd's control plane is asked for destinations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlPlane {
    /// Where its destination service listens.
    pub addr: HostPort,
    /// A token that it is sent with each question; opaque to the proxy. Empty: none.
    pub context: String,
    /// Names of which it is asked for the profile before the endpoints.
    pub profile_suffixes: Vec<DomainSuffix>,
    /// Whether endpoints that it says to have a TLS identity, which the proxy cannot verify, are spoken to all the same.
    pub allow_plaintext: bool,
    /// How long its first answer to a question may take; above zero.
    pub initial_timeout: Duration,
    /// Time without news after which it is asked again; above zero.
    pub idle_timeout: Duration,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum LogFormat {
    /// Text for people; the default.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

/// Lines about requests, each written when its request ends.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// The form of a line.
    pub format: AccessLogFormat,
    /// The file that lines are appended to, which is not opened here. `None`: standard error.
    pub file: Option<PathBuf>,
    /// The part of the requests that have a line: 0.0..=1.0.
    pub sample: f64,
    /// Requests without an error have none.
    pub errors_only: bool,
}

/// The form of a line about a request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AccessLogFormat {
    /// The Common Log Format of web servers, and more fields behind it.
    Apache,
    /// One JSON object a line.
    Json,
}

/// The spans of sampled requests, and the collector that they are sent to.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Traces {
    /// Where the collector takes OTLP over gRPC.
    pub collector: HostPort,
    /// The attributes of the resource that all spans belong to, by name; `service.name` is always there.
    pub attributes: Vec<(String, String)>,
}
