//! What is known of each endpoint, and the choice among them.

use crate::{
    Replay, SendRequest,
    balance::{
        breaker::Breaker,
        chain::Chain,
        choice::{Candidate, Choice, Start},
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

/// What all tasks know together.
#[derive(Debug)]
pub(super) struct State {
    pub(super) nodes: Vec<EndpointState>,
    pub(super) next_id: u64,
    choice: Choice,
    /// The endpoints among which the last choice was; kept for its capacity.
    candidates: Vec<Candidate>,
    /// The largest weight of all.
    heaviest: f64,
    /// Since when no endpoint could be sent to, but for those that lose each connection. `None`: one can.
    down_since: Option<Instant>,
    /// Requests that wait for any endpoint.
    pub(super) queue: Queue,
    next_ticket: u64,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) id: u64,
    pub(super) addr: Arc<str>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) weight: f64,
    /// Whether its share still grows.
    pub(super) start: Start,
    /// The sum of 1 / share over its requests; see [`Choice`].
    pub(super) virtual_time: f64,
    /// When the first request since the last response was sent, as [`Load`] has times.
    pub(super) asked: u64,
    pub(super) connections: Vec<Connection>,
    /// Why the last attempt to connect came to nothing, or the last connection, which the next one leaves until it is of use.
    pub(super) failed: Option<Arc<ConnectError>>,
    /// Whether connections are made for requests that wait, as in HTTP/1.1: then it needs none to be ready.
    pub(super) on_demand: bool,
    /// Requests for each of which it is being connected to.
    pub(super) queue: Queue,
    /// Whether an attempt to connect is under way, or has been asked for.
    pub(super) is_trying: bool,
    /// Whether such an attempt has a transport, and waits for SETTINGS.
    pub(super) is_greeting: bool,
    /// When the last attempt started.
    pub(super) tried: Option<Instant>,
    pub(super) health: Arc<Health>,
    /// Asks for another connection.
    pub(super) demand: Arc<Notify>,
    pub(super) _task: Task,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) handle: SendRequest<Replay>,
    pub(super) used: Instant,
}

/// What past requests tell of an endpoint.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) load: Load,
    pub(super) breaker: Breaker,
}

/// A task that ends with its handle.
#[derive(Debug)]
pub(super) struct Task(pub(super) AbortHandle);

/// A request that waits has an endpoint tried again that was last tried so long ago, whatever pause is left.
pub(super) const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// So many endpoints are compared at most for each request that a choice may be for. If there are more, [`DRAWN`] of them
/// are drawn at random and compared.
const FEW: usize = 8;
const DRAWN: usize = 4;
/// Draws, before all are compared after all: few endpoints have nearly all of the weight, or accept requests.
const DRAWS: usize = 32;

// === impl State ===

