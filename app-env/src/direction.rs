//! One direction: its listener, its endpoints and the bounds between them.

use crate::{
    Backoff, Breaker, Connect, ConnectHttp1, Direction, Discovery, DiscoverySource, EndpointAddr, EndpointProtocol,
    Error, HealthCheck, Origin, ProxyProtocol, RateLimit, Retry, StreamAddr, TcpParams,
    error::plain,
    grammar::{Grammar, Number, Time},
    http2::{self, Shared},
    reader::Reader,
    table::{
        ACCEPT_BACKLOG, ACCEPT_KEEPALIVE, ACCEPT_PROXY_PROTOCOL_NETWORKS, ACCEPT_USER_TIMEOUT,
        BREAKER_CONSECUTIVE_FAILURES, BREAKER_MAX_EJECTION, BREAKER_MIN_EJECTION, CONNECT_DROP_REQUEST_TRAILERS,
        CONNECT_EXP_BACKOFF_JITTER, CONNECT_EXP_BACKOFF_MAX, CONNECT_EXP_BACKOFF_MIN, CONNECT_HANDSHAKE_TIMEOUT,
        CONNECT_HTTP1_MAX_CONNECTION_IDLE, CONNECT_HTTP1_MAX_CONNECTIONS, CONNECT_HTTP1_MAX_IDLE, CONNECT_KEEPALIVE,
        CONNECT_MAX_CONNECTION_IDLE, CONNECT_MAX_STREAMS_PER_CONNECTION, CONNECT_PROTOCOL, CONNECT_PROXY_PROTOCOL,
        CONNECT_TIMEOUT, CONNECT_USER_TIMEOUT, DETECT_TIMEOUT, DISCOVERY, DISCOVERY_IDLE_TIMEOUT, DISCOVERY_NETWORKS,
        DISCOVERY_SUFFIXES, ENDPOINTS, HEALTH_CHECK, HEALTH_CHECK_HEALTHY_THRESHOLD, HEALTH_CHECK_INTERVAL,
        HEALTH_CHECK_TIMEOUT, HEALTH_CHECK_UNHEALTHY_THRESHOLD, HTTP_FAILFAST_TIMEOUT, HTTP_FORWARDED,
        HTTP_MAX_HEADERS_COUNT, HTTP_MAX_URI_LENGTH, HTTP_QUEUE_CAPACITY, HTTP_RATE_LIMIT_BURST,
        HTTP_RATE_LIMIT_PER_CLIENT, HTTP_REQUEST_TIMEOUT, HTTP_RETRY_BUDGET_MIN_PER_SECOND, HTTP_RETRY_BUDGET_RATIO,
        HTTP_RETRY_BUFFER_SIZE, HTTP_RETRY_GATEWAY_ERRORS, HTTP_RETRY_GRPC_UNAVAILABLE,
        HTTP_RETRY_REFUSED_NON_IDEMPOTENT, LISTEN_ADDR, LISTEN_MODE, MAX_BUFFERED_BYTES, MAX_CONNECTIONS,
        MAX_CONNECTIONS_PER_ENDPOINT, MAX_DESTINATIONS, MAX_IN_FLIGHT, ROUTES, SERVER_HTTP1_HEADER_READ_TIMEOUT,
        SLOW_START,
    },
    tls,
    variable::{Scope, Var},
};
use std::{num::NonZeroU32, path::PathBuf, time::Duration};

