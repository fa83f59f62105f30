//! Several endpoints on loopback, each with its own behaviour.

mod deadlines;
mod ejection;
mod health_checks;
mod probes;
mod retries;

use crate::{
    frames::{GOAWAY, HEADERS, Peer},
    support::{PROXY, get},
};
use bytes::Bytes;
use h2::{Reason, client, server::SendResponse};
use http::{Response, StatusCode};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Connect, Endpoint, Endpoints, Proxy, Server, Stats,
    balance::{self, endpoint::State},
    proxy::{self, Limits, retry},
};
use std::{
    collections::BTreeMap,
    future::{Future, pending, poll_fn, ready},
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinSet, yield_now},
    time::Instant,
};
use tower::Service;

/// How long anything here may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

const PARAMS: proxy::Params = proxy::Params { queue_capacity: 1_000, ..PROXY };

/// A proxy with one client's connection.
struct Rig {
    client: client::SendRequest<Bytes>,
    endpoints: Endpoints,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
}

/// A request as an endpoint sees it.
struct Asked {
    /// Its place among all requests to this endpoint.
    number: usize,
    respond: SendResponse<Bytes>,
}

/// The requests that an endpoint has seen.
#[derive(Clone, Default)]
struct Seen {
    requests: Arc<AtomicUsize>,
    /// Streams open now on each connection, and the most there ever were on one.
    open: Arc<Mutex<(Vec<usize>, usize)>>,
}

impl Rig {
    async fn new(addrs: &[SocketAddr], endpoint_params: balance::Params, params: proxy::Params) -> Self {
        let rig =
            Self::follow(watch::channel(addrs.iter().copied().map(Endpoint::new).collect()).1, endpoint_params, params);
        let rig = rig.await;
        rig.until(|rig| rig.endpoints.status().iter().all(|endpoint| endpoint.state == State::Ready)).await;
        rig
    }

    async fn follow(
        list: watch::Receiver<Vec<Endpoint<SocketAddr>>>,
        endpoint_params: balance::Params,
        params: proxy::Params,
    ) -> Self {
        let connect =
            Connect::new(tower::service_fn(TcpStream::connect::<SocketAddr>), &ClientParams::DEFAULT).unwrap();
        Self::of(Endpoints::spawn(list, &connect, endpoint_params), params).await
    }

    async fn of(endpoints: Endpoints, params: proxy::Params) -> Self {
        let (limits, stats) = (Arc::new(Limits::new(params)), Arc::<Stats>::default());
        let proxy = Proxy::new(endpoints.clone(), Arc::clone(&limits), Arc::clone(&stats));
        let server =
            Server::new(&ServerParams { max_concurrent_streams: Some(1_000), ..ServerParams::DEFAULT }).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { server.serve(far, proxy, pending()).await });
        let (client, connection) = client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        Self { client, endpoints, limits, stats }
    }

    /// Sends a request without a body.
    fn send(&mut self) -> impl Future<Output = Result<StatusCode, h2::Error>> + use<> {
        let (response, _) = self.client.send_request(get(), true).unwrap();
        async move { response.await.map(|rsp| rsp.status()) }
    }

    /// Sends so many requests, `at_once` at a time, all of which must be answered.
    async fn load(&mut self, requests: usize, at_once: usize) {
        let mut open = JoinSet::new();
        for _ in 0..requests {
            if open.len() == at_once {
                let answered: Result<StatusCode, h2::Error> = open.join_next().await.unwrap().unwrap();
                assert_eq!(answered.unwrap(), 200);
            }
            poll_fn(|cx| self.client.poll_ready(cx)).await.unwrap();
            open.spawn(self.send());
        }
        for answered in open.join_all().await {
            assert_eq!(answered.unwrap(), 200);
        }
    }

    async fn until(&self, will_do: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !will_do(self) {
                yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it comes to be");
    }

    fn retries(&self, reason: retry::Reason) -> u64 {
        self.stats.retries().find(|(found, _)| *found == reason).unwrap().1
    }
}

impl Seen {
    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Connections with streams on them, and the most streams that there ever were on one.
    fn open(&self) -> (usize, usize) {
        let (connections, most) = &*self.open.lock().unwrap();
        (connections.iter().filter(|streams| **streams > 0).count(), *most)
    }
}

