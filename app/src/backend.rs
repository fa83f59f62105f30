//! A back end: endpoints that are followed, and how they are connected to.

use crate::{
    connector::{Connector, OwnListeners},
    dns::{self, Discovery, Names, Target},
    health_check::Check,
    linkerd::Followed,
    proxy_protocol::encode,
    tls,
};
use app_env::{EndpointAddr, EndpointProtocol, HealthCheckRequest, ProxyProtocol};
use proxy_http::{
    BufferLimit, Connect, Endpoint, Endpoints, Protocol, Stats,
    balance::{self, breaker, health_check},
    client::EndpointLog,
    proxy::{self, Absence, BackendEndpoints},
    stats::Peer,
};
use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Endpoints, for all workers, each of which connects to them.
#[derive(Debug)]
pub(crate) struct Backend {
    name: String,
    endpoints: watch::Receiver<Vec<Endpoint<Target>>>,
    pub(crate) names: Names,
    absence: watch::Receiver<Option<Absence>>,
    connect: app_env::Connect,
    pub(crate) tls: Option<Arc<tls::Client>>,
    http2_params: balance::Params,
    http1_params: balance::Params,
    shared: Shared,
}

/// Settings and state that the back ends of a direction share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) breaker: app_env::Breaker,
    pub(crate) slow_start: Duration,
    pub(crate) cores: NonZeroUsize,
    pub(crate) buffers: Arc<BufferLimit>,
    /// Fields that responses of HTTP/1.1 may have.
    pub(crate) max_headers_count: usize,
    /// The last log lines about endpoints, by any worker.
    pub(crate) log: Arc<EndpointLog>,
    pub(crate) dns: app_env::Dns,
    pub(crate) resolver: dns::Resolver,
    pub(crate) own: OwnListeners,
}

/// Where a back end's endpoints are from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    Endpoints(&'a [EndpointAddr]),
    /// A name with SRV records.
    Service(&'a str),
}

// === impl Backend ===

impl Backend {
    /// Follows the endpoints of `source`, once for all workers, so that all have the same addresses. Must be called in a tokio runtime.
    pub(crate) fn new(
        name: String,
        source: Source<'_>,
        connect: app_env::Connect,
        tls: Option<Arc<tls::Client>>,
        shared: Shared,
    ) -> Self {
        // Health checks are sent to the host that an endpoint was found by.
        let hosts = tls.as_ref().is_some_and(|client| client.needs_hosts()) || connect.health_check.request.is_some();
        let Discovery { list, names, absence } = match source {
            Source::Endpoints(endpoints) => dns::discover(endpoints, hosts, shared.dns, &shared.resolver),
            Source::Service(name) => dns::discover_service(name, hosts, shared.dns, &shared.resolver),
        };
        Self::build(name, list, names, absence, connect, tls, shared)
    }

    /// The endpoints that the control plane says.
    pub(crate) fn followed(
        name: String,
        Followed { list, names, absence }: Followed,
        connect: app_env::Connect,
        tls: Option<Arc<tls::Client>>,
        shared: Shared,
    ) -> Self {
        Self::build(name, list, names, absence, connect, tls, shared)
    }

    fn build(
        name: String,
        endpoints: watch::Receiver<Vec<Endpoint<Target>>>,
        names: Names,
        absence: watch::Receiver<Option<Absence>>,
        connect: app_env::Connect,
        tls: Option<Arc<tls::Client>>,
        shared: Shared,
    ) -> Self {
        let http2_params = endpoint_params(&connect, shared.breaker, shared.slow_start, shared.cores);
        let http1_params = http1_endpoint_params(&connect.http1, http2_params, shared.cores);
        let mut backend = Self { name, endpoints, names, absence, connect, tls, http2_params, http1_params, shared };
        backend.start_checks();
        backend
    }

    /// Starts health checks, if they are on, once for all workers.
    fn start_checks(&mut self) {
        let app_env::HealthCheck { request, interval, timeout, unhealthy_threshold, healthy_threshold } =
            &self.connect.health_check;
        let Some(request) = request.clone() else { return };
        let protocol = match (self.protocol(), &request) {
            (EndpointProtocol::Http2, _) | (EndpointProtocol::Same, HealthCheckRequest::Grpc(_)) => Protocol::Http2,
            (EndpointProtocol::Http1, _) | (EndpointProtocol::Same, HealthCheckRequest::Http(_)) => Protocol::Http1,
        };
        let params = health_check::Params {
            interval: *interval,
            timeout: *timeout,
            unhealthy_threshold: NonZeroU32::new(*unhealthy_threshold).unwrap_or(NonZeroU32::MIN),
            healthy_threshold: NonZeroU32::new(*healthy_threshold).unwrap_or(NonZeroU32::MIN),
        };
        let check = Check::new(request, self.tls.is_some(), *timeout);
        let connect = self.connect_to(protocol, self.own_header().as_ref(), &Stats::default());
        let check = move |target: &Target, connection| check.run(target, connection);
        self.endpoints = health_check::spawn(self.endpoints.clone(), connect, params, check);
    }

