//! HTTP/1.1 clients and endpoints that stop reading: each costs its own connection, and nobody else anything.

use crate::{
    raw::Raw,
    support::{Asked, Endpoint, PROXY, Rig, collect, endpoint_params, get},
};
use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, StatusCode};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    BufferLimit, Protocol,
    stats::{Peer as Side, StreamLimit},
};
use std::{future::poll_fn, time::Duration};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);
const STALL: Duration = Duration::from_secs(5 * 60);
const IDLE: Duration = Duration::from_secs(60);
const IDLING: ServerParams = ServerParams { stream_idle_timeout: Some(IDLE), ..ServerParams::DEFAULT };

fn stopped(rig: &Rig, side: Side, limit: StreamLimit) -> u64 {
    rig.stats.transport(side).stream_limits().find(|(other, _)| *other == limit).unwrap().1
}

/// A client over a pipe of a few bytes, so that it soon holds up its sender when it does not read.
fn narrow(rig: &Rig) -> Raw {
    Raw::new(rig.connect(1_000).0)
}

/// Sends chunks for as long as there is window, and then for a second none.
async fn pump(to: &mut SendStream<Bytes>, chunk: usize, most: usize) -> usize {
    let mut sent = 0;
    while sent < most {
        to.reserve_capacity(chunk);
        while to.capacity() < chunk {
            if timeout(SECOND, poll_fn(|cx| to.poll_capacity(cx))).await.is_err() {
                return sent;
            }
        }
        to.send_data(vec![b'x'; chunk].into(), false).unwrap();
        sent += chunk;
    }
    sent
}

