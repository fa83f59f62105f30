//! The proxy as a service: forwards requests to endpoints, and answers requests that get no response.

use crate::{
    Endpoints, IncomingBody, Stats,
    body::response::ResponseBody as Body,
    connection::now::now,
    message::{
        client_cert::{self, CLIENT_CERT},
        forwarded::{ForwardedElement, ForwardedField},
    },
    proxy::{
        by_authority::{ByAuthority, Resolve},
        by_client::ByClient,
        by_route::ByRoute,
        exchange::{AttemptResult, Error, Exchange},
        find::{Find, Found},
        limits::Limits,
        policy::Policy,
        pool::Backend,
        rate_limit::ClientRates,
        shared::{BackendEndpoints, ProxyShared, Refusal},
    },
};
use http::{HeaderValue, Request, Response};
use std::{
    fmt,
    future::{self, Future},
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};
use tokio::time::Instant;
use tower_service::Service;

/// A service that forwards each request to an endpoint; clones share the endpoints and the limits.
///
/// Where an endpoint's response does not come or is not complete, the client gets:
///
/// | event | answer |
/// | --- | --- |
/// | endpoint resets the stream | RST_STREAM with its code; NO_ERROR, PROTOCOL_ERROR and HTTP_1_1_REQUIRED become INTERNAL_ERROR, and after the head so does CANCEL, but for tunnels; of gRPC, CANCEL and NO_ERROR between two messages are trailers with status 14 |
/// | endpoint refuses the request, or its stream is above the last one of GOAWAY, and it cannot be retried | 503, 14 |
/// | connection lost before the head | 502, gRPC status 14 |
/// | connection lost after the head | RST_STREAM(INTERNAL_ERROR), or trailers with status 14 between two messages of gRPC |
/// | no endpoint ready in the fail-fast time | 503, 14; 502 or 504, 14 if none could be connected to |
/// | the destination is known to have no endpoints | 503, 14, at once |
/// | too many requests waiting or in flight | 503, 14 |
/// | endpoint accepts no more of the request for the write-stall timeout | before the head 504, gRPC status 4; after it RST_STREAM(INTERNAL_ERROR) |
/// | request is malformed (RFC 9113 section 8.1.1) | 400, gRPC status 13; for trailers RST_STREAM(PROTOCOL_ERROR) |
/// | request's head is larger than the endpoint's SETTINGS_MAX_HEADER_LIST_SIZE | 431, 13 |
/// | response is malformed, before its head is passed on | 502, 14 |
/// | response is malformed, after that | RST_STREAM(INTERNAL_ERROR) |
/// | trailers of a gRPC response have no status, as trailers above the header list size | RST_STREAM(INTERNAL_ERROR) |
/// | a gRPC response ends without a status, neither in trailers nor in its head | trailers with status 2 behind a whole message, else RST_STREAM(INTERNAL_ERROR) |
/// | too many header fields, or a path and query too long | 431 or 414, gRPC status 8 |
/// | no route takes the request | 404, gRPC status 12 |
/// | its route has no back end with a weight above zero | 500, 14 |
/// | all destinations that may be connected to have requests in flight | 503, 14 |
/// | the request has come back 16 times, while 128 requests and more are in flight | 508, gRPC status 13 |
/// | the client is denied, or its certificate has expired | 403, gRPC status 7 |
/// | the client has sent more requests than its rate allows, or a route got more than its rate | 429 with `retry-after`, gRPC status 8 |
/// | extended CONNECT (RFC 8441), or a WebSocket of HTTP/1.1, that an endpoint does not support | 501 |
/// | deadline before the head | 504, gRPC status 4 |
/// | deadline after the head | RST_STREAM(INTERNAL_ERROR), or trailers with status 4 between two messages of gRPC |
///
/// A request that was certainly not processed is retried, and some others as [`retry::Params`](crate::proxy::retry::Params)
/// say. gRPC requests are answered with HTTP status 200 and the gRPC status, without messages. A client of HTTP/1.1 gets 502
/// or, where the request was not processed, 503 instead of a reset before the head; after it its connection is closed. A
/// client's own `x-forwarded-client-cert` is never passed on, neither in the head nor in the trailers. CONNECT goes to an
/// endpoint like other requests, whatever host it names.
#[derive(Clone, Debug)]
pub struct Proxy {
    destination: Destination,
    /// Shared, since the task of a connection holds several copies of the proxy. `None`: requests of the client are as all others.
    client: Option<Arc<KnownClient>>,
}

