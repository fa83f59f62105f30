//! linkerd2-proxy's contract: the meaning of a deployment made for it, and where this crate differs on purpose.
//! The README lists the same differences.

use crate::support::{self, config, effective, errors, loaded, on, vars, warnings};
use app_env::{Discovery, DiscoverySource, EndpointProtocol, LogFormat, variables};
use http_h2::{ClientParams, FlowControl, KeepAlive};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn names_are_linkerds_or_marked_as_ours() {
    let linkerds = [
        "LISTEN_ADDR",
        "DETECT_TIMEOUT",
        "DISCOVERY_IDLE_TIMEOUT",
        "SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL",
        "SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE",
        "SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE",
        "SERVER_HTTP2_KEEP_ALIVE_INTERVAL",
        "SERVER_HTTP2_KEEP_ALIVE_TIMEOUT",
        "SERVER_HTTP2_MAX_CONCURRENT_STREAMS",
        "SERVER_HTTP2_MAX_FRAME_SIZE",
        "SERVER_HTTP2_MAX_HEADER_LIST_SIZE",
        "SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS",
        "SERVER_HTTP2_MAX_SEND_BUF_SIZE",
        "CONNECT_TIMEOUT",
        "CONNECT_EXP_BACKOFF_MIN",
        "CONNECT_EXP_BACKOFF_MAX",
        "CONNECT_EXP_BACKOFF_JITTER",
        "ACCEPT_KEEPALIVE",
        "CONNECT_KEEPALIVE",
        "ACCEPT_USER_TIMEOUT",
        "CONNECT_USER_TIMEOUT",
        "HTTP_QUEUE_CAPACITY",
        "HTTP_FAILFAST_TIMEOUT",
        "MAX_IN_FLIGHT",
    ];
    let process = [
        "HTTP2_INITIAL_STREAM_WINDOW_SIZE",
        "HTTP2_INITIAL_CONNECTION_WINDOW_SIZE",
        "DNS_MIN_TTL",
        "DNS_MAX_TTL",
        "CONTROL_STREAM_INITIAL_TIMEOUT",
        "CONTROL_STREAM_IDLE_TIMEOUT",
        "DESTINATION_SVC_ADDR",
        "DESTINATION_CONTEXT",
        "DESTINATION_PROFILE_SUFFIXES",
        "ADMIN_LISTEN_ADDR",
        "SHUTDOWN_GRACE_PERIOD",
        "SHUTDOWN_ENDPOINT_ENABLED",
        "CORES",
        "LOG",
        "LOG_FORMAT",
        "ACCESS_LOG",
        "TRACE_COLLECTOR_SVC_ADDR",
        "TRACE_SERVICE_NAME",
        "TRACE_EXTRA_ATTRIBUTES",
    ];
    let mut expect: Vec<String> = process.map(|name| format!("LINKERD2_PROXY_{name}")).into();
    expect.push("OTEL_RESOURCE_ATTRIBUTES".to_owned());
    for direction in ["INBOUND", "OUTBOUND"] {
        expect.extend(linkerds.map(|name| format!("LINKERD2_PROXY_{direction}_{name}")));
    }
    let mut names: Vec<_> = variables().filter(|variable| !variable.ours).map(|variable| variable.name).collect();
    expect.sort();
    names.sort();
    assert_eq!(names, expect);
}

#[test]
fn values_of_linkerds_chart_load() {
    let config = config(&on([
        ("LOG", "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off"),
        ("LOG_FORMAT", "plain"),
        ("INBOUND_LISTEN_ADDR", "[::]:4143"),
        ("ADMIN_LISTEN_ADDR", "[::]:4191"),
        ("INBOUND_CONNECT_TIMEOUT", "100ms"),
        ("OUTBOUND_CONNECT_TIMEOUT", "1000ms"),
        ("INBOUND_ACCEPT_KEEPALIVE", "10000ms"),
        ("OUTBOUND_CONNECT_KEEPALIVE", "10000ms"),
        ("INBOUND_ACCEPT_USER_TIMEOUT", "30s"),
        ("OUTBOUND_CONNECT_USER_TIMEOUT", "30s"),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "100s"),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "100s"),
    ]));
    let (inbound, outbound) = (config.inbound.unwrap(), config.outbound.unwrap());
    assert_eq!((inbound.connect.timeout, outbound.connect.timeout), (SECOND / 10, SECOND));
    assert_eq!((inbound.accept.keepalive, inbound.accept.user_timeout), (Some(10 * SECOND), Some(30 * SECOND)));
    assert_eq!((outbound.connect.tcp.keepalive, outbound.accept.keepalive), (Some(10 * SECOND), None));
    assert_eq!(outbound.connect.tcp.user_timeout, Some(30 * SECOND));
    assert_eq!(inbound.server.keep_alive, Some(KeepAlive { interval: 100 * SECOND, timeout: 100 * SECOND }));
}