    pub(crate) fn protocol(&self) -> EndpointProtocol {
        self.connect.protocol
    }

    /// The PROXY protocol header that its endpoints are sent. `None`: none.
    pub(crate) fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        self.connect.proxy_protocol
    }

    /// The header of connections that are of no client. `None`: none.
    fn own_header(&self) -> Option<Arc<[u8]>> {
        self.connect.proxy_protocol.map(|version| encode(version, None).into())
    }

    /// Connections that begin with a header; one worker's, or one client's.
    pub(crate) fn connect_with(&self, header: Option<&Arc<[u8]>>, stats: &Stats) -> BackendEndpoints {
        let spawn = |protocol| self.spawn(protocol, header, stats);
        let (endpoints, http1) = match self.protocol() {
            EndpointProtocol::Http2 => (spawn(Protocol::Http2), None),
            EndpointProtocol::Http1 => (spawn(Protocol::Http1), None),
            EndpointProtocol::Same => (spawn(Protocol::Http2), Some(spawn(Protocol::Http1))),
        };
        BackendEndpoints { endpoints, http1, drop_request_trailers: self.connect.drop_request_trailers }
    }

    /// One worker's connections to the endpoints that are spoken to in `protocol`.
    fn spawn(&self, protocol: Protocol, header: Option<&Arc<[u8]>>, stats: &Stats) -> Endpoints {
        let params = match protocol {
            Protocol::Http2 => self.http2_params,
            Protocol::Http1 => self.http1_params,
        };
        Endpoints::spawn(self.endpoints.clone(), &self.connect_to(protocol, header, stats), params)
    }

    fn connect_to<B>(&self, protocol: Protocol, header: Option<&Arc<[u8]>>, stats: &Stats) -> Connect<Connector, B> {
        let tls = self.tls.as_ref().map(|tls| (Arc::clone(tls), protocol));
        let connector = Connector::new(self.connect.tcp, self.shared.own.clone(), tls).header(header.cloned());
        let app_env::Connect { http2, timeout, handshake_timeout, .. } = &self.connect;
        Connect::new(connector, http2)
            .expect("params are checked when they are read")
            .protocol(protocol)
            .timeout(*timeout)
            .handshake_timeout(*handshake_timeout)
            .log_to(Arc::clone(&self.shared.log))
            .count_on(Arc::clone(stats.transport(Peer::Endpoint)))
            .buffer_in(Arc::clone(&self.shared.buffers))
            .max_headers_count(self.shared.max_headers_count)
    }
}

impl proxy::Backend for Backend {
    fn absence(&self) -> Option<watch::Receiver<Option<Absence>>> {
        Some(self.absence.clone())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self, stats: &Arc<Stats>) -> BackendEndpoints {
        self.connect_with(self.own_header().as_ref(), stats)
    }
}

/// One worker's share of a direction's limits.
fn endpoint_params(
    connect: &app_env::Connect,
    breaker: app_env::Breaker,
    slow_start: Duration,
    cores: NonZeroUsize,
) -> balance::Params {
    let app_env::Connect {
        backoff,
        max_connections,
        max_streams,
        max_idle,
        protocol: _,
        http1: _,
        http2: _,
        timeout: _,
        handshake_timeout: _,
        tcp: _,
        proxy_protocol: _,
        tls: _,
        drop_request_trailers: _,
        health_check: _,
        ..
    } = *connect;
    let app_env::Backoff { min, max, jitter } = backoff;
    let app_env::Breaker { consecutive_failures, min_ejection, max_ejection } = breaker;
    balance::Params {
        backoff: balance::Backoff { min, max, jitter },
        max_connections: NonZeroUsize::new(max_connections / cores).unwrap_or(NonZeroUsize::MIN),
        max_streams: max_streams.and_then(NonZeroUsize::new),
        max_idle: Some(max_idle),
        max_idle_connections: None,
        slow_start,
        breaker: breaker::Params { consecutive_failures, min_ejection, max_ejection },
    }
}

/// The same for endpoints that are spoken to in HTTP/1.1.
fn http1_endpoint_params(
    http1: &app_env::ConnectHttp1,
    http2: balance::Params,
    cores: NonZeroUsize,
) -> balance::Params {
    let app_env::ConnectHttp1 { max_connections, max_idle, max_connection_idle } = *http1;
    balance::Params {
        max_connections: NonZeroUsize::new(max_connections / cores).unwrap_or(NonZeroUsize::MIN),
        max_streams: None,
        max_idle: Some(max_connection_idle),
        max_idle_connections: Some(max_idle / cores),
        ..http2
    }
}