/// A client of which something is told, or asked, for each request.
#[derive(Debug)]
struct KnownClient {
    client: Client,
    /// The entry that requests get for `client.forwarded`.
    forwarded: Option<ForwardedElement>,
    /// The time of `client.expires`, on the clock of requests.
    expires_at: Option<Instant>,
}

/// Where requests go.
#[derive(Clone, Debug)]
enum Destination {
    /// All to the same endpoints.
    One(Arc<ProxyShared>),
    /// Each to the one that is found for it.
    Found(Arc<dyn Find>),
}

/// The client whose requests a proxy forwards. By default its address is not known, it has no certificate, and its requests are
/// neither limited nor denied.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The client's address. `None`: it is not known.
    pub addr: Option<SocketAddr>,
    /// The field in which endpoints are told the client's address, behind its entries; `unknown` if it is not known. `None`: they
    /// are not told.
    pub forwarded: Option<ForwardedField>,
    /// The rate limit of the client's requests, which counts them by the client's address; requests beyond it are answered with 429,
    /// gRPC status 8. `None`, or an address that is not known: no limit.
    pub rates: Option<Arc<ClientRates>>,
    /// Whether all requests are answered with 403, gRPC status 7.
    pub denied: bool,
    /// The value of `x-forwarded-client-cert` in requests to endpoints. `None`: the field is not sent.
    pub cert: Option<HeaderValue>,
    /// When the client's certificate expires; from then on its requests are answered as if it were denied, though its
    /// connection was made before. `None`: never.
    pub expires: Option<SystemTime>,
}

/// The future of a response.
#[must_use = "a response that nobody waits for is cancelled"]
pub struct ResponseFuture(Progress);

/// The progress of a request.
enum Progress {
    /// The request was sent once, and its response is awaited.
    Sent(Box<Exchange>),
    /// The request was rejected, waits for a connection, or is retried. Boxed, since this is rare and large.
    Later(Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>),
    Done,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy to `endpoints` with `limits`, which it shares with other proxies, that counts in `stats`.
    pub fn new(endpoints: Endpoints, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self::build(endpoints, None, limits, stats)
    }

    /// A proxy that uses the client's version of HTTP to endpoints: `http2` for requests of HTTP/2, `http1` for HTTP/1.1.
    pub fn by_protocol(http2: Endpoints, http1: Endpoints, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self::build(http2, Some(http1), limits, stats)
    }

    /// A proxy that sends each request to the back end of its route.
    pub fn by_route<B: Backend>(destinations: ByRoute<B>) -> Self {
        Self::to(Destination::Found(destinations.into_find()))
    }

    /// A proxy that sends each request to the destination that its authority names.
    pub fn by_authority<R: Resolve>(destinations: ByAuthority<R>) -> Self {
        Self::to(Destination::Found(destinations.into_find()))
    }

    /// A proxy for one client, which has connections of its own: `connect` is called in a tokio runtime when the first request comes.
    /// The connections close when the proxy and its clones are dropped and their streams have ended.
    pub fn by_client(clients: ByClient, connect: impl Fn() -> BackendEndpoints + Send + Sync + 'static) -> Self {
        Self::to(Destination::Found(clients.into_find(connect)))
    }

