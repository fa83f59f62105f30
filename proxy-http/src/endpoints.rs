//! Connections to a changing set of endpoints, and a choice among them for each request.

use crate::{
    BoxError, Connect, Endpoint, Replay, SendRequest,
    answer::Answer,
    breaker::{self, Breaker, Outcome},
    client::{ConnectError, Outgoing},
    endpoint::{State as EndpointState, Status},
    load::Load,
    now::now,
};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::{
    error::Error as StdError,
    fmt,
    future::{Future, pending, poll_fn},
    num::NonZeroUsize,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, Interval},
};
use tower_service::Service;

/// Connections to a set of endpoints that may change, each made anew when it is lost; clones share them.
///
/// A request goes to the better of two endpoints taken at random: the one with fewer requests in flight for its
/// weight, or, if their latencies differ much, with less latency times requests in flight. On an endpoint it goes to
/// the connection with the fewest streams. The connections are given up when the last clone is dropped.
#[derive(Clone)]
pub struct Endpoints {
    shared: Arc<Shared>,
}

/// How endpoints are kept and chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Pauses between attempts to connect to an endpoint.
    pub backoff: Backoff,
    /// Connections to one endpoint at most; another is opened when all have as many streams as they take.
    pub max_connections: NonZeroUsize,
    /// Streams on a connection at most, if its peer takes more. `None`: as many as the peer takes.
    pub max_streams: Option<NonZeroUsize>,
    /// How long a connection may go without a request before it is closed; the last one stays. `None`: for ever.
    pub max_idle: Option<Duration>,
    /// Connections of HTTP/1.1 to one endpoint that are kept without a request; more are closed when their request ends,
    /// but for the last. `None`: as many as there are.
    pub max_idle_connections: Option<usize>,
    /// How long an endpoint that has just come gets less than its share. Zero: it gets all of it at once.
    pub slow_start: Duration,
    /// When an endpoint that keeps failing is left alone.
    pub breaker: breaker::Params,
}

/// Pauses between attempts to connect: from `min`, doubled each time, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first pause.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
    /// What part of a pause is added to it at most, at random: 0.1 makes 1 s last up to 1.1 s.
    pub jitter: f64,
}

/// What one request tells of the endpoint it went to.
#[derive(Debug)]
pub(crate) struct Attempt {
    endpoint: u64,
    /// `None`: there is nothing to choose, so nothing needs to be known.
    health: Option<Arc<Health>>,
    /// See [`Shared::nanos`].
    sent: u64,
    outcome: Outcome,
    answered: bool,
}

#[derive(Debug)]
struct Shared {
    params: Params,
    /// Endpoints are spoken to in HTTP/1.1.
    http1: bool,
    started: Instant,
    state: Mutex<State>,
    /// Told when there may be room for one more request.
    room: Notify,
    /// Requests that wait for it.
    waiting: AtomicUsize,
    discovery: Mutex<Option<Task>>,
}

/// What all tasks know together.
#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    next_id: u64,
    /// Where requests go that come together with the one before. `None`: each is for itself.
    batch: Option<Batch>,
    /// Since when no endpoint has had a connection. `None`: one has.
    down_since: Option<Instant>,
}

/// One endpoint.
#[derive(Debug)]
struct Node {
    id: u64,
    addr: Arc<str>,
    labels: Vec<(String, String)>,
    weight: f64,
    connections: Vec<Connection>,
    failed: Option<Arc<ConnectError>>,
    health: Arc<Health>,
    /// Asks for another connection.
    demand: Arc<Notify>,
    _task: Task,
}

#[derive(Debug)]
struct Connection {
    handle: SendRequest<Replay>,
    used: Instant,
}

/// What past requests tell of an endpoint.
#[derive(Debug)]
struct Health {
    load: Load,
    breaker: Breaker,
}

/// Requests that came together and go to one endpoint: then their answers come together, too, and many are written at
/// once. That saves most of what several endpoints cost more than one.
#[derive(Clone, Copy, Debug)]
struct Batch {
    node: usize,
    came: Instant,
    left: usize,
}

/// A task that ends with its handle.
#[derive(Debug)]
struct Task(AbortHandle);

