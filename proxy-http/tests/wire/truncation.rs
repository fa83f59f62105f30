//! A message that its sender did not end cleanly never looks whole to the other side.

use crate::support::{Rig, codes, collect, get, grpc, post, reset};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::time::Duration;
use tokio::time::timeout;

/// The window of a client that has no more to give.
const WINDOW: u32 = 1_000;
const LENGTHS: [Option<u32>; 2] = [None, Some(100)];

/// Sends part of a response, with and without content-length, and breaks it off.
async fn response_broken_by(break_off: impl Fn(SendStream<Bytes>, &crate::support::Endpoint)) {
    for length in LENGTHS {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut head = Response::new(());
        head.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
        let mut body = endpoint.asked().await.respond.send_response(head, false).unwrap();
        body.send_data("part".into(), false).unwrap();
        let mut rsp = response.await.unwrap();
        assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "part");
        break_off(body, &endpoint);
        reset(collect(rsp.body_mut()).await);
        assert!(!rsp.body().is_end_stream(), "END_STREAM was passed on");
    }
}

/// Sends part of a request, with and without content-length, and breaks it off.
async fn upload_broken_by(break_off: impl Fn(SendStream<Bytes>, &tokio::task::JoinHandle<()>)) {
    for length in LENGTHS {
        let mut rig = Rig::defaults();
        let (mut client, connection) = h2::client::handshake(rig.client_io.take().unwrap()).await.unwrap();
        let connection = tokio::spawn(async { _ = connection.await });
        let mut endpoint = rig.endpoint().await;
        let mut req = post();
        req.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
        let (_response, mut body) = client.send_request(req, false).unwrap();
        body.send_data("part".into(), false).unwrap();
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "part");
        break_off(body, &connection);
        reset(collect(asked.request.body_mut()).await);
        assert!(!asked.request.body().is_end_stream(), "END_STREAM was passed on");
    }
}

#[tokio::test]
async fn resets_never_look_like_an_end() {
    for _ in 0..10 {
        for code in codes() {
            response_broken_by(|mut body, _| body.send_reset(code)).await;
            upload_broken_by(|mut body, _| body.send_reset(code)).await;
        }
    }
}

#[tokio::test]
async fn lost_connections_never_look_like_an_end() {
    for _ in 0..100 {
        response_broken_by(|_, endpoint| endpoint.kill()).await;
        upload_broken_by(|_, connection| connection.abort()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn keep_alive_timeouts_never_look_like_an_end() {
    use http_h2::{ClientKeepAlive, ClientParams, KeepAlive, ServerParams};
    use std::time::Duration;
    let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(1));
    for length in LENGTHS {
        // The endpoint goes silent: its connection is up, but nobody reads.
        let client_params = ClientParams {
            keep_alive: Some(ClientKeepAlive { interval, timeout, while_idle: false }),
            ..ClientParams::DEFAULT
        };
        let mut rig = Rig::new(&ServerParams::DEFAULT, &client_params, crate::support::PROXY);
        let mut client = rig.client().await;
        let mut connection = h2::server::handshake(rig.endpoint_ios.recv().await.unwrap()).await.unwrap();
        let (response, _) = client.send_request(get(), true).unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut head = Response::new(());
        head.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from("part"), false).unwrap();
        let driven = tokio::time::timeout(Duration::from_millis(1), connection.accept()).await;
        assert!(driven.is_err(), "no second request comes");
        let mut rsp = response.await.unwrap();
        assert_eq!(reset(collect(rsp.body_mut()).await), Reason::INTERNAL_ERROR);

        // The client goes silent.
        let server_params = ServerParams { keep_alive: Some(KeepAlive { interval, timeout }), ..ServerParams::DEFAULT };
        let mut rig = Rig::new(&server_params, &ClientParams::DEFAULT, crate::support::PROXY);
        let (mut client, mut connection) = h2::client::handshake(rig.client_io.take().unwrap()).await.unwrap();
        let mut endpoint = rig.endpoint().await;
        let mut req = post();
        req.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
        let (_response, mut body) = client.send_request(req, false).unwrap();
        body.send_data(Bytes::from("part"), false).unwrap();
        let driven = tokio::time::timeout(Duration::from_millis(1), &mut connection).await;
        assert!(driven.is_err(), "the connection stays open");
        let mut asked = endpoint.asked().await;
        assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL);
    }
}

#[tokio::test]
async fn clean_ends_pass() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);

    // By END_STREAM on data. h2 sends a RST_STREAM(NO_ERROR) right behind it, since the request is still open.
    let (response, _upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let mut body = asked.answer();
    body.send_data("whole".into(), true).unwrap();
    drop((asked, body));
    let (bytes, _) = collect(response.await.unwrap().body_mut()).await.unwrap();
    assert_eq!(bytes, b"whole");

    // By trailers.
    let (response, mut upload) = client.send_request(grpc(), false).unwrap();
    upload.send_data("ask".into(), false).unwrap();
    upload.send_trailers(HeaderMap::from_iter([(http::header::ETAG, "up".parse().unwrap())])).unwrap();
    let mut asked = endpoint.asked().await;
    let (bytes, trailers) = collect(asked.request.body_mut()).await.unwrap();
    assert_eq!((&*bytes, &trailers.unwrap()["etag"]), (&b"ask"[..], &"up".parse().unwrap()));
    let mut body = asked.answer();
    body.send_data("say".into(), false).unwrap();
    let status = http::HeaderName::from_static("grpc-status");
    let trailers = [(http::header::ETAG, "down".parse().unwrap()), (status, "0".parse().unwrap())];
    body.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
    let (bytes, trailers) = collect(response.await.unwrap().body_mut()).await.unwrap();
    assert_eq!((&*bytes, &trailers.unwrap()["etag"]), (&b"say"[..], &"down".parse().unwrap()));

    // By END_STREAM on the head: trailers-only, as gRPC has it.
    let (response, _) = client.send_request(grpc(), true).unwrap();
    let head = Response::builder().header("grpc-status", "5").body(()).unwrap();
    endpoint.asked().await.respond.send_response(head, true).unwrap();
    let rsp = response.await.unwrap();
    assert!(rsp.body().is_end_stream());
    assert_eq!(rsp.headers()["grpc-status"], "5");

    // An answer to HEAD has a length and no body.
    let (response, _) = client.send_request(Request::head("http://test.example/").body(()).unwrap(), true).unwrap();
    let head = Response::builder().header("content-length", "100").body(()).unwrap();
    endpoint.asked().await.respond.send_response(head, true).unwrap();
    let rsp = response.await.unwrap();
    assert!(rsp.body().is_end_stream());
    assert_eq!(rsp.headers()["content-length"], "100");
}

