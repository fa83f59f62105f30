//! The state of the balancer: its endpoints, the requests that wait, and the choice of an endpoint for each.

use crate::{
    balance::{
        choice::{Candidate, Choice},
        endpoint_state::{EndpointState, MIN_RETRY_INTERVAL},
        error_chain::Chain,
        params::Params,
        priority::{self, Avoid},
        queue::{Queue, Ticket},
        report::Verdict,
        slow_start::SlowStart,
    },
    message::answer::Answer,
};
use std::{mem, sync::Arc};
use tokio::time::Instant;

/// The state of the whole balancer.
#[derive(Debug)]
pub(super) struct BalancerState {
    pub(super) endpoints: Vec<EndpointState>,
    pub(super) next_id: u64,
    choice: Choice,
    /// The candidates of the last choice; kept for the vector's capacity.
    candidates: Vec<Candidate>,
    /// The largest weight of all endpoints.
    max_weight: f64,
    /// Whether endpoints differ in priority.
    has_priorities: bool,
    /// Since when no endpoint has been up (see [`EndpointState::is_up`]). `None`: at least one is.
    down_since: Option<Instant>,
    /// Requests that wait for any endpoint.
    pub(super) queue: Queue,
    next_ticket: u64,
}

/// Endpoints that a choice compares at most, for each request of a batch. Of more endpoints, [`SAMPLES`] are drawn at
/// random.
const MAX_COMPARED: usize = 8;
const SAMPLES: usize = 4;
/// Draws after which all endpoints are compared: few of them accept requests, or few have nearly all of the weight.
const MAX_DRAWS: usize = 32;

// === impl BalancerState ===

