//! Workers: threads that each have a runtime, a stack for each direction and their own connections to endpoints, and
//! share nothing on the path of a request but the count of requests in flight.

use crate::{
    client_addr::{ClientAddr, PeerAddr},
    destination::{Connected, Destination},
    listener::set_options,
    log::Throttle,
    observers::Observers,
    proxy_protocol::{Receiver, Sender},
    tls::{self, Tls},
    transport::{Socket, Transport},
};
use app_env::{Direction, TcpParams};
use proxy_http::{
    BufferLimit, Protocol, Proxy, Server, Stats,
    proxy::{self, ClientRates, ForwardedField, Limits},
    server,
    stats::{ByDestination, Peer},
};
use std::{
    error::Error,
    future::pending,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::sleep,
};

/// One worker, as other threads see it.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Clients' connections that are open here or on their way to this worker.
    open: Arc<AtomicU64>,
    /// One for each direction, as the stacks.
    pub(crate) stats: Vec<Arc<Stats>>,
    /// The endpoints that each direction is connected to.
    pub(crate) connected: Vec<Connected>,
}

/// The settings of a worker's stack for one direction.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) accept: TcpParams,
    pub(crate) limits: Arc<Limits>,
    pub(crate) buffers: Arc<BufferLimit>,
    pub(crate) server: Server,
    /// The field in which endpoints are told the client's address. `None`: they are not told.
    pub(crate) forwarded: Option<ForwardedField>,
    /// The rates of clients' requests, on all workers. `None`: they are not limited.
    pub(crate) rates: Option<Arc<ClientRates>>,
    /// `None`: no connection of a client begins with a PROXY protocol header.
    pub(crate) proxy_protocol: Option<Arc<Receiver>>,
    pub(crate) tls: Tls,
    pub(crate) destination: Destination,
    /// Counters, which workers share so that their number is bounded.
    pub(crate) by_destination: Arc<ByDestination>,
    /// The direction.
    pub(crate) name: &'static str,
    pub(crate) maxima: Maxima,
    pub(crate) observers: Observers,
}

/// Limits of a direction, which metrics show beside the current values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Maxima {
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
    pub(crate) connections: usize,
    pub(crate) buffered_bytes: usize,
    /// Of each worker.
    pub(crate) destinations: usize,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The direction's index.
    pub(crate) direction: usize,
    pub(crate) stream: OwnedFd,
    /// The other end of it.
    pub(crate) peer: PeerAddr,
    /// Holds its place while it is open.
    pub(crate) place: Place,
}

/// A connection's place in its worker's count, and in the limit of clients' connections.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<AtomicU64>,
    _permit: OwnedSemaphorePermit,
}

/// A client's connection, once its client is known, and its handshake of TLS is done or none is needed.
struct Opened {
    addr: ClientAddr,
    transport: Transport,
    proxy: Proxy,
    /// The protocol that ALPN chose. `None`: none.
    protocol: Option<Protocol>,
    /// When the client's certificate expires.
    expires: Option<SystemTime>,
    /// The names in the client's certificate.
    identity: Option<String>,
}

/// The steps before the first byte of HTTP on a direction's connections.
#[derive(Clone)]
struct Opening {
    forwarded: Option<ForwardedField>,
    rates: Option<Arc<ClientRates>>,
    proxy_protocol: Option<Arc<Receiver>>,
    tls: Option<Arc<tls::Server>>,
    /// Makes the proxies of clients. `None`: all have the one of the stack.
    by_client: Option<Arc<Sender>>,
}

/// All that serves one direction on one worker.
struct Stack {
    /// Each connection's task would hold its half a kilobyte.
    server: Arc<Server>,
    proxy: Proxy,
    tcp: TcpParams,
    opening: Opening,
    log: Arc<Throttle>,
    name: &'static str,
    observers: Observers,
}

/// Tasks that run before the system is asked for events again. A request takes several, so tokio's 61 asks in the
/// middle of the batch of requests that one read brought.
const EVENT_INTERVAL: u32 = 256;
/// New connections that wait for a worker; more are left to the system's queue. The accepting thread may share a CPU with
/// the worker, which would get none of it while a storm is accepted.
const WAITING: usize = 8;

/// Returns a thread's free memory to the system. Not set: the allocator does as it likes.
static COLLECT: OnceLock<fn()> = OnceLock::new();
/// The interval in which free memory is returned. After a burst of streams whose readers had stopped, much of it stays with the
/// allocator.
const COLLECT_INTERVAL: Duration = Duration::from_secs(20);

/// Has workers that are started from now on call `collect` now and then.
pub(crate) fn collect_by(collect: fn()) {
    let _ = COLLECT.set(collect);
}

// === impl Maxima ===

impl Maxima {
    pub(crate) fn of(direction: &Direction) -> Self {
        Self {
            in_flight: direction.max_in_flight,
            waiting: direction.http_queue_capacity,
            connections: direction.max_connections,
            buffered_bytes: direction.max_buffered_bytes,
            destinations: direction.max_destinations,
        }
    }
}

// === impl Worker ===

impl Worker {
    /// Starts a thread, which ends with the process. It serves the connections that come through the channel, and
    /// drains them when `stop` turns true; it lets go of `stop` when the channel and the last connection are closed.
    pub(crate) fn spawn(
        index: usize,
        plans: &[Plan],
        stop: watch::Receiver<bool>,
    ) -> io::Result<(Self, mpsc::Sender<Accepted>)> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
        let stats: Vec<Arc<Stats>> =
            plans.iter().map(|plan| Arc::new(Stats::with_destinations(Arc::clone(&plan.by_destination)))).collect();
        let (stacks, connected) = {
            let _in_runtime = runtime.enter();
            plans.iter().zip(&stats).map(|(plan, stats)| Stack::new(plan, stats)).unzip()
        };
        let (connections, accepted) = mpsc::channel(WAITING);
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(serve(stacks, accepted, stop)))?;
        Ok((Self { open: Arc::default(), stats, connected }, connections))
    }

    /// Clients' connections that are open here or on their way to this worker.
    pub(crate) fn load(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Takes a place for a connection.
    pub(crate) fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        self.open.fetch_add(1, Relaxed);
        Place { open: Arc::clone(&self.open), _permit: permit }
    }
}

