//! Connections to a changing set of endpoints, and the choice among the endpoints for each request.

use crate::{
    BoxError, Connect, Endpoint, Replay,
    balance::{
        balancer::{Attempt, Balancer, UNPOISONED},
        breaker::Breaker,
        endpoint::Status,
        endpoint_state::{AbortOnDrop, EndpointState, Health, ResponseCounters},
        endpoint_task::EndpointTask,
        params::Params,
        peak_ewma::PeakEwma,
        priority::Avoid,
        queue::{Queue, Ticket},
        report::{Reports, Verdict},
        slow_start::SlowStart,
    },
    body::source::Source as _,
    client::send_request::OutgoingRequest,
    connection::now::now,
    message::answer::Answer,
};
use std::{
    fmt,
    future::{Future as _, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, watch},
    time::Instant,
};
use tower_service::Service;

/// Connections to a set of endpoints that may change. A connection that is lost is replaced; clones share all connections.
///
/// A request goes to the endpoint with the fewest requests in flight for its share, less the requests that it is behind its
/// share; an endpoint that is much slower than others counts latency times requests in flight. A share is the endpoint's
/// weight, or less in slow start. Endpoints of a [priority](Endpoint::priority) of a higher number are left alone as long as one
/// of a lower number is there. Of many endpoints a random sample is compared. On an endpoint a request goes to the
/// connection with the fewest streams, of the ones that streams of readers which have stopped do not fill. The connections
/// close when the last clone is dropped and their streams have ended.
///
/// [`proxy`](crate::proxy#examples) has an example.
#[derive(Clone)]
pub struct Endpoints {
    shared: Arc<Balancer>,
}

/// A request that waits in a queue, and leaves it when this is dropped.
struct QueuedRequest<'a> {
    shared: &'a Balancer,
    ticket: Arc<Ticket>,
}

/// Waiting requests look for a free stream this often even if none is signalled: the peer's SETTINGS may allow more by now.
const RECHECK: Duration = Duration::from_secs(1);

// === impl Endpoints ===

