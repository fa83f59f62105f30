//! What is known of each endpoint, and the choice among them.

use super::{
    Chain, Params, Task,
    keeper::LEAST_PAUSE,
    queue::{Queue, Ticket},
};
use crate::{
    Replay, SendRequest,
    answer::Answer,
    breaker::Breaker,
    client::ConnectError,
    endpoint::{State as EndpointState, Status},
    load::Load,
};
use std::{mem, num::NonZeroUsize, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// What all tasks know together.
#[derive(Debug)]
pub(super) struct State {
    pub(super) nodes: Vec<Node>,
    pub(super) next_id: u64,
    /// How often an endpoint was chosen.
    choices: u64,
    /// Where requests go that come together with the one before. `None`: each is for itself.
    batch: Option<Batch>,
    /// Since when no endpoint could be sent to. `None`: one can.
    pub(super) down_since: Option<Instant>,
    /// Requests that wait for any endpoint.
    pub(super) queue: Queue,
    next_ticket: u64,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) addr: Arc<str>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) weight: f64,
    /// Which of all choices fell on it last.
    pub(super) chosen: u64,
    pub(super) connections: Vec<Connection>,
    /// Why the last attempt to connect, or the last connection, came to nothing.
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

/// Requests that came together and go to one endpoint: then their answers come together, too, and many are written at
/// once. That saves most of what several endpoints cost more than one.
#[derive(Clone, Copy, Debug)]
struct Batch {
    node: usize,
    /// Requests of this poll belong to it.
    last: Instant,
    /// So do those of others, until then.
    until: Instant,
    requests: usize,
}

/// Endpoints whose latencies differ by less than this factor are taken for equal, and so are those that are [`FAST`]: on
/// fast networks noise is larger, and who is left alone for it can't show that it was.
const EQUAL: f64 = 2.0;
/// Reads that come within this time of the first go to one endpoint, until they have brought so many requests. A quiet
/// proxy's are each for itself.
const TOGETHER: Duration = Duration::from_micros(500);
const MAX_BATCH: usize = 64;
/// The requests of one read stay together up to so many: those that are parted once are answered apart, and so come apart
/// from then on.
const MAX_READ: usize = 256;
/// But only to one that answers within this, so that a batch does not wait long. With what it has to wait, the endpoint
/// is not fast any more, and the next requests are spread.
const FAST: Duration = Duration::from_millis(2);

// === impl State ===

impl State {
    /// Without endpoints.
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            next_id: 0,
            choices: 0,
            batch: None,
            down_since: Some(Instant::now()),
            queue: Queue::default(),
            next_ticket: 0,
        }
    }

    /// A place at the end of the queue.
    pub(super) fn queue_up(&mut self) -> Arc<Ticket> {
        let ticket = Ticket::new(self.next_ticket);
        self.next_ticket += 1;
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

    /// Whether an attempt to connect is worth waiting for: it has a transport already, or the one before was refused and did
    /// not time out, so that this one will not take long either.
    pub(super) fn may_recover(&self) -> bool {
        self.nodes.iter().filter(|node| node.is_trying && !node.is_ready()).any(|node| match &node.failed {
            Some(error) => !error.is_timeout(),
            None => node.is_greeting,
        })
    }

    /// Whether an endpoint is connected that does not take extended CONNECT.
    pub(super) fn refuses_extended_connect(&self) -> bool {
        let mut connections = self.nodes.iter().flat_map(|node| &node.connections);
        connections.any(|connection| !connection.handle.takes_extended_connect())
    }

    pub(super) fn node(&mut self, id: u64) -> Option<&mut Node> {
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
        if let Some(Batch { node, last, until, requests }) = &mut self.batch
            && (now == *last && *requests < MAX_READ || now < *until && *requests < MAX_BATCH)
            && avoid.is_none()
            && self.nodes[*node].takes(params)
        {
            *last = now;
            *requests += 1;
            return Some(*node);
        }
        let busy = self.nodes.iter().any(|node| node.streams() > 0);
        let node = self.choose_anew(params, now, nanos, avoid)?;
        let fast = self.nodes[node].health.load.cost(nanos).is_some_and(|cost| cost < FAST.as_secs_f64());
        let until = if busy { now + TOGETHER } else { now };
        self.choices += 1;
        self.nodes[node].chosen = self.choices;
        self.batch = fast.then_some(Batch { node, last: now, until, requests: 1 });
        Some(node)
    }

    /// The better of two endpoints taken at random, or any that takes a request.
    fn choose_anew(&self, params: &Params, now: Instant, nanos: u64, avoid: Option<u64>) -> Option<usize> {
        let n = self.nodes.len();
        let takes = |index: usize, avoid: Option<u64>| {
            let node = &self.nodes[index];
            Some(node.id) != avoid && node.takes(params) && node.health.breaker.admits(&params.breaker, now)
        };
        let first = fastrand::usize(..n);
        let second = (first + fastrand::usize(1..n)) % n;
        match (takes(first, avoid), takes(second, avoid)) {
            (true, true) => {
                let costs = Node::costs(&self.nodes[first], &self.nodes[second], params, nanos);
                let asked = |i: usize, index: usize| costs[i] * (self.nodes[index].streams() + 1) as f64;
                // Of two that are the same, the one that was not chosen for longer: batches are too few for chance to be fair.
                let order = asked(0, first).total_cmp(&asked(1, second));
                let order = order.then_with(|| self.nodes[first].chosen.cmp(&self.nodes[second].chosen));
                Some(if order.is_gt() { second } else { first })
            }
            (true, false) => Some(first),
            (false, true) => Some(second),
            (false, false) => {
                let others = || (0..n).map(|i| (first + i) % n);
                others().find(|&i| takes(i, avoid)).or_else(|| others().find(|&i| takes(i, None)))
            }
        }
    }

    /// Takes notice of a change, and tells those who wait for one.
    pub(super) fn reckon(&mut self) {
        self.batch = None;
        if self.nodes.iter().any(Node::is_ready) {
            self.down_since = None;
            self.queue.wake_first();
        } else {
            self.down_since.get_or_insert_with(Instant::now);
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

// === impl Node ===

impl Node {
    /// Whether requests can be sent to it, now or once it has been connected to for them.
    pub(super) fn is_ready(&self) -> bool {
        (self.on_demand && self.failed.is_none()) || self.is_connected()
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

    /// What a request in flight on each of two endpoints counts.
    fn costs(a: &Self, b: &Self, params: &Params, now: u64) -> [f64; 2] {
        let costs = match [a, b].map(|node| node.health.load.cost(now).map(|cost| cost.max(FAST.as_secs_f64()))) {
            [Some(a), Some(b)] if a > EQUAL * b || b > EQUAL * a => [a, b],
            _ => [1.0, 1.0],
        };
        let share = |node: &Self| node.weight * node.health.load.share(params.slow_start, now);
        [costs[0] / share(a), costs[1] / share(b)]
    }

    pub(super) fn streams(&self) -> usize {
        self.connections.iter().map(|connection| connection.handle.streams()).sum::<usize>() + self.queue.len()
    }

    pub(super) fn status(&self, now: u64) -> Status {
        let open = || self.connections.iter().filter(|connection| !connection.handle.is_closed());
        let state = match (open().next(), &self.failed) {
            (Some(_), _) if !self.health.breaker.is_closed() => EndpointState::Ejected,
            (Some(_), _) => EndpointState::Ready,
            (None, Some(_)) => EndpointState::Failed,
            (None, None) if self.on_demand => EndpointState::Ready,
            (None, None) => EndpointState::Connecting,
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
