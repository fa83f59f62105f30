//! DATA frames that are empty and not final, which some peers send for each empty chunk.

use crate::{
    early::{PATIENCE, ids},
    frames::{DATA, END_HEADERS, END_STREAM, GET, HEADERS, PING, POST, Peer, SETTINGS, frame},
    support::{Rig, collect, get, post},
};
use h2::Reason;
use http_h2::{ClientParams, Protection, ServerParams};
use proxy_http::stats::{Limit, Peer as Side};
use std::{mem, time::Duration};
use tokio::{
    io::AsyncWriteExt as _,
    task::yield_now,
    time::{sleep, timeout},
};

const CONTINUATION: u8 = 9;
const PADDED: u8 = 8;
/// A head with status 200.
const OK: &[u8] = &[0x88];

fn limit(rig: &Rig, limit: Limit) -> u64 {
    rig.stats.transport(Side::Client).limits().find(|(known, _)| *known == limit).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn requests_may_have_one_each() {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let mut endpoint = rig.endpoint().await;
    for id in ids().take(400) {
        peer.send(HEADERS, END_HEADERS, id, POST).await;
        peer.send(DATA, 0, id, b"a piece").await;
        peer.send(DATA, 0, id, &[]).await;
        peer.send(DATA, END_STREAM, id, &[]).await;
        let mut asked = timeout(PATIENCE, endpoint.asked()).await.expect("it is asked");
        assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"a piece");
        asked.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(peer.until(DATA).await.unwrap(), b"answer");
    }
}

#[tokio::test(start_paused = true)]
async fn responses_may_have_one_each() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let (mut peer, _) = Peer::accept(&mut rig).await;
    for id in ids().take(400) {
        let (response, _) = client.send_request(get(), true).unwrap();
        assert!(peer.until(HEADERS).await.is_some());
        peer.send(HEADERS, END_HEADERS, id, OK).await;
        peer.send(DATA, 0, id, b"a piece").await;
        peer.send(DATA, 0, id, &[]).await;
        peer.send(DATA, END_STREAM, id, &[]).await;
        let mut response = timeout(PATIENCE, response).await.expect("it is answered").unwrap();
        assert_eq!(collect(response.body_mut()).await.unwrap().0, b"a piece");
    }
    assert!(rig.endpoint_ios.try_recv().is_err(), "no second connection");
}

#[tokio::test(start_paused = true)]
async fn one_body_may_have_one_for_each_piece() {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    peer.send(HEADERS, END_HEADERS, 1, POST).await;
    assert!(endpoint.until(HEADERS).await.is_some());
    endpoint.send(HEADERS, END_HEADERS, 1, OK).await;
    for _ in 0..1_000 {
        for _ in 0..2 {
            peer.send(DATA, 0, 1, &[]).await;
            peer.send(DATA, 0, 1, b"a piece").await;
            assert_eq!(timeout(PATIENCE, endpoint.until(DATA)).await.expect("it comes").unwrap(), b"a piece");
            // And the other way.
            mem::swap(&mut peer, &mut endpoint);
        }
    }
}

/// Frames as they may follow each other, with empty ones at every place, and the bytes of the body among them.
fn body(id: u32) -> (Vec<u8>, Vec<u8>) {
    let empty = frame(DATA, 0, id, &[]);
    let ping = frame(PING, 0, 0, &[0; 8]);
    let pieces = [&b"first"[..], &[0; 30], b"\0", b"last"];
    let data = pieces.map(|piece| frame(DATA, 0, id, piece));
    let frames = [
        &empty,
        &data[0],
        &empty,
        &empty,
        &ping,
        &empty,
        &data[1],
        &empty,
        &data[2],
        &frame(0x42, 0, 0, &[0; 20]),
        &empty,
        &data[3],
        &empty,
        &empty,
        &frame(DATA, END_STREAM, id, &[]),
    ];
    (frames.map(Vec::as_slice).concat(), pieces.concat())
}

