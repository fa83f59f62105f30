//! Interim responses (1xx), and clients that wait for 100 before they send a body.

use crate::{
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Peer, RST_STREAM},
    raw::Raw,
    support::{PROXY, Rig, endpoint_params, get, grpc, post},
    validate::block,
};
use h2::client::ResponseFuture;
use http::{HeaderValue, Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{Endpoints, Protocol, proxy};
use std::{future::poll_fn, time::Duration};
use tokio::time::{Instant, interval};

/// The responses to a request, in turn: status and fields of each interim response, and the status of the one at the end.
async fn seen(mut response: ResponseFuture) -> (Vec<String>, u16) {
    let mut interim = Vec::new();
    while let Some(rsp) = poll_fn(|cx| response.poll_informational(cx)).await {
        let rsp = rsp.unwrap();
        let fields = rsp.headers().iter().map(|(name, value)| format!(" {name}={}", value.to_str().unwrap()));
        interim.push(rsp.status().as_str().to_owned() + &fields.collect::<String>());
    }
    (interim, response.await.unwrap().status().as_u16())
}

fn early(status: u16) -> http::response::Builder {
    Response::builder().status(status)
}

fn expecting(mut req: Request<()>) -> Request<()> {
    req.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
    req
}

#[tokio::test]
async fn they_pass_from_http_2_to_http_2() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let mut endpoint = rig.endpoint().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut asked = endpoint.asked().await;
    let hints = early(103).header("link", "</a>; rel=preload").header("link", "</b>").header("x-a", "1");
    for rsp in [early(100), hints, early(102), early(199)] {
        asked.respond.send_informational(rsp.body(()).unwrap()).unwrap();
    }
    let passed = tokio::spawn(seen(response));
    // One that is there alone, and one that comes with the response.
    tokio::task::yield_now().await;
    asked.respond.send_informational(early(103).body(()).unwrap()).unwrap();
    asked.answer().send_data("body".into(), true).unwrap();
    let (interim, status) = passed.await.unwrap();
    assert_eq!(interim, ["100", "103 link=</a>; rel=preload link=</b> x-a=1", "102", "199", "103"]);
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_client_of_http_2_hears_of_100_from_its_endpoint() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let mut endpoint = rig.endpoint().await;
    let (mut response, mut upload) = client.send_request(expecting(post()), false).unwrap();
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.headers()["expect"], "100-continue");
    asked.respond.send_informational(early(100).body(()).unwrap()).unwrap();
    let heard = poll_fn(|cx| response.poll_informational(cx)).await;
    assert_eq!(heard.unwrap().unwrap().status(), 100);
    upload.send_data("body".into(), true).unwrap();
    assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "body");
    asked.answer().send_data("done".into(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_of_http_2_that_waits_for_100_sends_nothing_where_the_endpoint_does_not_say_it() {
    for status in [200, 417] {
        let mut rig = Rig::defaults();
        let mut client = rig.client().await;
        let mut endpoint = rig.endpoint().await;
        let (response, _upload) = client.send_request(expecting(post()), false).unwrap();
        let mut asked = endpoint.asked().await;
        asked.respond.send_response(early(status).body(()).unwrap(), true).unwrap();
        assert_eq!(seen(response).await, (Vec::new(), status));
    }
}

/// The client's responses where an endpoint's interim response has these fields, and 200 follows.
async fn passed(fields: &[u8]) -> (Vec<String>, u16) {
    let (mut peer, _, mut rig) = Peer::server(&ClientParams::DEFAULT).await;
    let mut client = rig.client().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    peer.until(HEADERS).await.unwrap();
    peer.send(HEADERS, END_HEADERS, 1, &block(fields)).await;
    peer.send(HEADERS, END_HEADERS, 1, &block(b":status=200|content-length=4")).await;
    peer.send(DATA, END_STREAM, 1, b"body").await;
    seen(response).await
}

#[tokio::test]
async fn what_is_malformed_or_of_no_use_does_not_pass() {
    assert_eq!(passed(b":status=103|link=x").await, (vec!["103 link=x".to_owned()], 200));
    assert_eq!(passed(b":status=103|link=x|content-length=4").await, (vec!["103 link=x".to_owned()], 200));
    assert_eq!(passed(b":status=103|link=x ").await, (Vec::new(), 200));
    assert_eq!(passed(b":status=101|x=y").await, (Vec::new(), 200));
}

/// grpcio fails a call on one: "Received http2 header with status: 103".
#[tokio::test]
async fn none_passes_to_grpc() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(grpc(), true).unwrap();
    let mut asked = endpoint.asked().await;
    for status in [100, 103] {
        asked.respond.send_informational(early(status).header("link", "</a>").body(()).unwrap()).unwrap();
    }
    asked.answer().send_data("body".into(), true).unwrap();
    assert_eq!(seen(response).await, (Vec::new(), 200));
}

#[tokio::test]
async fn what_one_request_may_bring_is_bounded() {
    for (value, most) in [(1, 64), (20_000, 3)] {
        let mut rig = Rig::defaults();
        let mut client = crate::support::client(rig.client_io.take().unwrap()).await;
        let mut endpoint = rig.endpoint().await;
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        let hints = early(103).header("link", "x".repeat(value)).body(()).unwrap();
        for _ in 0..100 {
            asked.respond.send_informational(hints.clone()).unwrap();
            tokio::task::yield_now().await;
        }
        asked.answer().send_data("body".into(), true).unwrap();
        let (interim, status) = seen(response).await;
        assert_eq!((interim.len(), status), (most, 200));
    }
}

#[tokio::test(start_paused = true)]
async fn they_put_no_deadline_off() {
    let params = proxy::Params { request_timeout: Some(Duration::from_secs(10)), ..PROXY };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
    let mut client = rig.client().await;
    let mut endpoint = rig.endpoint().await;
    let started = Instant::now();
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut asked = endpoint.asked().await;
    let mut beats = interval(Duration::from_millis(100));
    let endless = async {
        while asked.respond.send_informational(early(102).body(()).unwrap()).is_ok() {
            beats.tick().await;
        }
    };
    let (interim, status) = tokio::select! {
        seen = seen(response) => seen,
        () = endless => panic!("the endpoint's stream is lost"),
    };
    assert_eq!((interim.len(), status, started.elapsed().as_secs()), (64, 504, 10));
}

#[tokio::test]
async fn nothing_follows_a_reset() {
    let (mut peer, _, rig) = Peer::server(&ClientParams::DEFAULT).await;
    let (mut client, _) = Peer::greet(rig.connect(1 << 20).0).await;
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, crate::frames::GET).await;
    peer.until(HEADERS).await.unwrap();
    // The one comes while the other is seen to.
    client.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]).await;
    peer.send(HEADERS, END_HEADERS, 1, &block(b":status=103")).await;
    peer.until(RST_STREAM).await.unwrap();
    client.send(HEADERS, END_HEADERS | END_STREAM, 3, crate::frames::GET).await;
    peer.until(HEADERS).await.unwrap();
    peer.send(HEADERS, END_HEADERS | END_STREAM, 3, &block(b":status=204")).await;
    loop {
        let frame = client.frame().await.unwrap();
        if frame.kind == HEADERS {
            assert_eq!(frame.stream, 3);
            return;
        }
    }
}

