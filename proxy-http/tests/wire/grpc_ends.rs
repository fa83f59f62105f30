//! gRPC responses that their endpoint leaves without a status. A client takes a reset for INTERNAL, which no policy retries, and
//! an endpoint that is gone is UNAVAILABLE.

use crate::{
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, POST, Peer},
    support::{Rig, collect, get, grpc, reset},
};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, response};
use http_h2::ServerParams;
use proxy_http::stats::Peer as Side;
use std::time::Duration;
use tokio::time::timeout;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How an endpoint leaves a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Leave {
    /// The connection is closed.
    Close,
    /// The connection is closed after GOAWAY with this code.
    GoAway(Reason),
    Reset(Reason),
}

type Ended = Result<(Vec<u8>, Option<HeaderMap>), h2::Error>;

/// How a gRPC response ends for its client whose endpoint leaves it after `data`.
async fn left(leave: Leave, data: &[&'static [u8]]) -> (Ended, Rig) {
    left_after(&[("content-type", "application/grpc")], leave, data).await
}

/// The same for a response with these fields.
async fn left_after(fields: &[(&str, &str)], leave: Leave, data: &[&'static [u8]]) -> (Ended, Rig) {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let mut connection = h2::server::handshake(rig.endpoint_ios.recv().await.unwrap()).await.unwrap();
    let (response, _) = client.send_request(grpc(), true).unwrap();
    let (_, mut respond) = connection.accept().await.unwrap().unwrap();
    let head = fields.iter().fold(Response::builder(), |head, (name, value)| head.header(*name, *value));
    let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
    for data in data {
        body.send_data(Bytes::from_static(data), false).unwrap();
    }
    // All of that is written before the endpoint leaves.
    assert!(timeout(Duration::from_millis(10), connection.accept()).await.is_err(), "no request follows");
    match leave {
        Leave::Close => drop(connection),
        Leave::GoAway(code) => {
            connection.abrupt_shutdown(code);
            while connection.accept().await.is_some() {}
        }
        Leave::Reset(code) => {
            body.send_reset(code);
            assert!(timeout(Duration::from_millis(10), connection.accept()).await.is_err(), "no request follows");
        }
    }
    let ended = async { collect(response.await?.body_mut()).await };
    (timeout(DAY, ended).await.expect("it ends"), rig)
}

/// Data of which each message is whole.
const WHOLE: [&[&[u8]]; 3] = [&[], &[b"\0\0\0\0\x02ab"], &[b"\0\0\0", b"\0\x02a", b"b\x01\0\0\0\0"]];

/// Data that ends within a message, or is none of gRPC's.
const CUT: [&[&[u8]]; 4] = [&[b"\0"], &[b"\0\0\0\0\x02a"], &[b"\0\0\0\0\x02ab", b"\0\0\0\0"], &[b"<html>oops"]];

const LEFT: [Leave; 5] = [
    Leave::Close,
    Leave::GoAway(Reason::INTERNAL_ERROR),
    Leave::GoAway(Reason::ENHANCE_YOUR_CALM),
    Leave::Reset(Reason::CANCEL),
    Leave::Reset(Reason::NO_ERROR),
];

#[tokio::test(start_paused = true)]
async fn between_messages_the_endpoint_is_unavailable() {
    for leave in LEFT {
        for data in WHOLE {
            let (ended, rig) = left(leave, data).await;
            let (bytes, trailers) = ended.unwrap_or_else(|error| panic!("{leave:?} {data:?}: {error}"));
            assert_eq!(bytes, data.concat());
            let trailers = trailers.unwrap_or_else(|| panic!("{leave:?}: no trailers"));
            assert_eq!(trailers["grpc-status"], "14", "{leave:?}");
            assert!(trailers.contains_key("grpc-message"));
            let resets: u64 = rig.stats.transport(Side::Endpoint).resets().map(|(_, count)| count).sum();
            assert_eq!(resets, 1, "{leave:?}");
            let statuses: Vec<_> = rig.stats.responses().map(|responses| responses.grpc_status).collect();
            assert_eq!(statuses, [Some(14)], "{leave:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn within_a_message_the_response_is_reset() {
    for leave in LEFT {
        for data in CUT {
            assert_eq!(reset(left(leave, data).await.0), Reason::INTERNAL_ERROR, "{leave:?} {data:?}");
        }
    }
}

/// Trailers of ours would make a page look whole, and end a response before its length.
#[tokio::test(start_paused = true)]
async fn a_response_that_is_no_grpc_or_has_a_length_is_reset() {
    let heads: [&[_]; 4] = [
        &[],
        &[("content-type", "text/html")],
        &[("content-type", "application/grpc-web+proto")],
        &[("content-type", "application/grpc"), ("content-length", "100")],
    ];
    for head in heads {
        for leave in LEFT {
            for data in WHOLE {
                let ended = left_after(head, leave, data).await.0;
                assert_eq!(reset(ended), Reason::INTERNAL_ERROR, "{head:?} {leave:?} {data:?}");
            }
        }
    }
}

/// gRPC maps them to statuses.
#[tokio::test(start_paused = true)]
async fn codes_with_a_meaning_are_passed_on() {
    for code in [Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM] {
        assert_eq!(reset(left(Leave::Reset(code), &[b"\0\0\0\0\x02ab"]).await.0), code);
    }
}

/// How a response with this head and data, which ends by END_STREAM on its last DATA or on its head, ends for its client.
async fn ended(req: Request<()>, head: response::Builder, data: &[&'static [u8]]) -> (Ended, Rig) {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(req, true).unwrap();
    let mut asked = endpoint.asked().await;
    let mut body = asked.respond.send_response(head.body(()).unwrap(), data.is_empty()).unwrap();
    for (index, part) in data.iter().enumerate() {
        body.send_data(Bytes::from_static(part), index + 1 == data.len()).unwrap();
    }
    let ended = async { collect(response.await?.body_mut()).await };
    (timeout(DAY, ended).await.expect("it ends"), rig)
}

fn of_grpc() -> response::Builder {
    Response::builder().header("content-type", "application/grpc")
}

/// grpclib waits for the trailers for ever.
#[tokio::test(start_paused = true)]
async fn an_end_without_a_status_is_unknown() {
    // The end may come with the last message or after it.
    let with_end: [&[&[u8]]; 3] = [&[b""], &[b"\0\0\0\0\x02ab", b""], &[b"\0\0\0\0\x02ab", b"\0\0\0\0\0"]];
    for data in WHOLE.into_iter().chain(with_end) {
        let (ended, rig) = ended(grpc(), of_grpc(), data).await;
        let (bytes, trailers) = ended.unwrap();
        assert_eq!(bytes, data.concat());
        let trailers = trailers.unwrap_or_else(|| panic!("{data:?}: no trailers"));
        assert_eq!(trailers["grpc-status"], "2", "{data:?}");
        assert!(trailers.contains_key("grpc-message"));
        let statuses: Vec<_> = rig.stats.responses().map(|responses| responses.grpc_status).collect();
        assert_eq!(statuses, [Some(2)], "{data:?}");
    }
    for data in CUT {
        let (ended, _) = ended(grpc(), of_grpc(), data).await;
        assert_eq!(reset(ended), Reason::INTERNAL_ERROR, "{data:?}");
    }
}

/// grpclib takes an empty frame of DATA that it reads before the trailers for a message that is cut. h2 hides such frames.
#[tokio::test(start_paused = true)]
async fn no_empty_frame_precedes_the_proxys_trailers() {
    const MESSAGE: &[u8] = b"\0\0\0\0\x02ab";
    // `content-type` is the 31st name of HPACK's static table (RFC 7541 appendix A).
    let head = [POST, &[0x0f, 16, 16], b"application/grpc"].concat();
    for messages in [0, 1, 2] {
        let (mut client, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
        let mut endpoint = rig.endpoint().await;
        client.send(HEADERS, END_HEADERS | END_STREAM, 1, &head).await;
        let mut body = endpoint.asked().await.respond.send_response(of_grpc().body(()).unwrap(), false).unwrap();
        for _ in 0..messages {
            body.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        }
        assert!(client.until(HEADERS).await.is_some());
        for _ in 0..messages {
            assert_eq!(client.until(DATA).await.unwrap(), MESSAGE);
        }
        // END_STREAM comes by itself.
        body.send_data(Bytes::new(), true).unwrap();
        let next = timeout(DAY, client.frame()).await.expect("it ends").unwrap();
        assert_eq!((next.kind, next.flags & END_STREAM), (HEADERS, END_STREAM), "{messages} messages");
    }
}

#[tokio::test(start_paused = true)]
async fn ends_of_other_responses_pass_as_they_are() {
    let message: &[&[u8]] = &[b"\0\0\0\0\x02ab"];
    let head =
        || Request::head("http://test.example/path").header("content-type", "application/grpc").body(()).unwrap();
    for (req, head, data) in [
        // Its status is in the head.
        (grpc(), of_grpc().header("grpc-status", "5"), &[][..]),
        (grpc(), of_grpc().header("grpc-status", "5"), message),
        // gRPC has a status for these.
        (grpc(), of_grpc().status(503), &[]),
        (grpc(), Response::builder().header("content-type", "text/html"), &[b"<html>oops"]),
        // No call of gRPC.
        (get(), of_grpc(), message),
        (head(), of_grpc(), &[]),
    ] {
        let described = format!("{req:?} {head:?}");
        let (ended, _) = ended(req, head, data).await;
        let (bytes, trailers) = ended.unwrap_or_else(|error| panic!("{described}: {error}"));
        assert_eq!((bytes, trailers), (data.concat(), None), "{described}");
    }
}

/// A page that some server in the way answers with.
#[tokio::test(start_paused = true)]
async fn trailers_of_a_response_that_is_no_grpc_need_no_status() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(grpc(), true).unwrap();
    let head = Response::builder().header("content-type", "text/html").body(()).unwrap();
    let mut body = endpoint.asked().await.respond.send_response(head, false).unwrap();
    body.send_data(Bytes::from_static(b"<html>"), false).unwrap();
    let sent = HeaderMap::from_iter([(HeaderName::from_static("x-a"), HeaderValue::from_static("b"))]);
    body.send_trailers(sent.clone()).unwrap();
    let (bytes, trailers) = collect(response.await.unwrap().body_mut()).await.unwrap();
    assert_eq!((bytes.as_slice(), trailers), (&b"<html>"[..], Some(sent)));
}
