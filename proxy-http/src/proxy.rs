//! Forwards requests to endpoints, and answers in their place where they give no answer.

pub use crate::body::response::ResponseBody as Body;

use crate::{
    Endpoints, IncomingBody, Replay, Stats,
    body::{
        self,
        outcome::{Held, Piped},
        source::Source,
    },
    breaker::Outcome,
    client::{self, send_request::Outgoing},
    connection::now::now,
    endpoints::Attempt,
    http1::{tunnel, websocket},
    message::{answer::Answer, grpc, head::CLIENT_CERT, validate},
    retry::{self, Budget, Tries},
    stats::{Limit, Side, StreamLimit},
};
use bytes::Bytes;
use h2::{Reason, ext::Protocol};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header::CONTENT_LENGTH, response,
    uri::PathAndQuery,
};
use http_body::{Frame, SizeHint};
use std::{
    fmt,
    future::{self, Future, poll_fn},
    mem,
    pin::{Pin, pin},
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
/// | endpoint refuses the request, or its GOAWAY leaves it out, and it cannot be sent again | RST_STREAM(REFUSED_STREAM): the client may |
/// | connection lost before the head | 502, gRPC status 14 |
/// | connection lost after the head | RST_STREAM(INTERNAL_ERROR) |
/// | no endpoint ready in the fail-fast time | 503, 14; 502 or 504, 14 if none could be connected to |
/// | too many requests waiting or in flight | 503, 14 |
/// | endpoint takes no more of the request for the write-stall timeout | before the head 504, gRPC status 4; after it RST_STREAM(CANCEL) |
/// | request is malformed (RFC 9113 section 8.1.1) | 400, gRPC status 13; for trailers RST_STREAM(PROTOCOL_ERROR) |
/// | request's head is larger than the endpoint announced to take | 431, 13 |
/// | response is malformed, before its head is passed on | 502, 14 |
/// | response is malformed, after that | RST_STREAM(INTERNAL_ERROR) |
/// | trailers of a gRPC response have no status, as those above the header list size | RST_STREAM(INTERNAL_ERROR) |
/// | too many header fields, or a path and query too long | 431 or 414, gRPC status 8 |
/// | the client may not call | 403, gRPC status 7 |
/// | extended CONNECT (RFC 8441), or a WebSocket of HTTP/1.1, that an endpoint does not take | 501 |
/// | deadline before the head | 504, gRPC status 4 |
/// | deadline after the head | RST_STREAM(CANCEL) |
///
/// A request that was certainly not processed is sent again, and some others as [`retry::Params`] say. gRPC requests
/// are answered with HTTP status 200 and the gRPC status, without messages. A client of HTTP/1.1 gets 502 or, where the
/// request was not processed, 503 instead of a reset before the head; after it its connection is closed.
/// `x-forwarded-client-cert` is never passed on as a client sent it. CONNECT goes to an endpoint like other requests, whatever
/// host it names.
#[derive(Clone, Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    client: Client,
}

/// What is known of the client whose requests are forwarded. By default nothing, and it may call.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// It may not: its requests are answered with 403, gRPC status 7.
    pub denied: bool,
    /// What endpoints are told of its certificate, as `x-forwarded-client-cert`. `None`: nothing.
    pub cert: Option<HeaderValue>,
}

/// Bounds on what a proxy takes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Requests that may wait for an endpoint at once; more are turned away.
    pub queue_capacity: usize,
    /// How long no endpoint may be ready before requests fail at once.
    pub failfast_timeout: Duration,
    /// Requests that may be in flight at once; more are turned away.
    pub max_in_flight: usize,
    /// Fields that the head of a request may have, pseudo-fields aside; one with more is turned away.
    pub max_headers_count: usize,
    /// Bytes that the path and query of a request may have; one with more is turned away.
    pub max_uri_length: usize,
    /// The longest a request may take, from its head to its response's end. A gRPC client's own `grpc-timeout` counts
    /// if it is shorter. `None`: no limit.
    pub request_timeout: Option<Duration>,
    /// Whether trailers of requests are left out toward endpoints: END_STREAM comes on DATA then, or the last chunk ends the
    /// body. Some servers end the connection for trailers, and all other requests on it. Trailers that are malformed are
    /// refused all the same, and the `trailer` field, which names those to come, is passed on.
    pub drop_request_trailers: bool,
    /// Which requests are sent again.
    pub retry: retry::Params,
}

