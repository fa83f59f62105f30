//! Destinations by routes: several services, and the one that a request goes to.

use crate::{
    Stats,
    message::answer::Answer,
    proxy::{
        find::{Find, Found, authority},
        limits::Limits,
        policy::Policy,
        pool::{Backend, Bounds, Destination, Pool},
        rate_limit::RouteRate,
        shared::ProxyShared,
    },
    route::{self, Table},
    stats::{DestinationStats, Limit, Side},
};
use http::{HeaderMap, Method, Uri};
use std::{
    mem,
    sync::{Arc, Mutex, OnceLock},
};
use tokio::{sync::watch, time::Instant};

/// The back ends that a rule's requests go to. Without one whose weight is above zero they are answered with 500, gRPC
/// status 14.
#[derive(Clone, Debug)]
pub struct Action<B> {
    /// The rule's name on metrics.
    pub name: String,
    /// Each back end's share of the requests is its weight, divided by the sum of all.
    pub backends: Vec<(Arc<B>, u32)>,
    /// The limits of its requests, in place of the proxy's.
    pub policy: Policy,
    /// The rate limit of its requests, from all clients together; requests beyond it are answered with 429, gRPC status 8. `None`:
    /// no limit.
    pub rate: Option<Arc<RouteRate>>,
}

/// Rules, and the action of each.
#[derive(Debug)]
pub struct Routes<B> {
    table: Table<Target<B>>,
    backends: Vec<Arc<B>>,
    /// The back ends of all actions, counted once for each.
    places: usize,
}

/// An action, and the place of its first back end among the ones of all actions.
#[derive(Debug)]
struct Target<B> {
    action: Action<B>,
    first: usize,
}

/// The destinations of a [`Proxy`](super::Proxy) on one thread, by routes; clones share them.
///
/// A back end is connected to when a first request goes there. When routes change, a back end that is the same [`Arc`] keeps
/// its connections; requests in flight to one that is gone go on.
#[derive(Debug)]
pub struct ByRoute<B>(Arc<Routed<B>>);

#[derive(Debug)]
struct Routed<B> {
    routes: Mutex<Followed<B>>,
    /// By the addresses of the back ends, which the pool keeps from being freed.
    pool: Arc<Pool<usize, B>>,
}

#[derive(Debug)]
struct Followed<B> {
    changes: watch::Receiver<Arc<Routes<B>>>,
    current: Arc<Current<B>>,
}

/// The routes that count, and the counters of this thread.
#[derive(Debug)]
struct Current<B> {
    routes: Arc<Routes<B>>,
    /// Of each back end of each action, once a request has gone there.
    counters: Box<[OnceLock<Arc<DestinationStats>>]>,
}

const UNPOISONED: &str = "nothing panics with the lock held";

// === impl Routes ===

impl<B> Routes<B> {
    /// Routes of rules, each with its action.
    pub fn new(rules: impl IntoIterator<Item = (route::Rule, Action<B>)>) -> Self {
        let mut places = 0;
        let table = Table::new(rules.into_iter().map(|(rule, action)| {
            let first = places;
            places += action.backends.len();
            (rule, Target { action, first })
        }));
        let mut backends: Vec<Arc<B>> = Vec::new();
        for (backend, _) in table.targets().iter().flat_map(|target: &Target<B>| &target.action.backends) {
            if !backends.iter().any(|known| Arc::ptr_eq(known, backend)) {
                backends.push(Arc::clone(backend));
            }
        }
        Self { table, backends, places }
    }

    /// The back ends, each once.
    #[must_use]
    pub fn backends(&self) -> &[Arc<B>] {
        &self.backends
    }
}

// === impl Action ===

impl<B> Action<B> {
    /// A back end by its share, and its place. `None`: none has one.
    fn choose(&self) -> Option<(usize, &Arc<B>)> {
        if let [(backend, 1..)] = &*self.backends {
            return Some((0, backend));
        }
        let total = self.backends.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>();
        if total == 0 {
            return None;
        }
        let mut at = fastrand::u64(..total);
        let chosen = self.backends.iter().enumerate().find(|(_, (_, weight))| {
            let is_here = at < u64::from(*weight);
            at = at.saturating_sub(u64::from(*weight));
            is_here
        });
        chosen.map(|(place, (backend, _))| (place, backend))
    }
}

// === impl Current ===

impl<B> Current<B> {
    fn new(routes: Arc<Routes<B>>) -> Arc<Self> {
        let counters = (0..routes.places).map(|_| OnceLock::new()).collect();
        Arc::new(Self { routes, counters })
    }
}