/// Starts an endpoint that handles each request with `answer`, and allows so many streams on a connection.
async fn endpoint<F>(
    max_streams: Option<u32>,
    answer: impl Fn(Asked) -> F + Clone + Send + 'static,
) -> (SocketAddr, Seen)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, seen) = (listener.local_addr().unwrap(), Seen::default());
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, seen) = (answer.clone(), shared.clone());
            let connection = {
                let (connections, _) = &mut *seen.open.lock().unwrap();
                connections.push(0);
                connections.len() - 1
            };
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                if let Some(max) = max_streams {
                    builder.max_concurrent_streams(max);
                }
                let mut io = builder.handshake(stream).await.unwrap();
                while let Some(Ok((_, respond))) = io.accept().await {
                    {
                        let (connections, most) = &mut *seen.open.lock().unwrap();
                        connections[connection] += 1;
                        *most = (*most).max(connections[connection]);
                    }
                    let answered = answer(Asked { number: seen.requests.fetch_add(1, Relaxed), respond });
                    let seen = seen.clone();
                    tokio::spawn(async move {
                        answered.await;
                        seen.open.lock().unwrap().0[connection] -= 1;
                    });
                }
            });
        }
    });
    (addr, seen)
}

async fn answer(mut asked: Asked) {
    let _ = asked.respond.send_response(Response::new(()), true);
}

fn params() -> balance::Params {
    balance::Params { slow_start: Duration::ZERO, ..crate::support::endpoint_params() }
}

fn sockets(endpoints: &[(SocketAddr, Seen)]) -> Vec<SocketAddr> {
    endpoints.iter().map(|(addr, _)| *addr).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_connection_are_spread_evenly() {
    const REQUESTS: usize = 10_000;
    let each = requests_by_time(["a2", "b2", "c2"], REQUESTS).await;
    assert_eq!(each.values().sum::<usize>(), REQUESTS);
    assert!(each.values().all(|n| (REQUESTS * 95 / 300..=REQUESTS * 105 / 300).contains(n)), "{each:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_gets_little() {
    const REQUESTS: usize = 10_000;
    let slow = requests_by_time(["a2", "b2", "c20"], REQUESTS).await["c20"];
    assert!(slow < REQUESTS / 10, "{slow}");
}

/// The requests that each of three endpoints gets of so many, 64 at a time. They are in memory and named by the milliseconds that
/// they take, so that only the paused clock tells how long that is.
async fn requests_by_time(names: [&'static str; 3], requests: usize) -> BTreeMap<&'static str, usize> {
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let counted = Arc::clone(&seen);
    let connector = tower::service_fn(move |name: &'static str| {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (takes, seen) = (Duration::from_millis(name[1..].parse().unwrap()), Arc::clone(&counted));
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((_, respond))) = connection.accept().await {
                *seen.lock().unwrap().entry(name).or_default() += 1;
                tokio::spawn(async move {
                    tokio::time::sleep(takes).await;
                    answer(Asked { number: 0, respond }).await;
                });
            }
        });
        ready(Ok::<_, io::Error>(near))
    });
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let mut rig = Rig::of(Endpoints::fixed(names, &connect, params()), PARAMS).await;
    rig.load(requests, 64).await;
    seen.lock().unwrap().clone()
}

#[tokio::test]
async fn connections_are_opened_up_to_the_limit_and_then_requests_wait() {
    const STREAMS: usize = 10;
    const CONNECTIONS: usize = 5;
    let (release, released) = watch::channel(false);
    let hold = move |asked| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            answer(asked).await;
        }
    };
    let (addr, seen) = endpoint(Some(STREAMS as u32), hold).await;
    let endpoint_params = balance::Params { max_connections: NonZeroUsize::new(CONNECTIONS).unwrap(), ..params() };
    let mut rig = Rig::new(&[addr], endpoint_params, proxy::Params { queue_capacity: 490, ..PARAMS }).await;
    let mut open: Vec<_> = (0..500).map(|_| tokio::spawn(rig.send())).collect();
    rig.until(|rig| seen.requests() == STREAMS * CONNECTIONS && rig.limits.waiting() == 450).await;
    assert_eq!(seen.open(), (CONNECTIONS, STREAMS));
    open.extend((0..40).map(|_| tokio::spawn(rig.send())));
    rig.until(|rig| rig.limits.waiting() == 490).await;
    // There is no more room to wait in.
    assert_eq!(rig.send().await.unwrap(), 503);
    release.send_replace(true);
    for answered in open {
        assert_eq!(answered.await.unwrap().unwrap(), 200);
    }
    rig.until(|_| seen.open() == (0, STREAMS)).await;
    assert_eq!(seen.open.lock().unwrap().0.len(), CONNECTIONS);
    assert_eq!((rig.limits.waiting(), rig.stats.shed(), seen.requests()), (0, 1, 540));
}