/// A request that waits.
struct Waiting<'a>(&'a AtomicUsize);

/// A connection that lasted this long was a success: the next is tried at once, and backoff starts over.
const STABLE: Duration = Duration::from_secs(1);
/// Endpoints whose latencies differ by less than this factor are taken for equal: on fast networks noise is larger.
const EQUAL: f64 = 2.0;
/// Requests that come within this time of the first go to one endpoint, up to so many. A quiet proxy's come further apart.
const TOGETHER: Duration = Duration::from_micros(250);
const MAX_BATCH: usize = 64;
/// But only to one that answers within this, so that a batch does not wait long. With what it has to wait, the endpoint
/// is not fast any more, and the next requests are spread.
const FAST: Duration = Duration::from_millis(2);
/// Idle connections are not looked for more often.
const MIN_REAP: Duration = Duration::from_millis(1);
/// Requests that wait look for room this often even if nobody tells of any: a peer may take more streams by now.
const RECHECK: Duration = Duration::from_secs(1);

// === impl Endpoints ===

impl Endpoints {
    /// Connects with `connect` to the endpoints that `discovered` holds, now and whenever it changes.
    ///
    /// Endpoints are told apart by address. One that is gone gets no new requests, and those on it finish; one whose
    /// weight, params or labels have changed is taken for a new one. Must be called in a tokio runtime; each endpoint
    /// has a task of its own.
    pub fn spawn<A, C>(
        mut discovered: watch::Receiver<Vec<Endpoint<A>>>,
        connect: &Connect<C, Replay>,
        params: Params,
    ) -> Self
    where
        A: Clone + PartialEq + fmt::Display + Send + Sync + 'static,
        C: Service<A> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let shared = Arc::new(Shared {
            params,
            http1: connect.is_http1(),
            started: Instant::now(),
            state: Mutex::new(State { nodes: Vec::new(), next_id: 0, batch: None, down_since: Some(Instant::now()) }),
            room: Notify::new(),
            waiting: AtomicUsize::new(0),
            discovery: Mutex::new(None),
        });
        let mut known = Vec::new();
        shared.follow(&mut known, &discovered.borrow_and_update(), connect);
        let (weak, connect) = (Arc::downgrade(&shared), connect.clone());
        let task = tokio::spawn(async move {
            // Ends when there is nobody left to tell of changes.
            while discovered.changed().await.is_ok() {
                let Some(shared) = weak.upgrade() else { return };
                shared.follow(&mut known, &discovered.borrow_and_update(), &connect);
            }
        });
        *shared.discovery.lock().expect(UNPOISONED) = Some(Task(task.abort_handle()));
        Self { shared }
    }

    /// Connects to each of `addrs`, which never change.
    pub fn fixed<A, C>(addrs: impl IntoIterator<Item = A>, connect: &Connect<C, Replay>, params: Params) -> Self
    where
        A: Clone + PartialEq + fmt::Display + Send + Sync + 'static,
        C: Service<A> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let (_, endpoints) = watch::channel(addrs.into_iter().map(Endpoint::new).collect());
        Self::spawn(endpoints, connect, params)
    }

    /// Whether an endpoint is connected.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.lock().nodes.iter().any(Node::is_ready)
    }

    /// How each endpoint is doing.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let now = Instant::now();
        self.shared.lock().nodes.iter().map(|node| node.status(self.shared.nanos(now))).collect()
    }

    /// Whether all endpoints that are connected take extended CONNECT (RFC 8441), and at least one is.
    #[must_use]
    pub fn take_extended_connect(&self) -> bool {
        let state = self.shared.lock();
        let mut connections = state.nodes.iter().flat_map(|node| &node.connections).peekable();
        connections.peek().is_some() && connections.all(|connection| connection.handle.takes_extended_connect())
    }

    /// Whether endpoints are spoken to in HTTP/1.1.
    pub(crate) fn is_http1(&self) -> bool {
        self.shared.http1
    }

    /// Requests that wait for an endpoint.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Relaxed)
    }

    /// Sends a request to an endpoint that has room for it, if possible not to `avoid`. `None`: none has.
    pub(crate) fn send(&self, req: &mut Outgoing<Replay>, now: Instant, avoid: Option<u64>) -> Option<Attempt> {
        let params = &self.shared.params;
        let mut state = self.shared.lock();
        let several = state.nodes.len() > 1;
        let sent = if several { self.shared.nanos(now) } else { 0 };
        let Some(index) = state.choose(params, now, sent, avoid) else {
            // Those that are left alone, or down, need no more connections.
            state.nodes.iter().filter(|node| node.is_ready()).for_each(|node| node.demand.notify_one());
            return None;
        };
        let node = &mut state.nodes[index];
        let (connection, last) = node.connection(params)?;
        connection.used = now;
        connection.handle.send(req);
        if last {
            node.demand.notify_one();
        }
        let health = several.then(|| {
            node.health.breaker.sent(now);
            Arc::clone(&node.health)
        });
        Some(Attempt { endpoint: node.id, health, sent, outcome: Outcome::Unknown, answered: false })
    }

    /// Waits until there is room for a request, for as long as no endpoint may be connected.
    pub(crate) async fn room(&self, failfast: Duration) -> Result<(), Answer> {
        let Shared { params, room, waiting, .. } = &*self.shared;
        let _waiting = Waiting::start(waiting);
        loop {
            let mut told = pin!(room.notified());
            told.as_mut().enable();
            let now = Instant::now();
            let until = {
                let state = self.shared.lock();
                if state
                    .nodes
                    .iter()
                    .any(|node| node.has_room(params) && node.health.breaker.admits(&params.breaker, now))
                {
                    return Ok(());
                }
                match state.down_since.map(|since| since + failfast) {
                    Some(until) if until <= now => return Err(state.unready()),
                    until => until.unwrap_or(now + RECHECK).min(now + RECHECK),
                }
            };
            let _ = tokio::time::timeout_at(until, told).await;
        }
    }

    /// The head of a response has come.
    pub(crate) fn answered(&self, attempt: &mut Attempt) {
        attempt.answered = true;
        if let Some(Health { load, .. }) = attempt.health.as_deref() {
            load.observe(attempt.sent, self.shared.nanos(now()));
        }
    }

    /// A request has ended, perhaps after an attempt; so there may be room for one that waits.
    pub(crate) fn ended(&self, attempt: Option<Attempt>) {
        let endpoint = attempt.as_ref().map(Attempt::endpoint);
        if let Some(attempt) = attempt {
            self.shared.learn(attempt);
        }
        if self.shared.waiting.load(Relaxed) > 0 {
            self.shared.room.notify_one();
        } else if self.shared.http1
            && let Some(endpoint) = endpoint
        {
            self.shared.trim(endpoint);
        }
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("endpoints", &self.shared.lock().nodes.len()).finish_non_exhaustive()
    }
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn start(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

// === impl Shared ===

const UNPOISONED: &str = "nothing panics with the lock held";

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    /// A time as [`Load`] has them.
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Makes the nodes those of `endpoints`.
    fn follow<A, C>(
        self: &Arc<Self>,
        known: &mut Vec<(Endpoint<A>, u64)>,
        endpoints: &[Endpoint<A>],
        connect: &Connect<C, Replay>,
    ) where
        A: Clone + PartialEq + fmt::Display + Send + Sync + 'static,
        C: Service<A> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        known.retain(|(endpoint, id)| {
            let stays = endpoints.contains(endpoint);
            if !stays {
                tracing::info!(endpoint = %endpoint.addr, "endpoint is gone");
                self.remove(*id);
            }
            stays
        });
        for endpoint in endpoints {
            if known.iter().any(|(known, _)| known.addr == endpoint.addr) {
                continue;
            }
            match connect.clone().override_from(&endpoint.params) {
                Ok(connect) => known.push((endpoint.clone(), self.add(endpoint, connect))),
                Err(error) => tracing::warn!(endpoint = %endpoint.addr, %error, "endpoint's params are wrong"),
            }
        }
    }

    fn add<A, C>(self: &Arc<Self>, endpoint: &Endpoint<A>, connect: Connect<C, Replay>) -> u64
    where
        A: Clone + fmt::Display + Send + Sync + 'static,
        C: Service<A> + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let now = Instant::now();
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let addr = Arc::<str>::from(endpoint.addr.to_string());
        let demand = Arc::<Notify>::default();
        let keeper = Keeper {
            id,
            addr: Arc::clone(&addr),
            params: self.params,
            shared: Arc::downgrade(self),
            demand: Arc::clone(&demand),
            open: FuturesUnordered::new(),
            failures: 0,
            pause: Duration::ZERO,
        };
        state.nodes.push(Node {
            id,
            addr,
            labels: endpoint.labels.clone(),
            weight: f64::from(endpoint.weight.get()),
            connections: Vec::new(),
            failed: None,
            health: Arc::new(Health { load: Load::new(self.nanos(now)), breaker: Breaker::new() }),
            demand,
            _task: Task(tokio::spawn(keeper.keep(endpoint.addr.clone(), connect)).abort_handle()),
        });
        id
    }

    fn remove(&self, id: u64) {
        let mut state = self.lock();
        state.nodes.retain(|node| node.id != id);
        state.reckon(&self.room);
    }

    /// Takes notice of how an attempt went.
    fn learn(&self, Attempt { health, sent, outcome, answered, .. }: Attempt) {
        let Some(Health { load, breaker }) = health.as_deref() else { return };
        let now = now();
        if !answered {
            load.observe_late(sent, self.nanos(now));
        }
        // Only a failure asks whether others are left, and only it takes the lock of all.
        let may_eject = outcome == Outcome::Failure && {
            let state = self.lock();
            let ejected = state.nodes.iter().filter(|node| !node.health.breaker.is_closed()).count();
            (ejected + 1) * 2 <= state.nodes.len()
        };
        breaker.ended(outcome, may_eject, &self.params.breaker, now);
    }

    /// Closes connections without a request that are above the bound.
    fn trim(&self, id: u64) {
        let Some(max) = self.params.max_idle_connections else { return };
        let mut state = self.lock();
        let Some(node) = state.nodes.iter_mut().find(|node| node.id == id) else { return };
        let idle = |connection: &Connection| connection.room(&self.params) > 0;
        let mut over = node.connections.iter().filter(|connection| idle(connection)).count().saturating_sub(max.max(1));
        // The first ones are those that requests take.
        while over > 0
            && let Some(last) = node.connections.iter().rposition(idle)
        {
            node.connections.remove(last);
            over -= 1;
        }
    }

    /// Changes a node, unless it is gone.
    fn update(&self, id: u64, change: impl FnOnce(&mut Node)) {
        let mut state = self.lock();
        if let Some(node) = state.nodes.iter_mut().find(|node| node.id == id) {
            change(node);
            state.reckon(&self.room);
        }
    }
}