/// Reads a direction. `None`: it is off, and nothing but its errors matters.
pub(crate) fn read(env: &mut Reader, scope: Scope, shared: &Shared) -> Option<Direction> {
    let listen_addr = env.read_or_default(&LISTEN_ADDR, scope);
    let http_rate_limit = read_rate_limit(env, scope, &listen_addr);
    let endpoints = read_endpoints(env, scope);
    let discovery = read_discovery(env, scope);
    let protocol = read_protocol(env, scope, discovery.as_ref());
    let direction = Direction {
        listen_mode: read_listen_mode(env, scope, &listen_addr),
        listen_addr,
        endpoints: endpoints.unwrap_or_default(),
        routes: read_routes(env, scope),
        discovery,
        discovery_idle_timeout: env.read_or_default(&DISCOVERY_IDLE_TIMEOUT, scope),
        max_destinations: read_bound(env, scope, &MAX_DESTINATIONS),
        detect_timeout: env.read_or_default(&DETECT_TIMEOUT, scope),
        server_http1_header_read_timeout: env.read_or_default(&SERVER_HTTP1_HEADER_READ_TIMEOUT, scope),
        server: http2::read_server(env, scope),
        accept: read_tcp(env, scope, &ACCEPT_KEEPALIVE, &ACCEPT_USER_TIMEOUT),
        accept_backlog: env.read_or_default(&ACCEPT_BACKLOG, scope),
        accept_proxy_protocol_networks: env.read(&ACCEPT_PROXY_PROTOCOL_NETWORKS, scope).unwrap_or_default(),
        max_connections: read_bound(env, scope, &MAX_CONNECTIONS),
        server_tls: tls::read_server(env, scope),
        connect: Connect {
            protocol,
            http1: ConnectHttp1 {
                max_connections: read_bound(env, scope, &CONNECT_HTTP1_MAX_CONNECTIONS),
                max_idle: read_bound(env, scope, &CONNECT_HTTP1_MAX_IDLE),
                max_connection_idle: env.read_or_default(&CONNECT_HTTP1_MAX_CONNECTION_IDLE, scope),
            },
            http2: http2::read_client(env, scope, shared),
            timeout: env.read_or_default(&CONNECT_TIMEOUT, scope),
            handshake_timeout: env.read_or_default(&CONNECT_HANDSHAKE_TIMEOUT, scope),
            backoff: read_backoff(env, scope),
            tcp: read_tcp(env, scope, &CONNECT_KEEPALIVE, &CONNECT_USER_TIMEOUT),
            proxy_protocol: read_proxy_protocol(env, scope),
            tls: tls::read_connect(env, scope),
            max_connections: read_bound(env, scope, &MAX_CONNECTIONS_PER_ENDPOINT),
            max_streams: env.read(&CONNECT_MAX_STREAMS_PER_CONNECTION, scope).map(to_usize),
            max_idle: env.read_or_default(&CONNECT_MAX_CONNECTION_IDLE, scope),
            drop_request_trailers: env.read_or_default(&CONNECT_DROP_REQUEST_TRAILERS, scope),
            health_check: read_health_check(env, scope, protocol),
        },
        breaker: read_breaker(env, scope),
        slow_start: env.read_or_default(&SLOW_START, scope),
        http_queue_capacity: read_bound(env, scope, &HTTP_QUEUE_CAPACITY),
        http_failfast_timeout: env.read_or_default(&HTTP_FAILFAST_TIMEOUT, scope),
        http_request_timeout: env.read(&HTTP_REQUEST_TIMEOUT, scope),
        http_max_headers_count: read_bound(env, scope, &HTTP_MAX_HEADERS_COUNT),
        http_max_uri_length: read_bound(env, scope, &HTTP_MAX_URI_LENGTH),
        http_forwarded: env.read_or_default(&HTTP_FORWARDED, scope),
        http_rate_limit,
        http_retry: Retry {
            gateway_errors: env.read_or_default(&HTTP_RETRY_GATEWAY_ERRORS, scope),
            refused_non_idempotent: env.read_or_default(&HTTP_RETRY_REFUSED_NON_IDEMPOTENT, scope),
            grpc_unavailable: env.read_or_default(&HTTP_RETRY_GRPC_UNAVAILABLE, scope),
            budget_ratio: env.read_or_default(&HTTP_RETRY_BUDGET_RATIO, scope),
            budget_min_per_second: env.read_or_default(&HTTP_RETRY_BUDGET_MIN_PER_SECOND, scope),
            buffer_size: read_bound(env, scope, &HTTP_RETRY_BUFFER_SIZE),
        },
        max_in_flight: read_bound(env, scope, &MAX_IN_FLIGHT),
        max_buffered_bytes: read_bound(env, scope, &MAX_BUFFERED_BYTES),
    };
    if !env.is_set(&ENDPOINTS, scope) && !env.is_set(&ROUTES, scope) && !env.is_set(&DISCOVERY, scope) {
        env.warn_without_effect(scope, [&ENDPOINTS.words, &ROUTES.words, &DISCOVERY.words]);
        return None;
    }
    http2::warn_of_bounded_windows(env, scope, &direction);
    http2::warn_of_large_windows(env, scope, &direction);
    Some(direction)
}

