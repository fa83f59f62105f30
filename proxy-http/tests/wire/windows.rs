//! Windows under pressure, the connections that requests go to meanwhile, and the counters of blocked streams.

use crate::{
    stalls::{SECOND, endpoint, fast, fixed, stall, toward_endpoints, unwilling},
    support::{Asked, Endpoint, PROXY, Rig, collect, get, post},
};
use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::{
    BufferLimit,
    stats::{BlockedReason, LimitingWindow, Peer},
};
use std::{future::poll_fn, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

const MIB: usize = 1 << 20;

/// The window of a new stream of a response, as the endpoint has it.
async fn window(client: &mut SendRequest<Bytes>, endpoint: &mut Endpoint) -> usize {
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    body.reserve_capacity(64 * MIB);
    // Capacity comes in parts.
    while timeout(SECOND, poll_fn(|cx| body.poll_capacity(cx))).await.is_ok() {}
    let window = body.capacity();
    body.send_data(Bytes::new(), true).unwrap();
    collect(response.await.unwrap().body_mut()).await.unwrap();
    window
}

#[tokio::test(start_paused = true)]
async fn adaptive_windows_are_full_at_once_small_under_pressure_and_full_again() {
    // A sixteenth of it is for readers that have stopped.
    let mut rig = Rig::with_one_connection(&toward_endpoints(FlowControl::Adaptive), BufferLimit::new(64 * MIB));
    let (mut slow, _grant) = unwilling(&rig).await;
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    assert_eq!(window(&mut client, &mut endpoint).await, 16 * MIB);
    let (stalled, sent) = stall(&mut slow, &mut endpoint, 64).await;
    assert!(sent.iter().sum::<usize>() <= 40 * MIB, "{sent:?}");
    assert!(rig.buffers.held() <= 40 * MIB, "{}", rig.buffers.held());
    assert_eq!(window(&mut client, &mut endpoint).await, 65_535);
    drop((stalled, slow));
    sleep(2 * SECOND).await;
    assert_eq!(window(&mut client, &mut endpoint).await, 16 * MIB);
    assert_eq!(rig.buffers.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_go_past_a_connection_that_readers_which_have_stopped_fill() {
    for flow_control in [FlowControl::Adaptive, fixed(16 << 20, 24 << 20), fixed(65_535, 1 << 20)] {
        let client = toward_endpoints(flow_control);
        let mut rig = Rig::buffering(&ServerParams::DEFAULT, &client, PROXY, BufferLimit::new(64 * MIB));
        let (mut slow, _grant) = unwilling(&rig).await;
        let (mut client, mut first) = (rig.client().await, endpoint(&mut rig).await);
        assert_eq!(fast(&mut client, &mut first).await.await, 256 << 10);
        let (_stalled, _) = stall(&mut slow, &mut first, 16).await;
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut second = endpoint(&mut rig).await;
        second.asked().await.answer().send_data(vec![7; MIB].into(), true).unwrap();
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0.len(), MIB);
        // Clients that do not read stay with their like.
        let mut more = Vec::new();
        for _ in 0..8 {
            poll_fn(|cx| slow.poll_ready(cx)).await.unwrap();
            more.push(slow.send_request(get(), true).unwrap());
            timeout(SECOND, first.asked()).await.expect("it comes on the first connection");
        }
        assert!(rig.endpoint_ios.try_recv().is_err(), "two connections are enough");
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_other_connection_can_be_had_requests_use_the_one_there_is() {
    let client = toward_endpoints(FlowControl::Adaptive);
    let mut rig = Rig::buffering(&ServerParams::DEFAULT, &client, PROXY, BufferLimit::new(64 * MIB));
    let (mut slow, _grant) = unwilling(&rig).await;
    let (mut client, mut first) = (rig.client().await, endpoint(&mut rig).await);
    let (_stalled, _) = stall(&mut slow, &mut first, 64).await;
    // The endpoint leaves further connections without SETTINGS.
    assert_eq!(timeout(2 * SECOND, fast(&mut client, &mut first).await).await.expect("it is answered"), 256 << 10);
    let at_once = timeout(SECOND / 10, fast(&mut client, &mut first).await).await;
    assert_eq!(at_once.expect("it does not wait again"), 256 << 10);
    assert!(rig.endpoint_ios.try_recv().is_ok(), "another one was tried");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_and_goes_on_gets_all_in_order() {
    let client = toward_endpoints(FlowControl::Adaptive);
    let mut rig = Rig::buffering(&ServerParams::DEFAULT, &client, PROXY, BufferLimit::new(4 * MIB));
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    let sending = tokio::spawn(async move {
        for number in 0..20_000_u32 {
            let chunk = Bytes::from(number.to_be_bytes().repeat(250));
            send(&mut body, chunk).await;
        }
        body.send_data(Bytes::new(), true).unwrap();
    });
    let mut response = response.await.unwrap().into_body();
    let mut received = Vec::new();
    for _ in 0..1_000 {
        // As much as is left of the window is buffered meanwhile.
        sleep(Duration::from_millis(10)).await;
        let more = received.len() + 20_000;
        while received.len() < more
            && let Some(data) = response.data().await
        {
            let data = data.unwrap();
            response.flow_control().release_capacity(data.len()).unwrap();
            received.extend_from_slice(&data);
        }
    }
    sending.await.unwrap();
    let rest = collect(&mut response).await.unwrap().0;
    received.extend_from_slice(&rest);
    let expected: Vec<u8> = (0..20_000_u32).flat_map(|number| number.to_be_bytes().repeat(250)).collect();
    assert!(received == expected, "{} of {}", received.len(), expected.len());
}

/// All of the stream's DATA is read, but so little has come that no WINDOW_UPDATE was due. Less window than that is left of
/// the small one.
#[tokio::test(start_paused = true)]
async fn a_response_goes_on_though_windows_shrink_while_it_waits() {
    let mut rig = Rig::with_one_connection(&toward_endpoints(FlowControl::Adaptive), BufferLimit::new(64 * MIB));
    let (mut slow, _grant) = unwilling(&rig).await;
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    let reading = tokio::spawn(async move { collect(response.await.unwrap().body_mut()).await.unwrap().0.len() });
    send(&mut body, vec![0; 5 * MIB].into()).await;
    let (_stalled, _) = stall(&mut slow, &mut endpoint, 64).await;
    assert_eq!(window(&mut client, &mut endpoint).await, 65_535);
    timeout(SECOND, send(&mut body, vec![0; MIB].into())).await.expect("it gets window");
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(reading.await.unwrap(), 6 * MIB);
}

/// As above, but the client's window is used up, too, so that the proxy waits for window and not for DATA, although nothing but
/// END_STREAM is to come. Servers of nghttp2 send that frame once the stream has window, and no frames above 16 KiB.
#[tokio::test(start_paused = true)]
async fn a_response_ends_though_windows_shrink_while_its_client_has_none_left() {
    let params = ClientParams { max_frame_size: Some(16_384), ..toward_endpoints(FlowControl::Adaptive) };
    let mut rig = Rig::with_one_connection(&params, BufferLimit::new(64 * MIB));
    let (mut slow, _grant) = unwilling(&rig).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(5 << 20).initial_connection_window_size(1 << 24);
    let (mut client, connection) = builder.handshake::<_, Bytes>(rig.connect(1 << 20).0).await.unwrap();
    tokio::spawn(connection);
    let mut endpoint = endpoint(&mut rig).await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    let mut response = response.await.unwrap().into_body();
    let reading = tokio::spawn(async move {
        read_all_window(&mut response, 5 * MIB).await;
        response
    });
    send(&mut body, vec![0; 5 * MIB].into()).await;
    let mut response = reading.await.unwrap();
    let (_stalled, _) = stall(&mut slow, &mut endpoint, 64).await;
    check_small(&rig, Peer::Endpoint);
    timeout(SECOND, window_for(&mut body, 1)).await.expect("it gets window");
    body.send_data(Bytes::new(), true).unwrap();
    assert!(collect(&mut response).await.unwrap().0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_though_windows_shrink_while_it_waits() {
    let server = ServerParams { flow_control: Some(FlowControl::Adaptive), ..ServerParams::DEFAULT };
    let mut rig = Rig::buffering(&server, &ClientParams::DEFAULT, PROXY, BufferLimit::new(64 * MIB));
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    let mut upload = async || {
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let (response, upload) = client.send_request(post(), false).unwrap();
        (response, upload, endpoint.asked().await)
    };
    let (response, mut body, mut asked) = upload().await;
    let reading = tokio::spawn(async move {
        let read = collect(asked.request.body_mut()).await.unwrap().0.len();
        asked.answer().send_data(Bytes::new(), true).unwrap();
        read
    });
    send(&mut body, vec![0; 2 * MIB].into()).await;
    let _stopped = stop(upload).await;
    check_small(&rig, Peer::Client);
    timeout(SECOND, send(&mut body, vec![0; MIB].into())).await.expect("it gets window");
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(reading.await.unwrap(), 3 * MIB);
    assert_eq!(response.await.unwrap().status(), 200);
}

/// As above, toward an endpoint whose window is used up.
#[tokio::test(start_paused = true)]
async fn a_request_ends_though_windows_shrink_while_its_endpoint_has_none_left() {
    let server = ServerParams { flow_control: Some(FlowControl::Adaptive), ..ServerParams::DEFAULT };
    let mut rig = Rig::buffering(&server, &ClientParams::DEFAULT, PROXY, BufferLimit::new(64 * MIB));
    let mut client = rig.client().await;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(2 << 20).initial_connection_window_size(1 << 24);
    let mut endpoint = Endpoint::build(rig.endpoint_ios.recv().await.unwrap(), &builder).await;
    let mut upload = async || {
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let (response, upload) = client.send_request(post(), false).unwrap();
        (response, upload, endpoint.asked().await)
    };
    let (response, mut body, mut asked) = upload().await;
    let reading = tokio::spawn(async move {
        read_all_window(asked.request.body_mut(), 2 * MIB).await;
        asked
    });
    send(&mut body, vec![0; 2 * MIB].into()).await;
    let mut asked = reading.await.unwrap();
    let _stopped = stop(upload).await;
    check_small(&rig, Peer::Client);
    timeout(SECOND, window_for(&mut body, 1)).await.expect("it gets window");
    body.send_data(Bytes::new(), true).unwrap();
    assert!(collect(asked.request.body_mut()).await.unwrap().0.is_empty());
    asked.answer().send_data(Bytes::new(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}

/// Uploads that nobody reads, until windows have shrunk.
async fn stop(
    mut upload: impl AsyncFnMut() -> (ResponseFuture, SendStream<Bytes>, Asked),
) -> Vec<(ResponseFuture, Asked)> {
    let mut stopped = Vec::new();
    for _ in 0..32 {
        let (response, mut body, asked) = upload().await;
        stopped.push((response, asked));
        tokio::spawn(async move { send(&mut body, vec![0; 8 * MIB].into()).await });
    }
    sleep(10 * SECOND).await;
    stopped
}

/// Checks that streams of a connection with that peer are granted the smallest window.
#[track_caller]
fn check_small(rig: &Rig, peer: Peer) {
    let connection = &rig.stats.transport(peer).connections(1)[0];
    assert_eq!(connection.http2.as_ref().unwrap().granted.stream, 65_535);
}

/// Reads so many bytes, and grants no more window.
async fn read_all_window(body: &mut RecvStream, bytes: usize) {
    let mut read = 0;
    while read < bytes {
        read += body.data().await.unwrap().unwrap().len();
    }
    assert_eq!(read, bytes);
}

/// Waits for window for some of so many bytes.
async fn window_for(to: &mut SendStream<Bytes>, bytes: usize) {
    to.reserve_capacity(bytes);
    while to.capacity() == 0 {
        poll_fn(|cx| to.poll_capacity(cx)).await.unwrap().unwrap();
    }
}

/// Sends a chunk as window for it comes.
async fn send(to: &mut SendStream<Bytes>, mut chunk: Bytes) {
    while !chunk.is_empty() {
        window_for(to, chunk.len()).await;
        let len = to.capacity().min(chunk.len());
        to.send_data(chunk.split_to(len), false).unwrap();
    }
}

/// Checks that of one peer's streams so many are blocked for this reason, and none for another, for as long as that is so.
async fn check_blocked(rig: &Rig, peer: Peer, reason: BlockedReason, streams: u64) {
    let blocked = || rig.stats.transport(peer).blocked().collect::<Vec<_>>();
    sleep(SECOND).await;
    let before = blocked();
    sleep(10 * SECOND).await;
    for (before, now) in before.into_iter().zip(blocked()) {
        let expected = if now.reason == reason { streams } else { 0 };
        let grown = (now.time - before.time).as_secs_f64();
        assert_eq!((now.streams, grown.round() as u64), (expected, 10 * expected), "{peer:?} {:?}", now.reason);
    }
}

/// Checks that nothing is blocked any more, and that the times stand still.
async fn check_free(rig: &Rig) {
    sleep(SECOND).await;
    for peer in [Peer::Client, Peer::Endpoint] {
        let blocked = || rig.stats.transport(peer).blocked().collect::<Vec<_>>();
        let before = blocked();
        sleep(10 * SECOND).await;
        assert_eq!(blocked(), before);
        assert!(before.iter().all(|blocked| blocked.streams == 0), "{before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn blocked_by_a_streams_window() {
    // The response comes in frames, or in one.
    for max_frame in [16_384, 65_536] {
        let client = ClientParams { max_frame_size: Some(max_frame), ..ClientParams::DEFAULT };
        let mut rig = Rig::new(&ServerParams::DEFAULT, &client, PROXY);
        let (mut slow, grant) = unwilling(&rig).await;
        let mut endpoint = endpoint(&mut rig).await;
        let (response, _) = slow.send_request(get(), true).unwrap();
        endpoint.asked().await.answer().send_data(vec![0; 40_000].into(), true).unwrap();
        let mut response = response.await.unwrap();
        check_blocked(&rig, Peer::Client, BlockedReason::StreamWindow, 1).await;
        grant.send(65_535).unwrap();
        collect(response.body_mut()).await.unwrap();
        check_free(&rig).await;
    }
}

#[tokio::test(start_paused = true)]
async fn blocked_by_the_connections_window() {
    let mut rig = Rig::defaults();
    let io = rig.client_io.take().unwrap();
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(1 << 20).handshake::<_, Bytes>(io).await.unwrap();
    tokio::spawn(connection);
    let mut endpoint = endpoint(&mut rig).await;
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data(vec![0; 100_000].into(), true).unwrap();
    let mut response = response.await.unwrap();
    check_blocked(&rig, Peer::Client, BlockedReason::ConnectionWindow, 1).await;
    collect(response.body_mut()).await.unwrap();
    check_free(&rig).await;
}

#[tokio::test(start_paused = true)]
async fn blocked_by_the_socket() {
    let mut rig = Rig::defaults();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 24).initial_connection_window_size(1 << 24);
    let (mut client, mut connection) = builder.handshake::<_, Bytes>(rig.connect(1 << 10).0).await.unwrap();
    let mut endpoint = endpoint(&mut rig).await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let asking = async {
        tokio::select! {
            _ = &mut connection => unreachable!("it goes on"),
            asked = endpoint.asked() => asked,
        }
    };
    let mut body = Asked::answer(&mut asking.await);
    // More than the engine keeps. From here on nobody reads the pipe.
    let sending = tokio::spawn(async move {
        send(&mut body, vec![0; 4 * MIB].into()).await;
        body.send_data(Bytes::new(), true).unwrap();
    });
    check_blocked(&rig, Peer::Client, BlockedReason::Socket, 1).await;
    tokio::spawn(connection);
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0.len(), 4 * MIB);
    sending.await.unwrap();
    check_free(&rig).await;
}

#[tokio::test(start_paused = true)]
async fn blocked_by_a_reader() {
    let mut rig = Rig::defaults();
    let (mut slow, _grant) = unwilling(&rig).await;
    let mut endpoint = endpoint(&mut rig).await;
    let (stalled, _) = stall(&mut slow, &mut endpoint, 3).await;
    check_blocked(&rig, Peer::Endpoint, BlockedReason::Reader, 3).await;
    drop((stalled, slow));
    check_free(&rig).await;
}

#[tokio::test(start_paused = true)]
async fn blocked_by_the_budget() {
    let client = ClientParams { flow_control: Some(fixed(65_535, 4 * 65_535)), ..ClientParams::DEFAULT };
    let mut rig = Rig::with_one_connection(&client, BufferLimit::new(0));
    let (mut slow, _grant) = unwilling(&rig).await;
    let mut endpoint = endpoint(&mut rig).await;
    let (stalled, _) = stall(&mut slow, &mut endpoint, 4).await;
    check_blocked(&rig, Peer::Endpoint, BlockedReason::Budget, 4).await;
    drop((stalled, slow));
    check_free(&rig).await;
}

/// The other end of a path that takes `delay` in each direction, and any number of bytes at a time.
fn long_path(io: DuplexStream, delay: Duration) -> DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 20);
    let ((from_proxy, to_proxy), (from_peer, to_peer)) = (tokio::io::split(io), tokio::io::split(far));
    tokio::spawn(carry(from_proxy, to_peer, delay));
    tokio::spawn(carry(from_peer, to_proxy, delay));
    near
}

async fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, delay: Duration) {
    let (sent, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = under_way.recv().await {
            sleep_until(at).await;
            to.write_all(&bytes).await.unwrap();
        }
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let _ = sent.send((Instant::now() + delay, buffer[..count].to_vec()));
    }
}

/// The window that limits downloads of so many streams over a path of 40 ms, each of 16 KiB and a pause at a time, as they go on.
async fn limiting(flow_control: FlowControl, streams: usize, pause: Duration) -> Option<LimitingWindow> {
    let mut rig = Rig::with_one_connection(&toward_endpoints(flow_control), BufferLimit::default());
    let mut client = rig.client().await;
    let io = tokio::spawn({
        let mut opened = rig.endpoint_ios.clone();
        async move { opened.recv().await.unwrap() }
    });
    let mut responses = Vec::new();
    for _ in 0..streams {
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        responses.push(client.send_request(get(), true).unwrap().0);
    }
    let mut endpoint = Endpoint::accept(long_path(io.await.unwrap(), Duration::from_millis(20))).await;
    let mut downloads = Vec::new();
    for response in responses {
        let mut body = endpoint.asked().await.answer();
        let sending = async move {
            loop {
                send(&mut body, vec![0; 16 << 10].into()).await;
                sleep(pause).await;
            }
        };
        downloads.push(tokio::spawn(sending));
        tokio::spawn(async move { collect(response.await.unwrap().body_mut()).await });
    }
    sleep(18 * SECOND).await;
    downloads.iter().for_each(|download| download.abort());
    let limited = rig.stats.transport(Peer::Endpoint).connections_limited_by_window(10);
    assert!(limited.len() <= 1, "{limited:?}");
    limited.first().map(|connection| connection.http2.as_ref().unwrap().limited_by_window.as_ref().unwrap().window)
}

#[tokio::test(start_paused = true)]
async fn a_window_that_limits_a_long_path_is_named() {
    let (short, long) = (Duration::from_millis(1), Duration::from_millis(10));
    assert_eq!(limiting(fixed(65_535, 1 << 20), 1, short).await, Some(LimitingWindow::Stream));
    assert_eq!(limiting(fixed(65_535, 65_535), 2, short).await, Some(LimitingWindow::Connection));
    // 64 KiB a round trip.
    assert_eq!(limiting(fixed(1 << 20, 2 << 20), 1, long).await, None);
    assert_eq!(limiting(FlowControl::Adaptive, 1, long).await, None);
}
