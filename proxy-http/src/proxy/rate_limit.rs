//! Rate limits of requests: of a client, by its address, and of a route.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A rate of requests: a token bucket that holds `burst` tokens, and gets `per_second` in each second.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Rate {
    /// Requests a second, in the long run.
    pub per_second: NonZeroU32,
    /// Requests that may come at once, after a time without any.
    pub burst: NonZeroU32,
}

/// Counts the requests of each client against one [`Rate`], for all proxies that share it.
///
/// A client is an IPv4 address, or all IPv6 addresses with the same first 64 bits, which one host may have. From some 65,536 clients at
/// a time on, the clients that have no entry of their own share one.
#[derive(Debug)]
pub struct ClientRates {
    rate: Rate,
    started: Instant,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

/// Counts the requests of a route, from all clients, against one [`Rate`], for all proxies that share it.
#[derive(Debug)]
pub struct RouteRate {
    rate: Rate,
    started: Instant,
    /// As of a client in a shard.
    free_at: AtomicU64,
}

/// Some of the clients, so that threads seldom wait for each other.
///
/// A client is a time in nanoseconds since the start: when it may send a whole burst again (the theoretical arrival time of the generic
/// cell rate algorithm). Once that has passed nothing is left to be remembered.
#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<IpAddr, u64>,
    /// The clients that have no entry of their own.
    others: u64,
    /// When the clients that are forgotten were last removed.
    swept: u64,
}

const SHARDS: usize = 16;
const MAX_CLIENTS: usize = 4_096;
/// The shortest time between two looks at all clients of a shard.
const SWEEP_PAUSE: u64 = 100_000_000;
const SECOND: Duration = Duration::from_secs(1);

// === impl ClientRates ===

impl ClientRates {
    /// No client has sent any request yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { rate, started: Instant::now(), hasher: RandomState::new(), shards }
    }

    /// Counts a request, unless its client has sent too many.
    pub(super) fn admits(&self, client: IpAddr, now: Instant) -> bool {
        let now = nanos(self.started, now);
        let client = prefix(client);
        let shard = self.hasher.hash_one(client) as usize % SHARDS;
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let free_at = shard.place(client, now);
        let Some(next) = self.rate.take(*free_at, now) else { return false };
        *free_at = next;
        true
    }
}

// === impl RouteRate ===

impl RouteRate {
    /// No request has come yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, started: Instant::now(), free_at: AtomicU64::new(0) }
    }

    /// The rate that requests are counted against.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Counts a request, unless too many have come. Workers count without a lock, and no request is counted twice or left out.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let now = nanos(self.started, now);
        self.free_at.fetch_update(Relaxed, Relaxed, |free_at| self.rate.take(free_at, now)).is_ok()
    }
}

// === impl Rate ===

impl Rate {
    /// The time of the next whole burst, once a request has come. `None`: the request is one too many. `free_at`: the time before it.
    fn take(self, free_at: u64, now: u64) -> Option<u64> {
        let interval = SECOND.as_nanos() as u64 / u64::from(self.per_second.get());
        let at = free_at.max(now);
        (at - now <= interval * u64::from(self.burst.get() - 1)).then(|| at.saturating_add(interval))
    }
}

// === impl Shard ===

impl Shard {
    fn place(&mut self, client: IpAddr, now: u64) -> &mut u64 {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            if now.saturating_sub(self.swept) >= SWEEP_PAUSE {
                self.swept = now;
                self.clients.retain(|_, free_at| *free_at > now);
            }
            if self.clients.len() >= MAX_CLIENTS {
                return &mut self.others;
            }
        }
        self.clients.entry(client).or_default()
    }
}

fn nanos(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// The part of an address that stands for a client.
fn prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() }
    }

    fn rates(per_second: u32, burst: u32) -> ClientRates {
        ClientRates::new(rate(per_second, burst))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        for (per_second, burst) in [(1, 1), (10, 1), (10, 3), (1_000_000, 7)] {
            let rates = rates(per_second, burst);
            let (client, start) = ([192, 0, 2, 1].into(), rates.started);
            let admitted = |at| (0..burst * 2).filter(|_| rates.admits(client, at)).count();
            assert_eq!(admitted(start), burst as usize);
            let interval = SECOND / per_second;
            assert_eq!(admitted(start + interval - Duration::from_nanos(1)), 0);
            assert_eq!(admitted(start + interval), 1);
            assert_eq!(admitted(start + interval + SECOND * burst), burst as usize, "no more than a burst is saved up");
        }
    }

    #[test]
    fn the_rate_of_a_route_holds_for_all_threads_together() {
        let (per_second, burst, seconds) = (1_000, 300, 3);
        let route = RouteRate::new(rate(per_second, burst));
        // Threads differ in their clocks, and each asks ten times as often as the route may be.
        let admitted = |skew: u32| {
            let steps = (0..seconds * per_second * 10).map(|step| SECOND / (per_second * 10) * step);
            steps.filter(|at| route.admits(route.started + *at + Duration::from_micros(skew.into()))).count()
        };
        let total: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|skew| scope.spawn(move || admitted(skew * 100))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let expect = (burst + seconds * per_second) as usize;
        assert!((expect - 1..=expect).contains(&total), "{total} requests, not {expect}");
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one_client() {
        let rates = rates(1, 1);
        for (client, expect) in [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("::ffff:192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db8::ffff:0:0:1", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(rates.admits(client.parse().unwrap(), rates.started), expect, "{client}");
        }
    }

    #[test]
    fn clients_without_a_place_share_one_until_others_are_forgotten() {
        let rates = rates(1, 1);
        let clients = |shift: u32| (0..1 << 17).map(move |n: u32| IpAddr::from((n << shift).to_be_bytes()));
        let admitted = clients(0).filter(|client| rates.admits(*client, rates.started)).count();
        assert_eq!(admitted, SHARDS * (MAX_CLIENTS + 1));
        let held = || rates.shards.iter().map(|shard| shard.lock().unwrap().clients.len()).sum::<usize>();
        assert_eq!(held(), SHARDS * MAX_CLIENTS);
        let later = rates.started + SECOND;
        assert!(clients(8).skip(1 << 16).take(1_000).all(|client| rates.admits(client, later)));
        assert!(held() <= SHARDS * MAX_CLIENTS);
    }
}