fn read_endpoints(env: &mut Reader, scope: Scope) -> Option<Vec<EndpointAddr>> {
    let listed = env.read(&ENDPOINTS, scope)?;
    let mut endpoints: Vec<EndpointAddr> = Vec::with_capacity(listed.len());
    let mut repeated: Vec<EndpointAddr> = Vec::new();
    for endpoint in listed {
        let list = if endpoints.contains(&endpoint) { &mut repeated } else { &mut endpoints };
        list.push(endpoint);
    }
    if !repeated.is_empty() {
        repeated.sort();
        repeated.dedup();
        let message = format!("has more than once, and uses once: {}", plain(&ENDPOINTS.grammar.print(&repeated)));
        env.warn(ENDPOINTS.name(scope), message);
    }
    Some(env.fall_back(&ENDPOINTS, scope, endpoints, Origin::Environment))
}

fn read_routes(env: &mut Reader, scope: Scope) -> Option<PathBuf> {
    let routes = env.read(&ROUTES, scope)?;
    if env.is_set(&ENDPOINTS, scope) {
        let found = format!("is set beside {}", ENDPOINTS.name(scope));
        env.error(Error::new(ROUTES.name(scope), found, "alone, since a file of routes has endpoints of its own"));
    }
    Some(routes)
}

fn read_discovery(env: &mut Reader, scope: Scope) -> Option<Discovery> {
    let suffixes = env.read(&DISCOVERY_SUFFIXES, scope);
    let networks = env.read(&DISCOVERY_NETWORKS, scope);
    let Some(source) = env.read(&DISCOVERY, scope) else {
        let needs = format!("has no effect without {}", DISCOVERY.name(scope));
        if suffixes.is_some() {
            env.warn(DISCOVERY_SUFFIXES.name(scope), needs.clone());
        }
        if networks.is_some() {
            env.warn(DISCOVERY_NETWORKS.name(scope), needs);
        }
        return None;
    };
    let name = DISCOVERY.name(scope);
    for (is_set, other) in
        [(env.is_set(&ENDPOINTS, scope), &ENDPOINTS.words), (env.is_set(&ROUTES, scope), &ROUTES.words)]
    {
        if is_set {
            let found = format!("is set beside {}", other.name(scope));
            env.error(Error::new(name.clone(), found, "alone, since authorities name the endpoints"));
        }
    }
    // The control plane knows its own services, and others are reached where that is allowed.
    let needs_allowed = source == DiscoverySource::Dns;
    if needs_allowed && !env.is_set(&DISCOVERY_SUFFIXES, scope) && !env.is_set(&DISCOVERY_NETWORKS, scope) {
        let expected = format!(
            "with {} or {}: a proxy to any host would be an open relay",
            DISCOVERY_SUFFIXES.name(scope),
            DISCOVERY_NETWORKS.name(scope)
        );
        env.error(Error::new(name, "is set without suffixes and networks", &expected));
    }
    Some(Discovery { source, suffixes: suffixes.unwrap_or_default(), networks: networks.unwrap_or_default() })
}

