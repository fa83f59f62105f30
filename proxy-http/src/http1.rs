//! HTTP/1.1: clients and endpoints that speak it, by hyper.

use crate::{
    BoxError, IncomingBody,
    body::outcome::Held,
    body::{channel::Feed, http1::Incoming},
    connection::{
        io::Io,
        rewind::Rewind,
        state::Activity,
        streams::OpenStream,
        timeouts::lifetime::{Lifetime, silence},
    },
    message::fields::{self, Invalid},
    server::Error,
    stats::{Limit, Side, Transport},
};
use bytes::Bytes;
use futures_util::future::MaybeDone;
use http::{HeaderValue, Request, Response, StatusCode, Version, header, response::Parts, uri::Scheme};
use http_body::Body;
use hyper::{body, server::conn::http1};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use std::{
    future::{Future, pending, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};
use tower_service::Service;

pub(crate) mod client;
mod ending;
mod guard;
mod request;
mod response;
mod reuse;
mod sending;
mod still;
pub(crate) mod tunnel;
pub(crate) mod websocket;

use ending::Ending;

use guard::{Guard, Heads};
use sending::{Sending, Slot};
use still::Still;
use tunnel::{Broken, Place, Tunnel};

use websocket::Key;

/// How HTTP/1.1 clients are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Params {
    /// How long a client may take to send a request's head once it has begun, before its connection is closed. The
    /// time between requests does not count.
    pub header_read_timeout: Duration,
    /// Whether the transport is secure, so that a target without a scheme is one of `https`.
    pub https: bool,
}

/// What all HTTP/1.1 connections of a server share.
#[derive(Clone, Debug)]
pub(crate) struct Serve {
    builder: http1::Builder,
    header_read_timeout: Duration,
    scheme: Scheme,
}

/// What limits the life of one connection, and who counts that.
pub(crate) struct Life<'a> {
    pub(crate) lifetime: Lifetime,
    /// How long the client may take nothing of what is written.
    pub(crate) write_stall: Duration,
    /// How long nothing may move while a request is open. `None`: for ever.
    pub(crate) stream_idle: Option<Duration>,
    pub(crate) transport: &'a Arc<Transport>,
}

/// A service of this crate as hyper calls it.
struct Adapter<S, B> {
    service: S,
    scheme: Scheme,
    activity: Arc<Activity>,
    transport: Arc<Transport>,
    places: Places<B>,
}

