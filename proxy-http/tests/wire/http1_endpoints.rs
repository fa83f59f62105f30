//! Endpoints of HTTP/1.1: a raw h2 client, or raw bytes, on one side of the proxy, raw bytes on the other.

mod smuggled;
mod websockets;

use crate::{
    raw::Raw,
    support::{Rig, collect, endpoint_params, get, grpc, post, reset},
};
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use proxy_http::{Protocol, balance, proxy::retry};
use std::time::Duration;
use tokio::time::{Instant, timeout};

fn http1() -> Rig {
    Rig::to(Protocol::Http1, endpoint_params())
}

/// The next connection that the proxy opens.
async fn endpoint(rig: &mut Rig) -> Raw {
    Raw::next(&rig.endpoint_ios)
}

/// The body of a response that is answered with these bytes to a request with this head.
async fn answered(
    req: Request<()>,
    bytes: &str,
) -> (Result<Response<Vec<u8>>, h2::Error>, Option<HeaderMap>, String, Rig) {
    let mut rig = http1();
    let mut client = rig.client().await;
    let mut endpoint = endpoint(&mut rig).await;
    let (response, _) = client.send_request(req, true).unwrap();
    let head = endpoint.until("\r\n\r\n").await;
    endpoint.send(bytes).await;
    drop(endpoint);
    let rsp = match response.await {
        Ok(rsp) => rsp,
        Err(error) => return (Err(error), None, head, rig),
    };
    let (parts, mut body) = rsp.into_parts();
    match collect(&mut body).await {
        Ok((bytes, trailers)) => (Ok(Response::from_parts(parts, bytes)), trailers, head, rig),
        Err(error) => (Err(error), None, head, rig),
    }
}

#[tokio::test]
async fn requests_and_responses_pass_from_one_version_to_the_other() {
    let mut req = Request::get("http://test.example:80/path?query").header("cookie", "a=1").header("x-a", "1");
    req = req.header("cookie", "b=2").header("te", "trailers").header("host", "TEST.example:80");
    let rsp = "HTTP/1.1 299 Fine|Content-Length: 4|X-A: 1|x-a: 2|Connection: x-hop, close|X-Hop: 1|\
               Keep-Alive: timeout=5|Upgrade: h2c|Proxy-Connection: close||body";
    let (rsp, _, head, _) = answered(req.body(()).unwrap(), rsp).await;
    assert_eq!(
        head,
        "GET /path?query HTTP/1.1\r\nhost: test.example:80\r\ncookie: a=1; b=2\r\nx-a: 1\r\nte: trailers\r\n\
         connection: te\r\n\r\n"
    );
    let rsp = rsp.unwrap();
    let fields: Vec<_> = rsp.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!((rsp.status().as_u16(), rsp.body().as_slice()), (299, &b"body"[..]));
    assert_eq!(fields, [("content-length", "4"), ("x-a", "1"), ("x-a", "2")]);
}

#[tokio::test]
async fn bodies_are_framed_by_their_length_or_in_chunks() {
    let with_length = |req: Request<()>, length: &'static str| {
        let (mut head, ()) = req.into_parts();
        head.headers.insert("content-length", HeaderValue::from_static(length));
        Request::from_parts(head, ())
    };
    let method = |method| {
        let mut req = get();
        *req.method_mut() = method;
        req
    };
    for (req, body, framing, sent) in [
        (get(), None, "", ""),
        (post(), None, "content-length: 0|", ""),
        (method(Method::DELETE), None, "", ""),
        (with_length(post(), "4"), Some("body"), "content-length: 4|", "body"),
        (post(), Some("body"), "transfer-encoding: chunked|", "4|body|0||"),
        (get(), Some("body"), "transfer-encoding: chunked|", "4|body|0||"),
        (with_length(get(), "4"), Some("body"), "content-length: 4|", "body"),
        (method(Method::HEAD), Some("body"), "transfer-encoding: chunked|", "4|body|0||"),
    ] {
        let mut rig = http1();
        let mut client = rig.client().await;
        let mut endpoint = endpoint(&mut rig).await;
        let is_head = req.method() == Method::HEAD;
        let line = format!("{} /path HTTP/1.1|host: test.example|", req.method());
        let (response, mut upload) = client.send_request(req, body.is_none()).unwrap();
        if let Some(body) = body {
            upload.send_data(body.into(), true).unwrap();
        }
        let expect = format!("{line}{framing}|{sent}").replace('|', "\r\n");
        assert_eq!(String::from_utf8(endpoint.exactly(expect.len()).await).unwrap(), expect);
        endpoint
            .send(if is_head {
                "HTTP/1.1 200 OK|content-length: 3||"
            } else {
                "HTTP/1.1 200 OK|content-length: 3||end"
            })
            .await;
        let rsp = collect(response.await.unwrap().body_mut()).await.unwrap().0;
        assert_eq!(rsp, if is_head { &b""[..] } else { b"end" }, "{line}");
        assert!(endpoint.read.is_empty());
        // The connection is used again.
        let (_response, _) = client.send_request(get(), true).unwrap();
        endpoint.until("GET /path HTTP/1.1\r\nhost: test.example\r\n\r\n").await;
    }
}

