//! Which directions are on, and where their requests go.

use super::{everything, millis, secs};
use crate::support::{config, errors, full, loaded, on, vars, warnings};
use app_env::{
    Backoff, Breaker, ConnectHttp1, Direction, Discovery, DiscoverySource, Dns, EndpointProtocol, HealthCheck,
    LogFormat, ProxyProtocol, Retry, TcpParams,
};
use http_h2::{ClientParams, FlowControl, ServerParams};
use std::{num::NonZeroUsize, thread::available_parallelism};

#[test]
fn nothing_set_is_both_directions_off() {
    let mut expected = loaded(&everything()).config;
    expected.inbound = None;
    expected.outbound = None;
    expected.dns = Dns { min_ttl: None, max_ttl: None, negative_hold: secs(30) };
    expected.admin_listen_addr = "127.0.0.1:4191".parse().unwrap();
    expected.shutdown_grace_period = secs(120);
    expected.shutdown_lame_duck_period = secs(0);
    expected.upgrade_timeout = secs(30);
    (expected.shutdown_endpoint_enabled, expected.admin_remote_control) = (true, false);
    expected.cores = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    expected.log = "info".to_owned();
    expected.log_format = LogFormat::Plain;
    expected.access_log = None;
    expected.traces = None;
    assert_eq!(config(&vars([])), expected);
}

#[test]
fn endpoints_alone_turn_a_direction_on_with_its_defaults() {
    let config = config(&on([]));
    // Each field that is not set below has another value, which the test would notice.
    let mut inbound = loaded(&everything()).config.inbound.unwrap();
    inbound.listen_addr = "0.0.0.0:4143".parse().unwrap();
    inbound.listen_mode = None;
    inbound.endpoints = vec!["127.0.0.1:80".parse().unwrap()];
    (inbound.routes, inbound.discovery) = (None, None);
    (inbound.discovery_idle_timeout, inbound.max_destinations) = (secs(90), 1_000);
    inbound.server = ServerParams {
        flow_control: Some(FlowControl::DEFAULT),
        write_stall_timeout: Some(secs(300)),
        max_connection_idle: Some(secs(3_600)),
        ..ServerParams::DEFAULT
    };
    inbound.accept = TcpParams::default();
    inbound.accept_backlog = 1024;
    inbound.accept_proxy_protocol_networks = Vec::new();
    inbound.max_connections = 100_000;
    inbound.server_tls = None;
    inbound.detect_timeout = secs(10);
    inbound.server_http1_header_read_timeout = secs(30);
    inbound.connect.protocol = EndpointProtocol::Http2;
    inbound.connect.http1 = ConnectHttp1 { max_connections: 1_024, max_idle: 64, max_connection_idle: secs(30) };
    inbound.connect.http2 = ClientParams {
        flow_control: Some(FlowControl::DEFAULT),
        max_concurrent_reset_streams: Some(10_000),
        write_stall_timeout: Some(secs(300)),
        ..ClientParams::DEFAULT
    };
    inbound.connect.timeout = millis(300);
    inbound.connect.handshake_timeout = secs(10);
    inbound.connect.backoff = Backoff { min: millis(100), max: secs(10), jitter: 0.1 };
    inbound.connect.tcp = TcpParams::default();
    (inbound.connect.proxy_protocol, inbound.connect.tls) = (None, None);
    inbound.connect.max_connections = 16;
    inbound.connect.max_streams = None;
    inbound.connect.max_idle = secs(60);
    inbound.connect.drop_request_trailers = false;
    inbound.connect.health_check = HealthCheck {
        request: None,
        interval: secs(10),
        timeout: secs(1),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    };
    inbound.breaker = Breaker { consecutive_failures: 7, min_ejection: secs(1), max_ejection: secs(60) };
    inbound.slow_start = secs(10);
    (inbound.http_forwarded, inbound.http_rate_limit) = (None, None);
    inbound.http_retry = Retry {
        gateway_errors: false,
        refused_non_idempotent: true,
        grpc_unavailable: false,
        budget_ratio: 0.2,
        budget_min_per_second: 10,
        buffer_size: 65_536,
    };
    inbound.http_queue_capacity = 10_000;
    inbound.http_failfast_timeout = secs(1);
    inbound.http_request_timeout = None;
    inbound.http_max_headers_count = 100;
    inbound.http_max_uri_length = 8_192;
    inbound.max_in_flight = 100_000;
    inbound.max_buffered_bytes = 256 << 20;
    let mut outbound = inbound.clone();
    outbound.listen_addr = "127.0.0.1:4140".parse().unwrap();
    outbound.discovery_idle_timeout = secs(5);
    outbound.connect.timeout = secs(1);
    outbound.connect.backoff.max = secs(60);
    outbound.http_failfast_timeout = secs(3);
    assert_eq!(config.inbound, Some(inbound));
    assert_eq!(config.outbound, Some(outbound));
}

#[test]
fn routes_alone_turn_a_direction_on() {
    for side in ["INBOUND", "OUTBOUND"] {
        let endpoints = config(&vars([(&format!("{side}_ENDPOINTS"), "a:1")]));
        let routes = config(&vars([(&format!("{side}_ROUTES"), "/routes.yaml")]));
        let expect = |direction: Option<Direction>| {
            let mut direction = direction?;
            direction.endpoints.clear();
            direction.routes = Some("/routes.yaml".into());
            Some(direction)
        };
        assert_eq!(
            (routes.inbound, routes.outbound),
            (expect(endpoints.inbound), expect(endpoints.outbound)),
            "{side}"
        );
    }
    let both = vars([("INBOUND_ENDPOINTS", "a:1"), ("INBOUND_ROUTES", "/routes.yaml")]);
    let message = "INBOUND_ROUTES: is set beside INBOUND_ENDPOINTS, must be alone, since a file of routes has endpoints of its own";
    assert_eq!(errors(&both), [message]);
    assert_eq!(config(&vars([("INBOUND_ENDPOINTS", ""), ("INBOUND_ROUTES", "x")])).inbound.unwrap().endpoints, []);
}