impl Endpoints {
    /// Connects with `connect` to the endpoints that `discovered` holds, now and whenever it changes.
    ///
    /// Endpoints are identified by address. An endpoint that is removed gets no new requests, and its open requests finish;
    /// an endpoint whose parameters or authority have changed is removed and added. One whose weight, priority or labels have
    /// changed keeps its connections. Each endpoint has a task of its own.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, if there is an endpoint or one may come.
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
        let shared = Arc::new(Balancer::new(params, connect.is_http1(), Arc::clone(connect.log())));
        let mut known = Vec::new();
        // A list whose sender is gone never changes, and needs no task. Looked at before the list, whose last change may come between.
        let is_final = discovered.has_changed().is_err();
        shared.update_endpoints(&mut known, &discovered.borrow_and_update(), connect);
        if is_final {
            return Self { shared };
        }
        let (weak, connect) = (Arc::downgrade(&shared), connect.clone());
        let task = tokio::spawn(async move {
            // Ends when the sender of changes is dropped.
            while discovered.changed().await.is_ok() {
                let Some(shared) = weak.upgrade() else { return };
                shared.update_endpoints(&mut known, &discovered.borrow_and_update(), &connect);
            }
        });
        *shared.discovery.lock().expect(UNPOISONED) = Some(AbortOnDrop(task.abort_handle()));
        Self { shared }
    }

    /// Connects to each of `addrs`, a list that never changes, as [`spawn`](Self::spawn) does.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
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

    /// No endpoints, for requests that are answered without one.
    pub(crate) fn none() -> Self {
        Self { shared: Arc::new(Balancer::new(Params::default(), false, Arc::default())) }
    }

    /// Whether requests can be sent to at least one endpoint; one of HTTP/1.1 needs no connection for that.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.lock().endpoints.iter().any(EndpointState::is_ready)
    }

    /// The status of each endpoint.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.shared.lock().endpoints.iter().map(EndpointState::status).collect()
    }

    /// Whether extended CONNECT (RFC 8441) can be sent: at least one endpoint is connected, and all that are enable it in
    /// their SETTINGS. To endpoints of HTTP/1.1 it always can, as a request with `upgrade`.
    #[must_use]
    pub fn is_extended_connect_enabled(&self) -> bool {
        self.shared.http1 || (self.is_ready() && !self.has_endpoint_without_extended_connect())
    }

    /// Whether an endpoint is connected whose SETTINGS do not enable extended CONNECT.
    pub(crate) fn has_endpoint_without_extended_connect(&self) -> bool {
        self.shared.lock().has_endpoint_without_extended_connect()
    }

    /// Whether connections to endpoints use HTTP/1.1.
    pub(crate) fn is_http1(&self) -> bool {
        self.shared.http1
    }

    /// The address that an attempt was made to. `None`: the endpoint is gone.
    pub(crate) fn addr(&self, attempt: &Attempt) -> Option<Arc<str>> {
        self.shared.lock().endpoint(attempt.endpoint()).map(|endpoint| Arc::clone(&endpoint.addr))
    }

    /// Requests that wait for an endpoint.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Relaxed)
    }

    /// Sends a request to an endpoint with a free stream, if possible not to `avoid`. `None`: there is none, and the request
    /// has to wait.
    pub(crate) fn send(
        &self,
        req: &mut OutgoingRequest<Replay>,
        now: Instant,
        avoid: Option<Avoid>,
    ) -> Option<Attempt> {
        let mut state = self.shared.lock();
        let (index, sent) = match state.endpoints.len() {
            // There is no choice, and no need to know beforehand whether the endpoint has a free stream.
            1 => (0, None),
            _ => {
                let nanos = self.shared.nanos(now);
                let is_stopped = req.is_of_stopped_client();
                (state.choose(&self.shared.params, now, nanos, avoid, is_stopped)?, Some(nanos))
            }
        };
        let attempt = self.shared.send(&mut state.endpoints[index], sent, req, now);
        if attempt.is_none() {
            state.undo_choice(index, &self.shared.params, now);
        }
        attempt
    }

    /// Sends a request as soon as there is a free stream, after all requests that wait already. `number` is its place in the
    /// queue, which it keeps when it is sent again.
    ///
    /// `None`: the request is an extended CONNECT, and an endpoint does not enable it. An error is the answer if no endpoint
    /// is ready in time.
    pub(crate) async fn send_when_ready(
        &self,
        req: &mut OutgoingRequest<Replay>,
        avoid: Option<Avoid>,
        number: &mut Option<u64>,
        failfast: Duration,
    ) -> Result<Option<Attempt>, Answer> {
        let shared = &*self.shared;
        let queued = QueuedRequest::start(shared, number);
        loop {
            let until = {
                let now = Instant::now();
                let mut state = shared.lock();
                let sent = shared.sent_at(&state, now);
                let (nanos, is_stopped) = (sent.unwrap_or_default(), req.is_of_stopped_client());
                if let Some(index) = state.endpoint_for(&queued.ticket, &shared.params, now, nanos, avoid, is_stopped) {
                    // RFC 8441 section 3: a client may send it only after SETTINGS that enable it; an endpoint might end the
                    // connection otherwise. Other endpoints may be connected since the request was checked.
                    if req.is_extended_connect() && state.has_endpoint_without_extended_connect() {
                        return Ok(None);
                    }
                    if let Some(attempt) = shared.send(&mut state.endpoints[index], sent, req, now) {
                        return Ok(Some(attempt));
                    }
                }
                if state.queue.is_first(&queued.ticket) {
                    state.request_connections(&shared.params, now);
                }
                let recheck = now + RECHECK;
                match state.down_since().map(|since| since + failfast) {
                    Some(until) if until > now => until.min(recheck),
                    Some(_) if !state.can_recover() => return Err(state.not_ready_answer()),
                    _ => recheck,
                }
            };
            let mut woken = pin!(tokio::time::timeout_at(until, queued.ticket.woken()));
            // DATA of the request that comes meanwhile is held, and the connection's other streams get window for it.
            let _ = poll_fn(|cx| {
                req.body_mut().buffer(cx);
                woken.as_mut().poll(cx)
            })
            .await;
        }
    }

    /// Records that the head of a response has come.
    pub(crate) fn record_response(&self, attempt: &mut Attempt) {
        attempt.answered = true;
        if let Some(Health { load, .. }) = attempt.health.as_deref() {
            load.observe(attempt.sent, self.shared.nanos(now()));
        }
    }

    /// Records the end of a request, with its last attempt if there was one, and wakes a request that waits for the stream.
    /// `is_failure`: whether the response to the client is a failure. `None`: there is none.
    pub(crate) fn finish(&self, attempt: Option<Attempt>, is_failure: Option<bool>) {
        let endpoint = attempt.as_ref().map(Attempt::endpoint);
        if let Some(attempt) = attempt {
            self.shared.record_end(attempt, is_failure);
        }
        if self.shared.has_waiting() {
            match endpoint {
                // A connection of HTTP/1.1 may have signalled that it is free while this response still counted as its
                // stream.
                Some(endpoint) => self.shared.wake_waiting(endpoint),
                None => self.shared.lock().queue.wake_first(),
            }
        } else if self.shared.http1
            && let Some(endpoint) = endpoint
        {
            self.shared.close_excess_idle(endpoint);
        }
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("endpoints", &self.shared.lock().endpoints.len()).finish_non_exhaustive()
    }
}

