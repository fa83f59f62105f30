//! From variables to values: nothing set, everything set, each alone.

mod directions;

use crate::support::{Vars, add_needed, config, effective, full, loaded, on, vars};
use app_env::{
    AccessLogFormat, Backoff, Breaker, ClientAuth, ClientCert, ConnectHttp1, ConnectTls, Direction, Dns,
    EndpointProtocol, Forwarded, HealthCheck, HealthCheckRequest, LogFormat, Origin, Process, ProxyProtocol, RateLimit,
    Retry, ServerTls, Source, TcpParams, TlsIdentity, load, variables,
};
use http_h2::{ClientKeepAlive, ClientParams, FlowControl, KeepAlive, MaxConnectionAge, Protection, ServerParams};
use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Every variable with a value that is neither its default nor that of another one, but for `ROUTES`, which go without
/// `ENDPOINTS`.
fn everything() -> Vars {
    let mut all = vars([
        ("HTTP2_INITIAL_STREAM_WINDOW_SIZE", "10"),
        ("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "20"),
        ("DNS_MIN_TTL", "50s"),
        ("DNS_MAX_TTL", "70s"),
        ("DNS_NEGATIVE_HOLD", "80s"),
        ("ADMIN_LISTEN_ADDR", "127.0.0.3:1003"),
        ("SHUTDOWN_GRACE_PERIOD", "30s"),
        ("SHUTDOWN_LAME_DUCK_PERIOD", "5s"),
        ("UPGRADE_TIMEOUT", "90s"),
        ("SHUTDOWN_ENDPOINT_ENABLED", "false"),
        ("ADMIN_REMOTE_CONTROL", "true"),
        ("CORES", "40"),
        ("LOG", "warn,app=debug"),
        ("LOG_FORMAT", "json"),
        ("ACCESS_LOG", "apache"),
        ("ACCESS_LOG_FILE", "/var/log/access"),
        ("ACCESS_LOG_SAMPLE", "0.25"),
        ("ACCESS_LOG_ERRORS_ONLY", "true"),
        ("TRACE_COLLECTOR_SVC_ADDR", "collector.example:4317"),
        ("TRACE_SERVICE_NAME", "proxy"),
        ("TRACE_EXTRA_ATTRIBUTES", "a=\"b\""),
    ]);
    all.insert("OTEL_RESOURCE_ATTRIBUTES".to_owned(), "c=d".to_owned());
    for (direction, tens) in [("INBOUND", 1), ("OUTBOUND", 2)] {
        for (suffix, value) in [
            ("LISTEN_ADDR", format!("unix:/{tens}00")),
            ("LISTEN_MODE", format!("{tens}60")),
            ("ENDPOINTS", format!("a{tens}.example:80,[::{tens}]:81")),
            ("ACCEPT_BACKLOG", format!("{tens}01")),
            ("ACCEPT_PROXY_PROTOCOL_NETWORKS", format!("10.{tens}.0.0/16,fd0{tens}::/16")),
            ("DETECT_TIMEOUT", format!("{tens}48ms")),
            ("SERVER_HTTP1_HEADER_READ_TIMEOUT", format!("{tens}49ms")),
            ("SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "false".to_owned()),
            ("SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", format!("{tens}02")),
            ("SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", format!("{tens}03")),
            ("SERVER_HTTP2_KEEP_ALIVE_INTERVAL", format!("{tens}04ms")),
            ("SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", format!("{tens}05ms")),
            ("SERVER_HTTP2_MAX_CONCURRENT_STREAMS", format!("{tens}06")),
            ("SERVER_HTTP2_MAX_FRAME_SIZE", format!("{tens}00007")),
            ("SERVER_HTTP2_MAX_HEADER_LIST_SIZE", format!("{tens}08")),
            ("SERVER_HTTP2_HEADER_TABLE_SIZE", format!("{tens}09")),
            ("SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", format!("{tens}10")),
            ("SERVER_HTTP2_MAX_CONCURRENT_RESET_STREAMS", format!("{tens}67")),
            ("SERVER_HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS", format!("{tens}11")),
            ("SERVER_HTTP2_MAX_SEND_BUF_SIZE", format!("{tens}12")),
            ("SERVER_HTTP2_MAX_CONNECTION_AGE", format!("{tens}45ms")),
            ("SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE", format!("{tens}46ms")),
            ("SERVER_HTTP2_MAX_CONNECTION_IDLE", format!("{tens}47ms")),
            ("CONNECT_HTTP2_ADAPTIVE_FLOW_CONTROL", "false".to_owned()),
            ("CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE", format!("{tens}13")),
            ("CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", format!("{tens}14")),
            ("CONNECT_HTTP2_KEEP_ALIVE_INTERVAL", format!("{tens}15ms")),
            ("CONNECT_HTTP2_KEEP_ALIVE_TIMEOUT", format!("{tens}16ms")),
            ("CONNECT_HTTP2_KEEP_ALIVE_WHILE_IDLE", "true".to_owned()),
            ("CONNECT_HTTP2_MAX_CONCURRENT_RESET_STREAMS", format!("{tens}17")),
            ("CONNECT_HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS", format!("{tens}18")),
            ("CONNECT_HTTP2_MAX_FRAME_SIZE", format!("{tens}00019")),
            ("CONNECT_HTTP2_MAX_HEADER_LIST_SIZE", format!("{tens}20")),
            ("CONNECT_HTTP2_HEADER_TABLE_SIZE", format!("{tens}21")),
            ("CONNECT_HTTP2_MAX_SEND_BUF_SIZE", format!("{tens}22")),
            ("CONNECT_PROTOCOL", if tens == 1 { "http1" } else { "same" }.to_owned()),
            ("CONNECT_HTTP1_MAX_CONNECTIONS", format!("{tens}50")),
            ("CONNECT_HTTP1_MAX_IDLE", format!("{tens}51")),
            ("CONNECT_HTTP1_MAX_CONNECTION_IDLE", format!("{tens}52ms")),
            ("CONNECT_PROXY_PROTOCOL", format!("v{tens}")),
            ("CONNECT_DROP_REQUEST_TRAILERS", "true".to_owned()),
            ("HEALTH_CHECK", format!("http:/{tens}")),
            ("HEALTH_CHECK_INTERVAL", "2s".to_owned()),
            ("HEALTH_CHECK_TIMEOUT", "3s".to_owned()),
            ("HEALTH_CHECK_UNHEALTHY_THRESHOLD", "4".to_owned()),
            ("HEALTH_CHECK_HEALTHY_THRESHOLD", "5".to_owned()),
            ("CONNECT_TIMEOUT", format!("{tens}23ms")),
            ("CONNECT_HTTP2_HANDSHAKE_TIMEOUT", format!("{tens}53ms")),
            ("CONNECT_EXP_BACKOFF_MIN", format!("{tens}24ms")),
            ("CONNECT_EXP_BACKOFF_MAX", format!("{tens}25ms")),
            ("CONNECT_EXP_BACKOFF_JITTER", format!("{tens}.26")),
            ("ACCEPT_KEEPALIVE", format!("{tens}27s")),
            ("CONNECT_KEEPALIVE", format!("{tens}28s")),
            ("ACCEPT_USER_TIMEOUT", format!("{tens}29ms")),
            ("CONNECT_USER_TIMEOUT", format!("{tens}30ms")),
            ("HTTP_QUEUE_CAPACITY", format!("{tens}31")),
            ("HTTP_FAILFAST_TIMEOUT", format!("{tens}32ms")),
            ("HTTP_REQUEST_TIMEOUT", format!("{tens}33ms")),
            ("MAX_IN_FLIGHT", format!("{tens}34")),
            ("CONNECT_HTTP2_MAX_STREAMS_PER_CONNECTION", format!("{tens}35")),
            ("CONNECT_HTTP2_MAX_CONNECTION_IDLE", format!("{tens}36ms")),
            ("MAX_CONNECTIONS_PER_ENDPOINT", format!("{tens}37")),
            ("SLOW_START", format!("{tens}38ms")),
            ("DISCOVERY_IDLE_TIMEOUT", format!("{tens}54ms")),
            ("MAX_DESTINATIONS", format!("{tens}55")),
            ("BREAKER_CONSECUTIVE_FAILURES", format!("{tens}39")),
            ("BREAKER_MIN_EJECTION", format!("{tens}40ms")),
            ("BREAKER_MAX_EJECTION", format!("{tens}41s")),
            ("HTTP_RATE_LIMIT_PER_CLIENT", format!("{tens}68")),
            ("HTTP_RATE_LIMIT_BURST", format!("{tens}69")),
            ("HTTP_FORWARDED", if tens == 1 { "forwarded" } else { "x-forwarded-for" }.to_owned()),
            ("HTTP_RETRY_GATEWAY_ERRORS", "true".to_owned()),
            ("HTTP_RETRY_REFUSED_NON_IDEMPOTENT", "false".to_owned()),
            ("HTTP_RETRY_GRPC_UNAVAILABLE", "true".to_owned()),
            ("HTTP_RETRY_BUDGET_RATIO", format!("{tens}.42")),
            ("HTTP_RETRY_BUDGET_MIN_PER_SECOND", format!("{tens}43")),
            ("HTTP_RETRY_BUFFER_SIZE", format!("{tens}44")),
            ("SERVER_HTTP2_WRITE_STALL_TIMEOUT", format!("{tens}48ms")),
            ("SERVER_HTTP2_STREAM_IDLE_TIMEOUT", format!("{tens}49ms")),
            ("CONNECT_HTTP2_WRITE_STALL_TIMEOUT", format!("{tens}50ms")),
            ("MAX_BUFFERED_BYTES", format!("{tens}00000051")),
            ("MAX_CONNECTIONS", format!("{tens}60")),
            ("SERVER_HTTP2_HANDSHAKE_TIMEOUT", format!("{tens}61ms")),
            ("SERVER_HTTP2_HEADER_TIMEOUT", format!("{tens}62ms")),
            ("SERVER_HTTP2_MAX_PREMATURE_RESETS", format!("{tens}63")),
            ("SERVER_HTTP2_MAX_CONTROL_FRAMES", format!("{tens}64")),
            ("HTTP_MAX_HEADERS_COUNT", format!("{tens}65")),
            ("HTTP_MAX_URI_LENGTH", format!("{tens}66")),
            ("SERVER_TLS_CERT", format!("/{tens}48")),
            ("SERVER_TLS_KEY", format!("/{tens}49")),
            ("SERVER_TLS_HANDSHAKE_TIMEOUT", format!("{tens}50ms")),
            ("SERVER_TLS_CLIENT_CA", format!("/{tens}51")),
            ("SERVER_TLS_CLIENT_AUTH", "optional".to_owned()),
            ("SERVER_TLS_ALLOWED_CLIENTS", format!("a{tens}.example,*.b{tens}.example,spiffe://c{tens}/d")),
            ("SERVER_TLS_FORWARD_CLIENT_CERT", "true".to_owned()),
            ("CONNECT_TLS", "on".to_owned()),
            ("CONNECT_TLS_CA", format!("/{tens}52")),
            ("CONNECT_TLS_SERVER_NAME", format!("e{tens}.example")),
            ("CONNECT_TLS_CERT", format!("/{tens}53")),
            ("CONNECT_TLS_KEY", format!("/{tens}54")),
            ("CONNECT_TLS_INSECURE_SKIP_VERIFY", "false".to_owned()),
        ] {
            all.insert(full(&format!("{direction}_{suffix}")), value);
        }
    }
    all
}

/// A direction of [`everything`] as it is loaded.
fn everything_of(tens: u8) -> Direction {
    let n = |ones: u32| u32::from(tens) * 100 + ones;
    let large = |ones: u32| u32::from(tens) * 100_000 + ones;
    let size = |ones: u32| n(ones) as usize;
    let time = |ones: u32| millis(n(ones).into());
    let path = |ones: u32| PathBuf::from(format!("/{}", n(ones)));
    // Each field that is not set below has its default, which the test would notice.
    let mut direction = config(&on([])).inbound.unwrap();
    direction.listen_addr = format!("unix:/{tens}00").parse().unwrap();
    direction.listen_mode = Some(u32::from(tens) * 0o100 + 0o60);
    direction.endpoints =
        vec![format!("a{tens}.example:80").parse().unwrap(), format!("[::{tens}]:81").parse().unwrap()];
    direction.accept_backlog = n(1);
    direction.accept_proxy_protocol_networks =
        [format!("10.{tens}.0.0/16"), format!("fd0{tens}::/16")].map(|network| network.parse().unwrap()).into();
    direction.max_connections = size(60);
    direction.server_tls = Some(ServerTls {
        identity: TlsIdentity { cert: path(48), key: path(49) },
        handshake_timeout: time(50),
        client: Some(ClientCert {
            ca: path(51),
            auth: ClientAuth::Optional,
            allowed: Some(
                [format!("a{tens}.example"), format!("*.b{tens}.example"), format!("spiffe://c{tens}/d")]
                    .map(|name| name.parse().unwrap())
                    .into(),
            ),
            forward: true,
        }),
    });
    direction.detect_timeout = time(48);
    direction.server_http1_header_read_timeout = time(49);
    direction.server = ServerParams {
        flow_control: Some(FlowControl::Fixed {
            initial_stream_window_size: n(2),
            initial_connection_window_size: n(3),
        }),
        keep_alive: Some(KeepAlive { interval: time(4), timeout: time(5) }),
        max_concurrent_streams: Some(n(6)),
        max_frame_size: Some(large(7)),
        max_header_list_size: Some(n(8)),
        header_table_size: Some(n(9)),
        max_pending_accept_reset_streams: Some(size(10)),
        max_concurrent_reset_streams: Some(size(67)),
        max_local_error_reset_streams: Some(size(11)),
        max_send_buf_size: Some(size(12)),
        max_connection_age: Some(MaxConnectionAge { age: time(45), grace: time(46) }),
        max_connection_idle: Some(time(47)),
        write_stall_timeout: Some(time(48)),
        stream_idle_timeout: Some(time(49)),
        protection: Protection {
            handshake_timeout: time(61),
            header_timeout: time(62),
            max_premature_resets: n(63),
            max_control_frames: n(64),
        },
    };
    direction.accept = TcpParams { keepalive: Some(secs(n(27).into())), user_timeout: Some(time(29)) };
    direction.connect.protocol = if tens == 1 { EndpointProtocol::Http1 } else { EndpointProtocol::Same };
    direction.connect.proxy_protocol = Some(if tens == 1 { ProxyProtocol::V1 } else { ProxyProtocol::V2 });
    direction.connect.http1 =
        ConnectHttp1 { max_connections: size(50), max_idle: size(51), max_connection_idle: time(52) };
    direction.connect.http2 = ClientParams {
        flow_control: Some(FlowControl::Fixed {
            initial_stream_window_size: n(13),
            initial_connection_window_size: n(14),
        }),
        keep_alive: Some(ClientKeepAlive { interval: time(15), timeout: time(16), while_idle: true }),
        max_concurrent_reset_streams: Some(size(17)),
        max_local_error_reset_streams: Some(size(18)),
        max_frame_size: Some(large(19)),
        max_header_list_size: Some(n(20)),
        header_table_size: Some(n(21)),
        max_send_buf_size: Some(size(22)),
        write_stall_timeout: Some(time(50)),
    };
    direction.connect.timeout = time(23);
    direction.connect.handshake_timeout = time(53);
    direction.connect.backoff = Backoff { min: time(24), max: time(25), jitter: f64::from(tens) + 0.26 };
    direction.connect.tcp = TcpParams { keepalive: Some(secs(n(28).into())), user_timeout: Some(time(30)) };
    direction.connect.tls = Some(ConnectTls {
        ca: Some(path(52)),
        server_name: Some(format!("e{tens}.example")),
        identity: Some(TlsIdentity { cert: path(53), key: path(54) }),
        insecure_skip_verify: false,
    });
    direction.connect.max_connections = size(37);
    direction.connect.max_streams = Some(size(35));
    direction.connect.max_idle = time(36);
    direction.connect.drop_request_trailers = true;
    direction.connect.health_check = HealthCheck {
        request: Some(HealthCheckRequest::Http(format!("/{tens}"))),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(3),
        unhealthy_threshold: 4,
        healthy_threshold: 5,
    };
    direction.breaker =
        Breaker { consecutive_failures: n(39), min_ejection: time(40), max_ejection: secs(n(41).into()) };
    direction.slow_start = time(38);
    direction.discovery_idle_timeout = time(54);
    direction.max_destinations = size(55);
    direction.http_forwarded = Some(if tens == 1 { Forwarded::Forwarded } else { Forwarded::XForwardedFor });
    direction.http_rate_limit =
        Some(RateLimit { per_second: n(68).try_into().unwrap(), burst: n(69).try_into().unwrap() });
    direction.http_retry = Retry {
        gateway_errors: true,
        refused_non_idempotent: false,
        grpc_unavailable: true,
        budget_ratio: f64::from(tens) + 0.42,
        budget_min_per_second: n(43),
        buffer_size: size(44),
    };
    direction.http_queue_capacity = size(31);
    direction.http_failfast_timeout = time(32);
    direction.http_request_timeout = Some(time(33));
    direction.http_max_headers_count = size(65);
    direction.http_max_uri_length = size(66);
    direction.max_in_flight = size(34);
    direction.max_buffered_bytes = usize::from(tens) * 100_000_000 + 51;
    direction
}

#[test]
fn everything_set_reaches_its_own_field() {
    let loaded = loaded(&everything());
    let mut expected = config(&vars([]));
    expected.access_log = loaded.config.access_log.clone();
    expected.traces = loaded.config.traces.clone();
    expected.inbound = Some(everything_of(1));
    expected.outbound = Some(everything_of(2));
    expected.dns = Dns { min_ttl: Some(secs(50)), max_ttl: Some(secs(70)), negative_hold: secs(80) };
    expected.admin_listen_addr = "127.0.0.3:1003".parse().unwrap();
    expected.shutdown_grace_period = secs(30);
    expected.shutdown_lame_duck_period = secs(5);
    expected.upgrade_timeout = secs(90);
    (expected.shutdown_endpoint_enabled, expected.admin_remote_control) = (false, true);
    expected.cores = NonZeroUsize::new(40).unwrap();
    expected.log = "warn,app=debug".to_owned();
    expected.log_format = LogFormat::Json;
    let log = expected.access_log.as_ref().expect("it is on");
    let file = log.file.as_deref().and_then(Path::to_str);
    assert_eq!((log.format, file), (AccessLogFormat::Apache, Some("/var/log/access")));
    assert_eq!((log.sample, log.errors_only), (0.25, true));
    let traces = expected.traces.as_ref().expect("they are on");
    assert_eq!(traces.collector.to_string(), "collector.example:4317");
    let attributes = [("a", "b"), ("c", "d"), ("service.name", "proxy")];
    assert_eq!(traces.attributes, attributes.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(loaded.config, expected);
    // Both directions have windows of their own.
    let unused: Vec<_> = loaded.warnings.iter().map(|warning| warning.variable()).collect();
    assert_eq!(unused, [full("HTTP2_INITIAL_STREAM_WINDOW_SIZE"), full("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE")]);
}

#[test]
fn everything_means_every_variable() {
    let all = everything();
    // These are for a direction without endpoints.
    let instead = [
        "_ROUTES",
        "_DISCOVERY",
        "_DISCOVERY_SUFFIXES",
        "_DISCOVERY_NETWORKS",
        "_CONTROL_STREAM_INITIAL_TIMEOUT",
        "_CONTROL_STREAM_IDLE_TIMEOUT",
        "_DESTINATION_SVC_ADDR",
        "_DESTINATION_CONTEXT",
        "_DESTINATION_PROFILE_SUFFIXES",
        "_DESTINATION_ALLOW_PLAINTEXT",
    ];
    let (others, rest): (Vec<_>, Vec<_>) =
        variables().partition(|variable| instead.iter().any(|end| variable.name.ends_with(end)));
    for variable in rest {
        assert!(all.contains_key(&variable.name), "{} needs a value in this test", variable.name);
    }
    assert_eq!(all.len() + others.len(), variables().count());
}

#[test]
fn each_variable_alone_changes_the_config() {
    let base = config(&on([]));
    for (name, value) in everything() {
        // They have the default's value; `flow_control` and `tls` test `true`.
        if value == "false" {
            continue;
        }
        let mut vars = on([]);
        add_needed(&mut vars, &name);
        let without = config(&vars);
        vars.insert(name.clone(), value.clone());
        let with = config(&vars);
        assert_ne!(with, without, "{name}={value}");
        assert_ne!(with, base, "{name}={value}");
        let setting = loaded(&vars).settings.into_iter().find(|setting| setting.name == name).unwrap();
        assert_eq!((setting.value, setting.origin), (Some(value), Origin::Environment), "{name}");
    }
}

#[test]
fn settings_are_every_variable_in_table_order() {
    let names: Vec<_> = variables().map(|variable| variable.name).collect();
    for vars in [vars([]), on([]), everything()] {
        let settings: Vec<_> = loaded(&vars).settings.into_iter().map(|setting| setting.name).collect();
        assert_eq!(settings, names);
    }
}

#[test]
fn settings_print_in_the_grammar_of_their_variable() {
    let vars = on([
        ("INBOUND_CONNECT_TIMEOUT", " 10000ms "),
        ("INBOUND_MAX_IN_FLIGHT", "007"),
        ("LOG_FORMAT", "JSON"),
        ("OUTBOUND_ENDPOINTS", "API.example:80 , [0::1]:81"),
    ]);
    let text = |name| effective(&vars, name).to_string().replace("LINKERD2_PROXY_", "");
    assert_eq!(text("INBOUND_CONNECT_TIMEOUT"), "INBOUND_CONNECT_TIMEOUT=10s (environment)");
    assert_eq!(text("OUTBOUND_CONNECT_TIMEOUT"), "OUTBOUND_CONNECT_TIMEOUT=1s (default)");
    assert_eq!(text("INBOUND_MAX_IN_FLIGHT"), "INBOUND_MAX_IN_FLIGHT=7 (environment)");
    assert_eq!(text("LOG_FORMAT"), "LOG_FORMAT=json (environment)");
    assert_eq!(text("OUTBOUND_ENDPOINTS"), "OUTBOUND_ENDPOINTS=api.example:80,[::1]:81 (environment)");
    assert_eq!(text("INBOUND_CONNECT_KEEPALIVE"), "INBOUND_CONNECT_KEEPALIVE is unset (default)");
}

#[test]
fn what_settings_print_loads_as_the_same_config() {
    for vars in [on([]), everything()] {
        let first = loaded(&vars);
        let printed: Vars = first
            .settings
            .into_iter()
            // A variable that needs another one has a default, but is unset without that.
            .filter_map(|setting| setting.value.map(|value| (setting.name, value)))
            .collect();
        assert_eq!(loaded(&printed).config, first.config);
    }
}

#[test]
fn white_space_around_a_value_is_ignored() {
    for (name, value) in everything() {
        let mut padded = everything();
        padded.insert(name.clone(), format!("\t {value} \n"));
        assert_eq!(loaded(&padded).config, loaded(&everything()).config, "{name}");
    }
}

#[test]
fn zero_grace_and_port_are_values() {
    let config = config(&on([("SHUTDOWN_GRACE_PERIOD", "0"), ("INBOUND_LISTEN_ADDR", "127.0.0.1:0")]));
    assert_eq!(config.shutdown_grace_period, Duration::ZERO);
    assert_eq!(config.inbound.unwrap().listen_addr.tcp().unwrap().port(), 0);
}

#[test]
fn public_types_go_between_threads() {
    fn check<T: Clone + std::fmt::Debug + Send + Sync + 'static>() {}
    check::<app_env::Config>();
    check::<app_env::Loaded>();
    check::<app_env::Errors>();
    check::<app_env::Variable>();
    check::<app_env::Process>();
    check::<app_env::HostPort>();
    check::<app_env::EndpointAddr>();
    check::<app_env::StreamAddr>();
    check::<app_env::ClientName>();
}

#[test]
fn the_process_is_a_source_like_any_map() {
    let process: Vec<_> = std::env::vars_os().collect();
    assert_eq!(Process.vars(), process);
    let map = HashMap::from([("LINKERD2_PROXY_CORES", "3")]);
    assert_eq!(load(&map).unwrap().config.cores.get(), 3);
    let source: &dyn Source = &map;
    assert_eq!(load(source).unwrap().config.cores.get(), 3);
}
