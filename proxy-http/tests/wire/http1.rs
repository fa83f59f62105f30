//! Clients of HTTP/1.1: raw bytes on one side of the proxy, a raw h2 endpoint on the other.

use crate::{
    raw::Raw,
    support::{Asked, Endpoint, PROXY, Rig, collect, reset},
};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use http_h2::{ClientParams, MaxConnectionAge, ServerParams};
use proxy_http::{
    Protocol, Server, http1, server,
    stats::{Limit, Peer},
};
use std::{collections::HashMap, future::pending, time::Duration};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep},
};

const SECOND: Duration = Duration::from_secs(1);

/// A client of the rig, and its endpoint.
async fn connect(rig: &mut Rig) -> (Raw, Endpoint) {
    let endpoint = rig.endpoint().await;
    (Raw::new(rig.client_io.take().unwrap()), endpoint)
}

/// Answers with a head and a body.
fn respond(asked: &mut Asked, head: http::response::Builder, body: impl Into<Bytes>) {
    let mut sending = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
    sending.send_data(body.into(), true).unwrap();
}

fn ok() -> http::response::Builder {
    Response::builder()
}

#[tokio::test]
async fn requests_and_responses_pass_from_one_version_to_the_other() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client
        .send(
            "GET /path?query HTTP/1.1|Host: test.example:80|Accept: a|ACCEPT: b|Connection: X-Hop, keep-alive|X-Hop: 1|\
             Keep-Alive: timeout=5|Proxy-Connection: keep-alive|Upgrade: h2c|HTTP2-Settings: AAMAAABk|TE: gzip, trailers||",
        )
        .await;
    let mut asked = endpoint.asked().await;
    let req = &asked.request;
    assert_eq!((req.method().as_str(), req.uri().to_string().as_str()), ("GET", "http://test.example:80/path?query"));
    let fields: Vec<_> = req.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(fields, [("accept", "a"), ("accept", "b"), ("te", "trailers")]);
    assert!(req.body().is_end_stream(), "one frame is enough");

    respond(&mut asked, ok().header("x-a", "1").header("content-length", "4"), "body");
    assert_eq!(client.until("body").await, "HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 4\r\n\r\nbody");

    // The same connection, without a length.
    client.send("GET / HTTP/1.1|host: a||").await;
    respond(&mut endpoint.asked().await, ok().status(404), "gone");
    let rsp = client.receive().await;
    assert_eq!((rsp.status, rsp.body.as_slice()), (404, &b"gone"[..]));
    assert_eq!(rig.stats.requests(), 2);
    let statuses: Vec<_> = rig.stats.responses().map(|responses| responses.status.as_u16()).collect();
    assert_eq!(statuses, [200, 404]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("POST /1 HTTP/1.1|host: a|content-length: 3||oneGET /2 HTTP/1.1|host: a||").await;
    client.send("POST /3 HTTP/1.1|host: a|transfer-encoding: chunked||5|three|0||").await;
    client.send("|GET /4 HTTP/1.1|host: a||").await;
    for (path, body) in [("/1", "one"), ("/2", ""), ("/3", "three"), ("/4", "")] {
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.uri().path(), path);
        assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, body.as_bytes());
        respond(&mut asked, ok(), path.to_owned());
        assert_eq!(client.receive().await.body, path.as_bytes());
    }
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions() {
    const MIB: usize = 1 << 20;
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    let bytes: Vec<u8> = (0..MIB).map(|i| (i % 251) as u8).collect();
    for chunked in [false, true] {
        let head = if chunked { "transfer-encoding: chunked" } else { "content-length: 1048576" };
        client.send(&format!("POST / HTTP/1.1|host: a|{head}||")).await;
        let (near, mut far) = tokio::io::split(client.io);
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            if !chunked {
                far.write_all(&sent).await.unwrap();
                return far;
            }
            for chunk in sent.chunks(10_000) {
                far.write_all(format!("{:X}\r\n", chunk.len()).as_bytes()).await.unwrap();
                far.write_all(chunk).await.unwrap();
                far.write_all(b"\r\n").await.unwrap();
            }
            far.write_all(b"0\r\n\r\n").await.unwrap();
            far
        });
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.headers().contains_key("content-length"), !chunked);
        assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, bytes);
        let head = if chunked { ok() } else { ok().header("content-length", MIB) };
        let mut sending_back = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        sending_back.send_data(bytes.clone().into(), true).unwrap();
        let far = sending.await.unwrap();
        client = Raw::new(near.unsplit(far));
        assert_eq!(client.receive().await.body, bytes);
    }
}

