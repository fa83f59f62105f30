//! The state of one endpoint: its connections, how it is doing, and whether it accepts a request.

use crate::{
    Replay, SendRequest,
    balance::{
        breaker::Breaker,
        choice::Candidate,
        endpoint::{self, Status},
        error_chain::Chain,
        params::Params,
        peak_ewma::PeakEwma,
        queue::Queue,
        report::{Reports, Verdict},
        slow_start::SlowStart,
    },
    client::error::ConnectError,
};
use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

/// The state of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) id: u64,
    pub(super) addr: Arc<str>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) weight: f64,
    pub(super) priority: u16,
    /// Slow start, during which the share grows.
    pub(super) slow_start: SlowStart,
    /// The sum of 1 / share over the endpoint's requests; see [`Choice`].
    pub(super) virtual_time: f64,
    /// When the first request since the last response was sent, as [`PeakEwma`] has times. See [`PeakEwma::silence`].
    pub(super) silent_since: u64,
    pub(super) connections: Vec<Connection>,
    /// The error of the last attempt to connect, or that of a connection lost before any response. In HTTP/2 the latter stays
    /// until a connection that has answered or was stable closes.
    pub(super) failed: Option<Arc<ConnectError>>,
    /// Whether connections are made for requests that wait, as in HTTP/1.1: then the endpoint is ready without any.
    pub(super) on_demand: bool,
    /// Requests for each of which a connection is being made.
    pub(super) queue: Queue,
    /// Whether an attempt to connect is under way or requested.
    pub(super) is_connecting: bool,
    /// Whether an attempt has a transport, and waits for SETTINGS.
    pub(super) is_handshaking: bool,
    /// Whether the last attempt failed while other connections served: the endpoint accepts no more of them.
    pub(super) is_full: bool,
    /// When the last attempt to connect started.
    pub(super) last_attempt: Option<Instant>,
    pub(super) health: Arc<Health>,
    /// The reports of its health checks. `None`: it is not checked.
    pub(super) reports: Option<Reports>,
    /// The verdict of its health checks, as of its task. An endpoint that is not checked is healthy.
    pub(super) verdict: Verdict,
    /// Requests another connection from the endpoint's task.
    pub(super) demand: Arc<Notify>,
    pub(super) _task: AbortOnDrop,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) handle: SendRequest<Replay>,
    pub(super) used: Instant,
}

/// An endpoint's latency and failures, as measured on its requests.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) load: PeakEwma,
    pub(super) breaker: Breaker,
    pub(super) responses: ResponseCounters,
}

/// Responses of an endpoint that have ended.
#[derive(Debug, Default)]
pub(super) struct ResponseCounters {
    successes: AtomicU64,
    failures: AtomicU64,
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

/// A request that waits starts another attempt to connect this long after the last one, even during a backoff pause.
pub(super) const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

// === impl EndpointState ===

impl EndpointState {
    /// Whether requests can be sent to the endpoint, now or once a connection has been made for them.
    pub(super) fn is_ready(&self) -> bool {
        self.is_healthy() && ((self.on_demand && self.failed.is_none()) || self.is_connected())
    }

    /// Whether its health checks allow requests to it, or it has none.
    pub(super) fn is_healthy(&self) -> bool {
        self.verdict == Verdict::Healthy
    }

    /// Whether requests wait for the endpoint rather than go to one of a higher number of priority: it is connected, or is being
    /// connected to or checked and has not failed. An ejected endpoint is waited for by no request.
    pub(super) fn is_preferred(&self, params: &Params, now: Instant) -> bool {
        self.verdict != Verdict::Unhealthy
            && (self.failed.is_none() || self.is_connected())
            && (self.health.breaker.is_closed() || (self.can_send(params, now) && self.can_accept(params, false, now)))
    }

    /// Whether the endpoint is not ejected, or can be sent a probe. A request that waits for a connection is the probe then.
    pub(super) fn can_send(&self, params: &Params, now: Instant) -> bool {
        let breaker = &self.health.breaker;
        breaker.can_send(&params.breaker, now) && (self.queue.is_empty() || breaker.is_closed())
    }

    /// Whether the endpoint is ready, and either has not failed or has answered on one of its connections.
    pub(super) fn is_up(&self) -> bool {
        let has_answered = || self.connections.iter().any(|connection| connection.handle.has_answered());
        self.is_ready() && (self.failed.is_none() || has_answered())
    }

    fn is_connected(&self) -> bool {
        self.connections.iter().any(|connection| !connection.handle.is_closed())
    }

    /// Whether a stream can be opened now. Requests of clients that read leave alone a connection that is crowded, as long as
    /// another can be made.
    pub(super) fn has_free_stream(&self, params: &Params, is_stopped: bool, now: Instant) -> bool {
        let may_crowd = || is_stopped || self.has_all_connections(params, now);
        let mut connections = self.connections.iter();
        self.is_healthy()
            && connections
                .any(|connection| connection.free_streams(params) > 0 && (!connection.is_crowded() || may_crowd()))
    }

    /// Whether no further connection can be made, or not soon.
    fn has_all_connections(&self, params: &Params, now: Instant) -> bool {
        let is_slow = || self.last_attempt.is_some_and(|started| started + MIN_RETRY_INTERVAL <= now);
        self.is_full || self.connections.len() >= params.max_connections.get() || (self.is_connecting && is_slow())
    }