impl State {
    /// Without endpoints.
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            next_id: 0,
            choice: Choice::new(),
            candidates: Vec::new(),
            heaviest: 0.0,
            down_since: Some(Instant::now()),
            queue: Queue::default(),
            next_ticket: 0,
        }
    }

    /// A place at the end of the queue, or the old one of a request that has waited before and is to be sent again.
    pub(super) fn queue_up(&mut self, number: &mut Option<u64>) -> Arc<Ticket> {
        let ticket = Ticket::new(*number.get_or_insert_with(|| {
            self.next_ticket += 1;
            self.next_ticket
        }));
        self.queue.add(&ticket, None);
        ticket
    }

    /// Gives a place up, and tells who is next.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        match ticket.node() {
            None => self.queue.remove(ticket),
            Some(id) => _ = self.node(id).map(|node| node.queue.remove(ticket)),
        }
    }

    /// The endpoint that a request which waits can be sent to now, if any. Where there is one that is yet to be connected to
    /// for it, the request waits for that.
    pub(super) fn turn(
        &mut self,
        ticket: &Arc<Ticket>,
        params: &Params,
        now: Instant,
        nanos: u64,
        avoid: Option<u64>,
    ) -> Option<usize> {
        if let Some(id) = ticket.node() {
            let index = self.nodes.iter().position(|node| node.id == id)?;
            let node = &self.nodes[index];
            return (node.queue.is_first(ticket) && node.has_room(params)).then_some(index);
        }
        if !self.queue.is_first(ticket) {
            return None;
        }
        let index = self.choose(params, now, nanos, avoid)?;
        let node = &mut self.nodes[index];
        if node.has_room(params) {
            return Some(index);
        }
        node.queue.add(ticket, Some(node.id));
        node.demand.notify_one();
        let mut others = mem::take(&mut self.queue);
        others.remove(ticket);
        self.queue = others;
        None
    }

    /// Has more connections made for requests that wait, and endpoints that are down tried again.
    pub(super) fn ask(&mut self, now: Instant) {
        for node in &mut self.nodes {
            if node.is_ready() {
                if node.may_have_more() {
                    node.demand.notify_one();
                }
            } else if !node.is_trying && node.tried.is_none_or(|tried| tried + LEAST_PAUSE <= now) {
                (node.is_trying, node.tried) = (true, Some(now));
                node.demand.notify_one();
            }
        }
    }

    /// Since when there is nothing but to wait, or to fail. `None`: an endpoint is up.
    pub(super) fn down_since(&mut self) -> Option<Instant> {
        // One that had lost its connections may have answered by now.
        self.down_since = self.down_since.filter(|_| self.nodes.iter().all(|node| !node.is_up()));
        self.down_since
    }

    /// Whether an attempt to connect is worth waiting for: it has a transport already, or the one before was refused and neither
    /// timed out nor was of no use, so that this one will not take long either.
    pub(super) fn may_recover(&self) -> bool {
        self.nodes.iter().filter(|node| node.is_trying && !node.is_ready()).any(|node| match &node.failed {
            Some(error) => !error.is_timeout() && !error.is_lost(),
            None => node.is_greeting,
        })
    }

    /// Whether an endpoint is connected that does not take extended CONNECT.
    pub(super) fn refuses_extended_connect(&self) -> bool {
        let mut connections = self.nodes.iter().flat_map(|node| &node.connections);
        connections.any(|connection| !connection.handle.takes_extended_connect())
    }

    pub(super) fn node(&mut self, id: u64) -> Option<&mut EndpointState> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    /// Has the requests that wait for one endpoint look for another.
    pub(super) fn release(&mut self, mut queue: Queue) {
        queue.take().for_each(|ticket| self.queue.add(&ticket, None));
    }

    /// The endpoint to send a request to.
    pub(super) fn choose(&mut self, params: &Params, now: Instant, nanos: u64, avoid: Option<u64>) -> Option<usize> {
        if self.nodes.len() < 2 {
            return self.nodes.first().filter(|node| node.takes(params)).map(|_| 0);
        }
        if avoid.is_none()
            && let Some((index, step)) = self.choice.stay(now, |index| self.nodes[index].takes(params))
        {
            self.nodes[index].virtual_time += step;
            return Some(index);
        }
        self.gather(params, now, nanos, avoid);
        let busy = self.candidates.iter().any(|candidate| candidate.in_flight > 0)
            || self.candidates.len() < self.nodes.len() && self.nodes.iter().any(|node| node.streams() > 0);
        let chosen = self.choice.choose(&mut self.candidates, now, busy)?;
        for candidate in &self.candidates {
            self.nodes[candidate.index].virtual_time = candidate.virtual_time;
        }
        self.nodes[chosen].is_asked(nanos);
        Some(chosen)
    }

    /// Takes a choice back that no request was sent after.
    pub(super) fn take_back(&mut self, index: usize, params: &Params, now: Instant) {
        if self.nodes.len() > 1 {
            let node = &mut self.nodes[index];
            node.virtual_time -= 1.0 / node.share(params, now);
        }
    }

    /// Makes endpoints candidates that accept a request: all if they are few, or else some at random, according to their
    /// shares. `avoid` is one only if there is no other.
    fn gather(&mut self, params: &Params, now: Instant, nanos: u64, avoid: Option<u64>) {
        self.candidates.clear();
        let n = self.nodes.len();
        if n > FEW * self.choice.largest() {
            for _ in 0..DRAWS {
                let index = fastrand::usize(..n);
                let is_drawn = fastrand::f64() * self.heaviest < self.nodes[index].share(params, now)
                    && self.candidates.iter().all(|candidate| candidate.index != index);
                if is_drawn && Some(self.nodes[index].id) != avoid {
                    self.offer(index, params, now, nanos);
                }
                if self.candidates.len() == DRAWN {
                    return;
                }
            }
            self.candidates.clear();
        }
        // From anywhere, so that not all proxies begin with the same one.
        let first = fastrand::usize(..n);
        for index in (first..n).chain(0..first) {
            if Some(self.nodes[index].id) != avoid {
                self.offer(index, params, now, nanos);
            }
        }
        if self.candidates.is_empty()
            && let Some(index) = self.nodes.iter().position(|node| Some(node.id) == avoid)
        {
            self.offer(index, params, now, nanos);
        }
    }

    /// Makes an endpoint a candidate if it accepts a request.
    fn offer(&mut self, index: usize, params: &Params, now: Instant, nanos: u64) {
        let node = &mut self.nodes[index];
        if node.takes(params) && node.health.breaker.admits(&params.breaker, now) {
            self.candidates.push(node.candidate(index, params, now, nanos));
        } else {
            // It is owed nothing for the time in which it accepts no requests.
            node.virtual_time = node.virtual_time.max(self.choice.mean());
        }
    }

    /// Takes notice of a change, and tells those who wait for one.
    pub(super) fn reckon(&mut self) {
        self.choice.end_batch();
        self.heaviest = self.nodes.iter().map(|node| node.weight).fold(0.0, f64::max);
        let (now, were_ready) = (Instant::now(), self.down_since.is_none());
        for node in &mut self.nodes {
            if node.start.update(node.is_ready(), node.failed.is_some(), were_ready, now) {
                node.virtual_time = self.choice.mean();
            }
        }
        let down_since = self.down_since.unwrap_or(now);
        self.down_since = self.nodes.iter().all(|node| !node.is_up()).then_some(down_since);
        if self.nodes.iter().any(EndpointState::is_ready) {
            self.queue.wake_first();
        } else {
            self.nodes.iter_mut().for_each(|node| node.start = Start::Together);
            // None of them may have anything to wait for any more.
            self.queue.wake_all();
        }
    }

    /// What to answer when no endpoint got ready in time: why, if all have failed, or else just that.
    pub(super) fn unready(&self) -> Answer {
        let Some(failures) = self.nodes.iter().map(|node| node.failed.as_ref()).collect::<Option<Vec<_>>>() else {
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
    /// Whether requests can be sent to it, now or once it has been connected to for them.
    pub(super) fn is_ready(&self) -> bool {
        (self.on_demand && self.failed.is_none()) || self.is_connected()
    }

    /// Whether it is ready, and its last connection was of use or this one is.
    fn is_up(&self) -> bool {
        let has_answered = || self.connections.iter().any(|connection| connection.handle.has_answered());
        self.is_ready() && (self.failed.is_none() || has_answered())
    }

    fn is_connected(&self) -> bool {
        self.connections.iter().any(|connection| !connection.handle.is_closed())
    }

    pub(super) fn has_room(&self, params: &Params) -> bool {
        self.connections.iter().any(|connection| connection.room(params) > 0)
    }

    /// Connections that could take a request.
    pub(super) fn idle(&self, params: &Params) -> usize {
        self.connections.iter().filter(|connection| connection.room(params) > 0).count()
    }

    /// Whether it takes a request now, on a connection that it has or on one that can be made for it.
    fn takes(&self, params: &Params) -> bool {
        self.has_room(params)
            || (self.on_demand
                && self.failed.is_none()
                && self.connections.len() + self.queue.len() < params.max_connections.get())
    }

    /// Whether another connection would help; one does not where the endpoint takes no streams at all for now.
    fn may_have_more(&self) -> bool {
        self.connections.iter().all(|connection| connection.handle.max_streams() > 0)
    }

    /// The connection with the fewest streams among those with room, and whether this takes the last room of all.
    pub(super) fn connection(&mut self, params: &Params) -> Option<(&mut Connection, bool)> {
        let mut rooms = 0_usize;
        let mut best = None;
        for (index, connection) in self.connections.iter().enumerate() {
            let room = connection.room(params);
            rooms = rooms.saturating_add(room);
            let streams = connection.handle.streams();
            if room > 0 && best.is_none_or(|(_, fewest)| streams < fewest) {
                best = Some((index, streams));
            }
        }
        let (index, _) = best?;
        Some((&mut self.connections[index], rooms == 1))
    }

    /// Its share of the requests, against other endpoints' shares.
    fn share(&self, params: &Params, now: Instant) -> f64 {
        self.weight * self.start.part(params.slow_start, now)
    }

    fn candidate(&self, index: usize, params: &Params, now: Instant, nanos: u64) -> Candidate {
        let (load, in_flight) = (&self.health.load, self.streams() + self.queue.len());
        Candidate {
            index,
            share: self.share(params, now),
            in_flight,
            latency: load.cost(nanos),
            silence: if in_flight > 0 { load.silence(self.asked, nanos) } else { 0.0 },
            virtual_time: self.virtual_time,
        }
    }

    /// A request is about to be sent.
    fn is_asked(&mut self, now: u64) {
        if self.streams() == 0 || self.health.load.has_answered(self.asked) {
            self.asked = now;
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
    /// Streams that it may still take.
    pub(super) fn room(&self, params: &Params) -> usize {
        if self.handle.is_closed() {
            return 0;
        }
        let max = params.max_streams.map_or(usize::MAX, NonZeroUsize::get);
        self.handle.max_streams().min(max).saturating_sub(self.handle.streams())
    }
}

// === impl Task ===

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
