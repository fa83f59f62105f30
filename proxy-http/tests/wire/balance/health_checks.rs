//! Health checks: the verdict on each endpoint, and the requests that it gets for it.

use super::{PARAMS, Rig, params};
use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use http_h2::ClientParams;
use proxy_http::{
    Connect, Endpoint, Endpoints, Protocol, SendRequest,
    balance::{
        self, breaker,
        endpoint::{State, Status},
        health_check::{self, Failure, Verdict},
    },
    proxy,
};
use std::{
    collections::BTreeMap,
    future::ready,
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tower::Service;

/// How an endpoint responds to checks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reply {
    Status(u16),
    /// After the timeout.
    Late,
    Reset,
    /// The connection is closed with the check on it.
    Close,
    /// The check is answered with 200, and GOAWAY follows.
    PassAndGoAway,
    /// The connection cannot be made.
    Refuse,
}

/// An endpoint, as both its connections and its tests see it.
#[derive(Debug)]
struct Peer {
    reply: Reply,
    /// When each check came.
    checks: Vec<Instant>,
    requests: usize,
    /// Connections that are open, and that ever were.
    open: usize,
    opened: usize,
    /// Requests that are not answered before the test does it.
    held: Vec<SendResponse<Bytes>>,
    holds: bool,
}

/// Endpoints by name, in memory.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<BTreeMap<&'static str, Peer>>>);

const CHECKS: health_check::Params = health_check::Params {
    interval: Duration::from_secs(10),
    timeout: Duration::from_secs(1),
    unhealthy_threshold: NonZeroU32::new(3).unwrap(),
    healthy_threshold: NonZeroU32::new(2).unwrap(),
};
const PATH: &str = "/health";
/// Requests fail at once where no endpoint is ready.
const FAIL_FAST: proxy::Params = proxy::Params { failfast_timeout: Duration::ZERO, ..PARAMS };

impl Network {
    fn add(&self, name: &'static str, reply: Reply) {
        let peer = Peer { reply, checks: Vec::new(), requests: 0, open: 0, opened: 0, held: Vec::new(), holds: false };
        self.0.lock().unwrap().insert(name, peer);
    }

    fn with<T>(&self, name: &str, look: impl FnOnce(&mut Peer) -> T) -> T {
        look(self.0.lock().unwrap().get_mut(name).unwrap())
    }

    fn set(&self, name: &str, reply: Reply) {
        self.with(name, |peer| peer.reply = reply);
    }

    fn checks(&self, name: &str) -> usize {
        self.with(name, |peer| peer.checks.len())
    }

    /// Waits for so many checks more of an endpoint, and for their effects.
    async fn next_checks(&self, name: &str, more: usize) {
        let until = self.checks(name) + more;
        let wait = async {
            while self.checks(name) < until {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(3_600), wait).await.expect("checks go on");
        sleep(2 * CHECKS.timeout).await;
    }

    fn connector(
        &self,
    ) -> impl Service<&'static str, Response = DuplexStream, Error = io::Error, Future: Send> + Clone + Send + Sync + 'static
    {
        let network = self.clone();
        tower::service_fn(move |name: &'static str| {
            let (near, far) = tokio::io::duplex(1 << 16);
            let is_refused = network.with(name, |peer| peer.reply == Reply::Refuse);
            if !is_refused {
                tokio::spawn(network.clone().serve(name, far));
            }
            ready(if is_refused { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(near) })
        })
    }