#[tokio::test]
async fn responses_end_where_they_say() {
    for (rsp, body) in [
        ("HTTP/1.1 200 OK|content-length: 4||body", "body"),
        ("HTTP/1.1 200 OK|content-length: 4||body and more", "body"),
        ("HTTP/1.1 200 OK|content-length: 4|content-length: 4||body", "body"),
        ("HTTP/1.1 200 OK|transfer-encoding: chunked||2|bo|2;x=y|dy|0||", "body"),
        ("HTTP/1.1 200 OK||body", "body"),
        ("HTTP/1.0 200 OK||body", "body"),
        ("HTTP/1.1 204 No Content|content-length: 4||", ""),
        ("HTTP/1.1 304 Not Modified|content-length: 4||", ""),
        ("HTTP/1.1 100 Continue||HTTP/1.1 103 Early Hints|link: x||HTTP/1.1 200 OK|content-length: 4||body", "body"),
    ] {
        let (received, ..) = answered(get(), rsp).await;
        let received = received.unwrap_or_else(|error| panic!("{rsp}: {error}"));
        assert_eq!(String::from_utf8_lossy(received.body()), body, "{rsp}");
        assert!(!received.status().is_informational());
    }
}

#[tokio::test]
async fn a_response_that_is_broken_off_never_looks_whole() {
    for rsp in [
        "HTTP/1.1 200 OK|content-length: 40||part",
        "HTTP/1.1 200 OK|transfer-encoding: chunked||4|part|",
        "HTTP/1.1 200 OK|transfer-encoding: chunked||4|part|0|",
        "HTTP/1.1 200 OK|transfer-encoding: chunked||8|part",
        "HTTP/1.1 200 OK|transfer-encoding: chunked||4|part|x|",
    ] {
        let (received, ..) = answered(get(), rsp).await;
        assert_eq!(reset(received), Reason::INTERNAL_ERROR, "{rsp}");
    }
}

/// Malformed responses.
const BAD: &[(&str, &str)] = &[
    ("nothing", ""),
    ("half a head", "HTTP/1.1 200 OK|content-length: 4|"),
    ("TE and CL", "HTTP/1.1 200 OK|transfer-encoding: chunked|content-length: 4||0||"),
    ("CL and TE", "HTTP/1.1 200 OK|content-length: 4|transfer-encoding: chunked||0||"),
    ("another coding", "HTTP/1.1 200 OK|transfer-encoding: gzip, chunked||0||"),
    ("a coding that is not chunked", "HTTP/1.1 200 OK|transfer-encoding: gzip||body"),
    ("several codings", "HTTP/1.1 200 OK|transfer-encoding: chunked|transfer-encoding: chunked||0||"),
    ("TE in HTTP/1.0", "HTTP/1.0 200 OK|transfer-encoding: chunked||0||"),
    ("two lengths", "HTTP/1.1 200 OK|content-length: 4|content-length: 5||body"),
    ("a list of lengths", "HTTP/1.1 200 OK|content-length: 4, 4||body"),
    ("a length with a sign", "HTTP/1.1 200 OK|content-length: +4||body"),
    ("an empty length", "HTTP/1.1 200 OK|content-length:||body"),
    ("obs-fold", "HTTP/1.1 200 OK|x: y| content-length: 4||body"),
    ("NUL in a value", "HTTP/1.1 200 OK|x: \0|content-length: 4||body"),
    ("bare CR", "HTTP/1.1 200 OK|x: y\rz|content-length: 4||body"),
    ("another protocol", "HTTP/2.0 200 OK|content-length: 4||body"),
    ("HTTP/0.9", "body"),
    ("switching unasked", "HTTP/1.1 101 Switching Protocols|upgrade: websocket|connection: upgrade||"),
    ("a status of two digits", "HTTP/1.1 20 OK|content-length: 4||body"),
];

#[tokio::test]
async fn responses_that_may_be_read_in_two_ways_are_502() {
    for &(class, rsp) in BAD {
        let (received, ..) = answered(get(), rsp).await;
        assert_eq!(received.unwrap().status(), 502, "{class}");
    }
}

