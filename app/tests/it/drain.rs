//! How the process ends.

use crate::support::{App, Endpoint, PATIENCE, admin, body, connect, get};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
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

/// Waits until the process says that it is not ready because it drains.
async fn until_draining(app: &App) {
    while admin(app.admin, "GET", "/ready", "").await != (503, "draining\n".to_owned()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn it_is_not_ready_from_the_signal_on_and_says_why_it_drains() {
    let mut endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    let mut client = connect(app.proxy).await;
    let response = tokio::spawn(body(client.send_request(get(), true).unwrap().0));
    endpoint.asked.recv().await.unwrap();
    // The workers that the request did not go to may not be connected yet.
    let until_ready = async {
        while admin(app.admin, "GET", "/ready", "").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, until_ready).await.expect("all workers are connected");
    app.terminate();
    timeout(PATIENCE, until_draining(&app)).await.expect("it is not ready");
    assert_eq!(admin(app.admin, "GET", "/live", "").await.0, 200);
    endpoint.answer.send_replace(true);
    assert_eq!(response.await.unwrap().unwrap(), b"answer");
    assert!(app.ended().await.success());
    app.logged(&["\"draining\"", "SIGTERM"]).await;
}

#[tokio::test]
async fn a_lame_duck_serves_new_connections_until_a_second_signal() {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let mut app = App::start(endpoint.addr, &[("LINKERD2_PROXY_SHUTDOWN_LAME_DUCK_PERIOD", "10m")]);
    app.terminate();
    timeout(PATIENCE, until_draining(&app)).await.expect("it is not ready");
    let mut client = connect(app.proxy).await;
    assert_eq!(body(client.send_request(get(), true).unwrap().0).await.unwrap(), b"answer");
    let started = Instant::now();
    let terminated = async {
        while !app.has_ended() {
            app.signal("-INT");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, terminated).await.expect("it ends at once");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_short_lame_duck_ends_by_itself() {
    let endpoint = Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[("LINKERD2_PROXY_SHUTDOWN_LAME_DUCK_PERIOD", "1s")]);
    let told = Instant::now();
    assert_eq!(admin(app.admin, "POST", "/shutdown", "").await.0, 202);
    assert!(app.ended().await.success());
    assert!(told.elapsed() >= Duration::from_secs(1), "{:?}", told.elapsed());
    app.logged(&["\"draining\"", "POST /shutdown"]).await;
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
