//! WebSockets whose client and endpoint speak different versions: raw bytes on the side of HTTP/1.1, raw h2 on the other.

mod http1_endpoints;

use crate::{
    raw::Raw,
    support::{Asked, Endpoint, PROXY, Rig, collect, endpoint_params},
};
use bytes::Bytes;
use h2::{Reason, SendStream, client, ext::Protocol as Extended};
use http::{Method, Request, Response};
use http_h2::{ClientParams, MaxConnectionAge, ServerParams};
use proxy_http::{
    Protocol,
    proxy::{self},
    stats::{Peer as Side, StreamLimit},
};
use std::{future::poll_fn, time::Duration};
use tokio::{
    io::DuplexStream,
    task::yield_now,
    time::{Instant, sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);
const STALL: Duration = Duration::from_secs(5 * 60);
const IDLE: Duration = Duration::from_secs(60);

/// With the key and the answer of RFC 6455 section 1.3.
const UPGRADE: &str = "GET /chat?x HTTP/1.1|host: test.example|connection: keep-alive, Upgrade|upgrade: WebSocket|\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|sec-websocket-version: 13|content-length: 0|\
                       sec-websocket-protocol: chat|sec-websocket-extensions: permessage-deflate||";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Bytes that no head and no body of HTTP/1.1 may have.
pub(crate) const BYTES: &str = "\n\0content-length: 5\r\ncontent-length: 6\n\r\n\r\n";

/// An HTTP/2 endpoint that takes extended CONNECT.
async fn http2_endpoint(rig: &mut Rig) -> Endpoint {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let endpoint = Endpoint::build(rig.endpoint_ios.recv().await.unwrap(), &builder).await;
    while !rig.endpoints.is_ready() {
        yield_now().await;
    }
    endpoint
}

/// A client of HTTP/1.1 whose WebSocket an HTTP/2 endpoint has accepted.
async fn accepted(rig: &mut Rig, io: DuplexStream) -> (Raw, Asked, SendStream<Bytes>, Endpoint) {
    let mut endpoint = http2_endpoint(rig).await;
    let mut client = Raw::new(io);
    client.send(UPGRADE).await;
    let mut asked = endpoint.asked().await;
    let to = asked.answer();
    assert_eq!(client.head().await.status, 101);
    (client, asked, to, endpoint)
}

/// Nothing more comes, and no reset.
pub(crate) async fn ends(body: &mut h2::RecvStream) {
    assert_eq!(collect(body).await.unwrap(), (Vec::new(), None));
}

async fn received(asked: &mut Asked) -> Bytes {
    let data = asked.request.body_mut().data().await.unwrap().unwrap();
    asked.request.body_mut().flow_control().release_capacity(data.len()).unwrap();
    data
}

fn stopped(rig: &Rig, side: Side, limit: StreamLimit) -> u64 {
    rig.stats.transport(side).stream_limits().find(|(other, _)| *other == limit).unwrap().1
}

fn resets(rig: &Rig, side: Side) -> u64 {
    rig.stats.transport(side).resets().map(|(_, count)| count).sum()
}

pub(crate) async fn statuses(rig: &Rig) -> Vec<u16> {
    while rig.limits.in_flight() > 0 {
        yield_now().await;
    }
    rig.stats.responses().map(|responses| responses.status.as_u16()).collect()
}

#[tokio::test]
async fn of_http_1_1_they_pass_to_http_2() {
    let mut rig = Rig::defaults();
    let mut endpoint = http2_endpoint(&mut rig).await;
    let mut client = Raw::new(rig.client_io.take().unwrap());
    client.send(UPGRADE).await;
    let mut asked = endpoint.asked().await;
    let req = &asked.request;
    assert_eq!((req.method(), req.uri().to_string().as_str()), (&Method::CONNECT, "http://test.example/chat?x"));
    assert_eq!(req.extensions().get::<Extended>(), Some(&Extended::from_static("websocket")));
    let mut fields: Vec<_> =
        req.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            ("sec-websocket-extensions", "permessage-deflate"),
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-version", "13")
        ]
    );
    assert!(!req.body().is_end_stream());
    let rsp = Response::builder().header("sec-websocket-protocol", "chat");
    let mut to = asked.respond.send_response(rsp.body(()).unwrap(), false).unwrap();
    assert_eq!(
        client.until("\r\n\r\n").await.replace("\r\n", "|"),
        format!(
            "HTTP/1.1 101 Switching Protocols|sec-websocket-protocol: chat|sec-websocket-accept: {ACCEPT}|\
             connection: upgrade|upgrade: websocket||"
        )
    );
    for _ in 0..3 {
        client.send(BYTES).await;
        assert_eq!(received(&mut asked).await, BYTES.replace('|', "\r\n"));
        to.send_data(BYTES.into(), false).unwrap();
        assert_eq!(client.exactly(BYTES.len()).await, BYTES.as_bytes());
    }
    // Each direction ends by itself.
    client.shut_down().await;
    ends(asked.request.body_mut()).await;
    to.send_data("bye".into(), true).unwrap();
    assert_eq!(client.rest().await, "bye");
    assert_eq!(statuses(&rig).await, [200]);
}