// === impl Keeper ===

/// Keeps an endpoint connected: with one connection, or more when they are asked for.
struct Keeper {
    id: u64,
    addr: Arc<str>,
    params: Params,
    shared: Weak<Shared>,
    demand: Arc<Notify>,
    /// The connections that are open: each tells when it closes, and whether it was of use.
    open: FuturesUnordered<Pin<Box<dyn Future<Output = bool> + Send>>>,
    /// Attempts that failed, and connections that were lost at once, in a row.
    failures: u32,
    /// Before the next attempt.
    pause: Duration,
}

impl Keeper {
    async fn keep<A, C>(mut self, target: A, mut connect: Connect<C, Replay>)
    where
        A: Clone,
        C: Service<A>,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let max = self.params.max_connections.get();
        let mut reap = self.params.max_idle.map(|idle| tokio::time::interval((idle / 2).max(MIN_REAP)));
        loop {
            if !self.open.is_empty() {
                tokio::select! {
                    Some(was_of_use) = self.open.next() => {
                        self.closed(was_of_use);
                        continue;
                    }
                    () = self.demand.notified(), if self.open.len() < max => {}
                    () = tick(reap.as_mut()), if self.open.len() > 1 => {
                        self.reap();
                        continue;
                    }
                }
            }
            let mut attempt = pin!(attempt(self.pause, target.clone(), &mut connect));
            let made = loop {
                tokio::select! {
                    made = &mut attempt => break made,
                    Some(was_of_use) = self.open.next() => self.closed(was_of_use),
                }
            };
            self.made(made);
        }
    }

    fn made(&mut self, made: Result<SendRequest<Replay>, ConnectError>) {
        match made {
            Ok(handle) => {
                if self.open.is_empty() {
                    tracing::info!(endpoint = %self.addr, "endpoint is ready");
                }
                let (opened, closed, worked) = (Instant::now(), handle.closed(), handle.worked());
                self.open.push(Box::pin(async move {
                    closed.await;
                    opened.elapsed() >= STABLE || worked()
                }));
                self.pause = Duration::ZERO;
                self.update(|node| {
                    node.failed = None;
                    node.connections.push(Connection { handle, used: opened });
                });
            }
            Err(error) => {
                // Once is news, every time would be noise.
                if self.failures == 0 {
                    tracing::warn!(endpoint = %self.addr, error = %Chain(&error), "endpoint cannot be reached");
                } else {
                    tracing::debug!(endpoint = %self.addr, error = %Chain(&error), "endpoint cannot be reached");
                }
                self.back_off();
                self.update(|node| node.failed = Some(Arc::new(error)));
            }
        }
    }

    /// A connection is closed, or takes no more requests.
    fn closed(&mut self, was_of_use: bool) {
        self.update(|node| node.connections.retain(|connection| !connection.handle.is_closed()));
        if self.open.is_empty() {
            tracing::info!(endpoint = %self.addr, "connection to endpoint has closed");
        }
        if was_of_use {
            (self.failures, self.pause) = (0, Duration::ZERO);
        } else {
            self.back_off();
        }
    }

    fn back_off(&mut self) {
        self.pause = self.params.backoff.pause(self.failures);
        self.failures = self.failures.saturating_add(1);
    }

    /// Closes connections that nobody has used, but not the last one.
    fn reap(&self) {
        let Some(max_idle) = self.params.max_idle else { return };
        self.update(|node| {
            let mut open = node.connections.len();
            node.connections.retain(|Connection { handle, used }| {
                let stays = open == 1 || handle.streams() > 0 || used.elapsed() < max_idle;
                open -= usize::from(!stays);
                stays
            });
        });
    }

    fn update(&self, change: impl FnOnce(&mut Node)) {
        if let Some(shared) = self.shared.upgrade() {
            shared.update(self.id, change);
        }
    }
}

