//! Streams that stand still are ended.

use super::{DAY, IDLE, IDLING, SECOND, SOON, STALL, endpoint, fixed, pump, unwilling};
use crate::support::{self, Others, PROXY, Rig, collect, get, grpc, post, reset};
use h2::Reason;
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    proxy,
    stats::{Peer as Side, StreamLimit},
};
use std::{future::poll_fn, time::Duration};
use tokio::time::{Instant, sleep};

/// How many streams reached a limit: their peer took nothing, nothing moved.
fn limits(rig: &Rig, side: Side) -> [u64; 2] {
    let counted: Vec<_> = rig.stats.transport(side).stream_limits().collect();
    let [(StreamLimit::WriteStall, stalled), (StreamLimit::Idle, idle)] = counted[..] else { panic!("{counted:?}") };
    [stalled, idle]
}

#[track_caller]
fn just(expected: Duration, started: Instant) {
    let time = started.elapsed();
    assert!((expected..expected + Duration::from_millis(10)).contains(&time), "{time:?} is not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_reset() {
    let mut rig = Rig::defaults();
    let (mut slow, _window) = unwilling(&rig).await;
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let others = Others::open(&mut client, &mut endpoint).await;
    let (response, _) = slow.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    let mut response = response.await.unwrap();
    body.send_data(vec![0; 20_000].into(), false).unwrap();
    let started = Instant::now();
    assert_eq!(reset(collect(response.body_mut()).await), Reason::INTERNAL_ERROR);
    just(STALL, started);
    assert_eq!(poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(limits(&rig, Side::Client), [1, 0]);
    assert_eq!(limits(&rig, Side::Endpoint), [0, 0]);
    others.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_but_alive_goes_on() {
    let mut rig = Rig::defaults();
    let (mut slow, window) = unwilling(&rig).await;
    let mut endpoint = endpoint(&mut rig).await;
    let (response, _) = slow.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data(vec![0; 200_000].into(), true).unwrap();
    let mut response = response.await.unwrap();
    // It reads nothing that would give window back, but gives some by itself: a little more than 16 KiB each time.
    for times in 1..11 {
        sleep(STALL * 9 / 10).await;
        window.send(times * 17_000).unwrap();
    }
    sleep(SECOND).await;
    window.send(1 << 20).unwrap();
    assert_eq!(collect(response.body_mut()).await.unwrap().0.len(), 200_000);
    assert_eq!(limits(&rig, Side::Client), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_for_stalled_readers_too() {
    let params = proxy::Params { request_timeout: Some(SECOND), ..PROXY };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
    let (mut slow, _window) = unwilling(&rig).await;
    let mut endpoint = endpoint(&mut rig).await;
    let started = Instant::now();
    let (response, _) = slow.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    body.send_data(vec![0; 40_000].into(), false).unwrap();
    assert_eq!(reset(collect(response.await.unwrap().body_mut()).await), Reason::INTERNAL_ERROR);
    just(SECOND, started);
    assert_eq!(poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_nothing_is_given_up() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let others = Others::open(&mut client, &mut endpoint).await;
    // Before the head.
    for (req, status, grpc_status) in [(post(), 504, None), (grpc(), 200, Some("4"))] {
        let (response, mut upload) = client.send_request(req, false).unwrap();
        upload.send_data(vec![0; 200_000].into(), false).unwrap();
        let mut asked = endpoint.asked().await;
        let started = Instant::now();
        let rsp = response.await.unwrap();
        just(STALL, started);
        assert_eq!(rsp.status(), status);
        assert_eq!(rsp.headers().get("grpc-status").map(|status| status.to_str().unwrap()), grpc_status);
        assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL);
    }
    assert_eq!(limits(&rig, Side::Endpoint), [2, 0]);
    // After it.
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let mut body = asked.answer();
    let mut response = response.await.unwrap();
    upload.send_data(vec![0; 200_000].into(), false).unwrap();
    let started = Instant::now();
    assert_eq!(reset(collect(response.body_mut()).await), Reason::INTERNAL_ERROR);
    just(STALL, started);
    assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL);
    assert_eq!(poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(limits(&rig, Side::Endpoint), [3, 0]);
    assert_eq!(limits(&rig, Side::Client), [0, 0]);
    others.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_nothing_does_not_starve_other_uploads() {
    let server = ServerParams { flow_control: Some(fixed(65_535, 1 << 20)), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&server, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let (response, upload) = client.send_request(post(), false).unwrap();
        stalled.push((response, endpoint.asked().await));
        tokio::spawn(pump(upload, 16 << 10));
    }
    sleep(10 * SECOND).await;
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    upload.send_data(vec![3; 256 << 10].into(), true).unwrap();
    let mut asked = endpoint.asked().await;
    let started = Instant::now();
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0.len(), 256 << 10);
    assert!(started.elapsed() < SOON);
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn idle_streams_are_answered_or_reset() {
    let mut rig = Rig::new(&IDLING, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    // Before the head.
    for (req, status, grpc_status) in [(get(), 504, None), (grpc(), 200, Some("4"))] {
        let started = Instant::now();
        let (response, _upload) = client.send_request(req, false).unwrap();
        let mut asked = endpoint.asked().await;
        let rsp = response.await.unwrap();
        just(IDLE, started);
        assert_eq!(rsp.status(), status);
        assert_eq!(rsp.headers().get("grpc-status").map(|status| status.to_str().unwrap()), grpc_status);
        assert!(rsp.headers().contains_key("proxy-error"));
        assert_eq!(poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    }
    assert_eq!(limits(&rig, Side::Client), [0, 2]);
    // After it, with one that moves beside it.
    let (busy, _upload) = client.send_request(post(), false).unwrap();
    let mut busy_body = endpoint.asked().await.answer();
    let mut busy = busy.await.unwrap().into_body();
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let mut body = asked.answer();
    let mut response = response.await.unwrap();
    let started = Instant::now();
    let idle = tokio::spawn(async move { (reset(collect(response.body_mut()).await), Instant::now()) });
    for _ in 0..4 {
        sleep(IDLE / 2).await;
        busy_body.send_data("more".into(), false).unwrap();
        assert_eq!(busy.data().await.unwrap().unwrap(), "more");
    }
    let (reason, at) = idle.await.unwrap();
    assert_eq!(reason, Reason::INTERNAL_ERROR);
    assert!((IDLE..IDLE + SOON * 10).contains(&(at - started)), "{:?}", at - started);
    assert_eq!(poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL);
    assert_eq!(poll_fn(|cx| upload.poll_reset(cx)).await.unwrap(), Reason::INTERNAL_ERROR);
    assert_eq!(limits(&rig, Side::Client), [0, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_moves_in_one_direction_is_not_idle() {
    let mut rig = Rig::new(&IDLING, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    // Only the request, before the head.
    for _ in 0..4 {
        sleep(IDLE * 2 / 3).await;
        upload.send_data("up".into(), false).unwrap();
        assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "up");
    }
    let mut body = asked.answer();
    let mut response = response.await.unwrap();
    // Only the request, after it.
    for _ in 0..4 {
        sleep(IDLE * 2 / 3).await;
        upload.send_data("up".into(), false).unwrap();
        assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "up");
    }
    // Only the response.
    for _ in 0..4 {
        sleep(IDLE * 2 / 3).await;
        body.send_data("down".into(), false).unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "down");
    }
    assert_eq!(limits(&rig, Side::Client), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn streams_are_silent_for_long_where_nothing_is_set() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let (response, mut upload) = client.send_request(grpc(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let mut body = asked.answer();
    let mut response = response.await.unwrap();
    sleep(1_000 * DAY).await;
    upload.send_data("up".into(), true).unwrap();
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"up");
    body.send_data("down".into(), true).unwrap();
    assert_eq!(collect(response.body_mut()).await.unwrap().0, b"down");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_only_has_whole_responses_to_be_taken_is_closed() {
    let mut rig = Rig::defaults();
    let (mut slow, _window) = unwilling(&rig).await;
    let mut endpoint = endpoint(&mut rig).await;
    let started = Instant::now();
    let mut responses = Vec::new();
    for _ in 0..10 {
        let (response, _) = slow.send_request(get(), true).unwrap();
        endpoint.asked().await.answer().send_data("small".into(), true).unwrap();
        responses.push(response.await.unwrap());
        sleep(SECOND).await;
    }
    for mut response in responses {
        assert!(collect(response.body_mut()).await.is_err());
    }
    just(STALL + 9 * SECOND, started);
    assert_eq!(limits(&rig, Side::Client), [1, 0]);

    // One whose client still sends has time.
    let mut client = support::client(rig.connect(1 << 20).0).await;
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let mut body = asked.answer();
    body.send_data("answer".into(), false).unwrap();
    assert_eq!(response.await.unwrap().body_mut().data().await.unwrap().unwrap(), "answer");
    sleep(2 * STALL).await;
    upload.send_data("late".into(), true).unwrap();
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"late");
}