/// What is counted against the [`Params`]; proxies on several threads share one.
#[derive(Debug)]
pub struct Limits {
    params: Params,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
}

/// A request that ended in a reset of its stream.
#[derive(Debug, thiserror::Error)]
#[error("request was reset")]
pub struct Error {
    /// What the client's stream is reset with; looked for among the sources.
    source: h2::Error,
}

/// A response on its way.
#[must_use = "a response that nobody waits for is cancelled"]
pub struct ResponseFuture(Progress);

#[derive(Debug)]
struct Shared {
    endpoints: Endpoints,
    /// Where requests of HTTP/1.1 clients go. `None`: where all go.
    http1: Option<Endpoints>,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    budget: Budget,
}

/// One request and its response, counted from head to end. Boxed, the one box a request needs, so that what is handed
/// on while it goes its way is small.
struct Exchange {
    shared: Arc<Shared>,
    started: Instant,
    deadline: Deadline,
    grpc: bool,
    /// The client speaks HTTP/1.1, in which there is no reset to answer with.
    http1: bool,
    /// `None`: it is answered.
    request: Option<Outgoing<Replay>>,
    tries: Tries,
    /// The last one. `None`: there was none, or the answer is the proxy's own.
    attempt: Option<Attempt>,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    /// The response's. `None`: it is not there yet, or the proxy's own.
    body: Option<IncomingBody>,
}

/// When a request must be over. Boxed, since few have one.
type Deadline = Option<Pin<Box<Sleep>>>;

/// How far a request has come.
enum Progress {
    /// It is on a connection, for the first time.
    Sent(Box<Exchange>),
    /// It is refused, has to wait for a connection, or needs another one; rare, and boxed to keep the rest small.
    Later(Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>),
    Done,
}

/// What comes of an attempt.
enum Verdict {
    /// The response's body is kept with its request.
    Answered(response::Parts),
    /// The request is to be sent again.
    Again,
    Failed(client::Error),
    /// The proxy answers in the endpoint's place.
    Answer(Answer),
}

// === impl Proxy ===

impl Proxy {
    /// A proxy to `endpoints` that counts on `stats` and against `limits`.
    pub fn new(endpoints: Endpoints, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self::build(endpoints, None, limits, stats)
    }

    /// The same, with other endpoints for the requests of HTTP/1.1 clients: the same ones, spoken to in HTTP/1.1.
    pub fn by_protocol(http2: Endpoints, http1: Endpoints, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self::build(http2, Some(http1), limits, stats)
    }

    fn build(endpoints: Endpoints, http1: Option<Endpoints>, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        let shared = Arc::new(Shared { endpoints, http1, limits, stats, budget: Budget::new() });
        Self { shared, client: Client::default() }
    }

    /// The same for the requests of one client.
    #[must_use]
    pub fn for_client(&self, client: Client) -> Self {
        Self { shared: Arc::clone(&self.shared), client }
    }
}

impl Service<Request<IncomingBody>> for Proxy {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut req: Request<IncomingBody>) -> ResponseFuture {
        let Self { shared, client } = self;
        let refused = shared.refuse(&mut req, client.denied);
        if let Some(cert) = &client.cert {
            req.headers_mut().insert(CLIENT_CERT, cert.clone());
        }
        let mut exchange = Exchange::start(shared, req, client.cert.is_none());
        if let Some(answer) = refused {
            return ResponseFuture(Progress::Later(Box::pin(future::ready(Ok(exchange.answer(answer))))));
        }
        // Behind those that wait already.
        let sent = exchange.endpoints().waiting() == 0 && exchange.send(exchange.started, None);
        ResponseFuture(if sent { Progress::Sent(exchange) } else { Progress::later(exchange) })
    }
}