#[tokio::test]
async fn requests_that_have_no_form_are_400() {
    let with = |name: &'static str, value: &'static str| get_with(name, HeaderValue::from_static(value));
    let to = |uri: &'static str| Request::get(uri).body(()).unwrap();
    for (class, req) in [
        ("another host", with("host", "other.example")),
        ("two hosts", {
            let mut req = with("host", "test.example");
            req.headers_mut().append("host", HeaderValue::from_static("test.example"));
            req
        }),
        ("an authority with a user", to("http://user@test.example/")),
        ("an asterisk for a GET", {
            let uri = Uri::builder().scheme("http").authority("test.example").path_and_query("*");
            Request::get(uri.build().unwrap()).body(()).unwrap()
        }),
    ] {
        let mut rig = http1();
        let mut client = rig.client().await;
        let mut endpoint = endpoint(&mut rig).await;
        let (response, _) = client.send_request(req, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 400, "{class}");
        // Not a byte of it was sent.
        let (_response, _) = client.send_request(get(), true).unwrap();
        assert!(endpoint.until("\r\n\r\n").await.starts_with("GET /path HTTP/1.1\r\n"), "{class}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_where_they_are_announced() {
    let mut rig = http1();
    let mut client = rig.client().await;
    let mut endpoint = endpoint(&mut rig).await;
    let mut req = post();
    req.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    let (response, mut upload) = client.send_request(req, false).unwrap();
    upload.send_data("body".into(), false).unwrap();
    let field = |name, value| HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
    upload.send_trailers(field("x-sum", "5")).unwrap();
    assert!(endpoint.until("\r\n\r\n").await.contains("trailer: x-sum\r\n"));
    assert_eq!(endpoint.until("\r\n\r\n").await, "4\r\nbody\r\n0\r\nx-sum: 5\r\n\r\n");
    endpoint.send("HTTP/1.1 200 OK|transfer-encoding: chunked||4|body|0|x-sum: 7|content-length: 9|host: b||").await;
    let (body, trailers) = collect(response.await.unwrap().body_mut()).await.unwrap();
    assert_eq!((body.as_slice(), trailers.unwrap()), (&b"body"[..], field("x-sum", "7")));
}

#[tokio::test]
async fn an_upload_that_is_broken_off_never_looks_whole() {
    for length in [None, Some(100)] {
        let mut rig = http1();
        let mut client = rig.client().await;
        let mut endpoint = endpoint(&mut rig).await;
        let mut req = post();
        req.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
        let (_response, mut upload) = client.send_request(req, false).unwrap();
        upload.send_data("part".into(), false).unwrap();
        endpoint.until("part").await;
        upload.send_reset(Reason::CANCEL);
        let rest = endpoint.rest().await;
        assert!(rest.is_empty() || rest == "\r\n", "{rest:?}");
    }
}

#[tokio::test]
async fn a_client_that_gives_up_closes_the_connection() {
    for answered in [false, true] {
        let mut rig = http1();
        let mut client = rig.client().await;
        let mut endpoint = endpoint(&mut rig).await;
        let (response, mut upload) = client.send_request(get(), true).unwrap();
        endpoint.until("\r\n\r\n").await;
        if answered {
            endpoint.send("HTTP/1.1 200 OK|content-length: 100||part").await;
            drop(response.await.unwrap());
        }
        upload.send_reset(Reason::CANCEL);
        assert_eq!(endpoint.rest().await, "");
    }
}

#[tokio::test]
async fn an_early_response_passes_and_the_upload_goes_on() {
    let mut rig = http1();
    let mut client = rig.client().await;
    let mut endpoint = endpoint(&mut rig).await;
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    endpoint.until("\r\n\r\n").await;
    endpoint.send("HTTP/1.1 200 OK|transfer-encoding: chunked||5|first|").await;
    let mut rsp = response.await.unwrap();
    assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "first");
    upload.send_data("then".into(), true).unwrap();
    endpoint.until("4\r\nthen\r\n0\r\n\r\n").await;
    endpoint.send("6|second|0||").await;
    assert_eq!(collect(rsp.body_mut()).await.unwrap().0, b"second");
}

#[tokio::test]
async fn grpc_is_unimplemented() {
    let mut rig = http1();
    let mut client = rig.client().await;
    let (response, _) = client.send_request(grpc(), true).unwrap();
    let rsp = response.await.unwrap();
    assert_eq!((rsp.status().as_u16(), rsp.headers()["grpc-status"].to_str().unwrap()), (200, "12"));
    assert!(rsp.headers()["grpc-message"].to_str().unwrap().contains("HTTP/1.1"));
}

/// Asks, and has the next request on one of these connections answered.
async fn exchange(client: &mut SendRequest<bytes::Bytes>, endpoint: &mut Raw) {
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.until("\r\n\r\n").await;
    endpoint.send("HTTP/1.1 200 OK|content-length: 2||ok").await;
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"ok");
}

