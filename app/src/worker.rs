//! Workers: threads that each have a runtime, a stack for each direction and their own connections to endpoints, and
//! share nothing on the path of a request but the count of those in flight.

use crate::{
    connector::TcpConnector,
    dns::Target,
    listener::set_options,
    tls::{self, Cleartext, Throttle, Tls, TlsConnector},
};
use app_env::{Direction, TcpParams};
use proxy_http::{
    Buffers, Connect, Endpoint, Endpoints, Proxy, Replay, Server, Stats, endpoints, proxy::Limits, server, stats::Peer,
};
use std::{
    error::Error,
    io, net,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc, watch},
};

/// What one worker serves, seen from outside of it.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Connections that clients have open here, those on their way included.
    open: Arc<AtomicU64>,
    /// One for each direction, as the stacks.
    pub(crate) stats: Vec<Arc<Stats>>,
    pub(crate) endpoints: Vec<Endpoints>,
}

/// What a worker needs to build its stack of one direction.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) direction: Arc<Direction>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) server: Server,
    pub(crate) endpoints: watch::Receiver<Vec<Endpoint<Target>>>,
    pub(crate) endpoint_params: endpoints::Params,
    pub(crate) tls: Tls,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The direction's index.
    pub(crate) direction: usize,
    pub(crate) stream: net::TcpStream,
    /// Holds its place while it is open.
    pub(crate) place: Place,
}

/// A connection's place among a worker's, and among those that clients may have open.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<AtomicU64>,
    _permit: OwnedSemaphorePermit,
}

/// All that serves one direction on one worker.
struct Stack {
    server: Server,
    proxy: Proxy,
    tcp: TcpParams,
    tls: Option<Arc<tls::Server>>,
    log: Arc<Throttle>,
}

/// Tasks that run before the system is asked for events again. A request takes several, so tokio's 61 asks in the
/// middle of the batch of requests that one read brought.
const EVENT_INTERVAL: u32 = 256;

// === impl Worker ===

impl Worker {
    /// Starts a thread, which ends with the process. It serves the connections that come through the channel, and
    /// drains them when `stop` turns true; it lets go of `stop` when the channel and the last connection are closed.
    pub(crate) fn spawn(
        index: usize,
        plans: &[Plan],
        stop: watch::Receiver<bool>,
    ) -> io::Result<(Self, mpsc::UnboundedSender<Accepted>)> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
        let stats: Vec<Arc<Stats>> = plans.iter().map(|_| Arc::default()).collect();
        let (stacks, endpoints) = {
            let _in_runtime = runtime.enter();
            plans.iter().zip(&stats).map(|(plan, stats)| Stack::new(plan, stats)).unzip()
        };
        let (connections, accepted) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(serve(stacks, accepted, stop)))?;
        Ok((Self { open: Arc::default(), stats, endpoints }, connections))
    }

    /// Connections that clients have open here, those on their way included.
    pub(crate) fn load(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Takes a place for a connection.
    pub(crate) fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        self.open.fetch_add(1, Relaxed);
        Place { open: Arc::clone(&self.open), _permit: permit }
    }
}

async fn serve(stacks: Vec<Stack>, mut accepted: mpsc::UnboundedReceiver<Accepted>, stop: watch::Receiver<bool>) {
    while let Some(Accepted { direction, stream, place }) = accepted.recv().await {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot serve a connection");
                continue;
            }
        };
        let Stack { server, proxy, tcp, tls, log } = &stacks[direction];
        set_options(&stream, tcp);
        let (server, proxy, mut stop) = (server.clone(), proxy.clone(), stop.clone());
        // A task ends when the client closes, or when the process drains. That `stop` lives in it holds the drain up.
        match tls.clone() {
            None => {
                let stream = Cleartext::new(stream, Arc::clone(log));
                tokio::spawn(async move {
                    let draining = async { _ = stop.wait_for(|stop| *stop).await };
                    ended(server.serve(stream, proxy, draining).await);
                    drop((stop, place));
                });
            }
            Some(tls) => {
                tokio::spawn(async move {
                    if let Some(tls::Accepted { stream, client }) = tls.accept(stream).await {
                        let draining = async { _ = stop.wait_for(|stop| *stop).await };
                        ended(server.serve(stream, proxy.for_client(client), draining).await);
                    }
                    drop((stop, place));
                });
            }
        }
    }
    drop(stop);
    // No more will come; those that are open go on until the process ends.
    drop(stacks);
    std::future::pending().await
}

fn ended(served: Result<(), server::Error>) {
    if let Err(error) = served {
        tracing::debug!(error = &error as &dyn Error, "connection from client failed");
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

// === impl Stack ===

impl Stack {
    fn new(plan: &Plan, stats: &Arc<Stats>) -> (Self, Endpoints) {
        let Plan { direction, limits, buffers, server, endpoints, endpoint_params, tls } = plan;
        let tcp = TcpConnector::new(direction.connect.tcp);
        let (list, params) = (endpoints.clone(), *endpoint_params);
        let endpoints = match &tls.client {
            None => Endpoints::spawn(list, &connect(tcp, direction, stats, buffers), params),
            Some(tls) => Endpoints::spawn(
                list,
                &connect(TlsConnector::new(tcp, Arc::clone(tls)), direction, stats, buffers),
                params,
            ),
        };
        let stack = Self {
            server: server.clone().count_on(Arc::clone(stats.transport(Peer::Client))),
            proxy: Proxy::new(endpoints.clone(), Arc::clone(limits), Arc::clone(stats)),
            tcp: direction.accept,
            tls: tls.server.clone(),
            log: Arc::default(),
        };
        (stack, endpoints)
    }
}

fn connect<C>(connector: C, direction: &Direction, stats: &Stats, buffers: &Arc<Buffers>) -> Connect<C, Replay> {
    let app_env::Connect { http2, timeout, .. } = &direction.connect;
    Connect::new(connector, http2)
        .expect("params are checked when they are read")
        .timeout(*timeout)
        .count_on(Arc::clone(stats.transport(Peer::Endpoint)))
        .buffer_in(Arc::clone(buffers))
}
