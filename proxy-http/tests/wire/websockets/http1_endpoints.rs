//! WebSockets to endpoints of HTTP/1.1.

use super::{
    ACCEPT, BYTES, SECOND, STALL, UPGRADE, extended, http1, http1_endpoint, http2_client, http2_endpoint, pump, resets,
    statuses, stopped,
};
use crate::{
    raw::Raw,
    support::{PROXY, Rig, collect, endpoint_params, reset},
};
use bytes::Bytes;
use data_encoding::BASE64;
use h2::{Reason, SendStream};
use http::{Method, Response};
use http_h2::ClientParams;
use proxy_http::{
    Endpoints, Protocol,
    proxy::{Limits, retry},
    stats::{Peer as Side, StreamLimit},
};
use sha1_smol::Sha1;
use std::future::poll_fn;
use tokio::time::{Instant, timeout};

/// The value of a field.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The answer to the key of a request.
fn accept(head: &str) -> String {
    let key = field(head, "sec-websocket-key").expect("a key");
    assert_eq!(BASE64.decode(key.as_bytes()).unwrap().len(), 16, "{key}");
    let hash = Sha1::from(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")).digest();
    BASE64.encode(&hash.bytes())
}

fn switch(head: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols|connection: Upgrade|upgrade: websocket|sec-websocket-accept: {}|\
         sec-websocket-protocol: chat||",
        accept(head)
    )
}

type Http2End = (Response<h2::RecvStream>, SendStream<Bytes>, Raw);

/// A client of HTTP/2 whose WebSocket an HTTP/1.1 endpoint has accepted.
async fn accepted_by_http1(rig: &mut Rig) -> Http2End {
    let mut client = http2_client(rig).await;
    let mut endpoint = http1_endpoint(rig).await;
    let (response, to) = client.send_request(extended("websocket").body(()).unwrap(), false).unwrap();
    let head = endpoint.until("\r\n\r\n").await;
    endpoint.send(&switch(&head)).await;
    (response.await.unwrap(), to, endpoint)
}

#[tokio::test]
async fn of_http_2_they_pass_to_http_1_1() {
    let mut rig = http1();
    let mut client = http2_client(&mut rig).await;
    let mut endpoint = http1_endpoint(&mut rig).await;
    let req = extended("websocket").header("sec-websocket-key", "mine").header("content-length", "0");
    let req = req.header("sec-websocket-protocol", "chat").header("cookie", "a").header("cookie", "b");
    let (response, _) = client.send_request(req.body(()).unwrap(), false).unwrap();
    let head = endpoint.until("\r\n\r\n").await;
    let key = field(&head, "sec-websocket-key").unwrap();
    assert_eq!(
        head.replace("\r\n", "|"),
        format!(
            "GET /chat?x HTTP/1.1|host: test.example|sec-websocket-version: 13|sec-websocket-key: {key}|\
             cookie: a; b|sec-websocket-protocol: chat|connection: upgrade|upgrade: websocket||"
        )
    );
    assert!(key != "mine");
    drop(response);

    let mut rig = http1();
    let (mut rsp, mut to, mut endpoint) = accepted_by_http1(&mut rig).await;
    assert_eq!(rsp.status(), 200);
    let fields: Vec<_> = rsp.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(fields, [("sec-websocket-protocol", "chat")]);
    for _ in 0..3 {
        to.send_data(BYTES.into(), false).unwrap();
        assert_eq!(endpoint.exactly(BYTES.len()).await, BYTES.as_bytes());
        endpoint.send(BYTES).await;
        assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), BYTES);
    }
    // Each direction ends by itself.
    to.send_data("bye".into(), true).unwrap();
    endpoint.until("bye").await;
    assert!(!endpoint.more().await, "the endpoint is told");
    endpoint.send("bye").await;
    assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "bye");
    drop(endpoint);
    assert_eq!(collect(rsp.body_mut()).await.unwrap().0, b"");
    assert_eq!(statuses(&rig).await, [200]);
}