// === impl Balancer ===

impl Balancer {
    /// Removes endpoints that are not in `endpoints`, changes the ones that are, and adds the ones that are new.
    fn update_endpoints<A, C>(
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
        known.retain_mut(|(known, id)| {
            let Some(endpoint) = endpoints.iter().find(|endpoint| known.has_same_connections_and_checks(endpoint))
            else {
                tracing::info!(endpoint = %known.addr, "endpoint is gone");
                self.remove(*id);
                return false;
            };
            if known != endpoint {
                self.change(*id, endpoint);
                *known = endpoint.clone();
            }
            true
        });
        // No more than is needed: most destinations have one endpoint, and a vector that grows begins with room for four.
        let missing = endpoints.len().saturating_sub(known.len());
        known.reserve_exact(missing);
        let slow_start = {
            let mut state = self.lock();
            state.endpoints.reserve_exact(missing);
            SlowStart::new(state.down_since().is_none())
        };
        for endpoint in endpoints {
            if known.iter().any(|(known, _)| known.addr == endpoint.addr) {
                continue;
            }
            match connect.clone().override_from(&endpoint.params) {
                Ok(connect) => known.push((endpoint.clone(), self.add(endpoint, connect, slow_start))),
                Err(error) => tracing::warn!(endpoint = %endpoint.addr, %error, "endpoint's params are wrong"),
            }
        }
    }

    /// Changes the weight, the priority and the labels of an endpoint, which keeps its connections.
    fn change<A>(&self, id: u64, endpoint: &Endpoint<A>) {
        self.update(id, |state| {
            state.weight = f64::from(endpoint.weight.get());
            state.priority = endpoint.priority;
            state.labels.clone_from(&endpoint.labels);
        });
    }

    fn add<A, C>(self: &Arc<Self>, endpoint: &Endpoint<A>, connect: Connect<C, Replay>, slow_start: SlowStart) -> u64
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
        let (on_transport, on_capacity) = (Arc::downgrade(self), Arc::downgrade(self));
        let mut connect = connect
            .peer(Arc::clone(&addr))
            .authority(endpoint.authority.as_ref())
            .on_transport(Arc::new(move || {
                if let Some(shared) = on_transport.upgrade() {
                    shared.update(id, |connecting| connecting.is_handshaking = true);
                }
            }))
            .on_capacity(Arc::new(move || {
                if let Some(shared) = on_capacity.upgrade() {
                    shared.wake_waiting(id);
                }
            }));
        let mut task = EndpointTask::new(id, Arc::clone(&addr), self, &self.log, &demand, endpoint.reports.clone());
        let target = endpoint.addr.clone();
        let task = tokio::spawn(async move { task.run(&target, &mut connect).await });
        state.endpoints.push(EndpointState {
            id,
            addr,
            labels: endpoint.labels.clone(),
            weight: f64::from(endpoint.weight.get()),
            priority: endpoint.priority,
            slow_start,
            virtual_time: 0.0,
            silent_since: 0,
            connections: Vec::new(),
            failed: None,
            on_demand: self.http1,
            queue: Queue::default(),
            is_connecting: false,
            is_handshaking: false,
            is_full: false,
            last_attempt: None,
            health: Arc::new(Health {
                load: PeakEwma::new(),
                breaker: Breaker::new(),
                responses: ResponseCounters::default(),
            }),
            verdict: endpoint.reports.as_ref().map_or(Verdict::Healthy, Reports::verdict),
            reports: endpoint.reports.clone(),
            demand,
            _task: AbortOnDrop(task.abort_handle()),
        });
        state.recompute();
        id
    }
}

// === impl QueuedRequest ===

impl<'a> QueuedRequest<'a> {
    fn start(shared: &'a Balancer, number: &mut Option<u64>) -> Self {
        shared.waiting.fetch_add(1, Relaxed);
        Self { shared, ticket: shared.lock().enqueue(number) }
    }
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Relaxed);
        self.shared.lock().dequeue(&self.ticket);
    }
}