impl BalancerState {
    pub(super) fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            next_id: 0,
            choice: Choice::new(),
            candidates: Vec::new(),
            max_weight: 0.0,
            has_priorities: false,
            down_since: Some(Instant::now()),
            queue: Queue::default(),
            next_ticket: 0,
        }
    }

    /// Adds a request at the end of the queue, or at its old place if it has waited before and is to be sent again.
    pub(super) fn enqueue(&mut self, number: &mut Option<u64>) -> Arc<Ticket> {
        let ticket = Ticket::new(*number.get_or_insert_with(|| {
            self.next_ticket += 1;
            self.next_ticket
        }));
        self.queue.add(&ticket, None);
        ticket
    }

    /// Removes a request from its queue. If it was the first, wakes the next one.
    pub(super) fn dequeue(&mut self, ticket: &Ticket) {
        match ticket.endpoint_id() {
            None => self.queue.remove(ticket),
            Some(id) => _ = self.endpoint(id).map(|endpoint| endpoint.queue.remove(ticket)),
        }
    }

    /// The endpoint to which a waiting request can be sent now. If the chosen endpoint needs another connection for it, the
    /// request moves to that endpoint's queue.
    pub(super) fn endpoint_for(
        &mut self,
        ticket: &Arc<Ticket>,
        params: &Params,
        now: Instant,
        nanos: u64,
        avoid: Option<Avoid>,
        is_stopped: bool,
    ) -> Option<usize> {
        if let Some(id) = ticket.endpoint_id() {
            let index = self.endpoints.iter().position(|endpoint| endpoint.id == id)?;
            let endpoint = &self.endpoints[index];
            return (endpoint.queue.is_first(ticket) && endpoint.has_free_stream(params, is_stopped, now))
                .then_some(index);
        }
        if !self.queue.is_first(ticket) {
            return None;
        }
        let index = self.choose(params, now, nanos, avoid, is_stopped)?;
        let endpoint = &mut self.endpoints[index];
        if endpoint.has_free_stream(params, is_stopped, now) {
            return Some(index);
        }
        endpoint.queue.add(ticket, Some(endpoint.id));
        endpoint.demand.notify_one();
        let mut others = mem::take(&mut self.queue);
        others.remove(ticket);
        self.queue = others;
        None
    }

    /// Requests further connections to endpoints that are ready and in use, and attempts to connect to the others.
    pub(super) fn request_connections(&mut self, params: &Params, now: Instant) {
        let priority = self.priority(params, now, None, false);
        for endpoint in &mut self.endpoints {
            if endpoint.is_ready() {
                if priority.is_none_or(|priority| endpoint.priority == priority) && endpoint.can_use_more_connections()
                {
                    endpoint.demand.notify_one();
                }
            } else if endpoint.is_healthy()
                && !endpoint.is_connecting
                && endpoint.last_attempt.is_none_or(|last_attempt| last_attempt + MIN_RETRY_INTERVAL <= now)
            {
                (endpoint.is_connecting, endpoint.last_attempt) = (true, Some(now));
                endpoint.demand.notify_one();
            }
        }
    }

    /// Since when no endpoint has been up. `None`: at least one is.
    pub(super) fn down_since(&mut self) -> Option<Instant> {
        // An endpoint that failed is up again with its first response, which does not recompute the state.
        self.down_since = self.down_since.filter(|_| self.endpoints.iter().all(|endpoint| !endpoint.is_up()));
        self.down_since
    }

    /// Whether an endpoint may be ready soon, so that requests may wait for it. Its first health check is under way, or its
    /// attempt to connect is likely to end soon: it has a transport already, or the attempt before failed at once, neither by
    /// a timeout nor by the loss of a connection without a response.
    pub(super) fn can_recover(&self) -> bool {
        self.endpoints.iter().filter(|endpoint| !endpoint.is_ready()).any(|endpoint| match &endpoint.failed {
            _ if endpoint.verdict == Verdict::Unhealthy => false,
            Some(error) => endpoint.is_connecting && !error.is_timeout() && !error.is_lost(),
            None => endpoint.verdict == Verdict::Unchecked || endpoint.is_connecting && endpoint.is_handshaking,
        })
    }

    /// Whether an endpoint is connected whose SETTINGS do not enable extended CONNECT (RFC 8441 section 3).
    pub(super) fn has_endpoint_without_extended_connect(&self) -> bool {
        let mut connections = self.endpoints.iter().flat_map(|endpoint| &endpoint.connections);
        connections.any(|connection| !connection.handle.is_extended_connect_enabled())
    }

    pub(super) fn endpoint(&mut self, id: u64) -> Option<&mut EndpointState> {
        self.endpoints.iter_mut().find(|endpoint| endpoint.id == id)
    }

    /// Moves requests that wait for one endpoint to the queue for all endpoints.
    pub(super) fn requeue(&mut self, mut queue: Queue) {
        queue.drain().for_each(|ticket| self.queue.add(&ticket, None));
    }

    /// The endpoint to send a request to. `is_stopped`: it is of a client that has stopped to read.
    pub(super) fn choose(
        &mut self,
        params: &Params,
        now: Instant,
        nanos: u64,
        avoid: Option<Avoid>,
        is_stopped: bool,
    ) -> Option<usize> {
        if self.endpoints.len() < 2 {
            return self.endpoints.first().filter(|endpoint| endpoint.can_accept(params, is_stopped, now)).map(|_| 0);
        }
        if avoid.is_none()
            && let Some((index, step)) =
                self.choice.continue_batch(now, |index| self.endpoints[index].can_accept(params, is_stopped, now))
        {
            self.endpoints[index].virtual_time += step;
            return Some(index);
        }
        self.collect_candidates(params, now, nanos, avoid, is_stopped);
        let busy = self.candidates.iter().any(|candidate| candidate.in_flight > 0)
            || self.candidates.len() < self.endpoints.len()
                && self.endpoints.iter().any(|endpoint| endpoint.streams() > 0);
        let chosen = self.choice.choose(&mut self.candidates, now, busy)?;
        if !self.endpoints[chosen].health.breaker.is_closed() {
            // One request tries whether an ejected endpoint is back.
            self.choice.end_batch();
        }
        for candidate in &self.candidates {
            self.endpoints[candidate.index].virtual_time = candidate.virtual_time;
        }
        self.endpoints[chosen].record_request(nanos);
        Some(chosen)
    }

    /// Undoes a choice after which no request was sent.
    pub(super) fn undo_choice(&mut self, index: usize, params: &Params, now: Instant) {
        if self.endpoints.len() > 1 {
            let endpoint = &mut self.endpoints[index];
            endpoint.virtual_time -= 1.0 / endpoint.share(params, now);
        }
    }

    /// The priority of the endpoints that are in use. `None`: all are in use.
    fn priority(&self, params: &Params, now: Instant, avoid: Option<Avoid>, is_stopped: bool) -> Option<u16> {
        if self.has_priorities { priority::in_use(&self.endpoints, params, now, avoid, is_stopped) } else { None }
    }

    /// Collects candidates: all endpoints in use that accept a request if they are few, or else a random sample weighted by share.
    /// `avoid` is a candidate only if there is no other.
    fn collect_candidates(
        &mut self,
        params: &Params,
        now: Instant,
        nanos: u64,
        avoid: Option<Avoid>,
        is_stopped: bool,
    ) {
        self.candidates.clear();
        let priority = self.priority(params, now, avoid, is_stopped);
        let avoid = avoid.map(|avoid| avoid.endpoint);
        let n = self.endpoints.len();
        if n > MAX_COMPARED * self.choice.largest_batch() {
            for _ in 0..MAX_DRAWS {
                let index = fastrand::usize(..n);
                let is_drawn = fastrand::f64() * self.max_weight < self.endpoints[index].share(params, now)
                    && self.candidates.iter().all(|candidate| candidate.index != index);
                if is_drawn && Some(self.endpoints[index].id) != avoid {
                    self.add_candidate(index, priority, params, now, nanos, is_stopped);
                }
                if self.candidates.len() == SAMPLES {
                    return;
                }
            }
            self.candidates.clear();
        }
        // The first of equal candidates is chosen: a random start keeps all proxies from beginning with the same endpoint.
        let first = fastrand::usize(..n);
        for index in (first..n).chain(0..first) {
            if Some(self.endpoints[index].id) != avoid {
                self.add_candidate(index, priority, params, now, nanos, is_stopped);
            }
        }
        if self.candidates.is_empty()
            && let Some(index) = self.endpoints.iter().position(|endpoint| Some(endpoint.id) == avoid)
        {
            self.add_candidate(index, priority, params, now, nanos, is_stopped);
        }
    }

    /// Makes an endpoint a candidate if it accepts a request. `priority`: that of the endpoints in use.
    fn add_candidate(
        &mut self,
        index: usize,
        priority: Option<u16>,
        params: &Params,
        now: Instant,
        nanos: u64,
        is_stopped: bool,
    ) {
        let endpoint = &mut self.endpoints[index];
        let is_in_use = priority.is_none_or(|priority| endpoint.priority == priority);
        if is_in_use && endpoint.can_accept(params, is_stopped, now) && endpoint.can_send(params, now) {
            self.candidates.push(endpoint.candidate(index, params, now, nanos));
        } else {
            // The endpoint is not owed requests for the time in which it accepted none.
            endpoint.virtual_time = endpoint.virtual_time.max(self.choice.mean_virtual_time());
        }
    }

    /// Recomputes the balancer's state after a change of an endpoint, and wakes requests that wait.
    pub(super) fn recompute(&mut self) {
        self.choice.end_batch();
        self.has_priorities = self.endpoints.windows(2).any(|pair| pair[0].priority != pair[1].priority);
        self.max_weight = self.endpoints.iter().map(|endpoint| endpoint.weight).fold(0.0, f64::max);
        let (now, were_ready) = (Instant::now(), self.down_since.is_none());
        for endpoint in &mut self.endpoints {
            let has_failed = endpoint.failed.is_some() || endpoint.verdict == Verdict::Unhealthy;
            if endpoint.slow_start.update(endpoint.is_ready(), has_failed, were_ready, now) {
                endpoint.virtual_time = self.choice.mean_virtual_time();
            }
        }
        let down_since = self.down_since.unwrap_or(now);
        self.down_since = self.endpoints.iter().all(|endpoint| !endpoint.is_up()).then_some(down_since);
        if self.endpoints.iter().any(EndpointState::is_ready) {
            self.queue.wake_first();
        } else {
            self.endpoints.iter_mut().for_each(|endpoint| endpoint.slow_start = SlowStart::Skipped);
            // Each request may have to fail now, if no attempt to connect is left to wait for.
            self.queue.wake_all();
        }
    }

    /// The answer when no endpoint was ready in time, with the cause if all have failed.
    pub(super) fn not_ready_answer(&self) -> Answer {
        let Some(failures) = self.endpoints.iter().map(|endpoint| endpoint.failed.as_ref()).collect::<Option<Vec<_>>>()
        else {
            let is_unhealthy = self.endpoints.iter().any(|endpoint| endpoint.verdict == Verdict::Unhealthy);
            return Answer::no_endpoint(if is_unhealthy { "no endpoint is healthy" } else { "no endpoint is ready" });
        };
        match failures.first() {
            None => Answer::no_endpoint("no endpoints"),
            Some(error) if failures.iter().all(|error| error.is_timeout()) => {
                Answer::connect_timeout(format!("no endpoint can be reached: {}", Chain(&***error)))
            }
            Some(error) => Answer::connect_failed(format!("no endpoint can be reached: {}", Chain(&***error))),
        }
    }
}