/// A response that has used up the client's window, none of which is given back yet.
async fn stalled() -> (Rig, SendStream<Bytes>, Response<RecvStream>) {
    let mut rig = Rig::defaults();
    let mut builder = h2::client::Builder::new();
    let handshake = builder.initial_window_size(WINDOW).handshake::<_, Bytes>(rig.client_io.take().unwrap());
    let (mut client, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut endpoint = rig.endpoint().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    body.send_data(vec![0; WINDOW as usize].into(), false).unwrap();
    let mut rsp = response.await.unwrap();
    let mut received = 0;
    while received < WINDOW as usize {
        received += rsp.body_mut().data().await.unwrap().unwrap().len();
    }
    (rig, body, rsp)
}

/// Only data is flow-controlled (RFC 9113 section 5.2.1).
#[tokio::test(start_paused = true)]
async fn ends_need_no_window() {
    for trailers in [None, Some(HeaderMap::from_iter([(http::header::ETAG, "down".parse().unwrap())]))] {
        let (_rig, mut body, mut rsp) = stalled().await;
        match &trailers {
            None => body.send_data(Bytes::new(), true).unwrap(),
            Some(trailers) => body.send_trailers(trailers.clone()).unwrap(),
        }
        let ended = timeout(Duration::from_secs(1), collect(rsp.body_mut())).await.expect("it ends");
        assert_eq!(ended.unwrap(), (Vec::new(), trailers));
    }
}

/// h2 leaves out the fields above the limit, and all that follow.
#[tokio::test]
async fn trailers_that_are_cut_never_look_whole() {
    let limit = 64 << 10;
    for (detail, whole) in [(17 << 10, true), (limit - 200, true), (limit, false), (2 * limit, false)] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let (response, _) = client.send_request(grpc(), true).unwrap();
        let mut body = endpoint.asked().await.answer();
        body.send_data("say".into(), false).unwrap();
        let names = ["grpc-status-details-bin", "grpc-status"].map(http::HeaderName::from_static);
        let values = ["x".repeat(detail), "13".to_owned()].map(|value| value.parse().unwrap());
        body.send_trailers(names.into_iter().zip(values).collect()).unwrap();
        let collected = async { collect(response.await?.body_mut()).await }.await;
        if whole {
            let (_, trailers) = collected.unwrap_or_else(|error| panic!("{detail}: {error}"));
            assert_eq!(trailers.unwrap()["grpc-status-details-bin"].len(), detail);
        } else {
            assert_eq!(reset(collected), Reason::INTERNAL_ERROR, "{detail}");
        }
    }
}

/// Where the fields that are left are no larger than the limit, only the size of the field block on the wire tells.
#[tokio::test(start_paused = true)]
async fn trailers_of_which_one_large_field_is_cut_never_look_whole() {
    let trailers = |large: usize| {
        let names = ["grpc-status", "x-large", "etag"].map(http::HeaderName::from_static);
        let values = ["0".to_owned(), "x".repeat(large), "whole".to_owned()].map(|value| value.parse().unwrap());
        HeaderMap::from_iter(names.into_iter().zip(values))
    };
    let limit = 64 << 10;
    for (large, whole) in [(100, true), (limit - 500, true), (limit, false), (4 * limit, false), (9 * limit / 2, false)]
    {
        for req in [get(), grpc()] {
            let mut rig = Rig::defaults();
            let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
            let (response, _) = client.send_request(req, true).unwrap();
            let mut body = endpoint.asked().await.answer();
            body.send_data("say".into(), false).unwrap();
            body.send_trailers(trailers(large)).unwrap();
            let collected = async { collect(response.await?.body_mut()).await }.await;
            if whole {
                let (_, trailers) = collected.unwrap_or_else(|error| panic!("{large}: {error}"));
                assert_eq!(trailers.unwrap()["x-large"].len(), large);
            } else {
                assert_eq!(reset(collected), Reason::INTERNAL_ERROR, "{large}");
            }
        }
    }
    // Of requests, whose limit is smaller.
    let limit = 16 << 10;
    for (large, whole) in [(100, true), (limit - 500, true), (limit, false), (4 * limit, false), (6 * limit, false)] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let (response, mut upload) = client.send_request(post(), false).unwrap();
        upload.send_data("ask".into(), false).unwrap();
        let mut asked = endpoint.asked().await;
        upload.send_trailers(trailers(large)).unwrap();
        let collected = collect(asked.request.body_mut()).await;
        if whole {
            let (_, trailers) = collected.unwrap_or_else(|error| panic!("{large}: {error}"));
            assert_eq!(trailers.unwrap()["x-large"].len(), large);
        } else {
            assert_eq!(reset(collected), Reason::CANCEL, "{large}");
            assert_eq!(reset(response.await), Reason::PROTOCOL_ERROR, "{large}");
        }
    }
}
