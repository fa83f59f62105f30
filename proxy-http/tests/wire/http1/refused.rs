//! Messages that are refused.

use super::{connect, ok, respond};
use crate::{raw::Raw, support::Rig};
use http::{Response, StatusCode};
use http_h2::ServerParams;
use proxy_http::{
    Server,
    stats::{Peer, ProxyError},
};
use tokio::io::AsyncWriteExt as _;

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

#[tokio::test]
async fn a_body_that_is_not_http_1_1_is_400_and_no_fault_of_the_endpoint() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("POST / HTTP/1.1|host: a|transfer-encoding: chunked||4|part|x|").await;
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "part");
    assert!(client.rest().await.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    let errors: Vec<_> =
        rig.stats.transport(Peer::Client).proxy_errors().filter(|(_, count)| *count > 0).map(|(e, _)| e).collect();
    assert_eq!(errors, [ProxyError::BadRequest]);
}
