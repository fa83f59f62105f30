//! Frames that come on streams that were reset some time ago.

use crate::{
    early::{PATIENCE, PIECE, SECOND, STREAMS, Seen, ids},
    frames::{DATA, END_HEADERS, END_STREAM, GET, HEADERS, POST, Peer, RST_STREAM},
    support::{PROXY, Rig, get},
};
use h2::Reason;
use http_h2::{ClientParams, Protection, ServerParams};
use std::{future::pending, time::Duration};
use tokio::time::timeout;

/// Errors of its peer that a connection survives, and some more. All of them must come within the five seconds for which h2
/// remembers a stream that it has reset.
const MAX_ERRORS: usize = 50;
const COUNT: usize = MAX_ERRORS + 10;

/// Uploads that the endpoint resets, one after the other.
async fn reset_uploads(server: &ServerParams, count: usize, mut then: impl AsyncFnMut(&mut Peer, &mut Seen, usize)) {
    let (mut peer, _, mut rig) = Peer::client(server).await;
    let mut endpoint = rig.endpoint().await;
    let mut seen = Seen::default();
    for (index, id) in ids().take(count).enumerate() {
        peer.send(HEADERS, END_HEADERS, id, POST).await;
        peer.send(DATA, 0, id, b"part").await;
        endpoint.asked().await.respond.send_reset(Reason::CANCEL);
        while !seen.reset.contains_key(&id) {
            seen.frame(timeout(PATIENCE, peer.frame()).await.expect("it is reset").expect("it is open"));
        }
        then(&mut peer, &mut seen, index + 1).await;
    }
    peer.settled(&mut seen).await;
    assert!(seen.reset.values().all(|code| *code == Reason::CANCEL), "none is reset twice");
    peer.send(HEADERS, END_HEADERS | END_STREAM, 2 * count as u32 + 1, GET).await;
    endpoint.asked().await.answer().send_data("alive".into(), true).unwrap();
    assert_eq!(timeout(PATIENCE, peer.until(DATA)).await.expect("it is served").unwrap(), b"alive");
}

#[tokio::test(start_paused = true)]
async fn what_comes_on_thousands_of_streams_that_were_reset_is_ignored() {
    reset_uploads(&ServerParams::DEFAULT, 3_000, async |peer, _, opened| {
        if let Some(late) = opened.checked_sub(STREAMS) {
            peer.send(DATA, END_STREAM, 2 * late as u32 + 1, &[0; PIECE]).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_two_seconds_after_its_stream_was_reset_is_ignored() {
    let server = ServerParams { max_local_error_reset_streams: Some(MAX_ERRORS), ..ServerParams::DEFAULT };
    reset_uploads(&server, COUNT, async |peer, _, opened| {
        if opened == COUNT {
            pass_in_h2(2 * SECOND);
            for id in ids().take(COUNT) {
                peer.send(DATA, 0, id, b"late").await;
                peer.send(HEADERS, END_HEADERS | END_STREAM, id, &[0, 1, b'a', 1, b'b']).await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_two_seconds_after_its_request_was_cancelled_is_ignored() {
    let client = ClientParams { max_local_error_reset_streams: Some(MAX_ERRORS), ..ClientParams::DEFAULT };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &client, PROXY);
    let mut client = rig.client().await;
    let (mut peer, _) = Peer::accept(&mut rig).await;
    for _ in 0..COUNT {
        let (response, mut body) = client.send_request(get(), true).unwrap();
        assert!(peer.until(HEADERS).await.is_some());
        body.send_reset(Reason::CANCEL);
        drop(response);
        assert!(peer.until(RST_STREAM).await.is_some());
    }
    pass_in_h2(2 * SECOND);
    for id in ids().take(COUNT) {
        peer.send(HEADERS, END_HEADERS, id, &[0x88]).await;
        peer.send(DATA, END_STREAM, id, b"late").await;
    }
    let (response, _) = client.send_request(get(), true).unwrap();
    assert!(timeout(PATIENCE, peer.until(HEADERS)).await.expect("it is asked").is_some());
    peer.send(HEADERS, END_HEADERS | END_STREAM, 2 * COUNT as u32 + 1, &[0x88]).await;
    assert_eq!(timeout(PATIENCE, response).await.expect("it is answered").unwrap().status(), 200);
    assert!(rig.endpoint_ios.try_recv().is_err(), "no second connection");
}

/// Lets time pass for h2, which does not know of tokio's.
fn pass_in_h2(time: Duration) {
    std::thread::sleep(time);
}

#[tokio::test(start_paused = true)]
async fn small_data_that_comes_late_breaks_no_request() {
    let server = ServerParams {
        protection: Protection { max_premature_resets: 2_000, ..Protection::DEFAULT },
        ..ServerParams::DEFAULT
    };
    let mut rig = Rig::new(&server, &ClientParams::DEFAULT, PROXY);
    let mut client = rig.client().await;
    let (mut peer, _) = Peer::accept(&mut rig).await;
    // One that goes on all the time.
    let (long, _) = client.send_request(get(), true).unwrap();
    assert!(peer.until(HEADERS).await.is_some());
    peer.send(HEADERS, END_HEADERS, 1, &[0x88]).await;
    let mut long = long.await.unwrap().into_body();
    let mut connections = vec![(peer, 3)];
    for round in 0..200 {
        let (response, mut body) = client.send_request(get(), true).unwrap();
        // It may come on a new connection.
        let asked = async {
            let (peer, _) = connections.last_mut().unwrap();
            // One that takes no more is closed with the last stream on it.
            if peer.until(HEADERS).await.is_none() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = asked => {}
            mut accepted = Peer::accept(&mut rig) => {
                assert!(timeout(PATIENCE, accepted.0.until(HEADERS)).await.expect("it is asked").is_some());
                connections.push((accepted.0, 1));
            }
        }
        let (peer, id) = connections.last_mut().unwrap();
        body.send_reset(Reason::CANCEL);
        drop(response);
        assert!(timeout(PATIENCE, peer.until(RST_STREAM)).await.expect("it is cancelled").is_some(), "{round}");
        peer.send(HEADERS, END_HEADERS, *id, &[0x88]).await;
        for _ in 0..800 {
            peer.send(DATA, 0, *id, b"x").await;
        }
        *id += 2;
        connections[0].0.send(DATA, 0, 1, b"more").await;
        assert_eq!(timeout(PATIENCE, long.data()).await.expect("it goes on").unwrap().unwrap(), "more");
    }
    // 160,000 frames of a byte, of which h2 takes 65,793 on a connection.
    assert_eq!(connections.len(), 5);
}