#[tokio::test]
async fn continue_is_said_when_the_body_is_asked_for() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("POST / HTTP/1.1|host: a|expect: 100-continue|content-length: 4||").await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    let mut asked = endpoint.asked().await;
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"body");
    respond(&mut asked, ok(), "done");
    assert_eq!(client.receive().await.body, b"done");
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    for (method, head, fields) in [
        ("HEAD", ok().header("content-length", "1000"), "content-length: 1000|"),
        ("HEAD", ok(), ""),
        ("GET", ok().status(204), ""),
        ("GET", ok().status(304).header("etag", "x"), "etag: x|"),
        ("GET", ok().status(304).header("content-length", "1000"), ""),
        ("GET", ok().header("x-empty", ""), "x-empty: |content-length: 0|"),
    ] {
        client.send(&format!("{method} / HTTP/1.1|host: a||")).await;
        endpoint.asked().await.respond.send_response(head.body(()).unwrap(), true).unwrap();
        let head = client.until("\r\n\r\n").await;
        let (_, rest) = head.split_once("\r\n").unwrap();
        assert_eq!(rest.replace("\r\n", "|"), format!("{fields}|"), "{method}: {head:?}");
    }
    client.send("GET / HTTP/1.1|host: a||").await;
    respond(&mut endpoint.asked().await, ok(), "nothing was left over");
    assert_eq!(client.receive().await.body, b"nothing was left over");
}

#[tokio::test]
async fn targets_have_the_authority_that_counts() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    for (line, host, expect) in [
        ("GET /x", "host: a.example", "http://a.example/x"),
        ("GET //x/", "host: [::1]:80", "http://[::1]:80//x/"),
        ("GET http://b.example/x?y", "host: a.example", "http://b.example/x?y"),
        ("GET https://b.example", "host: a.example", "https://b.example/"),
        ("OPTIONS *", "host: a.example", "http://a.example*"),
        ("GET /x", "host:", "/x"),
    ] {
        client.send(&format!("{line} HTTP/1.1|{host}||")).await;
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.uri().to_string(), expect, "{line}");
        assert!(!asked.request.headers().contains_key("host"));
        respond(&mut asked, ok(), "ok");
        assert_eq!(client.receive().await.status, 200);
    }
}

#[tokio::test]
async fn what_is_known_is_not_detected() {
    let params = http1::Params { https: true, ..http1::Params::default() };
    let server = Server::new(&ServerParams::DEFAULT).unwrap().http1(&params);
    let service = tower::service_fn(|req: http::Request<proxy_http::IncomingBody>| async move {
        let rsp = Response::builder().header("x-uri", req.uri().to_string());
        Ok::<_, std::convert::Infallible>(rsp.body(req.into_body()).unwrap())
    });
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = server.clone();
        let served = tokio::spawn(async move {
            {
                let accepted = server::Accepted { protocol: Some(protocol), ..Default::default() };
                server.serve_accepted(accepted, far, service, pending()).await
            }
        });
        let mut client = Raw::new(near);
        client.send("GET /x HTTP/1.1|host: a||").await;
        if protocol == Protocol::Http1 {
            assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\nx-uri: https://a/x\r\n"));
        } else {
            // There is no preface.
            served.await.unwrap().unwrap_err();
        }
    }
}

