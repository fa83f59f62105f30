//! Streams that a client resets, or makes the proxy reset.

use super::{
    Attacker, END_HEADERS, END_STREAM, GET, PIPE, POST, PRIORITY, SECOND, Scene, alive_tasks, streams, until, update,
    with,
};
use crate::{
    frames::{DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame},
    support::{client, collect, get},
};
use h2::Reason;
use http_h2::{FlowControl, Protection, ServerParams};
use proxy_http::stats::Limit;
use std::{future::poll_fn, time::Duration};
use tokio::{io::AsyncWriteExt as _, time::sleep};

/// When a client resets a stream that it has opened.
#[derive(Clone, Copy, Debug)]
enum When {
    /// In the same write.
    AtOnce,
    /// When the endpoint has the request.
    Asked,
    /// When it has the response's head.
    Answered,
}

/// Opens and resets streams, one at a time, until the connection is closed.
async fn rapid_reset(scene: &mut Scene, attacker: &mut Attacker, when: When, most: usize) -> (usize, Option<Reason>) {
    let mut asked = Vec::new();
    for (count, stream) in streams().take(most).enumerate() {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        let cancel = frame(RST_STREAM, 0, stream, &u32::from(Reason::CANCEL).to_be_bytes());
        let peer = &mut attacker.peer;
        if let When::AtOnce = when {
            peer.0.write_all(&[head, cancel].concat()).await.unwrap();
        } else {
            peer.0.write_all(&head).await.unwrap();
            let mut stream = scene.endpoint.asked().await;
            if let When::Answered = when {
                stream.answer();
                assert!(peer.until(HEADERS).await.is_some());
            }
            asked.push(stream);
            peer.0.write_all(&cancel).await.unwrap();
        }
        if let Err(code) = attacker.settled().await {
            return (count + 1, Some(code));
        }
    }
    (most, None)
}

#[tokio::test(start_paused = true)]
async fn rapid_resets_close_the_connection() {
    for when in [When::AtOnce, When::Asked, When::Answered] {
        let mut scene = Scene::new(&ServerParams::DEFAULT).await;
        let mut attacker = scene.attacker().await;
        let ended = rapid_reset(&mut scene, &mut attacker, when, 10_000).await;
        assert_eq!(ended, (501, Some(Reason::ENHANCE_YOUR_CALM)), "{when:?}");
        if let When::AtOnce = when {
            assert_eq!(scene.rig.stats.requests(), 9, "none of them went any further");
        }
        scene.closed_for(attacker.served, Limit::PrematureResets).await;
    }
}

#[tokio::test(start_paused = true)]
async fn resets_of_fewer_than_half_of_the_streams_are_not_premature() {
    let mut scene = Scene::new(&ServerParams::DEFAULT).await;
    let mut client = client(scene.rig.connect(PIPE).0).await;
    for _ in 0..1_000 {
        let (_cancelled, mut stream) = client.send_request(get(), true).unwrap();
        let _asked = scene.endpoint.asked().await;
        stream.send_reset(Reason::CANCEL);
        let (response, _) = client.send_request(get(), true).unwrap();
        scene.endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"answer");
    }
    assert_eq!(scene.limit(Limit::PrematureResets), 0);
}

