//! Frames that come in numbers that no request explains.

use super::{
    Attacker, CONTINUATION, END_HEADERS, END_STREAM, GET, PATIENCE, PIPE, POST, PRIORITY, SECOND, Scene, until, update,
    with,
};
use crate::{
    frames::{DATA, GOAWAY, HEADERS, PING, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame},
    support::Rig,
};
use bytes::Bytes;
use h2::Reason;
use http_h2::{Protection, ServerParams};
use proxy_http::stats::{Limit, Peer as Side};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::yield_now,
    time::{Instant, sleep, timeout},
};

/// Frames that cost their sender next to nothing, with the limit of each.
fn floods() -> [(Limit, Vec<u8>); 8] {
    [
        (Limit::PingFrames, frame(PING, 0, 0, &[7; 8])),
        (Limit::SettingsFrames, frame(SETTINGS, 0, 0, &[])),
        (Limit::SettingsFrames, frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        (Limit::PriorityFrames, frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0])),
        (Limit::WindowUpdateFrames, frame(WINDOW_UPDATE, 0, 0, &update(1))),
        (Limit::ResetFrames, frame(RST_STREAM, 0, 1, &update(8))),
        (Limit::OtherFrames, frame(0x42, 0, 0, b"nobody knows")),
        (Limit::OtherFrames, frame(0x42, 0, 0, &[])),
    ]
}

/// A stream that ends at once, so that frames may name it.
async fn past_stream(scene: &mut Scene, attacker: &mut Attacker) {
    attacker.peer.send(HEADERS, END_STREAM | END_HEADERS, 1, GET).await;
    scene.endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
    attacker.until(DATA).await;
}