#[tokio::test]
async fn http_1_0_is_answered_in_kind() {
    // Without a length, the end of the connection is the body's.
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET /x HTTP/1.0||").await;
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.uri(), "/x", "no authority");
    respond(&mut asked, ok(), "body");
    assert_eq!(client.rest().await, "HTTP/1.0 200 OK\r\n\r\nbody");

    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.0|host: a|connection: keep-alive||").await;
        respond(&mut endpoint.asked().await, ok().header("content-length", "4"), "body");
        let rsp = client.receive().await;
        assert_eq!((rsp.fields["connection"].as_str(), rsp.body.as_slice()), ("keep-alive", &b"body"[..]));
    }
}

#[tokio::test]
async fn trailers_pass_where_the_client_takes_them() {
    for (te, announced, expect) in
        [("te: trailers|", true, "x-sum: 7\r\n"), ("te: trailers|", false, "x-sum: 7\r\n"), ("", true, "")]
    {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = connect(&mut rig).await;
        client
            .send(&format!(
                "POST / HTTP/1.1|host: a|{te}trailer: x-sum|transfer-encoding: chunked||4|body|0|x-sum: 5|\
                 content-length: 9|transfer-encoding: chunked|host: b||"
            ))
            .await;
        let mut asked = endpoint.asked().await;
        let (body, trailers) = collect(asked.request.body_mut()).await.unwrap();
        assert_eq!((body.as_slice(), trailers.unwrap()), (&b"body"[..], field("x-sum", "5")));
        let mut head = ok();
        if announced {
            head = head.header("trailer", "x-sum");
        }
        let mut sending = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        sending.send_data("body".into(), false).unwrap();
        sending.send_trailers(field("x-sum", "7")).unwrap();
        let rsp = client.receive().await;
        assert_eq!((rsp.body.as_slice(), rsp.trailers.as_str()), (&b"body"[..], expect));
    }
}

#[tokio::test]
async fn trailers_are_whole_however_they_are_taken() {
    let large = "y".repeat(30_000);
    for pipe in [50, 1_000, 1 << 20] {
        let mut rig = Rig::defaults();
        let mut client = Raw::new(rig.connect(pipe).0);
        let mut endpoint = rig.endpoint().await;
        let request = "GET / HTTP/1.1|host: a|te: trailers||";
        // The second waits behind the first one, where there is room for it.
        let pipelined = pipe > 1_000;
        client.send(&request.repeat(if pipelined { 2 } else { 1 })).await;
        let answering = tokio::spawn({
            let large = large.clone();
            async move {
                for _ in 0..2 {
                    let mut asked = endpoint.asked().await;
                    let mut to = asked.answer();
                    to.send_data(vec![b'x'; 10_000].into(), false).unwrap();
                    let mut trailers = field("x-sum", "7");
                    trailers.append("x-sum", "8".parse().unwrap());
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    trailers.insert("x-large", large.parse().unwrap());
                    // A field that has no place among them.
                    trailers.insert("trailer", "x-sum".parse().unwrap());
                    trailers.insert("set-cookie", "a=b".parse().unwrap());
                    to.send_trailers(trailers).unwrap();
                }
                endpoint
            }
        });
        for turn in 0..2 {
            if turn == 1 && !pipelined {
                client.send(request).await;
            }
            let rsp = client.receive().await;
            assert_eq!(rsp.body, vec![b'x'; 10_000]);
            let expect = format!("x-sum: 7\r\nx-sum: 8\r\ngrpc-status: 0\r\nx-large: {large}\r\n");
            assert_eq!(rsp.trailers, expect, "a pipe of {pipe}");
        }
        answering.await.unwrap();
    }
}

