//! Forwards requests to endpoints, and answers in their place where they give no answer.

use crate::{
    Endpoints, IncomingBody, Stats,
    body::response::ResponseBody as Body,
    message::head::CLIENT_CERT,
    proxy::{
        exchange::{Error, Exchange, Verdict},
        limits::Limits,
        retry::Budget,
        shared::Shared,
    },
};
use http::{HeaderValue, Request, Response};
use std::{
    fmt,
    future::{self, Future},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
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
/// A request that was certainly not processed is sent again, and some others as [`retry::Params`](crate::proxy::retry::Params) say.
/// gRPC requests are answered with HTTP status 200 and the gRPC status, without messages. A client of HTTP/1.1 gets 502 or, where the
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

/// A response on its way.
#[must_use = "a response that nobody waits for is cancelled"]
pub struct ResponseFuture(Progress);

/// How far a request has come.
enum Progress {
    /// It is on a connection, for the first time.
    Sent(Box<Exchange>),
    /// It is refused, has to wait for a connection, or needs another one; rare, and boxed to keep the rest small.
    Later(Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>),
    Done,
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
