//! The admin server.

use crate::support::{App, Endpoint, PATIENCE, admin, body, connect, get};
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
    assert_eq!(admin(app.admin, "GET", "/ready", "").await.0, 503);
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
        "tcp_open_total{direction=\"outbound\",peer=\"dst\"} 2",
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
        "tcp_open_connections{direction=\"outbound\",peer=\"src\"} 1",
        "tcp_close_total{direction=\"outbound\",peer=\"src\"} 0",
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
    assert!(metrics.ends_with("# EOF\n"));
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