    /// Connections with a free stream.
    pub(super) fn idle_connections(&self, params: &Params) -> usize {
        self.connections.iter().filter(|connection| connection.free_streams(params) > 0).count()
    }

    /// Whether the endpoint accepts a request now, on a connection that it has or on one that can be made for the request.
    pub(super) fn can_accept(&self, params: &Params, is_stopped: bool, now: Instant) -> bool {
        self.has_free_stream(params, is_stopped, now)
            || (self.on_demand
                && self.is_healthy()
                && self.failed.is_none()
                && self.connections.len() + self.queue.len() < params.max_connections.get())
    }

    /// Whether another connection can help. It cannot while a connection's SETTINGS_MAX_CONCURRENT_STREAMS is zero: the
    /// endpoint accepts no streams for now.
    pub(super) fn can_use_more_connections(&self) -> bool {
        self.connections.iter().all(|connection| connection.handle.max_streams() > 0)
    }

    /// The connection with the fewest streams among the ones with a free stream, and whether another connection is needed:
    /// the free stream is the last one, or is on a crowded connection.
    ///
    /// Crowded connections come last, but for requests of clients that have stopped to read they come first: such clients
    /// share connections, so that they do not fill all of them.
    pub(super) fn connection(
        &mut self,
        params: &Params,
        is_stopped: bool,
        now: Instant,
    ) -> Option<(&mut Connection, bool)> {
        if !self.is_healthy() {
            return None;
        }
        let mut all_free = 0_usize;
        let mut best = None;
        for (index, connection) in self.connections.iter().enumerate() {
            let free_streams = connection.free_streams(params);
            if free_streams == 0 {
                continue;
            }
            let cost = (connection.is_crowded() != is_stopped, connection.handle.streams());
            all_free = all_free.saturating_add(free_streams);
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((index, cost));
            }
        }
        let (index, _) = best?;
        let is_crowded = !is_stopped && self.connections[index].is_crowded();
        if is_crowded && !self.has_all_connections(params, now) {
            return None;
        }
        let connection = &mut self.connections[index];
        Some((connection, all_free == 1 || is_crowded))
    }

    /// The endpoint's share of the requests, relative to the other endpoints' shares.
    pub(super) fn share(&self, params: &Params, now: Instant) -> f64 {
        self.weight * self.slow_start.factor(params.slow_start, now)
    }

    pub(super) fn candidate(&self, index: usize, params: &Params, now: Instant, nanos: u64) -> Candidate {
        let (load, in_flight) = (&self.health.load, self.streams() + self.queue.len());
        Candidate {
            index,
            share: self.share(params, now),
            in_flight,
            latency: load.cost(nanos),
            silence: if in_flight > 0 { load.silence(self.silent_since, nanos) } else { 0.0 },
            virtual_time: self.virtual_time,
        }
    }

    /// Notes that a request is about to be sent.
    pub(super) fn record_request(&mut self, now: u64) {
        if self.streams() == 0 || self.health.load.has_answered(self.silent_since) {
            self.silent_since = now;
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.connections.iter().map(|connection| connection.handle.streams()).sum()
    }

    pub(super) fn status(&self) -> Status {
        let open = || self.connections.iter().filter(|connection| !connection.handle.is_closed());
        let state = match (open().next(), &self.failed) {
            (Some(_), _) | (None, None) if !self.is_healthy() => endpoint::State::Unhealthy,
            (Some(_), _) if !self.health.breaker.is_closed() => endpoint::State::Ejected,
            (Some(_), _) => endpoint::State::Ready,
            (None, Some(_)) => endpoint::State::Failed,
            (None, None) if self.on_demand && !self.health.breaker.is_closed() => endpoint::State::Ejected,
            (None, None) if self.on_demand => endpoint::State::Ready,
            (None, None) => endpoint::State::Connecting,
        };
        Status {
            addr: self.addr.to_string(),
            labels: self.labels.clone(),
            // It was made of one.
            weight: self.weight as u32,
            priority: self.priority,
            state,
            connections: open().count(),
            streams: self.streams(),
            latency: self.health.load.average(),
            error: self.failed.as_ref().map(|error| Chain(&**error).to_string()),
            report: self.reports.as_ref().map(Reports::latest),
            responses: self.health.responses.get(),
        }
    }
}

// === impl ResponseCounters ===

impl ResponseCounters {
    pub(super) fn count(&self, is_failure: bool) {
        let counter = if is_failure { &self.failures } else { &self.successes };
        counter.fetch_add(1, Relaxed);
    }

    /// `None`: there was none yet, or none is counted.
    fn get(&self) -> Option<endpoint::ResponseCounts> {
        let [successes, failures] = [&self.successes, &self.failures].map(|counter| counter.load(Relaxed));
        (successes + failures > 0).then_some(endpoint::ResponseCounts { successes, failures })
    }
}

impl Connection {
    fn is_crowded(&self) -> bool {
        self.handle.connection_state().is_crowded()
    }

    /// Streams that can still be opened on the connection now.
    pub(super) fn free_streams(&self, params: &Params) -> usize {
        if self.handle.is_closed() {
            return 0;
        }
        let max = params.max_streams.map_or(usize::MAX, NonZeroUsize::get);
        self.handle.max_streams().min(max).saturating_sub(self.handle.streams())
    }
}

// === impl AbortOnDrop ===

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
