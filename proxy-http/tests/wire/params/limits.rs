//! Limits of messages, frames, streams and errors.

use super::{Engine, Outcome};
use crate::{
    frames::{DATA, Frame, GET, GOAWAY, PING, POST, RST_STREAM},
    support::{Endpoint, collect, get},
};
use h2::Reason;
use http::{HeaderMap, Response};
use http_h2::{ClientParams, Protection, ServerParams};
use tokio::io::AsyncWriteExt as _;

pub(super) async fn header_list_above_the_servers_limit_is_431(engine: Engine) {
    let server = ServerParams { max_header_list_size: Some(1_000), ..ServerParams::DEFAULT };
    let mut rig = engine.between(&server, &ClientParams::DEFAULT);
    let mut client = rig.client().await;
    let mut req = get();
    req.headers_mut().insert("large", "x".repeat(2_000).parse().unwrap());
    let (response, _) = client.send_request(req, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 431);
}

pub(super) async fn header_list_far_above_the_servers_limit(engine: Engine, expected: Outcome) {
    let server = ServerParams { max_header_list_size: Some(1_000), ..ServerParams::DEFAULT };
    let mut rig = engine.between(&server, &ClientParams::DEFAULT);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (other, _) = client.send_request(get(), true).unwrap();
    let mut asked = endpoint.asked().await;
    let mut req = get();
    req.headers_mut().insert("large", "x".repeat(30_000).parse().unwrap());
    let (response, _) = client.send_request(req, true).unwrap();
    let response = response.await.map(|rsp| rsp.status().as_u16());
    let _ = asked.respond.send_response(Response::new(()), true);
    match expected {
        Outcome::Stream => assert_eq!((response.unwrap(), other.await.unwrap().status().as_u16()), (431, 200)),
        _ => assert!(response.is_err() && other.await.is_err()),
    }
}

pub(super) async fn trailers_above_the_clients_limit(engine: Engine, expected: Outcome) {
    let client = ClientParams { max_header_list_size: Some(1_000), ..ClientParams::DEFAULT };
    let mut rig = engine.between(&ServerParams::DEFAULT, &client);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("large", "x".repeat(2_000).parse().unwrap());
    endpoint.asked().await.answer().send_trailers(trailers).unwrap();
    let message = async { collect(response.await?.body_mut()).await };
    match expected {
        Outcome::Cut => assert_eq!(message.await.unwrap(), (Vec::new(), Some(HeaderMap::new()))),
        _ => assert!(message.await.is_err()),
    }
}

pub(super) async fn header_list_above_the_clients_limit_is_502(engine: Engine) {
    for (limit, status) in [(1_000, 502), (10_000, 200)] {
        let client = ClientParams { max_header_list_size: Some(limit), ..ClientParams::DEFAULT };
        let mut rig = engine.between(&ServerParams::DEFAULT, &client);
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let (response, _) = client.send_request(get(), true).unwrap();
        let head = Response::builder().header("large", "x".repeat(2_000)).body(()).unwrap();
        endpoint.asked().await.respond.send_response(head, true).unwrap();
        assert_eq!(response.await.unwrap().status(), status);
    }
}

pub(super) async fn resets_before_they_are_accepted_end_the_connection_at_the_limit(engine: Engine) {
    for (limit, ends) in [(3, true), (20, false)] {
        let params = ServerParams { max_pending_accept_reset_streams: Some(limit), ..ServerParams::DEFAULT };
        let (mut peer, _, mut rig) = engine.client(&params).await;
        let mut frames = Vec::new();
        for stream in (1_u32..).step_by(2).take(10) {
            frames.extend([0, 0, 3, 1, 5]);
            frames.extend(stream.to_be_bytes());
            frames.extend([0x82, 0x86, 0x84]);
            frames.extend([0, 0, 4, RST_STREAM, 0]);
            frames.extend(stream.to_be_bytes());
            frames.extend(8_u32.to_be_bytes());
        }
        // In one write, so that the server reads them before it accepts any.
        peer.0.write_all(&frames).await.unwrap();
        if ends {
            assert_eq!(peer.go_away().await, Reason::ENHANCE_YOUR_CALM);
        } else {
            peer.send(PING, 0, 0, &[1; 8]).await;
            while !matches!(peer.frame().await.unwrap(), Frame { kind: PING, flags: 1, .. }) {}
        }
        rig.endpoint_ios.close();
    }
}

pub(super) async fn protocol_errors_of_a_client_end_the_connection_at_the_limit(engine: Engine) {
    let params = ServerParams { max_local_error_reset_streams: Some(3), ..ServerParams::DEFAULT };
    let (mut peer, _, _rig) = engine.client(&params).await;
    for stream in (1..).step_by(2).take(10) {
        // HEADERS with END_STREAM: POST http / with content-length: 5, but there is no body.
        peer.send(1, 5, stream, &[0x83, 0x86, 0x84, 0x0f, 0x0d, 1, b'5']).await;
    }
    assert_eq!(peer.go_away().await, Reason::ENHANCE_YOUR_CALM);
}