pin_project! {
    /// A request that is being answered.
    struct Answering<S, F, B> {
        asked: Asked,
        stream: Option<OpenStream>,
        // The way of what the client sends in a tunnel. `None`: it has asked for none.
        tunnel: Option<Feed>,
        places: Places<B>,
        #[pin]
        state: State<S, F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<S, F> {
        Refused,
        Unready { service: S, request: Option<Request<IncomingBody>> },
        Called { #[pin] response: F },
    }
}

/// Where a connection finds what is in hyper's hands.
struct Places<B> {
    tunnel: Place<B>,
    body: Slot<B>,
    ending: Arc<Ending>,
}

/// What the response to a request depends on.
#[derive(Debug, Default)]
struct Asked {
    /// The client takes trailers.
    trailers: bool,
    wants: Wanted,
}

/// What a client asks for.
#[derive(Debug, Default, Eq, PartialEq)]
enum Wanted {
    #[default]
    Response,
    /// With its key. `None`: it has sent none, or more than one.
    Websocket(Option<Key>),
    /// CONNECT: what comes next on the connection is no request, whatever the response is.
    Tunnel,
}

/// Why a connection ends that hyper would go on with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    Limit(Limit),
    /// Nothing moves, or a response's deadline has passed while nothing did.
    Still,
}

/// The time that heads may take.
struct HeadTimeout {
    limit: Duration,
    heads: Arc<Heads>,
    activity: Arc<Activity>,
    /// Until one may have taken too long. Requests leave it alone: what they did is looked at when it is up.
    timer: Pin<Box<Sleep>>,
}

/// Least that hyper takes for the most of its buffer; also what one connection may have unread or unsent.
const MAX_BUFFER: usize = 64 << 10;

// === impl Params ===

impl Default for Params {
    /// 30 s for a head, in clear text.
    fn default() -> Self {
        Self { header_read_timeout: Duration::from_secs(30), https: false }
    }
}

// === impl Serve ===

impl Serve {
    /// `max_head`: bytes of the largest head that a client may send.
    pub(crate) fn new(params: &Params, max_head: usize) -> Self {
        // No `..`: a new field must not compile until it is handled here.
        let Params { header_read_timeout, https } = *params;
        let mut builder = http1::Builder::new();
        // What comes without a date goes on without, as in HTTP/2.
        builder.auto_date_header(false).max_header_size(max_head).max_buf_size(MAX_BUFFER.max(max_head));
        Self { builder, header_read_timeout, scheme: if https { Scheme::HTTPS } else { Scheme::HTTP } }
    }

    /// Serves a connection as [`Server::serve`](crate::Server::serve) says.
    pub(crate) async fn serve<I, S, B, D>(
        &self,
        io: Rewind<Io<I>>,
        service: S,
        activity: Arc<Activity>,
        Life { mut lifetime, write_stall, stream_idle, transport }: Life<'_>,
        mut drain: Pin<&mut MaybeDone<D>>,
    ) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        let closes_at = lifetime.closes_at();
        let heads = Heads::new();
        let mut timeout = HeadTimeout::new(self.header_read_timeout, &heads, &activity);
        let mut builder = self.builder.clone();
        // hyper closes at once what is shut down before it has read anything; but something has come.
        let drained = drain.as_mut().output_mut().is_some();
        builder.keep_alive(!drained);
        let places = Places { tunnel: Place::new(), body: Slot::new(), ending: Arc::default() };
        let adapter = Adapter {
            service,
            scheme: self.scheme.clone(),
            activity: Arc::clone(&activity),
            transport: Arc::clone(transport),
            places: places.clone(),
        };
        let guard = Guard::new(io, Arc::clone(&heads), Arc::clone(&activity), Arc::clone(&places.ending));
        let mut connection = builder.serve_connection(TokioIo::new(guard), adapter);
        let mut still = Still::new(write_stall, stream_idle);
        let mut poll = |cx: &mut Context<'_>, shut_down: bool| {
            if shut_down {
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                let lost = activity.streams() > 0 && ended.as_ref().is_err_and(|error| !error.is_user());
                if lost {
                    transport.reset(None);
                }
                if let Err(error) = &ended {
                    count(error, transport);
                }
                return Poll::Ready(ended.map(|()| None).map_err(Error::http1));
            }
            let blocked = heads.is_blocked();
            let expired = blocked && places.body.hold(cx) == Held::Expired;
            let stands = still.poll(activity.streams() > 0, blocked, activity.moves(), cx);
            if let Poll::Ready(limit) = stands {
                transport.stream_limit(limit);
            }
            if expired || stands.is_ready() {
                return Poll::Ready(Ok(Some(Ended::Still)));
            }
            timeout.poll(cx).map(|()| Ok(Some(Ended::Limit(Limit::HeaderRead))))
        };
        let mut moves = 0;
        let reached = tokio::select! {
            biased;
            // First, so that a response which is due now says that it is the last.
            () = drain => None,
            served = poll_fn(|cx| {
                if let Poll::Ready(served) = poll(cx, false) {
                    return Poll::Ready(served);
                }
                let has_streams = activity.streams() > 0;
                // A request may have come and gone since.
                let used = mem::replace(&mut moves, activity.moves()) != activity.moves();
                let mut polled = lifetime.poll(has_streams || used, || has_streams, cx);
                if used && !has_streams && polled.is_pending() {
                    polled = lifetime.poll(false, || false, cx);
                }
                polled.map(|limit| Ok(Some(Ended::Limit(limit))))
            }) => Some(served?),
        };
        match reached {
            Some(Some(Ended::Still)) => return Ok(()),
            Some(Some(Ended::Limit(limit))) => {
                transport.limit(limit);
                if limit == Limit::HeaderRead {
                    return Ok(());
                }
            }
            Some(None) | None => {}
        }
        if reached != Some(None) {
            let mut shut_down = !drained;
            tokio::select! {
                biased;
                ended = poll_fn(|cx| poll(cx, mem::take(&mut shut_down))) => match ended? {
                    Some(Ended::Limit(limit)) => {
                        transport.limit(limit);
                        return Ok(());
                    }
                    Some(Ended::Still) => return Ok(()),
                    None => {}
                },
                limit = silence(&activity, closes_at) => {
                    limit.into_iter().for_each(|limit| transport.limit(limit));
                    return Ok(());
                }
            }
        }
        // hyper has done its part.
        let Some(tunnel) = places.tunnel.take() else { return Ok(()) };
        let http1::Parts { io, read_buf, .. } = connection.into_parts();
        let Some(io) = io.into_inner().into_inner() else { return Ok(()) };
        tokio::select! {
            ended = tunnel.run(io, read_buf, Still::new(write_stall, stream_idle)) => match ended {
                Ok(()) | Err(Broken::Body) => Ok(()),
                Err(Broken::Still(limit)) => {
                    transport.stream_limit(limit);
                    Ok(())
                }
                Err(Broken::Io(error)) => {
                    transport.reset(None);
                    Err(Error::io(error))
                }
            },
            () = at(closes_at) => {
                transport.limit(Limit::AgeGrace);
                Ok(())
            }
        }
    }
}

/// What hyper does not serve by itself.
fn count(error: &hyper::Error, transport: &Transport) {
    if error.is_parse_too_large() {
        transport.limit(Limit::HeadersCount);
    } else if error.is_parse() {
        transport.count_malformed();
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => pending().await,
    }
}

// === impl Places ===

impl<B> Clone for Places<B> {
    fn clone(&self) -> Self {
        Self { tunnel: self.tunnel.clone(), body: self.body.clone(), ending: Arc::clone(&self.ending) }
    }
}