// === impl ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Progress::Sent(exchange) = &mut self.0 {
            let verdict = ready!(exchange.poll(cx));
            let Progress::Sent(exchange) = mem::replace(&mut self.0, Progress::Done) else { unreachable!() };
            match verdict {
                Verdict::Again => self.0 = Progress::later(exchange),
                verdict => return Poll::Ready(exchange.end(verdict)),
            }
        }
        let Progress::Later(response) = &mut self.0 else { panic!("a response was polled after its end") };
        response.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Progress::Sent(_) => "Sent",
            Progress::Later(_) => "Later",
            Progress::Done => "Done",
        })
    }
}

// === impl Progress ===

impl Progress {
    fn later(exchange: Box<Exchange>) -> Self {
        Self::Later(Box::pin(exchange.send_later()))
    }
}

// === impl Params ===

impl Default for Params {
    /// 10,000 may wait, 3 s at most; 100,000 may be in flight, for any time. They may have 100 fields, and 8 KiB of path
    /// and query. Trailers are passed on.
    fn default() -> Self {
        Self {
            queue_capacity: 10_000,
            failfast_timeout: Duration::from_secs(3),
            max_in_flight: 100_000,
            max_headers_count: 100,
            max_uri_length: 8 << 10,
            request_timeout: None,
            drop_request_trailers: false,
            retry: retry::Params::default(),
        }
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
    fn start(shared: &Arc<Shared>, req: Request<IncomingBody>, strip: bool) -> Box<Self> {
        shared.stats.request();
        shared.limits.in_flight.fetch_add(1, Relaxed);
        let (head, body) = req.into_parts();
        let grpc = grpc::is_grpc(&head.headers);
        let Params { drop_request_trailers, retry: retry::Params { buffer, .. }, .. } = shared.limits.params;
        let body = Replay::new(body, buffer);
        let body = if drop_request_trailers { body.without_trailers() } else { body };
        Box::new(Self {
            shared: Arc::clone(shared),
            started: now(),
            deadline: shared.limits.deadline(grpc, &head.headers),
            grpc,
            http1: is_http1(head.version),
            tries: Tries::new(&head.method, grpc),
            request: Some(Outgoing::new(head, body, strip)),
            attempt: None,
            status: None,
            grpc_status: None,
            body: None,
        })
    }

    fn endpoints(&self) -> &Endpoints {
        self.shared.endpoints(self.http1)
    }

    /// Sends the request if there is room for it.
    fn send(&mut self, now: Instant, avoid: Option<u64>) -> bool {
        let request = self.request.as_mut().expect(UNANSWERED);
        self.attempt = self.shared.endpoints(self.http1).send(request, now, avoid);
        self.attempt.is_some()
    }

    /// Waits for what comes of an attempt, or for the deadline.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        match self.request.as_mut().expect(UNANSWERED).poll_response(cx) {
            Poll::Ready(responded) => Poll::Ready(self.judge(responded)),
            Poll::Pending if expired(&mut self.deadline, cx) => Poll::Ready(Verdict::Answer(Answer::deadline())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends the request as soon as there is room for it, and again as long as that helps.
    async fn send_later(mut self: Box<Self>) -> Result<Response<Body>, Error> {
        let mut deadline = self.deadline.take();
        let verdict = {
            let mut sending = pin!(async {
                loop {
                    if let Err(answer) = self.send_when_ready().await {
                        return Verdict::Answer(answer);
                    }
                    match poll_fn(|cx| self.poll(cx)).await {
                        Verdict::Again => {}
                        verdict => return verdict,
                    }
                }
            });
            poll_fn(|cx| match sending.as_mut().poll(cx) {
                Poll::Pending if expired(&mut deadline, cx) => Poll::Ready(Verdict::Answer(Answer::deadline())),
                polled => polled,
            })
            .await
        };
        self.deadline = deadline;
        self.end(verdict)
    }

    async fn send_when_ready(&mut self) -> Result<(), Answer> {
        let shared = Arc::clone(&self.shared);
        let Shared { limits, stats, .. } = &*shared;
        let endpoints = shared.endpoints(self.http1);
        let last = self.attempt.take();
        let avoid = last.as_ref().map(Attempt::endpoint);
        endpoints.ended(last);
        let _waiting = Waiting::start(limits, stats).ok_or_else(|| {
            stats.count_shed();
            Answer::unavailable("too many requests waiting for an endpoint")
        })?;
        let request = self.request.as_mut().expect(UNANSWERED);
        let sent =
            endpoints.send_when_ready(request, avoid, &mut self.tries.place, limits.params.failfast_timeout).await;
        self.attempt = sent.inspect_err(|_| stats.count_failfast())?;
        if self.attempt.is_none() { Err(Answer::no_extended_connect()) } else { Ok(()) }
    }

    /// Whether an attempt's response is passed on, or its request sent again.
    fn judge(&mut self, responded: Result<Response<IncomingBody>, client::Error>) -> Verdict {
        let Self { shared, request, attempt, tries, http1, .. } = self;
        let (policy, attempt) = (&shared.limits.params.retry, attempt.as_mut().expect("it was sent"));
        let reason = match &responded {
            Ok(rsp) => {
                shared.endpoints(*http1).answered(attempt);
                policy.after_response(rsp, tries)
            }
            Err(error) => {
                if error.is_response_malformed() {
                    shared.stats.transport(Side::Endpoint).count_malformed();
                }
                if error.is_connection_lost() || error.is_response_malformed() {
                    attempt.set(Outcome::Failure);
                }
                policy.after_error(error, tries)
            }
        };
        let request = request.as_mut().expect(UNANSWERED);
        if let Some(reason) = reason
            && shared.may_retry(request.body_mut(), reason, tries)
        {
            if responded.is_ok() {
                attempt.set(Outcome::Failure);
            }
            request.stop();
            return Verdict::Again;
        }
        match responded {
            Ok(rsp) => {
                let (head, body) = rsp.into_parts();
                self.body = Some(body);
                Verdict::Answered(head)
            }
            Err(error) => Verdict::Failed(error),
        }
    }

    /// Ends the request with a response, or with its reset.
    fn end(self: Box<Self>, verdict: Verdict) -> Result<Response<Body>, Error> {
        match verdict {
            Verdict::Answered(head) => Ok(self.pass_on(head)),
            Verdict::Answer(answer) => Ok(self.answer(answer)),
            Verdict::Failed(error) => self.fail(&error),
            Verdict::Again => unreachable!("who asks for more is not at the end"),
        }
    }

    fn pass_on(mut self: Box<Self>, mut head: response::Parts) -> Response<Body> {
        let outcome = match retry::is_gateway_error(head.status) {
            // It speaks of the host that is named, not of the endpoint.
            true if self.is_plain_connect() => Outcome::Unknown,
            true => Outcome::Failure,
            false => Outcome::Success,
        };
        if let Some(mut request) = self.request.take_if(|request| !request.is_done()) {
            // A tunnel lasts as long as both sides want, and has no length.
            if request.is_connect() && tunnel::follows(head.status) {
                self.deadline = None;
                head.headers.remove(CONTENT_LENGTH);
            }
            request.body_mut().forget();
            let endpoint = Arc::clone(self.shared.stats.transport(Side::Endpoint));
            request.go_on(move |ended| {
                if ended == Piped::Stalled {
                    endpoint.stream_limit(StreamLimit::WriteStall);
                }
            });
        }
        self.request = None;
        self.status = Some(head.status);
        self.grpc_status = if self.grpc { grpc::status(&head.headers) } else { None };
        self.set(if self.is_unavailable() { Outcome::Failure } else { outcome });
        Response::from_parts(head, Body::new(self))
    }

    fn is_plain_connect(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.is_connect() && !request.is_extended_connect())
    }

    fn is_unavailable(&self) -> bool {
        self.grpc_status == Some(grpc::Code::Unavailable as u8)
    }

    /// What the endpoint did, as far as it is known.
    fn set(&mut self, outcome: Outcome) {
        if let Some(attempt) = &mut self.attempt {
            attempt.set(outcome);
        }
    }

    fn fail(mut self: Box<Self>, error: &client::Error) -> Result<Response<Body>, Error> {
        let endpoint = self.shared.stats.transport(Side::Endpoint);
        if let Some(reason) = error.remote_reset() {
            endpoint.reset(Some(reason));
        }
        if error.is_refused() {
            Ok(self.answer(Answer::bad_request(error.to_string())))
        } else if error.is_request_too_large() {
            Ok(self.answer(Answer::head_too_large()))
        } else if error.is_stalled() {
            endpoint.stream_limit(StreamLimit::WriteStall);
            Ok(self.answer(Answer::stalled()))
        } else if error.is_response_malformed() {
            Ok(self.answer(Answer::bad_gateway("endpoint's response is malformed")))
        } else if self.http1 && error.is_unprocessed() {
            Ok(self.answer(Answer::unavailable("endpoint refused the request")))
        } else if self.http1 {
            Ok(self.answer(Answer::bad_gateway(error.to_string())))
        } else if let Some(reason) = error.remote_reset() {
            Err(Error { source: Side::Endpoint.passed_on(reason).into() })
        } else if error.is_left_out() {
            Err(Error { source: Reason::REFUSED_STREAM.into() })
        } else if error.is_request_broken() {
            let reason = if self.request.as_mut().expect(UNANSWERED).body_mut().is_malformed() {
                self.shared.stats.transport(Side::Client).count_malformed();
                Reason::PROTOCOL_ERROR
            } else {
                // The client has gone, so nobody sees it.
                Reason::CANCEL
            };
            Err(Error { source: reason.into() })
        } else {
            Ok(self.answer(Answer::bad_gateway("connection to endpoint was lost")))
        }
    }

    fn answer(mut self: Box<Self>, answer: Answer) -> Response<Body> {
        self.request = None;
        let rsp = answer.into_response(self.grpc);
        self.status = Some(rsp.status());
        self.grpc_status = grpc::status(rsp.headers());
        rsp.map(|()| Body::new(self))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("started", &self.started).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Shared { limits, stats, .. } = &*self.shared;
        limits.in_flight.fetch_sub(1, Relaxed);
        // The response's body first: its connection is free from then on.
        self.body = None;
        self.shared.endpoints(self.http1).ended(self.attempt.take());
        if let Some(status) = self.status {
            stats.response(status, self.grpc_status, now() - self.started);
        }
    }
}

const UNANSWERED: &str = "the request is kept until it is answered";

/// Whether the client speaks HTTP/1.1.
fn is_http1(version: Version) -> bool {
    version < Version::HTTP_2
}

/// Whether there is a deadline and it has passed; if not, `cx` is woken when it does.
fn expired(deadline: &mut Deadline, cx: &mut Context<'_>) -> bool {
    deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
}

// === impl Shared ===

impl Shared {
    /// The answer to a request that may not go on.
    fn refuse(&self, req: &mut Request<IncomingBody>, denied: bool) -> Option<Answer> {
        if denied {
            self.stats.count_denied();
            return Some(Answer::forbidden("client is not allowed"));
        }
        let Params { max_in_flight, max_headers_count, max_uri_length, .. } = self.limits.params;
        if self.limits.in_flight() >= max_in_flight {
            self.stats.count_shed();
            return Some(Answer::unavailable("too many requests in flight"));
        }
        let client = self.stats.transport(Side::Client);
        if req.headers().len() > max_headers_count {
            client.limit(Limit::HeadersCount);
            return Some(Answer::too_many_fields());
        }
        if req.uri().path_and_query().map_or("", PathAndQuery::as_str).len() > max_uri_length {
            client.limit(Limit::UriLength);
            return Some(Answer::uri_too_long());
        }
        if req.method() == Method::CONNECT {
            return self.refuse_tunnel(req);
        }
        if self.endpoints(is_http1(req.version())).is_http1() && grpc::is_grpc(req.headers()) {
            return Some(Answer::unimplemented("gRPC needs HTTP/2, and the endpoint is spoken to in HTTP/1.1"));
        }
        let malformed = validate::request(req).err()?;
        client.count_malformed();
        Some(Answer::bad_request(malformed))
    }