#[tokio::test]
async fn refused_requests_are_sent_again() {
    let refuse = |mut asked: Asked| async move {
        match asked.number % 10 {
            9 => asked.respond.send_reset(Reason::REFUSED_STREAM),
            _ => answer(asked).await,
        }
    };
    let (addr, seen) = endpoint(None, refuse).await;
    let mut rig = Rig::new(&[addr], params(), PARAMS).await;
    rig.load(1_000, 20).await;
    assert_eq!(rig.retries(retry::Reason::Refused) as usize, seen.requests() - 1_000);
    assert_eq!((seen.requests() / 10, rig.stats.over_budget()), (111, 0));
}

#[tokio::test]
async fn what_goaway_leaves_out_is_sent_again_and_the_rest_is_answered() {
    const REQUESTS: u32 = 100;
    const TAKEN: u32 = 40;
    let mut rig = crate::support::Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PARAMS);
    let mut client = rig.client().await;
    let (mut first, _) = Peer::accept(&mut rig).await;
    let open: Vec<_> = (0..REQUESTS).map(|_| tokio::spawn(client.send_request(get(), true).unwrap().0)).collect();
    for _ in 0..REQUESTS {
        first.until(HEADERS).await.unwrap();
    }
    let last = 2 * TAKEN - 1;
    first.send(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat()).await;
    // The rest comes on another connection, before the first one ends.
    let mut second = rig.endpoint().await;
    for _ in 0..REQUESTS - TAKEN {
        second.asked().await.answer().send_data(Bytes::new(), true).unwrap();
    }
    for stream in (1..=last).step_by(2) {
        // END_STREAM and END_HEADERS; `:status: 200` is the eighth of HPACK's static table.
        first.send(HEADERS, 5, stream, &[0x88]).await;
    }
    for answered in open {
        assert_eq!(answered.await.unwrap().unwrap().status(), 200);
    }
    let retries: Vec<_> = rig.stats.retries().filter(|(_, count)| *count > 0).collect();
    assert_eq!(retries, [(retry::Reason::GoAway, u64::from(REQUESTS - TAKEN))]);
}

#[tokio::test]
async fn retries_keep_to_their_budget_when_all_is_refused() {
    let refuse = |mut asked: Asked| async move { asked.respond.send_reset(Reason::REFUSED_STREAM) };
    let (addr, seen) = endpoint(None, refuse).await;
    let mut rig = Rig::new(&[addr], params(), PARAMS).await;
    const REQUESTS: usize = 1_000;
    let started = Instant::now();
    for _ in 0..REQUESTS {
        assert_eq!(rig.send().await.unwrap(), 503);
    }
    let retries = rig.retries(retry::Reason::Refused) as usize;
    // A fifth of the requests, and ten a second for ten seconds and as long as this took.
    let most = REQUESTS / 5 + 10 * (10 + started.elapsed().as_secs() as usize + 1);
    assert!((200..=most).contains(&retries), "{retries}, not more than {most}");
    assert_eq!(seen.requests(), REQUESTS + retries);
    assert!(rig.stats.over_budget() > 0);
}

#[tokio::test]
async fn a_removed_endpoint_finishes_what_it_has() {
    let (release, released) = watch::channel(false);
    let hold = move |asked| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            answer(asked).await;
        }
    };
    let endpoints = [endpoint(None, hold).await, endpoint(None, answer).await];
    let list = |addrs: &[SocketAddr]| addrs.iter().copied().map(Endpoint::new).collect::<Vec<_>>();
    let (tell, told) = watch::channel(list(&sockets(&endpoints[..1])));
    let mut rig = Rig::follow(told, params(), PARAMS).await;
    let held = tokio::spawn(rig.send());
    rig.until(|_| endpoints[0].1.requests() == 1).await;
    tell.send_replace(list(&sockets(&endpoints[1..])));
    rig.until(|rig| rig.endpoints.status().iter().all(|one| one.addr == endpoints[1].0.to_string())).await;
    for _ in 0..20 {
        assert_eq!(rig.send().await.unwrap(), 200);
    }
    assert!(!held.is_finished() && endpoints[0].1.requests() == 1);
    release.send_replace(true);
    assert_eq!(held.await.unwrap().unwrap(), 200);
}