#[tokio::test]
async fn the_end_of_an_http_2_endpoint_is_passed_on() {
    let mut rig = Rig::defaults();
    let io = rig.client_io.take().unwrap();
    let (mut client, mut asked, mut to, _endpoint) = accepted(&mut rig, io).await;
    to.send_data("bye".into(), true).unwrap();
    client.until("bye").await;
    assert!(!client.more().await, "the client is told");
    client.send("bye").await;
    assert_eq!(received(&mut asked).await, "bye");
    client.shut_down().await;
    ends(asked.request.body_mut()).await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn large_messages_pass_both_ways_between_the_versions() {
    const MIB: usize = 1 << 20;
    let bytes: Bytes = (0..MIB).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    let mut rig = Rig::defaults();
    let io = rig.client_io.take().unwrap();
    let (client, mut asked, mut to, _endpoint) = accepted(&mut rig, io).await;
    to.send_data(bytes.clone(), true).unwrap();
    let (mut near, mut far) = tokio::io::split(client.io);
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut far, &sent).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut far).await.unwrap();
    });
    let receiving = tokio::spawn(async move {
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut near, &mut all).await.unwrap();
        all
    });
    assert!(collect(asked.request.body_mut()).await.unwrap().0 == bytes);
    assert!(receiving.await.unwrap() == bytes);
    sending.await.unwrap();
}

#[tokio::test]
async fn what_an_http_2_endpoint_refuses_is_an_answer_like_others() {
    for status in [301, 403, 500] {
        let mut rig = Rig::defaults();
        let mut endpoint = http2_endpoint(&mut rig).await;
        let mut client = Raw::new(rig.client_io.take().unwrap());
        client.send(UPGRADE).await;
        let mut asked = endpoint.asked().await;
        let rsp = Response::builder().status(status).header("x-a", "1").body(()).unwrap();
        let mut to = asked.respond.send_response(rsp, false).unwrap();
        to.send_data("no ".into(), false).unwrap();
        ends(asked.request.body_mut()).await;
        to.send_data("way".into(), true).unwrap();
        let rsp = client.receive().await;
        assert_eq!((rsp.status, rsp.body.as_slice(), rsp.fields["x-a"].as_str()), (status, &b"no way"[..], "1"));
        assert!(!rsp.fields.contains_key("upgrade") && !rsp.fields.contains_key("sec-websocket-accept"));
        // The connection is one of HTTP still.
        client.send("GET / HTTP/1.1|host: a||").await;
        let mut asked = endpoint.asked().await;
        asked.answer().send_data("fine".into(), true).unwrap();
        assert_eq!(client.receive().await.body, b"fine");
    }
}

#[tokio::test]
async fn they_are_refused_where_the_endpoint_does_not_announce_them() {
    let mut rig = Rig::defaults();
    let mut endpoint = rig.endpoint().await;
    while !rig.endpoints.is_ready() {
        yield_now().await;
    }
    let mut client = Raw::new(rig.client_io.take().unwrap());
    client.send(UPGRADE).await;
    let rsp = client.receive().await;
    assert_eq!(rsp.status, 501);
    assert!(rsp.fields["proxy-error"].contains("WebSocket"), "{rsp:?}");
    client.send("GET / HTTP/1.1|host: a||").await;
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.method(), Method::GET, "it is the first");
    asked.answer().send_data("fine".into(), true).unwrap();
    assert_eq!(client.receive().await.body, b"fine");
}

