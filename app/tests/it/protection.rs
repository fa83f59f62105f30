//! Clients that attack, and the proxy after them.

use crate::support::{App, Endpoint, PATIENCE, admin, body, connect, get};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Waits until a condition that is polled comes true.
async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let done = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, done).await.unwrap_or_else(|_| panic!("{what}"));
}

/// How often a limit was reached.
async fn limit(app: &App, name: &str) -> u64 {
    let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
    let start = format!("http2_connection_limit_total{{direction=\"outbound\",limit=\"{name}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&start)).expect("it is counted").parse().unwrap()
}

/// Waits until the proxy has closed a connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // Bytes that were sent and not read make it a reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_at_once() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let app = App::start(endpoint.addr, &[("LINKERD2_PROXY_OUTBOUND_MAX_CONNECTIONS", "2")]);
    let mut first = connect(app.proxy).await;
    let mut second = connect(app.proxy).await;
    for client in [&mut first, &mut second] {
        assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
    }
    for _ in 0..50 {
        closed(&mut TcpStream::connect(app.proxy).await.unwrap()).await;
    }
    assert_eq!(limit(&app, "max_connections").await, 50);
    assert_eq!(body(first.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
    drop(second);
    // There is a place as soon as the proxy knows that the client has gone.
    until("there is a place again", async || {
        let Ok(stream) = TcpStream::connect(app.proxy).await else { return false };
        let Ok((mut client, connection)) = h2::client::handshake(stream).await else { return false };
        tokio::spawn(async { _ = connection.await });
        match client.send_request(get(), true) {
            Ok((response, _)) => body(response).await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_is_left_of_clients_that_are_closed() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let settings = [
        ("LINKERD2_PROXY_OUTBOUND_DETECT_TIMEOUT", "100ms"),
        ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_HANDSHAKE_TIMEOUT", "100ms"),
        ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_HEADER_TIMEOUT", "100ms"),
        ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_PREMATURE_RESETS", "10"),
        ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONTROL_FRAMES", "100"),
        // So that all requests go on one connection.
        ("LINKERD2_PROXY_CORES", "1"),
    ];
    let app = App::start(endpoint.addr, &settings);
    let mut bystander = connect(app.proxy).await;
    assert_eq!(body(bystander.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
    let before = app.descriptors();

    let block = b"\0\0\x03\x01\x01\0\0\0\x01\x82\x86\x84";
    let pings = b"\0\0\x08\x06\0\0\0\0\0 a PING ".repeat(1_000);
    let resets: Vec<u8> = (1..200_u8)
        .step_by(2)
        .flat_map(|stream| {
            let head = [0, 0, 3, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x84];
            let reset = [0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8];
            [&head[..], &reset[..]].concat()
        })
        .collect();
    let attacks = [
        ("detect_timeout", Vec::new()),
        ("detect_timeout", PREFACE_AND_SETTINGS[..10].to_vec()),
        ("handshake_timeout", PREFACE_AND_SETTINGS[..30].to_vec()),
        ("header_timeout", [PREFACE_AND_SETTINGS, block].concat()),
        ("max_control_frames_ping", [PREFACE_AND_SETTINGS, &pings].concat()),
        ("max_premature_resets", [PREFACE_AND_SETTINGS, &resets].concat()),
    ];
    // They stay open on their side.
    let mut attackers = Vec::new();
    for (_, bytes) in attacks.iter().cycle().take(60) {
        let mut stream = TcpStream::connect(app.proxy).await.unwrap();
        // It may be closed before all is sent.
        let _ = stream.write_all(bytes).await;
        attackers.push(stream);
    }
    for stream in &mut attackers {
        closed(stream).await;
    }
    until("all descriptors are closed", async || app.descriptors() <= before).await;
    for (name, count) in [
        ("detect_timeout", 20),
        ("handshake_timeout", 10),
        ("header_timeout", 10),
        ("max_control_frames_ping", 10),
        ("max_premature_resets", 10),
    ] {
        assert_eq!(limit(&app, name).await, count, "{name}");
    }
    assert_eq!(body(bystander.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
}
