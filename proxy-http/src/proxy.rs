//! Forwards requests to endpoints, and answers in their place where they give no answer.

use crate::{
    Endpoints, IncomingBody, SendRequest, Stats, answer::Answer, body, client, client::SendError, grpc, reason::Side,
};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};
use tower_service::Service;

/// A service that forwards each request to an endpoint; clones share the endpoints and the limits.
///
/// What the client gets when no whole answer comes:
///
/// | event | answer |
/// | --- | --- |
/// | endpoint resets the stream | RST_STREAM with its code; NO_ERROR, PROTOCOL_ERROR and HTTP_1_1_REQUIRED become INTERNAL_ERROR |
/// | endpoint's GOAWAY leaves the request out | RST_STREAM(REFUSED_STREAM): it is safe to try again |
/// | connection lost before the head | 502, gRPC status 14 |
/// | connection lost after the head | RST_STREAM(INTERNAL_ERROR) |
/// | no endpoint ready in the fail-fast time | 503, 14; 502 or 504, 14 if none could be connected to |
/// | too many requests waiting or in flight | 503, 14 |
/// | deadline before the head | 504, gRPC status 4 |
/// | deadline after the head | RST_STREAM(CANCEL) |
///
/// A request of which nothing was sent, because its connection had just closed, goes to another one. gRPC requests
/// are answered with HTTP status 200 and the gRPC status, without messages.
#[derive(Clone, Debug)]
pub struct Proxy {
    endpoints: Endpoints,
    shared: Arc<Shared>,
}

/// Bounds on what a proxy takes on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Params {
    /// Requests that may wait for an endpoint at once; more are turned away.
    pub queue_capacity: usize,
    /// How long no endpoint may be ready before requests fail at once.
    pub failfast_timeout: Duration,
    /// Requests that may be in flight at once; more are turned away.
    pub max_in_flight: usize,
    /// The longest a request may take, from its head to its response's end. A gRPC client's own `grpc-timeout` counts
    /// if it is shorter. `None`: no limit.
    pub request_timeout: Option<Duration>,
}

/// What is counted against the [`Params`]; proxies on several threads share one.
#[derive(Debug)]
pub struct Limits {
    params: Params,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
}

/// The body of a response, whose end ends the request.
#[derive(Debug)]
pub struct Body {
    /// `None`: an answer of the proxy's own, which has no body.
    inner: Option<IncomingBody>,
    deadline: Deadline,
    exchange: Exchange,
}

/// A request that ended in a reset of its stream.
#[derive(Debug, thiserror::Error)]
#[error("request was reset")]
pub struct Error {
    /// What the client's stream is reset with; looked for among the sources.
    source: h2::Error,
}

/// A response on its way.
#[derive(Debug)]
#[must_use = "a response that nobody waits for is cancelled"]
pub struct ResponseFuture {
    sending: Sending,
    deadline: Deadline,
    /// `None`: the response is out.
    exchange: Option<Exchange>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Endpoints,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
}

/// One request and its response, counted from head to end.
#[derive(Debug)]
struct Exchange {
    shared: Arc<Shared>,
    started: Instant,
    grpc: bool,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
}

/// When a request must be over. Boxed, since few have one.
type Deadline = Option<Pin<Box<Sleep>>>;

/// How far a request has come.
enum Sending {
    /// It is on a connection.
    Sent(client::Sending<IncomingBody>),
    /// It has to wait for a connection, or for another one; rare, and boxed to keep the rest small.
    Later(Pin<Box<dyn Future<Output = Result<Response<IncomingBody>, Failure>> + Send>>),
    /// It is refused.
    Refused(Option<Answer>),
}

enum Failure {
    Answer(Answer),
    Endpoint(client::Error),
}

/// Connections that a request of which nothing was sent is offered to.
const ATTEMPTS: usize = 5;

// === impl Proxy ===

