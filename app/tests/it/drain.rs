//! How the process ends.

use crate::support::{App, Endpoint, admin, body, connect, get};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const CONNECTIONS: usize = 10;
const STREAMS: usize = 100;

#[tokio::test]
async fn sigterm_lets_a_thousand_requests_finish_and_then_ends_the_process() {
    let mut endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    let mut responses = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = connect(app.proxy).await;
        for _ in 0..STREAMS {
            responses.push(tokio::spawn(body(client.send_request(get(), true).unwrap().0)));
        }
    }
    for _ in 0..CONNECTIONS * STREAMS {
        endpoint.asked.recv().await.unwrap();
    }
    app.terminate();
    while TcpStream::connect(app.proxy).await.is_ok() {
        tokio::task::yield_now().await;
    }
    endpoint.answer.send_replace(true);
    for response in responses {
        assert_eq!(response.await.unwrap().unwrap(), b"answer");
    }
    let answered = Instant::now();
    assert!(app.ended().await.success());
    // Not at the grace period, which is two minutes, nor after the five seconds that silent clients get.
    assert!(answered.elapsed() < Duration::from_secs(5), "{:?}", answered.elapsed());
}

/// Sends a request by hand and reads the response, but never answers a PING.
async fn ask_and_never_answer_ping(app: &App) -> TcpStream {
    let mut stream = TcpStream::connect(app.proxy).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // SETTINGS; HEADERS with END_STREAM and END_HEADERS: GET http / of the static table, and an authority.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    stream.write_all(&[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x01, 1, b'a']).await.unwrap();
    stream
}

#[tokio::test]
async fn grace_period_ends_what_does_not_end_by_itself() {
    let mut endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[("LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD", "1s")]);
    let _client = ask_and_never_answer_ping(&app).await;
    endpoint.asked.recv().await.unwrap();
    let told = Instant::now();
    app.terminate();
    assert!(app.ended().await.success());
    assert!(told.elapsed() >= Duration::from_secs(1), "the request was given its time");
}

#[tokio::test]
async fn client_that_never_answers_ping_does_not_hold_the_process() {
    let mut endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    let mut client = ask_and_never_answer_ping(&app).await;
    endpoint.asked.recv().await.unwrap();
    app.terminate();
    endpoint.answer.send_replace(true);
    // Long before the grace period, which is two minutes.
    assert!(app.ended().await.success());
    let mut seen = Vec::new();
    let _ = client.read_to_end(&mut seen).await;
    assert!(seen.windows(6).any(|bytes| bytes == b"answer"), "the response was whole");
}

#[tokio::test]
async fn shutdown_request_drains() {
    let mut endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    let mut client = connect(app.proxy).await;
    let response = tokio::spawn(body(client.send_request(get(), true).unwrap().0));
    endpoint.asked.recv().await.unwrap();
    assert_eq!(admin(app.admin, "POST", "/shutdown", "").await.0, 202);
    endpoint.answer.send_replace(true);
    assert_eq!(response.await.unwrap().unwrap(), b"answer");
    assert!(app.ended().await.success());
}
