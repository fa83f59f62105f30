//! Destinations by routes: several services, and the one that a request goes to.

use crate::{
    Stats,
    message::answer::Answer,
    proxy::{
        find::{Find, Found, authority},
        limits::Limits,
        policy::Policy,
        pool::{Backend, Bounds, Destination, Pool},
    },
    route::{self, Table},
};
use http::{HeaderMap, Method, Uri};
use std::sync::{Arc, Mutex};
use tokio::{sync::watch, time::Instant};

/// The back ends that a rule's requests go to. Without one whose weight is above zero they are answered with 500, gRPC
/// status 14.
#[derive(Clone, Debug)]
pub struct Action<B> {
    /// Each back end's share of the requests is its weight, divided by the sum of all.
    pub backends: Vec<(Arc<B>, u32)>,
    /// The limits of its requests, in place of the proxy's.
    pub policy: Policy,
}

/// Rules, and the action of each.
#[derive(Debug)]
pub struct Routes<B> {
    table: Table<Action<B>>,
    backends: Vec<Arc<B>>,
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
    current: Arc<Routes<B>>,
}

const UNPOISONED: &str = "nothing panics with the lock held";

// === impl Routes ===

impl<B> Routes<B> {
    /// Routes of rules, each with its action.
    pub fn new(rules: impl IntoIterator<Item = (route::Rule, Action<B>)>) -> Self {
        let table = Table::new(rules);
        let mut backends: Vec<Arc<B>> = Vec::new();
        for (backend, _) in table.targets().iter().flat_map(|action: &Action<B>| &action.backends) {
            if !backends.iter().any(|known| Arc::ptr_eq(known, backend)) {
                backends.push(Arc::clone(backend));
            }
        }
        Self { table, backends }
    }

    /// The back ends, each once.
    #[must_use]
    pub fn backends(&self) -> &[Arc<B>] {
        &self.backends
    }
}

// === impl Action ===

impl<B> Action<B> {
    /// A back end by its share. `None`: none has one.
    fn choose(&self) -> Option<&Arc<B>> {
        if let [(backend, 1..)] = &*self.backends {
            return Some(backend);
        }
        let total = self.backends.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>();
        if total == 0 {
            return None;
        }
        let mut at = fastrand::u64(..total);
        let chosen = self.backends.iter().find(|(_, weight)| {
            let is_here = at < u64::from(*weight);
            at = at.saturating_sub(u64::from(*weight));
            is_here
        });
        chosen.map(|(backend, _)| backend)
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
        let current = Arc::clone(&routes.borrow_and_update());
        let routes = Mutex::new(Followed { changes: routes, current });
        Self(Arc::new(Routed { routes, pool: Pool::spawn(limits, stats, bounds) }))
    }

    /// The back ends that are connected to.
    #[must_use]
    pub fn connected(&self) -> Vec<Destination<B>> {
        self.0.pool.connected()
    }

    /// The routes that count now.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes<B>> {
        self.0.routes()
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
    fn routes(&self) -> Arc<Routes<B>> {
        let mut followed = self.routes.lock().expect(UNPOISONED);
        // An error if there will be no change any more.
        if followed.changes.has_changed().unwrap_or(false) {
            let routes = Arc::clone(&followed.changes.borrow_and_update());
            followed.current = Arc::clone(&routes);
            drop(followed);
            self.pool.retain(|backend| routes.backends.iter().any(|one| Arc::ptr_eq(one, backend)));
            return routes;
        }
        Arc::clone(&followed.current)
    }

    fn choose(&self, method: &Method, uri: &Uri, headers: &HeaderMap, now: Instant) -> Result<Found, Answer> {
        let routes = self.routes();
        // A plain CONNECT has no path.
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        let action = routes.table.find(authority(uri, headers), path, method, headers).ok_or_else(Answer::no_route)?;
        let backend = action.choose().ok_or_else(Answer::no_backend)?;
        let proxy = self.pool.get(&Arc::as_ptr(backend).addr(), now, || Ok(Arc::clone(backend)))?;
        Ok(Found { proxy, policy: action.policy, answer: None })
    }
}

impl<B: Backend> Find for Routed<B> {
    fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap, now: Instant) -> Found {
        self.choose(method, uri, headers, now).unwrap_or_else(|answer| self.pool.nowhere(Some(answer)))
    }

    fn nowhere(&self) -> Found {
        self.pool.nowhere(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_is_chosen_by_its_weight() {
        let backends: Vec<_> = [90, 10, 0].into_iter().map(|weight| (Arc::new(weight), weight)).collect();
        let action = Action { backends, policy: Policy::NONE };
        let mut chosen = [0_u32; 101];
        for _ in 0..30_000 {
            chosen[**action.choose().unwrap() as usize] += 1;
        }
        // Two in a hundred, which is more than ten times the standard deviation.
        assert!(chosen[90].abs_diff(27_000) <= 600 && chosen[90] + chosen[10] == 30_000, "{chosen:?}");
        let (all, none) = ((Arc::new(7), u32::MAX), (Arc::new(0), 0));
        let action = |backends| Action { backends, policy: Policy::NONE };
        assert_eq!(action(vec![all.clone(), all.clone(), none.clone()]).choose().map(|it| **it), Some(7));
        assert_eq!(action(vec![none.clone(), all]).choose().map(|it| **it), Some(7));
        assert_eq!(action(vec![none]).choose(), None);
        assert_eq!(action(Vec::new()).choose(), None);
    }
}
