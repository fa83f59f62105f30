//! Keeps endpoints connected.

use crate::{
    BoxError, Connect, Replay, SendRequest,
    balance::{
        chain::Chain,
        params::Params,
        shared::Shared,
        state::{Connection, EndpointState, LEAST_PAUSE},
    },
    client::{
        error::ConnectError,
        log::{EndpointLog, State as LogState},
    },
    connection::state::{ConnectionState, GoAway},
};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::Reason;
use std::{
    future::{Future, pending, poll_fn},
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Instant, Interval, sleep_until},
};
use tower_service::Service;

/// Keeps an endpoint connected.
///
/// An endpoint of HTTP/2 has one connection, made ahead, and more when they are asked for. One of HTTP/1.1 has as many as
/// requests wait for: its server may have few to spare, so none is made before there is a request for it.
pub(super) struct EndpointTask {
    pub(super) id: u64,
    pub(super) addr: Arc<str>,
    pub(super) params: Params,
    pub(super) shared: Weak<Shared>,
    pub(super) log: Arc<EndpointLog>,
    /// Asks for another connection, and for one at once where the next attempt has to wait.
    pub(super) demand: Arc<Notify>,
    /// Whether connections are made for requests that wait, as in HTTP/1.1.
    pub(super) on_demand: bool,
    /// Those that are open: each tells when it takes no more requests.
    open: FuturesUnordered<Closing>,
    attempts: FuturesUnordered<Attempting>,
    /// Attempts that failed, and connections that were lost before they were of use, in a row.
    failures: u32,
    /// When the next attempt may start. `None`: now.
    resume_at: Option<Instant>,
    /// When the last attempt started.
    tried: Option<Instant>,
    /// When the last attempt started that came to a connection.
    succeeded: Option<Instant>,
    is_asked: bool,
    /// The last connection was lost before it was of use, and none has been of use since.
    is_losing: bool,
}

/// Boxed once a connection, as the next.
type Closing = Pin<Box<dyn Future<Output = Open> + Send>>;
type Attempting = Pin<Box<dyn Future<Output = (Instant, Result<SendRequest<Replay>, ConnectError>)> + Send>>;

/// A connection that was opened then.
struct Open {
    opened: Instant,
    connection_state: Arc<ConnectionState>,
}

/// A connection that lasted this long was of use, even if it has carried no response.
const STABLE: Duration = Duration::from_secs(1);
/// Attempts to connect to one endpoint at the same time: a listener's queue of connections is seldom longer than this.
const MAX_ATTEMPTS: usize = 128;
/// Idle connections are not looked for more often.
const MIN_REAP: Duration = Duration::from_millis(1);

// === impl EndpointTask ===

impl EndpointTask {
    pub(super) fn new(
        id: u64,
        addr: Arc<str>,
        shared: &Arc<Shared>,
        log: &Arc<EndpointLog>,
        demand: &Arc<Notify>,
    ) -> Self {
        Self {
            id,
            addr,
            params: shared.params,
            shared: Arc::downgrade(shared),
            log: Arc::clone(log),
            demand: Arc::clone(demand),
            on_demand: shared.http1,
            open: FuturesUnordered::new(),
            attempts: FuturesUnordered::new(),
            failures: 0,
            resume_at: None,
            tried: None,
            succeeded: None,
            is_asked: false,
            is_losing: false,
        }
    }

