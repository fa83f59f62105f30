//! Loads against the endpoint, and against servers that misbehave.

use super::*;
use http::{HeaderMap, Response};
use std::future::Future;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const TIMEOUT: Duration = Duration::from_secs(20);

fn load(target: SocketAddr, workload: Workload) -> Load {
    Load {
        target,
        workload,
        connections: 2,
        streams: 4,
        rate: None,
        warm_up: Duration::from_millis(10),
        time: Duration::from_millis(100),
        timeout: TIMEOUT,
    }
}

async fn run(load: Load) -> Outcome {
    load.run(|| ()).await.unwrap().0
}

/// One stream's end and latency, whenever they come.
async fn only_end(target: SocketAddr, workload: Workload, timeout: Duration) -> End {
    let load = Load { timeout, ..load(target, workload) };
    let recorder = Recorder::new();
    recorder.begin();
    let mut tasks = JoinSet::new();
    let client = connect(target, STREAM_WINDOW, &mut tasks).await.unwrap();
    one(&load, client, &recorder, Instant::now()).await;
    let outcome = recorder.finish();
    assert_eq!(outcome.ends.values().sum::<u64>(), 1);
    *outcome.ends.keys().next().unwrap()
}

/// A server of one connection that does with each stream as it is told.
async fn serve<F>(act: impl Fn(h2::server::SendResponse<bytes::Bytes>) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, respond))) = connection.accept().await {
            tokio::spawn(act(respond));
        }
    });
    addr
}

#[tokio::test]
async fn every_workload_ends_well() {
    let endpoint = Endpoint::spawn().await.unwrap();
    for workload in Workload::ALL.into_iter().filter(|workload| *workload != Workload::SlowReaders) {
        assert_eq!(only_end(endpoint.addr(), workload, TIMEOUT).await, End::Ok, "{workload}");
    }
    assert!(endpoint.received() > 16 << 20);
}

#[tokio::test]
async fn closed_loop_measures() {
    let endpoint = Endpoint::spawn().await.unwrap();
    let outcome = run(load(endpoint.addr(), Workload::GrpcUnary)).await;
    assert!(outcome.ok() > 0 && outcome.failed() == 0, "{outcome:?}");
    assert_eq!(outcome.latency_us.len(), outcome.ok());
    assert!(outcome.received >= outcome.ok() * 133 / 2);
    assert!(outcome.time >= Duration::from_millis(100));
}

#[tokio::test]
async fn only_the_fast_stream_counts_beside_slow_readers() {
    let endpoint = Endpoint::spawn().await.unwrap();
    let outcome = run(load(endpoint.addr(), Workload::SlowReaders)).await;
    assert!(outcome.ok() > 0 && outcome.failed() == 0, "{outcome:?}");
}

#[tokio::test]
async fn latency_at_a_fixed_rate_counts_from_the_intended_start() {
    // Each answer takes 20 ms, and only one stream may be open: at 200 a second they queue up more and more.
    let server = serve(|mut respond| async move {
        sleep(Duration::from_millis(20)).await;
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let _ = stream.send_data(vec![0; 128].into(), true);
    })
    .await;
    let slow = Load {
        connections: 1,
        streams: 1,
        rate: Some(200.0),
        time: Duration::from_millis(600),
        ..load(server, Workload::Unary)
    };
    let outcome = run(slow).await;
    assert!(outcome.ok() > 0, "{outcome:?}");
    let worst = Duration::from_micros(outcome.latency_us.max());
    assert!(worst >= Duration::from_millis(200), "omits what waits: {worst:?}");
}

#[tokio::test]
async fn fixed_rate_is_kept() {
    let endpoint = Endpoint::spawn().await.unwrap();
    let rate = Load { rate: Some(200.0), time: Duration::from_millis(500), ..load(endpoint.addr(), Workload::Unary) };
    let outcome = run(rate).await;
    let expected = 200.0 * outcome.time.as_secs_f64();
    assert!((outcome.ok() as f64 / expected - 1.0).abs() < 0.3, "{outcome:?}");
}

#[tokio::test]
async fn resets_are_told_apart() {
    for (reason, end) in [
        (h2::Reason::CANCEL, End::Reset(8)),
        (h2::Reason::INTERNAL_ERROR, End::Reset(2)),
        (h2::Reason::REFUSED_STREAM, End::Refused),
    ] {
        let server = serve(move |mut respond| async move { respond.send_reset(reason) }).await;
        assert_eq!(only_end(server, Workload::Unary, TIMEOUT).await, end);
    }
}

#[tokio::test]
async fn statuses_are_told() {
    let server = serve(|mut respond| async move {
        let rsp = Response::builder().status(503).body(()).unwrap();
        respond.send_response(rsp, true).unwrap();
    })
    .await;
    assert_eq!(only_end(server, Workload::Unary, TIMEOUT).await, End::Status(503));
    let server = serve(|mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(vec![0; 133].into(), false).unwrap();
        stream.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), 14.into())])).unwrap();
    })
    .await;
    assert_eq!(only_end(server, Workload::GrpcUnary, TIMEOUT).await, End::Grpc(14));
}

#[tokio::test]
async fn short_answers_are_truncated() {
    for len in [127, 129] {
        let server = serve(move |mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(vec![0; len].into(), true).unwrap();
        })
        .await;
        assert_eq!(only_end(server, Workload::Unary, TIMEOUT).await, End::Truncated);
    }
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let server = serve(|respond| async move {
        sleep(TIMEOUT).await;
        drop(respond);
    })
    .await;
    assert_eq!(only_end(server, Workload::Unary, Duration::from_millis(30)).await, End::Timeout);
}

#[tokio::test]
async fn goaway_and_lost_connections_are_told_apart() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // No stream was handled, ENHANCE_YOUR_CALM.
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    for (says, end) in [(GOAWAY, End::GoAway(11)), (&[][..], End::Lost)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            io.write_all(SETTINGS).await.unwrap();
            io.read_exact(&mut [0; 24]).await.unwrap();
            let mut head = [0; 9];
            while head[3] != 1 {
                io.read_exact(&mut head).await.unwrap();
                let len = usize::from(head[1]) << 8 | usize::from(head[2]);
                io.read_exact(&mut vec![0; len]).await.unwrap();
            }
            io.write_all(says).await.unwrap();
            io.shutdown().await.unwrap();
            // Until the client has closed, too.
            io.read_to_end(&mut Vec::new()).await.unwrap_or_default();
        });
        assert_eq!(only_end(addr, Workload::Unary, TIMEOUT).await, end);
        server.await.unwrap();
    }
}

#[test]
fn ends_have_readable_names() {
    assert_eq!(End::Reset(8).to_string(), "reset CANCEL");
    assert_eq!(End::GoAway(11).to_string(), "goaway ENHANCE_YOUR_CALM");
    assert_eq!(End::Status(503).to_string(), "status 503");
}
