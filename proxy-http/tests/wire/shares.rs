//! The shares that endpoints get: by weight, in slow start by age, and by priority all or nothing.

use crate::support::{PROXY, endpoint_params, get};
use bytes::Bytes;
use h2::client;
use http::Response;
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Connect, Endpoint, Endpoints, Proxy, Server, Stats,
    balance::{self, endpoint::State},
    proxy,
};
use std::{
    collections::BTreeMap,
    fmt,
    future::{pending, poll_fn, ready},
    io,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

type Name = &'static str;

/// An endpoint that is connected to after a delay.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Target(Name, Duration);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const MS: Duration = Duration::from_millis(1);
/// Long enough that shares stay as they are during a measurement.
const SLOW_START: Duration = Duration::from_secs(100_000);

/// A client of a proxy to endpoints in memory, which answer within a millisecond.
struct Rig {
    client: client::SendRequest<Bytes>,
    endpoints: Endpoints,
    list: watch::Sender<Vec<Endpoint<Name>>>,
    /// How often each endpoint that can be connected to was started. Connections to an earlier one are closed.
    up: watch::Sender<BTreeMap<Name, u32>>,
    connected: Arc<AtomicUsize>,
    seen: Arc<Mutex<BTreeMap<Name, usize>>>,
}

impl Rig {
    async fn new(list: &[(Name, u32)]) -> Self {
        let seen = Arc::<Mutex<BTreeMap<Name, usize>>>::default();
        let (up, is_up) = watch::channel(BTreeMap::new());
        let connected = Arc::<AtomicUsize>::default();
        let counted = (Arc::clone(&connected), Arc::clone(&seen));
        let connector = tower::service_fn(move |name: Name| {
            let Some(started) = is_up.borrow().get(name).copied() else {
                return ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
            };
            let (near, far) = tokio::io::duplex(1 << 20);
            let (mut is_up, seen) = (is_up.clone(), Arc::clone(&counted.1));
            counted.0.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(far).await.unwrap();
                loop {
                    tokio::select! {
                        accepted = connection.accept() => {
                            let Some(Ok((_, mut respond))) = accepted else { return };
                            *seen.lock().unwrap().entry(name).or_default() += 1;
                            tokio::spawn(async move {
                                tokio::time::sleep(MS).await;
                                let _ = respond.send_response(Response::new(()), true);
                            });
                        }
                        _ = is_up.wait_for(|up| up.get(name) != Some(&started)) => return,
                    }
                }
            });
            ready(Ok(near))
        });
        let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
        let (list, listed) = watch::channel(listed(list));
        let params = balance::Params { slow_start: SLOW_START, ..endpoint_params() };
        let endpoints = Endpoints::spawn(listed, &connect, params);
        let limits = Arc::new(proxy::Limits::new(proxy::Params { queue_capacity: 100, ..PROXY }));
        let proxy = Proxy::new(endpoints.clone(), limits, Arc::<Stats>::default());
        let server = Server::new(&ServerParams::DEFAULT).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { server.serve(far, proxy, pending()).await });
        let (client, connection) = client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        Self { client, endpoints, list, up, connected, seen }
    }

    /// Lets an endpoint be connected to, and waits until it is.
    async fn start(&self, name: Name) {
        self.up.send_modify(|up| *up.entry(name).or_default() += 1);
        self.until(name, State::Ready).await;
    }

    /// Closes an endpoint's connection, and waits until it is connected to again, without a failed attempt.
    async fn restart(&self, name: Name) {
        let connected = self.connected.load(Relaxed);
        self.up.send_modify(|up| *up.entry(name).or_default() += 1);
        while self.connected.load(Relaxed) == connected {
            tokio::time::sleep(MS).await;
        }
        self.until(name, State::Ready).await;
    }

    /// Closes an endpoint's connection, and lets it not be connected to.
    async fn stop(&self, name: Name) {
        self.up.send_modify(|up| _ = up.remove(name));
        self.until(name, State::Failed).await;
    }

    async fn until(&self, name: Name, state: State) {
        let is_so = || self.endpoints.status().iter().any(|one| one.addr == name && one.state == state);
        while !is_so() {
            tokio::time::sleep(MS).await;
        }
    }

    /// Sends 1,000 requests one by one and then so many 64 at a time; each endpoint must get its share of both, give or take
    /// 5 %.
    async fn check(&mut self, requests: u32, shares: &[(Name, f64)]) {
        for (at_once, requests) in [(1, 1_000), (64, requests)] {
            self.seen.lock().unwrap().clear();
            let mut open = JoinSet::new();
            for _ in 0..requests {
                if open.len() == at_once {
                    open.join_next().await;
                }
                poll_fn(|cx| self.client.poll_ready(cx)).await.unwrap();
                let (response, _) = self.client.send_request(get(), true).unwrap();
                open.spawn(async move { assert_eq!(response.await.unwrap().status(), 200) });
            }
            open.join_all().await;
            let seen = self.seen.lock().unwrap();
            let all: f64 = shares.iter().map(|(_, share)| share).sum();
            assert_eq!(seen.len(), shares.len(), "{seen:?}, not {shares:?}");
            for (name, share) in shares {
                let due = f64::from(requests) * share / all;
                assert!((seen[name] as f64 - due).abs() <= due * 0.05, "{at_once} at a time: {seen:?}, not {shares:?}");
            }
        }
    }
}

