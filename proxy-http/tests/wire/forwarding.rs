//! The fields that a proxy changes or leaves out as it forwards a message (RFC 9110 section 7.6, RFC 9112 section 5.1).

use crate::{
    raw::Raw,
    support::{Asked, Rig, endpoint_params, get},
};
use http::{HeaderValue, Method, Response};
use proxy_http::Protocol;

fn answer(mut asked: Asked) {
    asked.respond.send_response(Response::builder().header("content-length", "0").body(()).unwrap(), true).unwrap();
}

#[tokio::test]
async fn max_forwards_counts_down() {
    for (method, received, passed) in [
        (Method::OPTIONS, "7", Ok("6")),
        (Method::TRACE, "1", Ok("0")),
        (Method::OPTIONS, "x", Ok("x")),
        (Method::GET, "0", Ok("0")),
        (Method::OPTIONS, "0", Err(200)),
        (Method::TRACE, "00", Err(501)),
    ] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let mut req = get();
        *req.method_mut() = method;
        req.headers_mut().insert("max-forwards", HeaderValue::from_static(received));
        let rsp = client.send_request(req, true).unwrap().0;
        match passed {
            Ok(passed) => {
                let asked = endpoint.asked().await;
                assert_eq!(asked.request.headers()["max-forwards"], passed);
                answer(asked);
                assert_eq!(rsp.await.unwrap().status(), 200);
            }
            Err(status) => assert_eq!(rsp.await.unwrap().status(), status),
        }
    }
}

#[tokio::test]
async fn of_several_upgrades_that_are_offered_websocket_goes_on() {
    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = Raw::next(&rig.endpoint_ios);
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|sec-websocket-version: 13";
    client.send(&format!("GET / HTTP/1.1|host: a|connection: upgrade|upgrade: example/2, WebSocket|{key}||")).await;
    let head = endpoint.until("\r\n\r\n").await;
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    let accepted = "connection: upgrade|upgrade: websocket|sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    endpoint.send(&format!("HTTP/1.1 101 Switching Protocols|{accepted}||")).await;
    assert_eq!(client.head().await.status, 101);
}

#[tokio::test]
async fn responses_lose_white_space_before_a_colon_and_keep_their_phrase() {
    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let mut client = Raw::new(rig.client_io.take().unwrap());
    for (sent, expect) in [
        ("HTTP/1.1 200 OK|x : y|content-length : 4||body", "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 4\r\n\r\nbody"),
        ("HTTP/1.1 520 It broke|content-length: 4||body", "HTTP/1.1 520 It broke\r\ncontent-length: 4\r\n\r\nbody"),
        ("HTTP/1.1 521 |content-length: 4||body", "HTTP/1.1 521 \r\ncontent-length: 4\r\n\r\nbody"),
    ] {
        let mut endpoint = Raw::next(&rig.endpoint_ios);
        client.send("GET / HTTP/1.1|host: a||").await;
        endpoint.until("\r\n\r\n").await;
        endpoint.send(sent).await;
        assert_eq!(client.until("body").await, expect);
    }
    // HTTP/2 has no phrases.
    let mut rig = Rig::defaults();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = rig.endpoint().await;
    client.send("GET / HTTP/1.1|host: a||").await;
    let rsp = Response::builder().status(520).header("content-length", "0").body(()).unwrap();
    endpoint.asked().await.respond.send_response(rsp, true).unwrap();
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 520 \r\n"));
}
