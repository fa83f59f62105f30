//! The state of the balancer and of each endpoint.

use crate::{
    Replay, SendRequest,
    balance::{
        breaker::Breaker,
        chain::Chain,
        choice::{Candidate, Choice, SlowStart},
        endpoint::{self, Status},
        load::Load,
        params::Params,
        queue::{Queue, Ticket},
    },
    client::error::ConnectError,
    message::answer::Answer,
};
use std::{mem, num::NonZeroUsize, sync::Arc, time::Duration};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

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
    /// Since when no endpoint has been up (see [`EndpointState::is_up`]). `None`: at least one is.
    down_since: Option<Instant>,
    /// Requests that wait for any endpoint.
    pub(super) queue: Queue,
    next_ticket: u64,
}

/// The state of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) id: u64,
    pub(super) addr: Arc<str>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) weight: f64,
    /// Slow start, during which the share grows.
    pub(super) slow_start: SlowStart,
    /// The sum of 1 / share over the endpoint's requests; see [`Choice`].
    pub(super) virtual_time: f64,
    /// When the first request since the last response was sent, as [`Load`] has times. See [`Load::silence`].
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
    pub(super) load: Load,
    pub(super) breaker: Breaker,
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

/// A request that waits starts another attempt to connect this long after the last one, even during a backoff pause.
pub(super) const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);
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
        avoid: Option<u64>,
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

    /// Requests further connections to endpoints that are ready, and attempts to connect to the others.
    pub(super) fn request_connections(&mut self, now: Instant) {
        for endpoint in &mut self.endpoints {
            if endpoint.is_ready() {
                if endpoint.can_use_more_connections() {
                    endpoint.demand.notify_one();
                }
            } else if !endpoint.is_connecting
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

    /// Whether an attempt to connect is likely to end soon, so that requests may wait for it: it has a transport already, or
    /// the attempt before failed at once, neither by a timeout nor by the loss of a connection without a response.
    pub(super) fn can_recover(&self) -> bool {
        self.endpoints.iter().filter(|endpoint| endpoint.is_connecting && !endpoint.is_ready()).any(|endpoint| {
            match &endpoint.failed {
                Some(error) => !error.is_timeout() && !error.is_lost(),
                None => endpoint.is_handshaking,
            }
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
        avoid: Option<u64>,
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

    /// Collects candidates: all endpoints that accept a request if they are few, or else a random sample weighted by share.
    /// `avoid` is a candidate only if there is no other.
    fn collect_candidates(&mut self, params: &Params, now: Instant, nanos: u64, avoid: Option<u64>, is_stopped: bool) {
        self.candidates.clear();
        let n = self.endpoints.len();
        if n > MAX_COMPARED * self.choice.largest_batch() {
            for _ in 0..MAX_DRAWS {
                let index = fastrand::usize(..n);
                let is_drawn = fastrand::f64() * self.max_weight < self.endpoints[index].share(params, now)
                    && self.candidates.iter().all(|candidate| candidate.index != index);
                if is_drawn && Some(self.endpoints[index].id) != avoid {
                    self.add_candidate(index, params, now, nanos, is_stopped);
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
                self.add_candidate(index, params, now, nanos, is_stopped);
            }
        }
        if self.candidates.is_empty()
            && let Some(index) = self.endpoints.iter().position(|endpoint| Some(endpoint.id) == avoid)
        {
            self.add_candidate(index, params, now, nanos, is_stopped);
        }
    }

    /// Makes an endpoint a candidate if it accepts a request.
    fn add_candidate(&mut self, index: usize, params: &Params, now: Instant, nanos: u64, is_stopped: bool) {
        let endpoint = &mut self.endpoints[index];
        if endpoint.can_accept(params, is_stopped, now) && endpoint.health.breaker.can_send(&params.breaker, now) {
            self.candidates.push(endpoint.candidate(index, params, now, nanos));
        } else {
            // The endpoint is not owed requests for the time in which it accepted none.
            endpoint.virtual_time = endpoint.virtual_time.max(self.choice.mean_virtual_time());
        }
    }

    /// Recomputes the balancer's state after a change of an endpoint, and wakes requests that wait.
    pub(super) fn recompute(&mut self) {
        self.choice.end_batch();
        self.max_weight = self.endpoints.iter().map(|endpoint| endpoint.weight).fold(0.0, f64::max);
        let (now, were_ready) = (Instant::now(), self.down_since.is_none());
        for endpoint in &mut self.endpoints {
            if endpoint.slow_start.update(endpoint.is_ready(), endpoint.failed.is_some(), were_ready, now) {
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
            return Answer::unavailable("no endpoint is ready");
        };
        match failures.first() {
            None => Answer::unavailable("no endpoints"),
            Some(error) if failures.iter().all(|error| error.is_timeout()) => {
                Answer::connect_timeout(format!("no endpoint can be reached: {}", Chain(&***error)))
            }
            Some(error) => Answer::bad_gateway(format!("no endpoint can be reached: {}", Chain(&***error))),
        }
    }
}

// === impl EndpointState ===

impl EndpointState {
    /// Whether requests can be sent to the endpoint, now or once a connection has been made for them.
    pub(super) fn is_ready(&self) -> bool {
        (self.on_demand && self.failed.is_none()) || self.is_connected()
    }

    /// Whether the endpoint is ready, and either has not failed or has answered on one of its connections.
    fn is_up(&self) -> bool {
        let has_answered = || self.connections.iter().any(|connection| connection.handle.has_answered());
        self.is_ready() && (self.failed.is_none() || has_answered())
    }

    fn is_connected(&self) -> bool {
        self.connections.iter().any(|connection| !connection.handle.is_closed())
    }

    /// Whether a stream can be opened now. Requests of clients that read leave alone a connection that is crowded, as long as
    /// another can be made.
    pub(super) fn has_free_stream(&self, params: &Params, is_stopped: bool, now: Instant) -> bool {
        self.connections
            .iter()
            .any(|connection| connection.free_streams(params) > 0 && (is_stopped || !connection.is_crowded()))
            || self.has_all_connections(params, now)
                && self.connections.iter().any(|connection| connection.free_streams(params) > 0)
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
    fn can_accept(&self, params: &Params, is_stopped: bool, now: Instant) -> bool {
        self.has_free_stream(params, is_stopped, now)
            || (self.on_demand
                && self.failed.is_none()
                && self.connections.len() + self.queue.len() < params.max_connections.get())
    }

    /// Whether another connection can help. It cannot while a connection's SETTINGS_MAX_CONCURRENT_STREAMS is zero: the
    /// endpoint accepts no streams for now.
    fn can_use_more_connections(&self) -> bool {
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
    fn share(&self, params: &Params, now: Instant) -> f64 {
        self.weight * self.slow_start.factor(params.slow_start, now)
    }

    fn candidate(&self, index: usize, params: &Params, now: Instant, nanos: u64) -> Candidate {
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
    fn record_request(&mut self, now: u64) {
        if self.streams() == 0 || self.health.load.has_answered(self.silent_since) {
            self.silent_since = now;
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.connections.iter().map(|connection| connection.handle.streams()).sum()
    }

    pub(super) fn status(&self, now: u64) -> Status {
        let open = || self.connections.iter().filter(|connection| !connection.handle.is_closed());
        let state = match (open().next(), &self.failed) {
            (Some(_), _) if !self.health.breaker.is_closed() => endpoint::State::Ejected,
            (Some(_), _) => endpoint::State::Ready,
            (None, Some(_)) => endpoint::State::Failed,
            (None, None) if self.on_demand => endpoint::State::Ready,
            (None, None) => endpoint::State::Connecting,
        };
        Status {
            addr: self.addr.to_string(),
            labels: self.labels.clone(),
            state,
            connections: open().count(),
            streams: self.streams(),
            latency: self.health.load.cost(now),
        }
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
