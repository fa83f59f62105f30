//! Messages that HTTP does not allow, and odd ones that it does, as the other side and their sender see them.

use crate::{
    frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Peer, RST_STREAM},
    support::{self, Endpoint, Rig, collect, reset},
};
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_h2::ServerParams;
use proxy_http::stats::{Peer as Side, ResetCode};
use std::{
    fmt::{self, Write as _},
    future::Future,
    mem,
    pin::pin,
    time::Duration,
};

const GET: &[u8] = b":method=GET|:scheme=http|:path=/|:authority=a.test";
const POST: &[u8] = b":method=POST|:scheme=http|:path=/|:authority=a.test";
/// h2 resets the stream.
const RESET: &str = "RST PROTOCOL_ERROR";
/// What h2 cannot hold in the types of `http` it finds out while it decodes a field block, and takes for a fault of the
/// connection, where RFC 9113 section 8.1.1 has a fault of the stream.
const NOT_DECODED: &str = "GOAWAY PROTOCOL_ERROR";
const AFTER: &[u8] = b":method=GET|:scheme=http|:path=/after|:authority=a.test";

/// A message: fields as `name=value`, with a bar between them.
struct Message<'a> {
    head: &'a [u8],
    data: Option<&'a [u8]>,
    trailers: Option<&'a [u8]>,
}

/// Fields as literals without indexing and without Huffman codes, so that any bytes can be sent.
pub(crate) fn block(fields: &[u8]) -> Vec<u8> {
    let literal = |bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 127).expect("a short string");
        [&[length], bytes].concat()
    };
    let fields = fields.split(|byte| *byte == b'|').filter(|field| !field.is_empty());
    let encoded = fields.map(|field| {
        let equals = field.iter().position(|byte| *byte == b'=').expect("a name and a value");
        [vec![0], literal(&field[..equals]), literal(&field[equals + 1..])].concat()
    });
    encoded.collect::<Vec<_>>().concat()
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [Some(self.head), self.data, self.trailers];
        parts.into_iter().flatten().try_for_each(|part| write!(f, "{} ", part.escape_ascii()))
    }
}

impl Peer {
    async fn message(&mut self, stream: u32, Message { head, data, trailers }: &Message<'_>) {
        let end = |last| if last { END_STREAM } else { 0 };
        let flags = END_HEADERS | end(data.is_none() && trailers.is_none());
        self.send(HEADERS, flags, stream, &block(head)).await;
        if let Some(data) = data {
            self.send(DATA, end(trailers.is_none()), stream, data).await;
        }
        if let Some(trailers) = trailers {
            self.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(trailers)).await;
        }
    }

    /// The other end's answer to a request.
    async fn answer(&mut self, stream: u32) -> String {
        loop {
            let Some(frame) = self.frame().await else { return "closed".to_owned() };
            let code = |at: usize| Reason::from(u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap()));
            match frame.kind {
                HEADERS if frame.stream == stream => return status(&frame.payload),
                RST_STREAM if frame.stream == stream => return format!("RST {:?}", code(0)),
                GOAWAY => return format!("GOAWAY {:?}", code(4)),
                _ => {}
            }
        }
    }
}

/// The status at a response's start, as h2 encodes it.
fn status(block: &[u8]) -> String {
    let status = match block {
        [0x88, ..] => "200",
        [0x8c, ..] => "400",
        // Of the name in the table, with Huffman codes: 501.
        [0x48, 0x82, 0x6c, 0x01, ..] => "501",
        [0x48, rest @ ..] => return format!("status {:x?}", &rest[..3]),
        _ => return format!("{block:x?}"),
    };
    status.to_owned()
}

/// A head and its fields, on one line.
pub(crate) fn line(start: String, fields: &HeaderMap) -> String {
    fields.iter().fold(start, |mut line, (name, value)| {
        write!(line, " {name}={}", value.as_bytes().escape_ascii()).unwrap();
        line
    })
}