    pub(super) async fn keep<A, C>(mut self, target: A, mut connect: Connect<C, Replay>)
    where
        A: Clone + Send + 'static,
        C: Service<A> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let mut reap = self.params.max_idle.map(|idle| tokio::time::interval((idle / 2).max(MIN_REAP)));
        loop {
            self.start(&target, &connect);
            tokio::select! {
                Some((started, made)) = self.attempts.next() => self.made(started, made),
                Some(open) = self.open.next() => {
                    if let Some(go_away) = open.connection_state.go_away() {
                        self.gone_away(go_away, &mut connect);
                    }
                    self.closed(&open);
                }
                () = self.demand.notified() => self.asked(),
                () = resume(self.resume_at), if self.resume_at.is_some() => self.resume_at = None,
                () = tick(reap.as_mut()), if !self.open.is_empty() => self.reap(),
            }
        }
    }

    /// Starts the attempts that are wanted, unless there is a pause.
    fn start<A, C>(&mut self, target: &A, connect: &Connect<C, Replay>)
    where
        A: Clone + Send + 'static,
        C: Service<A> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        if self.resume_at.is_some() {
            return;
        }
        let missing = self.wanted().saturating_sub(self.attempts.len());
        if missing == 0 {
            return;
        }
        let now = Instant::now();
        for _ in 0..missing {
            let (mut connect, target) = (connect.clone(), target.clone());
            self.attempts.push(Box::pin(async move {
                let made = async {
                    poll_fn(|cx| connect.poll_ready(cx)).await?;
                    connect.call(target).await
                };
                (now, made.await)
            }));
        }
        self.tried = Some(now);
        self.update(|node| (node.is_trying, node.tried) = (true, Some(now)));
    }

    /// How many attempts there ought to be now.
    fn wanted(&mut self) -> usize {
        let max = self.params.max_connections.get();
        if !self.on_demand {
            let more = mem::take(&mut self.is_asked) && self.open.len() < max;
            return usize::from(self.open.is_empty() || more);
        }
        let mut wanted = 0;
        self.look(|node| {
            wanted = match node.failed {
                // Whether it can be connected to again.
                Some(_) => 1,
                None => {
                    let missing = node.queue.len().saturating_sub(node.idle(&self.params));
                    missing.min(max.saturating_sub(node.connections.len())).min(MAX_ATTEMPTS)
                }
            }
        });
        wanted
    }

    fn asked(&mut self) {
        self.is_asked = true;
        if self.tried.is_none_or(|tried| tried.elapsed() >= LEAST_PAUSE) {
            self.resume_at = None;
        }
    }

    fn made(&mut self, started: Instant, made: Result<SendRequest<Replay>, ConnectError>) {
        let is_trying = !self.attempts.is_empty();
        match made {
            Ok(handle) => {
                let now = Instant::now();
                if !self.is_losing && self.log.admits_state(&self.addr, LogState::Ready, now) {
                    tracing::info!(endpoint = %self.addr, "endpoint is ready");
                }
                (self.resume_at, self.succeeded) = (None, Some(started));
                let (closed, connection_state) = (handle.closed(), Arc::clone(handle.connection_state()));
                let mut is_kept = true;
                let is_wanted = self.shared.upgrade().is_some_and(|shared| shared.has_waiting());
                let is_losing = self.is_losing;
                self.update(|node| {
                    (node.is_trying, node.is_greeting) = (is_trying, false);
                    node.failed.take_if(|_| node.on_demand || !is_losing);
                    is_kept = !node.on_demand || is_wanted;
                    if is_kept {
                        node.connections.push(Connection { handle, used: now });
                    }
                });
                if is_kept {
                    self.open.push(Box::pin(async move {
                        closed.await;
                        Open { opened: now, connection_state }
                    }));
                }
            }
            Err(error) => {
                // Some of several that were made at once, or beside others that serve: its listener has no room for more.
                let has_room_for_fewer =
                    self.succeeded.is_some_and(|succeeded| succeeded >= started) || self.is_of_use();
                if has_room_for_fewer {
                    tracing::debug!(endpoint = %self.addr, error = %Chain(&error), "no further connection to the endpoint");
                    self.resume_at = Some(Instant::now() + self.params.backoff.pause(0));
                    return self.update(|node| (node.is_trying, node.is_greeting) = (is_trying, false));
                }
                self.failed(LogState::Unreachable, error);
            }
        }
    }

    /// A connection takes no more requests.
    fn closed(&mut self, Open { opened, connection_state }: &Open) {
        let mut by_peer = false;
        self.update(|node| {
            node.connections.retain(|connection| {
                let is_it = Arc::ptr_eq(connection.handle.connection_state(), connection_state);
                by_peer |= is_it;
                !is_it
            });
        });
        if self.open.is_empty() {
            tracing::debug!(endpoint = %self.addr, "connection to endpoint has closed");
        }
        if connection_state.has_answered() || !by_peer || opened.elapsed() >= STABLE {
            (self.failures, self.resume_at) = (0, None);
            if mem::take(&mut self.is_losing) {
                self.update(|node| node.failed = None);
            }
        } else if !(self.on_demand && self.is_of_use()) {
            self.is_losing = true;
            self.failed(LogState::Lost, ConnectError::lost());
        }
    }

    /// No connection came about, or none that was of use.
    fn failed(&mut self, state: LogState, error: ConnectError) {
        let now = Instant::now();
        if self.log.admits_state(&self.addr, state, now) {
            let message = match state {
                LogState::Lost => "endpoint closes its connections before any response",
                _ => "endpoint cannot be reached",
            };
            tracing::warn!(endpoint = %self.addr, error = %Chain(&error), "{message}");
        } else {
            tracing::debug!(endpoint = %self.addr, error = %Chain(&error), "endpoint still cannot be reached");
        }
        self.resume_at = Some(now + self.params.backoff.pause(self.failures));
        self.failures = self.failures.saturating_add(1);
        let is_trying = !self.attempts.is_empty();
        if let Some(shared) = self.shared.upgrade() {
            shared.fail(self.id, is_trying, error);
        }
    }

    /// The endpoint has ended a connection for an error.
    fn gone_away<C>(&self, GoAway { reason, text }: &GoAway, connect: &mut Connect<C, Replay>) {
        // gRFC A8 names the text; gRPC servers add it to the code.
        let too_many_pings = *reason == Reason::ENHANCE_YOUR_CALM && text.contains("too_many_pings");
        let interval = if too_many_pings { connect.slow_keep_alive() } else { None };
        if self.log.admits_go_away(&self.addr, Instant::now()) {
            tracing::warn!(endpoint = %self.addr, code = ?reason, error = %text, "endpoint ended a connection");
            if let Some(interval) = interval {
                tracing::warn!(endpoint = %self.addr, ?interval, "endpoint is sent fewer keep-alive PINGs");
            }
        }
    }

    /// Whether an open connection has carried a response.
    fn is_of_use(&self) -> bool {
        let mut is_of_use = false;
        self.look(|node| {
            let mut open = node.connections.iter().filter(|connection| !connection.handle.is_closed());
            is_of_use = open.any(|connection| connection.handle.has_answered());
        });
        is_of_use
    }

    /// Closes connections that nobody has used; of HTTP/2 one stays.
    fn reap(&mut self) {
        if self.is_losing && self.is_of_use() {
            self.is_losing = false;
            if self.log.admits_state(&self.addr, LogState::Ready, Instant::now()) {
                tracing::info!(endpoint = %self.addr, "endpoint is ready");
            }
        }
        let Some(max_idle) = self.params.max_idle else { return };
        let least = usize::from(!self.on_demand);
        self.update(|node| {
            let mut open = node.connections.len();
            node.connections.retain(|Connection { handle, used }| {
                let stays = open == least || handle.streams() > 0 || used.elapsed() < max_idle;
                open -= usize::from(!stays);
                stays
            });
        });
    }

    fn update(&self, change: impl FnOnce(&mut EndpointState)) {
        if let Some(shared) = self.shared.upgrade() {
            shared.update(self.id, change);
        }
    }

    fn look(&self, look: impl FnOnce(&EndpointState)) {
        if let Some(shared) = self.shared.upgrade() {
            shared.look(self.id, look);
        }
    }
}

async fn resume(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => _ = interval.tick().await,
        None => pending().await,
    }
}
