//! Clients of HTTP/1.1: raw bytes on one side of the proxy, a raw h2 endpoint on the other.

mod ends;
mod refused;

use crate::{
    raw::Raw,
    support::{Asked, Endpoint, Rig, collect, reset},
};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response};
use http_h2::ServerParams;
use proxy_http::{Protocol, Server, http1, server, stats::Peer};
use std::{future::pending, time::Duration};
use tokio::io::AsyncWriteExt as _;

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