#[tokio::test]
async fn a_connection_has_one_request_at_a_time() {
    let mut rig = http1();
    let mut client = rig.client().await;
    let mut first = endpoint(&mut rig).await;
    let (one, _) = client.send_request(get(), true).unwrap();
    let (two, _) = client.send_request(post(), true).unwrap();
    first.until("GET /path HTTP/1.1\r\nhost: test.example\r\n\r\n").await;
    let mut second = endpoint(&mut rig).await;
    second.until("POST /path HTTP/1.1\r\nhost: test.example\r\ncontent-length: 0\r\n\r\n").await;
    assert!(first.read.is_empty(), "nothing is pipelined");
    second.send("HTTP/1.1 200 OK|content-length: 3||two").await;
    first.send("HTTP/1.1 200 OK|content-length: 3||one").await;
    assert_eq!(collect(one.await.unwrap().body_mut()).await.unwrap().0, b"one");
    assert_eq!(collect(two.await.unwrap().body_mut()).await.unwrap().0, b"two");
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_above_the_bound_and_after_the_time() {
    let params = balance::Params { max_idle_connections: Some(2), ..endpoint_params() };
    let mut rig = Rig::to(Protocol::Http1, params);
    let mut client = rig.client().await;
    let responses: Vec<_> = (0..4).map(|_| client.send_request(get(), true).unwrap().0).collect();
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut endpoint = endpoint(&mut rig).await;
        endpoint.until("\r\n\r\n").await;
        connections.push(endpoint);
    }
    let started = Instant::now();
    for (response, endpoint) in responses.into_iter().zip(&mut connections) {
        endpoint.send("HTTP/1.1 200 OK|content-length: 2||ok").await;
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"ok");
    }
    let mut closed = Vec::new();
    for mut endpoint in connections {
        closed.push(tokio::spawn(async move {
            while endpoint.more().await {}
            started.elapsed().as_secs()
        }));
    }
    let mut times = Vec::new();
    for closed in closed {
        times.push(timeout(Duration::from_secs(600), closed).await.map_or(u64::MAX, |time| time.unwrap()));
    }
    times.sort_unstable();
    // Two at once, and two after a minute of rest, give or take half of it.
    assert_eq!(times[..2], [0, 0], "{times:?}");
    assert!(times[2..].iter().all(|time| (60..=90).contains(time)), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn connections_that_close_with_their_response_are_replaced_at_once() {
    let mut rig = http1();
    let mut client = rig.client().await;
    let started = Instant::now();
    for _ in 0..50 {
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut endpoint = endpoint(&mut rig).await;
        endpoint.until("\r\n\r\n").await;
        endpoint.send("HTTP/1.0 200 OK|||ok").await;
        drop(endpoint);
        collect(response.await.unwrap().body_mut()).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn requests_on_connections_that_were_closed_meanwhile_are_sent_again_where_that_is_safe() {
    for (req, safe) in [(get(), true), (post(), false)] {
        let mut rig = http1();
        let mut client = rig.client().await;
        let mut first = endpoint(&mut rig).await;
        exchange(&mut client, &mut first).await;
        let mut second = endpoint(&mut rig).await;
        let (response, _) = client.send_request(req, true).unwrap();
        first.until("\r\n\r\n").await;
        drop(first);
        if safe {
            second.until("\r\n\r\n").await;
            second.send("HTTP/1.1 200 OK|content-length: 2||ok").await;
            assert_eq!(response.await.unwrap().status(), 200);
            let retries: Vec<_> = rig.stats.retries().filter(|(_, count)| *count > 0).collect();
            assert_eq!(retries, [(retry::Reason::ConnectionLost, 1)]);
        } else {
            assert_eq!(response.await.unwrap().status(), 502);
        }
    }
}

#[tokio::test]
async fn http_1_1_clients_are_carried_as_they_came() {
    let mut rig = http1();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = endpoint(&mut rig).await;
    client.send("POST /a HTTP/1.1|Host: test.example|X-A: 1|Connection: x-a|Transfer-Encoding: chunked||").await;
    client.send("4|body|0||GET /b HTTP/1.0||").await;
    endpoint.until("POST /a HTTP/1.1\r\nhost: test.example\r\ntransfer-encoding: chunked\r\n\r\n").await;
    endpoint.until("4\r\nbody\r\n0\r\n\r\n").await;
    endpoint.send("HTTP/1.1 200 OK|transfer-encoding: chunked|x-b: 1|connection: x-b||2|ok|0||").await;
    assert_eq!(
        client.until("0\r\n\r\n").await,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    );
    endpoint.until("GET /b HTTP/1.1\r\nhost: \r\n\r\n").await;
    endpoint.send("HTTP/1.1 200 OK|content-length: 2||ok").await;
    assert_eq!(client.rest().await, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok");
}

fn get_with(name: &'static str, value: HeaderValue) -> Request<()> {
    let mut req = get();
    req.headers_mut().insert(name, value);
    req
}
