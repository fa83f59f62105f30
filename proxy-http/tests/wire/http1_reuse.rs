//! Which connections to endpoints of HTTP/1.1 have another request after an exchange, and which are closed.

mod request_timeout;

use crate::{
    raw::Raw,
    support::{Opens, PROXY, Rig, collect, endpoint_params, get, post},
};
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request, header::CONTENT_LENGTH};
use http_body_util::Empty;
use http_h2::{ClientParams, ServerParams};
use proxy_http::{Connect, Endpoints, Protocol, proxy};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    sync::mpsc,
    time::timeout,
};
use tower::{Service as _, ServiceExt as _};

const OK: &str = "HTTP/1.1 200 OK|content-length: 2||ok";
/// A response that the next client must not get.
const POISON: &str = "HTTP/1.1 200 OK|content-length: 6||POISON";
const CHUNKED: &str = "HTTP/1.1 200 OK|transfer-encoding: chunked|";
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of HTTP/2, and an endpoint that answers on each of its connections.
struct Pool {
    rig: Rig,
    client: SendRequest<bytes::Bytes>,
    connections: Vec<Raw>,
}

impl Pool {
    async fn new(mut rig: Rig) -> Self {
        let client = rig.client().await;
        Self { rig, client, connections: Vec::new() }
    }

    async fn with(params: proxy::Params) -> Self {
        Self::new(Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params, |connect| {
            Endpoints::fixed(["endpoint"], &connect.protocol(Protocol::Http1), endpoint_params())
        }))
        .await
    }

    /// Which connection has a whole head, and that.
    async fn asked(&mut self) -> (usize, String) {
        timeout(PATIENCE, async {
            loop {
                for (index, connection) in self.connections.iter_mut().enumerate() {
                    if let Some(at) = connection.read.windows(4).position(|window| window == b"\r\n\r\n") {
                        let head: Vec<_> = connection.read.drain(..at + 4).collect();
                        return (index, String::from_utf8(head).unwrap());
                    }
                }
                poll_fn(|cx| self.poll(cx)).await;
            }
        })
        .await
        .expect("an endpoint is asked")
    }

    /// Takes new connections, and the bytes that come on all of them.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut polled = Poll::Pending;
        while let Poll::Ready(Some(io)) = self.rig.endpoint_ios.poll_recv(cx) {
            self.connections.push(Raw::new(io));
            polled = Poll::Ready(());
        }
        for Raw { io, read, .. } in &mut self.connections {
            let mut bytes = [0; 4096];
            let mut bytes = ReadBuf::new(&mut bytes);
            if let Poll::Ready(Ok(())) = Pin::new(io).poll_read(cx, &mut bytes)
                && !bytes.filled().is_empty()
            {
                read.extend(bytes.filled());
                polled = Poll::Ready(());
            }
        }
        polled
    }

    fn send(&mut self, req: Request<()>) -> ResponseFuture {
        self.client.send_request(req, true).unwrap().0
    }

    /// Asks for another client, and tells on which connection. That client gets the response that was written for it.
    async fn next(&mut self) -> usize {
        let mut req = get();
        *req.uri_mut() = "http://test.example/next".parse().unwrap();
        let response = self.send(req);
        let (index, head) = self.asked().await;
        assert!(head.starts_with("GET /next "), "{head}");
        self.connections[index].send("HTTP/1.1 200 OK|content-length: 4||next").await;
        assert_eq!(received(response).await, (200, Some("next".to_owned())));
        index
    }
}

/// The status and the body of a response. Status 0: it broke.
async fn received(response: ResponseFuture) -> (u16, Option<String>) {
    let Ok(mut rsp) = timeout(PATIENCE, response).await.expect("it is answered") else { return (0, None) };
    match collect(rsp.body_mut()).await {
        Ok((body, _)) => (rsp.status().as_u16(), Some(String::from_utf8(body).unwrap())),
        Err(_) => (0, None),
    }
}

/// A row: its name, the method of the request, the bytes of the endpoint, and the client's status and body.
type Row<'a> = (&'a str, Method, &'a str, u16, Option<&'a str>);

const GET: Method = Method::GET;
const HEAD: Method = Method::HEAD;

#[track_caller]
fn row((class, method, rsp, status, body): &Row<'_>) -> (Request<()>, (u16, Option<String>), String) {
    let mut req = get();
    *req.method_mut() = method.clone();
    (req, (*status, body.map(str::to_owned)), format!("{class}: {rsp}"))
}