    fn build(endpoints: Endpoints, http1: Option<Endpoints>, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        let drop_request_trailers = limits.params.drop_request_trailers;
        let endpoints = BackendEndpoints { endpoints, http1, drop_request_trailers };
        Self::to(Destination::One(Arc::new(ProxyShared::new(endpoints, limits, stats))))
    }

    fn to(destination: Destination) -> Self {
        Self { destination, client: None }
    }

    /// The proxy for the requests of one client.
    #[must_use]
    pub fn for_client(&self, client: Client) -> Self {
        Self { destination: self.destination.clone(), client: KnownClient::new(client).map(Arc::new) }
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
        let Self { destination, client } = self;
        let client = client.as_deref();
        let refusal = client.and_then(KnownClient::refusal);
        let found;
        let (shared, policy, counters, refused) = match destination {
            Destination::One(shared) => (&*shared, Policy::NONE, None, shared.refuse(&mut req, refusal)),
            Destination::Found(find) => {
                let without_destination = find.without_destination();
                // No connection is made for a request that goes no further.
                found = match without_destination.refuse(&mut req, refusal) {
                    None => find.find(req.method(), req.uri(), req.headers(), now()),
                    Some(answer) => Found::answer(without_destination, answer),
                };
                (&found.proxy, found.policy, found.counters, found.answer)
            }
        };
        let refused = refused.or_else(|| shared.refuse_for_endpoints(&mut req));
        let cert = client.and_then(|client| client.client.cert.as_ref());
        if let Some(cert) = cert {
            client_cert::strip(req.headers_mut());
            req.headers_mut().insert(CLIENT_CERT, cert.clone());
        }
        if let Some(forwarded) = client.and_then(|client| client.forwarded.as_ref()) {
            forwarded.add(req.headers_mut());
        }
        let (head, body) = req.into_parts();
        let mut exchange = Exchange::start(shared, head, body, cert.is_none(), policy, counters);
        if let Some(answer) = refused {
            return ResponseFuture(Progress::Later(Box::pin(future::ready(Ok(exchange.answer(answer))))));
        }
        // Requests that wait already go first.
        let sent = exchange.endpoints().waiting() == 0 && exchange.send(exchange.started, None);
        ResponseFuture(if sent { Progress::Sent(exchange) } else { Progress::later(exchange) })
    }
}

// === impl KnownClient ===

impl KnownClient {
    /// `None`: an address at most is known, and nobody is told it.
    fn new(client: Client) -> Option<Self> {
        let Client { addr, forwarded, rates, denied, cert, expires } = &client;
        let forwarded = forwarded.map(|field| ForwardedElement::new(field, addr.map(|addr| addr.ip())));
        let expires_at = expires.and_then(|expires| {
            let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
            // A time that the clock cannot tell never comes.
            Instant::now().checked_add(left)
        });
        let is_known = forwarded.is_some() || rates.is_some() || *denied || cert.is_some() || expires_at.is_some();
        is_known.then_some(Self { client, forwarded, expires_at })
    }

    /// Counts a request; the reason to refuse it, if there is one.
    fn refusal(&self) -> Option<Refusal> {
        let Client { addr, rates, denied, .. } = &self.client;
        if *denied {
            Some(Refusal::Denied("client is not allowed"))
        } else if self.expires_at.is_some_and(|at| at <= now()) {
            Some(Refusal::Denied("client's certificate has expired"))
        } else {
            let rates = rates.as_ref().zip(*addr);
            rates.is_some_and(|(rates, addr)| !rates.admits(addr.ip(), now())).then_some(Refusal::RateLimited)
        }
    }
}

// === impl ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Progress::Sent(exchange) = &mut self.0 {
            let result = ready!(exchange.poll(cx));
            let Progress::Sent(exchange) = mem::replace(&mut self.0, Progress::Done) else { unreachable!() };
            match result {
                AttemptResult::Retry => self.0 = Progress::later(exchange),
                result => return Poll::Ready(exchange.end(result)),
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
