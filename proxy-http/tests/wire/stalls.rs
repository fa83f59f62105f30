//! Readers that stop reading: their cost, of which nobody else has a part.

mod timeouts;

use crate::support::{Endpoint, Others, PROXY, Rig, collect, get, post};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::{BufferLimit, proxy};
use std::{
    future::{Future, poll_fn},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// In paused time, events without a timer have happened by then.
const SOON: Duration = Duration::from_millis(1);
const STALL: Duration = Duration::from_secs(5 * 60);
const IDLE: Duration = Duration::from_secs(60);
const IDLING: ServerParams = ServerParams { stream_idle_timeout: Some(IDLE), ..ServerParams::DEFAULT };

pub(crate) fn fixed(stream: u32, connection: u32) -> FlowControl {
    FlowControl::Fixed { initial_stream_window_size: stream, initial_connection_window_size: connection }
}

pub(crate) fn toward_endpoints(flow_control: FlowControl) -> ClientParams {
    ClientParams { flow_control: Some(flow_control), ..ClientParams::DEFAULT }
}

/// A client that takes nothing of any response's body, until it is told how much to take of each.
pub(crate) async fn unwilling(rig: &Rig) -> (SendRequest<Bytes>, mpsc::UnboundedSender<u32>) {
    let (client, mut connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .initial_connection_window_size(1 << 24)
        .handshake(rig.connect(1 << 20).0)
        .await
        .unwrap();
    let (window, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = &mut connection => return,
                Some(size) = told.recv() => connection.set_initial_window_size(size).unwrap(),
            }
        }
    });
    (client, window)
}

/// The endpoint's end of a connection whose streams do not share a small window.
pub(crate) async fn endpoint(rig: &mut Rig) -> Endpoint {
    let mut builder = h2::server::Builder::new();
    builder.initial_connection_window_size(1 << 24).data_frame_budget(1 << 24).max_send_buffer_size(1 << 26);
    Endpoint::build(rig.endpoint_ios.recv().await.unwrap(), &builder).await
}

/// Sends zeros in chunks of a size, as long as there is window for any.
async fn pump(mut to: SendStream<Bytes>, chunk: usize) -> usize {
    let mut sent = 0;
    loop {
        to.reserve_capacity(chunk);
        match timeout(SECOND, poll_fn(|cx| to.poll_capacity(cx))).await {
            Ok(Some(Ok(_))) => {}
            Err(_) if to.capacity() > 0 => {}
            _ => {
                // Stays open, as a response that goes on would.
                tokio::spawn(async move { poll_fn(|cx| to.poll_reset(cx)).await });
                return sent;
            }
        }
        let n = to.capacity().min(chunk);
        to.send_data(vec![0; n].into(), false).unwrap();
        sent += n;
    }
}

/// Responses that are not read, of which the endpoint sends as much as it may; and how much that was, of each.
pub(crate) async fn stall(
    client: &mut SendRequest<Bytes>,
    endpoint: &mut Endpoint,
    streams: usize,
) -> (Vec<RecvStream>, Vec<usize>) {
    let (mut responses, mut pumps) = (Vec::new(), Vec::new());
    for _ in 0..streams {
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let (response, _) = client.send_request(get(), true).unwrap();
        let body = endpoint.asked().await.answer();
        pumps.push(tokio::spawn(pump(body, 16 << 10)));
        responses.push(response.await.unwrap().into_body());
    }
    let mut sent = Vec::new();
    for pump in pumps {
        sent.push(pump.await.unwrap());
    }
    (responses, sent)
}

/// One request with an answer of 256 KiB.
pub(crate) async fn fast(
    client: &mut SendRequest<Bytes>,
    endpoint: &mut Endpoint,
) -> impl Future<Output = usize> + use<> {
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data(vec![7; 256 << 10].into(), true).unwrap();
    async move { collect(response.await.unwrap().body_mut()).await.unwrap().0.len() }
}

