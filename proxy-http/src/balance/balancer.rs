//! State that requests and the tasks of endpoints share.

use crate::{
    Replay,
    balance::{
        breaker::Outcome,
        endpoint_state::{AbortOnDrop, Connection, EndpointState, Health},
        params::Params,
        priority::Avoid,
        report::Verdict,
        state::BalancerState,
    },
    client::{error::ConnectError, log::EndpointLog, send_request::OutgoingRequest},
    connection::now::now,
};
use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::time::Instant;

/// The state of a balancer, and its parameters.
#[derive(Debug)]
pub(super) struct Balancer {
    pub(super) params: Params,
    /// Whether connections to endpoints use HTTP/1.1.
    pub(super) http1: bool,
    pub(super) started: Instant,
    pub(super) state: Mutex<BalancerState>,
    /// Limits the log lines about endpoints, together with other balancers.
    pub(super) log: Arc<EndpointLog>,
    /// Requests that wait for a free stream.
    pub(super) waiting: AtomicUsize,
    pub(super) discovery: Mutex<Option<AbortOnDrop>>,
}

/// A request that was sent to an endpoint, and its outcome so far.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(super) endpoint: u64,
    /// `None`: there is one endpoint only, so its health is not measured.
    pub(super) health: Option<Arc<Health>>,
    /// See [`Balancer::nanos`].
    pub(super) sent: u64,
    /// Whether it tries if an ejected endpoint is back.
    pub(super) is_probe: bool,
    pub(super) outcome: Outcome,
    pub(super) answered: bool,
    /// Whether the request's deadline has passed while the endpoint was waited for.
    pub(super) timed_out: bool,
    /// Whether the endpoint was asked in vain, by which a probe has failed.
    pub(super) got_no_response: bool,
}

pub(super) const UNPOISONED: &str = "nothing panics with the lock held";

// === impl Balancer ===

