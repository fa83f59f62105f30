//! The connection to the control plane, which all streams share, and their counters.

use crate::{
    connector::{self, OwnListeners},
    dns::{self, Target},
    log::Throttle,
    transport::Transport,
};
use app_env::{ControlPlane, HostPort, TcpParams};
use http::Uri;
use hyper_util::rt::TokioIo;
use linkerd2_proxy_api::destination::{GetDestination, destination_client::DestinationClient};
use proxy_http::{BoxError, Endpoint};
use std::{
    collections::BTreeMap,
    error::Error as _,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{
    Code,
    transport::{Channel, Endpoint as TonicEndpoint},
};
use tower_service::Service;

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

/// Connects to the control plane: to one of its addresses, each in its turn.
#[derive(Clone)]
struct Connector {
    addrs: watch::Receiver<Vec<Endpoint<Target>>>,
    tcp: connector::Connector,
    turn: Arc<AtomicUsize>,
    /// When the next connection may be made at the earliest.
    next: Arc<Mutex<Option<Instant>>>,
}

/// How long an address may take to accept a connection, and all of them, their look-up included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ALL_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two attempts to connect. Each destination asks again by itself, and each question makes a connection if there is
/// none: with many destinations a control plane that closes all would be sent hundreds a second.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// TCP finds out that the control plane's host is gone. PINGs would end the connection: a server of grpc-go takes one in five
/// minutes.
const TCP: TcpParams =
    TcpParams { keepalive: Some(Duration::from_secs(10)), user_timeout: Some(Duration::from_secs(30)) };

// === impl Control ===

impl Control {
    /// Nothing is connected to before there is a question. Must be called in a tokio runtime.
    pub(crate) fn new(
        settings: ControlPlane,
        own: OwnListeners,
        dns: app_env::Dns,
        resolver: &dns::Resolver,
    ) -> Arc<Self> {
        let addrs = dns::discover(std::slice::from_ref(&settings.addr), false, dns, resolver).list;
        let connector = Connector {
            addrs,
            tcp: connector::Connector::new(TCP, own, None),
            turn: Arc::default(),
            next: Arc::default(),
        };
        let client = Client { destinations: connector.client(&settings.addr), generation: 0 };
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
            let destinations = self.connector.client(&self.settings.addr);
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

// === impl Connector ===

impl Connector {
    fn client(&self, addr: &HostPort) -> DestinationClient<Channel> {
        let endpoint = TonicEndpoint::from_shared(format!("http://{addr}")).expect("an address makes an authority");
        let endpoint = endpoint.connect_timeout(ALL_CONNECT_TIMEOUT);
        DestinationClient::new(endpoint.connect_with_connector_lazy(self.clone()))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Transport>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Transport>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { mut addrs, mut tcp, turn, next } = self.clone();
        Box::pin(async move {
            let at = {
                let (mut next, now) = (lock(&next), Instant::now());
                let at = next.map_or(now, |next| next.max(now));
                *next = Some(at + CONNECT_INTERVAL);
                at
            };
            sleep_until(at).await;
            let found = addrs.wait_for(|addrs| !addrs.is_empty()).await;
            let mut found = found.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?.clone();
            let first = turn.fetch_add(1, Relaxed) % found.len();
            found.rotate_left(first);
            let mut last = BoxError::from(io::Error::from(io::ErrorKind::NotFound));
            for Endpoint { addr, .. } in found {
                match tokio::time::timeout(CONNECT_TIMEOUT, tcp.call(addr)).await {
                    Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).into(),
                }
            }
            Err(last)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the question would be rejected again: as for linkerd2-proxy, which asks again after all others, NOT_FOUND among them.
pub(super) fn is_rejection(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition)
}

/// A status's message and its sources. tonic's own messages, as "transport error", have the reason in the sources alone.
pub(super) fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text += ": ";
            text += &part;
        }
        source = error.source();
    }
    text
}

/// The name of a status, as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