// === impl ByRoute ===

impl<B: Backend> ByRoute<B> {
    /// Connects to the back ends of `routes` as requests come. All requests share `limits`, and are counted in `stats`. New
    /// routes count from the next request on.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(
        mut routes: watch::Receiver<Arc<Routes<B>>>,
        limits: Arc<Limits>,
        stats: Arc<Stats>,
        bounds: Bounds,
    ) -> Self {
        let current = Current::new(Arc::clone(&routes.borrow_and_update()));
        let routes = Mutex::new(Followed { changes: routes, current });
        Self(Arc::new(Routed { routes, pool: Pool::spawn(limits, stats, bounds, false) }))
    }

    /// The back ends that are connected to.
    #[must_use]
    pub fn connected(&self) -> Vec<Destination<B>> {
        self.0.pool.connected()
    }

    /// The routes that count now.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes<B>> {
        Arc::clone(&self.0.current().routes)
    }

    pub(super) fn into_find(self) -> Arc<dyn Find> {
        self.0
    }
}

impl<B> Clone for ByRoute<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

// === impl Routed ===

impl<B: Backend> Routed<B> {
    fn current(&self) -> Arc<Current<B>> {
        let mut followed = self.routes.lock().expect(UNPOISONED);
        // An error if there will be no change any more.
        if followed.changes.has_changed().unwrap_or(false) {
            let routes = Arc::clone(&followed.changes.borrow_and_update());
            let current = Current::new(Arc::clone(&routes));
            let before = mem::replace(&mut followed.current, Arc::clone(&current));
            drop(followed);
            drop(before);
            self.pool.retain(|backend| routes.backends.iter().any(|one| Arc::ptr_eq(one, backend)));
            return current;
        }
        Arc::clone(&followed.current)
    }

    fn choose(&self, method: &Method, uri: &Uri, headers: &HeaderMap, now: Instant) -> Result<Found, Answer> {
        let current = self.current();
        // A plain CONNECT has no path.
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        let Target { action, first } =
            current.routes.table.find(authority(uri, headers), path, method, headers).ok_or_else(Answer::no_route)?;
        let (place, backend) = action.choose().ok_or_else(Answer::no_backend)?;
        let counters = || {
            let counters =
                current.counters[first + place].get_or_init(|| self.pool.counters(backend, Some(&action.name)));
            Some(Arc::clone(counters))
        };
        // No connection is made for a request that goes no further.
        if action.rate.as_ref().is_some_and(|rate| !rate.admits(now)) {
            let without_destination = self.pool.without_destination();
            without_destination.stats.transport(Side::Client).limit(Limit::RouteRate);
            let answered = Found::answer(without_destination, Answer::route_rate_limited());
            return Ok(Found { counters: counters(), ..answered });
        }
        let (proxy, _) = self.pool.get(&Arc::as_ptr(backend).addr(), now, || Ok(Arc::clone(backend)))?;
        Ok(Found { proxy, policy: action.policy, counters: counters(), answer: None })
    }
}

impl<B: Backend> Find for Routed<B> {
    fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap, now: Instant) -> Found {
        self.choose(method, uri, headers, now)
            .unwrap_or_else(|answer| Found::answer(self.pool.without_destination(), answer))
    }

    fn without_destination(&self) -> &Arc<ProxyShared> {
        self.pool.without_destination()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_is_chosen_by_its_weight() {
        let backends: Vec<_> = [90, 10, 0].into_iter().map(|weight| (Arc::new(weight), weight)).collect();
        let action = |backends| Action { name: String::new(), backends, policy: Policy::NONE, rate: None };
        let shares = action(backends);
        let mut chosen = [0_u32; 101];
        for _ in 0..30_000 {
            chosen[**shares.choose().unwrap().1 as usize] += 1;
        }
        // Two in a hundred, which is more than ten times the standard deviation.
        assert!(chosen[90].abs_diff(27_000) <= 600 && chosen[90] + chosen[10] == 30_000, "{chosen:?}");
        let (all, none) = ((Arc::new(7), u32::MAX), (Arc::new(0), 0));
        assert_eq!(action(vec![all.clone(), all.clone(), none.clone()]).choose().map(|(_, it)| **it), Some(7));
        assert_eq!(action(vec![none.clone(), all]).choose().map(|(_, it)| **it), Some(7));
        assert_eq!(action(vec![none]).choose(), None);
        assert_eq!(action(Vec::new()).choose(), None);
    }
}