/// The protocol of connections to endpoints. With Linkerd's control plane, which knows the protocol of some endpoints alone, the
/// default is the protocol of each request's client.
fn read_protocol(env: &mut Reader, scope: Scope, discovery: Option<&Discovery>) -> EndpointProtocol {
    let protocol = env.read_or_default(&CONNECT_PROTOCOL, scope);
    let is_linkerd = discovery.is_some_and(|discovery| discovery.source == DiscoverySource::Linkerd);
    if !is_linkerd || env.is_set(&CONNECT_PROTOCOL, scope) {
        return protocol;
    }
    env.fall_back(&CONNECT_PROTOCOL, scope, EndpointProtocol::Same, Origin::Inherited(DISCOVERY.name(scope)))
}

/// The PROXY protocol toward endpoints. The connections of routes and authorities are shared by clients.
fn read_proxy_protocol(env: &mut Reader, scope: Scope) -> Option<ProxyProtocol> {
    let version = env.read_or_default(&CONNECT_PROXY_PROTOCOL, scope)?;
    let others = [(env.is_set(&ROUTES, scope), &ROUTES.words), (env.is_set(&DISCOVERY, scope), &DISCOVERY.words)];
    for (_, other) in others.into_iter().filter(|(is_set, _)| *is_set) {
        let found = format!("is {} beside {}", CONNECT_PROXY_PROTOCOL.grammar.print(&Some(version)), other.name(scope));
        let expected = format!("off, or set with {} alone", ENDPOINTS.name(scope));
        env.error(Error::new(CONNECT_PROXY_PROTOCOL.name(scope), found, expected));
    }
    Some(version)
}

/// Permissions matter to a socket that is a file.
fn read_listen_mode(env: &mut Reader, scope: Scope, listen_addr: &StreamAddr) -> Option<u32> {
    let mode = env.read(&LISTEN_MODE, scope);
    let is_file = listen_addr.unix().is_some_and(|unix| unix.path().is_some());
    if mode.is_some() && !is_file && !env.is_wrong(&LISTEN_ADDR, scope) {
        let message = format!("has no effect, since {} is not unix:/path", LISTEN_ADDR.name(scope));
        env.warn(LISTEN_MODE.name(scope), message);
    }
    mode
}

fn read_tcp(env: &mut Reader, scope: Scope, keepalive: &Var<Time>, user_timeout: &Var<Time>) -> TcpParams {
    TcpParams { keepalive: env.read(keepalive, scope), user_timeout: env.read(user_timeout, scope) }
}

/// A burst alone limits nothing, and clients without an address are not limited.
fn read_rate_limit(env: &mut Reader, scope: Scope, listen_addr: &StreamAddr) -> Option<RateLimit> {
    let per_second = env.read(&HTTP_RATE_LIMIT_PER_CLIENT, scope).and_then(NonZeroU32::new);
    let burst = env.read(&HTTP_RATE_LIMIT_BURST, scope).and_then(NonZeroU32::new);
    if burst.is_some() && !env.is_set(&HTTP_RATE_LIMIT_PER_CLIENT, scope) {
        let message = format!("has no effect without {}", HTTP_RATE_LIMIT_PER_CLIENT.name(scope));
        env.warn(HTTP_RATE_LIMIT_BURST.name(scope), message);
    }
    let is_unknown = listen_addr.unix().is_some() && !env.is_set(&ACCEPT_PROXY_PROTOCOL_NETWORKS, scope);
    if per_second.is_some() && is_unknown {
        let message = format!(
            "limits no client of {}, a Unix domain socket, without {}",
            LISTEN_ADDR.name(scope),
            ACCEPT_PROXY_PROTOCOL_NETWORKS.name(scope)
        );
        env.warn(HTTP_RATE_LIMIT_PER_CLIENT.name(scope), message);
    }
    per_second.map(|per_second| RateLimit { per_second, burst: burst.unwrap_or(per_second) })
}

