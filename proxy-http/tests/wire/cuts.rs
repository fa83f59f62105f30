//! Responses that the proxy itself ends in their middle. None may look whole: node's client takes RST_STREAM(CANCEL) and the
//! end of the connection after GOAWAY for a clean end.

use crate::{
    frames::{GET, GOAWAY, HEADERS, PING, Peer, RST_STREAM},
    raw::Raw,
    support::{Endpoint, PROXY, Rig, client, collect, get, grpc, reset},
};
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Response, StatusCode};
use http_h2::{ClientParams, KeepAlive, MaxConnectionAge, ServerParams};
use proxy_http::{
    proxy,
    stats::{Peer as Side, ProxyError, ResetCode},
};
use std::{future::poll_fn, time::Duration};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a response is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cause {
    Deadline,
    StreamIdle,
    AgeGrace,
    DrainTimeout,
}

const CAUSES: [Cause; 4] = [Cause::Deadline, Cause::StreamIdle, Cause::AgeGrace, Cause::DrainTimeout];

impl Cause {
    /// The gRPC status that says so.
    fn status(self) -> &'static str {
        match self {
            Self::Deadline | Self::StreamIdle => "4",
            Self::AgeGrace | Self::DrainTimeout => "14",
        }
    }

    fn rig(self) -> Rig {
        let age = MaxConnectionAge { age: SECOND, grace: SECOND };
        let server = ServerParams {
            stream_idle_timeout: (self == Self::StreamIdle).then_some(SECOND),
            max_connection_age: (self == Self::AgeGrace).then_some(age),
            ..ServerParams::DEFAULT
        };
        let request_timeout = (self == Self::Deadline).then_some(SECOND);
        let mut rig = Rig::new(&server, &ClientParams::DEFAULT, proxy::Params { request_timeout, ..PROXY });
        if self == Self::DrainTimeout {
            let (client_io, server_io) = tokio::io::duplex(1 << 20);
            let (server, proxy) = (rig.server.clone().drain_timeout(SECOND), rig.proxy.clone());
            tokio::spawn(async move { server.serve(server_io, proxy, sleep(SECOND)).await });
            rig.client_io = Some(client_io);
        }
        rig
    }
}

type Ended = Result<(Vec<u8>, Option<HeaderMap>), h2::Error>;

/// How a response with `data` ends for its client.
async fn cut(cause: Cause, is_grpc: bool, status: StatusCode, data: &[&[u8]]) -> Ended {
    let mut rig = cause.rig();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(if is_grpc { grpc() } else { get() }, true).unwrap();
    let kind = if is_grpc { "application/grpc" } else { "text/plain" };
    let head = Response::builder().status(status).header("content-type", kind).body(()).unwrap();
    let mut body = endpoint.asked().await.respond.send_response(head, false).unwrap();
    for data in data {
        body.send_data(Bytes::copy_from_slice(data), false).unwrap();
    }
    let ended = timeout(DAY, collect(response.await.unwrap().body_mut())).await.expect("it is cut");
    assert_eq!(poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL, "the endpoint is told");
    ended
}

