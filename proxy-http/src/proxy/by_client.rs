//! Connections to endpoints that belong to one client.

use crate::{
    Endpoints, Stats,
    proxy::{
        absence::AbsenceWatch,
        find::{Find, Found},
        limits::Limits,
        policy::Policy,
        pool::BackendEndpoints,
        retry::Budget,
        shared::ProxyShared,
    },
};
use http::{HeaderMap, Method, Uri};
use std::{
    fmt,
    sync::{Arc, OnceLock},
};
use tokio::time::Instant;

/// Makes proxies of which each is one client's, with connections to endpoints of its own; clones make proxies with the same
/// limits.
#[derive(Clone, Debug)]
pub struct ByClient {
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    budget: Arc<Budget>,
    nowhere: Arc<ProxyShared>,
}

/// The endpoints of one client.
struct Connected<F> {
    by: ByClient,
    connect: F,
    /// Not set: no request has come.
    proxy: OnceLock<Arc<ProxyShared>>,
}

// === impl ByClient ===

impl ByClient {
    /// Proxies that share `limits`, and count in `stats`.
    #[must_use]
    pub fn new(limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        let budget = Arc::new(Budget::new());
        let endpoints = BackendEndpoints { endpoints: Endpoints::none(), http1: None, drop_request_trailers: false };
        let nowhere = Arc::new(shared(endpoints, &limits, &stats, &budget));
        Self { limits, stats, budget, nowhere }
    }

    /// Finds the endpoints of a client, which `connect` connects to when its first request comes.
    pub(super) fn into_find(self, connect: impl Fn() -> BackendEndpoints + Send + Sync + 'static) -> Arc<dyn Find> {
        Arc::new(Connected { by: self, connect, proxy: OnceLock::new() })
    }
}

impl<F: Fn() -> BackendEndpoints + Send + Sync> Find for Connected<F> {
    fn find(&self, _: &Method, _: &Uri, _: &HeaderMap, _: Instant) -> Found {
        let ByClient { limits, stats, budget, .. } = &self.by;
        let proxy = self.proxy.get_or_init(|| Arc::new(shared((self.connect)(), limits, stats, budget)));
        Found { proxy: Arc::clone(proxy), policy: Policy::NONE, counters: None, answer: None }
    }

    fn nowhere(&self) -> &Arc<ProxyShared> {
        &self.by.nowhere
    }
}

impl<F> fmt::Debug for Connected<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("proxy", &self.proxy.get()).finish_non_exhaustive()
    }
}

fn shared(connected: BackendEndpoints, limits: &Arc<Limits>, stats: &Arc<Stats>, budget: &Arc<Budget>) -> ProxyShared {
    let BackendEndpoints { endpoints, http1, drop_request_trailers } = connected;
    let (limits, stats, budget) = (Arc::clone(limits), Arc::clone(stats), Arc::clone(budget));
    ProxyShared { endpoints, http1, drop_request_trailers, limits, stats, budget, absence: AbsenceWatch(None) }
}