/// A stream whose client reads nothing of the response.
async fn unread(rig: &Rig, endpoint: &mut Endpoint) -> (Raw, Asked) {
    let mut client = narrow(rig);
    client.send("GET / HTTP/1.1|host: a||").await;
    (client, endpoint.asked().await)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_closed() {
    let mut rig = Rig::defaults();
    let mut endpoint = rig.endpoint().await;
    let (client, mut asked) = unread(&rig, &mut endpoint).await;
    let started = Instant::now();
    let mut body = asked.answer();
    assert!(pump(&mut body, 16_384, 1 << 24).await < 1 << 23, "it is held up");
    let reason = timeout(2 * STALL, poll_fn(|cx| body.poll_reset(cx))).await.expect("it is given up").unwrap();
    assert_eq!(reason, h2::Reason::CANCEL);
    assert!((STALL..STALL + 3 * SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(stopped(&rig, Side::Client, StreamLimit::WriteStall), 1);
    assert!(!client.rest().await.ends_with("0\r\n\r\n"), "it does not look whole");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_trailers_is_closed() {
    let mut rig = Rig::defaults();
    let mut endpoint = rig.endpoint().await;
    let (io, served) = rig.connect(1_000);
    let mut client = Raw::new(io);
    client.send("GET / HTTP/1.1|host: a|te: trailers||").await;
    let started = Instant::now();
    let mut body = endpoint.asked().await.answer();
    body.send_data("body".into(), false).unwrap();
    let large = "y".repeat(30_000).parse().unwrap();
    body.send_trailers(HeaderMap::from_iter([(HeaderName::from_static("x-large"), large)])).unwrap();
    timeout(2 * STALL, served).await.expect("it is given up").unwrap().unwrap();
    assert!((STALL..STALL + 3 * SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(stopped(&rig, Side::Client, StreamLimit::WriteStall), 1);
    let rest = client.rest().await;
    assert!(rest.contains("0\r\nx-large: yyy") && rest.ends_with('y'), "it does not look whole");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_slow_but_alive_goes_on() {
    let mut rig = Rig::defaults();
    let mut endpoint = rig.endpoint().await;
    let (mut client, mut asked) = unread(&rig, &mut endpoint).await;
    asked.answer().send_data(vec![b'x'; 8_000].into(), true).unwrap();
    for _ in 0..6 {
        sleep(STALL * 9 / 10).await;
        client.exactly(1_000).await;
    }
    client.until("0\r\n\r\n").await;
    assert_eq!(stopped(&rig, Side::Client, StreamLimit::WriteStall), 0);
}

#[tokio::test(start_paused = true)]
async fn small_frames_that_nobody_reads_end_no_connection_of_others() {
    let mut rig = Rig::defaults();
    let mut builder = h2::server::Builder::new();
    builder.initial_connection_window_size(1 << 24);
    let mut endpoint = Endpoint::build(rig.endpoint_ios.recv().await.unwrap(), &builder).await;
    let (_client, mut asked) = unread(&rig, &mut endpoint).await;
    let mut body = asked.answer();
    // More frames than a connection may have unread.
    assert!(pump(&mut body, 1, 300_000).await >= 200_000);

    let mut other = rig.client().await;
    let (response, _) = other.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
    let mut response = timeout(SECOND, response).await.expect("it is not held up").unwrap();
    assert_eq!(collect(response.body_mut()).await.unwrap().0, b"answer");
}

#[tokio::test(start_paused = true)]
async fn readers_that_stop_do_not_starve_others() {
    let mut rig = Rig::with_one_connection(&ClientParams::DEFAULT, BufferLimit::default());
    let mut endpoint = rig.endpoint().await;
    let mut stopped = Vec::new();
    // Their windows come to more than twice the connection's.
    for _ in 0..6 {
        let (client, mut asked) = unread(&rig, &mut endpoint).await;
        let mut body = asked.answer();
        pump(&mut body, 16_384, 1 << 24).await;
        stopped.push((client, asked, body));
    }
    let mut other = rig.client().await;
    let (response, _) = other.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    let sending = tokio::spawn(async move {
        let sent = pump(&mut body, 16_384, 1 << 20).await;
        body.send_data(Bytes::new(), true).unwrap();
        sent
    });
    let mut response = timeout(SECOND, response).await.expect("it is answered").unwrap();
    let mut received = 0;
    while received < 1 << 20 {
        let data = timeout(SECOND, response.body_mut().data()).await.expect("it goes on").unwrap().unwrap();
        response.body_mut().flow_control().release_capacity(data.len()).unwrap();
        received += data.len();
    }
    assert_eq!(sending.await.unwrap(), 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn idle_requests_are_closed() {
    let mut rig = Rig::new(&IDLING, &ClientParams::DEFAULT, PROXY);
    let mut endpoint = rig.endpoint().await;
    let mut client = Raw::new(rig.client_io.take().unwrap());
    // Silence between requests is none of its concern.
    sleep(SECOND).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
    client.receive().await;
    sleep(5 * IDLE).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    let mut asked = endpoint.asked().await;
    let started = Instant::now();
    assert_eq!(client.rest().await, "");
    assert!((IDLE..IDLE + SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap();
    assert_eq!(stopped(&rig, Side::Client, StreamLimit::Idle), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_nothing_is_given_up() {
    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let mut client = rig.client().await;
    let (response, mut to) = client.send_request(crate::support::post(), false).unwrap();
    // It reads the pipe's worth, and not a byte more.
    let _endpoint = rig.endpoint_ios.recv().await.unwrap();
    let started = Instant::now();
    assert!(pump(&mut to, 16_384, 1 << 24).await < 1 << 23, "it is held up");
    let rsp = timeout(2 * STALL, response).await.expect("it is answered").unwrap();
    assert_eq!(rsp.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!((STALL..STALL + 3 * SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(stopped(&rig, Side::Endpoint, StreamLimit::WriteStall), 1);
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_count() {
    for (sent, malformed) in [
        ("POST / HTTP/1.1|host: a|content-length: 1|transfer-encoding: chunked||0||", 1),
        ("GET / HTTP/1.1||", 1),
        ("GET / HTTP/1.1|host: a||", 0),
    ] {
        let rig = Rig::defaults();
        let (io, _served) = rig.connect(1 << 16);
        let mut client = Raw::new(io);
        client.io.write_all(sent.replace('|', "\r\n").as_bytes()).await.unwrap();
        if malformed > 0 {
            assert!(client.rest().await.starts_with("HTTP/1.1 400 "));
        }
        assert_eq!(rig.stats.transport(Side::Client).malformed(), malformed, "{sent}");
    }
}