#[tokio::test(start_paused = true)]
async fn of_http_are_reset_with_an_error() {
    for cause in CAUSES {
        for data in [&[&b"part"[..]][..], &[]] {
            assert_eq!(reset(cut(cause, false, StatusCode::OK, data).await), Reason::INTERNAL_ERROR, "{cause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_grpc_have_a_status_between_messages() {
    let whole: [&[&[u8]]; 5] = [
        &[],
        &[b"\0\0\0\0\x02ab"],
        &[b"\0\0\0\0\x02ab\x01\0\0\0\0"],
        &[b"\0\0\0", b"\0\x02a", b"b"],
        &[b"\0\0\0\x01\x2c", &[7; 300]],
    ];
    for cause in CAUSES {
        for data in whole {
            let (bytes, trailers) = cut(cause, true, StatusCode::OK, data).await.unwrap();
            assert_eq!(bytes, data.concat());
            let trailers = trailers.unwrap_or_else(|| panic!("{cause:?}"));
            assert_eq!(trailers["grpc-status"], cause.status(), "{cause:?}");
            assert!(trailers.contains_key("grpc-message"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_grpc_are_reset_within_a_message() {
    let parts: [&[&[u8]]; 5] = [
        &[b"\0"],
        &[b"\0\0\0\0\x02a"],
        &[b"\0\0\0\0\x02ab", b"\0\0\0\0"],
        &[b"\0\0\0\0\x02", b"ab\0\0\0\0\x01"],
        // Not gRPC.
        &[b"<html>oops"],
    ];
    for cause in CAUSES {
        for data in parts {
            let ended = cut(cause, true, StatusCode::OK, data).await;
            assert_eq!(reset(ended), Reason::INTERNAL_ERROR, "{cause:?} {data:?}");
        }
        let ended = cut(cause, true, StatusCode::BAD_GATEWAY, &[]).await;
        assert_eq!(reset(ended), Reason::INTERNAL_ERROR, "{cause:?}");
    }
}

/// gRPC's clients take INTERNAL_ERROR for INTERNAL, which no policy retries.
#[tokio::test(start_paused = true)]
async fn of_grpc_have_a_status_before_the_head() {
    for cause in CAUSES {
        // Whether the request is whole is no matter.
        for ended in [true, false] {
            let mut rig = cause.rig();
            let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
            let (response, _upload) = client.send_request(grpc(), ended).unwrap();
            let mut asked = endpoint.asked().await;
            let response = timeout(DAY, response).await.expect("it is answered").unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["grpc-status"], cause.status(), "{cause:?}");
            assert!(response.body().is_end_stream());
            let code = poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap();
            assert_eq!(code, Reason::CANCEL, "the endpoint is told");
        }
    }
}

type Counted = (Vec<(ProxyError, u64)>, Vec<(u16, Option<u8>)>);

/// The requests that were answered by the proxy or ended without a response, by reason, and the statuses of all responses.
fn counted(rig: &Rig) -> Counted {
    let transport = rig.stats.transport(Side::Client);
    let errors = transport.proxy_errors().filter(|(_, count)| *count > 0).collect();
    let statuses = rig.stats.responses().chain(transport.late_answers());
    (errors, statuses.map(|responses| (responses.status.as_u16(), responses.grpc_status)).collect())
}

#[tokio::test(start_paused = true)]
async fn before_the_head_are_counted() {
    for cause in CAUSES {
        for is_grpc in [false, true] {
            let mut rig = cause.rig();
            let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
            let (response, _) = client.send_request(if is_grpc { grpc() } else { get() }, true).unwrap();
            let _asked = endpoint.asked().await;
            let answered = timeout(DAY, response).await.expect("it ends");
            // The connection's task goes on after the client has seen it.
            sleep(SECOND).await;
            let (error, is_answered) = match cause {
                Cause::Deadline => (ProxyError::Deadline, true),
                Cause::StreamIdle => (ProxyError::Idle, true),
                // Of HTTP the stream is reset.
                Cause::AgeGrace | Cause::DrainTimeout => (ProxyError::Closing, is_grpc),
            };
            assert_eq!(answered.is_ok(), is_answered, "{cause:?}");
            let status = if is_grpc { (200, Some(cause.status().parse().unwrap())) } else { (504, None) };
            let statuses = if is_answered { vec![status] } else { vec![] };
            assert_eq!(counted(&rig), (vec![(error, 1)], statuses), "{cause:?} {is_grpc}");
            assert_eq!(rig.stats.requests(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_their_middle_count_as_responses() {
    for cause in CAUSES {
        let mut rig = cause.rig();
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut body = endpoint.asked().await.answer();
        body.send_data("part".into(), false).unwrap();
        let ended = timeout(DAY, collect(response.await.unwrap().body_mut())).await.expect("it is cut");
        assert_eq!(reset(ended), Reason::INTERNAL_ERROR);
        sleep(SECOND).await;
        assert_eq!(counted(&rig), (vec![], vec![(200, None)]), "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_http_1_1_are_counted_too() {
    for (cause, error) in [
        (Cause::StreamIdle, ProxyError::Idle),
        (Cause::AgeGrace, ProxyError::Closing),
        (Cause::DrainTimeout, ProxyError::Closing),
    ] {
        for has_begun in [false, true] {
            let mut rig = cause.rig();
            let (mut client, mut endpoint) = (Raw::new(rig.client_io.take().unwrap()), rig.endpoint().await);
            client.send("GET /path HTTP/1.1|host: a||").await;
            let mut asked = endpoint.asked().await;
            let mut body = None;
            if has_begun {
                body.insert(asked.answer()).send_data("part".into(), false).unwrap();
                client.until("part").await;
            }
            timeout(DAY, async { while client.more().await {} }).await.expect("it is closed");
            sleep(SECOND).await;
            let (errors, _) = counted(&rig);
            assert_eq!(errors, if has_begun { vec![] } else { vec![(error, 1)] }, "{cause:?} {has_begun}");
        }
    }
}

/// A response of which the endpoint has sent more than the client takes.
async fn blocked(rig: &mut Rig, is_grpc: bool) -> (Endpoint, Response<RecvStream>, h2::SendStream<Bytes>) {
    let (mut client, mut endpoint) = (client(rig.client_io.take().unwrap()).await, rig.endpoint().await);
    let (response, _) = client.send_request(if is_grpc { grpc() } else { get() }, true).unwrap();
    let mut body = endpoint.asked().await.answer();
    // The messages are whole, but the client does not take all of them: it gives back no window.
    body.send_data([0; 5].repeat(20_000).into(), false).unwrap();
    let response = response.await.unwrap();
    (endpoint, response, body)
}

/// Trailers would wait behind the data, or overtake it.
#[tokio::test(start_paused = true)]
async fn of_which_data_waits_for_window_are_reset() {
    for cause in CAUSES {
        for is_grpc in [false, true] {
            let mut rig = cause.rig();
            let (_endpoint, mut response, _body) = blocked(&mut rig, is_grpc).await;
            let ended = timeout(DAY, async {
                while let Some(data) = response.body_mut().data().await {
                    data?;
                }
                Ok(())
            });
            assert_eq!(reset(ended.await.expect("it is cut")), Reason::INTERNAL_ERROR, "{cause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_upload_resets_the_response_with_an_error() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, mut upload) = client.send_request(grpc(), false).unwrap();
    upload.send_data(vec![0; 100_000].into(), false).unwrap();
    // It never reads the request.
    let mut asked = endpoint.asked().await;
    asked.answer().send_data("part".into(), false).unwrap();
    let ended = timeout(DAY, collect(response.await.unwrap().body_mut())).await.expect("it is cut");
    assert_eq!(reset(ended), Reason::INTERNAL_ERROR);
}

/// Frames up to the end of the connection: stream, type and, of RST_STREAM, the code.
async fn frames_until_the_end(peer: &mut Peer) -> Vec<(u32, u8, Option<u32>)> {
    let mut frames = Vec::new();
    while let Some(frame) = timeout(DAY, peer.frame()).await.expect("it is closed") {
        let code = match frame.kind {
            RST_STREAM => Some(&frame.payload[..]),
            GOAWAY => Some(&frame.payload[4..8]),
            _ => None,
        };
        frames.push((frame.stream, frame.kind, code.map(|code| u32::from_be_bytes(code.try_into().unwrap()))));
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn keep_alive_that_times_out_resets_streams_before_the_end() {
    let keep_alive = Some(KeepAlive { interval: SECOND, timeout: SECOND });
    let (mut peer, _, mut rig) = Peer::client(&ServerParams { keep_alive, ..ServerParams::DEFAULT }).await;
    let mut endpoint = rig.endpoint().await;
    peer.send(HEADERS, 5, 1, GET).await;
    peer.send(HEADERS, 5, 3, GET).await;
    let mut body = endpoint.asked().await.answer();
    body.send_data("part".into(), false).unwrap();
    // Of the other there is no head.
    let _asked = endpoint.asked().await;
    let started = Instant::now();
    let frames = frames_until_the_end(&mut peer).await;
    for stream in [1, 3] {
        assert!(frames.contains(&(stream, RST_STREAM, Some(Reason::INTERNAL_ERROR.into()))), "{frames:?}");
    }
    assert!(frames.iter().any(|frame| frame.1 == PING));
    assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
    let lost = rig.stats.transport(Side::Client).resets().find(|(code, _)| *code == ResetCode::Other);
    assert_eq!(lost, Some((ResetCode::Other, 2)));
}

/// h2 has all of such a response, so it cannot be reset any more.
#[tokio::test(start_paused = true)]
async fn what_the_client_has_not_taken_ends_with_an_error_of_the_connection() {
    for cause in [Cause::AgeGrace, Cause::DrainTimeout] {
        let mut rig = cause.rig();
        let (mut peer, _) = Peer::greet(rig.client_io.take().unwrap()).await;
        peer.send(crate::frames::SETTINGS, 1, 0, &[]).await;
        let mut endpoint = rig.endpoint().await;
        peer.send(HEADERS, 5, 1, GET).await;
        // A byte more than the client's window.
        endpoint.asked().await.answer().send_data(vec![0; 1 << 16].into(), true).unwrap();
        let frames = frames_until_the_end(&mut peer).await;
        let last = frames.iter().rfind(|frame| matches!(frame.1, GOAWAY | RST_STREAM)).unwrap();
        assert_eq!(last.2, Some(Reason::INTERNAL_ERROR.into()), "{cause:?} {frames:?}");
    }
}