#[tokio::test]
async fn they_pass_from_http_1_1_to_http_2() {
    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let mut client = rig.client().await;
    let mut endpoint = Raw::next(&rig.endpoint_ios);
    let (response, mut upload) = client.send_request(expecting(post()), false).unwrap();
    assert!(endpoint.until("\r\n\r\n").await.contains("expect: 100-continue\r\n"));
    let mut response = response;
    endpoint.send("HTTP/1.1 100 Continue||").await;
    assert_eq!(poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap().status(), 100);
    upload.send_data("body".into(), true).unwrap();
    endpoint.until("4\r\nbody\r\n0\r\n\r\n").await;
    endpoint.send("HTTP/1.1 103 Early Hints|Link: x|Connection: X-Hop|X-Hop: 1|Keep-Alive: 5||").await;
    endpoint.send("HTTP/1.1 103 Early Hints|link: y||HTTP/1.1 200 OK|content-length: 4||done").await;
    assert_eq!(seen(response).await, (vec!["103 link=x".to_owned(), "103 link=y".to_owned()], 200));
    // Another request on the same connection has interim responses of its own.
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.until("\r\n\r\n").await;
    // A length, which none may have, does not pass; and the connection is not used again.
    endpoint.send("HTTP/1.1 103 Early Hints|content-length: 3||").await;
    endpoint.send(&"HTTP/1.1 103 Early Hints||".repeat(100)).await;
    endpoint.send("HTTP/1.1 204 No Content||").await;
    let (interim, status) = seen(response).await;
    assert_eq!((interim.len(), interim[0].as_str(), status), (64, "103", 204));
}

#[tokio::test]
async fn none_passes_to_http_1_1_whose_100_is_the_proxys_own() {
    // The endpoint says 103, and answers before it has read anything.
    for (expect, status) in [("expect: 100-continue|", 417), ("expect: 100-continue|", 200), ("", 200)] {
        let mut rig = Rig::defaults();
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let mut endpoint = rig.endpoint().await;
        for _ in 0..2 {
            client.send(&format!("POST / HTTP/1.1|host: a|content-length: 4|{expect}|")).await;
            let mut asked = endpoint.asked().await;
            assert_eq!(asked.request.headers().contains_key("expect"), !expect.is_empty());
            asked.respond.send_informational(early(103).body(()).unwrap()).unwrap();
            asked.respond.send_response(early(status).body(()).unwrap(), true).unwrap();
            if !expect.is_empty() {
                assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
            }
            assert_eq!(client.receive().await.status, status);
            // And so the body has to come, for the connection to go on.
            client.send("body").await;
        }
    }

    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = Raw::next(&rig.endpoint_ios);
    client.send("POST / HTTP/1.1|host: a|content-length: 4|expect: 100-continue||").await;
    endpoint.until("\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    endpoint.until("body").await;
    endpoint.send("HTTP/1.1 100 Continue||HTTP/1.1 103 Early Hints||HTTP/1.1 200 OK|content-length: 2||ok").await;
    assert_eq!(client.until("ok").await, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_1_is_told_to_go_on_only_once_its_request_is_on_its_way() {
    let mut rig = Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, |connect| {
        Endpoints::fixed(["endpoint"], &connect.handshake_timeout(Duration::from_secs(10)), endpoint_params())
    });
    let mut client = Raw::new(rig.client_io.take().unwrap());
    // Nobody accepts the connections that the proxy opens.
    client.send("POST / HTTP/1.1|host: a|content-length: 4|expect: 100-continue||").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"));
}
