//! The connection to the control plane, which all streams share, and their counters.

use crate::{
    connector::OwnListeners,
    dns,
    grpc::{Connector, code_name, describe},
    log::Throttle,
};
use app_env::{ControlPlane, HostPort};
use linkerd2_proxy_api::destination::{GetDestination, destination_client::DestinationClient};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

/// The control plane, for all destinations of the process.
pub(crate) struct Control {
    pub(super) settings: ControlPlane,
    client: Mutex<Client>,
    connector: Connector,
    counts: Counts,
    log: Throttle,
    destinations: Mutex<BTreeMap<u64, Arc<Status>>>,
    next_destination: AtomicU64,
}

/// A client, and how many there were before it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) destinations: DestinationClient<Channel>,
    generation: u64,
}

/// Counts updates and the ends of streams.
#[derive(Debug, Default)]
struct Counts {
    updates: AtomicU64,
    ends: Mutex<BTreeMap<&'static str, u64>>,
}

/// How one destination is doing.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) direction: &'static str,
    pub(crate) destination: HostPort,
    /// Streams that are open and have brought an update.
    streams: AtomicU64,
    /// When the last update came.
    updated: Mutex<Option<Instant>>,
}

/// A destination's place among the ones that metrics tell of.
#[derive(Debug)]
pub(super) struct Registered {
    control: Arc<Control>,
    id: u64,
    pub(super) status: Arc<Status>,
}

/// A stream that is open, in its destination's count.
#[derive(Debug)]
pub(super) struct OpenStream(Arc<Status>);

// === impl Control ===

impl Control {
    /// Nothing is connected to before there is a question. Must be called in a tokio runtime.
    pub(crate) fn new(
        settings: ControlPlane,
        own: OwnListeners,
        dns: app_env::Dns,
        resolver: &dns::Resolver,
    ) -> Arc<Self> {
        let connector = Connector::new(settings.addr.clone(), own, dns, resolver);
        let client = Client { destinations: DestinationClient::new(connector.channel()), generation: 0 };
        Arc::new(Self {
            settings,
            client: Mutex::new(client),
            connector,
            counts: Counts::default(),
            log: Throttle::default(),
            destinations: Mutex::default(),
            next_destination: AtomicU64::new(0),
        })
    }

    pub(super) fn client(&self) -> Client {
        lock(&self.client).clone()
    }

    /// Replaces a client whose connection was silent, unless that has been done.
    pub(super) fn replace(&self, silent: &Client) {
        let mut client = lock(&self.client);
        if client.generation == silent.generation {
            let destinations = DestinationClient::new(self.connector.channel());
            *client = Client { destinations, generation: silent.generation + 1 };
        }
    }

    /// The question for a destination.
    pub(super) fn question(&self, path: &str) -> GetDestination {
        // linkerd2-proxy leaves the scheme empty as well.
        GetDestination {
            path: path.to_owned(),
            context_token: self.settings.context.clone(),
            ..GetDestination::default()
        }
    }

    pub(super) fn register(self: &Arc<Self>, direction: &'static str, destination: HostPort) -> Registered {
        let status = Arc::new(Status { direction, destination, streams: AtomicU64::new(0), updated: Mutex::new(None) });
        let id = self.next_destination.fetch_add(1, Relaxed);
        lock(&self.destinations).insert(id, Arc::clone(&status));
        Registered { control: Arc::clone(self), id, status }
    }

    pub(super) fn count_update(&self) {
        self.counts.updates.fetch_add(1, Relaxed);
    }

    pub(super) fn count_end(&self, status: &tonic::Status) {
        let code = code_name(status.code());
        *lock(&self.counts.ends).entry(code).or_default() += 1;
        // Clients may name hosts that are no destinations.
        let is_expected = is_rejection(status) || status.code() == Code::Ok;
        match if is_expected { None } else { self.log.admits() } {
            Some(left_out) => {
                tracing::warn!(code, error = describe(status), left_out, "a stream of the control plane has ended");
            }
            None => tracing::debug!(code, error = describe(status), "a stream of the control plane has ended"),
        }
    }

    /// Updates that have come.
    pub(crate) fn updates(&self) -> u64 {
        self.counts.updates.load(Relaxed)
    }

    /// Streams that the control plane has ended, or that could not be opened, by their gRPC status.
    pub(crate) fn ends(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts.ends).clone()
    }

    /// The destinations that are followed.
    pub(crate) fn destinations(&self) -> Vec<Arc<Status>> {
        lock(&self.destinations).values().cloned().collect()
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("settings", &self.settings).finish_non_exhaustive()
    }
}

// === impl Status ===

impl Status {
    /// Streams that are open and have brought an update. Zero: the endpoints in use are of an earlier stream.
    pub(crate) fn streams(&self) -> u64 {
        self.streams.load(Relaxed)
    }

    /// How long ago the last update came. `None`: none has.
    pub(crate) fn age(&self) -> Option<Duration> {
        lock(&self.updated).map(|updated| updated.elapsed())
    }

    pub(super) fn update(&self) {
        *lock(&self.updated) = Some(Instant::now());
    }
}

// === impl Registered ===

impl Registered {
    pub(super) fn open_stream(&self) -> OpenStream {
        self.status.streams.fetch_add(1, Relaxed);
        OpenStream(Arc::clone(&self.status))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.control.destinations).remove(&self.id);
    }
}

// === impl OpenStream ===

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the question would be rejected again: as for linkerd2-proxy, which asks again after all others, NOT_FOUND among them.
pub(super) fn is_rejection(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition)
}
