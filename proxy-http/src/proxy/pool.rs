//! The destinations that one thread is connected to.

use crate::{
    Stats,
    message::answer::Answer,
    proxy::{
        absence::{Absence, AbsenceWatch},
        limits::Limits,
        shared::{BackendEndpoints, ProxyShared},
    },
    stats::{DestinationLabels, DestinationStats, ProxyError},
};
use std::{
    borrow::Borrow,
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// A back end: a service, to whose endpoints requests are sent.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Its name on pages and metrics, which no other back end of the same proxy has.
    fn name(&self) -> &str;

    /// Connects to its endpoints. Called in a tokio runtime when a first request goes there, and again when one does after
    /// the connections were closed because none had come for [`Bounds::idle`]. Connections are counted on `stats`.
    fn connect(&self, stats: &Arc<Stats>) -> BackendEndpoints;

    /// Why it has no endpoints; `None` as long as it has some, or nothing is known. A back end that is known to have none is left
    /// early. By default nothing is ever known.
    fn absence(&self) -> Option<watch::Receiver<Option<Absence>>> {
        None
    }
}

/// A back end that is connected to.
#[derive(Clone, Debug)]
pub struct Destination<B> {
    /// The back end.
    pub backend: Arc<B>,
    /// Its endpoints.
    pub endpoints: BackendEndpoints,
    /// How long ago a request used it last. Zero while requests are in flight.
    pub unused: Duration,
}

/// How many destinations a proxy has at once, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Destinations that are connected to; at least one. With more, the one that was used least recently is left, and a
    /// request is answered with 503 if all have requests in flight. Default: 1,000.
    pub max: usize,
    /// How long a destination may go without a request before its connections are closed; above zero. Default: 5 s, as
    /// linkerd2-proxy has it for outbound requests. One whose [absence](Backend::absence) is known goes 5 s at most.
    pub idle: Duration,
}

/// The back ends that are connected to, by keys. A back end is left when it has been idle for a while.
#[derive(Debug)]
pub(super) struct Pool<K, B> {
    backends: Mutex<HashMap<K, PooledBackend<B>>>,
    bounds: Bounds,
    /// Whether requests count by destination alone, not by route.
    by_destination: bool,
    /// For requests without a destination. The proxies to all back ends have its limits, counters and retry budget.
    without_destination: Arc<ProxyShared>,
}

/// A back end that is connected to.
#[derive(Debug)]
struct PooledBackend<B> {
    backend: Arc<B>,
    proxy: Arc<ProxyShared>,
    counters: Option<Arc<DestinationStats>>,
    used: Instant,
}

/// The proxy to a destination, and the counters of its requests unless they count by route.
type Used = (Arc<ProxyShared>, Option<Arc<DestinationStats>>);

/// How long a destination that has no endpoints may go without a request. Until then others are answered without another look-up.
const ABSENT_IDLE: Duration = Duration::from_secs(5);

const UNPOISONED: &str = "nothing panics with the lock held";

// === impl Bounds ===

impl Default for Bounds {
    /// 1,000 destinations, each left after 5 s without a request.
    fn default() -> Self {
        Self { max: 1_000, idle: Duration::from_secs(5) }
    }
}

// === impl Pool ===