/// So many fast requests at once, and in no time, beside so many that are stalled.
async fn check_beside(flow_control: FlowControl, stalled: usize) {
    let mut rig = Rig::with_one_connection(&toward_endpoints(flow_control), BufferLimit::new(256 << 20));
    let (mut slow, _window) = unwilling(&rig).await;
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    // One that is open before the others stall, and one that comes after them.
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (early, _) = client.send_request(get(), true).unwrap();
    let mut early_body = endpoint.asked().await.answer();
    let mut early = early.await.unwrap().into_body();
    let (_stalled, sent) = stall(&mut slow, &mut endpoint, stalled).await;
    let window = match flow_control {
        FlowControl::Fixed { initial_stream_window_size, .. } => initial_stream_window_size,
        FlowControl::Adaptive => 16 << 20,
    };
    assert!(sent.iter().all(|sent| *sent <= window as usize), "{sent:?}");
    let started = Instant::now();
    early_body.send_data(vec![1; 256 << 10].into(), true).unwrap();
    assert_eq!(collect(&mut early).await.unwrap().0.len(), 256 << 10);
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(tokio::spawn(fast(&mut client, &mut endpoint).await));
    }
    for fast in all {
        assert_eq!(fast.await.unwrap(), 256 << 10);
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn readers_that_stop_do_not_starve_others() {
    check_beside(fixed(65_535, 1 << 20), 64).await;
    check_beside(fixed(1 << 20, 4 << 20), 4).await;
    check_beside(fixed(1 << 20, 1 << 20), 1).await;
    check_beside(fixed(65_535, 65_535), 100).await;
}

#[tokio::test(start_paused = true)]
async fn readers_that_stop_do_not_starve_others_where_windows_are_adaptive() {
    check_beside(FlowControl::Adaptive, 1).await;
    check_beside(FlowControl::Adaptive, 16).await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_be_buffered_stalled_streams_have_the_window_only() {
    let client = toward_endpoints(fixed(65_535, 1 << 20));
    let mut rig = Rig::with_one_connection(&client, BufferLimit::new(0));
    let (mut slow, _window) = unwilling(&rig).await;
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let (stalled, sent) = stall(&mut slow, &mut endpoint, 64).await;
    assert!(sent.iter().sum::<usize>() <= 1 << 20, "{sent:?}");
    let fast = tokio::spawn(fast(&mut client, &mut endpoint).await);
    sleep(SECOND).await;
    assert!(!fast.is_finished(), "reading stalls");
    // Window that readers give up is there for others.
    drop((stalled, slow));
    assert_eq!(fast.await.unwrap(), 256 << 10);
    assert_eq!(rig.buffers.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_that_stop_hold_a_window_each() {
    let client = toward_endpoints(fixed(65_535, 1 << 20));
    let params = proxy::Params { max_in_flight: 2_000, ..PROXY };
    let mut rig = Rig::buffering(&ServerParams::DEFAULT, &client, params, BufferLimit::new(1_000 * 65_535));
    let mut endpoint = endpoint(&mut rig).await;
    let mut all = Vec::new();
    for _ in 0..5 {
        let (mut slow, _window) = unwilling(&rig).await;
        let (stalled, sent) = stall(&mut slow, &mut endpoint, 200).await;
        assert!(sent.iter().all(|sent| *sent == 65_535), "{sent:?}");
        all.push((slow, stalled));
    }
    assert!((999 * 65_535..=1_000 * 65_535).contains(&rig.buffers.held()), "{}", rig.buffers.held());
    let mut client = rig.client().await;
    assert_eq!(fast(&mut client, &mut endpoint).await.await, 256 << 10);
    drop(all);
    sleep(SECOND).await;
    // Connections count the bytes that they hold when something moves.
    assert_eq!(fast(&mut client, &mut endpoint).await.await, 256 << 10);
    assert_eq!(rig.buffers.held(), 0, "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn large_chunks_cost_no_more_than_the_window() {
    let window = 1 << 20;
    let client = ClientParams { max_frame_size: Some(1 << 20), ..toward_endpoints(fixed(window, 4 << 20)) };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &client, PROXY);
    let (mut slow, _window) = unwilling(&rig).await;
    let mut endpoint = endpoint(&mut rig).await;
    let (response, _) = slow.send_request(get(), true).unwrap();
    let body = endpoint.asked().await.answer();
    let response = response.await.unwrap();
    assert_eq!(pump(body, window as usize).await, window as usize);
    drop(response);
}

/// Sends so many frames of a size each.
fn send_frames(to: &mut SendStream<Bytes>, frames: usize, size: usize) {
    for frame in 0..frames {
        to.send_data(vec![frame as u8; size].into(), false).unwrap();
    }
}

fn frames(frames: usize, size: usize) -> Vec<u8> {
    (0..frames).flat_map(|frame| vec![frame as u8; size]).collect()
}

#[tokio::test(start_paused = true)]
async fn small_frames_that_nobody_reads_end_no_connection() {
    let mut rig = Rig::new(&ServerParams::DEFAULT, &toward_endpoints(fixed(65_535, 1 << 20)), PROXY);
    let (mut slow, window) = unwilling(&rig).await;
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let others = Others::open(&mut client, &mut endpoint).await;
    let mut stalled = Vec::new();
    // Of single bytes, two are more than h2 would keep.
    for (count, size) in [(65_000, 1), (65_000, 1), (65_000, 1), (13_000, 5), (2_600, 25), (250, 255)] {
        let (response, _) = slow.send_request(get(), true).unwrap();
        let mut body = endpoint.asked().await.answer();
        let response = response.await.unwrap();
        // A large one first: the reader stops in it.
        body.send_data(vec![9; 400].into(), false).unwrap();
        send_frames(&mut body, count, size);
        sleep(SECOND).await;
        stalled.push((response, body, count, size));
    }
    others.finish().await;
    window.send(1 << 20).unwrap();
    for (response, mut body, count, size) in stalled {
        body.send_data("end".into(), true).unwrap();
        let whole = [vec![9; 400], frames(count, size), b"end".to_vec()].concat();
        let (read, _) = collect(&mut response.into_body()).await.unwrap();
        assert!(read == whole, "{} of {} bytes", read.len(), whole.len());
    }
}

#[tokio::test(start_paused = true)]
async fn small_frames_count_as_what_they_cost_when_they_are_kept() {
    // 64 KiB are kept to be sent again, which is 256 frames.
    for (count, again) in [(250, true), (300, false)] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
        let (response, mut upload) = client.send_request(post(), false).unwrap();
        let mut asked = endpoint.asked().await;
        for _ in 0..count {
            send_frames(&mut upload, 1, 1);
            assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "\0");
        }
        asked.respond.send_reset(Reason::REFUSED_STREAM);
        if again {
            upload.send_data("end".into(), true).unwrap();
            let mut asked = endpoint.asked().await;
            let (bytes, _) = collect(asked.request.body_mut()).await.unwrap();
            assert_eq!(bytes.len(), count + 3);
        } else {
            assert_eq!(response.await.unwrap().status(), 503);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bursts_of_small_messages_end_no_connection() {
    let mut rig = Rig::new(
        &ServerParams { flow_control: Some(fixed(65_535, 1 << 20)), ..ServerParams::DEFAULT },
        &toward_endpoints(fixed(65_535, 1 << 20)),
        PROXY,
    );
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    send_frames(&mut upload, 10_000, 5);
    let mut asked = endpoint.asked().await;
    // The endpoint gives no window but the first, and so the upload stalls.
    sleep(SECOND).await;
    send_frames(&mut upload, 10_000, 5);
    upload.send_data("end".into(), true).unwrap();
    let mut body = asked.answer();
    send_frames(&mut body, 10_000, 5);
    let mut response = response.await.unwrap();
    let mut received = Vec::new();
    while received.len() < 50_000 {
        let data = response.body_mut().data().await.unwrap().unwrap();
        response.body_mut().flow_control().release_capacity(data.len()).unwrap();
        received.extend_from_slice(&data);
    }
    let (bytes, _) = collect(asked.request.body_mut()).await.unwrap();
    assert!(bytes == [frames(10_000, 5), frames(10_000, 5), b"end".to_vec()].concat(), "{}", bytes.len());
    // The upload would end with the response.
    body.send_data("end".into(), true).unwrap();
    received.extend(collect(response.body_mut()).await.unwrap().0);
    assert!(received == [frames(10_000, 5), b"end".to_vec()].concat(), "{}", received.len());
}

/// Whole requests hold nothing while they wait for their answers, though they are kept to be sent again.
#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_their_answer_hold_nothing() {
    let server = ServerParams { flow_control: Some(fixed(65_535, 65_535)), ..ServerParams::DEFAULT };
    let mut rig = Rig::buffering(&server, &ClientParams::DEFAULT, PROXY, BufferLimit::new(0));
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let (response, mut upload) = client.send_request(post(), false).unwrap();
        upload.send_data(vec![0; 10_000].into(), true).unwrap();
        let mut asked = endpoint.asked().await;
        let uploaded = timeout(SECOND, collect(asked.request.body_mut())).await.expect("there is window for all");
        assert_eq!(uploaded.unwrap().0.len(), 10_000);
        waiting.push((response, asked));
    }
    for (response, mut asked) in waiting {
        asked.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"answer");
    }
}

#[tokio::test(start_paused = true)]
async fn all_window_is_given_back_in_the_end() {
    let client = toward_endpoints(fixed(65_535, 65_535));
    let mut rig = Rig::buffering(&ServerParams::DEFAULT, &client, PROXY, BufferLimit::new(0));
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let mut open = Vec::new();
    for request_ends in [true, false] {
        for _ in 0..40 {
            let (response, upload) = client.send_request(post(), request_ends).unwrap();
            let mut asked = endpoint.asked().await;
            asked.answer().send_data(vec![0; 10_000].into(), true).unwrap();
            let answered = async { collect(response.await.unwrap().body_mut()).await.unwrap().0.len() };
            assert_eq!(timeout(SECOND, answered).await.expect("there is window"), 10_000);
            open.push((upload, asked));
        }
    }
}

/// On several threads, where streams are held and let go while their connection looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_stays_held_whoever_reads_and_whoever_leaves() {
    let mut rig = Rig::new(&ServerParams::DEFAULT, &toward_endpoints(fixed(20_000, 20_000)), PROXY);
    let mut endpoint = endpoint(&mut rig).await;
    let mut builder = h2::client::Builder::new();
    let (client, connection) =
        builder.initial_window_size(30_000).handshake::<_, Bytes>(rig.connect(1 << 20).0).await.unwrap();
    tokio::spawn(connection);
    let mut all = tokio::task::JoinSet::new();
    for stream in 0..200 {
        let mut client = client.clone().ready().await.unwrap();
        let (response, _) = client.send_request(get(), true).unwrap();
        endpoint.asked().await.answer().send_data(vec![0; 100_000].into(), true).unwrap();
        all.spawn(async move {
            let mut body = response.await.unwrap().into_body();
            let mut read = 0;
            while let Some(data) = body.data().await {
                read += data.unwrap().len();
                // Some leave in the middle, some read in pieces, as they come.
                if stream % 3 == 0 && read > 50_000 {
                    return;
                }
                tokio::task::yield_now().await;
                let used = body.flow_control().used_capacity();
                body.flow_control().release_capacity(used).unwrap();
            }
            assert_eq!(read, 100_000);
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
    let mut client = rig.client().await;
    let none = async {
        while rig.buffers.held() > 0 {
            assert_eq!(fast(&mut client, &mut endpoint).await.await, 256 << 10);
        }
    };
    timeout(60 * SECOND, none).await.expect("all is given back");
}

#[tokio::test(start_paused = true)]
async fn what_ends_a_stream_while_it_is_stalled_comes_after_its_data() {
    let mut rig = Rig::defaults();
    let (mut slow, window) = unwilling(&rig).await;
    let mut endpoint = endpoint(&mut rig).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        let (response, _) = slow.send_request(get(), true).unwrap();
        let mut body = endpoint.asked().await.answer();
        send_frames(&mut body, 100, 1_000);
        sleep(SECOND).await;
        all.push((response.await.unwrap().into_body(), body));
    }
    // One is reset, one ends, and one ends with trailers.
    all[0].1.send_reset(Reason::REFUSED_STREAM);
    all[1].1.send_data(Bytes::new(), true).unwrap();
    let trailer = (http::header::ETAG, "last".parse().unwrap());
    all[2].1.send_trailers(http::HeaderMap::from_iter([trailer])).unwrap();
    sleep(SECOND).await;
    window.send(1 << 20).unwrap();
    let whole = frames(100, 1_000);
    let mut bodies = all.into_iter().map(|(body, _)| body);
    let mut broken = bodies.next().unwrap();
    let mut read = Vec::new();
    let reason = loop {
        match broken.data().await.expect("it does not end") {
            Ok(data) => read.extend_from_slice(&data),
            Err(error) => break error.reason(),
        }
    };
    assert_eq!(reason, Some(Reason::REFUSED_STREAM));
    assert!(whole.starts_with(&read));
    let (bytes, trailers) = collect(&mut bodies.next().unwrap()).await.unwrap();
    assert!(bytes == whole && trailers.is_none());
    let (bytes, trailers) = collect(&mut bodies.next().unwrap()).await.unwrap();
    assert!(bytes == whole);
    assert_eq!(trailers.unwrap()["etag"], "last");
}