/// Adds the body that was received to the line.
pub(crate) async fn whole(mut line: String, body: &mut RecvStream) -> String {
    match collect(body).await {
        Ok((data, trailers)) => {
            if !data.is_empty() {
                write!(line, " [{}]", data.escape_ascii()).unwrap();
            }
            trailers.iter().fold(line, |line, trailers| self::line(line + " +", trailers))
        }
        Err(error) if error.is_reset() => line + &format!(" RST {:?}", error.reason().unwrap()),
        Err(error) => line + &format!(" {error}"),
    }
}

fn describe(request: &Request<RecvStream>) -> String {
    let uri = request.uri().clone().into_parts();
    let authority = uri.authority.map_or("-".to_owned(), |authority| authority.to_string());
    let path = uri.path_and_query.map_or("-".to_owned(), |path| path.to_string());
    line(format!("{} {authority} {path}", request.method()), request.headers())
}

/// What the endpoint sees of a request, and what its client gets if that is not a 200. All that leaves the connection open
/// must leave it fit for the next request.
async fn outcome(message: &Message<'_>) -> String {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let mut endpoint = rig.endpoint().await;
    peer.message(1, message).await;
    let mut seen = None;
    let got = {
        let mut answered = pin!(peer.answer(1));
        loop {
            tokio::select! {
                // First, since a GOAWAY takes the endpoint's connection with it.
                biased;
                got = &mut answered => break got,
                line = served(&mut endpoint), if seen.is_none() => seen = Some(line),
            }
        }
    };
    if !got.starts_with("GOAWAY") && got != "closed" {
        peer.message(3, &Message { head: AFTER, data: None, trailers: None }).await;
        let mut after = served(&mut endpoint).await;
        if !after.contains("/after") {
            seen = Some(mem::replace(&mut after, served(&mut endpoint).await));
        }
        assert_eq!((&*after, &*peer.answer(3).await), ("GET a.test /after", "200"), "the connection lives on");
    }
    match seen {
        Some(seen) if got == "200" => seen,
        Some(seen) => format!("{seen} -> {got}"),
        None => got,
    }
}

/// Answers the next request with 200, once it is whole.
async fn served(endpoint: &mut Endpoint) -> String {
    let mut asked = endpoint.asked().await;
    let line = whole(describe(&asked.request), asked.request.body_mut()).await;
    let _ = asked.respond.send_response(Response::new(()), true);
    line
}

/// Runs a test that must not hang to its end.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("nothing hangs") })
}

#[track_caller]
fn check_message(message: &Message<'_>, expect: &str) {
    assert_eq!(run(outcome(message)), expect, "{message}");
}

/// A request that ends with its head.
#[track_caller]
fn check(head: &[u8], expect: &str) {
    check_message(&Message { head, data: None, trailers: None }, expect);
}

/// A GET with these fields in addition.
#[track_caller]
fn get(fields: &[u8], expect: &str) {
    check(&[GET, b"|", fields].concat(), expect);
}

/// A POST with a body and perhaps trailers.
#[track_caller]
fn post(fields: &[u8], data: &[u8], trailers: Option<&[u8]>, expect: &str) {
    check_message(&Message { head: &[POST, b"|", fields].concat(), data: Some(data), trailers }, expect);
}

