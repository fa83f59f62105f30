//! The task of an endpoint, which keeps it connected.

use crate::{
    BoxError, Connect, Replay, SendRequest,
    balance::{
        balancer::Balancer,
        endpoint_state::{Connection, EndpointState, MIN_RETRY_INTERVAL},
        error_chain::Chain,
        params::Params,
        report::{Reports, Verdict},
    },
    client::{
        error::ConnectError,
        log::{EndpointLog, LoggedState},
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

/// The task that keeps an endpoint connected.
///
/// An endpoint of HTTP/2 has one connection, made ahead, and more on demand. HTTP/1.1 has one request at a time on a
/// connection, and a server may accept few connections, so none is made before there is a request for it.
pub(super) struct EndpointTask {
    pub(super) id: u64,
    pub(super) addr: Arc<str>,
    pub(super) params: Params,
    pub(super) shared: Weak<Balancer>,
    pub(super) log: Arc<EndpointLog>,
    /// Requests another connection, at once even during a backoff pause.
    pub(super) demand: Arc<Notify>,
    /// Whether connections are made for requests that wait, as in HTTP/1.1.
    pub(super) on_demand: bool,
    /// Open connections: each completes when it accepts no more requests.
    open: FuturesUnordered<ClosedFuture>,
    attempts: FuturesUnordered<AttemptFuture>,
    /// Attempts that failed, and connections that were lost before any response, in a row.
    failures: u32,
    /// When the next attempt may start. `None`: now.
    resume_at: Option<Instant>,
    /// When the last attempt started.
    last_attempt: Option<Instant>,
    /// When the last successful attempt started.
    last_success: Option<Instant>,
    has_demand: bool,
    /// The last connection was lost before any response, and none has answered or been stable since.
    is_unstable: bool,
    /// The reports of the endpoint's health checks. `None`: it is not checked.
    reports: Option<Reports>,
}

/// Boxed once a connection, as is [`AttemptFuture`].
type ClosedFuture = Pin<Box<dyn Future<Output = OpenConnection> + Send>>;
type AttemptFuture = Pin<Box<dyn Future<Output = (Instant, Result<SendRequest<Replay>, ConnectError>)> + Send>>;

/// A connection, and when it was opened.
struct OpenConnection {
    opened: Instant,
    connection_state: Arc<ConnectionState>,
}

/// A connection that lasts this long is stable, even if it has carried no response.
const STABLE: Duration = Duration::from_secs(1);
/// Concurrent attempts to connect to one endpoint: the backlog of a listener is seldom longer.
const MAX_ATTEMPTS: usize = 128;
/// The shortest interval of checks for idle connections.
const MIN_IDLE_CHECK: Duration = Duration::from_millis(1);

// === impl EndpointTask ===

impl EndpointTask {
    pub(super) fn new(
        id: u64,
        addr: Arc<str>,
        shared: &Arc<Balancer>,
        log: &Arc<EndpointLog>,
        demand: &Arc<Notify>,
        reports: Option<Reports>,
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
            last_attempt: None,
            last_success: None,
            has_demand: false,
            is_unstable: false,
            reports,
        }
    }

    /// Runs until it is aborted. Borrows all that it needs, which a future that owned it would have room for twice: as its
    /// arguments, and as its local variables.
    pub(super) async fn run<A, C>(&mut self, target: &A, connect: &mut Connect<C, Replay>)
    where
        A: Clone + Send + Sync + 'static,
        C: Service<A> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let mut idle_check = self.params.max_idle.map(|idle| tokio::time::interval((idle / 2).max(MIN_IDLE_CHECK)));
        loop {
            self.start_attempts(target, connect);
            tokio::select! {
                Some((started, made)) = self.attempts.next() => self.handle_attempt(started, made),
                Some(open) = self.open.next() => {
                    if let Some(go_away) = open.connection_state.go_away() {
                        self.handle_go_away(go_away, connect);
                    }
                    self.handle_closed(&open);
                }
                () = self.demand.notified() => self.handle_demand(),
                verdict = changed(self.reports.as_mut()) => self.handle_verdict(verdict),
                () = resume(self.resume_at), if self.resume_at.is_some() => self.resume_at = None,
                () = tick(idle_check.as_mut()), if !self.open.is_empty() => self.close_idle(),
            }
        }
    }

    /// Starts the attempts that are wanted, unless during a backoff pause.
    fn start_attempts<A, C>(&mut self, target: &A, connect: &Connect<C, Replay>)
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
        let missing = self.attempts_wanted().saturating_sub(self.attempts.len());
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
        self.last_attempt = Some(now);
        self.update(|endpoint| (endpoint.is_connecting, endpoint.last_attempt) = (true, Some(now)));
    }

    /// The number of attempts that should be under way now.
    fn attempts_wanted(&mut self) -> usize {
        let max = self.params.max_connections.get();
        if !self.on_demand {
            let more = mem::take(&mut self.has_demand) && self.open.len() < max;
            return usize::from(self.open.is_empty() || more);
        }
        let mut wanted = 0;
        self.inspect(|endpoint| {
            wanted = match endpoint.failed {
                // One attempt finds out whether the endpoint accepts connections again.
                Some(_) => 1,
                None => {
                    let missing = endpoint.queue.len().saturating_sub(endpoint.idle_connections(&self.params));
                    missing.min(max.saturating_sub(endpoint.connections.len())).min(MAX_ATTEMPTS)
                }
            }
        });
        wanted
    }

    fn handle_demand(&mut self) {
        self.has_demand = true;
        if self.last_attempt.is_none_or(|last_attempt| last_attempt.elapsed() >= MIN_RETRY_INTERVAL) {
            self.resume_at = None;
        }
    }

    fn handle_attempt(&mut self, started: Instant, made: Result<SendRequest<Replay>, ConnectError>) {
        let is_connecting = !self.attempts.is_empty();
        match made {
            Ok(handle) => {
                let now = Instant::now();
                if !self.is_unstable && self.log.should_log_ready(&self.addr, now) {
                    tracing::info!(endpoint = %self.addr, "endpoint is ready");
                }
                (self.resume_at, self.last_success) = (None, Some(started));
                let (closed, connection_state) = (handle.closed(), Arc::clone(handle.connection_state()));
                let mut is_kept = true;
                let is_wanted = self.shared.upgrade().is_some_and(|shared| shared.has_waiting());
                let is_unstable = self.is_unstable;
                self.update(|endpoint| {
                    (endpoint.is_connecting, endpoint.is_handshaking) = (is_connecting, false);
                    endpoint.is_full = false;
                    endpoint.failed.take_if(|_| endpoint.on_demand || !is_unstable);
                    is_kept = !endpoint.on_demand || is_wanted;
                    if is_kept {
                        if endpoint.connections.is_empty() {
                            // Most endpoints have one, and a vector that grows begins with room for four.
                            endpoint.connections.reserve_exact(1);
                        }
                        endpoint.connections.push(Connection { handle, used: now });
                    }
                });
                if is_kept {
                    self.open.push(Box::pin(async move {
                        closed.await;
                        OpenConnection { opened: now, connection_state }
                    }));
                }
            }
            Err(error) => {
                // Other connections succeeded since this attempt started, or carry responses: the endpoint serves, but
                // accepts no more connections than these.
                let is_at_limit = self.last_success.is_some_and(|last_success| last_success >= started)
                    || self.has_answering_connection();
                if is_at_limit {
                    tracing::debug!(endpoint = %self.addr, error = %Chain(&error), "no further connection to the endpoint");
                    self.resume_at = Some(Instant::now() + self.params.backoff.pause(0));
                    return self.update(|endpoint| {
                        (endpoint.is_connecting, endpoint.is_handshaking, endpoint.is_full) =
                            (is_connecting, false, true);
                    });
                }
                self.handle_failure(LoggedState::Unreachable, error);
            }
        }
    }

    /// Removes a connection that accepts no more requests.
    fn handle_closed(&mut self, OpenConnection { opened, connection_state }: &OpenConnection) {
        let mut by_peer = false;
        self.update(|endpoint| {
            endpoint.connections.retain(|connection| {
                let is_same = Arc::ptr_eq(connection.handle.connection_state(), connection_state);
                by_peer |= is_same;
                !is_same
            });
        });
        if self.open.is_empty() {
            tracing::debug!(endpoint = %self.addr, "connection to endpoint has closed");
        }
        if connection_state.has_answered() || !by_peer || opened.elapsed() >= STABLE {
            (self.failures, self.resume_at) = (0, None);
            if mem::take(&mut self.is_unstable) {
                self.update(|endpoint| endpoint.failed = None);
            }
        } else if !(self.on_demand && self.has_answering_connection()) {
            self.is_unstable = true;
            self.handle_failure(LoggedState::Lost, ConnectError::lost());
        }
    }

    /// Logs that an attempt failed, or that a connection was lost before any response, and starts a backoff pause.
    fn handle_failure(&mut self, state: LoggedState, error: ConnectError) {
        let now = Instant::now();
        if self.log.should_log_state(&self.addr, state, Chain(&error).to_string(), now) {
            let message = match state {
                LoggedState::Lost => "endpoint closes its connections before any response",
                _ => "endpoint cannot be reached",
            };
            tracing::warn!(endpoint = %self.addr, error = %Chain(&error), "{message}");
        } else {
            tracing::debug!(endpoint = %self.addr, error = %Chain(&error), "endpoint still cannot be reached");
        }
        self.resume_at = Some(now + self.params.backoff.pause(self.failures));
        self.failures = self.failures.saturating_add(1);
        let is_connecting = !self.attempts.is_empty();
        if let Some(shared) = self.shared.upgrade() {
            shared.fail(self.id, is_connecting, error);
        }
    }

    /// Logs a GOAWAY with an error code, of either side, and sends fewer PINGs if the endpoint finds them too many.
    fn handle_go_away<C>(&self, go_away: &GoAway, connect: &mut Connect<C, Replay>) {
        let GoAway { reason, is_remote, text } = go_away;
        // gRFC A8: a gRPC server that gets too many PINGs sends GOAWAY with this code and text, and the client doubles its
        // keep-alive interval.
        let too_many_pings = *is_remote && *reason == Reason::ENHANCE_YOUR_CALM && text.contains("too_many_pings");
        let interval = if too_many_pings { connect.double_keep_alive_interval() } else { None };
        if self.log.should_log_go_away(&self.addr, Instant::now()) {
            let message = if *is_remote {
                "endpoint ended a connection"
            } else {
                "endpoint broke HTTP/2, so its connection was ended"
            };
            tracing::warn!(endpoint = %self.addr, code = ?reason, error = %text, "{message}");
            if let Some(interval) = interval {
                tracing::warn!(endpoint = %self.addr, ?interval, "endpoint is sent fewer keep-alive PINGs");
            }
        }
    }

    /// Follows the verdict of the endpoint's health checks.
    fn handle_verdict(&mut self, verdict: Verdict) {
        if verdict == Verdict::Healthy {
            // The check has just reached the endpoint.
            self.resume_at = None;
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.set_verdict(self.id, verdict);
        }
    }

    /// Whether an open connection has carried a response.
    fn has_answering_connection(&self) -> bool {
        let mut has_answering_connection = false;
        self.inspect(|endpoint| {
            let mut open = endpoint.connections.iter().filter(|connection| !connection.handle.is_closed());
            has_answering_connection = open.any(|connection| connection.handle.has_answered());
        });
        has_answering_connection
    }

    /// Closes connections without a request for `max_idle`, in HTTP/2 all but one.
    fn close_idle(&mut self) {
        if self.is_unstable && self.has_answering_connection() {
            self.is_unstable = false;
            if self.log.should_log_ready(&self.addr, Instant::now()) {
                tracing::info!(endpoint = %self.addr, "endpoint is ready");
            }
        }
        let Some(max_idle) = self.params.max_idle else { return };
        let least = usize::from(!self.on_demand);
        self.update(|endpoint| {
            let mut open = endpoint.connections.len();
            endpoint.connections.retain(|Connection { handle, used }| {
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

    fn inspect(&self, inspect: impl FnOnce(&EndpointState)) {
        if let Some(shared) = self.shared.upgrade() {
            shared.inspect(self.id, inspect);
        }
    }
}

async fn resume(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn changed(reports: Option<&mut Reports>) -> Verdict {
    match reports {
        Some(reports) => reports.changed().await,
        None => pending().await,
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => _ = interval.tick().await,
        None => pending().await,
    }
}
