//! How long connections of clients live.

use crate::support::{App, Endpoint, PATIENCE, admin, body, get};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

/// A client's connection, and how it ends.
async fn connect(addr: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (client, connection) = client::handshake(stream).await.unwrap();
    (client, tokio::spawn(connection))
}

/// Waits until a limit was reached once.
async fn reached(app: &App, limit: &str) {
    let line = format!("http2_connection_limit_total{{direction=\"outbound\",limit=\"{limit}\"}} 1\n");
    let reached = async {
        while !admin(app.admin, "GET", "/metrics", "").await.1.contains(&line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("the limit is reached");
}

#[tokio::test]
async fn old_connections_finish_their_requests() {
    let mut endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE", "2s")]);
    let (mut client, closed) = connect(app.proxy).await;
    let response = tokio::spawn(body(client.send_request(get(), true).unwrap().0));
    endpoint.asked.recv().await.unwrap();
    reached(&app, "max_connection_age").await;
    assert!(!closed.is_finished());
    endpoint.answer.send_replace(true);
    assert_eq!(response.await.unwrap().unwrap(), b"answer");
    // Long before the end of the grace, which is two minutes.
    timeout(PATIENCE, closed).await.expect("it closes").unwrap().expect("cleanly");
}

#[tokio::test]
async fn old_connections_are_closed_at_the_end_of_the_grace() {
    let mut endpoint = Endpoint::start().await;
    let settings = [
        ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE", "2s"),
        ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE", "100ms"),
    ];
    let app = App::start(endpoint.addr, &settings);
    let (mut client, closed) = connect(app.proxy).await;
    let response = client.send_request(get(), true).unwrap().0;
    endpoint.asked.recv().await.unwrap();
    assert!(timeout(PATIENCE, response).await.expect("it is cut off").is_err());
    let _ = timeout(PATIENCE, closed).await.expect("it closes").unwrap();
    reached(&app, "max_connection_age_grace").await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_IDLE", "100ms")]);
    let (_client, closed) = connect(app.proxy).await;
    timeout(PATIENCE, closed).await.expect("it closes").unwrap().expect("cleanly");
    reached(&app, "max_connection_idle").await;
}