/// A connector to endpoints in memory, which hand their requests over with their names.
fn asked_in_memory(
    asked: mpsc::UnboundedSender<(&'static str, SendResponse<Bytes>)>,
) -> impl Service<&'static str, Response = DuplexStream, Error = io::Error, Future: Send> + Clone + Send {
    tower::service_fn(move |name| {
        let (near, far) = tokio::io::duplex(1 << 20);
        let asked = asked.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((_, respond))) = connection.accept().await {
                let _ = asked.send((name, respond));
            }
        });
        ready(Ok(near))
    })
}

/// A connector to endpoints in memory, which are there while `up` is true. `accepted` gets their requests.
fn in_memory(
    up: watch::Receiver<bool>,
) -> (
    impl Service<&'static str, Response = DuplexStream, Error = io::Error, Future: Send> + Clone + Send,
    mpsc::UnboundedReceiver<DuplexStream>,
) {
    let (opened, accepted) = mpsc::unbounded_channel();
    let connector = tower::service_fn(move |_| {
        let (near, far) = tokio::io::duplex(1 << 20);
        let up = *up.borrow() && opened.send(far).is_ok();
        ready(if up { Ok(near) } else { Err(io::ErrorKind::ConnectionRefused.into()) })
    });
    (connector, accepted)
}

#[tokio::test(start_paused = true)]
async fn requests_wait_fail_fast_and_succeed_within_one_pause_of_the_first_endpoints_return() {
    const SECOND: Duration = Duration::from_secs(1);
    let (tell, up) = watch::channel(false);
    let (connector, mut accepted) = in_memory(up);
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let backoff = balance::Backoff { min: SECOND / 10, max: 2 * SECOND, jitter: 0.0 };
    let endpoint_params = balance::Params { backoff, ..params() };
    let endpoints = Endpoints::fixed(["a", "b", "c"], &connect, endpoint_params);
    let mut rig = Rig::of(endpoints, proxy::Params { failfast_timeout: 3 * SECOND, ..PARAMS }).await;
    tokio::spawn(async move {
        while let Some(io) = accepted.recv().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((_, respond))) = connection.accept().await {
                    answer(Asked { number: 0, respond }).await;
                }
            });
        }
    });
    // All wait for the fail-fast time, from when the last endpoint was lost, and fail together.
    let started = Instant::now();
    let waiting: Vec<_> = (0..50).map(|_| tokio::spawn(rig.send())).collect();
    for answered in waiting {
        assert_eq!(answered.await.unwrap().unwrap(), 502);
    }
    assert!((3 * SECOND..4 * SECOND).contains(&started.elapsed()), "{:?}", started.elapsed());
    // The next ones do not wait.
    let started = Instant::now();
    for _ in 0..10 {
        assert_eq!(rig.send().await.unwrap(), 502);
    }
    assert!(started.elapsed() < SECOND / 10, "{:?}", started.elapsed());
    // However long it was down.
    tokio::time::sleep(60 * SECOND).await;
    tell.send_replace(true);
    let started = Instant::now();
    while rig.send().await.unwrap() != 200 {
        tokio::time::sleep(SECOND / 100).await;
    }
    assert!(started.elapsed() <= backoff.max + SECOND / 10, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_but_for_the_last() {
    const IDLE: Duration = Duration::from_secs(60);
    let (_tell, up) = watch::channel(true);
    let (connector, mut accepted) = in_memory(up);
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let one = NonZeroUsize::new(1);
    let endpoint_params = balance::Params { max_streams: one, max_idle: Some(IDLE), ..params() };
    let mut rig = Rig::of(Endpoints::fixed(["a"], &connect, endpoint_params), PARAMS).await;
    let (opened, held) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(io) = accepted.recv().await {
            let opened = opened.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((_, respond))) = connection.accept().await {
                    let _ = opened.send(Asked { number: 0, respond });
                }
            });
        }
    });
    // Each needs a connection of its own.
    let mut held = held;
    let open: Vec<_> = (0..3).map(|_| tokio::spawn(rig.send())).collect();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(held.recv().await.unwrap());
    }
    let connections = |rig: &Rig| rig.endpoints.status()[0].connections;
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(connections(&rig), 3, "what is used is not idle");
    for asked in all {
        answer(asked).await;
    }
    for answered in open {
        assert_eq!(answered.await.unwrap().unwrap(), 200);
    }
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(connections(&rig), 1);
    tokio::time::sleep(10 * IDLE).await;
    assert_eq!(connections(&rig), 1);
}