    async fn serve(self, name: &'static str, io: DuplexStream) {
        self.with(name, |peer| (peer.open, peer.opened) = (peer.open + 1, peer.opened + 1));
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            if request.uri().path() != PATH {
                self.with(name, |peer| {
                    peer.requests += 1;
                    if peer.holds {
                        peer.held.push(respond);
                    } else {
                        respond.send_response(Response::new(()), true).unwrap();
                    }
                });
                continue;
            }
            let reply = self.with(name, |peer| {
                peer.checks.push(Instant::now());
                peer.reply
            });
            let status = |status| Response::builder().status(status).body(()).unwrap();
            match reply {
                Reply::Status(code) => _ = respond.send_response(status(code), true).unwrap(),
                Reply::Late => {
                    tokio::spawn(async move {
                        sleep(2 * CHECKS.timeout).await;
                        let _ = respond.send_response(Response::new(()), true);
                    });
                }
                Reply::Reset => respond.send_reset(Reason::INTERNAL_ERROR),
                Reply::PassAndGoAway => {
                    respond.send_response(status(200), true).unwrap();
                    connection.graceful_shutdown();
                }
                Reply::Close => break,
                Reply::Refuse => unreachable!("there is no connection"),
            }
        }
        self.with(name, |peer| peer.open -= 1);
    }
}

async fn check(mut connection: SendRequest<Empty<Bytes>>) -> Result<(), Failure> {
    let request = Request::get(format!("http://checked.example{PATH}")).body(Empty::new()).unwrap();
    let response = connection.call(request).await.map_err(Failure::NoResponse)?;
    let status = response.status();
    response.into_body().collect().await.map_err(|error| Failure::Response(error.to_string()))?;
    status.is_success().then_some(()).ok_or_else(|| Failure::Response(format!("status {status}")))
}

fn spawn(
    network: &Network,
    list: watch::Receiver<Vec<Endpoint<&'static str>>>,
    params: health_check::Params,
) -> watch::Receiver<Vec<Endpoint<&'static str>>> {
    let connect = Connect::new(network.connector(), &ClientParams::DEFAULT).unwrap();
    health_check::spawn(list, connect, params, |_, connection| check(connection))
}

