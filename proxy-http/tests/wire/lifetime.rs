//! How old connections of clients get, and how long they go without a stream.

use crate::{
    frames::{DATA, GET, GOAWAY, HEADERS, PING, Peer},
    support::{PROXY, Rig, collect, get, post, reset},
};
use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{Request, Response};
use http_h2::{ClientParams, MaxConnectionAge, ServerParams};
use proxy_http::{
    IncomingBody, Server,
    stats::{Limit, Peer as Side, ResetCode},
};
use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    ops::RangeInclusive,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt as _,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

const SECOND: Duration = Duration::from_secs(1);
const AGE: Duration = Duration::from_secs(100);
const GRACE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When a connection may be drained for its age, and when it may be closed, in milliseconds.
const DRAINED: RangeInclusive<u128> = 90_000..=110_001;
const CLOSED: RangeInclusive<u128> = 120_000..=140_002;

const AGED: ServerParams =
    ServerParams { max_connection_age: Some(MaxConnectionAge { age: AGE, grace: GRACE }), ..ServerParams::DEFAULT };
const IDLING: ServerParams = ServerParams { max_connection_idle: Some(IDLE), ..ServerParams::DEFAULT };

/// A rig, its client, and the time that the client's connection lasts, up to a month.
async fn connected(params: &ServerParams) -> (Rig, SendRequest<Bytes>, JoinHandle<Duration>) {
    let mut rig = Rig::new(params, &ClientParams::DEFAULT, PROXY);
    let started = Instant::now();
    let (client, connection) = h2::client::handshake(rig.client_io.take().unwrap()).await.unwrap();
    let closed = tokio::spawn(async move {
        let _ = timeout(30 * DAY, connection).await;
        started.elapsed()
    });
    (rig, client, closed)
}

/// How many connections reached a limit: age, the grace after it, idle.
fn limits(rig: &Rig) -> [u64; 3] {
    let counted: Vec<_> = rig.stats.transport(Side::Client).limits().collect();
    let [(Limit::Age, age), (Limit::AgeGrace, grace), (Limit::Idle, idle)] = counted[..3] else {
        panic!("{counted:?}")
    };
    [age, grace, idle]
}

#[track_caller]
fn within(range: RangeInclusive<u128>, time: Duration) {
    assert!(range.contains(&time.as_millis()), "{time:?} is not in {range:?} ms");
}

/// The last stream and the code of the next GOAWAY.
async fn go_away(peer: &mut Peer) -> (u32, Reason) {
    let payload = peer.until(GOAWAY).await.expect("there is a GOAWAY");
    let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    (word(0), word(4).into())
}