pub(super) async fn protocol_errors_of_an_endpoint_end_the_connection_at_the_limit(engine: Engine) {
    let params = ClientParams { max_local_error_reset_streams: Some(3), ..ClientParams::DEFAULT };
    let (mut peer, _, mut rig) = engine.server(&params).await;
    let mut client = rig.client().await;
    let mut responses = Vec::new();
    // All before the first answer, or else another connection takes the later ones.
    for _ in 0..4 {
        responses.push(client.send_request(get(), true).unwrap().0);
        assert!(peer.until(1).await.is_some());
    }
    for stream in [1, 3, 5, 7] {
        // HEADERS with END_STREAM: 200 with content-length: 5, but there is no body.
        peer.send(1, 5, stream, &[0x88, 0x0f, 0x0d, 1, b'5']).await;
    }
    assert_eq!(peer.go_away().await, Reason::ENHANCE_YOUR_CALM);
}

pub(super) async fn cancelled_requests_with_late_answers_do_not_end_the_shared_connection(engine: Engine) {
    // This client alone would not be let.
    let protection = Protection { max_premature_resets: 2_000, ..Protection::DEFAULT };
    let server = ServerParams { protection, ..ServerParams::DEFAULT };
    let mut rig = engine.between(&server, &ClientParams::DEFAULT);
    let mut client = rig.client().await;
    let mut endpoint = Endpoint::accept(rig.endpoint_ios.recv().await.unwrap()).await;
    let mut late = Vec::new();
    // More than the 1,024 local errors that a connection survives, and than the 50 resets that h2 remembers itself.
    for _ in 0..1_500 {
        let (response, mut stream) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        stream.send_reset(Reason::CANCEL);
        drop(response);
        let mut body = asked.answer();
        let _ = body.send_data("late".into(), true);
        late.push((asked, body));
    }
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data("alive".into(), true).unwrap();
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"alive");
    assert!(rig.endpoint_ios.try_recv().is_err(), "no second connection");
}

pub(super) async fn few_remembered_resets_end_the_connection_that_many_survive(engine: Engine) {
    for (remembered, survives) in [(0, false), (100, true)] {
        let params = ClientParams {
            max_concurrent_reset_streams: Some(remembered),
            max_local_error_reset_streams: Some(5),
            ..ClientParams::DEFAULT
        };
        let (mut peer, _, mut rig) = engine.server(&params).await;
        let mut client = rig.client().await;
        for stream in (1..).step_by(2).take(20) {
            let (response, mut body) = client.send_request(get(), true).unwrap();
            if peer.until(1).await.is_none() {
                break;
            }
            body.send_reset(Reason::CANCEL);
            drop(response);
            if peer.until(RST_STREAM).await.is_none() {
                break;
            }
            // HEADERS of the answer, too late.
            peer.send(1, 5, stream, &[0x88]).await;
        }
        peer.send(PING, 0, 0, &[1; 8]).await;
        let mut alive = false;
        while let Some(frame) = peer.frame().await {
            if frame.kind == GOAWAY {
                break;
            }
            if frame.kind == PING {
                alive = true;
                break;
            }
        }
        assert_eq!(alive, survives, "{remembered} remembered");
    }
}

pub(super) async fn frames_above_the_limit_are_refused(engine: Engine) {
    for (limit, ends) in [(None, true), (Some(20_000), false)] {
        let (mut peer, _, mut rig) =
            engine.client(&ServerParams { max_frame_size: limit, ..ServerParams::DEFAULT }).await;
        peer.send(1, 4, 1, POST).await;
        peer.send(DATA, 1, 1, &[0; 16_385]).await;
        if ends {
            assert_eq!(peer.go_away().await, Reason::FRAME_SIZE_ERROR);
        } else {
            let mut endpoint = rig.endpoint().await;
            let (bytes, _) = collect(endpoint.asked().await.request.body_mut()).await.unwrap();
            assert_eq!(bytes.len(), 16_385);
        }
    }
}

pub(super) async fn streams_above_the_limit_are_refused(engine: Engine) {
    let params = ServerParams { max_concurrent_streams: Some(1), ..ServerParams::DEFAULT };
    let (mut peer, _, _rig) = engine.client(&params).await;
    peer.send(1, 5, 1, GET).await;
    peer.send(1, 5, 3, GET).await;
    let code = peer.until(RST_STREAM).await.unwrap();
    assert_eq!(Reason::from(u32::from_be_bytes(code.try_into().unwrap())), Reason::REFUSED_STREAM);
}
