//! What requests and the tasks of endpoints share.

use crate::{
    Replay,
    balance::{
        breaker::Outcome,
        params::Params,
        state::{Connection, EndpointState, Health, State, Task},
    },
    client::{error::ConnectError, log::EndpointLog, send_request::Outgoing},
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

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) params: Params,
    /// Endpoints are spoken to in HTTP/1.1.
    pub(super) http1: bool,
    pub(super) started: Instant,
    pub(super) state: Mutex<State>,
    /// What was said of endpoints, also by others.
    pub(super) log: Arc<EndpointLog>,
    /// Requests that wait for room.
    pub(super) waiting: AtomicUsize,
    pub(super) discovery: Mutex<Option<Task>>,
}

/// What one request tells of the endpoint it went to.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(super) endpoint: u64,
    /// `None`: there is nothing to choose, so nothing needs to be known.
    pub(super) health: Option<Arc<Health>>,
    /// See [`Shared::nanos`].
    pub(super) sent: u64,
    pub(super) outcome: Outcome,
    pub(super) answered: bool,
}

pub(super) const UNPOISONED: &str = "nothing panics with the lock held";

// === impl Shared ===

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// When an attempt starts, as [`nanos`](Self::nanos) has it, if that is to be known.
    pub(super) fn sent_at(&self, state: &State, now: Instant) -> Option<u64> {
        // Nothing needs to be known of the only endpoint.
        (state.nodes.len() > 1).then(|| self.nanos(now))
    }

    /// Sends a request to an endpoint. `None`: there was no room.
    pub(super) fn send(
        &self,
        node: &mut EndpointState,
        sent: Option<u64>,
        req: &mut Outgoing<Replay>,
        now: Instant,
    ) -> Option<Attempt> {
        let (connection, last) = node.connection(&self.params)?;
        connection.used = now;
        connection.handle.send(req);
        if last && !node.on_demand {
            node.demand.notify_one();
        }
        let health = sent.map(|_| {
            node.health.breaker.sent(now);
            Arc::clone(&node.health)
        });
        let sent = sent.unwrap_or_default();
        Some(Attempt { endpoint: node.id, health, sent, outcome: Outcome::Unknown, answered: false })
    }

    /// A connection to that endpoint may have room for one more request.
    pub(super) fn room_at(&self, id: u64) {
        if !self.has_waiting() {
            return;
        }
        let mut state = self.lock();
        match state.node(id) {
            Some(node) if !node.queue.is_empty() => node.queue.wake_first(),
            _ => state.queue.wake_first(),
        }
    }

    /// An endpoint cannot be connected to, or its connections are of no use. The requests that wait for it go elsewhere.
    pub(super) fn fail(&self, id: u64, is_trying: bool, error: ConnectError) {
        let mut state = self.lock();
        let Some(node) = state.node(id) else { return };
        (node.failed, node.is_trying, node.is_greeting) = (Some(Arc::new(error)), is_trying, false);
        let queue = mem::take(&mut node.queue);
        state.release(queue);
        state.reckon();
    }

    /// A time as [`Load`] has them.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn remove(&self, id: u64) {
        let mut state = self.lock();
        if let Some(index) = state.nodes.iter().position(|node| node.id == id) {
            let EndpointState { addr, queue, .. } = state.nodes.remove(index);
            self.log.forget(&addr);
            state.release(queue);
            state.reckon();
        }
    }

    /// Takes notice of how an attempt went.
    pub(super) fn learn(&self, Attempt { health, sent, outcome, answered, .. }: Attempt) {
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
    pub(super) fn trim(&self, id: u64) {
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
    pub(super) fn update(&self, id: u64, change: impl FnOnce(&mut EndpointState)) {
        let mut state = self.lock();
        if let Some(node) = state.nodes.iter_mut().find(|node| node.id == id) {
            change(node);
            node.queue.wake_first();
            state.reckon();
        }
    }

    pub(super) fn look(&self, id: u64, look: impl FnOnce(&EndpointState)) {
        let mut state = self.lock();
        if let Some(node) = state.node(id) {
            look(node);
        }
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