impl Balancer {
    pub(super) fn new(params: Params, http1: bool, log: Arc<EndpointLog>) -> Self {
        Self {
            params,
            http1,
            started: Instant::now(),
            state: Mutex::new(BalancerState::new()),
            log,
            waiting: AtomicUsize::new(0),
            discovery: Mutex::new(None),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BalancerState> {
        self.state.lock().expect(UNPOISONED)
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// The time of sending, as [`nanos`](Self::nanos). `None`: there is one endpoint only, so its health is not measured.
    pub(super) fn sent_at(&self, state: &BalancerState, now: Instant) -> Option<u64> {
        (state.endpoints.len() > 1).then(|| self.nanos(now))
    }

    /// Sends a request to an endpoint. `None`: no connection has a free stream.
    pub(super) fn send(
        &self,
        endpoint: &mut EndpointState,
        sent: Option<u64>,
        req: &mut OutgoingRequest<Replay>,
        now: Instant,
    ) -> Option<Attempt> {
        let (connection, is_short) = endpoint.connection(&self.params, req.is_of_stopped_client(), now)?;
        connection.used = now;
        connection.handle.send(req);
        if is_short && !endpoint.on_demand {
            endpoint.demand.notify_one();
        }
        let health = sent.map(|_| Arc::clone(&endpoint.health));
        let is_probe = health.as_ref().is_some_and(|health| health.breaker.record_sent(&self.params.breaker, now));
        let sent = sent.unwrap_or_default();
        Some(Attempt {
            endpoint: endpoint.id,
            health,
            sent,
            is_probe,
            outcome: Outcome::Unknown,
            answered: false,
            timed_out: false,
            got_no_response: false,
        })
    }

    /// Wakes a request that waits, because a connection to this endpoint may have a free stream.
    pub(super) fn wake_waiting(&self, id: u64) {
        if !self.has_waiting() {
            return;
        }
        let mut state = self.lock();
        match state.endpoint(id) {
            Some(endpoint) if !endpoint.queue.is_empty() => endpoint.queue.wake_first(),
            _ => state.queue.wake_first(),
        }
    }

    /// Marks an endpoint as failed: an attempt to connect failed, or a connection was lost before any response. Requests
    /// that wait for the endpoint wait for any from now on.
    pub(super) fn fail(&self, id: u64, is_connecting: bool, error: ConnectError) {
        let mut state = self.lock();
        let Some(endpoint) = state.endpoint(id) else { return };
        (endpoint.failed, endpoint.is_connecting, endpoint.is_handshaking) =
            (Some(Arc::new(error)), is_connecting, false);
        let queue = mem::take(&mut endpoint.queue);
        state.requeue(queue);
        state.recompute();
    }

    /// Sets the verdict of an endpoint's health checks. Requests that wait for an endpoint that is not healthy wait for any
    /// from now on.
    pub(super) fn set_verdict(&self, id: u64, verdict: Verdict) {
        let mut state = self.lock();
        let Some(endpoint) = state.endpoint(id) else { return };
        endpoint.verdict = verdict;
        if !endpoint.is_healthy() {
            let queue = mem::take(&mut endpoint.queue);
            state.requeue(queue);
        }
        state.recompute();
    }

    /// A time as [`PeakEwma`](crate::balance::peak_ewma::PeakEwma) has it: nanoseconds since the balancer started.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn remove(&self, id: u64) {
        let mut state = self.lock();
        if let Some(index) = state.endpoints.iter().position(|endpoint| endpoint.id == id) {
            let EndpointState { addr, queue, .. } = state.endpoints.remove(index);
            self.log.forget(&addr);
            state.requeue(queue);
            state.recompute();
        }
    }

    /// Records the outcome of an attempt in the endpoint's health. `is_failure`: whether the response that has ended is a failure;
    /// `None`: there is none, or not of this attempt.
    pub(super) fn record_end(&self, attempt: Attempt, is_failure: Option<bool>) {
        let Attempt { endpoint, health, sent, is_probe, outcome, answered, timed_out, got_no_response } = attempt;
        let Some(Health { load, breaker, responses }) = health.as_deref() else { return };
        let now = now();
        if outcome == Outcome::Failure || timed_out {
            responses.count(true);
        } else if let Some(is_failure) = is_failure.filter(|_| answered) {
            responses.count(is_failure);
        }
        if !answered {
            load.observe_late(sent, self.nanos(now));
        }
        let outcome = if is_probe && got_no_response { Outcome::Failure } else { outcome };
        // Only a failure can eject, so only a failure takes the balancer's lock.
        if outcome != Outcome::Failure {
            breaker.record_outcome(outcome, is_probe, false, &self.params.breaker, now);
            return;
        }
        let mut state = self.lock();
        // At most half of the endpoints are ejected, with the unhealthy ones.
        let is_left_out = |endpoint: &&EndpointState| !endpoint.is_healthy() || !endpoint.health.breaker.is_closed();
        let ejected = state.endpoints.iter().filter(is_left_out).count();
        let may_eject = (ejected + 1) * 2 <= state.endpoints.len();
        if breaker.record_outcome(outcome, is_probe, may_eject, &self.params.breaker, now) {
            // Requests that wait for the endpoint wait for any from now on.
            if let Some(endpoint) = state.endpoint(endpoint) {
                let queue = mem::take(&mut endpoint.queue);
                state.requeue(queue);
            }
            state.recompute();
        }
    }

    /// Closes idle connections beyond `max_idle_connections`.
    pub(super) fn close_excess_idle(&self, id: u64) {
        let Some(max) = self.params.max_idle_connections else { return };
        let mut state = self.lock();
        let Some(endpoint) = state.endpoints.iter_mut().find(|endpoint| endpoint.id == id) else { return };
        let idle = |connection: &Connection| connection.free_streams(&self.params) > 0;
        let mut over =
            endpoint.connections.iter().filter(|connection| idle(connection)).count().saturating_sub(max.max(1));
        // Requests take the first idle connections, so the last ones are closed.
        while over > 0
            && let Some(last) = endpoint.connections.iter().rposition(idle)
        {
            endpoint.connections.remove(last);
            over -= 1;
        }
    }

    /// Changes an endpoint's state, unless the endpoint was removed.
    pub(super) fn update(&self, id: u64, change: impl FnOnce(&mut EndpointState)) {
        let mut state = self.lock();
        if let Some(endpoint) = state.endpoints.iter_mut().find(|endpoint| endpoint.id == id) {
            change(endpoint);
            endpoint.queue.wake_first();
            state.recompute();
        }
    }

    pub(super) fn inspect(&self, id: u64, inspect: impl FnOnce(&EndpointState)) {
        let mut state = self.lock();
        if let Some(endpoint) = state.endpoint(id) {
            inspect(endpoint);
        }
    }
}

// === impl Attempt ===

impl Attempt {
    /// The endpoint's id.
    pub(crate) fn endpoint(&self) -> u64 {
        self.endpoint
    }

    /// The endpoint, for a retry to avoid. `has_failed`: it may have failed, rather than not have got the request.
    pub(crate) fn avoid(&self, has_failed: bool) -> Avoid {
        Avoid { endpoint: self.endpoint, leaves_priority: has_failed }
    }

    /// Sets the outcome that is recorded when the attempt ends.
    pub(crate) fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        // The response to a probe may last. The outcome is a success when its head has come.
        if self.is_probe
            && outcome == Outcome::Success
            && let Some(health) = &self.health
        {
            health.breaker.record_answer(now());
        }
    }

    /// Notes that the request's deadline has passed while the endpoint was waited for. That counts as a failure of the endpoint, but
    /// ejects none: the client may have set a deadline that no endpoint can meet.
    pub(crate) fn set_timed_out(&mut self) {
        self.timed_out = true;
        self.got_no_response |= !self.answered;
    }

    /// Notes that the endpoint has reset the request before a response, or took no more of it. A probe has failed by that; other
    /// requests eject no endpoint by it, since the request itself may be the cause.
    pub(crate) fn set_no_response(&mut self) {
        self.got_no_response = true;
    }
}
