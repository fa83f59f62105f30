//! Endpoints that end good connections, come late, fill up or refuse: no request is lost for it that need not be.

use crate::{
    frames::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, Peer, RST_STREAM, SETTINGS},
    raw::{Opened, Raw},
    support::{PROXY, Rig, client, collect, endpoint_params, get, post},
};
use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{Request, StatusCode};
use http_h2::{ClientKeepAlive, ClientParams, ServerParams};
use proxy_http::{
    Endpoints, Protocol, balance,
    proxy::{self, retry},
    stats::Peer as Side,
};
use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};

/// Has room for all requests that wait.
const PATIENT: proxy::Params = proxy::Params { queue_capacity: 10_000, ..PROXY };
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// An endpoint of HTTP/2 that ends each of its connections by GOAWAY after so many requests, all of which it answers.
async fn goes_away_after(requests: u32, opened: Opened, connections: Arc<AtomicUsize>) {
    let mut opened = opened;
    let mut serving = JoinSet::new();
    while let Some(io) = opened.recv().await {
        connections.fetch_add(1, Relaxed);
        serving.spawn(async move {
            let mut peer = Peer::accepted(io).await;
            for served in 0..requests {
                if peer.until(HEADERS).await.is_none() {
                    return;
                }
                peer.send(HEADERS, END_HEADERS | END_STREAM, 2 * served + 1, &[0x88]).await;
            }
            peer.send(GOAWAY, 0, 0, &[0, 0, 0, u8::try_from(2 * requests - 1).unwrap(), 0, 0, 0, 0]).await;
        });
    }
}

/// Sends so many requests, `at_once` at a time. Returns how many were answered with 200, and the longest time that one took.
async fn load(
    client: &mut SendRequest<Bytes>,
    requests: usize,
    at_once: usize,
    request: fn() -> Request<()>,
) -> (usize, Duration) {
    let (mut open, mut good, mut longest) = (JoinSet::new(), 0, Duration::ZERO);
    let mut take = |(status, took): (Option<StatusCode>, Duration)| {
        good += usize::from(status == Some(StatusCode::OK));
        longest = longest.max(took);
    };
    for _ in 0..requests {
        if open.len() == at_once {
            take(open.join_next().await.unwrap().unwrap());
        }
        std::future::poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let request = request();
        let has_body = request.method() == http::Method::POST;
        let (response, mut body) = client.send_request(request, !has_body).unwrap();
        if has_body {
            body.send_data("0123456789".into(), true).unwrap();
        }
        open.spawn(async move {
            let started = Instant::now();
            let rsp = response.await.ok();
            let status = rsp.as_ref().map(http::Response::status);
            if let Some(rsp) = rsp {
                let _ = collect(&mut rsp.into_body()).await;
            }
            (status, started.elapsed())
        });
    }
    open.join_all().await.into_iter().for_each(take);
    (good, longest)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_end_each_connection_after_a_few_requests() {
    for (requests, at_once) in [(1, 1), (3, 8), (20, 64), (100, 100)] {
        for request in [get, post] {
            let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PATIENT);
            let connections = Arc::<AtomicUsize>::default();
            tokio::spawn(goes_away_after(requests, rig.endpoint_ios.clone(), Arc::clone(&connections)));
            let mut client = rig.client().await;
            let (good, longest) = load(&mut client, 200, at_once, request).await;
            assert_eq!(good, 200, "{requests} on a connection, {at_once} at once");
            assert!(longest < 5 * MS, "{longest:?} with {requests} on a connection, {at_once} at once");
            let least = 200_usize.div_ceil(requests as usize);
            assert!((least..=least + 1).contains(&connections.load(Relaxed)), "{connections:?}, {requests}");
        }
    }
}

/// An endpoint of HTTP/1.1 that answers each request after a time, and closes.
async fn closes_each(after: Duration, opened: Opened, answer: &'static str) {
    let mut opened = opened;
    let mut serving = JoinSet::new();
    while let Some(io) = opened.recv().await {
        serving.spawn(async move {
            let mut raw = Raw::new(io);
            raw.until("\r\n\r\n").await;
            sleep(after).await;
            raw.send(answer).await;
        });
    }
}

fn http1_with(max_connections: usize) -> Rig {
    let max_connections = NonZeroUsize::new(max_connections).unwrap();
    let params = balance::Params { max_connections, ..endpoint_params() };
    Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PATIENT, |connect| {
        Endpoints::fixed(["endpoint"], &connect.protocol(Protocol::Http1), params)
    })
}

