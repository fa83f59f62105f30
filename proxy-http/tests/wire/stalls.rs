//! Readers that stop reading: what they cost, and that they cost nobody else anything.

use crate::{
    frames::{DATA, HEADERS, Peer, RST_STREAM},
    support::{Asked, Endpoint, PROXY, Rig, collect, get, grpc, post, reset},
};
use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Response, StatusCode};
use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::{
    Buffers,
    stats::{Peer as Side, StreamLimit},
};
use std::{
    future::{Future, poll_fn},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// In paused time, what is to happen without a timer has happened by then.
const SOON: Duration = Duration::from_millis(1);
/// What timers take beside their time.
const TICK: Duration = Duration::from_millis(2);

fn fixed(stream: u32, connection: u32) -> FlowControl {
    FlowControl::Fixed { initial_stream_window_size: stream, initial_connection_window_size: connection }
}

fn toward_endpoints(flow_control: FlowControl) -> ClientParams {
    ClientParams { flow_control: Some(flow_control), ..ClientParams::DEFAULT }
}

/// A client that takes nothing of any response's body.
async fn unwilling(rig: &Rig) -> SendRequest<Bytes> {
    let (client, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake(rig.connect()).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The endpoint's end of a connection that takes any number of streams and any window.
async fn endpoint(rig: &mut Rig) -> Endpoint {
    Endpoint::accept(rig.endpoint_ios.recv().await.unwrap()).await
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
async fn stall(
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
async fn fast(client: &mut SendRequest<Bytes>, endpoint: &mut Endpoint) -> impl Future<Output = usize> + use<> {
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data(vec![7; 256 << 10].into(), true).unwrap();
    async move { collect(response.await.unwrap().body_mut()).await.unwrap().0.len() }
}

/// So many fast requests at once, and in no time, beside so many that are stalled.
async fn check_beside(flow_control: FlowControl, stalled: usize) {
    let mut rig = Rig::new(&ServerParams::DEFAULT, &toward_endpoints(flow_control), PROXY);
    let mut slow = unwilling(&rig).await;
    let (mut client, mut endpoint) = (rig.client().await, endpoint(&mut rig).await);
    // One that is open before the others stall, and one that comes after them.
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (early, _) = client.send_request(get(), true).unwrap();
    let mut early_body = endpoint.asked().await.answer();
    let mut early = early.await.unwrap().into_body();
    let (_stalled, sent) = stall(&mut slow, &mut endpoint, stalled).await;
    let window = match flow_control {
        FlowControl::Fixed { initial_stream_window_size, .. } => initial_stream_window_size,
        FlowControl::Adaptive => 65_535,
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
    assert!(rig.endpoint_ios.try_recv().is_err(), "all on one connection");
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
