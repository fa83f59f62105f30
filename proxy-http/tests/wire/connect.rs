//! CONNECT: to the next proxy, which each endpoint is here, from clients and to endpoints of both versions.

use crate::{
    raw::Raw,
    support::{PROXY, Rig, endpoint_params},
    websockets::{BYTES, ends, http1, http1_endpoint, statuses},
};
use h2::Reason;
use http::{Method, Request, Response};
use http_h2::{ClientParams, MaxConnectionAge, ServerParams};
use proxy_http::{Endpoints, Protocol, proxy, stats::Peer as Side};
use std::{future::poll_fn, time::Duration};
use tokio::time::{Instant, sleep};

const CONNECT: &str = "CONNECT test.example:443 HTTP/1.1|host: test.example:443|proxy-authorization: x|\
                       proxy-connection: keep-alive||";
/// With lengths, which say nothing here.
const OK: &str = "HTTP/1.1 200 Connection established|content-length: 5|transfer-encoding: chunked|x-a: 1||";

fn connect() -> Request<()> {
    Request::connect("test.example:443").body(()).unwrap()
}

#[tokio::test]
async fn it_passes_from_end_to_end_of_http_1_1() {
    let mut rig = http1();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = http1_endpoint(&mut rig).await;
    // Bytes that come before the answer are not HTTP, though they may look like it.
    client.send(CONNECT).await;
    client.send(BYTES).await;
    client.send("GET /hidden HTTP/1.1|host: a||").await;
    assert_eq!(
        endpoint.until("\r\n\r\n").await.replace("\r\n", "|"),
        "CONNECT test.example:443 HTTP/1.1|host: test.example:443|proxy-authorization: x||"
    );
    endpoint.send(&format!("{OK}hello")).await;
    let early = format!("{BYTES}GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(endpoint.exactly(early.len()).await, early.as_bytes());
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 200 Connection established\r\nx-a: 1\r\n\r\n");
    assert_eq!(client.exactly(5).await, b"hello");
    for _ in 0..3 {
        client.send(BYTES).await;
        assert_eq!(endpoint.exactly(BYTES.len()).await, BYTES.as_bytes());
        endpoint.send(BYTES).await;
        assert_eq!(client.exactly(BYTES.len()).await, BYTES.as_bytes());
    }
    // Each direction ends by itself.
    client.shut_down().await;
    assert!(!endpoint.more().await, "the endpoint is told");
    endpoint.send("bye").await;
    drop(endpoint);
    assert_eq!(client.rest().await, "bye");
    assert_eq!(statuses(&rig).await, [200]);
    assert_eq!(rig.stats.requests(), 1);
}

#[tokio::test]
async fn http_1_0_has_it_too() {
    let mut rig = http1();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = http1_endpoint(&mut rig).await;
    client.send("CONNECT [::1]:443 HTTP/1.0||").await;
    assert_eq!(endpoint.until("\r\n\r\n").await, "CONNECT [::1]:443 HTTP/1.1\r\nhost: [::1]:443\r\n\r\n");
    endpoint.send("HTTP/1.0 200 OK||hello").await;
    assert_eq!(client.until("hello").await, "HTTP/1.0 200 OK\r\n\r\nhello");
    client.send("hello").await;
    endpoint.until("hello").await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_one_that_is_refused_is_no_request() {
    for (rsp, status, body) in [
        ("HTTP/1.1 403 Forbidden|content-length: 2||no", 403, "no"),
        ("HTTP/1.1 407 Proxy Authentication Required|transfer-encoding: chunked||2|no|0||", 407, "no"),
        // hyper takes it for the end of the exchange, and the endpoint for the start of the tunnel.
        ("HTTP/1.1 204 No Content||", 502, ""),
        ("HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: websocket||", 502, ""),
    ] {
        let mut rig = http1();
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let mut endpoint = http1_endpoint(&mut rig).await;
        client.send(CONNECT).await;
        client.send("GET /hidden HTTP/1.1|host: a||").await;
        endpoint.until("\r\n\r\n").await;
        endpoint.send(rsp).await;
        let received = client.receive().await;
        assert_eq!((received.status, received.body.as_slice()), (status, body.as_bytes()), "{rsp}");
        assert_eq!(received.fields["connection"], "close");
        assert_eq!(client.rest().await, "", "{rsp}");
        assert_eq!(statuses(&rig).await, [status]);
        assert_eq!(rig.stats.requests(), 1);
        // Nor does the endpoint's connection get another one.
        let (mut client, _) = rig.connect(1 << 16);
        tokio::io::AsyncWriteExt::write_all(&mut client, b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut next = http1_endpoint(&mut rig).await;
        next.until("GET /next HTTP/1.1\r\n").await;
        assert_eq!(endpoint.rest().await, "", "{rsp}");
    }
}

/// Malformed CONNECT requests.
const BAD: &[(&str, &str)] = &[
    ("a length", "CONNECT a:80 HTTP/1.1|host: a:80|content-length: 5||01234"),
    ("a length of nothing", "CONNECT a:80 HTTP/1.1|host: a:80|content-length: 0||"),
    ("chunks", "CONNECT a:80 HTTP/1.1|host: a:80|transfer-encoding: chunked||0||"),
    ("both", "CONNECT a:80 HTTP/1.1|host: a:80|content-length: 5|transfer-encoding: chunked||0||"),
    ("no port", "CONNECT a HTTP/1.1|host: a||"),
    ("an empty port", "CONNECT a: HTTP/1.1|host: a||"),
    ("port 0", "CONNECT a:0 HTTP/1.1|host: a||"),
    ("a port too large", "CONNECT a:65536 HTTP/1.1|host: a||"),
    ("a user", "CONNECT u@a:80 HTTP/1.1|host: a||"),
    ("a path", "CONNECT /path HTTP/1.1|host: a||"),
    ("an absolute target", "CONNECT http://a:80/ HTTP/1.1|host: a||"),
    ("no target", "CONNECT * HTTP/1.1|host: a||"),
    ("two hosts", "CONNECT a:80 HTTP/1.1|host: a|host: a||"),
    ("no host", "CONNECT a:80 HTTP/1.1||"),
    ("bare LF", "CONNECT a:80 HTTP/1.1\nhost: a:80||"),
];

#[tokio::test(start_paused = true)]
async fn what_is_malformed_is_400_and_the_connections_end() {
    for &(class, request) in BAD {
        let mut rig = http1();
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let mut endpoint = http1_endpoint(&mut rig).await;
        client.send(&format!("{request}GET /hidden HTTP/1.1|host: a||")).await;
        let rest = client.rest().await;
        assert!(rest.starts_with("HTTP/1.1 400 "), "{class}: {rest}");
        assert_eq!(rest.matches("HTTP/1.").count(), 1, "{class}: {rest}");
        assert_eq!(rig.stats.transport(Side::Client).malformed(), 1, "{class}");
        let (mut client, _) = rig.connect(1 << 16);
        tokio::io::AsyncWriteExt::write_all(&mut client, b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(endpoint.until("\r\n\r\n").await.starts_with("GET /next "), "{class}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_passes_from_http_1_1_to_http_2() {
    let mut rig = Rig::defaults();
    let mut endpoint = rig.endpoint().await;
    let mut client = Raw::new(rig.client_io.take().unwrap());
    client.send(&format!("{CONNECT}early")).await;
    let mut asked = endpoint.asked().await;
    let req = &asked.request;
    assert_eq!((req.method(), req.uri().to_string().as_str()), (&Method::CONNECT, "test.example:443"));
    assert!(req.uri().scheme().is_none() && req.extensions().get::<h2::ext::Protocol>().is_none());
    let fields: Vec<_> = req.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!(fields, ["proxy-authorization"]);
    let mut to = asked.answer();
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 200 OK\r\n\r\n");
    let mut uploaded = asked.request.into_body();
    assert_eq!(uploaded.data().await.unwrap().unwrap(), "early");
    client.send("ping").await;
    assert_eq!(uploaded.data().await.unwrap().unwrap(), "ping");
    to.send_data("pong".into(), true).unwrap();
    client.until("pong").await;
    client.shut_down().await;
    ends(&mut uploaded).await;
    assert_eq!(client.rest().await, "");

    let mut client = Raw::new(rig.connect(1 << 16).0);
    client.send(&format!("{CONNECT}GET /hidden HTTP/1.1|host: a||")).await;
    let mut asked = endpoint.asked().await;
    asked.respond.send_response(Response::builder().status(405).body(()).unwrap(), true).unwrap();
    let rest = client.rest().await;
    assert!(rest.starts_with("HTTP/1.1 405 ") && rest.contains("connection: close\r\n"), "{rest}");
    assert_eq!((rest.matches("HTTP/1.").count(), rig.stats.requests()), (1, 2), "{rest}");
}

#[tokio::test]
async fn it_passes_from_http_2_to_http_1_1() {
    let mut rig = http1();
    let mut client = rig.client().await;
    let mut endpoint = http1_endpoint(&mut rig).await;
    let (response, mut to) = client.send_request(connect(), false).unwrap();
    to.send_data("early".into(), false).unwrap();
    assert_eq!(endpoint.until("\r\n\r\n").await, "CONNECT test.example:443 HTTP/1.1\r\nhost: test.example:443\r\n\r\n");
    endpoint.send(&format!("{OK}hello")).await;
    let mut rsp = response.await.unwrap();
    assert_eq!(rsp.status(), 200);
    assert_eq!(rsp.headers().keys().collect::<Vec<_>>(), ["x-a"]);
    assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "hello");
    assert_eq!(endpoint.exactly(5).await, b"early");
    endpoint.shut_down().await;
    ends(rsp.body_mut()).await;
    to.send_data("bye".into(), true).unwrap();
    assert_eq!(endpoint.rest().await, "bye");

    // One that is refused.
    let mut endpoint = http1_endpoint(&mut rig).await;
    let (response, mut to) = client.send_request(connect(), false).unwrap();
    to.send_data("GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n".into(), false).unwrap();
    endpoint.until("\r\n\r\n").await;
    endpoint.send("HTTP/1.1 403 Forbidden|content-length: 0||").await;
    assert_eq!(response.await.unwrap().status(), 403);
    assert_eq!(endpoint.rest().await, "");
}

#[tokio::test]
async fn it_passes_from_end_to_end_of_http_2() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, mut to) = client.send_request(connect(), false).unwrap();
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.method(), Method::CONNECT);
    assert_eq!(asked.request.uri(), "test.example:443");
    let head = Response::builder().header("content-length", "4").body(()).unwrap();
    let mut back = asked.respond.send_response(head, false).unwrap();
    let mut rsp = response.await.unwrap();
    assert!(rsp.headers().is_empty());
    to.send_data("ping".into(), false).unwrap();
    assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "ping");
    back.send_data("pong".into(), false).unwrap();
    assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "pong");
    to.send_reset(Reason::CONNECT_ERROR);
    assert_eq!(poll_fn(|cx| back.poll_reset(cx)).await.unwrap(), Reason::CONNECT_ERROR);

    for (target, length) in [("test.example", None), ("test.example:0", None), ("test.example:80", Some("0"))] {
        let mut req = Request::connect(target);
        if let Some(length) = length {
            req = req.header("content-length", length);
        }
        let (response, _) = client.send_request(req.body(()).unwrap(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 400, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn tunnels_outlive_the_request_timeout_and_a_drain_but_not_its_grace() {
    let age = MaxConnectionAge { age: Duration::from_secs(100), grace: Duration::from_secs(30) };
    let aged = ServerParams { max_connection_age: Some(age), ..ServerParams::DEFAULT };
    let timed = proxy::Params { request_timeout: Some(Duration::from_secs(10)), ..PROXY };
    let endpoints = |connect: proxy_http::Connect<_, _>| {
        Endpoints::fixed(["endpoint"], &connect.protocol(Protocol::Http1), endpoint_params())
    };
    let mut rig = Rig::of(&aged, &ClientParams::DEFAULT, timed, endpoints);
    let started = Instant::now();
    let mut client = rig.client().await;
    let mut endpoint = http1_endpoint(&mut rig).await;
    let (response, mut to) = client.send_request(connect(), false).unwrap();
    endpoint.until("\r\n\r\n").await;
    endpoint.send(OK).await;
    let _rsp = response.await.unwrap();
    sleep(Duration::from_secs(115)).await;
    to.send_data("ping".into(), false).unwrap();
    assert_eq!(endpoint.exactly(4).await, b"ping");
    assert_eq!(endpoint.rest().await, "");
    assert!((120..=140).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    // Before there is one, the timeout holds.
    let mut rig = Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, timed, endpoints);
    let mut client = rig.client().await;
    let _endpoint = http1_endpoint(&mut rig).await;
    let (response, _to) = client.send_request(connect(), false).unwrap();
    assert_eq!(response.await.unwrap().status(), 504);
}