#[test]
fn shared_windows_are_toward_endpoints_in_both_directions() {
    let config =
        config(&on([("HTTP2_INITIAL_STREAM_WINDOW_SIZE", "1000"), ("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "2000")]));
    let windows = FlowControl::Fixed { initial_stream_window_size: 1000, initial_connection_window_size: 2000 };
    for direction in [config.inbound.unwrap(), config.outbound.unwrap()] {
        assert_eq!(direction.connect.http2.flow_control, Some(windows));
        assert_eq!(direction.server.flow_control, Some(FlowControl::DEFAULT));
    }
}

#[test]
fn log_format_is_read_in_any_case() {
    assert_eq!(config(&vars([("LOG_FORMAT", "JSON")])).log_format, LogFormat::Json);
    assert_eq!(config(&vars([("LOG_FORMAT", "PLAIN")])).log_format, LogFormat::Plain);
}

#[test]
fn a_duration_may_be_zero_without_a_unit() {
    assert_eq!(config(&vars([("SHUTDOWN_GRACE_PERIOD", "0")])).shutdown_grace_period, Duration::ZERO);
}

// === Differences, each on purpose ===

#[test]
fn difference_half_a_pair_of_windows_counts() {
    let inbound = config(&on([("INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "1")])).inbound.unwrap();
    assert_ne!(inbound.server.flow_control, Some(FlowControl::DEFAULT));
}

#[test]
fn difference_half_a_keep_alive_counts_or_is_an_error() {
    let inbound = config(&on([("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "1s")])).inbound.unwrap();
    assert!(inbound.server.keep_alive.is_some());
    assert_eq!(errors(&on([("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "1s")])).len(), 1);
}

#[test]
fn difference_half_a_backoff_counts_and_jitter_keeps_its_default() {
    config(&on([("INBOUND_CONNECT_EXP_BACKOFF_MIN", "1s")]));
    let both = on([("INBOUND_CONNECT_EXP_BACKOFF_MIN", "1s"), ("INBOUND_CONNECT_EXP_BACKOFF_MAX", "2s")]);
    assert!(config(&both).inbound.unwrap().connect.backoff.jitter > 0.0);
}

#[test]
fn difference_the_longest_backoff_is_10s_and_60s() {
    let config = config(&on([]));
    let longest = [config.inbound.unwrap(), config.outbound.unwrap()].map(|direction| direction.connect.backoff.max);
    assert_eq!(longest, [10 * SECOND, 60 * SECOND]);
}

#[test]
fn difference_values_are_checked_when_they_are_read() {
    for (name, value) in [
        ("INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", "4"),
        ("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "2147483648"),
        ("INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS", "0"),
        ("INBOUND_HTTP_QUEUE_CAPACITY", "0"),
        ("INBOUND_HTTP_FAILFAST_TIMEOUT", "0"),
        ("INBOUND_CONNECT_EXP_BACKOFF_MIN", "0"),
        ("INBOUND_ACCEPT_KEEPALIVE", "10ms"),
        ("INBOUND_CONNECT_TIMEOUT", "36501d"),
        ("INBOUND_MAX_IN_FLIGHT", "+1"),
        ("CORES", "0"),
        ("LOG_FORMAT", "text"),
    ] {
        assert_eq!(errors(&on([(name, value)])).len(), 1, "{name}={value}");
    }
}

#[test]
fn difference_white_space_is_ignored_around_all_values() {
    let config = config(&on([("INBOUND_MAX_IN_FLIGHT", " 1 "), ("ADMIN_LISTEN_ADDR", " 127.0.0.1:1 ")]));
    assert_eq!(config.inbound.unwrap().max_in_flight, 1);
}

#[test]
fn difference_cores_are_not_capped_and_default_to_all() {
    assert_eq!(config(&vars([("CORES", "1024")])).cores.get(), 1024);
}

#[test]
fn difference_log_defaults_to_info() {
    assert_eq!(config(&vars([])).log, "info");
}

#[test]
fn difference_reset_streams_are_remembered() {
    let inbound = config(&on([])).inbound.unwrap();
    assert_eq!(inbound.connect.http2.max_concurrent_reset_streams, Some(10_000));
    assert_eq!(ClientParams::DEFAULT.max_concurrent_reset_streams, None);
}

#[test]
fn difference_unknown_variables_are_warned_of() {
    assert_eq!(warnings(&vars([("DESTINATION_SVC_ADDR", "localhost.:8086")])).len(), 1);
}

#[test]
fn the_control_plane_is_asked_where_discovery_says_so() {
    for side in ["INBOUND", "OUTBOUND"] {
        let discovery = format!("{side}_DISCOVERY");
        let config = config(&vars([
            (&discovery, "linkerd"),
            ("DESTINATION_SVC_ADDR", "linkerd-dst-headless.linkerd.svc.cluster.local.:8086"),
            ("DESTINATION_CONTEXT", r#"{"ns":"shop","nodeName":"a"}"#),
            ("DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local.,example.com"),
            ("DESTINATION_ALLOW_PLAINTEXT", "true"),
        ]));
        let control_plane = config.control_plane.unwrap();
        assert_eq!(control_plane.addr.port(), 8086);
        assert_eq!(control_plane.context, r#"{"ns":"shop","nodeName":"a"}"#);
        assert_eq!(control_plane.profile_suffixes.len(), 2);
        assert!(control_plane.allow_plaintext);
        let direction = config.inbound.or(config.outbound).unwrap();
        let Discovery { source, suffixes, networks } = direction.discovery.unwrap();
        assert_eq!((source, suffixes, networks), (DiscoverySource::Linkerd, vec![], vec![]));
        // Unless it is set.
        assert_eq!(direction.connect.protocol, EndpointProtocol::Same);
        let http2 = vars([
            (&discovery, "linkerd"),
            ("DESTINATION_SVC_ADDR", "a:1"),
            (&format!("{side}_CONNECT_PROTOCOL"), "http2"),
        ]);
        let config = support::config(&http2);
        let direction = config.inbound.or(config.outbound).unwrap();
        assert_eq!(direction.connect.protocol, EndpointProtocol::Http2);
        let message = format!("DESTINATION_SVC_ADDR: is unset, must be set for {discovery}=linkerd");
        assert_eq!(errors(&vars([(&discovery, "linkerd")])), [message]);
    }
}

#[test]
fn a_control_plane_that_is_not_asked_is_warned_of() {
    let expected = "is not used without INBOUND_DISCOVERY or OUTBOUND_DISCOVERY=linkerd";
    for (name, value) in [
        ("DESTINATION_SVC_ADDR", "a:1"),
        ("DESTINATION_CONTEXT", "x"),
        ("DESTINATION_PROFILE_SUFFIXES", "a.example"),
        ("DESTINATION_ALLOW_PLAINTEXT", "true"),
        ("CONTROL_STREAM_INITIAL_TIMEOUT", "1s"),
        ("CONTROL_STREAM_IDLE_TIMEOUT", "1s"),
    ] {
        assert_eq!(warnings(&on([(name, value)])), [format!("{name}: {expected}")]);
    }
}

#[test]
fn difference_attributes_of_spans_are_in_the_forms_of_their_variables() {
    let extra = "k8s.pod.ip=\"10.0.0.1\"\n\nservice.name=\"web\"\na=b=\nempty=\"\"\n";
    let all = [("TRACE_COLLECTOR_SVC_ADDR", "collector.example:4317"), ("TRACE_SERVICE_NAME", "proxy")];
    let attributes = |more: &[(&str, &str)], shared: Option<&str>| {
        let mut vars = on(all);
        vars.extend(more.iter().map(|(name, value)| (support::full(name), (*value).to_owned())));
        vars.extend(shared.map(|value| ("OTEL_RESOURCE_ATTRIBUTES".to_owned(), value.to_owned())));
        let traces = config(&vars).traces.unwrap();
        assert_eq!(traces.collector.to_string(), "collector.example:4317");
        traces.attributes.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(attributes(&[], None), "service.name:proxy");
    let extra = [("TRACE_EXTRA_ATTRIBUTES", extra)];
    assert_eq!(attributes(&extra, None), "a:b= empty: k8s.pod.ip:10.0.0.1 service.name:web");
    let shared = "service.name=shop%20a%2Cb, caf%C3%A9=%25,a=1,";
    assert_eq!(attributes(&extra, Some(shared)), "a:1 café:% empty: k8s.pod.ip:10.0.0.1 service.name:shop a,b");
    let mut unnamed = vars([all[0]]);
    assert_eq!(config(&unnamed).traces.unwrap().attributes, [("service.name".into(), "unknown_service".into())]);
    for malformed in ["a", "a=%", "a=%2", "a=%+1", "a=%ff", "=a", "a=b,c"] {
        unnamed.insert("OTEL_RESOURCE_ATTRIBUTES".to_owned(), malformed.to_owned());
        let expected =
            "OTEL_RESOURCE_ATTRIBUTES: is not used, since it is not name=value,name=value in percent-encoding";
        assert_eq!(warnings(&unnamed), [expected], "{malformed}");
        assert_eq!(loaded(&unnamed).config.traces.unwrap().attributes.len(), 1);
    }
    let line = "TRACE_EXTRA_ATTRIBUTES: is \"a=b\\nc\" (line 2 has no name and value), must be lines of name=value";
    assert_eq!(errors(&vars([all[0], ("TRACE_EXTRA_ATTRIBUTES", "a=b\nc")])), [line]);
}

#[test]
fn variables_of_opentelemetry_for_other_programs_are_left_alone() {
    for (name, value) in
        [("OTEL_RESOURCE_ATTRIBUTES", "a=%"), ("OTEL_RESOURCE_ATTRIBUTE", "a"), ("OTEL_SDK_DISABLED", "x")]
    {
        let mut vars = on([]);
        vars.insert(name.to_owned(), value.to_owned());
        assert_eq!(config(&vars), config(&on([])), "{name}");
    }
}

#[test]
fn newer_names_of_settings_that_we_have_are_read() {
    let vars = on([
        ("INBOUND_TCP_LISTEN_BACKLOG", "77"),
        ("OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", "3s"),
        ("MAX_IDLE_CONNS_PER_ENDPOINT", "7"),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4444"),
    ]);
    let loaded = loaded(&vars);
    assert_eq!(loaded.warnings, []);
    let (inbound, outbound) = (loaded.config.inbound.unwrap(), loaded.config.outbound.unwrap());
    assert_eq!((inbound.accept_backlog, inbound.connect.http1.max_idle), (77, 7));
    assert_eq!(outbound.connect.http1.max_connection_idle, Duration::from_secs(3));
    assert_eq!(outbound.listen_addr, "127.0.0.1:4444".parse().unwrap());
    let effective = effective(&vars, "INBOUND_ACCEPT_BACKLOG");
    assert_eq!(
        effective.to_string(),
        "LINKERD2_PROXY_INBOUND_ACCEPT_BACKLOG=77 (from LINKERD2_PROXY_INBOUND_TCP_LISTEN_BACKLOG)"
    );
}

#[test]
fn newer_names_are_the_ones_at_fault_and_yield_to_ours() {
    let wrong = on([("INBOUND_TCP_LISTEN_BACKLOG", "x")]);
    assert_eq!(errors(&wrong), ["INBOUND_TCP_LISTEN_BACKLOG: is \"x\", must be a whole number in 1..=65535"]);
    let both = on([("INBOUND_TCP_LISTEN_BACKLOG", "7"), ("INBOUND_ACCEPT_BACKLOG", "8")]);
    assert_eq!(loaded(&both).config.inbound.unwrap().accept_backlog, 8);
    assert_eq!(warnings(&both), ["INBOUND_TCP_LISTEN_BACKLOG: has no effect, INBOUND_ACCEPT_BACKLOG is set"]);
    let two = on([("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4444,[::1]:4444")]);
    assert_eq!(loaded(&two).config.outbound.unwrap().listen_addr, "127.0.0.1:4444".parse().unwrap());
    assert_eq!(warnings(&two), ["OUTBOUND_LISTEN_ADDRS: has several addresses, of which the first is listened on"]);
}

#[test]
fn settings_of_the_mesh_are_known_and_have_no_effect() {
    for name in ["TAP_SVC_NAME", "IDENTITY_DIR", "POLICY_SVC_ADDR", "INBOUND_PORTS_REQUIRE_TLS", "DESTINATION_SVC_NAME"]
    {
        let expected = format!("{name}: is linkerd2-proxy's and has no effect here");
        assert_eq!(warnings(&on([(name, "x")])), [expected]);
    }
}