#[test]
fn hosts_and_authorities() {
    get(b"", "GET a.test /");
    get(b"host=a.test", "GET a.test / host=a.test");
    get(b"host=A.Test", "GET a.test / host=A.Test");
    get(b"host=a.test:80", "GET a.test / host=a.test:80");
    get(b"host=b.test", "400");
    get(b"host=a.test:81", "400");
    get(b"host=a.test:443", "400");
    get(b"host=", "400");
    get(b"host=a.test|host=a.test", "400");
    get(b"host=a.test|host=b.test", "400");
    get(b"host=a.test,b.test", "400");
    let bare = |fields: &[u8], expect: &str| check(&[b":method=GET|:scheme=http|:path=/|", fields].concat(), expect);
    bare(b"host=a.test", "GET a.test /");
    bare(b"host=a.test:8080|x=1", "GET a.test:8080 / x=1");
    bare(b"host=a.test|host=a.test", "400");
    bare(b"host=", "400");
    bare(b"host=u@a.test", "400");
    bare(b"host=a test", "400");
    bare(b"x=1", "400");
    bare(b":authority=", RESET);
    bare(b":authority=a.test:80|host=a.test", "GET a.test:80 / host=a.test");
    bare(b":authority=[::1]|host=[::1]:80", "GET [::1] / host=[::1]:80");
    bare(b":authority=[::1]:8080", "GET [::1]:8080 /");
    bare(b":authority=a.test:65535", "GET a.test:65535 /");
    bare(b":authority=a.test:65536", "400");
    bare(b":authority=a.test:99999", "400");
    bare(b":authority=a.test:99999999999", "400");
    bare(b":authority=a.test:0", "400");
    bare(b":authority=a.test:", "GET a.test: /");
    bare(b":authority=a.test:+80", "400");
    bare(b":authority=:80", "400");
    bare(b":authority=u@a.test", "400");
    bare(b":authority=u:p@a.test", "400");
    bare(b":authority=a.test,b.test", "400");
    bare(b":authority=[::1", RESET);
    bare(b":authority=a[::1]", "400");
    bare(b":authority=a.test/b", RESET);
    bare(b":authority=a b", RESET);
    bare(b":authority=a\xc3\xa9", RESET);
    check(b":method=GET|:scheme=https|:path=/|:authority=a.test:443|host=a.test", "GET a.test:443 / host=a.test");
    check(b":method=GET|:scheme=https|:path=/|:authority=a.test|host=a.test:80", "400");
    check(b":method=GET|:scheme=|:path=/|:authority=a.test", "400");
    check(b":method=OPTIONS|:scheme=http|:path=*", "OPTIONS - *");
    check(b":method=OPTIONS|:scheme=http|:path=*|host=a.test", "OPTIONS a.test *");
    check(b":method=OPTIONS|:scheme=http|:path=/", "400");
}

#[test]
fn paths() {
    let path = |path: &[u8], expect: &str| {
        check(&[b":method=GET|:scheme=http|:authority=a.test|:path=", path].concat(), expect);
    };
    path(b"/a?b=c", "GET a.test /a?b=c");
    path(b"//a/../b", "GET a.test //a/../b");
    path(b"/%2e%00", "GET a.test /%2e%00");
    path(b"/?a", "GET a.test /?a");
    path(b"?a", "400");
    path(b"", RESET);
    path(b"a", RESET);
    path(b"*", "400");
    path(b"/a#b", "GET a.test /a");
    path(b"/a\xc3\xa9", "400");
    path(b"/a\xff", NOT_DECODED);
    path(b"/a b", RESET);
    path(b"/a\x00", RESET);
    path(b"/a\x7f", RESET);
    path(b"/a\r\nb: c", RESET);
    path(b"http://b.test/", RESET);
    check(b":method=OPTIONS|:scheme=http|:authority=a.test|:path=*", "OPTIONS a.test *");
    check(b":method=OPTIONS|:scheme=http|:authority=a.test|:path=/x", "OPTIONS a.test /x");
    check(b":method=GET|:scheme=http|:authority=a.test", RESET);
    check(b":method=GET|:scheme=http|host=a.test", "400");
}

#[test]
fn pseudo_fields() {
    check(b":scheme=http|:path=/|:authority=a.test", RESET);
    check(b":method=GET|:path=/|:authority=a.test", RESET);
    check(b":method=G T|:scheme=http|:path=/|:authority=a.test", NOT_DECODED);
    check(b":method=|:scheme=http|:path=/|:authority=a.test", NOT_DECODED);
    check(b":method=get|:scheme=http|:path=/|:authority=a.test", "get a.test /");
    check(b":method=GET|:scheme=h/p|:path=/|:authority=a.test", RESET);
    get(b":path=/again", RESET);
    get(b":method=GET", RESET);
    get(b":status=200", RESET);
    get(b":protocol=websocket", RESET);
    get(b":unknown=1", NOT_DECODED);
    check(b":method=GET|x=1|:scheme=http|:path=/|:authority=a.test", RESET);
}

