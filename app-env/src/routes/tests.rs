mod problems;

use super::*;
use crate::{ConnectTls, EndpointProtocol, HealthCheckRequest, TlsIdentity, load};
use http_h2::{ClientKeepAlive, FlowControl};

/// The direction's settings of connections, with variables by their names behind `CONNECT_`.
fn connect<const N: usize>(vars: [(&str, &str); N]) -> Connect {
    let mut all = BTreeMap::from([("LINKERD2_PROXY_OUTBOUND_ROUTES".to_owned(), "x".to_owned())]);
    all.extend(vars.map(|(name, value)| (format!("LINKERD2_PROXY_OUTBOUND_CONNECT_{name}"), value.to_owned())));
    load(&all).unwrap().config.outbound.unwrap().connect
}

fn parse(text: &str) -> Result<(Routes, Vec<Problem>), Vec<Problem>> {
    Routes::parse(text, &connect([]))
}

/// Routes that are read without any warning.
#[track_caller]
fn routes(text: &str) -> Routes {
    let (routes, warnings) = parse(text).unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(warnings, [], "{text}");
    routes
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn errors(text: &str) -> Vec<String> {
    lines(&parse(text).expect_err(text))
}

#[track_caller]
fn warnings(text: &str) -> Vec<String> {
    lines(&parse(text).unwrap_or_else(|errors| panic!("{errors:#?}")).1)
}

/// A file with the back ends a and b, and these routes.
fn file(routes: &str) -> String {
    format!("backends: {{a: {{endpoints: ['a:1']}}, b: {{endpoints: ['b:1']}}}}\nroutes:\n{routes}")
}

/// A file with one rule, which has these keys in line 5 and both back ends.
fn rule(keys: &str) -> String {
    file(&format!("- rules:\n  - backendRefs: [{{name: a}}, {{name: b}}]\n    {keys}\n"))
}

/// A file with one back end, which has these keys in line 4.
fn backend(keys: &str) -> String {
    format!(
        "backends:\n  a:\n    endpoints: [a.example:1]\n    {keys}\nroutes: [{{rules: [{{backendRefs: [{{name: a}}]}}]}}]\n"
    )
}

#[track_caller]
fn connects(keys: &str, base: &Connect) -> Connect {
    let (routes, warnings) = Routes::parse(&backend(keys), base).unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(warnings, [], "{keys}");
    routes.backends["a"].connect.clone()
}

const MANY: &str = "
backends:
  shop:
    endpoints: [10.0.0.1:8080, 'Shop.example:8080', '[::1]:80']
  canary: {endpoints: [10.0.0.2:8080]}
routes:
- name: shop
  hostnames: [Shop.Example, '*.shop.example']
  rules:
  - name: cart
    matches:
    - path: {type: Exact, value: /cart}
      method: GET
      headers: [{name: X-Env, value: canary}, {type: Exact, name: n, value: 1}]
    - path: {value: /carts/}
    backendRefs: [{name: shop, weight: 90}, {name: canary, weight: 0}]
    timeouts: {request: 10s, backendRequest: 250ms}
    retry: {attempts: 2, codes: [504, 502, 503]}
    rateLimit: {requestsPerSecond: 100, burst: 1000000}
  - matches:
    - method: {service: shop.v1.Orders, method: Get}
    - method: {type: Exact, service: shop.v1.Orders}
    - method: {method: Get}
      headers: [{name: a, value: b}]
    backendRefs: [{name: shop}]
    timeouts: {request: 0, backendRequest: 1s}
    retry: {codes: []}
    rateLimit: {requestsPerSecond: 1}
- rules:
  - backendRefs:
    - name: canary
";

#[test]
fn all_that_a_file_can_have_is_read() {
    let Routes { backends, routes } = routes(MANY);
    let shop: Vec<_> = backends["shop"].endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(shop, ["10.0.0.1:8080", "shop.example:8080", "[::1]:80"]);
    assert_eq!(backends["canary"].connect, connect([]));
    let header = |name: &str, value: &str| HeaderMatch { name: name.to_owned(), value: value.to_owned() };
    let grpc = |service: Option<&str>, method: Option<&str>| PathMatch::GrpcMethod {
        service: service.map(str::to_owned),
        method: method.map(str::to_owned),
    };
    let of = |path, method: Option<&str>, headers: Vec<_>| Match { path, method: method.map(str::to_owned), headers };
    let to = |name: &str, weight| BackendRef { name: name.to_owned(), weight };
    let millis = |millis| Some(Duration::from_millis(millis));
    let rate = |per_second: u32, burst: u32| {
        Some(RateLimit { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
    };
    let prefix = |path: &str| PathMatch::PathPrefix(path.to_owned());
    let expect = [
        Route {
            name: Some("shop".to_owned()),
            hostnames: ["shop.example", "*.shop.example"].map(|name| name.parse().unwrap()).into(),
            rules: vec![
                Rule {
                    name: Some("cart".to_owned()),
                    line: 10,
                    matches: vec![
                        of(
                            PathMatch::Exact("/cart".to_owned()),
                            Some("GET"),
                            vec![header("x-env", "canary"), header("n", "1")],
                        ),
                        of(prefix("/carts"), None, vec![]),
                    ],
                    backend_refs: vec![to("shop", 90), to("canary", 0)],
                    timeouts: Timeouts { request: millis(10_000), backend_request: millis(250) },
                    retry: Some(Retry { attempts: Some(2), gateway_errors: Some(true) }),
                    rate_limit: rate(100, 1_000_000),
                },
                Rule {
                    name: None,
                    line: 20,
                    matches: vec![
                        of(grpc(Some("shop.v1.Orders"), Some("Get")), None, vec![]),
                        of(grpc(Some("shop.v1.Orders"), None), None, vec![]),
                        of(grpc(None, Some("Get")), None, vec![header("a", "b")]),
                    ],
                    backend_refs: vec![to("shop", 1)],
                    timeouts: Timeouts { request: millis(0), backend_request: millis(1_000) },
                    retry: Some(Retry { attempts: None, gateway_errors: Some(false) }),
                    rate_limit: rate(1, 1),
                },
            ],
        },
        Route {
            name: None,
            hostnames: vec![],
            rules: vec![Rule {
                name: None,
                line: 30,
                matches: vec![of(prefix("/"), None, vec![])],
                backend_refs: vec![to("canary", 1)],
                timeouts: Timeouts::default(),
                retry: None,
                rate_limit: None,
            }],
        },
    ];
    assert_eq!(routes, expect);
}

#[test]
fn a_backend_overrides_what_the_direction_says() {
    let all = connects(
        "protocol: http1
    tls: {serverName: '[::1]', ca: /ca, cert: /cert, key: /key, insecureSkipVerify: false}
    connectTimeout: 1234ms
    backoff: {min: 1s, max: 2s, jitter: 0.5}
    tcp: {keepalive: 3s, userTimeout: 4s}
    maxConnections: 5
    dropRequestTrailers: true
    http1: {maxConnections: 6, maxIdle: 7, maxConnectionIdle: 8s}
    http2: {initialStreamWindowSize: 70000, initialConnectionWindowSize: 80000, keepAliveInterval: 9s,
      keepAliveTimeout: 10s, keepAliveWhileIdle: true, maxConcurrentResetStreams: 11, maxLocalErrorResetStreams: 12,
      maxFrameSize: 20000, maxHeaderListSize: 13, headerTableSize: 14, maxSendBufSize: 15, writeStallTimeout: 16s,
      handshakeTimeout: 17s, maxStreamsPerConnection: 18, maxConnectionIdle: 19s}",
        &connect([]),
    );
    let same = connect([
        ("PROTOCOL", "http1"),
        ("TLS", "on"),
        ("TLS_SERVER_NAME", "[::1]"),
        ("TLS_CA", "/ca"),
        ("TLS_CERT", "/cert"),
        ("TLS_KEY", "/key"),
        ("TIMEOUT", "1234ms"),
        ("EXP_BACKOFF_MIN", "1s"),
        ("EXP_BACKOFF_MAX", "2s"),
        ("EXP_BACKOFF_JITTER", "0.5"),
        ("KEEPALIVE", "3s"),
        ("USER_TIMEOUT", "4s"),
        ("DROP_REQUEST_TRAILERS", "true"),
        ("HTTP1_MAX_CONNECTIONS", "6"),
        ("HTTP1_MAX_IDLE", "7"),
        ("HTTP1_MAX_CONNECTION_IDLE", "8s"),
        ("HTTP2_INITIAL_STREAM_WINDOW_SIZE", "70000"),
        ("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "80000"),
        ("HTTP2_KEEP_ALIVE_INTERVAL", "9s"),
        ("HTTP2_KEEP_ALIVE_TIMEOUT", "10s"),
        ("HTTP2_KEEP_ALIVE_WHILE_IDLE", "true"),
        ("HTTP2_MAX_CONCURRENT_RESET_STREAMS", "11"),
        ("HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS", "12"),
        ("HTTP2_MAX_FRAME_SIZE", "20000"),
        ("HTTP2_MAX_HEADER_LIST_SIZE", "13"),
        ("HTTP2_HEADER_TABLE_SIZE", "14"),
        ("HTTP2_MAX_SEND_BUF_SIZE", "15"),
        ("HTTP2_WRITE_STALL_TIMEOUT", "16s"),
        ("HTTP2_HANDSHAKE_TIMEOUT", "17s"),
        ("HTTP2_MAX_STREAMS_PER_CONNECTION", "18"),
        ("HTTP2_MAX_CONNECTION_IDLE", "19s"),
    ]);
    assert_eq!(all, Connect { max_connections: 5, ..same.clone() });
    let request = |text: &str| connects(text, &connect([])).health_check.request;
    assert_eq!(request("healthCheck: 'http:/healthz'"), Some(HealthCheckRequest::Http("/healthz".to_owned())));
    assert_eq!(request("healthCheck: grpc:shop.Cart"), Some(HealthCheckRequest::Grpc("shop.Cart".to_owned())));
    assert_eq!(request(""), None);
    // A setting that a back end leaves out is the direction's.
    assert_eq!(connects("", &same), same);
    assert_eq!(connects("protocol: same", &same), Connect { protocol: EndpointProtocol::Same, ..same.clone() });
    assert_eq!(connects("tls: off", &same).tls, None);
    assert_eq!(connects("tls: on", &same).tls, same.tls);
    assert_eq!(connects("tls: on", &connect([])).tls, Some(ConnectTls::default()));
    let identity = TlsIdentity { cert: "/cert".into(), key: "/key".into() };
    let named =
        ConnectTls { server_name: Some("a.example".to_owned()), ca: Some("/ca".into()), ..ConnectTls::default() };
    let named = Some(ConnectTls { identity: Some(identity), ..named });
    assert_eq!(connects("tls: {serverName: a.example}", &same).tls, named);
}

#[test]
fn windows_and_keep_alive_are_completed_from_the_direction() {
    let fixed = |stream, connection| {
        Some(FlowControl::Fixed { initial_stream_window_size: stream, initial_connection_window_size: connection })
    };
    let adaptive = || connect([("HTTP2_ADAPTIVE_FLOW_CONTROL", "true")]);
    let sized = || connect([("HTTP2_INITIAL_STREAM_WINDOW_SIZE", "1"), ("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "2")]);
    for (keys, base, expect) in [
        ("adaptiveFlowControl: true", sized(), Some(FlowControl::Adaptive)),
        ("adaptiveFlowControl: false", sized(), fixed(1, 2)),
        ("initialStreamWindowSize: 3", sized(), fixed(3, 2)),
        ("initialConnectionWindowSize: 3", sized(), fixed(1, 3)),
        ("maxFrameSize: 16384", adaptive(), Some(FlowControl::Adaptive)),
        ("adaptiveFlowControl: false", adaptive(), Some(FlowControl::DEFAULT)),
        ("initialStreamWindowSize: 3", adaptive(), fixed(3, 1_048_576)),
    ] {
        assert_eq!(connects(&format!("http2: {{{keys}}}"), &base).http2.flow_control, expect, "{keys}");
    }
    let alive = |interval, timeout, while_idle| {
        let (interval, timeout) = (Duration::from_secs(interval), Duration::from_secs(timeout));
        Some(ClientKeepAlive { interval, timeout, while_idle })
    };
    let on = || connect([("HTTP2_KEEP_ALIVE_INTERVAL", "1s"), ("HTTP2_KEEP_ALIVE_TIMEOUT", "2s")]);
    for (keys, base, expect) in [
        ("keepAliveInterval: 3s", connect([]), alive(3, 20, false)),
        ("keepAliveInterval: 3s", on(), alive(3, 2, false)),
        ("keepAliveTimeout: 3s", on(), alive(1, 3, false)),
        ("keepAliveWhileIdle: true", on(), alive(1, 2, true)),
        ("keepAliveWhileIdle: false", connect([]), None),
    ] {
        assert_eq!(connects(&format!("http2: {{{keys}}}"), &base).http2.keep_alive, expect, "{keys}");
    }
}