async fn serve(stacks: Vec<Stack>, mut accepted: mpsc::Receiver<Accepted>, stop: watch::Receiver<bool>) {
    if let Some(collect) = COLLECT.get() {
        tokio::spawn(async {
            loop {
                sleep(COLLECT_INTERVAL).await;
                collect();
            }
        });
    }
    while let Some(Accepted { direction, stream, peer, place }) = accepted.recv().await {
        // Open connections have their turn between any two new ones of a storm, each of which has a handshake to do.
        tokio::task::yield_now().await;
        let stream = match Socket::from_fd(stream, peer) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot serve a connection");
                continue;
            }
        };
        let Stack { server, proxy, tcp, opening, log, name, observers } = &stacks[direction];
        if let Socket::Tcp(stream) = &stream {
            set_options(stream, tcp);
        }
        let (server, proxy, opening, log) = (Arc::clone(server), proxy.clone(), opening.clone(), Arc::clone(log));
        let (name, observers) = (*name, observers.clone());
        let mut stop = stop.clone();
        // A task ends when the client closes, or when the process drains. That `stop` lives in it holds the drain up.
        tokio::spawn(async move {
            let opened = opening.open(stream, peer, proxy).await;
            if let Some(Opened { addr, transport, proxy, protocol, expires, identity }) = opened {
                // Requests of a client whose certificate has expired are refused, so it had better connect anew.
                let draining = async {
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => {}
                        () = expiry(expires) => {}
                    }
                };
                let observe = observers.connection(name, addr.client, identity.as_deref());
                let accepted = server::Accepted { peer: addr.client.tcp(), protocol, observe };
                ended(server.serve_accepted(accepted, transport, proxy, draining).await, addr, &log);
            }
            drop((stop, place));
        });
    }
    drop(stop);
    // No more connections will come; open ones go on until the process ends.
    drop(stacks);
    pending().await
}

/// Completes at a time. `None`: never.
async fn expiry(time: Option<SystemTime>) {
    match time {
        Some(time) => sleep(time.duration_since(SystemTime::now()).unwrap_or_default()).await,
        None => pending().await,
    }
}

fn ended(served: Result<(), server::Error>, addr: ClientAddr, log: &Throttle) {
    let Err(error) = served else { return };
    let (peer, via) = (addr.client, addr.via().map(tracing::field::display));
    if error.is_tls()
        && let Some(left_out) = log.admits()
    {
        tracing::warn!(
            %peer,
            via,
            left_out,
            "client speaks TLS to a listener that has no certificate; closing its connection"
        );
    } else if error.is_engine_limit()
        && let Some(left_out) = log.admits()
    {
        tracing::warn!(
            %peer,
            via,
            left_out,
            error = &error as &dyn Error,
            "client went beyond what HTTP/2 allows, as by a header list that is far too large; its connection was ended"
        );
    } else {
        tracing::debug!(%peer, via, error = &error as &dyn Error, "connection from client failed");
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

// === impl Opening ===

impl Opening {
    /// Reads the PROXY protocol header where one is expected, and shakes hands where there is TLS. `None`: one of them failed, and
    /// the connection is to be closed.
    async fn open(self, mut stream: Socket, peer: PeerAddr, proxy: Proxy) -> Option<Opened> {
        let Self { forwarded, rates, proxy_protocol, tls, by_client } = self;
        let addr = match proxy_protocol {
            None => ClientAddr::direct(peer),
            // Boxed, or the task of each connection would have its size.
            Some(receiver) => Box::pin(receiver.client_addr(&mut stream, peer)).await?,
        };
        let proxy = by_client.map_or(proxy, |clients| clients.proxy(addr, stream.local_addr()));
        let (transport, client, protocol, identity) = match tls {
            None => (Transport::Plain(stream), proxy::Client::default(), None, None),
            Some(tls) => {
                let tls::Accepted { stream, client, protocol, identity } = tls.accept(stream, addr.client).await?;
                (Transport::TlsServer(stream), client, protocol, identity)
            }
        };
        let expires = client.expires;
        let proxy = proxy.for_client(proxy::Client { addr: addr.client.tcp(), forwarded, rates, ..client });
        Some(Opened { addr, transport, proxy, protocol, expires, identity })
    }
}

// === impl Stack ===

impl Stack {
    fn new(plan: &Plan, stats: &Arc<Stats>) -> (Self, Connected) {
        let Plan {
            accept, limits, server, forwarded, rates, proxy_protocol, tls, destination, name, observers, ..
        } = plan;
        let (proxy, connected) = destination.connect(limits, stats);
        let asked = connected.clone();
        let server = server
            .clone()
            .count_on(Arc::clone(stats.transport(Peer::Client)))
            .extended_connect(move || asked.is_extended_connect_enabled());
        let log = Arc::default();
        let server = Arc::new(server);
        let opening = Opening {
            forwarded: *forwarded,
            rates: rates.clone(),
            proxy_protocol: proxy_protocol.clone(),
            tls: tls.server.clone(),
            by_client: destination.by_client(limits, stats).map(Arc::new),
        };
        let observers = observers.clone();
        (Self { server, proxy, tcp: *accept, opening, log, name, observers }, connected)
    }
}