fn listed(list: &[(Name, u32)]) -> Vec<Endpoint<Name>> {
    let endpoint =
        |(name, weight): &(Name, u32)| Endpoint { weight: NonZeroU32::new(*weight).unwrap(), ..Endpoint::new(*name) };
    list.iter().map(endpoint).collect()
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_listed_while_none_is_ready_get_the_same_whenever_they_are() {
    const NAMES: [(Name, u32); 3] = [("a", 1), ("b", 1), ("c", 1)];
    for pause in [Duration::ZERO, MS, 5_000 * MS] {
        let mut rig = Rig::new(&NAMES[..1]).await;
        for n in 2..=3 {
            tokio::time::sleep(pause).await;
            rig.list.send_replace(listed(&NAMES[..n]));
        }
        for (name, _) in NAMES {
            tokio::time::sleep(pause).await;
            rig.start(name).await;
        }
        // When shares that grow differ by age.
        tokio::time::sleep(SLOW_START / 2).await;
        rig.check(5_000, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_join_others_get_a_share_that_grows_with_their_age() {
    for (pause, part) in [(Duration::ZERO, 0.1), (MS, 0.1), (SLOW_START / 2, 0.5)] {
        let mut rig = Rig::new(&[("a", 1)]).await;
        rig.start("a").await;
        rig.list.send_replace(listed(&[("a", 1), ("b", 1), ("c", 1)]));
        // That it is listed does not make it older.
        tokio::time::sleep(SLOW_START).await;
        rig.start("b").await;
        tokio::time::sleep(pause).await;
        rig.start("c").await;
        rig.check(5_000, &[("a", 1.0), ("b", part), ("c", 0.1)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn weights_are_shares() {
    let mut rig = Rig::new(&[("a", 1), ("b", 3), ("c", 6)]).await;
    for name in ["a", "b", "c"] {
        rig.start(name).await;
    }
    rig.check(5_000, &[("a", 1.0), ("b", 3.0), ("c", 6.0)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_weight_that_changes_counts_on_the_connections_that_are_there() {
    let mut rig = Rig::new(&[("a", 1), ("b", 1)]).await;
    rig.start("a").await;
    rig.start("b").await;
    rig.check(5_000, &[("a", 1.0), ("b", 1.0)]).await;
    let connected = rig.connected.load(Relaxed);
    let mut list = listed(&[("a", 1), ("b", 3)]);
    list[0].labels = vec![("zone".to_owned(), "here".to_owned())];
    rig.list.send_replace(list.clone());
    while rig.endpoints.status()[0].labels != list[0].labels {
        tokio::time::sleep(MS).await;
    }
    // At once: one that was added anew would start with a tenth.
    rig.check(5_000, &[("a", 1.0), ("b", 3.0)]).await;
    assert_eq!(rig.connected.load(Relaxed), connected);
    // Parameters belong to connections, so that their change makes a new one.
    list[1].params.max_frame_size = Some(1 << 20);
    rig.list.send_replace(list);
    while rig.connected.load(Relaxed) == connected {
        tokio::time::sleep(MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn weights_are_shares_of_those_that_are_there() {
    let mut rig = Rig::new(&[("a", 1), ("b", 3), ("c", 6), ("d", 100)]).await;
    for name in ["a", "b", "c"] {
        rig.start(name).await;
    }
    rig.check(5_000, &[("a", 1.0), ("b", 3.0), ("c", 6.0)]).await;
}

#[tokio::test(start_paused = true)]
async fn many_endpoints_get_their_shares() {
    const NAMES: [Name; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let list = NAMES.map(|name| (name, if name == "a" { 9 } else { 1 }));
    let mut rig = Rig::new(&list).await;
    for name in NAMES {
        rig.start(name).await;
    }
    rig.check(9_000, &list.map(|(name, weight)| (name, f64::from(weight)))).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_away_starts_slowly_unless_all_were() {
    let mut rig = Rig::new(&[("a", 1), ("b", 1)]).await;
    rig.start("a").await;
    rig.start("b").await;
    // Connected to again at once.
    tokio::time::sleep(SLOW_START).await;
    rig.restart("b").await;
    rig.check(5_000, &[("a", 1.0), ("b", 1.0)]).await;
    // After attempts that failed, while the other was there.
    rig.stop("b").await;
    rig.start("b").await;
    rig.check(5_000, &[("a", 1.0), ("b", 0.1)]).await;
    // While the other was not.
    rig.stop("a").await;
    rig.stop("b").await;
    rig.start("b").await;
    rig.start("a").await;
    rig.check(5_000, &[("a", 1.0), ("b", 1.0)]).await;
}

/// Endpoints that are listed with weights of one and these priorities.
fn with_priorities(list: &[(Name, u16)]) -> Vec<Endpoint<Name>> {
    list.iter().map(|(name, priority)| Endpoint { priority: *priority, ..Endpoint::new(*name) }).collect()
}

#[tokio::test(start_paused = true)]
async fn a_priority_is_used_only_while_no_lower_number_can_be() {
    let mut rig = Rig::new(&[]).await;
    rig.list.send_replace(with_priorities(&[("backup", 20), ("a", 10), ("b", 10), ("last", 65_535)]));
    for name in ["last", "backup", "a", "b"] {
        rig.start(name).await;
    }
    rig.check(5_000, &[("a", 1.0), ("b", 1.0)]).await;
    rig.stop("a").await;
    rig.check(1_000, &[("b", 1.0)]).await;
    rig.stop("b").await;
    rig.check(1_000, &[("backup", 1.0)]).await;
    rig.stop("backup").await;
    rig.check(1_000, &[("last", 1.0)]).await;
    rig.start("backup").await;
    rig.check(1_000, &[("backup", 1.0)]).await;
    // As soon as one is back.
    rig.start("b").await;
    rig.check(1_000, &[("b", 1.0)]).await;
    // A connection that ends well is not a failure, so that requests wait for the next one.
    rig.restart("b").await;
    rig.check(1_000, &[("b", 1.0)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_changes_counts_on_the_connections_that_are_there() {
    let mut rig = Rig::new(&[]).await;
    rig.list.send_replace(with_priorities(&[("a", 1), ("b", 2)]));
    rig.start("a").await;
    rig.start("b").await;
    rig.check(1_000, &[("a", 1.0)]).await;
    let connected = rig.connected.load(Relaxed);
    rig.list.send_replace(with_priorities(&[("a", 1), ("b", 0)]));
    while rig.endpoints.status()[1].priority != 0 {
        tokio::time::sleep(MS).await;
    }
    rig.check(1_000, &[("b", 1.0)]).await;
    assert_eq!(rig.connected.load(Relaxed), connected);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_connected_to_late_is_waited_for_before_another_priority() {
    let connector = tower::service_fn(|(name, delay): (Name, Duration)| async move {
        // As with a time-out of a second.
        tokio::time::timeout(1_000 * MS, tokio::time::sleep(delay)).await?;
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let _ = respond.send_response(Response::builder().header("name", name).body(()).unwrap(), true);
            }
        });
        Ok::<_, io::Error>(near)
    });
    let connector = tower::ServiceBuilder::new().map_request(|target: Target| (target.0, target.1)).service(connector);
    for (delay, expected) in [(500 * MS, "a"), (5_000 * MS, "b")] {
        let connect = Connect::new(connector.clone(), &ClientParams::DEFAULT).unwrap();
        let list = [(Target("a", delay), 0), (Target("b", Duration::ZERO), 1)];
        let list = list.map(|(target, priority)| Endpoint { priority, ..Endpoint::new(target) }).to_vec();
        let endpoints = Endpoints::spawn(watch::channel(list).1, &connect, endpoint_params());
        let limits = Arc::new(proxy::Limits::new(proxy::Params { queue_capacity: 100, ..PROXY }));
        let proxy = Proxy::new(endpoints, limits, Arc::<Stats>::default());
        let server = Server::new(&ServerParams::DEFAULT).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { server.serve(far, proxy, pending()).await });
        let (mut client, connection) = client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let (response, _) = client.send_request(get(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["name"], expected, "after {delay:?}");
    }
}