#[tokio::test]
async fn a_connection_is_used_again_after_messages_that_ended_where_they_say() {
    let rows: &[Row<'_>] = &[
        ("a length", GET, OK, 200, Some("ok")),
        ("no content by its length", GET, "HTTP/1.1 200 OK|content-length: 0||", 200, Some("")),
        ("names and blanks of any form", GET, "HTTP/1.1 200|Content-Length:\t 2 |x:y||ok", 200, Some("ok")),
        ("chunks", GET, &format!("{CHUNKED}|1|o|1|k|0||"), 200, Some("ok")),
        ("extensions of chunks", GET, &format!("{CHUNKED}|2;a=b ; c=\"d;e\"|ok|0;x||"), 200, Some("ok")),
        (
            "chunks and trailers",
            GET,
            &format!("{CHUNKED}trailer: x-sum||2|ok|0|x-sum: 5|content-length: 9||"),
            200,
            Some("ok"),
        ),
        ("204", GET, "HTTP/1.1 204 No Content||", 204, Some("")),
        ("204 that says so", GET, "HTTP/1.1 204 No Content|content-length: 0||", 204, Some("")),
        ("304", GET, "HTTP/1.1 304 Not Modified||", 304, Some("")),
        ("304 with the length of what it has not", GET, "HTTP/1.1 304 Not Modified|content-length: 5||", 304, Some("")),
        (
            "304 with the coding of what it has not",
            GET,
            "HTTP/1.1 304 Not Modified|transfer-encoding: chunked||",
            304,
            Some(""),
        ),
        ("HEAD", HEAD, "HTTP/1.1 200 OK|content-length: 5||", 200, Some("")),
        ("HEAD of chunks", HEAD, &format!("{CHUNKED}|"), 200, Some("")),
        ("HEAD of what has no length", HEAD, "HTTP/1.1 200 OK||", 200, Some("")),
        ("interim responses", GET, &format!("HTTP/1.1 103 Early Hints|link: x||HTTP/1.1 100||{OK}"), 200, Some("ok")),
        (
            "keep-alive",
            GET,
            "HTTP/1.1 200 OK|connection: keep-alive|keep-alive: timeout=5|content-length: 2||ok",
            200,
            Some("ok"),
        ),
        ("an error", GET, "HTTP/1.1 503 Service Unavailable|content-length: 2||no", 503, Some("no")),
        ("408 that stays", GET, "HTTP/1.1 408 Request Timeout|content-length: 0||", 408, Some("")),
    ];
    for case in rows {
        let (req, expect, class) = row(case);
        // However it comes.
        for piece in [1, 7, usize::MAX] {
            let mut pool = Pool::with(PROXY).await;
            let first = pool.next().await;
            let response = pool.send(req.clone());
            assert_eq!(pool.asked().await.0, first, "{class}");
            let rsp = case.2.replace('|', "\r\n");
            for piece in rsp.as_bytes().chunks(piece) {
                pool.connections[first].send(std::str::from_utf8(piece).unwrap()).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(received(response).await, expect, "{class}");
            assert_eq!(pool.next().await, first, "{class}");
        }
    }
}

#[tokio::test]
async fn a_connection_is_closed_after_a_response_that_has_two_meanings() {
    let big = "x".repeat(80);
    let mut used_again = Vec::new();
    let rows: &[Row<'_>] = &[
        // Responses that are not passed on.
        ("TE and CL", GET, "HTTP/1.1 200 OK|transfer-encoding: chunked|content-length: 5||0||", 502, None),
        ("CL and TE", GET, "HTTP/1.1 200 OK|content-length: 5|transfer-encoding: chunked||0||", 502, None),
        ("TE and CL for HEAD", HEAD, "HTTP/1.1 200 OK|transfer-encoding: chunked|content-length: 5||", 502, None),
        ("two TE", GET, "HTTP/1.1 200 OK|transfer-encoding: gzip|transfer-encoding: chunked||0||", 502, None),
        ("chunked twice", GET, &format!("{CHUNKED}transfer-encoding: chunked||0||"), 502, None),
        ("a list of TE", GET, "HTTP/1.1 200 OK|transfer-encoding: gzip, chunked||0||", 502, None),
        ("another TE", GET, "HTTP/1.1 200 OK|transfer-encoding: gzip||body", 502, None),
        ("TE that hides", GET, "HTTP/1.1 200 OK|transfer-encoding: xchunked||0||", 502, None),
        ("a list of CL", GET, "HTTP/1.1 200 OK|content-length: 0, 0||", 502, None),
        ("another list of CL", GET, "HTTP/1.1 200 OK|content-length: 2, 2||ok", 502, None),
        ("a list of CL for HEAD", HEAD, "HTTP/1.1 200 OK|content-length: 2, 2||", 502, None),
        ("a list of CL of 304", GET, "HTTP/1.1 304 Not Modified|content-length: 2, 2||", 502, None),
        ("CL that differ", GET, "HTTP/1.1 200 OK|content-length: 0|content-length: 5||", 502, None),
        ("CL with a sign", GET, "HTTP/1.1 200 OK|content-length: +0||", 502, None),
        ("CL that is none", GET, "HTTP/1.1 200 OK|content-length:||", 502, None),
        ("CL in hex", GET, "HTTP/1.1 200 OK|content-length: 0x2||ok", 502, None),
        ("a blank in a name", GET, "HTTP/1.1 200 OK|content-length : 2||ok", 200, Some("ok")),
        ("obs-fold", GET, "HTTP/1.1 200 OK|x: y| z|content-length: 2||ok", 502, None),
        ("bare CR", GET, "HTTP/1.1 200 OK|x: y\rz|content-length: 2||ok", 502, None),
        ("NUL", GET, "HTTP/1.1 200 OK|x: \0|content-length: 2||ok", 502, None),
        ("TE of HTTP/1.0", GET, "HTTP/1.0 200 OK|transfer-encoding: chunked||0||", 502, None),
        (
            "switching unasked",
            GET,
            "HTTP/1.1 101 Switching Protocols|upgrade: websocket|connection: upgrade||",
            502,
            None,
        ),
        ("no HTTP", GET, "hello||", 502, None),
        // Accepted, as some clients accept them.
        ("CL twice", GET, "HTTP/1.1 200 OK|content-length: 2|content-length: 2||ok", 200, Some("ok")),
        ("CL twice for HEAD", HEAD, "HTTP/1.1 200 OK|content-length: 2|content-length: 2||", 200, Some("")),
        ("LF", GET, "HTTP/1.1 200 OK\ncontent-length: 2\n\nok", 200, Some("ok")),
        ("LF after CRLF", GET, "HTTP/1.1 200 OK|x: y\ncontent-length: 2||ok", 200, Some("ok")),
        ("LF at the end", GET, "HTTP/1.1 200 OK|content-length: 2|\nok", 200, Some("ok")),
        ("an empty line before", GET, &format!("|{OK}"), 200, Some("ok")),
        ("LF in trailers", GET, &format!("{CHUNKED}|2|ok|0|a: b\nc: d||"), 0, None),
        ("204 with CL", GET, "HTTP/1.1 204 No Content|content-length: 6||", 204, Some("")),
        ("204 with TE", GET, "HTTP/1.1 204 No Content|transfer-encoding: chunked||", 204, Some("")),
        (
            "an interim response with CL",
            GET,
            &format!("HTTP/1.1 103 Early Hints|content-length: 6||{OK}"),
            200,
            Some("ok"),
        ),
        (
            "an interim response with TE",
            GET,
            &format!("HTTP/1.1 103 Early Hints|transfer-encoding: chunked||{OK}"),
            200,
            Some("ok"),
        ),
        ("HTTP/1.0", GET, "HTTP/1.0 200 OK|content-length: 2||ok", 200, Some("ok")),
        ("HTTP/1.0 that stays", GET, "HTTP/1.0 200 OK|connection: keep-alive|content-length: 2||ok", 200, Some("ok")),
        ("close", GET, "HTTP/1.1 200 OK|connection: close|content-length: 2||ok", 200, Some("ok")),
        ("close among others", GET, "HTTP/1.1 200 OK|Connection: x-a ,\tCLOSE|content-length: 2||ok", 200, Some("ok")),
        (
            "close in another line",
            GET,
            "HTTP/1.1 200 OK|connection: close|connection: keep-alive|content-length: 2||ok",
            200,
            Some("ok"),
        ),
        (
            "close far behind",
            GET,
            &format!("HTTP/1.1 200 OK|connection: {big}, close|content-length: 2||ok"),
            200,
            Some("ok"),
        ),
        // Bytes behind the end.
        ("two responses", GET, &format!("{OK}{POISON}"), 200, Some("ok")),
        ("an empty line behind", GET, &format!("{OK}|"), 200, Some("ok")),
        ("one byte behind", GET, &format!("{OK}x"), 200, Some("ok")),
        ("bytes behind chunks", GET, &format!("{CHUNKED}|2|ok|0||x"), 200, Some("ok")),
        ("a body of 204", GET, "HTTP/1.1 204 No Content||ok", 204, Some("")),
        ("a body of 304", GET, "HTTP/1.1 304 Not Modified|content-length: 2||ok", 304, Some("")),
        ("a body for HEAD", HEAD, OK, 200, Some("")),
        ("an interim response behind", GET, &format!("{OK}HTTP/1.1 100 Continue||"), 200, Some("ok")),
        ("half a head behind", GET, &format!("{OK}HTTP/1.1 103 Early"), 200, Some("ok")),
        // Bodies that break.
        ("a chunk that is longer", GET, &format!("{CHUNKED}|2|okay|0||"), 0, None),
        ("a size that is none", GET, &format!("{CHUNKED}|2|ok|x|"), 0, None),
        ("a size with a sign", GET, &format!("{CHUNKED}|+2|ok|0||"), 0, None),
        ("a size that is too large", GET, &format!("{CHUNKED}|11111111111111111|ok"), 0, None),
        ("a size that ends with LF", GET, &format!("{CHUNKED}|2\nok|0||"), 0, None),
        ("a chunk that ends with LF", GET, &format!("{CHUNKED}|2|ok\n0||"), 0, None),
        ("an extension with LF", GET, &format!("{CHUNKED}|2;a\nb|ok|0||"), 0, None),
    ];
    for case in rows {
        let (req, expect, class) = row(case);
        for piece in [1, 7, usize::MAX] {
            let mut pool = Pool::with(PROXY).await;
            let response = pool.send(req.clone());
            let (first, _) = pool.asked().await;
            let rsp = case.2.replace('|', "\r\n");
            for piece in rsp.as_bytes().chunks(piece) {
                // It may be closed by now.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut pool.connections[first].io, piece).await;
                tokio::task::yield_now().await;
            }
            let (status, body) = received(response).await;
            assert_eq!((status, if status == 502 { None } else { body }), expect, "{class}");
            if pool.next().await == first {
                used_again.push(case.0);
            } else {
                assert_eq!(pool.connections.swap_remove(first).rest().await, "", "{class}: it is closed");
            }
        }
    }
    assert!(used_again.is_empty(), "{used_again:?}");
}

#[tokio::test]
async fn a_connection_is_closed_after_a_response_that_ends_with_it_or_breaks_off() {
    for (rsp, body) in [
        ("HTTP/1.1 200 OK||ok", Some("ok")),
        ("HTTP/1.0 200 OK||ok", Some("ok")),
        ("HTTP/1.1 200 OK|content-length: 9||ok", None),
        ("HTTP/1.1 200 OK|transfer-encoding: chunked||2|ok|", None),
    ] {
        let mut pool = Pool::with(PROXY).await;
        let response = pool.send(get());
        let (first, _) = pool.asked().await;
        pool.connections[first].send(rsp).await;
        pool.connections[first].shut_down().await;
        let status = if body.is_some() { 200 } else { 0 };
        assert_eq!(received(response).await, (status, body.map(str::to_owned)), "{rsp}");
        assert_ne!(pool.next().await, first, "{rsp}");
    }
}

#[tokio::test]
async fn a_connection_is_closed_for_bytes_that_come_while_it_waits() {
    for bytes in [POISON, "HTTP/1.1 100 Continue||", "|", "HTTP/1.1 408 Request Timeout|connection: close||"] {
        let mut pool = Pool::with(PROXY).await;
        let first = pool.next().await;
        pool.connections[first].send(bytes).await;
        while pool.connections[first].more().await {}
        assert_ne!(pool.next().await, first, "{bytes}");
    }
}

/// The length of the upload, the client's bytes before the response and behind it, and whether the request ended first.
type Uploaded = (Option<u64>, &'static str, &'static str, bool);

#[tokio::test]
async fn a_connection_is_closed_after_a_response_that_is_whole_before_its_request() {
    let uploads: [Uploaded; 4] = [
        (None, "part", "rest", false),
        (Some(8), "part", "rest", false),
        (None, "", "body", false),
        (Some(4), "body", "", true),
    ];
    for (length, before, behind, ended) in uploads {
        let class = format!("{length:?}, {before:?}, {behind:?}");
        let mut pool = Pool::with(PROXY).await;
        let mut req = post();
        req.headers_mut().extend(length.map(|length| (CONTENT_LENGTH, length.into())));
        let (response, mut upload) = pool.client.send_request(req, false).unwrap();
        let (first, _) = pool.asked().await;
        if !before.is_empty() {
            upload.send_data(before.into(), false).unwrap();
            pool.connections[first].until(before).await;
        }
        pool.connections[first].send(OK).await;
        assert_eq!(received(response).await, (200, Some("ok".to_owned())), "{class}");
        // Which the endpoint does not see any more.
        upload.send_data(behind.into(), true).unwrap();
        assert_eq!(pool.next().await == first, ended, "{class}");
    }
}

#[tokio::test]
async fn a_connection_is_closed_when_its_client_gives_up() {
    for sent in ["", "HTTP/1.1 103 Early Hints||", "HTTP/1.1 200 OK|content-length: 9||part"] {
        let mut pool = Pool::with(PROXY).await;
        let (response, mut stream) = pool.client.send_request(get(), true).unwrap();
        let (first, _) = pool.asked().await;
        pool.connections[first].send(sent).await;
        if sent.contains("200") {
            drop(response.await.unwrap());
        }
        stream.send_reset(h2::Reason::CANCEL);
        // It is told.
        while pool.connections[first].more().await {}
        assert_ne!(pool.next().await, first, "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_closed_when_its_response_is_late() {
    let params = proxy::Params { request_timeout: Some(Duration::from_secs(1)), ..PROXY };
    for sent in ["", "HTTP/1.1 200 OK|content-le", "HTTP/1.1 103 Early Hints||", "HTTP/1.1 103 Early Hints|link: "] {
        let mut pool = Pool::with(params).await;
        let response = pool.send(get());
        let (first, _) = pool.asked().await;
        pool.connections[first].send(sent).await;
        assert_eq!(received(response).await.0, 504, "{sent}");
        assert_ne!(pool.next().await, first, "{sent}");
    }
}

#[tokio::test]
async fn a_connection_is_closed_after_a_websocket_that_is_answered_otherwise() {
    let mut pool = Pool::with(PROXY).await;
    let mut req = Request::connect("http://test.example/chat").body(()).unwrap();
    req.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    while !pool.client.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let (response, _stream) = pool.client.send_request(req, false).unwrap();
    let (first, _) = pool.asked().await;
    pool.connections[first].send(OK).await;
    assert_eq!(received(response).await.0, 502);
    assert_ne!(pool.next().await, first);
}

#[tokio::test]
async fn a_connection_takes_no_request_beside_another() -> io::Result<()> {
    let (opened, mut ios) = mpsc::unbounded_channel();
    let mut connect = Connect::<_, Empty<bytes::Bytes>>::new(Opens(opened), &ClientParams::DEFAULT)
        .unwrap()
        .protocol(Protocol::Http1);
    let mut connection = connect.ready().await.unwrap().call("endpoint").await.unwrap();
    let mut endpoint = Raw::new(ios.recv().await.unwrap());
    let req = || Request::get("http://test.example/").body(Empty::new()).unwrap();
    let response = connection.try_send(req());
    let refused = connection.clone().try_send(req()).await.unwrap_err();
    assert!(refused.error.is_unprocessed() && refused.request.is_some(), "{refused:?}");
    endpoint.until("\r\n\r\n").await;
    assert_eq!(connection.max_streams(), 0);
    endpoint.send("HTTP/1.1 200 OK|content-length: 0||").await;
    assert_eq!(response.await.unwrap().status(), 200);
    let response = connection.ready().await.unwrap().call(req());
    endpoint.until("\r\n\r\n").await;
    endpoint.send("HTTP/1.1 200 OK|content-length: 0, 0||").await;
    assert!(response.await.unwrap_err().is_response_malformed());
    // It is closed, not left.
    assert!(connection.ready().await.is_err());
    assert!(!endpoint.more().await);
    Ok(())
}