/// Sends so many bytes at once, each when the ones before are read.
async fn in_pieces(peer: &mut Peer, frames: &[u8], size: usize) {
    for piece in frames.chunks(size) {
        peer.0.write_all(piece).await.unwrap();
        for _ in 0..10 {
            yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clients_reads_may_end_anywhere() {
    let (frames, expect) = body(1);
    for size in 1..=frames.len() {
        let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
        let mut endpoint = rig.endpoint().await;
        peer.send(HEADERS, END_HEADERS, 1, POST).await;
        let mut asked = endpoint.asked().await;
        let sent = in_pieces(&mut peer, &frames, size);
        let (_, read) = tokio::join!(sent, timeout(PATIENCE, collect(asked.request.body_mut())));
        assert_eq!(read.expect("it ends").unwrap().0, expect, "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoints_reads_may_end_anywhere() {
    let (frames, expect) = body(1);
    for size in 1..=frames.len() {
        let (mut peer, _, mut rig) = Peer::server(&ClientParams::DEFAULT).await;
        let mut client = rig.client().await;
        let (response, _) = client.send_request(get(), true).unwrap();
        assert!(peer.until(HEADERS).await.is_some());
        peer.send(HEADERS, END_HEADERS, 1, OK).await;
        let mut response = response.await.unwrap();
        let sent = in_pieces(&mut peer, &frames, size);
        let (_, read) = tokio::join!(sent, timeout(PATIENCE, collect(response.body_mut())));
        assert_eq!(read.expect("it ends").unwrap().0, expect, "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_break_the_protocol_still_do() {
    let empty = |stream| frame(DATA, 0, stream, &[]);
    let cases = [
        ("on the connection", empty(0)),
        ("on an idle stream", empty(3)),
        ("on a stream of ours", empty(2)),
        ("without the length of its padding", frame(DATA, PADDED, 1, &[])),
        ("with more padding than there is", frame(DATA, PADDED, 1, &[1])),
        ("in a header block", [frame(HEADERS, 0, 3, GET), empty(1)].concat()),
        ("in a continued header block", [frame(HEADERS, 0, 3, GET), frame(CONTINUATION, 0, 3, &[]), empty(1)].concat()),
    ];
    for (case, frames) in cases {
        let (mut peer, _, _rig) = Peer::client(&ServerParams::DEFAULT).await;
        peer.send(HEADERS, END_HEADERS, 1, POST).await;
        peer.send(DATA, 0, 1, &[]).await;
        peer.0.write_all(&frames).await.unwrap();
        let code = timeout(PATIENCE, peer.go_away()).await.unwrap_or_else(|_| panic!("{case}: it is told"));
        assert_eq!(code, Reason::PROTOCOL_ERROR, "{case}");
    }
    // Before the head of the response.
    let (mut peer, _, mut rig) = Peer::server(&ClientParams::DEFAULT).await;
    let mut client = rig.client().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    assert!(peer.until(HEADERS).await.is_some());
    peer.send(DATA, 0, 1, &[]).await;
    assert_eq!(peer.go_away().await, Reason::PROTOCOL_ERROR);
    assert_eq!(response.await.unwrap().status(), 502);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_them_alone_is_closed() {
    for (count, closed) in [(1_000, false), (1_001, true)] {
        let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
        let mut endpoint = rig.endpoint().await;
        peer.send(HEADERS, END_HEADERS, 1, POST).await;
        let mut asked = endpoint.asked().await;
        peer.0.write_all(&frame(DATA, 0, 1, &[]).repeat(count)).await.unwrap();
        peer.send(DATA, END_STREAM, 1, b"end").await;
        if closed {
            assert_eq!(timeout(PATIENCE, peer.go_away()).await.expect("it is closed"), Reason::ENHANCE_YOUR_CALM);
        } else {
            assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"end");
        }
        assert_eq!(limit(&rig, Limit::EmptyDataFrames), u64::from(closed));
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_no_attack() {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let mut endpoint = rig.endpoint().await;
    peer.send(HEADERS, END_HEADERS, 1, POST).await;
    let mut asked = endpoint.asked().await;
    for _ in 0..5_000 {
        sleep(Duration::from_millis(20)).await;
        peer.send(DATA, 0, 1, &[]).await;
    }
    peer.send(DATA, END_STREAM, 1, b"end").await;
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"end");
}

#[tokio::test(start_paused = true)]
async fn they_have_a_rate() {
    let protection = Protection { max_control_frames: 100, ..Protection::DEFAULT };
    let params = ServerParams { protection, ..ServerParams::DEFAULT };
    // One that comes with each piece is free, and four are with each request.
    for (with, closed) in [(1, false), (3, true)] {
        let (mut peer, _, mut rig) = Peer::client(&params).await;
        let (mut endpoint, _) = Peer::accept(&mut rig).await;
        peer.send(HEADERS, END_HEADERS, 1, POST).await;
        assert!(endpoint.until(HEADERS).await.is_some());
        let piece = [frame(DATA, 0, 1, b"piece"), frame(DATA, 0, 1, &[]).repeat(with)].concat();
        peer.0.write_all(&piece.repeat(1_000)).await.unwrap();
        if closed {
            assert_eq!(timeout(PATIENCE, peer.go_away()).await.expect("it is closed"), Reason::ENHANCE_YOUR_CALM);
        } else {
            let mut came = 0;
            while came < 5_000 {
                came += timeout(PATIENCE, endpoint.until(DATA)).await.expect("it comes").unwrap().len();
            }
        }
        assert_eq!(limit(&rig, Limit::EmptyDataFrames), u64::from(closed));
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_sends_them_alone_loses_its_connection() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let (mut first, _) = Peer::accept(&mut rig).await;
    let (response, _) = client.send_request(get(), true).unwrap();
    assert!(first.until(HEADERS).await.is_some());
    first.send(HEADERS, END_HEADERS, 1, OK).await;
    let mut body = response.await.unwrap().into_body();
    let empty = frame(DATA, 0, 1, &[]).repeat(100);
    let mut sent = 0;
    while sent < 200_000 && first.0.write_all(&empty).await.is_ok() {
        sent += 100;
        yield_now().await;
    }
    assert!((10_000..150_000).contains(&sent), "{sent}");
    assert_eq!(first.go_away().await, Reason::ENHANCE_YOUR_CALM);
    assert!(timeout(PATIENCE, collect(&mut body)).await.expect("it ends").is_err());
    // Others are served by the next.
    let (mut second, _) = timeout(PATIENCE, Peer::accept(&mut rig)).await.expect("it is replaced");
    let (response, _) = client.send_request(get(), true).unwrap();
    assert!(second.until(HEADERS).await.is_some());
    second.send(HEADERS, END_HEADERS | END_STREAM, 1, OK).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_clients_padding_alone_drains_its_connection() {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let mut endpoint = rig.endpoint().await;
    peer.send(SETTINGS, 1, 0, &[]).await;
    for id in ids().take(51) {
        peer.send(HEADERS, END_HEADERS, id, POST).await;
        // It has a length of its own, and is not to be taken for one.
        peer.send(DATA, PADDED, id, &[3, b'a', 0, 0, 0]).await;
        peer.send(DATA, PADDED, id, &[3, 0, 0, 0]).await;
        peer.send(DATA, END_STREAM, id, b"b").await;
        let mut asked = timeout(PATIENCE, endpoint.asked()).await.expect("it is asked");
        assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"ab");
        assert_eq!(limit(&rig, Limit::EngineLifetime), u64::from(id > 100), "{id}");
        asked.answer().send_data("answer".into(), true).unwrap();
        if id < 100 {
            assert_eq!(peer.until(DATA).await.unwrap(), b"answer");
        }
    }
    assert_eq!(timeout(PATIENCE, peer.go_away()).await.expect("it is drained"), Reason::NO_ERROR);
    assert_eq!(peer.until(DATA).await.unwrap(), b"answer");
}

#[tokio::test(start_paused = true)]
async fn an_endpoints_padding_alone_replaces_its_connection() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let (mut first, _) = Peer::accept(&mut rig).await;
    for id in ids().take(51) {
        let (response, _) = client.send_request(get(), true).unwrap();
        assert!(first.until(HEADERS).await.is_some());
        first.send(HEADERS, END_HEADERS, id, OK).await;
        first.send(DATA, PADDED, id, &[3, 0, 0, 0]).await;
        first.send(DATA, END_STREAM, id, b"b").await;
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"b");
    }
    let (mut second, _) = timeout(PATIENCE, Peer::accept(&mut rig)).await.expect("it is replaced");
    let (response, _) = client.send_request(post(), true).unwrap();
    assert!(second.until(HEADERS).await.is_some());
    second.send(HEADERS, END_HEADERS | END_STREAM, 1, OK).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_may_leave_within_one() {
    for kept in 1..9 {
        let mut rig = Rig::defaults();
        let mut endpoint = rig.endpoint().await;
        let (io, served) = rig.connect(1 << 10);
        let mut peer = Peer::greet(io).await.0;
        peer.send(HEADERS, END_HEADERS, 1, POST).await;
        let mut asked = endpoint.asked().await;
        peer.0.write_all(&frame(DATA, 0, 1, &[])[..kept]).await.unwrap();
        drop(peer);
        let _ = timeout(PATIENCE, served).await.expect("it is closed").unwrap();
        assert!(collect(asked.request.body_mut()).await.is_err(), "{kept}: it is not whole");
    }
}