#[tokio::test]
async fn what_was_sent_before_the_answer_is_passed_on_after_it() {
    let mut rig = http1();
    let mut client = http2_client(&mut rig).await;
    let mut endpoint = http1_endpoint(&mut rig).await;
    let (response, mut to) = client.send_request(extended("websocket").body(()).unwrap(), false).unwrap();
    to.send_data("GET /hidden HTTP/1.1\r\n\r\n".into(), true).unwrap();
    let head = endpoint.until("\r\n\r\n").await;
    // The endpoint's first bytes come with its head.
    endpoint.send(&format!("{}hello", switch(&head))).await;
    assert_eq!(response.await.unwrap().body_mut().data().await.unwrap().unwrap(), "hello");
    assert_eq!(endpoint.rest().await, "GET /hidden HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn what_an_http_1_1_endpoint_answers_is_passed_on_unless_it_looks_like_success() {
    for (rsp, status, body) in [
        ("HTTP/1.1 403 Forbidden|content-length: 2||no", 403, "no"),
        ("HTTP/1.1 302 Found|location: /x|content-length: 0||", 302, ""),
        ("HTTP/1.1 503 Service Unavailable|transfer-encoding: chunked||2|no|0||", 503, "no"),
        ("HTTP/1.1 200 OK|content-length: 4||page", 502, ""),
        ("HTTP/1.1 204 No Content||", 502, ""),
        ("HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: websocket||", 502, ""),
        (
            "HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: websocket|\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=||",
            502,
            "",
        ),
        ("HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: h2c|sec-websocket-accept: ACCEPT||", 502, ""),
        ("HTTP/1.1 101 Switching Protocols|upgrade: websocket|sec-websocket-accept: ACCEPT||", 502, ""),
    ] {
        let mut rig = http1();
        let mut client = http2_client(&mut rig).await;
        let mut endpoint = http1_endpoint(&mut rig).await;
        let (response, mut to) = client.send_request(extended("websocket").body(()).unwrap(), false).unwrap();
        let head = endpoint.until("\r\n\r\n").await;
        endpoint.send(&rsp.replace("ACCEPT", &accept(&head))).await;
        let mut received = response.await.unwrap();
        assert_eq!(received.status().as_u16(), status, "{rsp}");
        assert_eq!(collect(received.body_mut()).await.unwrap().0, body.as_bytes(), "{rsp}");
        // Bytes that were meant for the tunnel go nowhere.
        let _ = to.send_data("GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n".into(), true);
        assert_eq!(statuses(&rig).await, [status]);
        assert!(endpoint.read.is_empty(), "{rsp}");
    }
}

#[tokio::test]
async fn http_1_1_has_no_other_extended_connect() {
    let mut rig = http1();
    let mut client = http2_client(&mut rig).await;
    let mut endpoint = http1_endpoint(&mut rig).await;
    let (response, _) = client.send_request(extended("connect-udp").body(()).unwrap(), false).unwrap();
    assert_eq!(response.await.unwrap().status(), 501);
    let (_response, _) = client.send_request(extended("WebSocket").body(()).unwrap(), false).unwrap();
    assert!(endpoint.until("\r\n\r\n").await.starts_with("GET /chat?x HTTP/1.1\r\n"), "it is the first");
}

#[tokio::test]
async fn a_client_of_http_2_that_goes_closes_the_endpoint() {
    for answered in [false, true] {
        let mut rig = http1();
        let mut client = http2_client(&mut rig).await;
        let mut endpoint = http1_endpoint(&mut rig).await;
        let (response, mut to) = client.send_request(extended("websocket").body(()).unwrap(), false).unwrap();
        let head = endpoint.until("\r\n\r\n").await;
        if answered {
            endpoint.send(&switch(&head)).await;
            let _rsp = response.await.unwrap();
            to.send_reset(Reason::CANCEL);
        } else {
            drop((response, to));
        }
        assert_eq!(endpoint.rest().await, "");
        assert_eq!(statuses(&rig).await, if answered { vec![200] } else { vec![] });
        assert_eq!((resets(&rig, Side::Client), resets(&rig, Side::Endpoint)), (1, 0), "the endpoint has done nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http_1_1_endpoint_that_takes_nothing_is_given_up() {
    let mut rig = http1();
    let (rsp, mut to, _endpoint) = accepted_by_http1(&mut rig).await;
    let started = Instant::now();
    // The size of the pipe, and the bytes on the way.
    let sent = pump(&mut to).await;
    assert!(sent < 1 << 22, "it is held up after {sent} bytes");
    let reason = timeout(2 * STALL, poll_fn(|cx| to.poll_reset(cx))).await.expect("it is given up").unwrap();
    assert_eq!(reason, Reason::CANCEL);
    assert!((STALL..STALL + 3 * SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(reset(collect(&mut rsp.into_body()).await), Reason::CANCEL);
    assert_eq!(stopped(&rig, Side::Endpoint, StreamLimit::WriteStall), 1);
}

#[tokio::test]
async fn a_handshake_on_a_connection_that_was_closed_is_sent_again() {
    let mut rig = http1();
    let mut client = http2_client(&mut rig).await;
    let mut first = http1_endpoint(&mut rig).await;
    let (response, _) = client.send_request(crate::support::get(), true).unwrap();
    first.until("\r\n\r\n").await;
    first.send("HTTP/1.1 200 OK|content-length: 2||ok").await;
    collect(response.await.unwrap().body_mut()).await.unwrap();
    let mut second = http1_endpoint(&mut rig).await;
    let (response, _to) = client.send_request(extended("websocket").body(()).unwrap(), false).unwrap();
    first.until("\r\n\r\n").await;
    drop(first);
    let head = second.until("\r\n\r\n").await;
    second.send(&switch(&head)).await;
    assert_eq!(response.await.unwrap().status(), 200);
    let retries: Vec<_> = rig.stats.retries().filter(|(_, count)| *count > 0).collect();
    assert_eq!(retries, [(retry::Reason::ConnectionLost, 1)]);
}

#[tokio::test]
async fn each_version_keeps_its_own_where_endpoints_speak_both() {
    let mut rig = Rig::defaults();
    let (opened, ios) = tokio::sync::mpsc::unbounded_channel();
    let connect = proxy_http::Connect::new(crate::support::Opens(opened), &ClientParams::DEFAULT).unwrap();
    let http1 = Endpoints::fixed(["endpoint"], &connect.protocol(Protocol::Http1), endpoint_params());
    let limits = std::sync::Arc::new(Limits::new(PROXY));
    let proxy = proxy_http::Proxy::by_protocol(rig.endpoints.clone(), http1, limits, std::sync::Arc::clone(&rig.stats));
    rig.proxy = proxy;
    let mut http2_endpoint = http2_endpoint(&mut rig).await;
    let mut http1_endpoint = Raw::next(&crate::raw::Opened::new(ios));

    let mut client = Raw::new(rig.connect(1 << 16).0);
    client.send(UPGRADE).await;
    let head = http1_endpoint.until("\r\n\r\n").await;
    assert_eq!(field(&head, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="), "as the client sent it");
    http1_endpoint.send(&switch(&head)).await;
    let head = client.until("\r\n\r\n").await;
    assert_eq!(field(&head, "sec-websocket-accept"), Some(ACCEPT));

    rig.client_io = Some(rig.connect(1 << 16).0);
    let mut client = http2_client(&mut rig).await;
    let (response, _to) = client.send_request(extended("websocket").body(()).unwrap(), false).unwrap();
    let mut asked = http2_endpoint.asked().await;
    assert_eq!(asked.request.method(), Method::CONNECT);
    let _to = asked.answer();
    assert_eq!(response.await.unwrap().status(), 200);
}