    /// The answer to a request for a tunnel that may not go on. It goes to an endpoint like others, whatever it names.
    fn refuse_tunnel(&self, req: &mut Request<IncomingBody>) -> Option<Answer> {
        let from_http1 = is_http1(req.version());
        let endpoints = self.endpoints(from_http1);
        let checked = match req.extensions().get::<Protocol>() {
            None => validate::connect(req),
            Some(protocol) if endpoints.is_http1() && !websocket::is_websocket(protocol) => {
                return Some(Answer::unimplemented("of extended CONNECT, HTTP/1.1 has a form for WebSocket alone"));
            }
            Some(_) if endpoints.refuse_extended_connect() => return Some(Answer::no_extended_connect()),
            Some(_) if from_http1 && !endpoints.is_http1() => {
                validate::request(req).and_then(|()| websocket::to_http2(req))
            }
            Some(_) => validate::request(req),
        };
        let malformed = checked.err()?;
        self.stats.transport(Side::Client).count_malformed();
        Some(Answer::bad_request(malformed))
    }

    /// Where requests go, of clients of HTTP/1.1 or of HTTP/2.
    fn endpoints(&self, http1: bool) -> &Endpoints {
        match &self.http1 {
            Some(endpoints) if http1 => endpoints,
            _ => &self.endpoints,
        }
    }

