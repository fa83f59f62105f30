//! The admin server.

use crate::support::{App, Endpoint, PATIENCE, admin, body, connect, get};
use http::Request;
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Asks until the status is `expected`.
async fn until(app: &App, path: &str, expected: u16) {
    let started = Instant::now();
    while admin(app.admin, "GET", path, "").await.0 != expected {
        assert!(started.elapsed() < PATIENCE, "{path} never becomes {expected}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn ready_follows_the_endpoint_and_live_does_not() {
    let addr = {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap()
    };
    let app = App::start(addr, &[("LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "100ms")]);
    assert_eq!(admin(app.admin, "GET", "/live", "").await.0, 200);
    let (status, body) = admin(app.admin, "GET", "/ready", "").await;
    assert_eq!(status, 503);
    assert!(body.contains("\noutbound: not every worker can reach an endpoint; /destinations says why\n"), "{body}");
    let endpoint = Endpoint::start().await;
    drop(app);
    let app = App::start(endpoint.addr, &[]);
    until(&app, "/ready", 200).await;
}

#[tokio::test]
async fn metrics_count_requests_responses_and_connections() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let app = App::start(endpoint.addr, &[]);
    let mut client = connect(app.proxy).await;
    for _ in 0..3 {
        assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
    }
    // A response is counted when its stream's task is done, just after its last byte; each of two workers connects.
    let expected = [
        "response_total{direction=\"outbound\",status_code=\"200\",classification=\"success\",grpc_status=\"\"} 3",
        "tcp_open_total{direction=\"outbound\",peer=\"dst\",tls=\"false\"} 2",
    ];
    let started = Instant::now();
    let metrics = loop {
        let (status, metrics) = admin(app.admin, "GET", "/metrics", "").await;
        assert_eq!(status, 200);
        if expected.iter().all(|line| metrics.contains(line)) {
            break metrics;
        }
        assert!(started.elapsed() < PATIENCE, "{metrics}");
    };
    for line in [
        "request_total{direction=\"outbound\"} 3",
        "response_latency_ms_count{direction=\"outbound\"} 3",
        "response_latency_ms_bucket{le=\"+Inf\",direction=\"outbound\"} 3",
        "tcp_open_connections{direction=\"outbound\",peer=\"src\",tls=\"false\"} 1",
        "tcp_close_total{direction=\"outbound\",peer=\"src\",tls=\"false\"} 0",
        "tcp_open_connections_limit{direction=\"outbound\"} 100000",
        "http_in_flight_limit{direction=\"outbound\"} 100000",
        "http_proxy_errors_total{direction=\"outbound\",proxy_error=\"no_endpoint\"} 0",
        "response_latency_ms_bucket{le=\"0.1\",direction=\"outbound\"} ",
        "# TYPE request_total counter",
        concat!("proxy_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",commit=\""),
        "http_in_flight{direction=\"outbound\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    for name in [
        "tcp_read_bytes_total{",
        "tcp_write_bytes_total{",
        "http_malformed_total{",
        "process_cpu_seconds_total ",
        "process_open_fds ",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
}

/// The head and the body of the metrics page, for a scraper that sends some fields.
async fn scrape(app: &App, fields: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(app.admin).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut rsp = Vec::new();
    stream.read_to_end(&mut rsp).await.unwrap();
    let end = rsp.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = rsp.split_off(end + 4);
    (String::from_utf8(rsp).unwrap().to_ascii_lowercase(), body)
}

#[tokio::test]
async fn metrics_come_in_the_form_that_is_asked_for() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[]);
    let (head, body) = scrape(&app, "").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4") && !head.contains("content-encoding"), "{head}");
    assert!(!String::from_utf8(body).unwrap().contains("# EOF"));
    let (head, body) = scrape(&app, "accept: application/openmetrics-text; version=1.0.0\r\n").await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("# TYPE request counter\n") && body.ends_with("# EOF\n"), "{body}");
    let (head, body) = scrape(&app, "accept-encoding: gzip\r\n").await;
    assert!(head.contains("content-encoding: gzip") && body.starts_with(&[0x1f, 0x8b]), "{head}");
}

#[tokio::test]
async fn requests_that_go_no_further_are_counted_with_their_answers() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[]);
    let mut client = connect(app.proxy).await;
    let long = Request::get(format!("http://test.example/{}", "p".repeat(9_000)));
    // Above the size that is announced, and below the size that h2 refuses by itself.
    let large = Request::get("http://test.example/").header("x-large", "v".repeat(20_000));
    for (request, status) in [(long, 414), (large, 431)] {
        let response = client.send_request(request.body(()).unwrap(), true).unwrap().0;
        assert_eq!(response.await.unwrap().status(), status);
    }
    let mut raw = TcpStream::connect(app.proxy).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await.unwrap();
    raw.read_to_end(&mut Vec::new()).await.unwrap();
    for (status, error) in [(414, "uri_too_long"), (431, "head_too_large"), (400, "bad_request")] {
        let labels = format!("status_code=\"{status}\",classification=\"success\",grpc_status=\"\"");
        app.counted(&format!("response_total{{direction=\"outbound\",{labels}}} 1")).await;
        app.counted(&format!("http_proxy_errors_total{{direction=\"outbound\",proxy_error=\"{error}\"}} 1")).await;
    }
    app.counted("request_total{direction=\"outbound\"} 3").await;
}

