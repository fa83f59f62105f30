//! Connections to a changing set of endpoints, and a choice among them for each request.

use crate::{
    BoxError, Connect, Endpoint, Replay,
    balance::{
        breaker::Breaker,
        choice::Start,
        endpoint::Status,
        endpoint_task::EndpointTask,
        load::Load,
        params::Params,
        queue::{Queue, Ticket},
        shared::{Attempt, Shared, UNPOISONED},
        state::{EndpointState, Health, State, Task},
    },
    client::send_request::Outgoing,
    connection::now::now,
    message::answer::Answer,
};
use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, watch},
    time::Instant,
};
use tower_service::Service;

/// Connections to a set of endpoints that may change, each made anew when it is lost; clones share them.
///
/// A request goes to the endpoint with the fewest requests in flight for its share, less those that it is behind its share; an
/// endpoint that is much slower than others counts latency times requests in flight. A share is the endpoint's weight, or less
/// in slow start. Of many endpoints some are drawn at random. On an endpoint a request goes to the connection with the fewest
/// streams. The connections are given up when the last clone is dropped.
#[derive(Clone)]
pub struct Endpoints {
    shared: Arc<Shared>,
}

/// A request that waits, and has a place in a queue.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: Arc<Ticket>,
}

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
            state: Mutex::new(State::new()),
            log: Arc::clone(connect.log()),
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
        self.shared.lock().nodes.iter().any(EndpointState::is_ready)
    }

    /// How each endpoint is doing.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let now = Instant::now();
        self.shared.lock().nodes.iter().map(|node| node.status(self.shared.nanos(now))).collect()
    }

    /// Whether all endpoints that are connected take extended CONNECT (RFC 8441), and at least one is. Those that are spoken
    /// to in HTTP/1.1 always do, since there it is an upgrade.
    #[must_use]
    pub fn take_extended_connect(&self) -> bool {
        self.shared.http1 || (self.is_ready() && !self.refuse_extended_connect())
    }

    /// Whether an endpoint is connected that does not take it.
    pub(crate) fn refuse_extended_connect(&self) -> bool {
        self.shared.lock().refuses_extended_connect()
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

    /// Sends a request to an endpoint that has room for it, if possible not to `avoid`. `None`: none has, so it has to wait.
    pub(crate) fn send(&self, req: &mut Outgoing<Replay>, now: Instant, avoid: Option<u64>) -> Option<Attempt> {
        let mut state = self.shared.lock();
        let sent = self.shared.sent_at(&state, now);
        let index = state.choose(&self.shared.params, now, sent.unwrap_or_default(), avoid)?;
        let attempt = self.shared.send(&mut state.nodes[index], sent, req, now);
        if attempt.is_none() {
            state.take_back(index, &self.shared.params, now);
        }
        attempt
    }

    /// Sends a request as soon as there is room for it, after all that wait already. `None`: it asks for
    /// extended CONNECT, and an endpoint does not take it. `number` is its place in the queue, which it keeps when it is sent again. An error says that none got ready in time, and why.
    pub(crate) async fn send_when_ready(
        &self,
        req: &mut Outgoing<Replay>,
        avoid: Option<u64>,
        number: &mut Option<u64>,
        failfast: Duration,
    ) -> Result<Option<Attempt>, Answer> {
        let shared = &*self.shared;
        let place = Waiting::start(shared, number);
        loop {
            let until = {
                let now = Instant::now();
                let mut state = shared.lock();
                let sent = shared.sent_at(&state, now);
                if let Some(index) = state.turn(&place.ticket, &shared.params, now, sent.unwrap_or_default(), avoid) {
                    // Those that are connected by now may be others. One that is sent it all the same might end the connection.
                    if req.is_extended_connect() && state.refuses_extended_connect() {
                        return Ok(None);
                    }
                    if let Some(attempt) = shared.send(&mut state.nodes[index], sent, req, now) {
                        return Ok(Some(attempt));
                    }
                }
                if state.queue.is_first(&place.ticket) {
                    state.ask(now);
                }
                let recheck = now + RECHECK;
                match state.down_since().map(|since| since + failfast) {
                    Some(until) if until > now => until.min(recheck),
                    Some(_) if !state.may_recover() => return Err(state.unready()),
                    _ => recheck,
                }
            };
            let _ = tokio::time::timeout_at(until, place.ticket.turn()).await;
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
        if self.shared.has_waiting() {
            match endpoint {
                // A connection of HTTP/1.1 may have become free before, but had this response's stream open.
                Some(endpoint) => self.shared.room_at(endpoint),
                None => self.shared.lock().queue.wake_first(),
            }
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

// === impl Shared ===

impl Shared {
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
        let start = Start::new(self.lock().down_since().is_none());
        for endpoint in endpoints {
            if known.iter().any(|(known, _)| known.addr == endpoint.addr) {
                continue;
            }
            match connect.clone().override_from(&endpoint.params) {
                Ok(connect) => known.push((endpoint.clone(), self.add(endpoint, connect, start))),
                Err(error) => tracing::warn!(endpoint = %endpoint.addr, %error, "endpoint's params are wrong"),
            }
        }
    }

    fn add<A, C>(self: &Arc<Self>, endpoint: &Endpoint<A>, connect: Connect<C, Replay>, start: Start) -> u64
    where
        A: Clone + fmt::Display + Send + Sync + 'static,
        C: Service<A> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let addr = Arc::<str>::from(endpoint.addr.to_string());
        let demand = Arc::<Notify>::default();
        let (weak, room) = (Arc::downgrade(self), Arc::downgrade(self));
        let connect = connect
            .on_transport(Arc::new(move || {
                if let Some(shared) = weak.upgrade() {
                    shared.update(id, |node| node.is_greeting = true);
                }
            }))
            .on_room(Arc::new(move || {
                if let Some(shared) = room.upgrade() {
                    shared.room_at(id);
                }
            }));
        let keeper = EndpointTask::new(id, Arc::clone(&addr), self, &self.log, &demand);
        state.nodes.push(EndpointState {
            id,
            addr,
            labels: endpoint.labels.clone(),
            weight: f64::from(endpoint.weight.get()),
            start,
            virtual_time: 0.0,
            asked: 0,
            connections: Vec::new(),
            failed: None,
            on_demand: self.http1,
            queue: Queue::default(),
            is_trying: false,
            is_greeting: false,
            tried: None,
            health: Arc::new(Health { load: Load::new(), breaker: Breaker::new() }),
            demand,
            _task: Task(tokio::spawn(keeper.keep(endpoint.addr.clone(), connect)).abort_handle()),
        });
        state.reckon();
        id
    }
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn start(shared: &'a Shared, number: &mut Option<u64>) -> Self {
        shared.waiting.fetch_add(1, Relaxed);
        Self { shared, ticket: shared.lock().queue_up(number) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Relaxed);
        self.shared.lock().leave(&self.ticket);
    }
}