#[test]
fn discovery_alone_turns_a_direction_on() {
    for side in ["INBOUND", "OUTBOUND"] {
        let endpoints = config(&vars([(&format!("{side}_ENDPOINTS"), "a:1")]));
        let discovery = config(&vars([
            (&format!("{side}_DISCOVERY"), "authority"),
            (&format!("{side}_DISCOVERY_SUFFIXES"), "Svc.cluster.local, .example.com"),
            (&format!("{side}_DISCOVERY_NETWORKS"), "10.0.0.0/8,fd00::/8,192.0.2.1"),
        ]));
        let expect = |direction: Option<Direction>| {
            let mut direction = direction?;
            direction.endpoints.clear();
            direction.discovery = Some(Discovery {
                source: DiscoverySource::Dns,
                suffixes: ["svc.cluster.local", "example.com"].map(|name| name.parse().unwrap()).into(),
                networks: ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"].map(|network| network.parse().unwrap()).into(),
            });
            Some(direction)
        };
        assert_eq!(
            (discovery.inbound, discovery.outbound),
            (expect(endpoints.inbound), expect(endpoints.outbound)),
            "{side}"
        );
    }
}

#[test]
fn discovery_needs_to_be_told_where_requests_may_go() {
    let on = ("INBOUND_DISCOVERY", "authority");
    let relay = "INBOUND_DISCOVERY: is set without suffixes and networks, must be with INBOUND_DISCOVERY_SUFFIXES or INBOUND_DISCOVERY_NETWORKS: a proxy to any host would be an open relay";
    assert_eq!(errors(&vars([on])), [relay]);
    let suffixes = ("INBOUND_DISCOVERY_SUFFIXES", "example.com");
    for other in [("INBOUND_ENDPOINTS", "a:1"), ("INBOUND_ROUTES", "/routes.yaml")] {
        let message = format!(
            "INBOUND_DISCOVERY: is set beside {}, must be alone, since authorities name the endpoints",
            other.0
        );
        assert_eq!(errors(&vars([on, suffixes, other])), [message]);
    }
    let alone = "INBOUND_DISCOVERY_SUFFIXES: has no effect without INBOUND_DISCOVERY";
    assert_eq!(warnings(&vars([("INBOUND_ENDPOINTS", "a:1"), suffixes])), [alone]);
    for (name, wrong) in [
        ("INBOUND_DISCOVERY", "dns"),
        ("INBOUND_DISCOVERY_SUFFIXES", "a b"),
        ("INBOUND_DISCOVERY_SUFFIXES", "10.0.0.1"),
        ("INBOUND_DISCOVERY_NETWORKS", "10.0.0.1/8"),
        ("INBOUND_DISCOVERY_NETWORKS", "10.0.0.0/33"),
        ("INBOUND_DISCOVERY_NETWORKS", "example.com"),
        ("INBOUND_DISCOVERY_NETWORKS", "::ffff:10.0.0.0/104"),
    ] {
        let mut all = vars([on, suffixes]);
        all.insert(full(name), wrong.to_owned());
        assert_eq!(errors(&all).len(), 1, "{name}={wrong}");
    }
}

#[test]
fn each_direction_is_on_alone() {
    let inbound = config(&vars([("INBOUND_ENDPOINTS", "a:1")]));
    assert!(inbound.inbound.is_some() && inbound.outbound.is_none());
    let outbound = config(&vars([("OUTBOUND_ENDPOINTS", "a:1")]));
    assert!(outbound.inbound.is_none() && outbound.outbound.is_some());
}

#[test]
fn a_header_to_endpoints_needs_endpoints_alone() {
    let header = ("INBOUND_CONNECT_PROXY_PROTOCOL", "v2");
    assert_eq!(config(&on([header])).inbound.unwrap().connect.proxy_protocol, Some(ProxyProtocol::V2));
    let expect = |other: &str| {
        format!(
            "INBOUND_CONNECT_PROXY_PROTOCOL: is v2 beside INBOUND_{other}, must be off, or set with INBOUND_ENDPOINTS alone"
        )
    };
    assert_eq!(errors(&vars([header, ("INBOUND_ROUTES", "/x")])), [expect("ROUTES")]);
    assert_eq!(
        errors(&vars([header, ("INBOUND_DISCOVERY", "authority"), ("INBOUND_DISCOVERY_SUFFIXES", "example.com")])),
        [expect("DISCOVERY")]
    );
    config(&vars([("INBOUND_CONNECT_PROXY_PROTOCOL", "off"), ("INBOUND_ROUTES", "/x")]));
}

#[test]
fn a_burst_is_as_much_as_a_second_has_and_needs_the_rate() {
    let (rate, burst) = (("INBOUND_HTTP_RATE_LIMIT_PER_CLIENT", "10"), ("INBOUND_HTTP_RATE_LIMIT_BURST", "30"));
    let limit = |vars| config(&vars).inbound.unwrap().http_rate_limit.map(|it| (it.per_second.get(), it.burst.get()));
    assert_eq!(limit(on([rate])), Some((10, 10)));
    assert_eq!(limit(on([rate, burst])), Some((10, 30)));
    let expect =
        "INBOUND_HTTP_RATE_LIMIT_BURST: has no effect without LINKERD2_PROXY_INBOUND_HTTP_RATE_LIMIT_PER_CLIENT";
    assert_eq!(warnings(&on([burst])), [expect.replace("LINKERD2_PROXY_", "")]);
}