fn read_backoff(env: &mut Reader, scope: Scope) -> Backoff {
    let backoff = Backoff {
        min: env.read_or_default(&CONNECT_EXP_BACKOFF_MIN, scope),
        max: env.read_or_default(&CONNECT_EXP_BACKOFF_MAX, scope),
        jitter: env.read_or_default(&CONNECT_EXP_BACKOFF_JITTER, scope),
    };
    check_order(env, scope, (&CONNECT_EXP_BACKOFF_MIN, backoff.min), (&CONNECT_EXP_BACKOFF_MAX, backoff.max));
    backoff
}

fn read_breaker(env: &mut Reader, scope: Scope) -> Breaker {
    let breaker = Breaker {
        consecutive_failures: env.read_or_default(&BREAKER_CONSECUTIVE_FAILURES, scope),
        min_ejection: env.read_or_default(&BREAKER_MIN_EJECTION, scope),
        max_ejection: env.read_or_default(&BREAKER_MAX_EJECTION, scope),
    };
    let (min, max) = (breaker.min_ejection, breaker.max_ejection);
    check_order(env, scope, (&BREAKER_MIN_EJECTION, min), (&BREAKER_MAX_EJECTION, max));
    breaker
}

/// The back ends of a file of routes may have requests of their own, so that intervals and thresholds matter without one here.
fn read_health_check(env: &mut Reader, scope: Scope, protocol: EndpointProtocol) -> HealthCheck {
    let check = HealthCheck {
        request: env.read_or_default(&HEALTH_CHECK, scope),
        interval: env.read_or_default(&HEALTH_CHECK_INTERVAL, scope),
        timeout: env.read_or_default(&HEALTH_CHECK_TIMEOUT, scope),
        unhealthy_threshold: env.read_or_default(&HEALTH_CHECK_UNHEALTHY_THRESHOLD, scope),
        healthy_threshold: env.read_or_default(&HEALTH_CHECK_HEALTHY_THRESHOLD, scope),
    };
    let name = HEALTH_CHECK.name(scope);
    if check.is_grpc_over(protocol) && !env.is_set(&ROUTES, scope) {
        let found =
            format!("is {} beside {}=http1", HEALTH_CHECK.grammar.print(&check.request), CONNECT_PROTOCOL.name(scope));
        env.error(Error::new(name, found, "http:/PATH, since gRPC needs HTTP/2"));
    } else if check.request.is_none() && !env.is_set(&ROUTES, scope) {
        let needs = format!("has no effect without {name}");
        for var in [&HEALTH_CHECK_INTERVAL, &HEALTH_CHECK_TIMEOUT] {
            if env.is_set(var, scope) {
                env.warn(var.name(scope), needs.clone());
            }
        }
        for var in [&HEALTH_CHECK_UNHEALTHY_THRESHOLD, &HEALTH_CHECK_HEALTHY_THRESHOLD] {
            if env.is_set(var, scope) {
                env.warn(var.name(scope), needs.clone());
            }
        }
    }
    check
}

/// The shorter of two times must not be the longer.
fn check_order(
    env: &mut Reader,
    scope: Scope,
    (min, shorter): (&Var<Time>, Duration),
    (max, longer): (&Var<Time>, Duration),
) {
    if shorter <= longer || env.is_wrong(min, scope) || env.is_wrong(max, scope) {
        return;
    }
    let (min_text, max_text) = (min.grammar.print(&shorter), max.grammar.print(&longer));
    // The variable that is set is the one to change; a default alone is not at fault.
    env.error(if env.is_set(max, scope) {
        let expected = format!("at least {min_text}, the value of {}", min.name(scope));
        Error::new(max.name(scope), format!("is {max_text}"), expected)
    } else {
        let expected = format!("at most {max_text}, the value of {}", max.name(scope));
        Error::new(min.name(scope), format!("is {min_text}"), expected)
    });
}

fn read_bound(env: &mut Reader, scope: Scope, var: &Var<Number>) -> usize {
    to_usize(env.read_or_default(var, scope))
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
