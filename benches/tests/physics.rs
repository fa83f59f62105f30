//! What windows must do over a link, and do: through `Connect`, which is what the proxy uses toward endpoints, with the
//! link in memory and a server whose own windows never bind. Time is paused, so that computing takes none.

use benches::{
    link::{Direction, End, Link},
    load::{Payload, serve_endpoint},
    timer::Clock,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_h2::{ClientParams, FlowControl};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_http::{Connect, SendRequest, client::ConnectError};
use std::{
    future::{Future, ready},
    io,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower_service::Service as _;

const RTT: Duration = Duration::from_millis(20);
const STEADY: Direction = Direction::of_round_trip(RTT, 1_000);
/// A link whose bandwidth never binds.
const SHORT: Direction = Direction { delay: Duration::from_millis(1), ..Direction::DIRECT };

type Client = SendRequest<Payload>;

fn fixed(stream: u32, connection: u32) -> FlowControl {
    FlowControl::Fixed { initial_stream_window_size: stream, initial_connection_window_size: connection }
}

/// A connection over a link of its own to a server in this process, as long as `tasks` live.
async fn connect(direction: Direction, flow_control: FlowControl, tasks: &mut JoinSet<()>) -> Client {
    let (near, far) = Link::new(direction, direction, Clock::Tokio).pair().unwrap();
    tasks.spawn(serve_endpoint(far, Arc::default()));
    let mut near = Some(near);
    let connector = tower::service_fn(move |()| ready(near.take().ok_or(io::Error::from(io::ErrorKind::NotFound))));
    let params = ClientParams { flow_control: Some(flow_control), ..ClientParams::DEFAULT };
    let mut connect = Connect::<_, Payload>::new(connector, &params).unwrap();
    let connected: Result<Client, ConnectError> = connect.call(()).await;
    connected.unwrap()
}

fn get(bytes: u64) -> Request<Payload> {
    Request::get(format!("http://bench.example/bytes/{bytes}")).body(Payload::bytes(0)).unwrap()
}

/// Bits a second of so many downloads at once, after a warm-up.
async fn goodput(flow_control: FlowControl, streams: usize, warm_up: Duration, time: Duration) -> f64 {
    let mut tasks = JoinSet::new();
    let client = connect(STEADY, flow_control, &mut tasks).await;
    let received = Arc::new(AtomicU64::new(0));
    for _ in 0..streams {
        let (mut client, received) = (client.clone(), Arc::clone(&received));
        tasks.spawn(async move {
            let mut body = client.call(get(1 << 30)).await.unwrap().into_body();
            while let Some(Ok(frame)) = body.frame().await {
                received.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Relaxed);
            }
        });
    }
    sleep(warm_up).await;
    let (start, before) = (Instant::now(), received.load(Relaxed));
    sleep(time).await;
    (received.load(Relaxed) - before) as f64 * 8.0 / start.elapsed().as_secs_f64()
}

/// The goodput of fixed windows must be such a share of what `window` allows per round trip.
async fn check_fixed(stream: u32, connection: u32, streams: usize, window: u32, share: RangeInclusive<f64>) {
    let most = f64::from(window) * 8.0 / RTT.as_secs_f64();
    let got = goodput(fixed(stream, connection), streams, RTT * 6, RTT * 20).await / most;
    assert!(share.contains(&got), "{streams} streams with {stream} / {connection}: {got} of what {window} allows");
}

#[tokio::test(start_paused = true)]
async fn one_stream_gets_a_window_per_round_trip() {
    for stream in [16_384, 32_768, 65_535] {
        check_fixed(stream, 1 << 20, 1, stream, 0.9..=1.1).await;
    }
}

/// Today's behaviour: h2 gives credit back once it is half of what is left, which is a third of the window. What comes
/// after the last third waits for a whole round trip, unless frames divide the window well.
#[tokio::test(start_paused = true)]
async fn windows_of_many_frames_lose_up_to_a_third() {
    for stream in [131_072, 147_456, 262_144, 524_288] {
        check_fixed(stream, 16 << 20, 1, stream, 0.66..=1.0).await;
    }
    check_fixed(1 << 20, 16 << 20, 1, 1 << 20, 0.66..=0.9).await;
}

#[tokio::test(start_paused = true)]
async fn sixteen_streams_are_bounded_by_the_connection_window() {
    check_fixed(65_535, 131_072, 16, 131_072, 0.6..=1.1).await;
}

#[tokio::test(start_paused = true)]
async fn streams_below_the_connection_window_add_up() {
    check_fixed(16_384, 1 << 20, 8, 8 * 16_384, 0.9..=1.1).await;
}

#[tokio::test(start_paused = true)]
async fn adaptive_windows_fill_the_link_from_the_second_round_trip_on() {
    for streams in [1, 16] {
        let got = goodput(FlowControl::Adaptive, streams, RTT * 2, RTT * 10).await;
        assert!(got > 0.95e9, "{streams} streams: {got} bits a second, of 10^9");
    }
}

/// Opens streams that are never read, until the endpoint has sent each of them a window.
async fn stall<F, B, E>(streams: usize, mut get: impl FnMut() -> F) -> Vec<B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: std::fmt::Debug,
{
    let mut stalled = Vec::new();
    for _ in 0..streams {
        stalled.push(get().await.unwrap().into_body());
    }
    sleep(Duration::from_millis(200)).await;
    stalled
}

/// Whether a body of 64 KiB ends.
async fn is_whole(body: impl http_body::Body<Data = Bytes> + Unpin) -> bool {
    let whole = tokio::time::timeout(Duration::from_secs(2), body.collect()).await;
    whole.is_ok_and(|body| body.is_ok_and(|body| body.to_bytes().len() == 64 << 10))
}

/// Whether a stream of 64 KiB ends beside so many that are not read.
async fn fast_ends_beside(stalled: usize, flow_control: FlowControl) -> bool {
    let mut tasks = JoinSet::new();
    let mut client = connect(SHORT, flow_control, &mut tasks).await;
    let _stalled = stall(stalled, || client.clone().call(get(1 << 30))).await;
    is_whole(client.call(get(64 << 10)).await.unwrap().into_body()).await
}

/// h2 gives connection window back only as bodies are read, so those that are not keep it; the window grows by that.
#[tokio::test(start_paused = true)]
async fn stalled_streams_do_not_starve_the_fast_one() {
    for stalled in [3, 4, 5, 64] {
        assert!(fast_ends_beside(stalled, fixed(65_536, 4 * 65_536)).await, "{stalled}");
        assert!(fast_ends_beside(stalled, fixed(32_768, 4 * 65_536)).await, "{stalled}");
    }
    for stalled in [1, 16] {
        assert!(fast_ends_beside(stalled, FlowControl::Adaptive).await, "{stalled}");
        assert!(fast_ends_beside(stalled, fixed(65_536, 65_536)).await, "{stalled}");
    }
}

/// What the proxy closes is open in hyper: its window is given back only as bodies are read.
#[tokio::test(start_paused = true)]
async fn stalled_streams_that_fill_the_connection_window_starve_the_fast_one_of_hyper() {
    for (stalled, ends) in [(3, true), (4, false), (5, false)] {
        let (near, far) = Link::new(SHORT, SHORT, Clock::Tokio).pair().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_endpoint(far, Arc::default()));
        let params = ClientParams { flow_control: Some(fixed(65_536, 4 * 65_536)), ..ClientParams::DEFAULT };
        let builder = proxy_http::hyper::client_builder(&params, TokioExecutor::new()).unwrap();
        let (client, connection) = builder.handshake(TokioIo::new(near)).await.unwrap();
        tasks.spawn(async move { connection.await.unwrap_or_default() });
        let _stalled = stall(stalled, || client.clone().send_request(get(1 << 30))).await;
        let fast = client.clone().send_request(get(64 << 10)).await.unwrap().into_body();
        assert_eq!(is_whole(fast).await, ends, "{stalled}");
    }
}

#[test]
fn ends_of_links_can_be_sent_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<End>();
    check::<Link>();
}