#[tokio::test]
async fn they_are_refused_by_what_is_connected_when_it_is() {
    let mut rig = Rig::defaults();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    client.send(UPGRADE).await;
    while rig.limits.waiting() == 0 {
        yield_now().await;
    }
    let mut endpoint = rig.endpoint().await;
    assert_eq!(client.receive().await.status, 501);
    client.send("GET / HTTP/1.1|host: a||").await;
    assert_eq!(endpoint.asked().await.request.method(), Method::GET, "it is the first");
}

#[tokio::test]
async fn of_http_2_they_are_refused_where_an_endpoint_has_changed() {
    let mut rig = Rig::defaults();
    let first = http2_endpoint(&mut rig).await;
    let mut client = http2_client(&mut rig).await;
    first.kill();
    let mut second = rig.endpoint().await;
    let (response, _to) = client.send_request(extended("websocket").body(()).unwrap(), false).unwrap();
    assert_eq!(response.await.unwrap().status(), 501);
    let (_response, _) = client.send_request(crate::support::get(), true).unwrap();
    assert_eq!(second.asked().await.request.method(), Method::GET, "it is the first");
}

#[tokio::test]
async fn handshakes_that_http_2_has_no_form_for_are_400() {
    for (from, to) in [
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|", ""),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|", "sec-websocket-key: x|"),
        ("sec-websocket-version: 13|", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|"),
        ("host: test.example|", "host:|"),
    ] {
        let mut rig = Rig::defaults();
        let mut endpoint = http2_endpoint(&mut rig).await;
        let mut client = Raw::new(rig.client_io.take().unwrap());
        client.send(&UPGRADE.replace(from, to)).await;
        assert_eq!(client.receive().await.status, 400, "{to}");
        assert_eq!(rig.stats.transport(Side::Client).malformed(), 1);
        client.send("GET / HTTP/1.1|host: a||").await;
        assert_eq!(endpoint.asked().await.request.method(), Method::GET, "it is the first");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_frame_is_not_lost_to_a_client_that_sends_on() {
    let mut rig = Rig::defaults();
    let io = rig.client_io.take().unwrap();
    let (mut client, asked, mut to, _endpoint) = accepted(&mut rig, io).await;
    to.send_data("1009".into(), true).unwrap();
    drop((asked, to));
    client.until("1009").await;
    while client.more().await {}
    for _ in 0..3 {
        tokio::io::AsyncWriteExt::write_all(&mut client.io, b"more of a message").await.expect("it is read on");
        sleep(SECOND).await;
    }
    sleep(3 * SECOND).await;
    assert!(tokio::io::AsyncWriteExt::write_all(&mut client.io, b"more").await.is_err());
}

#[tokio::test]
async fn a_reset_of_an_http_2_endpoint_closes_the_client() {
    for kill in [false, true] {
        let mut rig = Rig::defaults();
        let io = rig.client_io.take().unwrap();
        let (mut client, _asked, mut to, endpoint) = accepted(&mut rig, io).await;
        to.send_data("part".into(), false).unwrap();
        client.until("part").await;
        if kill {
            endpoint.kill();
        } else {
            to.send_reset(Reason::INTERNAL_ERROR);
        }
        assert_eq!(client.rest().await, "");
        assert_eq!(statuses(&rig).await, [200]);
        assert_eq!((resets(&rig, Side::Client), resets(&rig, Side::Endpoint)), (0, 1));
    }
}

#[tokio::test]
async fn a_client_of_http_1_1_that_is_lost_is_a_reset() {
    for answered in [false, true] {
        let mut rig = Rig::defaults();
        let mut endpoint = http2_endpoint(&mut rig).await;
        let mut client = Raw::new(rig.client_io.take().unwrap());
        client.send(UPGRADE).await;
        let mut asked = endpoint.asked().await;
        if answered {
            let mut to = asked.answer();
            client.head().await;
            drop(client);
            // Until something is sent to it, it looks as if it had but ended.
            ends(asked.request.body_mut()).await;
            to.send_data("x".into(), false).unwrap();
            assert_eq!(poll_fn(|cx| to.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
        } else {
            drop(client);
            assert_eq!(poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_1_that_takes_nothing_is_closed() {
    let mut rig = Rig::defaults();
    let (io, served) = rig.connect(1_000);
    let (client, _asked, mut to, _endpoint) = accepted(&mut rig, io).await;
    let started = Instant::now();
    let sent = pump(&mut to).await;
    assert!(sent < 1 << 22, "it is held up after {sent} bytes");
    let reason = timeout(2 * STALL, poll_fn(|cx| to.poll_reset(cx))).await.expect("it is given up").unwrap();
    assert_eq!(reason, Reason::CANCEL);
    assert!((STALL..STALL + 3 * SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(stopped(&rig, Side::Client, StreamLimit::WriteStall), 1);
    served.await.unwrap().unwrap();
    assert!(client.rest().await.len() <= 1_000);
}

/// Sends for as long as there is window, and then for a second none.
async fn pump(to: &mut SendStream<Bytes>) -> usize {
    let mut sent = 0;
    while sent < 1 << 24 {
        to.reserve_capacity(16_384);
        if !matches!(timeout(SECOND, poll_fn(|cx| to.poll_capacity(cx))).await, Ok(Some(Ok(_)))) {
            break;
        }
        let capacity = to.capacity();
        to.send_data(vec![b'x'; capacity].into(), false).unwrap();
        sent += capacity;
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn they_are_idle_for_as_long_as_is_set() {
    let idling = ServerParams { stream_idle_timeout: Some(IDLE), ..ServerParams::DEFAULT };
    for (params, ends) in [(ServerParams::DEFAULT, false), (idling, true)] {
        let mut rig = Rig::new(&params, &ClientParams::DEFAULT, PROXY);
        let io = rig.client_io.take().unwrap();
        let (mut client, mut asked, mut to, _endpoint) = accepted(&mut rig, io).await;
        // A byte either way is enough.
        for _ in 0..3 {
            sleep(IDLE * 9 / 10).await;
            client.send("ping").await;
            assert_eq!(received(&mut asked).await, "ping");
            sleep(IDLE * 9 / 10).await;
            to.send_data("pong".into(), false).unwrap();
            client.until("pong").await;
        }
        let started = Instant::now();
        let reset = timeout(100 * IDLE, poll_fn(|cx| to.poll_reset(cx))).await;
        if ends {
            assert_eq!(reset.unwrap().unwrap(), Reason::CANCEL);
            assert!((IDLE..IDLE + SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
            assert_eq!(client.rest().await, "");
        } else {
            assert!(reset.is_err());
            client.send("ping").await;
            assert_eq!(received(&mut asked).await, "ping");
        }
        assert_eq!(stopped(&rig, Side::Client, StreamLimit::Idle), u64::from(ends));
    }
}

#[tokio::test(start_paused = true)]
async fn they_outlive_the_request_timeout_and_a_drain_but_not_its_grace() {
    let age = MaxConnectionAge { age: 100 * SECOND, grace: 30 * SECOND };
    let aged = ServerParams { max_connection_age: Some(age), ..ServerParams::DEFAULT };
    let timed = proxy::Params { request_timeout: Some(10 * SECOND), ..PROXY };
    let mut rig = Rig::new(&aged, &ClientParams::DEFAULT, timed);
    let io = rig.client_io.take().unwrap();
    let started = Instant::now();
    let (mut client, mut asked, _to, _endpoint) = accepted(&mut rig, io).await;
    sleep(115 * SECOND).await;
    client.send("ping").await;
    assert_eq!(received(&mut asked).await, "ping");
    assert_eq!(client.rest().await, "");
    assert!((120..=140).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

pub(crate) fn http1() -> Rig {
    Rig::to(Protocol::Http1, endpoint_params())
}

pub(crate) async fn http1_endpoint(rig: &mut Rig) -> Raw {
    Raw::next(&rig.endpoint_ios)
}

/// A client of HTTP/2 that knows that it may ask for a WebSocket.
async fn http2_client(rig: &mut Rig) -> client::SendRequest<Bytes> {
    let client = rig.client().await;
    timeout(SECOND, async {
        while !client.is_extended_connect_protocol_enabled() {
            yield_now().await;
        }
    })
    .await
    .expect("it is announced");
    client
}

fn extended(protocol: &'static str) -> http::request::Builder {
    let req = Request::builder().method(Method::CONNECT).uri("https://test.example/chat?x");
    req.extension(Extended::from_static(protocol)).header("sec-websocket-version", "13")
}