#[tokio::test(start_paused = true)]
async fn age_is_told_by_goaway_and_streams_on_their_way_are_served() {
    let started = Instant::now();
    let (mut peer, _, mut rig) = Peer::client(&AGED).await;
    let mut endpoint = rig.endpoint().await;
    assert_eq!(go_away(&mut peer).await, ((1 << 31) - 1, Reason::NO_ERROR));
    within(DRAINED, started.elapsed());
    let ping = peer.until(PING).await.unwrap();
    // HEADERS with END_STREAM: GET http / of the static table, sent before the client had read the GOAWAY.
    peer.send(HEADERS, 5, 1, GET).await;
    peer.send(PING, 1, 0, &ping).await;
    assert_eq!(go_away(&mut peer).await, (1, Reason::NO_ERROR), "the last stream that is served");
    endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
    assert_eq!(peer.until(DATA).await.unwrap(), b"answer");
    assert!(peer.until(DATA).await.is_none(), "closed with the last stream");
    within(DRAINED, started.elapsed());
    assert_eq!(limits(&rig), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn age_lets_open_streams_finish_and_takes_no_new_ones() {
    let (mut rig, mut client, closed) = connected(&AGED).await;
    let mut endpoint = rig.endpoint().await;
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    upload.send_data("first ".into(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let mut download = asked.answer();
    download.send_data("first ".into(), false).unwrap();

    // Into the grace, with any jitter.
    sleep(AGE + AGE / 10 + SECOND).await;
    assert_eq!(limits(&rig), [1, 0, 0]);
    assert!(client.clone().ready().await.is_err(), "no new stream");
    upload.send_data("second".into(), true).unwrap();
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"first second");
    assert!(!closed.is_finished());
    download.send_data("second".into(), true).unwrap();
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"first second");
    // Not at the end of the grace.
    within(111_000..=111_010, closed.await.unwrap());
    assert_eq!(limits(&rig), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn grace_closes_the_connection_with_what_is_stuck_on_it() {
    let (mut rig, mut client, closed) = connected(&AGED).await;
    let mut endpoint = rig.endpoint().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut download = endpoint.asked().await.answer();
    download.send_data("half".into(), false).unwrap();
    let (waiting, _upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;

    within(CLOSED, closed.await.unwrap());
    assert!(collect(response.await.unwrap().body_mut()).await.is_err(), "half a response is not a whole one");
    assert!(waiting.await.is_err());
    assert_eq!(poll_fn(|cx| download.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(reset(collect(asked.request.body_mut()).await), Reason::CANCEL);
    assert_eq!(limits(&rig), [1, 1, 0]);
    let lost = rig.stats.transport(Side::Client).resets().find(|(code, _)| *code == ResetCode::Other);
    assert_eq!(lost, Some((ResetCode::Other, 0)), "the client has lost nothing");
    assert_eq!(rig.stats.transport(Side::Client).open_connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn grace_of_zero_closes_at_once() {
    let max_connection_age = Some(MaxConnectionAge { age: AGE, grace: Duration::ZERO });
    let (mut peer, _, rig) = Peer::client(&ServerParams { max_connection_age, ..ServerParams::DEFAULT }).await;
    peer.send(HEADERS, 5, 1, GET).await;
    assert_eq!(go_away(&mut peer).await, ((1 << 31) - 1, Reason::NO_ERROR));
    let told = Instant::now();
    while timeout(DAY, peer.frame()).await.expect("it closes").is_some() {}
    within(0..=1, told.elapsed());
    assert_eq!(limits(&rig), [1, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn ages_are_spread_over_a_fifth() {
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(connected(&AGED).await);
    }
    let mut ages = Vec::new();
    for (_rig, _client, closed) in connections {
        let age = closed.await.unwrap();
        within(DRAINED, age);
        ages.push(age);
    }
    // That a hundred leave out a fifth of the range by chance happens once in 10^9.
    assert!(*ages.iter().min().unwrap() < AGE - AGE / 20, "{ages:?}");
    assert!(*ages.iter().max().unwrap() > AGE + AGE / 20, "{ages:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_started_otherwise_ends_with_the_grace_too() {
    let (client_io, server_io) = tokio::io::duplex(1 << 16);
    let server = Server::new(&AGED).unwrap();
    let stuck = tower::service_fn(|_: Request<IncomingBody>| pending::<Result<Response<String>, Infallible>>());
    let drain = sleep(SECOND);
    let started = Instant::now();
    let served = tokio::spawn(async move {
        let stuck = tower::ServiceExt::map_response(stuck, |rsp| rsp.map(http_body_util::Full::<Bytes>::from));
        server.serve(server_io, stuck, drain).await
    });
    let (mut client, connection) = h2::client::handshake(client_io).await.unwrap();
    tokio::spawn(connection);
    let (response, _) = client.send_request(get(), true).unwrap();
    assert!(timeout(DAY, response).await.expect("it is cut off").is_err());
    within(CLOSED, started.elapsed());
    served.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_drained() {
    let started = Instant::now();
    let (mut peer, _, rig) = Peer::client(&IDLING).await;
    // PINGs do not count.
    sleep(IDLE / 2).await;
    peer.send(PING, 0, 0, &[1; 8]).await;
    assert_eq!(go_away(&mut peer).await, ((1 << 31) - 1, Reason::NO_ERROR));
    within(60_000..=60_001, started.elapsed());
    let ping = peer.until(PING).await.unwrap();
    peer.send(PING, 1, 0, &ping).await;
    assert_eq!(go_away(&mut peer).await, (0, Reason::NO_ERROR));
    assert!(peer.frame().await.is_none());
    within(60_000..=60_001, started.elapsed());
    assert_eq!(limits(&rig), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn idle_time_starts_when_the_last_stream_ends() {
    let (mut rig, mut client, closed) = connected(&IDLING).await;
    let started = Instant::now();
    let mut endpoint = rig.endpoint().await;
    for at in [59, 118, 177] {
        sleep_until(started + at * SECOND).await;
        let (response, _) = client.send_request(get(), true).unwrap();
        endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"answer");
    }
    within(237_000..=237_010, closed.await.unwrap());
    assert_eq!(limits(&rig), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_stream_is_not_idle() {
    let (mut rig, mut client, closed) = connected(&IDLING).await;
    let started = Instant::now();
    let mut endpoint = rig.endpoint().await;
    // Silent in both directions, and then after its head.
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    sleep(DAY).await;
    let mut download = asked.answer();
    let mut response = response.await.unwrap();
    sleep(DAY).await;
    // Only the response.
    upload.send_data("question".into(), true).unwrap();
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"question");
    sleep(DAY).await;
    assert!(!closed.is_finished());
    download.send_data("answer".into(), true).unwrap();
    assert_eq!(collect(response.body_mut()).await.unwrap().0, b"answer");
    let ended = started.elapsed().as_millis();
    within(ended + 60_000..=ended + 60_010, closed.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_waits_for_its_reader_is_not_idle() {
    let patient = ServerParams { write_stall_timeout: Some(2 * DAY), ..IDLING };
    let (mut rig, mut client, closed) = connected(&patient).await;
    let mut endpoint = rig.endpoint().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    // A byte more than the window: the proxy has it all, and the stream is open for the rest.
    endpoint.asked().await.answer().send_data(vec![0; 65_536].into(), true).unwrap();
    let mut response = response.await.unwrap();
    sleep(DAY).await;
    assert!(!closed.is_finished());
    assert_eq!(collect(response.body_mut()).await.unwrap().0.len(), 65_536);
    within(86_460_000..=86_460_010, closed.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_waits_for_its_reader_has_all_of_the_grace() {
    let (mut rig, mut client, closed) = connected(&AGED).await;
    let mut endpoint = rig.endpoint().await;
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data(vec![0; 65_536].into(), true).unwrap();
    let mut response = response.await.unwrap();
    // Later than the five seconds for which a drained connection without a stream may be silent.
    sleep(AGE + AGE / 10 + 8 * SECOND).await;
    assert_eq!(limits(&rig), [1, 0, 0]);
    assert_eq!(collect(response.body_mut()).await.unwrap().0.len(), 65_536);
    within(118_000..=118_010, closed.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_asks_is_idle() {
    let started = Instant::now();
    let (mut peer, _, rig) = Peer::client(&IDLING).await;
    let mut seen = Vec::new();
    peer.0.read_to_end(&mut seen).await.unwrap();
    // With five seconds in which it could have answered.
    within(65_000..=65_010, started.elapsed());
    assert_eq!(limits(&rig), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_both_limits_counts() {
    let both = |idle| ServerParams { max_connection_idle: Some(idle), ..AGED };
    let (rig, _client, closed) = connected(&both(IDLE)).await;
    within(60_000..=60_001, closed.await.unwrap());
    assert_eq!(limits(&rig), [0, 0, 1]);

    let (rig, _client, closed) = connected(&both(2 * AGE)).await;
    within(DRAINED, closed.await.unwrap());
    assert_eq!(limits(&rig), [1, 0, 0]);

    // Busy at first, so that the timer has to be set anew.
    let (mut rig, mut client, closed) = connected(&both(IDLE)).await;
    sleep(IDLE / 2).await;
    let (response, _) = client.send_request(get(), true).unwrap();
    rig.endpoint().await.asked().await.answer().send_data("answer".into(), true).unwrap();
    collect(response.await.unwrap().body_mut()).await.unwrap();
    within(90_000..=90_010, closed.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn nothing_ends_when_nothing_is_set() {
    let (mut peer, _, rig) = Peer::client(&ServerParams::DEFAULT).await;
    // The acknowledgement of its SETTINGS, then nothing.
    while let Ok(frame) = timeout(1_000 * DAY, peer.frame()).await {
        assert_ne!(frame.expect("it is open").kind, GOAWAY);
    }
    assert_eq!(limits(&rig), [0, 0, 0]);
}