#[test]
fn fields() {
    get(b"x=1", "GET a.test / x=1");
    get(b"x=", "GET a.test / x=");
    get(b"x=a b\tc", "GET a.test / x=a b\\tc");
    get(b"x=\xe9\xff", "GET a.test / x=\\xe9\\xff");
    get(b"x= 1", "400");
    get(b"x=1 ", "400");
    get(b"x=\t1", "400");
    get(b"x=1\t", "400");
    get(b"x= ", "400");
    get(b"x=a\x00b", NOT_DECODED);
    get(b"x=a\rb", NOT_DECODED);
    get(b"x=a\nb", NOT_DECODED);
    get(b"x=a\x7fb", NOT_DECODED);
    get(b"X=1", NOT_DECODED);
    get(b"a b=1", NOT_DECODED);
    get(b"a:b=1", NOT_DECODED);
    get(b"\xff=1", NOT_DECODED);
    get(b"=1", NOT_DECODED);
    get(b"connection=close", RESET);
    get(b"connection=", RESET);
    get(b"keep-alive=timeout=5", RESET);
    get(b"proxy-connection=close", RESET);
    get(b"transfer-encoding=chunked", RESET);
    get(b"upgrade=h2c", RESET);
    get(b"http2-settings=AAMAAABkAAQAAP__", "400");
    get(b"te=trailers", "GET a.test / te=trailers");
    get(b"te=gzip", RESET);
    get(b"te=trailers, gzip", RESET);
}

#[test]
fn content_lengths() {
    get(b"content-length=0", "GET a.test / content-length=0");
    get(b"content-length=5", RESET);
    post(b"content-length=2", b"ab", None, "POST a.test / content-length=2 [ab]");
    post(b"content-length=002", b"ab", None, "POST a.test / content-length=002 [ab]");
    post(b"content-length=2|content-length=2", b"ab", None, "POST a.test / content-length=2 [ab]");
    post(b"content-length=2|content-length=3", b"ab", None, RESET);
    post(b"content-length=2|content-length=02", b"ab", None, "400");
    post(b"content-length=2, 2", b"ab", None, RESET);
    post(b"content-length=", b"", None, "400");
    post(b"content-length=+2", b"ab", None, RESET);
    post(b"content-length=-2", b"ab", None, RESET);
    post(b"content-length= 2", b"ab", None, RESET);
    post(b"content-length=0x2", b"ab", None, RESET);
    post(b"content-length=18446744073709551618", b"ab", None, RESET);
    // h2 compares it with the data as they come, when the head has gone on.
    let cut = |length: &str| format!("POST a.test / content-length={length} RST CANCEL -> RST PROTOCOL_ERROR");
    post(b"content-length=1", b"ab", None, &cut("1"));
    post(b"content-length=3", b"ab", None, &cut("3"));
    post(b"content-length=3", b"ab", Some(b"x=1"), &cut("3"));
}

#[test]
fn trailers() {
    post(b"", b"ab", Some(b"x=1"), "POST a.test / [ab] + x=1");
    post(b"", b"ab", Some(b""), "POST a.test / [ab] +");
    for malformed in [&b"x= 1"[..], b"content-length=2", b"host=a.test", b"transfer-encoding=chunked", b"te=gzip"] {
        post(b"", b"ab", Some(malformed), "POST a.test / RST CANCEL -> RST PROTOCOL_ERROR");
    }
    // h2 leaves pseudo-fields out.
    post(b"", b"ab", Some(b":path=/"), "POST a.test / [ab] +");
    post(b"", b"ab", Some(b":status=200|x=1"), "POST a.test / [ab] + x=1");
    post(b"", b"ab", Some(b"X=1"), NOT_DECODED);
}

#[test]
fn connect_never_ends_the_connection() {
    let connect = |fields: &[u8], data: Option<&[u8]>, expect: &str| {
        check_message(&Message { head: &[b":method=CONNECT|", fields].concat(), data, trailers: None }, expect);
    };
    connect(b":authority=a.test:443", None, "CONNECT a.test:443 -");
    connect(b":authority=a.test:443", Some(b"ab"), "CONNECT a.test:443 - [ab]");
    connect(b":authority=a.test:443|host=A.test:443|x=1", None, "CONNECT a.test:443 - host=A.test:443 x=1");
    connect(b":authority=a.test:443|host=a.test", None, "400");
    connect(b":authority=a.test:443|x=1 ", None, "400");
    connect(b"", None, "400");
    connect(b":authority=a.test", None, "400");
    connect(b":authority=a.test:", None, "400");
    connect(b":authority=a.test:0", None, "400");
    connect(b":authority=a.test:443|content-length=0", None, "400");
    connect(b":authority=a.test:443|content-length=5", None, RESET);
    connect(b":authority=a.test:443|content-length=2", Some(b"ab"), "400");
    connect(b":authority=a.test:443|content-length=5", Some(b"ab"), RESET);
    connect(b":authority=a.test:443|content-length=1", Some(b"ab"), RESET);
    connect(b":authority=u@a.test:99999", None, "400");
    connect(b":authority=u@a.test:443", None, "400");
    connect(b":scheme=http|:path=/|:authority=a.test:443", None, RESET);
    connect(b":path=/|:authority=a.test:443", None, RESET);
    connect(b":scheme=http|:authority=a.test:443", None, RESET);
    connect(b":protocol=websocket|:scheme=http|:path=/|:authority=a.test", None, RESET);
}