// === impl HeadTimeout ===

impl HeadTimeout {
    fn new(limit: Duration, heads: &Arc<Heads>, activity: &Arc<Activity>) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        Self { limit, heads: Arc::clone(heads), activity: Arc::clone(activity), timer }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.activity.streams() > 0 {
                // What is behind the request that is being answered, hyper has not asked for.
                self.heads.restart();
            }
            let now = Instant::now();
            let up_at = self.heads.since().unwrap_or(now) + self.limit;
            if up_at <= now {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(up_at);
        }
    }
}

// === impl Adapter ===

impl<S, B> hyper::service::Service<Request<body::Incoming>> for Adapter<S, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Response<Sending<B>>;
    type Error = S::Error;
    type Future = Answering<S, S::Future, B>;

    fn call(&self, req: Request<body::Incoming>) -> Self::Future {
        let (stream, places) = (Some(self.activity.open_stream()), self.places.clone());
        let (mut head, body) = req.into_parts();
        let asked = match request::accept(&mut head, &self.scheme, body.is_end_stream()) {
            Ok(asked) => asked,
            Err(Invalid(reason)) => {
                tracing::debug!(reason, "bad request");
                self.transport.count_malformed();
                return Answering { asked: Asked::default(), stream, tunnel: None, places, state: State::Refused };
            }
        };
        let (tunnel, body) = if asked.wants == Wanted::Response {
            (None, Incoming::Message(body))
        } else {
            let (tunnel, uploading) = Feed::new(false);
            (Some(tunnel), Incoming::Tunnel(uploading))
        };
        let request = Request::from_parts(head, IncomingBody::http1(Side::Client, body));
        let mut service = self.service.clone();
        let state = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => State::Called { response: service.call(request) },
            Poll::Ready(Err(_)) | Poll::Pending => State::Unready { service, request: Some(request) },
        };
        Answering { asked, stream, tunnel, places, state }
    }
}

// === impl Answering ===

impl<S, B> Future for Answering<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Sending<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Refused => return Poll::Ready(Ok(refusal(StatusCode::BAD_REQUEST, this.stream.take()))),
                StateProj::Called { response } => {
                    let rsp = ready!(response.poll(cx))?;
                    return Poll::Ready(Ok(this.asked.respond(
                        rsp,
                        this.stream.take(),
                        this.tunnel.take(),
                        this.places,
                    )));
                }
                StateProj::Unready { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let response = service.call(request.take().expect("a service is called once"));
                    this.state.as_mut().project_replace(State::Called { response });
                }
            }
        }
    }
}

/// An answer after which the connection closes: what comes next may not be what the client means.
fn refusal<B>(status: StatusCode, stream: Option<OpenStream>) -> Response<Sending<B>> {
    let mut rsp = Response::new(Sending::empty(stream));
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(header::CONNECTION, CLOSE);
    rsp
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

// === impl Asked ===

impl Asked {
    /// The response as HTTP/1.1 has it.
    fn respond<B: Body>(
        &self,
        rsp: Response<B>,
        stream: Option<OpenStream>,
        tunnel: Option<Feed>,
        places: &Places<B>,
    ) -> Response<Sending<B>> {
        let (mut head, body) = rsp.into_parts();
        if let Some(tunnel) = tunnel {
            if self.wants.agree(&mut head) {
                places.tunnel.put(Tunnel::new(body, tunnel, stream));
                head.version = Version::HTTP_11;
                return Response::from_parts(head, Sending::empty(None));
            }
            tunnel.end();
        }
        let checked = if head.status.is_informational() {
            Err(Invalid("a final status below 200"))
        } else {
            fields::check_length(&mut head.headers)
        };
        if let Err(Invalid(reason)) = checked {
            tracing::debug!(reason, "bad response");
            return refusal(StatusCode::BAD_GATEWAY, stream);
        }
        head.version = Version::HTTP_11;
        if self.wants == Wanted::Tunnel {
            head.headers.insert(header::CONNECTION, CLOSE);
        }
        let ending = self.trailers.then(|| Arc::clone(&places.ending));
        Response::from_parts(head, Sending::new(body, &places.body, ending, stream))
    }
}

// === impl Wanted ===

impl Wanted {
    /// Whether this is the head of the response that a tunnel follows; if so, makes it one of HTTP/1.1.
    fn agree(&self, head: &mut Parts) -> bool {
        let agreed = match self {
            Self::Response => false,
            // An HTTP/1.1 endpoint has answered to the key itself. Of HTTP/2, success has it agreed.
            Self::Websocket(_) if head.status == StatusCode::SWITCHING_PROTOCOLS => true,
            Self::Websocket(Some(key)) if head.status.is_success() && head.version == Version::HTTP_2 => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                key.answer(&mut head.headers);
                true
            }
            Self::Websocket(_) => false,
            Self::Tunnel => head.status.is_success(),
        };
        if agreed {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        agreed
    }
}
