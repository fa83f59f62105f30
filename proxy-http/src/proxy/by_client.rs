//! Connections to endpoints that belong to one client.

use crate::{
    Stats,
    proxy::{
        absence::AbsenceWatch,
        find::{Find, Found},
        limits::Limits,
        policy::Policy,
        shared::{BackendEndpoints, ProxyShared},
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
    /// Has the limits, counters and retry budget of all clients.
    without_destination: Arc<ProxyShared>,
}

/// The endpoints of one client.
struct ClientEndpoints<F> {
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
        Self { without_destination: Arc::new(ProxyShared::without_destination(limits, stats)) }
    }

    /// Finds the endpoints of a client, which `connect` connects to when its first request comes.
    pub(super) fn into_find(self, connect: impl Fn() -> BackendEndpoints + Send + Sync + 'static) -> Arc<dyn Find> {
        Arc::new(ClientEndpoints { by: self, connect, proxy: OnceLock::new() })
    }
}

impl<F: Fn() -> BackendEndpoints + Send + Sync> Find for ClientEndpoints<F> {
    fn find(&self, _: &Method, _: &Uri, _: &HeaderMap, _: Instant) -> Found {
        let proxy = self.proxy.get_or_init(|| {
            Arc::new(self.by.without_destination.for_destination((self.connect)(), AbsenceWatch(None)))
        });
        Found { proxy: Arc::clone(proxy), policy: Policy::NONE, counters: None, answer: None }
    }

    fn without_destination(&self) -> &Arc<ProxyShared> {
        &self.by.without_destination
    }
}

impl<F> fmt::Debug for ClientEndpoints<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEndpoints").field("proxy", &self.proxy.get()).finish_non_exhaustive()
    }
}