#[tokio::test(start_paused = true)]
async fn resets_of_streams_that_were_open_for_a_second_are_not_premature() {
    let params = with(Protection { max_premature_resets: 0, ..Protection::DEFAULT });
    for (open, passes) in [(SECOND, true), (SECOND - Duration::from_millis(1), false)] {
        let mut scene = Scene::new(&params).await;
        let mut client = scene.attacker().await;
        client.peer.send(HEADERS, END_STREAM | END_HEADERS, 1, GET).await;
        let _asked = scene.endpoint.asked().await;
        sleep(open).await;
        client.peer.send(RST_STREAM, 0, 1, &u32::from(Reason::CANCEL).to_be_bytes()).await;
        assert_eq!(client.settled().await.is_ok(), passes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_cancels_at_once_pass() {
    for reset_by in [When::AtOnce, When::Asked] {
        let mut scene = Scene::new(&ServerParams::DEFAULT).await;
        let mut client = scene.attacker().await;
        let heads = streams().take(100).map(|stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
        let cancel = u32::from(Reason::CANCEL).to_be_bytes();
        let cancels = streams().take(100).map(|stream| frame(RST_STREAM, 0, stream, &cancel));
        let (heads, cancels) = (heads.collect::<Vec<_>>().concat(), cancels.collect::<Vec<_>>().concat());
        let mut asked = Vec::new();
        if let When::AtOnce = reset_by {
            client.peer.0.write_all(&[heads, cancels].concat()).await.unwrap();
        } else {
            client.peer.0.write_all(&heads).await.unwrap();
            for _ in 0..100 {
                asked.push(scene.endpoint.asked().await);
            }
            client.peer.0.write_all(&cancels).await.unwrap();
        }
        assert_eq!(client.alive().await, Ok(()));
        for mut asked in asked {
            assert_eq!(poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
        }
        client.peer.send(HEADERS, END_STREAM | END_HEADERS, 201, GET).await;
        scene.endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(client.until(DATA).await, b"answer");
        scene.others.finish().await;
    }
}

/// Has the proxy reset streams over and over, by a frame that follows the head of each.
async fn made_you_reset(head: (u8, &[u8]), then: impl Fn(u32) -> Vec<u8>) {
    // So that a stream's window is easily exceeded.
    let flow_control =
        Some(FlowControl::Fixed { initial_stream_window_size: 10, initial_connection_window_size: 1 << 20 });
    let mut scene = Scene::new(&ServerParams { flow_control, ..ServerParams::DEFAULT }).await;
    let mut attacker = scene.attacker().await;
    attacker.peer.send(SETTINGS, 1, 0, &[]).await;
    let mut asked = Vec::new();
    let mut ended = None;
    for (count, stream) in streams().take(10_000).enumerate() {
        attacker.peer.send(HEADERS, END_HEADERS | head.0, stream, head.1).await;
        asked.push(scene.endpoint.asked().await);
        attacker.peer.0.write_all(&then(stream)).await.unwrap();
        if let Err(code) = attacker.settled().await {
            ended = Some((count + 1, code));
            break;
        }
    }
    assert_eq!(ended, Some((501, Reason::ENHANCE_YOUR_CALM)));
    // The endpoint is not left with work for nobody.
    for mut asked in asked {
        assert!(poll_fn(|cx| asked.respond.poll_reset(cx)).await.is_ok());
    }
    scene.closed_for(attacker.served, Limit::PrematureResets).await;
}

#[tokio::test(start_paused = true)]
async fn made_you_reset_by_a_window_that_overflows() {
    made_you_reset((END_STREAM, GET), |stream| frame(WINDOW_UPDATE, 0, stream, &update((1 << 31) - 1))).await;
}

#[tokio::test(start_paused = true)]
async fn made_you_reset_by_more_data_than_the_window() {
    made_you_reset((0, POST), |stream| frame(DATA, 0, stream, &[0; 11])).await;
}

#[tokio::test(start_paused = true)]
async fn made_you_reset_by_more_data_than_the_content_length() {
    // POST http / with content-length: 1, as a literal that is not indexed.
    let head = [POST, &[0x0f, 0x0d, 1, b'1']].concat();
    made_you_reset((0, &head), |stream| frame(DATA, END_STREAM, stream, &[0; 2])).await;
}

#[tokio::test(start_paused = true)]
async fn made_you_reset_by_a_stream_that_depends_on_itself() {
    made_you_reset((END_STREAM, GET), |stream| frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[0]].concat()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn made_you_reset_by_trailers_that_do_not_end() {
    made_you_reset((0, POST), |stream| frame(HEADERS, END_HEADERS, stream, &[0x0f, 0x0d, 1, b'1'])).await;
}

#[tokio::test(start_paused = true)]
async fn other_ways_to_be_made_to_reset_end_the_connection_at_once() {
    for (index, (code, then)) in [
        (Reason::PROTOCOL_ERROR, frame(WINDOW_UPDATE, 0, 1, &update(0))),
        (Reason::PROTOCOL_ERROR, frame(DATA, 0, 1, b"more")),
        (Reason::PROTOCOL_ERROR, frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)),
        (Reason::PROTOCOL_ERROR, frame(PRIORITY, 0, 1, &[0; 4])),
    ]
    .into_iter()
    .enumerate()
    {
        let mut scene = Scene::new(&ServerParams::DEFAULT).await;
        let mut attacker = scene.attacker().await;
        attacker.peer.send(HEADERS, END_STREAM | END_HEADERS, 1, GET).await;
        let mut asked = scene.endpoint.asked().await;
        attacker.peer.0.write_all(&then).await.unwrap();
        assert_eq!(attacker.alive().await, Err(code), "{index}");
        assert_eq!(poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL, "{index}");
        scene.others.finish().await;
        drop(attacker.peer);
        assert!(attacker.served.await.unwrap().is_err());
        until(|| alive_tasks() == scene.tasks).await;
    }
}