#[tokio::test]
async fn log_level_is_shown_and_changed() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[]);
    assert_eq!(admin(app.admin, "GET", "/proxy-log-level", "").await, (200, "info\n".to_owned()));
    assert_eq!(admin(app.admin, "PUT", "/proxy-log-level", "warn,app=debug\n").await.0, 200);
    let (_, level) = admin(app.admin, "GET", "/proxy-log-level", "").await;
    assert!(level.contains("app=debug"), "{level}");
    let (status, message) = admin(app.admin, "PUT", "/proxy-log-level", "a=b=c").await;
    assert_eq!(status, 400);
    assert!(message.contains("a=b=c"), "{message}");
    assert_eq!(admin(app.admin, "GET", "/proxy-log-level", "").await.1, level, "a bad filter changes nothing");
}

#[tokio::test]
async fn config_is_json_with_origins() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[]);
    let (_, config) = admin(app.admin, "GET", "/config", "").await;
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let cores = &config["LINKERD2_PROXY_CORES"];
    assert_eq!((&cores["value"], &cores["origin"]), (&"2".into(), &"environment".into()));
    assert_eq!(config["LINKERD2_PROXY_LOG"]["origin"], "default");
}

#[tokio::test]
async fn unknown_pages_and_methods_are_told_apart() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[]);
    assert_eq!(admin(app.admin, "GET", "/", "").await.0, 404);
    assert_eq!(admin(app.admin, "GET", "/shutdown", "").await.0, 405);
    assert_eq!(admin(app.admin, "DELETE", "/metrics", "").await.0, 405);
}

/// An address of this host that is not on loopback. A datagram socket finds it, and sends nothing. `None`: there is none.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // RFC 5737.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

#[tokio::test]
async fn other_hosts_may_look_and_not_touch() {
    let Some(ip) = other_address() else { return };
    let endpoint = Endpoint::start().await;
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let settings = [("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", listen)];
        let app = App::start(endpoint.addr, &settings);
        let other = SocketAddr::new(ip, app.admin.port());
        let local = SocketAddr::new([127, 0, 0, 1].into(), app.admin.port());
        for (method, path) in [("PUT", "/proxy-log-level"), ("POST", "/shutdown")] {
            let (status, reason) = admin(other, method, path, "warn").await;
            assert!(status == 403 && reason.contains("ADMIN_REMOTE_CONTROL"), "{listen} {path}: {status} {reason}");
        }
        assert_eq!(admin(other, "GET", "/live", "").await.0, 200);
        assert_eq!(admin(other, "GET", "/proxy-log-level", "").await, (200, "info\n".to_owned()));
        assert_eq!(admin(local, "PUT", "/proxy-log-level", "warn").await.0, 200, "{listen}");
        assert_eq!(admin(local, "POST", "/shutdown", "").await.0, 202, "{listen}");
    }
}

#[tokio::test]
async fn other_hosts_may_touch_what_a_variable_allows() {
    let Some(ip) = other_address() else { return };
    let endpoint = Endpoint::start().await;
    let settings = [("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "0.0.0.0:0"), ("LINKERD2_PROXY_ADMIN_REMOTE_CONTROL", "true")];
    let mut app = App::start(endpoint.addr, &settings);
    let other = SocketAddr::new(ip, app.admin.port());
    assert_eq!(admin(other, "PUT", "/proxy-log-level", "info").await.0, 200);
    assert_eq!(admin(other, "POST", "/shutdown", "").await.0, 202);
    assert!(app.ended().await.success());
}

#[tokio::test]
async fn browsers_and_a_variable_are_reasons_to_refuse_as_well() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[("LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED", "false")]);
    let (status, reason) = admin(app.admin, "POST", "/shutdown", "").await;
    assert!(status == 403 && reason.contains("SHUTDOWN_ENDPOINT_ENABLED"), "{status} {reason}");
    let app = App::start(endpoint.addr, &[]);
    let mut stream = TcpStream::connect(app.admin).await.unwrap();
    let req = "POST /shutdown HTTP/1.1\r\nhost: localhost\r\norigin: http://site.example\r\nconnection: close\r\n\r\n";
    stream.write_all(req.as_bytes()).await.unwrap();
    let mut rsp = String::new();
    stream.read_to_string(&mut rsp).await.unwrap();
    assert!(rsp.starts_with("HTTP/1.1 403 "), "{rsp}");
}