    /// Makes a request ready to be sent again, if it may be.
    fn may_retry(&self, body: &mut Replay, reason: retry::Reason, tries: &mut Tries) -> bool {
        // Trailers are what some endpoints end a connection for: those would end the next one.
        let is_culprit = tries.ended_by_error && body.has_trailers();
        if !body.rewind() || !tries.has_left(reason) || is_culprit {
            return false;
        }
        let params = &self.limits.params.retry;
        if reason.is_budgeted() && !self.budget.take(params, self.stats.requests(), Instant::now()) {
            self.stats.count_over_budget();
            return false;
        }
        tries.take(reason);
        self.stats.count_retry(reason);
        true
    }
}

/// A place in the queue, however it is left.
struct Waiting<'a> {
    limits: &'a Limits,
    stats: &'a Stats,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn start(limits: &'a Limits, stats: &'a Stats) -> Option<Self> {
        if limits.waiting.fetch_add(1, Relaxed) >= limits.params.queue_capacity {
            limits.waiting.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self { limits, stats, since: Instant::now() })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.limits.waiting.fetch_sub(1, Relaxed);
        self.stats.count_queued(self.since.elapsed());
    }
}

impl Source for Exchange {
    fn hold(&mut self, cx: &mut Context<'_>) -> Held {
        let Self { body, deadline, .. } = self;
        let held = body.as_mut().map_or(Held::End, |body| body.hold(cx));
        if expired(deadline, cx) { Held::Expired } else { held }
    }
}

