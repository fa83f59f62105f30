//! Any fields, of a request or of a response: what comes out on the other side is a message that HTTP allows, and the
//! streams beside it are answered.
#![no_main]

use fuzz::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Peer, RST_STREAM, Rig, block, run};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, header};
use libfuzzer_sys::fuzz_target;
use std::pin::pin;
use tokio::io::DuplexStream;

const NEXT: &[u8] = b":method=GET|:scheme=http|:path=/next|:authority=a.test";
/// More than a header list of 16 KiB takes.
const MOST: usize = 12_000;

// `<` for a response, else a request; its head; and perhaps, on lines of their own, its data and its trailers.
fuzz_target!(|input: &[u8]| {
    let Some((kind, message)) = input.split_first().filter(|_| input.len() < MOST) else { return };
    let mut parts = message.splitn(3, |byte| *byte == b'\n');
    let message = Message { head: parts.next().unwrap(), data: parts.next(), trailers: parts.next() };
    run(async { if *kind == b'<' { response(&message).await } else { request(&message).await } });
});

struct Message<'a> {
    head: &'a [u8],
    data: Option<&'a [u8]>,
    trailers: Option<&'a [u8]>,
}

impl Message<'_> {
    async fn send(&self, peer: &mut Peer, stream: u32) {
        let end = |last| if last { END_STREAM } else { 0 };
        let flags = END_HEADERS | end(self.data.is_none());
        peer.send(HEADERS, flags, stream, &block(self.head)).await;
        if let Some(data) = self.data {
            peer.send(DATA, end(self.trailers.is_none()), stream, data).await;
        }
        if let Some(trailers) = self.trailers {
            peer.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(trailers)).await;
        }
    }
}

async fn request(message: &Message<'_>) {
    let mut rig = Rig::new(1 << 16);
    let endpoint = rig.endpoints.recv().await.unwrap();
    tokio::spawn(serve(endpoint));
    let mut peer = Peer::client(rig.client).await;
    message.send(&mut peer, 1).await;
    let Some(kind) = ended(&mut peer, 1).await else { return };
    assert!(matches!(kind, HEADERS | RST_STREAM));
    peer.send(HEADERS, END_HEADERS | END_STREAM, 3, &block(NEXT)).await;
    assert_eq!(ended(&mut peer, 3).await, Some(HEADERS), "the connection lives on");
}

/// What a stream is answered with. `None`: the connection has ended, with a reason.
async fn ended(peer: &mut Peer, stream: u32) -> Option<u8> {
    loop {
        let frame = peer.frame().await.expect("a GOAWAY comes before the end");
        match frame.kind {
            HEADERS | RST_STREAM if frame.stream == stream => return Some(frame.kind),
            GOAWAY => return None,
            _ => {}
        }
    }
}

/// Answers all requests with 203, and checks them. Refuses the first one, so that it comes again.
async fn serve(io: DuplexStream) {
    let mut refuses = true;
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.expect("the proxy sends nothing that h2 refuses");
        let refuse = std::mem::take(&mut refuses);
        tokio::spawn(async move {
            check_request(&request);
            if refuse {
                respond.send_reset(Reason::REFUSED_STREAM);
                return;
            }
            collect(request.into_body()).await;
            let _ = respond.send_response(http::Response::builder().status(203).body(()).unwrap(), true);
        });
    }
}

fn check_request(request: &Request<RecvStream>) {
    let (uri, headers) = (request.uri(), request.headers());
    let is_connect = request.method() == Method::CONNECT;
    let path = if is_connect { "/" } else { uri.path_and_query().unwrap().as_str() };
    assert!(!is_connect || (uri.port_u16().is_some() && !headers.contains_key(header::CONTENT_LENGTH)));
    match uri.authority() {
        Some(authority) => {
            let authority = authority.as_str();
            assert!(!authority.contains(['@', ',']) && !authority.ends_with(':'), "{authority}");
            if let Some(host) = headers.get(header::HOST) {
                let host = host.to_str().unwrap().to_ascii_lowercase();
                let same = |a: &str, b: &str| a == b || (a.strip_prefix(b).is_some_and(|port| port.starts_with(':')));
                let authority = authority.to_ascii_lowercase();
                assert!(same(&authority, &host) || same(&host, &authority), "{authority} {host}");
            }
        }
        None => assert_eq!((request.method(), path), (&Method::OPTIONS, "*")),
    }
    assert!(path.starts_with('/') || (path == "*" && request.method() == Method::OPTIONS), "{path}");
    assert!(path.is_ascii() && !path.contains(['#', ' ']), "{path}");
    assert!(headers.get_all(header::HOST).iter().count() <= 1);
    check_fields(headers);
}

fn check_fields(fields: &HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"] {
        assert!(!fields.contains_key(name), "{name}");
    }
    assert!(fields.get_all(header::CONTENT_LENGTH).iter().count() <= 1);
    assert!(fields.get(header::CONTENT_LENGTH).is_none_or(|it| it.to_str().unwrap().parse::<u64>().is_ok()));
    assert!(fields.get_all(header::TE).iter().all(|te| te == "trailers"));
    for (name, value) in fields {
        let value = value.as_bytes();
        assert!(!value.starts_with(b" ") && !value.ends_with(b" "), "{name}");
        assert!(!value.starts_with(b"\t") && !value.ends_with(b"\t"), "{name}");
        assert!(!value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n')), "{name}");
    }
}

/// Reads a body to its end, and checks its trailers.
async fn collect(mut body: RecvStream) -> usize {
    let mut total = 0;
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        total += data.len();
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        check_fields(&trailers);
        assert!(!trailers.contains_key(header::HOST) && !trailers.contains_key(header::CONTENT_LENGTH));
    }
    total
}

async fn response(message: &Message<'_>) {
    let mut rig = Rig::new(1 << 16);
    let mut peer = Peer::endpoint(rig.endpoints.recv().await.unwrap()).await;
    // Should it be lost, the next one is as good as none.
    tokio::spawn(async move { while rig.endpoints.recv().await.is_some() {} });
    let (mut client, connection) = h2::client::handshake(rig.client).await.unwrap();
    tokio::spawn(connection);
    let mut ask = || client.send_request(Request::get("http://a.test/").body(()).unwrap(), true).unwrap().0;
    let (answer, beside) = (ask(), ask());
    for _ in 0..2 {
        while peer.frame().await.unwrap().kind != HEADERS {}
    }
    message.send(&mut peer, 1).await;
    match answer.await {
        Ok(rsp) => {
            check_fields(rsp.headers());
            let has_content = !matches!(rsp.status().as_u16(), 204 | 304);
            assert!(has_content || !rsp.headers().contains_key(header::CONTENT_LENGTH) || rsp.status() == 304);
            let total = collect(rsp.into_body()).await;
            assert!(has_content || total == 0);
        }
        Err(error) => assert!(error.is_reset() && error.is_remote(), "{error:?}"),
    }
    peer.send(HEADERS, END_HEADERS | END_STREAM, 3, &block(b":status=203")).await;
    let mut beside = pin!(beside);
    let status = (&mut beside).await.expect("there is an answer").status().as_u16();
    assert!(matches!(status, 203 | 502), "{status}");
}