fn list(names: &[&'static str]) -> Vec<Endpoint<&'static str>> {
    names.iter().copied().map(Endpoint::new).collect()
}

async fn rig(
    network: &Network,
    discovered: watch::Receiver<Vec<Endpoint<&'static str>>>,
    params: balance::Params,
) -> Rig {
    let checked = spawn(network, discovered, CHECKS);
    let connect = Connect::new(network.connector(), &ClientParams::DEFAULT).unwrap();
    Rig::of(Endpoints::spawn(checked, &connect, params), FAIL_FAST).await
}

/// A rig with endpoints that all reply in one way, once each has been checked.
async fn fixed(names: &[&'static str], reply: Reply) -> (Network, Rig) {
    let network = Network::default();
    names.iter().for_each(|name| network.add(name, reply));
    let rig = rig(&network, watch::channel(list(names)).1, params()).await;
    sleep(2 * CHECKS.timeout).await;
    (network, rig)
}

fn status(rig: &Rig, name: &str) -> Status {
    rig.endpoints.status().into_iter().find(|status| status.addr == name).unwrap()
}

fn verdict(rig: &Rig, name: &str) -> Verdict {
    status(rig, name).report.unwrap().verdict
}

fn error(rig: &Rig, name: &str) -> String {
    status(rig, name).report.unwrap().error.unwrap_or_default().to_string()
}

/// Sends so many requests, and returns how many each endpoint got.
async fn spread(network: &Network, rig: &mut Rig, names: &[&str], requests: usize) -> Vec<usize> {
    let counts = || names.iter().map(|name| network.with(name, |peer| peer.requests)).collect::<Vec<_>>();
    let before = counts();
    for _ in 0..requests {
        // Requests of one moment go to one endpoint.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(rig.send().await.unwrap(), 200);
    }
    counts().iter().zip(before).map(|(after, before)| after - before).collect()
}

#[tokio::test(start_paused = true)]
async fn thresholds_decide_and_open_streams_go_on() {
    let (network, mut rig) = fixed(&["a", "b"], Reply::Status(200)).await;
    assert!(spread(&network, &mut rig, &["a", "b"], 20).await.iter().all(|count| *count > 5));

    network.with("a", |peer| peer.holds = true);
    network.with("b", |peer| peer.holds = true);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(tokio::spawn(rig.send()));
        sleep(Duration::from_millis(10)).await;
    }
    network.with("b", |peer| peer.holds = false);
    let held = network.with("a", |peer| {
        peer.holds = false;
        std::mem::take(&mut peer.held)
    });
    assert!(!held.is_empty() && held.len() < 4);

    network.set("a", Reply::Status(503));
    network.next_checks("a", 2).await;
    assert_eq!(verdict(&rig, "a"), Verdict::Healthy, "two failures are too few");
    assert_eq!(error(&rig, "a"), "status 503 Service Unavailable");
    network.next_checks("a", 1).await;
    assert_eq!(verdict(&rig, "a"), Verdict::Unhealthy);
    assert_eq!(status(&rig, "a").state, State::Unhealthy);
    assert_eq!(spread(&network, &mut rig, &["a", "b"], 20).await, [0, 20]);

    // Its requests are answered all the same.
    held.into_iter().for_each(|mut respond| _ = respond.send_response(Response::new(()), true).unwrap());
    network.with("b", |peer| {
        peer.held.drain(..).for_each(|mut respond| _ = respond.send_response(Response::new(()), true).unwrap());
    });
    for answered in open {
        assert_eq!(answered.await.unwrap().unwrap(), 200);
    }

    network.set("a", Reply::Status(204));
    network.next_checks("a", 1).await;
    assert_eq!(verdict(&rig, "a"), Verdict::Unhealthy, "one success is too little");
    network.next_checks("a", 1).await;
    assert_eq!(verdict(&rig, "a"), Verdict::Healthy);
    assert!(spread(&network, &mut rig, &["a", "b"], 20).await.iter().all(|count| *count > 5));
    let report = status(&rig, "a").report.unwrap();
    assert_eq!((report.checks, report.failures, report.error), (network.checks("a") as u64, 3, None));
}

#[tokio::test(start_paused = true)]
async fn a_success_between_failures_starts_the_count_anew() {
    let (network, rig) = fixed(&["a"], Reply::Status(200)).await;
    for _ in 0..5 {
        network.set("a", Reply::Status(500));
        network.next_checks("a", 2).await;
        network.set("a", Reply::Status(200));
        network.next_checks("a", 1).await;
        assert_eq!(verdict(&rig, "a"), Verdict::Healthy);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_check_decides_alone() {
    let (network, mut rig) = fixed(&["a"], Reply::Status(503)).await;
    assert_eq!((network.checks("a"), verdict(&rig, "a")), (1, Verdict::Unhealthy));
    assert!(!rig.endpoints.is_ready());
    assert_eq!(rig.send().await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(network.with("a", |peer| peer.requests), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_first_check() {
    let network = Network::default();
    network.add("a", Reply::Late);
    let mut rig = rig(&network, watch::channel(list(&["a"])).1, params()).await;
    let waiting = tokio::spawn(rig.send());
    sleep(CHECKS.timeout / 2).await;
    assert!(!waiting.is_finished() && !rig.endpoints.is_ready());
    assert_eq!((verdict(&rig, "a"), network.with("a", |peer| peer.requests)), (Verdict::Unchecked, 0));
    assert_eq!(waiting.await.unwrap().unwrap(), 503, "the check has failed");

    // The check of another passes.
    network.add("b", Reply::Status(200));
    let mut rig = self::rig(&network, watch::channel(list(&["b"])).1, params()).await;
    assert_eq!(rig.send().await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn new_endpoints_get_requests_once_they_have_passed_a_check() {
    let network = Network::default();
    let (discovery, discovered) = watch::channel(list(&["a"]));
    network.add("a", Reply::Status(200));
    network.add("b", Reply::Late);
    let mut rig = rig(&network, discovered, params()).await;
    sleep(2 * CHECKS.timeout).await;
    let checks = network.checks("a");
    discovery.send_replace(list(&["b", "a"]));
    sleep(CHECKS.timeout / 2).await;
    assert_eq!(spread(&network, &mut rig, &["a", "b"], 20).await, [20, 0]);
    network.set("b", Reply::Status(200));
    network.next_checks("b", 2).await;
    assert!(spread(&network, &mut rig, &["a", "b"], 20).await.iter().all(|count| *count > 5));
    assert!(network.checks("a") > checks && verdict(&rig, "a") == Verdict::Healthy, "its checks have gone on");

    // One that is gone is not checked any more.
    discovery.send_replace(list(&["a"]));
    sleep(2 * CHECKS.timeout).await;
    let checks = network.checks("b");
    sleep(10 * CHECKS.interval).await;
    assert_eq!((network.checks("b"), network.with("b", |peer| peer.open)), (checks, 0));
}

#[tokio::test(start_paused = true)]
async fn no_response_in_time_or_at_all_is_a_failure() {
    for (reply, text) in [
        (Reply::Late, "no answer within 1s"),
        (Reply::Reset, "reset"),
        (Reply::Close, "connection"),
        (Reply::Refuse, "connection refused"),
    ] {
        let (network, mut rig) = fixed(&["a"], Reply::Status(200)).await;
        assert_eq!(rig.send().await.unwrap(), 200, "{reply:?}");
        network.set("a", reply);
        if reply == Reply::Refuse {
            // Only a new connection shows it.
            network.set("a", Reply::Close);
            network.next_checks("a", 1).await;
            network.set("a", reply);
        }
        sleep(5 * CHECKS.interval).await;
        assert_eq!(verdict(&rig, "a"), Verdict::Unhealthy, "{reply:?}");
        assert!(error(&rig, "a").contains(text), "{reply:?}: {}", error(&rig, "a"));
        assert_eq!(rig.send().await.unwrap(), 503, "{reply:?}");
        network.set("a", Reply::Status(200));
        sleep(4 * CHECKS.interval).await;
        assert_eq!(rig.send().await.unwrap(), 200, "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_between_checks_is_no_failure() {
    let (network, rig) = fixed(&["a"], Reply::PassAndGoAway).await;
    sleep(10 * CHECKS.interval).await;
    let report = status(&rig, "a").report.unwrap();
    assert!(report.checks >= 9 && report.failures == 0, "{report:?}");
    let (checks, opened) = (network.checks("a"), network.with("a", |peer| peer.opened));
    // And the one for requests.
    assert!(opened > checks, "{opened} connections for {checks} checks");
}

#[tokio::test(start_paused = true)]
async fn checks_share_one_connection_of_their_own() {
    let (network, _rig) = fixed(&["a"], Reply::Status(200)).await;
    sleep(10 * CHECKS.interval).await;
    assert!(network.checks("a") >= 9);
    assert_eq!(network.with("a", |peer| peer.opened), 2, "one for requests, one for checks");
}

#[tokio::test(start_paused = true)]
async fn balancers_of_one_list_share_its_checks_which_end_with_them() {
    let network = Network::default();
    network.add("a", Reply::Status(200));
    let (discovery, discovered) = watch::channel(list(&["a"]));
    // Nobody will change the list.
    drop(discovery);
    let checked = spawn(&network, discovered, CHECKS);
    let connect = Connect::new(network.connector(), &ClientParams::DEFAULT).unwrap();
    let mut balancers =
        vec![Endpoints::spawn(checked.clone(), &connect, params()), Endpoints::spawn(checked, &connect, params())];
    sleep(10 * CHECKS.interval).await;
    let checks = network.checks("a");
    assert!((9..=13).contains(&checks), "{checks}");
    assert!(balancers.iter().all(Endpoints::is_ready));
    network.set("a", Reply::Status(503));
    network.next_checks("a", 3).await;
    assert!(!balancers.iter().any(Endpoints::is_ready));
    balancers.clear();
    sleep(2 * CHECKS.timeout).await;
    let checks = network.checks("a");
    sleep(10 * CHECKS.interval).await;
    assert_eq!((network.checks("a"), network.with("a", |peer| peer.open)), (checks, 0));
}

#[tokio::test(start_paused = true)]
async fn checks_of_many_endpoints_are_spread() {
    let network = Network::default();
    let names: Vec<&'static str> = (0..1_000).map(|index| &*format!("endpoint-{index}").leak()).collect();
    names.iter().for_each(|name| network.add(name, Reply::Status(200)));
    let started = Instant::now();
    let _checked = spawn(&network, watch::channel(list(&names)).1, CHECKS);
    sleep(5 * CHECKS.interval).await;
    let most_in = |nth: usize, bucket: Duration| {
        let mut buckets = BTreeMap::<_, usize>::new();
        for name in &names {
            let at = network.with(name, |peer| peer.checks[nth]).duration_since(started);
            *buckets.entry(at.as_nanos() / bucket.as_nanos()).or_default() += 1;
        }
        *buckets.values().max().unwrap()
    };
    // A second for the first, from which on half an interval or more.
    assert!(most_in(0, Duration::from_millis(100)) < 200, "{}", most_in(0, Duration::from_millis(100)));
    assert!(most_in(1, Duration::from_secs(1)) < 300, "{}", most_in(1, Duration::from_secs(1)));
    assert!(most_in(3, Duration::from_secs(1)) < 300, "{}", most_in(3, Duration::from_secs(1)));
    for name in &names {
        let checks = network.with(name, |peer| peer.checks.clone());
        assert!((5..=7).contains(&checks.len()), "{}", checks.len());
        for pair in checks[1..].windows(2) {
            let pause = pair[1] - pair[0];
            assert!((Duration::from_secs(9)..=Duration::from_millis(11_010)).contains(&pause), "{pause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unhealthy_endpoints_count_as_ejected_ones() {
    let names = ["a", "b"];
    let network = Network::default();
    names.iter().for_each(|name| network.add(name, Reply::Status(200)));
    let breaker = breaker::Params { consecutive_failures: 1, ..breaker::Params::default() };
    let mut rig = rig(&network, watch::channel(list(&names)).1, balance::Params { breaker, ..params() }).await;
    sleep(2 * CHECKS.timeout).await;
    network.set("a", Reply::Status(503));
    network.next_checks("a", 3).await;
    for _ in 0..5 {
        network.with("b", |peer| peer.holds = true);
        let failing = rig.send();
        sleep(Duration::from_millis(10)).await;
        let mut respond = network.with("b", |peer| peer.held.pop().unwrap());
        respond.send_response(Response::builder().status(502).body(()).unwrap(), true).unwrap();
        assert_eq!(failing.await.unwrap(), 502);
    }
    assert_eq!(status(&rig, "b").state, State::Ready, "the last half is not ejected");
}

#[tokio::test(start_paused = true)]
async fn an_http1_check_has_a_connection_that_closes_after_it() {
    let connections = Arc::new(Mutex::new((0, 0)));
    let shared = Arc::clone(&connections);
    let connector = tower::service_fn(move |_: &'static str| {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.lock().unwrap().0 += 1;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(far.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"GET /health HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
            shared.lock().unwrap().1 += 1;
        });
        ready(Ok::<_, io::Error>(near))
    });
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap().protocol(Protocol::Http1);
    let checked =
        health_check::spawn(watch::channel(list(&["a"])).1, connect, CHECKS, |_, connection| check(connection));
    sleep(5 * CHECKS.interval).await;
    let report = checked.borrow()[0].reports.as_ref().unwrap().latest();
    assert!(report.checks >= 5 && report.failures == 0 && report.verdict == Verdict::Healthy, "{report:?}");
    let opened_and_closed = *connections.lock().unwrap();
    assert_eq!(opened_and_closed, (report.checks, report.checks));
}