#[tokio::test]
async fn refusals_are_counted_and_grpc_has_them_in_its_form() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for (mut request, status, code) in [(support::get(), 400, None), (support::grpc(), 200, Some("13"))] {
        request.headers_mut().insert("x", HeaderValue::from_static("1 "));
        let (response, _) = client.send_request(request, true).unwrap();
        let rsp = response.await.unwrap();
        assert_eq!(rsp.status().as_u16(), status);
        assert_eq!(rsp.headers().get("grpc-status").map(|code| code.to_str().unwrap()), code);
        assert_eq!(rsp.headers()["proxy-error"], "a field begins or ends with white space");
        assert!(rsp.body().is_end_stream());
    }
    let (response, mut upload) = client.send_request(support::post(), false).unwrap();
    upload.send_trailers(HeaderMap::from_iter([("x".parse().unwrap(), HeaderValue::from_static(" 1"))])).unwrap();
    assert_eq!(reset(response.await), Reason::PROTOCOL_ERROR);
    let mut asked = endpoint.asked().await;
    assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL);
    assert_eq!(rig.stats.transport(Side::Client).malformed(), 3);
    assert_eq!(rig.stats.transport(Side::Endpoint).malformed(), 0);
    assert_eq!(rig.stats.requests(), 3);
}

#[tokio::test]
async fn a_request_that_breaks_while_it_is_answered_is_not_the_endpoints_failure() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, mut upload) = client.send_request(support::post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let _body = asked.answer();
    let mut rsp = response.await.unwrap();
    upload.send_trailers(HeaderMap::from_iter([("x".parse().unwrap(), HeaderValue::from_static(" 1"))])).unwrap();
    assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL);
    assert_eq!(reset(collect(rsp.body_mut()).await), Reason::INTERNAL_ERROR);
    let lost = rig.stats.transport(Side::Endpoint).resets().find(|(code, _)| *code == ResetCode::Other);
    assert_eq!(lost, Some((ResetCode::Other, 0)), "what counts as lost counts against the endpoint");
}

/// Some end the connection for all that is open on it, if it is much larger.
#[tokio::test]
async fn heads_larger_than_an_endpoint_takes_are_not_sent() {
    const MAX: u32 = 1_000;
    // Names, values and 32 bytes for each field.
    const PSEUDO: usize = 7 + 3 + 7 + 4 + 10 + 12 + 5 + 5 + 4 * 32;
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let io = rig.endpoint_ios.recv().await.unwrap();
    let handshake = h2::server::Builder::new().max_header_list_size(MAX).handshake::<_, Bytes>(io);
    let mut connection = handshake.await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_response(Response::new(()), true).unwrap();
        }
    });
    for (size, status) in [(MAX - 1, 200), (MAX + 1, 431), (10 * MAX, 431), (MAX - 1, 200)] {
        let mut request = support::get();
        let value = "v".repeat(size as usize - PSEUDO - 1 - 32);
        request.headers_mut().insert("x", value.try_into().unwrap());
        let (response, _) = client.send_request(request, true).unwrap();
        let rsp = response.await.unwrap();
        assert_eq!(rsp.status(), status, "{size}");
        assert_eq!(rsp.headers().contains_key("proxy-error"), status == 431);
    }
    assert_eq!(rig.stats.transport(Side::Endpoint).open_total(), 1);
}