impl Proxy {
    /// A proxy to `endpoints` that counts on `stats` and against `limits`.
    pub fn new(endpoints: Endpoints, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self { endpoints: endpoints.clone(), shared: Arc::new(Shared { endpoints, limits, stats }) }
    }
}

impl Service<Request<IncomingBody>> for Proxy {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<IncomingBody>) -> ResponseFuture {
        let grpc = grpc::is_grpc(req.headers());
        let exchange = Some(Exchange::start(&self.shared, grpc));
        if let Some(answer) = self.shared.limits.refuse(&req) {
            self.shared.stats.count_shed();
            return ResponseFuture { sending: Sending::Refused(Some(answer)), deadline: None, exchange };
        }
        let deadline = self.shared.limits.deadline(grpc, req.headers());
        let sending = match self.endpoints.pick() {
            Some(connection) => Sending::Sent(connection.try_send(req)),
            None => Sending::later(&self.shared, req),
        };
        ResponseFuture { sending, deadline, exchange }
    }
}

// === impl ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { sending, deadline, exchange } = &mut *self;
        let shared = &exchange.as_ref().expect("a response is polled to its end once").shared;
        let responded = match sending.poll(shared, cx) {
            Poll::Pending if expired(deadline, cx) => Err(Failure::Answer(Answer::deadline())),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(responded) => responded,
        };
        let exchange = exchange.take().expect("seen above");
        Poll::Ready(match responded {
            Ok(rsp) => Ok(exchange.pass_on(rsp, deadline.take())),
            Err(Failure::Answer(answer)) => Ok(exchange.answer(answer)),
            Err(Failure::Endpoint(error)) => exchange.fail(&error),
        })
    }
}

// === impl Sending ===

impl Sending {
    fn later(shared: &Arc<Shared>, req: Request<IncomingBody>) -> Self {
        Self::Later(Box::pin(Arc::clone(shared).send_later(req)))
    }

    fn poll(&mut self, shared: &Arc<Shared>, cx: &mut Context<'_>) -> Poll<Result<Response<IncomingBody>, Failure>> {
        loop {
            match self {
                Self::Sent(response) => match ready!(Pin::new(response).poll(cx)) {
                    Ok(rsp) => return Poll::Ready(Ok(rsp)),
                    Err(SendError { request: Some(req), .. }) => *self = Self::later(shared, req),
                    Err(SendError { error, request: None }) => return Poll::Ready(Err(Failure::Endpoint(error))),
                },
                Self::Later(response) => return response.as_mut().poll(cx),
                Self::Refused(answer) => {
                    let answer = answer.take().expect("a response is polled to its end once");
                    return Poll::Ready(Err(Failure::Answer(answer)));
                }
            }
        }
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent(_) => "Sent",
            Self::Later(_) => "Later",
            Self::Refused(_) => "Refused",
        })
    }
}

// === impl Limits ===

impl Limits {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self { params, in_flight: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Requests that wait for an endpoint now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// The answer to a request that may not go on. It is in flight already.
    fn refuse(&self, req: &Request<IncomingBody>) -> Option<Answer> {
        if self.in_flight() > self.params.max_in_flight {
            return Some(Answer::unavailable("too many requests in flight"));
        }
        (req.method() == Method::CONNECT).then(|| Answer::unimplemented("CONNECT is not supported"))
    }

    fn deadline(&self, grpc: bool, headers: &HeaderMap) -> Deadline {
        let asked = if grpc { grpc::timeout(headers) } else { None };
        let limit = match (asked, self.params.request_timeout) {
            (Some(asked), Some(most)) => asked.min(most),
            (asked, most) => asked.or(most)?,
        };
        Some(Box::pin(tokio::time::sleep(limit)))
    }
}

// === impl Exchange ===

impl Exchange {
    fn start(shared: &Arc<Shared>, grpc: bool) -> Self {
        shared.stats.request();
        shared.limits.in_flight.fetch_add(1, Relaxed);
        Self { shared: Arc::clone(shared), started: Instant::now(), grpc, status: None, grpc_status: None }
    }