impl<K, B> Pool<K, B>
where
    K: Eq + Hash + Send + 'static,
    B: Backend,
{
    /// A pool without back ends yet. All requests share `limits`, and are counted in `stats`. Must be called in a tokio runtime.
    pub(super) fn spawn(limits: Arc<Limits>, stats: Arc<Stats>, bounds: Bounds, by_destination: bool) -> Arc<Self> {
        let without_destination = Arc::new(ProxyShared::without_destination(limits, stats));
        let pool = Arc::new(Self { backends: Mutex::default(), bounds, by_destination, without_destination });
        let weak = Arc::downgrade(&pool);
        tokio::spawn(async move {
            loop {
                // A back end is left after one and a half times its time at most.
                sleep((bounds.idle.min(ABSENT_IDLE) / 2).max(Duration::from_millis(1))).await;
                let Some(pool) = weak.upgrade() else { return };
                pool.leave_idle();
            }
        });
        pool
    }

    /// The proxy to the back end of a key, which `find` finds unless it is connected to. An error is the answer to the request.
    pub(super) fn get<Q>(
        &self,
        key: &Q,
        now: Instant,
        find: impl FnOnce() -> Result<Arc<B>, Answer>,
    ) -> Result<Used, Answer>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let mut backends = self.lock();
        if let Some(pooled) = backends.get_mut(key) {
            pooled.used = now;
            return Ok((Arc::clone(&pooled.proxy), pooled.counters.clone()));
        }
        let backend = find()?;
        let mut left = self.make_room(&mut backends)?;
        // Now, so that its series can make room.
        left.iter_mut().for_each(|left| left.counters = None);
        let counters = self.by_destination.then(|| self.counters(&backend, None));
        let endpoints = backend.connect(&self.without_destination.stats);
        let proxy = Arc::new(self.without_destination.for_destination(endpoints, AbsenceWatch(backend.absence())));
        let pooled = PooledBackend { backend, proxy: Arc::clone(&proxy), counters: counters.clone(), used: now };
        backends.insert(key.to_owned(), pooled);
        drop(backends);
        drop(left);
        Ok((proxy, counters))
    }

    /// Takes a back end out if there are too many: the one that was used least recently, if possible of the ones without endpoints.
    /// An error: all have requests in flight.
    fn make_room(&self, backends: &mut HashMap<K, PooledBackend<B>>) -> Result<Option<PooledBackend<B>>, Answer> {
        if backends.len() < self.bounds.max.max(1) {
            return Ok(None);
        }
        let place = |pooled: &PooledBackend<B>| (!pooled.proxy.absence.is_final(), pooled.used);
        let idle = backends.values().filter(|pooled| pooled.is_idle());
        let first = idle.map(place).min();
        let first = first.ok_or_else(too_many_destinations)?;
        let mut removed = backends.extract_if(|_, pooled| pooled.is_idle() && place(pooled) == first);
        Ok(removed.next().map(|(_, pooled)| pooled))
    }

    /// For requests that are answered without a back end.
    pub(super) fn without_destination(&self) -> &Arc<ProxyShared> {
        &self.without_destination
    }

    /// The counters of the requests to a back end, by a route if one led there.
    pub(super) fn counters(&self, backend: &B, route: Option<&str>) -> Arc<DestinationStats> {
        let labels = DestinationLabels { destination: backend.name().to_owned(), route: route.map(str::to_owned) };
        self.without_destination.stats.destinations().counters(labels, self.bounds.max)
    }

    pub(super) fn count_denied(&self) {
        self.without_destination.stats.count_denied();
    }

    /// The back ends that are connected to.
    pub(super) fn connected(&self) -> Vec<Destination<B>> {
        let now = Instant::now();
        self.lock().values().map(|pooled| pooled.describe(now)).collect()
    }

    /// Leaves the back ends that do not stay. Their requests in flight go on.
    pub(super) fn retain(&self, stays: impl Fn(&Arc<B>) -> bool) {
        self.leave(|pooled| !stays(&pooled.backend));
    }

    /// Leaves back ends that no request has used for as long as the bounds say.
    fn leave_idle(&self) {
        let now = Instant::now();
        self.leave(|pooled| {
            if !pooled.is_idle() {
                pooled.used = now;
            }
            let idle =
                if pooled.proxy.absence.is_final() { self.bounds.idle.min(ABSENT_IDLE) } else { self.bounds.idle };
            now.duration_since(pooled.used) >= idle
        });
    }

    fn leave(&self, is_left: impl Fn(&mut PooledBackend<B>) -> bool) {
        let left: Vec<_> = self.lock().extract_if(|_, pooled| is_left(pooled)).collect();
        // Connections are closed without the lock.
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, PooledBackend<B>>> {
        self.backends.lock().expect(UNPOISONED)
    }
}

fn too_many_destinations() -> Answer {
    Answer::unavailable(ProxyError::TooManyDestinations, "too many destinations have requests in flight")
}

// === impl PooledBackend ===

impl<B> PooledBackend<B> {
    /// Whether no request is in flight; each holds the proxy.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.proxy) == 1
    }

    fn describe(&self, now: Instant) -> Destination<B> {
        let Self { backend, proxy, used, .. } = self;
        let endpoints = BackendEndpoints {
            endpoints: proxy.endpoints.clone(),
            http1: proxy.http1.clone(),
            drop_request_trailers: proxy.drop_request_trailers,
        };
        let unused = if self.is_idle() { now.duration_since(*used) } else { Duration::ZERO };
        Destination { backend: Arc::clone(backend), endpoints, unused }
    }
}