#[tokio::test]
async fn a_response_that_is_not_in_chunks_has_no_trailers() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    for (method, head, body) in [
        ("GET", ok().header("content-length", "4"), "body"),
        ("HEAD", ok().header("content-length", "4"), ""),
        ("HEAD", ok(), ""),
        ("GET", ok().status(204), ""),
        ("GET", ok().status(304), ""),
    ] {
        client.send(&format!("{method} / HTTP/1.1|host: a|te: trailers||")).await;
        let mut asked = endpoint.asked().await;
        let head = head.body(()).unwrap();
        let line = format!("HTTP/1.1 {}", head.status().as_str());
        let mut sending = asked.respond.send_response(head, false).unwrap();
        if !body.is_empty() {
            sending.send_data(body.into(), false).unwrap();
        }
        sending.send_trailers(field("x-sum", "7")).unwrap();
        assert!(client.until("\r\n\r\n").await.starts_with(&line), "{line}");
        assert_eq!(client.exactly(body.len()).await, body.as_bytes());
    }
    client.send("GET / HTTP/1.1|host: a||").await;
    respond(&mut endpoint.asked().await, ok(), "last");
    assert_eq!(client.receive().await.body, b"last");
}

fn field(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), http::HeaderValue::from_static(value))])
}

#[tokio::test]
async fn grpc_passes_with_the_trailers_it_ends_with() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    let call = "POST /pkg.Service/Method HTTP/1.1|host: a|content-type: application/grpc|te: trailers|\
                transfer-encoding: chunked||5|\0\0\0\0\0|0||";
    client.send(&format!("{call}|")).await;
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.headers()["te"], "trailers");
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, [0; 5]);
    let head = ok().header("content-type", "application/grpc").body(()).unwrap();
    let mut sending = asked.respond.send_response(head, false).unwrap();
    sending.send_data(vec![0; 5].into(), false).unwrap();
    sending.send_trailers(field("grpc-status", "0")).unwrap();
    let rsp = client.receive().await;
    assert_eq!((rsp.body.as_slice(), rsp.trailers.as_str()), (&[0; 5][..], "grpc-status: 0\r\n"));

    // Without a message the status is in the head.
    client.send(&format!("{call}|")).await;
    let head = ok().header("content-type", "application/grpc").header("grpc-status", "5").body(()).unwrap();
    endpoint.asked().await.respond.send_response(head, true).unwrap();
    let rsp = client.receive().await;
    assert_eq!((rsp.fields["grpc-status"].as_str(), rsp.body.len()), ("5", 0));
    let statuses: Vec<_> = rig.stats.responses().map(|responses| responses.grpc_status).collect();
    assert_eq!(statuses, [Some(0), Some(5)]);
}

#[tokio::test]
async fn requests_that_get_no_response_are_answered() {
    for (reason, status) in [(Reason::CANCEL, 502), (Reason::REFUSED_STREAM, 503), (Reason::NO_ERROR, 502)] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = connect(&mut rig).await;
        client.send("GET / HTTP/1.1|host: a||").await;
        // One that is refused is sent again a few times.
        let resetting = tokio::spawn(async move {
            loop {
                endpoint.asked().await.respond.send_reset(reason);
            }
        });
        let rsp = client.receive().await;
        assert_eq!((rsp.status, rsp.body.len()), (status, 0), "{reason:?}");
        assert!(rsp.fields.contains_key("proxy-error"));
        let counted: Vec<_> = rig.stats.responses().map(|responses| responses.status.as_u16()).collect();
        assert_eq!(counted, [status]);
        resetting.abort();
    }
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    let _asked = endpoint.asked().await;
    endpoint.kill();
    assert_eq!(client.receive().await.status, 502);
}