const CLOSES: &str = "HTTP/1.0 200 OK|content-length: 2||ok";

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_close_after_each_response() {
    for at_once in [1, 16, 100] {
        for request in [get, post] {
            let mut rig = http1_with(16);
            tokio::spawn(closes_each(Duration::ZERO, rig.endpoint_ios.clone(), CLOSES));
            let mut client = rig.client().await;
            let started = Instant::now();
            assert_eq!(load(&mut client, 200, at_once, request).await.0, 200, "{at_once} at once");
            assert!(started.elapsed() < 50 * MS, "{:?}, {at_once} at once", started.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn connections_of_http_1_1_are_made_for_requests_and_kept_after_responses() {
    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let mut client = rig.client().await;
    sleep(60 * SECOND).await;
    assert!(rig.endpoints.is_ready(), "it is not known that it cannot be reached");
    assert!(rig.endpoint_ios.try_recv().is_err(), "there is no request");
    for kept in [false, true, true] {
        let (response, _) = client.send_request(get(), true).unwrap();
        if !kept {
            let mut endpoint = Raw::new(rig.endpoint_ios.recv().await.unwrap());
            tokio::spawn(async move {
                for _ in 0..3 {
                    endpoint.until("\r\n\r\n").await;
                    endpoint.send("HTTP/1.1 200 OK|content-length: 2||ok").await;
                }
                sleep(600 * SECOND).await;
            });
        }
        collect(&mut response.await.unwrap().into_body()).await.unwrap();
        sleep(SECOND).await;
        assert!(rig.endpoint_ios.try_recv().is_err(), "one is enough");
    }
}

/// A proxy whose attempts to connect fail until it is told otherwise, and that counts them.
struct Down {
    rig: Rig,
    attempts: Arc<AtomicUsize>,
    up: Arc<AtomicBool>,
}

impl Down {
    fn new(protocol: Protocol) -> Self {
        let (attempts, up) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (tried, is_up) = (Arc::clone(&attempts), Arc::clone(&up));
        let (sender, opened) = tokio::sync::mpsc::unbounded_channel();
        let mut rig = Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, move |_| {
            let connector = tower::service_fn(move |_: &'static str| {
                tried.fetch_add(1, Relaxed);
                let (near, far) = tokio::io::duplex(1 << 16);
                let opened = is_up.load(Relaxed).then(|| sender.send(far).unwrap());
                std::future::ready(opened.map(|()| near).ok_or(io::Error::from(io::ErrorKind::ConnectionRefused)))
            });
            let connect = proxy_http::Connect::new(connector, &ClientParams::DEFAULT).unwrap().protocol(protocol);
            let backoff = balance::Backoff { min: 100 * MS, max: 60 * SECOND, jitter: 0.0 };
            Endpoints::fixed(["endpoint"], &connect, balance::Params { backoff, ..endpoint_params() })
        });
        rig.endpoint_ios = Opened::new(opened);
        Self { rig, attempts, up }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_has_an_endpoint_that_was_down_for_long_tried_again() {
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let Down { mut rig, attempts, up } = Down::new(protocol);
        let mut client = rig.client().await;
        let status = async |client: &mut SendRequest<Bytes>| {
            let (response, _) = client.send_request(get(), true).unwrap();
            timeout(10 * SECOND, response).await.expect("it is answered").unwrap().status()
        };
        // From here on the pauses are long.
        assert_eq!(status(&mut client).await, 502);
        sleep(55 * SECOND).await;
        let before = attempts.load(Relaxed);
        let started = Instant::now();
        for _ in 0..100 {
            assert_eq!(status(&mut client).await, 502);
            sleep(30 * MS).await;
        }
        let tried = attempts.load(Relaxed) - before;
        assert!((2..=5).contains(&tried), "{tried} attempts in three seconds of requests");
        assert!(started.elapsed() < 4 * SECOND, "requests do not wait for long: {:?}", started.elapsed());
        sleep(2 * SECOND).await;
        up.store(true, Relaxed);
        let mut opened = rig.endpoint_ios.clone();
        tokio::spawn(async move {
            let io = opened.recv().await.unwrap();
            if protocol == Protocol::Http1 {
                let mut raw = Raw::new(io);
                raw.until("\r\n\r\n").await;
                raw.send(CLOSES).await;
            } else {
                let mut peer = Peer::accepted(io).await;
                peer.until(HEADERS).await;
                peer.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]).await;
                sleep(600 * SECOND).await;
            }
        });
        let started = Instant::now();
        assert_eq!(status(&mut client).await, 200);
        assert!(started.elapsed() < 10 * MS, "{:?}", started.elapsed());
    }
}

const MAX_CONCURRENT_STREAMS: u8 = 3;

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_no_streams_yet_is_waited_for() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut peer = Peer(rig.endpoint_ios.recv().await.unwrap());
    peer.greeted().await;
    peer.send(SETTINGS, 0, 0, &[0, MAX_CONCURRENT_STREAMS, 0, 0, 0, 0]).await;
    // More than the fail-fast time.
    sleep(5 * SECOND + SECOND / 2).await;
    let raised = Instant::now();
    peer.send(SETTINGS, 0, 0, &[0, MAX_CONCURRENT_STREAMS, 0, 0, 0, 9]).await;
    assert!(peer.until(HEADERS).await.is_some());
    assert!(raised.elapsed() < 10 * MS, "{:?}", raised.elapsed());
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]).await;
    assert_eq!(response.await.unwrap().status(), 200);
    assert!(rig.endpoint_ios.try_recv().is_err(), "another connection would not help");
}