    fn pass_on(mut self, rsp: Response<IncomingBody>, deadline: Deadline) -> Response<Body> {
        self.status = Some(rsp.status());
        self.grpc_status = if self.grpc { grpc::status(rsp.headers()) } else { None };
        rsp.map(|inner| Body { inner: Some(inner), deadline, exchange: self })
    }

    fn fail(self, error: &client::Error) -> Result<Response<Body>, Error> {
        if let Some(reason) = error.remote_reset() {
            self.shared.stats.transport(Side::Endpoint).reset(Some(reason));
            Err(Error { source: Side::Endpoint.passed_on(reason).into() })
        } else if error.is_unprocessed() {
            Err(Error { source: Reason::REFUSED_STREAM.into() })
        } else if error.is_request_broken() {
            // The client has gone, so nobody sees it.
            Err(Error { source: Reason::CANCEL.into() })
        } else {
            Ok(self.answer(Answer::bad_gateway("connection to endpoint was lost")))
        }
    }

    fn answer(mut self, answer: Answer) -> Response<Body> {
        let rsp = answer.into_response(self.grpc);
        self.status = Some(rsp.status());
        self.grpc_status = grpc::status(rsp.headers());
        rsp.map(|()| Body { inner: None, deadline: None, exchange: self })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Shared { limits, stats, .. } = &*self.shared;
        limits.in_flight.fetch_sub(1, Relaxed);
        if let Some(status) = self.status {
            stats.response(status, self.grpc_status, self.started.elapsed());
        }
    }
}

/// Whether there is a deadline and it has passed; if not, `cx` is woken when it does.
fn expired(deadline: &mut Deadline, cx: &mut Context<'_>) -> bool {
    deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
}

// === impl Shared ===

impl Shared {
    async fn send_later(self: Arc<Self>, mut req: Request<IncomingBody>) -> Result<Response<IncomingBody>, Failure> {
        let mut endpoints = self.endpoints.clone();
        for _ in 0..ATTEMPTS {
            self.wait(&mut endpoints).await.map_err(Failure::Answer)?;
            let Some(connection) = endpoints.pick() else { continue };
            match SendRequest::try_send(connection, req).await {
                Ok(rsp) => return Ok(rsp),
                Err(SendError { request: Some(unsent), .. }) => req = unsent,
                Err(SendError { error, request: None }) => return Err(Failure::Endpoint(error)),
            }
        }
        Err(Failure::Answer(Answer::bad_gateway("connections to endpoints close before requests can be sent")))
    }

    async fn wait(&self, endpoints: &mut Endpoints) -> Result<(), Answer> {
        let _waiting = Waiting::start(&self.limits).ok_or_else(|| {
            self.stats.count_shed();
            Answer::unavailable("too many requests waiting for an endpoint")
        })?;
        self.stats.count_queued();
        endpoints.ready(self.limits.params.failfast_timeout).await.inspect_err(|_| self.stats.count_failfast())
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a Limits);

impl<'a> Waiting<'a> {
    fn start(limits: &'a Limits) -> Option<Self> {
        let waiting = Self(limits);
        let before = limits.waiting.fetch_add(1, Relaxed);
        (before < limits.params.queue_capacity).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

// === impl Body ===

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let Self { inner, deadline, exchange } = &mut *self;
        let Some(body) = inner else { return Poll::Ready(None) };
        let polled = match Pin::new(body).poll_frame(cx) {
            Poll::Pending if expired(deadline, cx) => Poll::Ready(Some(Err(body::Error::timed_out()))),
            polled => polled,
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) if exchange.grpc => {
                if let Some(trailers) = frame.trailers_ref() {
                    exchange.grpc_status = grpc::status(trailers);
                }
            }
            Poll::Ready(Some(Err(error))) if !error.is_timeout() => {
                exchange.shared.stats.transport(Side::Endpoint).reset(error.reset().map(Reason::from));
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}