#[tokio::test]
async fn a_response_that_is_broken_off_never_looks_whole() {
    for length in [None, Some("100")] {
        for kill in [false, true] {
            for (reason, _) in crate::support::codes().zip(0..if kill { 1 } else { 20 }) {
                let mut rig = Rig::defaults();
                let (mut client, mut endpoint) = connect(&mut rig).await;
                client.send("GET / HTTP/1.1|host: a||").await;
                let mut asked = endpoint.asked().await;
                let mut head = ok();
                if let Some(length) = length {
                    head = head.header("content-length", length);
                }
                let mut sending = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
                sending.send_data("part".into(), false).unwrap();
                client.until("part").await;
                if kill {
                    endpoint.kill();
                } else {
                    sending.send_reset(reason);
                }
                let rest = client.rest().await;
                assert!(rest.is_empty() || (length.is_none() && rest == "\r\n"), "{reason:?}: {rest:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_is_broken_off_never_looks_whole() {
    for request in [
        "POST / HTTP/1.1|host: a|content-length: 100||part",
        "POST / HTTP/1.1|host: a|transfer-encoding: chunked||4|part|",
        "POST / HTTP/1.1|host: a|transfer-encoding: chunked||8|part",
        "POST / HTTP/1.1|host: a|transfer-encoding: chunked||4|part|0|",
        "POST / HTTP/1.1|host: a|transfer-encoding: chunked||4|part|x|",
        "POST / HTTP/1.1|host: a|transfer-encoding: chunked||4|part|0|a: b\n|",
    ] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = connect(&mut rig).await;
        client.send(request).await;
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "part");
        drop(client);
        assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL, "{request:?}");
        assert!(!asked.request.body().is_end_stream(), "END_STREAM was passed on");
    }
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_request() {
    for answered in [false, true] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = connect(&mut rig).await;
        client.send("GET / HTTP/1.1|host: a||").await;
        let mut asked = endpoint.asked().await;
        let mut sending = answered.then(|| asked.answer());
        if answered {
            client.head().await;
        }
        drop(client);
        let reason = std::future::poll_fn(|cx| match &mut sending {
            Some(sending) => sending.poll_reset(cx),
            None => asked.respond.poll_reset(cx),
        });
        assert_eq!(reason.await.unwrap(), Reason::CANCEL);
        let resets: u64 = rig.stats.transport(Peer::Client).resets().map(|(_, count)| count).sum();
        assert_eq!(resets, 1);
    }
}

/// How often each of the last two limits was reached.
fn limits(rig: &Rig) -> [u64; 2] {
    let limits: HashMap<_, _> = rig.stats.transport(Peer::Client).limits().collect();
    [limits[&Limit::Detect], limits[&Limit::HeaderRead]]
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_say_what_it_speaks_is_closed() {
    for sent in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut rig = Rig::defaults();
        let (mut client, _endpoint) = connect(&mut rig).await;
        let started = Instant::now();
        client.send(sent).await;
        assert_eq!(client.rest().await, "");
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(limits(&rig), [1, 0]);
        let transport = rig.stats.transport(Peer::Client);
        assert_eq!((transport.open_total(), transport.close_total()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_closes_the_connection() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    // It takes as long as it takes to be answered, and to be followed by another request.
    let mut asked = endpoint.asked().await;
    sleep(3_600 * SECOND).await;
    respond(&mut asked, ok(), "body");
    assert_eq!(client.receive().await.body, b"body");
    sleep(3_600 * SECOND).await;
    assert_eq!(limits(&rig), [0, 0]);
    let started = Instant::now();
    client.send("GET / HTTP/1.1|").await;
    sleep(20 * SECOND).await;
    client.send("host: a|").await;
    assert_eq!(client.rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(limits(&rig), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn half_a_head_behind_a_request_waits_for_its_turn() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET /1 HTTP/1.1|host: a||GET /2 HTT").await;
    let mut asked = endpoint.asked().await;
    sleep(3_600 * SECOND).await;
    respond(&mut asked, ok(), "body");
    assert_eq!(client.receive().await.body, b"body");
    client.send("P/1.1|host: a||").await;
    respond(&mut endpoint.asked().await, ok(), "body");
    assert_eq!(client.receive().await.body, b"body");
    assert_eq!(limits(&rig), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn age_and_idle_time_end_connections() {
    let age = MaxConnectionAge { age: 100 * SECOND, grace: 30 * SECOND };
    let aged = ServerParams { max_connection_age: Some(age), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&aged, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    let mut asked = endpoint.asked().await;
    sleep(115 * SECOND).await;
    respond(&mut asked, ok(), "body");
    let rsp = client.receive().await;
    assert_eq!((rsp.fields["connection"].as_str(), rsp.body.as_slice()), ("close", &b"body"[..]));
    assert_eq!(client.rest().await, "");

    // A response that does not end is cut off.
    let mut rig = Rig::new(&aged, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = connect(&mut rig).await;
    let started = Instant::now();
    client.send("GET / HTTP/1.1|host: a||").await;
    let mut sending = endpoint.asked().await.answer();
    sending.send_data("part".into(), false).unwrap();
    client.until("part").await;
    assert_eq!(client.rest().await, "\r\n");
    assert!((120..=140).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let idling = ServerParams { max_connection_idle: Some(60 * SECOND), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&idling, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    sleep(100 * SECOND).await;
    respond(&mut endpoint.asked().await, ok(), "body");
    client.receive().await;
    let started = Instant::now();
    assert_eq!(client.rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn drained_connections_close_after_the_request_that_is_answered() {
    let echo = || {
        tower::service_fn(|req: http::Request<_>| async {
            Ok::<_, std::convert::Infallible>(Response::new(req.into_body()))
        })
    };
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    // Drained before the first byte, in the middle of a request, and between two.
    for sent_before in
        ["", "POST / HTTP/1.1|host: a|content-length: 4||bo", "POST / HTTP/1.1|host: a|content-length: 4||body"]
    {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut client = Raw::new(near);
        let (drain, drained) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn({
            let (server, echo) = (server.clone(), echo());
            async move { server.serve(far, echo, async { _ = drained.await }).await }
        });
        client.send(sent_before).await;
        let whole = "POST / HTTP/1.1|host: a|content-length: 4||body";
        if sent_before == whole {
            assert_eq!(client.receive().await.body, b"body");
        } else if !sent_before.is_empty() {
            client.head().await;
        }
        drain.send(()).unwrap();
        tokio::task::yield_now().await;
        if sent_before.is_empty() {
            client.send(whole).await;
            let rsp = client.receive().await;
            assert_eq!((rsp.fields["connection"].as_str(), rsp.body.as_slice()), ("close", &b"body"[..]));
        } else if sent_before != whole {
            client.send("dy").await;
            client.until("body").await;
        }
        assert_eq!(client.rest().await, "", "{sent_before:?}");
        served.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_waits_for_its_reader_is_not_cut_off_by_a_drain() {
    let service = tower::service_fn(|_: http::Request<proxy_http::IncomingBody>| async {
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; 20_000]))))
    });
    let (near, far) = tokio::io::duplex(1_000);
    let mut client = Raw::new(near);
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    let served = tokio::spawn(async move { server.serve(far, service, sleep(SECOND)).await });
    client.send("GET / HTTP/1.1|host: a||").await;
    sleep(60 * SECOND).await;
    assert_eq!(client.receive().await.body, vec![b'x'; 20_000]);
    assert_eq!(client.rest().await, "");
    served.await.unwrap().unwrap();
}

/// Requests that are answered with 400 and end the connection, without a word to the endpoint.
const BAD: &[(&str, &str)] = &[
    ("CL.TE", "POST / HTTP/1.1|host: a|content-length: 5|transfer-encoding: chunked||0||GET /x HTTP/1.1|host: a||"),
    ("TE.CL", "POST / HTTP/1.1|host: a|transfer-encoding: chunked|content-length: 5||0||GET /x HTTP/1.1|host: a||"),
    ("CL.TE, the one not understood", "POST / HTTP/1.1|host: a|content-length: 5|transfer-encoding: x||01234"),
    ("CL.TE in the case of letters", "POST / HTTP/1.1|host: a|Content-length: 5|TRANSFER-ENCODING: Chunked||0||"),
    ("CL.CL", "POST / HTTP/1.1|host: a|content-length: 5|content-length: 6||012345"),
    ("CL.CL, the same", "POST / HTTP/1.1|host: a|content-length: 5|content-length: 5||01234"),
    ("CL as a list", "POST / HTTP/1.1|host: a|content-length: 5, 5||01234"),
    ("CL with a sign", "POST / HTTP/1.1|host: a|content-length: +5||01234"),
    ("CL in hex", "POST / HTTP/1.1|host: a|content-length: 0x5||01234"),
    ("CL without a value", "POST / HTTP/1.1|host: a|content-length:||01234"),
    ("CL below zero", "POST / HTTP/1.1|host: a|content-length: -1||"),
    ("CL above all", "POST / HTTP/1.1|host: a|content-length: 18446744073709551616||"),
    ("CL with a blank in it", "POST / HTTP/1.1|host: a|content-length: 1 2||012345678901"),
    ("TE.TE", "POST / HTTP/1.1|host: a|transfer-encoding: chunked|transfer-encoding: chunked||0||"),
    ("TE.TE, one not understood", "POST / HTTP/1.1|host: a|transfer-encoding: chunked|transfer-encoding: x||0||"),
    ("TE with another coding", "POST / HTTP/1.1|host: a|transfer-encoding: gzip, chunked||0||"),
    ("TE that does not end in chunked", "POST / HTTP/1.1|host: a|transfer-encoding: chunked, gzip||0||"),
    ("TE alone", "POST / HTTP/1.1|host: a|transfer-encoding: identity||0||"),
    ("TE with a vertical tab", "POST / HTTP/1.1|host: a|transfer-encoding: \u{b}chunked||0||"),
    ("TE in quotes", "POST / HTTP/1.1|host: a|transfer-encoding: \"chunked\"||0||"),
    ("TE in HTTP/1.0", "POST / HTTP/1.0|host: a|transfer-encoding: chunked||0||"),
    ("blank before the colon", "POST / HTTP/1.1|host: a|content-length : 5||01234"),
    ("tab before the colon", "POST / HTTP/1.1|host: a|transfer-encoding\t: chunked||0||"),
    ("obs-fold", "POST / HTTP/1.1|host: a|x: y| content-length: 5||01234"),
    ("obs-fold of a framing field", "POST / HTTP/1.1|host: a|transfer-encoding:| chunked||0||"),
    ("blank before the first field", "GET / HTTP/1.1| host: a|host: b||"),
    ("bare LF behind a field", "GET / HTTP/1.1|host: a|x: y\nz: 1||"),
    ("bare LF behind the request line", "GET / HTTP/1.1\nhost: a||"),
    ("bare LF behind the head", "GET / HTTP/1.1|host: a|\n"),
    ("bare LF before the request", "\nGET / HTTP/1.1|host: a||"),
    ("bare CR in a value", "GET / HTTP/1.1|host: a|x: y\rcontent-length: 5||"),
    ("bare CR before the colon", "GET / HTTP/1.1|host: a|x\r: y||"),
    ("NUL in a value", "GET / HTTP/1.1|host: a|x: y\0||"),
    ("NUL in a name", "GET / HTTP/1.1|host: a|x\0: y||"),
    ("no colon", "GET / HTTP/1.1|host: a|x||"),
    ("no name", "GET / HTTP/1.1|host: a|: x||"),
    ("control byte in the target", "GET /\u{1} HTTP/1.1|host: a||"),
    ("tab in the request line", "GET\t/ HTTP/1.1|host: a||"),
    ("two blanks in the request line", "GET  / HTTP/1.1|host: a||"),
    ("blank in the target", "GET /a b HTTP/1.1|host: a||"),
    ("no version", "GET /|host: a||"),
    ("another version", "GET / HTTP/1.2|host: a||"),
    ("another protocol", "GET / ICY/1.1|host: a||"),
    ("no host", "GET / HTTP/1.1|x: y||"),
    ("two hosts", "GET / HTTP/1.1|host: a|host: b||"),
    ("two hosts, the same", "GET / HTTP/1.1|host: a|host: a||"),
    ("a list of hosts", "GET / HTTP/1.1|host: a, b||"),
    ("a host with a path", "GET / HTTP/1.1|host: a/b||"),
    ("a host with a user", "GET / HTTP/1.1|host: u@a||"),
    ("a target with a user", "GET http://u@a/ HTTP/1.1|host: a||"),
    ("a target without a slash", "GET a HTTP/1.1|host: a||"),
    ("a target of another scheme", "GET ftp://a/ HTTP/1.1|host: a||"),
    ("an asterisk for a GET", "GET * HTTP/1.1|host: a||"),
    ("a method that is no token", "G(T / HTTP/1.1|host: a||"),
];

#[tokio::test]
async fn what_may_be_read_in_two_ways_is_refused() {
    for &(class, request) in BAD {
        // In one piece, and behind a request that is fine.
        for before in ["", "GET /before HTTP/1.1|host: a||"] {
            let mut rig = Rig::defaults();
            let (mut client, mut endpoint) = connect(&mut rig).await;
            client.send(&format!("{before}{request}")).await;
            if !before.is_empty() {
                let mut asked = endpoint.asked().await;
                assert_eq!(asked.request.uri().path(), "/before", "{class}");
                respond(&mut asked, ok(), "fine");
                assert_eq!(client.receive().await.body, b"fine", "{class}");
            }
            let rest = client.rest().await;
            let (status, _) = rest.split_once("\r\n").unwrap_or_else(|| panic!("{class}: no answer"));
            assert_eq!(status, "HTTP/1.1 400 Bad Request", "{class}");
            assert_eq!(rest.matches("HTTP/1.").count(), 1, "{class}: {rest}");
            assert_eq!(rig.stats.requests(), u64::from(!before.is_empty()), "{class}");
        }
    }
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let large = ["x".repeat(16 << 10), "|x: y".repeat(101)];
    for (large, status) in large.iter().zip(["431", "431"]) {
        let mut rig = Rig::defaults();
        let (mut client, _endpoint) = connect(&mut rig).await;
        client.send(&format!("GET / HTTP/1.1|host: a|y: {large}||")).await;
        let rest = client.rest().await;
        assert_eq!(rest.get(9..12), Some(status), "{rest:?}");
        assert_eq!(rig.stats.requests(), 0);
    }
}

#[tokio::test]
async fn responses_that_http_1_1_has_no_form_for_are_502() {
    let heads = [ok().header("content-length", ""), ok().status(StatusCode::SWITCHING_PROTOCOLS)];
    for head in heads {
        let server = Server::new(&ServerParams::DEFAULT).unwrap();
        let head = head.body(()).unwrap();
        let service = tower::service_fn(move |req: http::Request<proxy_http::IncomingBody>| {
            let rsp = head.clone();
            async move { Ok::<_, std::convert::Infallible>(rsp.map(|()| req.into_body())) }
        });
        let (near, far) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(async move { server.serve(far, service, std::future::pending()).await });
        let mut client = Raw::new(near);
        client.send("GET / HTTP/1.1|host: a||").await;
        assert!(client.rest().await.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
        served.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn tls_is_told_apart_and_closed() {
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    let echo = tower::service_fn(|req: http::Request<_>| async {
        Ok::<_, std::convert::Infallible>(Response::new(req.into_body()))
    });
    let (near, far) = tokio::io::duplex(1 << 16);
    let served = tokio::spawn(async move { server.serve(far, echo, std::future::pending()).await });
    let mut client = Raw::new(near);
    client.io.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03").await.unwrap();
    assert_eq!(client.rest().await, "");
    assert!(served.await.unwrap().unwrap_err().is_tls());
}
