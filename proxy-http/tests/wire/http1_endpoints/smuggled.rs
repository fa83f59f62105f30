//! Requests that HTTP/2 can carry, and HTTP/1.1 cannot.

use super::{endpoint, http1};
use crate::{
    frames::{DATA, GOAWAY, HEADERS, Peer, RST_STREAM},
    framing,
};
use std::time::Duration;
use tokio::time::timeout;

/// A header block of literals, behind the pseudo-fields that it does not give itself.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "test.example"), (":path", "/open")];
    let given = |name: &str| fields.iter().any(|(field, _)| *field == name);
    let mut block = Vec::new();
    for (name, value) in pseudo.iter().filter(|(name, _)| !given(name)).chain(fields) {
        block.push(0x10);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A name, fields, and DATA behind them.
type Smuggled = (&'static str, &'static [(&'static str, &'static str)], &'static str);

/// Messages that HTTP/2 can carry and HTTP/1.1 cannot.
const SMUGGLED: &[Smuggled] = &[
    ("H2.TE", &[("transfer-encoding", "chunked")], "0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("H2.CL, too short", &[("content-length", "4")], "bodyGET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("H2.CL, too long", &[("content-length", "400")], "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("H2.CL, none", &[("content-length", "0")], "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("H2.CL, twice", &[("content-length", "4"), ("content-length", "5")], "body"),
    ("H2.CL, a list", &[("content-length", "4, 4")], "body"),
    ("H2.CL, a sign", &[("content-length", "+4")], "body"),
    ("H2.CL, a blank", &[("content-length", " 4")], "body"),
    ("connection", &[("connection", "x-a")], ""),
    ("keep-alive", &[("keep-alive", "timeout=5")], ""),
    ("upgrade", &[("upgrade", "websocket")], ""),
    ("te", &[("te", "chunked")], ""),
    ("CR and LF in a value", &[("x", "y\r\ntransfer-encoding: chunked")], ""),
    ("LF in a value", &[("x", "y\ntransfer-encoding: chunked")], ""),
    ("CR in a value", &[("x", "y\rtransfer-encoding: chunked")], ""),
    ("NUL in a value", &[("x", "y\0")], ""),
    ("CR and LF in a name", &[("x: y\r\ntransfer-encoding", "chunked")], ""),
    ("a colon in a name", &[("transfer-encoding: chunked\r\nx", "y")], ""),
    ("a blank in a name", &[("transfer-encoding ", "chunked")], ""),
    ("an upper-case name", &[("Transfer-Encoding", "chunked")], ""),
    ("an empty name", &[("", "y")], ""),
    ("CR and LF in the path", &[(":path", "/open HTTP/1.1\r\nhost: a\r\n\r\nGET /hidden")], ""),
    ("a blank in the path", &[(":path", "/open HTTP/1.1")], ""),
    ("a tab in the path", &[(":path", "/open\tHTTP/1.1")], ""),
    ("a path without a slash", &[(":path", "open")], ""),
    ("an absolute path", &[(":path", "http://other.example/")], ""),
    ("an empty path", &[(":path", "")], ""),
    ("CR and LF in the method", &[(":method", "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\nPOST")], ""),
    ("a blank in the method", &[(":method", "GET /hidden")], ""),
    ("CR and LF in the authority", &[(":authority", "a\r\ntransfer-encoding: chunked")], ""),
    ("a blank in the authority", &[(":authority", "a b")], ""),
    ("a slash in the authority", &[(":authority", "a/b")], ""),
    ("a user in the authority", &[(":authority", "u@a")], ""),
    ("CR and LF in the scheme", &[(":scheme", "http\r\nx: y")], ""),
    ("a pseudo-field twice", &[(":path", "/open"), (":path", "/hidden")], ""),
    ("a pseudo-field behind others", &[("x", "y"), (":path", "/hidden")], ""),
    ("a pseudo-field that is none", &[(":host", "a")], ""),
    ("another host", &[("host", "b")], ""),
];

#[tokio::test(start_paused = true)]
async fn what_only_http_2_can_carry_does_not_reach_an_endpoint() {
    // The first is fine, and shows that the others could have come through.
    let fine: &[Smuggled] = &[("fine", &[("content-length", "4"), ("x", "y")], "body")];
    for (index, &(class, fields, data)) in fine.iter().chain(SMUGGLED).enumerate() {
        let mut rig = http1();
        let mut client = Peer(rig.client_io.take().unwrap());
        client.send_preface().await;
        let mut endpoint = endpoint(&mut rig).await;
        client.send(HEADERS, if data.is_empty() { 5 } else { 4 }, 1, &block(fields)).await;
        if !data.is_empty() {
            client.send(DATA, 1, 1, data.as_bytes()).await;
        }
        let _ = timeout(Duration::from_secs(5), async { while endpoint.more().await {} }).await;
        let (requests, rest) = framing::read(&endpoint.read);
        assert_eq!(requests.len(), usize::from(index == 0), "{class}: {:?}", String::from_utf8_lossy(&endpoint.read));
        assert_ne!(rest, framing::Rest::Nonsense, "{class}");
        if index > 0 {
            let answered = async {
                loop {
                    match client.frame().await {
                        None => return true,
                        Some(frame) if [HEADERS, RST_STREAM, GOAWAY].contains(&frame.kind) => return true,
                        Some(_) => {}
                    }
                }
            };
            assert_eq!(timeout(Duration::from_secs(5), answered).await, Ok(true), "{class} is not answered");
        }
    }
}