#[tokio::test(start_paused = true)]
async fn floods_that_are_read_close_the_connection() {
    for (index, (limit, bytes)) in floods().into_iter().enumerate() {
        let mut scene = Scene::new(&ServerParams::DEFAULT).await;
        let mut attacker = scene.attacker().await;
        past_stream(&mut scene, &mut attacker).await;
        let Attacker { peer, served, .. } = attacker;
        let (mut read, mut write) = tokio::io::split(peer.0);
        let flood = tokio::spawn(async move {
            let mut sent = 0;
            while sent < 200_000 && write.write_all(&bytes.repeat(100)).await.is_ok() {
                sent += 100;
                yield_now().await;
            }
            sent
        });
        let mut answers = Vec::new();
        timeout(PATIENCE, read.read_to_end(&mut answers)).await.expect("it is closed").unwrap();
        let calm = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
        assert!(answers.ends_with(&calm), "{index}: {:?}", &answers[answers.len().saturating_sub(40)..]);
        drop(read);
        let sent = flood.await.unwrap();
        // SETTINGS count for fifty of the others.
        let least = if limit == Limit::SettingsFrames { 10_000 / 50 } else { 10_000 };
        assert!((least..20 * least).contains(&sent), "{index}: {sent}");
        scene.closed_for(served, limit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn floods_that_are_not_read_stop() {
    for (index, (limit, bytes)) in floods().into_iter().enumerate() {
        let mut scene = Scene::new(&ServerParams::DEFAULT).await;
        // The buffer of a socket, so that it fills.
        let (io, served) = scene.rig.connect(16 << 10);
        let mut attacker = Attacker::new(Peer::greet(io).await.0, served);
        past_stream(&mut scene, &mut attacker).await;
        let mut sent = 0;
        let flood = async {
            while sent < 200_000 && attacker.peer.0.write_all(&bytes).await.is_ok() {
                sent += 1;
            }
        };
        let stalled = timeout(PATIENCE, flood).await.is_err();
        assert!(sent < 15_000, "{index}: {sent}");
        if stalled {
            // Nothing more is taken from a client that does not take the answers: both pipes, and buffers of h2.
            assert!(matches!(limit, Limit::PingFrames | Limit::SettingsFrames), "{index}");
            assert!(sent * bytes.len() < 96 << 10, "{index}: {sent}");
            scene.others.finish().await;
        } else {
            scene.closed_for(attacker.served, limit).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_told_is_closed_all_the_same() {
    let mut scene = Scene::new(&ServerParams::DEFAULT).await;
    let (io, served) = scene.rig.connect(1 << 10);
    let mut peer = Peer::greet(io).await.0;
    peer.send(HEADERS, END_STREAM | END_HEADERS, 1, GET).await;
    // More than its pipe holds, of which it reads nothing.
    let before = scene.rig.stats.transport(Side::Client).written_bytes();
    let mut body = scene.endpoint.asked().await.answer();
    body.send_data(vec![0; 16 << 10].into(), false).unwrap();
    until(|| scene.rig.stats.transport(Side::Client).written_bytes() > before + 512).await;
    let started = Instant::now();
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]);
    let flood = async { while peer.0.write_all(&priority).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("it is closed");
    assert_eq!(started.elapsed().as_secs(), 1);
    scene.closed_for(served, Limit::PriorityFrames).await;
}

#[tokio::test(start_paused = true)]
async fn frames_are_counted_by_the_second() {
    let params = with(Protection { max_control_frames: 100, ..Protection::DEFAULT });
    for (limit, bytes) in floods() {
        let mut scene = Scene::new(&params).await;
        let mut attacker = scene.attacker().await;
        past_stream(&mut scene, &mut attacker).await;
        // The request may have four with it; some went into the greeting and the check.
        let most = if limit == Limit::SettingsFrames { 100 / 50 } else { 100 };
        for _ in 0..20 {
            sleep(SECOND).await;
            attacker.peer.0.write_all(&bytes.repeat(most)).await.unwrap();
            attacker.peer.0.flush().await.unwrap();
            yield_now().await;
        }
        sleep(SECOND).await;
        assert_eq!(attacker.alive().await, Ok(()), "{limit:?}");
        // The frames that end the last second, the frames of a new one, and the ones that the answers to the first allow.
        attacker.peer.0.write_all(&bytes.repeat(300)).await.unwrap();
        assert_eq!(attacker.settled().await, Err(Reason::ENHANCE_YOUR_CALM), "{limit:?}");
        scene.closed_for(attacker.served, limit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_with_too_many_frames_is_not_looked_at() {
    let params = with(Protection { max_control_frames: 100, ..Protection::DEFAULT });
    let mut scene = Scene::new(&params).await;
    let mut attacker = scene.attacker().await;
    past_stream(&mut scene, &mut attacker).await;
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 3, GET);
    let flood = frame(PING, 0, 0, &[7; 8]).repeat(300);
    attacker.peer.0.write_all(&[request, flood].concat()).await.unwrap();
    // The client may send the request elsewhere (RFC 9113 section 6.8).
    assert_eq!(attacker.until(GOAWAY).await[..4], [0, 0, 0, 1]);
    scene.closed_for(attacker.served, Limit::PingFrames).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_may_give_window_back_for_each_frame() {
    // Far fewer than 20,000 WINDOW_UPDATEs would be too many without the DATA that they are for.
    let params = with(Protection { max_control_frames: 100, ..Protection::DEFAULT });
    let mut scene = Scene::new(&params).await;
    let mut client = scene.attacker().await;
    client.peer.send(HEADERS, END_STREAM | END_HEADERS, 1, GET).await;
    let mut body = scene.endpoint.asked().await.answer();
    for _ in 0..10_000 {
        body.send_data(Bytes::from_static(&[0; 32]), false).unwrap();
        let taken = u32::try_from(client.until(DATA).await.len()).unwrap();
        client.peer.send(WINDOW_UPDATE, 0, 0, &update(taken)).await;
        client.peer.send(WINDOW_UPDATE, 0, 1, &update(taken)).await;
    }
    assert_eq!(client.alive().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn header_block_floods_close_the_connection() {
    let empty = frame(CONTINUATION, 0, 1, &[]);
    // A literal field with a new name, as few bytes as it goes, and one that never ends.
    let fields = frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(3_000));
    let endless = frame(CONTINUATION, 0, 1, &[b'a'; 16_384]);
    let table = [&[0x40, 1, b'a', 0x7f, 0x81, 0x1e][..], &[b'b'; 4_000]].concat();
    let bomb = frame(CONTINUATION, 0, 1, &[0xbe; 16_384]);
    for (index, (head, then)) in [
        (GET.to_vec(), empty),
        (GET.to_vec(), fields),
        ([GET, &[0, 0x7f, 0xff, 0xff, 0xff, 0x7f]].concat(), endless),
        ([GET, &table].concat(), bomb),
    ]
    .into_iter()
    .enumerate()
    {
        let scene = Scene::new(&ServerParams::DEFAULT).await;
        let mut attacker = scene.attacker().await;
        attacker.peer.send(HEADERS, END_STREAM, 1, &head).await;
        let mut sent = 0;
        while sent < 1_000 && attacker.peer.0.write_all(&then).await.is_ok() {
            sent += 1;
            yield_now().await;
        }
        assert!(sent < 100, "{index}: {sent}");
        let code = attacker.closed().await;
        assert!(matches!(code, Reason::ENHANCE_YOUR_CALM | Reason::COMPRESSION_ERROR), "{index}: {code:?}");
        drop(attacker.peer);
        if code == Reason::ENHANCE_YOUR_CALM {
            scene.closed_for(attacker.served, Limit::Engine).await;
        } else {
            assert!(attacker.served.await.unwrap().is_err());
            scene.others.finish().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn empty_and_tiny_data_that_waits_closes_the_connection() {
    for (payload, most, limit) in [(0, 1_000, Limit::EmptyDataFrames), (1, 2_000, Limit::Engine)] {
        let mut scene = Scene::new(&ServerParams::DEFAULT).await;
        let mut attacker = scene.attacker().await;
        attacker.peer.send(HEADERS, END_HEADERS, 1, POST).await;
        // The endpoint reads nothing, so that all but its window and a chunk waits in the proxy.
        let _asked = scene.endpoint.asked().await;
        for _ in 0..6 {
            attacker.peer.send(DATA, 0, 1, &[0; 16_384]).await;
        }
        let data = frame(DATA, 0, 1, &vec![0; payload]);
        let mut sent = 0;
        while sent < 200_000 && attacker.peer.0.write_all(&data).await.is_ok() {
            sent += 1;
            yield_now().await;
        }
        assert!(sent >= most, "{payload}: {sent}");
        let mut code = attacker.closed().await;
        if code == Reason::NO_ERROR {
            assert_eq!(payload, 1, "at half of what h2 takes, its connection is drained");
            code = attacker.closed().await;
        }
        assert_eq!(code, Reason::ENHANCE_YOUR_CALM, "{payload}");
        drop(attacker.peer);
        scene.closed_for(attacker.served, limit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn tiny_data_that_is_taken_is_no_attack() {
    let mut rig = Rig::defaults();
    let (io, served) = rig.connect(PIPE);
    let mut client = Attacker::new(Peer::greet(io).await.0, served);
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    client.peer.send(HEADERS, END_HEADERS, 1, POST).await;
    // All at once, and within the endpoint's window.
    client.peer.0.write_all(&frame(DATA, 0, 1, b"small").repeat(13_000)).await.unwrap();
    client.peer.send(DATA, END_STREAM, 1, &[]).await;
    let mut taken = 0;
    while taken < 13_000 * 5 {
        taken += timeout(PATIENCE, endpoint.until(DATA)).await.expect("it comes").expect("it is open").len();
    }
    assert_eq!(client.alive().await, Ok(()));
}