/// Makes a connection after a pause.
async fn attempt<A, C>(
    pause: Duration,
    target: A,
    connect: &mut Connect<C, Replay>,
) -> Result<SendRequest<Replay>, ConnectError>
where
    C: Service<A>,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    poll_fn(|cx| connect.poll_ready(cx)).await?;
    connect.call(target).await
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => _ = interval.tick().await,
        None => pending().await,
    }
}

// === impl State ===

impl State {
    /// The endpoint to send a request to.
    fn choose(&mut self, params: &Params, now: Instant, nanos: u64, avoid: Option<u64>) -> Option<usize> {
        if self.nodes.len() < 2 {
            return self.nodes.first().filter(|node| node.has_room(params)).map(|_| 0);
        }
        if let Some(Batch { node, came, left }) = &mut self.batch
            && now.duration_since(*came) < TOGETHER
            && avoid.is_none()
            && self.nodes[*node].has_room(params)
            && let Some(less) = left.checked_sub(1)
        {
            *left = less;
            return Some(*node);
        }
        let node = self.choose_anew(params, now, nanos, avoid)?;
        let fast = self.nodes[node].health.load.cost(nanos).is_some_and(|cost| cost < FAST.as_secs_f64());
        // The few requests of a quiet proxy are spread.
        let busy = fast && self.nodes.iter().any(|node| node.streams() > 0);
        self.batch = busy.then_some(Batch { node, came: now, left: MAX_BATCH - 1 });
        Some(node)
    }