#[tokio::test(start_paused = true)]
async fn settings_may_come_later_than_a_connection() {
    let mut rig = Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, |connect| {
        let connect = connect.timeout(300 * MS).handshake_timeout(10 * SECOND);
        Endpoints::fixed(["endpoint"], &connect, endpoint_params())
    });
    let mut client = rig.client().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut peer = Peer(rig.endpoint_ios.recv().await.unwrap());
    sleep(5 * SECOND).await;
    peer.greeted().await;
    assert!(timeout(SECOND, peer.until(HEADERS)).await.is_err(), "it may take no streams before it says how many");
    peer.send(SETTINGS, 0, 0, &[]).await;
    assert!(peer.until(HEADERS).await.is_some());
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]).await;
    assert_eq!(response.await.unwrap().status(), 200);
    drop(peer);

    // Where they do not come at all, only the first requests wait for them.
    let _silent = rig.endpoint_ios.recv().await.unwrap();
    let started = Instant::now();
    for waits in [true, false] {
        let (response, _) = client.send_request(get(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 504);
        assert!((9..=11).contains(&started.elapsed().as_secs()), "{:?}, {waits}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn keep_alive_pings_become_fewer_when_an_endpoint_complains_of_them() {
    let keep_alive = ClientKeepAlive { interval: 10 * SECOND, timeout: 20 * SECOND, while_idle: true };
    let params = ClientParams { keep_alive: Some(keep_alive), ..ClientParams::DEFAULT };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &params, PROXY);
    let calm = u8::try_from(u32::from(Reason::ENHANCE_YOUR_CALM)).unwrap();
    for interval in [10, 20, 40, 40] {
        let mut peer = Peer::accepted(rig.endpoint_ios.recv().await.unwrap()).await;
        let opened = Instant::now();
        assert!(peer.until(crate::frames::PING).await.is_some());
        assert_eq!(opened.elapsed().as_secs(), interval);
        // Another complaint makes no difference.
        let text: &[u8] = if interval == 20 || opened.elapsed().as_secs() == 10 { b"too_many_pings" } else { b"calm" };
        peer.send(GOAWAY, 0, 0, &[&[0, 0, 0, 0, 0, 0, 0, calm], text].concat()).await;
    }
    sleep(SECOND).await;
    let go_aways: Vec<_> = rig.stats.transport(Side::Endpoint).go_aways().filter(|(_, count)| *count > 0).collect();
    assert_eq!(go_aways, [(proxy_http::stats::ResetCode::Known(calm), 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_refuses_stream_after_stream_is_replaced() {
    for code in [Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR, Reason::CANCEL] {
        let mut rig = Rig::defaults();
        let mut client = rig.client().await;
        let mut peer = Peer::accepted(rig.endpoint_ios.recv().await.unwrap()).await;
        let mut ask = async |peer: &mut Peer, id: u32, code: Option<Reason>| {
            let (response, _) = client.send_request(get(), true).unwrap();
            assert!(timeout(SECOND, peer.until(HEADERS)).await.expect("it is asked here").is_some());
            match code {
                Some(code) => peer.send(RST_STREAM, 0, id, &u32::from(code).to_be_bytes()).await,
                None => peer.send(HEADERS, END_HEADERS | END_STREAM, id, &[0x88]).await,
            }
            response.await.map(|rsp| rsp.status()).ok()
        };
        // One in between that is answered has the count start over.
        for id in [1, 3, 5] {
            assert_eq!(ask(&mut peer, id, Some(code)).await, None);
        }
        assert_eq!(ask(&mut peer, 7, None).await, Some(StatusCode::OK));
        for id in [9, 11, 13, 15] {
            assert_eq!(ask(&mut peer, id, Some(code)).await, None);
        }
        if code == Reason::CANCEL {
            assert_eq!(ask(&mut peer, 17, None).await, Some(StatusCode::OK));
        } else {
            let io = timeout(SECOND, rig.endpoint_ios.recv()).await.expect("there is another connection").unwrap();
            let mut peer = Peer::accepted(io).await;
            assert_eq!(ask(&mut peer, 1, None).await, Some(StatusCode::OK));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn open_requests_are_sent_again_once_when_their_connection_ends_for_an_error() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let mut peer = Peer::accepted(rig.endpoint_ios.recv().await.unwrap()).await;
    let open = [get, get, post].map(|request| client.send_request(request(), true).unwrap().0);
    for _ in 0..3 {
        peer.until(HEADERS).await.unwrap();
    }
    let error = [0, 0, 0, 5, 0, 0, 0, u8::try_from(u32::from(Reason::PROTOCOL_ERROR)).unwrap()];
    peer.send(GOAWAY, 0, 0, &error).await;
    drop(peer);
    let [first, second, unsafe_one] = open;
    assert_eq!(unsafe_one.await.unwrap().status(), 502, "it may have been processed");
    let mut peer = Peer::accepted(rig.endpoint_ios.recv().await.unwrap()).await;
    for _ in 0..2 {
        peer.until(HEADERS).await.unwrap();
    }
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]).await;
    // The one that is left may be the one that the connection ended for.
    peer.send(GOAWAY, 0, 0, &error).await;
    drop(peer);
    let mut statuses = [first.await.unwrap().status().as_u16(), second.await.unwrap().status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    let retries: Vec<_> = rig.stats.retries().filter(|(_, count)| *count > 0).collect();
    assert_eq!(retries, [(retry::Reason::ConnectionLost, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_few_requests_is_served_beside_one_of_many() {
    let mut rig = http1_with(8);
    tokio::spawn(closes_each(20 * MS, rig.endpoint_ios.clone(), CLOSES));
    let mut heavy = rig.client().await;
    let mut light = client(rig.connect(1 << 16).0).await;
    let heavy = tokio::spawn(async move { load(&mut heavy, 600, 64, get).await });
    sleep(100 * MS).await;
    let (good, longest) = load(&mut light, 20, 1, get).await;
    // 64 are before it at the most, and go eight at a time.
    assert_eq!(good, 20);
    assert!(longest <= 10 * 20 * MS, "{longest:?}");
    let (good, longest) = heavy.await.unwrap();
    assert_eq!(good, 600);
    assert!(longest <= 10 * 20 * MS, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_free_again_takes_the_next_request_at_once() {
    let mut rig = http1_with(1);
    let mut opened = rig.endpoint_ios.clone();
    tokio::spawn(async move {
        let mut raw = Raw::new(opened.recv().await.unwrap());
        loop {
            raw.until("\r\n\r\n").await;
            raw.send("HTTP/1.1 200 OK|content-length: 2||").await;
            // The body comes in a read of its own.
            sleep(MS).await;
            raw.send("ok").await;
        }
    });
    let mut client = rig.client().await;
    let started = Instant::now();
    assert_eq!(load(&mut client, 100, 8, get).await.0, 100);
    assert!(started.elapsed() < 400 * MS, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn many_tunnels_open_at_once_and_hold_nobody_up() {
    const TUNNELS: usize = 500;
    let mut rig = http1_with(1_024);
    let mut opened = rig.endpoint_ios.clone();
    tokio::spawn(async move {
        let mut serving = JoinSet::new();
        while let Some(io) = opened.recv().await {
            serving.spawn(async move {
                let mut raw = Raw::new(io);
                let head = raw.until("\r\n\r\n").await;
                if head.starts_with("CONNECT") {
                    raw.send("HTTP/1.1 200 OK||").await;
                    sleep(600 * SECOND).await;
                } else {
                    raw.send(CLOSES).await;
                }
            });
        }
    });
    let started = Instant::now();
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        let mut raw = Raw::new(rig.connect(1 << 12).0);
        raw.send("CONNECT test.example:443 HTTP/1.1|host: test.example:443||").await;
        tunnels.push(raw);
    }
    let mut client = rig.client().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    for raw in &mut tunnels {
        assert!(raw.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(started.elapsed() < 100 * MS, "{:?}", started.elapsed());
    // One of them that ends is no failure of the endpoint's.
    drop(tunnels);
    for _ in 0..100 {
        yield_now().await;
    }
    let (response, _) = client.send_request(get(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}