impl http_body::Body for Exchange {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let exchange = &mut *self;
        let Some(body) = &mut exchange.body else { return Poll::Ready(None) };
        let polled = match Pin::new(body).poll_frame(cx) {
            Poll::Pending if expired(&mut exchange.deadline, cx) => Poll::Ready(Some(Err(body::Error::timed_out()))),
            polled => polled,
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) if exchange.grpc => {
                if let Some(trailers) = frame.trailers_ref() {
                    // What is too large for h2 is missing without a word, and without its status a call has no end.
                    if exchange.grpc_status.is_none() && !trailers.contains_key(grpc::STATUS) {
                        return Poll::Ready(Some(Err(body::Error::cut_off())));
                    }
                    exchange.grpc_status = grpc::status(trailers);
                    if exchange.is_unavailable() {
                        exchange.set(Outcome::Failure);
                    }
                }
            }
            Poll::Ready(Some(Err(error))) if error.is_malformed() => {
                exchange.shared.stats.transport(Side::Endpoint).count_malformed();
                exchange.set(Outcome::Failure);
            }
            Poll::Ready(Some(Err(error))) if !error.is_timeout() && !error.is_given_up() => {
                exchange.shared.stats.transport(Side::Endpoint).reset(error.reset().map(Reason::from));
                if error.is_connection_lost() {
                    exchange.set(Outcome::Failure);
                }
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}