    /// The better of two endpoints taken at random, or any that takes a request.
    fn choose_anew(&self, params: &Params, now: Instant, nanos: u64, avoid: Option<u64>) -> Option<usize> {
        let n = self.nodes.len();
        let takes = |index: usize, avoid: Option<u64>| {
            let node = &self.nodes[index];
            Some(node.id) != avoid && node.has_room(params) && node.health.breaker.admits(&params.breaker, now)
        };
        let first = fastrand::usize(..n);
        let second = (first + fastrand::usize(1..n)) % n;
        match (takes(first, avoid), takes(second, avoid)) {
            (true, true) => {
                let costs = Node::costs(&self.nodes[first], &self.nodes[second], params, nanos);
                let asked = |i: usize, index: usize| costs[i] * (self.nodes[index].streams() + 1) as f64;
                Some(if asked(1, second) < asked(0, first) { second } else { first })
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
    fn reckon(&mut self, room: &Notify) {
        self.batch = None;
        if self.nodes.iter().any(Node::is_ready) {
            self.down_since = None;
        } else {
            self.down_since.get_or_insert_with(Instant::now);
        }
        room.notify_waiters();
    }

    /// What to answer when no endpoint got ready in time: why, if all have failed, or else just that.
    fn unready(&self) -> Answer {
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
    fn is_ready(&self) -> bool {
        self.connections.iter().any(|connection| !connection.handle.is_closed())
    }

    fn has_room(&self, params: &Params) -> bool {
        self.connections.iter().any(|connection| connection.room(params) > 0)
    }

    /// The connection with the fewest streams among those with room, and whether this takes the last room of all.
    fn connection(&mut self, params: &Params) -> Option<(&mut Connection, bool)> {
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
        let costs = match [a, b].map(|node| node.health.load.cost(now)) {
            [Some(a), Some(b)] if a > EQUAL * b || b > EQUAL * a => [a, b],
            _ => [1.0, 1.0],
        };
        let share = |node: &Self| node.weight * node.health.load.share(params.slow_start, now);
        [costs[0] / share(a), costs[1] / share(b)]
    }

    fn streams(&self) -> usize {
        self.connections.iter().map(|connection| connection.handle.streams()).sum()
    }

    fn status(&self, now: u64) -> Status {
        let open = || self.connections.iter().filter(|connection| !connection.handle.is_closed());
        let state = match (open().next(), &self.failed) {
            (Some(_), _) if !self.health.breaker.is_closed() => EndpointState::Ejected,
            (Some(_), _) => EndpointState::Ready,
            (None, Some(_)) => EndpointState::Failed,
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
    fn room(&self, params: &Params) -> usize {
        if self.handle.is_closed() {
            return 0;
        }
        let max = params.max_streams.map_or(usize::MAX, NonZeroUsize::get);
        self.handle.max_streams().min(max).saturating_sub(self.handle.streams())
    }
}

// === impl Attempt ===

impl Attempt {
    /// The endpoint, so that another attempt can avoid it.
    pub(crate) fn endpoint(&self) -> u64 {
        self.endpoint
    }

    /// How the request ended, as far as it is known.
    pub(crate) fn set(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

// === impl Task ===

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Params ===

impl Default for Params {
    /// 16 connections to an endpoint at most, idle ones closed after a minute, 10 s of slow start.
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            max_connections: NonZeroUsize::new(16).expect("16 is not zero"),
            max_streams: None,
            max_idle: Some(Duration::from_secs(60)),
            max_idle_connections: None,
            slow_start: Duration::from_secs(10),
            breaker: breaker::Params::default(),
        }
    }
}

// === impl Backoff ===

impl Default for Backoff {
    /// 100 ms to 10 s, with a tenth of jitter.
    fn default() -> Self {
        Self { min: Duration::from_millis(100), max: Duration::from_secs(10), jitter: 0.1 }
    }
}

impl Backoff {
    /// The pause after so many failures since the last success.
    fn pause(&self, failures: u32) -> Duration {
        let pause = self.min.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.max);
        pause + pause.mul_f64(self.jitter.max(0.0) * fastrand::f64())
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let pauses: Vec<_> = (0..6).map(|failures| backoff.pause(failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.pause(u32::MAX), backoff.max);
    }

    #[test]
    fn jitter_only_adds() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(1), jitter: 0.5 };
        for _ in 0..100 {
            let pause = backoff.pause(0);
            assert!((Duration::from_secs(1)..=Duration::from_millis(1500)).contains(&pause), "{pause:?}");
        }
    }
}
