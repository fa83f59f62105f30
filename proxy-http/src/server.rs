//! Connections from clients, served by a tower service.

use crate::{
    BoxError, IncomingBody,
    activity::Activity,
    answer::Answer,
    credit::{Buffers, Credit},
    detect::{Detected, detect},
    grpc, http1, hygiene,
    idle::{Idle, Progress},
    interim,
    io::Io,
    lifetime::Lifetime,
    meter::{Meter, Seen},
    now,
    ping::{self, Finding},
    pipe::{Pipe, Piped},
    reason::{self, Side},
    resets::Resets,
    rewind::{Ahead, Rewind},
    running::Running,
    stall::Stall,
    stats::{Limit, StreamLimit, Transport},
    wake::Wake,
};
use bytes::Bytes;
use futures_util::future::{MaybeDone, maybe_done};
use h2::{
    Reason,
    server::{Connection, Handshake, SendResponse},
};
use http::{Request, Response};
use http_body::Body;
use http_h2::{ClientKeepAlive, FlowControl, KeepAlive, MaxConnectionAge, OutOfRange, Protection, ServerParams};
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tower_service::Service;

pub use crate::detect::Protocol;

/// Serves HTTP/2 with prior knowledge, and HTTP/1.1, on any transport.
#[derive(Clone, Debug)]
pub struct Server {
    builder: h2::server::Builder,
    http1: http1::Serve,
    max_head: usize,
    detect_timeout: Duration,
    extended_connect: ExtendedConnect,
    keep_alive: Option<ClientKeepAlive>,
    adaptive: bool,
    max_age: Option<MaxConnectionAge>,
    max_idle: Option<Duration>,
    write_stall: Duration,
    stream_idle: Option<Duration>,
    windows: (u32, u32),
    protection: Protection,
    transport: Arc<Transport>,
    buffers: Arc<Buffers>,
}

/// Asked once for each connection.
#[derive(Clone)]
struct ExtendedConnect(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

/// Why a connection ended other than by its client closing it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] ErrorKind);

#[derive(Debug, thiserror::Error)]
enum ErrorKind {
    #[error("connection from client failed")]
    Failed(#[source] h2::Error),
    #[error("connection from client failed")]
    Http1(#[source] hyper::Error),
    #[error("connection from client failed")]
    Io(#[source] io::Error),
    /// No PING was answered in time.
    #[error("keep-alive timed out")]
    TimedOut,
    #[error("client speaks TLS, which is not spoken here")]
    Tls,
    #[error("client went beyond a limit: {0:?}")]
    Limit(Limit),
}

/// A connection of which it is known what is spoken on it.
struct Opened<I> {
    io: Io<I>,
    /// What was read to find that out.
    ahead: Ahead,
    activity: Arc<Activity>,
    started: Instant,
}

/// One connection with all its streams, which end with it.
struct Serving<I, S, B>
where
    S: Service<Request<IncomingBody>>,
{
    phase: Phase<I>,
    service: S,
    streams: Running<Answering<S, S::Future, B>>,
    keep_alive: Option<ClientKeepAlive>,
    lifetime: Lifetime,
    /// `None`: streams may be idle for any time.
    idle: Option<Idle>,
    write_stall: Duration,
    flush: Flush,
    credit: Credit,
    seen: Arc<Seen>,
    resets: Resets,
    /// Streams so far.
    opened: u64,
    /// Whether a stream was opened since the lifetime was told.
    used: bool,
    /// The limit that the streams have reached.
    exceeded: Option<Limit>,
    draining: bool,
    wake: Arc<Wake>,
    /// `wake`, as the connection is polled with it.
    waker: Waker,
    activity: Arc<Activity>,
    transport: Arc<Transport>,
}

/// What h2 has left of responses that are whole.
struct Flush {
    stall: Stall,
    /// What the connection had moved when it was last looked at.
    moves: u64,
}

enum Phase<I> {
    Handshaking(Handshake<Rewind<Io<I>>, Bytes>),
    Open(Connection<Rewind<Io<I>>, Bytes>),
}

pin_project! {
    /// A request that is being answered.
    struct Answering<S, F, B> {
        started: Instant,
        respond: SendResponse<Bytes>,
        // `None`: it may be idle for any time.
        progress: Option<Arc<Progress>>,
        #[pin]
        state: State<S, F, B>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<S, F, B> {
        Unready { waiting: Option<Box<(S, Request<IncomingBody>)>>, write_stall: Duration },
        Called { #[pin] response: F, write_stall: Duration },
        Sending { pipe: Pipe<B> },
    }
}

/// How long a draining connection with no open stream may stay silent before it is closed. A client that answers the
/// drain's PING is gone long before.
const DRAIN_SILENCE: Duration = Duration::from_secs(5);
/// How long a client that went beyond a limit may take to read that it did.
const CLOSING: Duration = Duration::from_secs(1);
/// linkerd2-proxy's.
const DEFAULT_DETECT_TIMEOUT: Duration = Duration::from_secs(10);
// What `ServerParams` say of an unset one.
const DEFAULT_WINDOW: u32 = 1 << 20;
const DEFAULT_MAX_CONCURRENT_STREAMS: u32 = 200;
const DEFAULT_MAX_HEADER_LIST_SIZE: u32 = 16 << 10;
const DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS: usize = DEFAULT_MAX_CONCURRENT_STREAMS as usize;
const DEFAULT_MAX_SEND_BUF_SIZE: usize = 400 << 10;
const DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;
const DEFAULT_WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// What DATA frames of less than 256 bytes that wait in h2 may cost, as toward endpoints. They wait for a poll of their
/// streams only, so a burst is what counts; clients get less than endpoints, since there may be many more of them. It
/// is enough for 16,000 small messages at once, more than the default stream window holds of gRPC's smallest.
const DATA_FRAME_BUDGET: usize = 4 << 20;

// === impl Server ===

impl Server {
    /// A server whose connections are tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(params: &ServerParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        let max_head = params.max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE);
        let max_head = usize::try_from(max_head).unwrap_or(usize::MAX);
        Ok(Self {
            builder: builder(params),
            http1: http1::Serve::new(&http1::Params::default(), max_head),
            max_head,
            detect_timeout: DEFAULT_DETECT_TIMEOUT,
            extended_connect: ExtendedConnect(None),
            keep_alive: params.keep_alive.map(|KeepAlive { interval, timeout }| ClientKeepAlive {
                interval,
                timeout,
                while_idle: true,
            }),
            adaptive: params.flow_control == Some(FlowControl::Adaptive),
            max_age: params.max_connection_age,
            max_idle: params.max_connection_idle,
            write_stall: params.write_stall_timeout.unwrap_or(DEFAULT_WRITE_STALL_TIMEOUT),
            stream_idle: params.stream_idle_timeout,
            windows: windows(params.flow_control),
            protection: params.protection,
            transport: Arc::default(),
            buffers: Arc::default(),
        })
    }

    /// Counts connections, their bytes, the resets of their streams and the limits that they reach on `transport`.
    #[must_use]
    pub fn count_on(self, transport: Arc<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Has connections take what they hold for readers that have stopped from `buffers`. Not set: there is no bound.
    #[must_use]
    pub fn buffer_in(self, buffers: Arc<Buffers>) -> Self {
        Self { buffers, ..self }
    }

    /// Serves HTTP/1.1 clients as `params` say. Not set: their defaults.
    ///
    /// Of the params for HTTP/2, those hold for HTTP/1.1 that limit the size of heads, the life of connections, and how long
    /// one may stand still.
    #[must_use]
    pub fn http1(self, params: &http1::Params) -> Self {
        Self { http1: http1::Serve::new(params, self.max_head), ..self }
    }

    /// Announces extended CONNECT (RFC 8441), as for WebSocket, to a client of HTTP/2 if `allowed` says so when its
    /// connection opens. Not set: to none.
    #[must_use]
    pub fn extended_connect(self, allowed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { extended_connect: ExtendedConnect(Some(Arc::new(allowed))), ..self }
    }

    /// Closes connections whose clients have not said after `timeout` which protocol they speak. Not set: 10 s.
    #[must_use]
    pub fn detect_timeout(self, timeout: Duration) -> Self {
        Self { detect_timeout: timeout, ..self }
    }

    /// Serves one connection until the client closes it, or until it is drained. Its first bytes tell whether it is
    /// HTTP/2: by the preface (RFC 9113 section 3.4).
    ///
    /// Draining starts when `drain` completes, or when the connection reaches the age or the idle time that the params
    /// set: the client is told by GOAWAY to open no more streams, those that it had sent by then are served, and the
    /// connection closes when the last one ends. In HTTP/1.1 it closes after the request that is being answered. A
    /// client that does not play along is closed once no stream is open and nothing has moved for five seconds. At the
    /// end of the grace after its age a connection is closed in any case, whatever is still open on it and whatever it
    /// is drained for.
    ///
    /// An error of `service` resets the stream, with the code of the first `h2::Error` among its sources or else with
    /// INTERNAL_ERROR. So does a response that HTTP/2 has no form for, such as one with a `connection` field. When a
    /// client resets its stream, or is lost, the future or the body of its response is dropped.
    ///
    /// So it is when the client takes nothing of the response for the write-stall timeout, or when nothing moves on the
    /// stream for the stream idle timeout: the stream is reset with CANCEL then; where the head is not there yet, it is
    /// answered with 504 (gRPC status 4). Envoy answers the latter with 408 where the request is not whole, but that
    /// asks clients to send it again, and what was done with it nobody knows.
    ///
    /// A client of HTTP/1.1 that asks for a WebSocket comes to `service` as one of HTTP/2 does, with extended CONNECT (RFC 8441),
    /// and 2xx of version HTTP/2 has it agreed. What follows that, or 2xx to CONNECT, are bytes for either side until both
    /// have ended.
    ///
    /// Interim responses (1xx) that come in to a [`SendRequest`](crate::SendRequest) while `service`'s future is polled go on
    /// to a client of HTTP/2.
    ///
    /// In HTTP/1.1 an error of `service` or of the response's body closes the connection, so that the client sees no whole
    /// response, as do these timeouts.
    ///
    /// # Errors
    ///
    /// When the transport fails, or when the client breaks the protocol, answers no keep-alive PING or goes beyond what
    /// [`Protection`] allows.
    pub async fn serve<I, S, B, D>(&self, io: I, service: S, drain: D) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        let started = Instant::now();
        let activity = Activity::new(self.adaptive);
        let mut io = Io::new(io, &self.transport, &activity);
        let mut drain = pin!(maybe_done(drain));
        let detected = tokio::select! {
            biased;
            detected = tokio::time::timeout(self.detect_timeout, detect(&mut io)) => detected,
            // What is on its way is still served.
            () = async {
                drain.as_mut().await;
                tokio::time::sleep(DRAIN_SILENCE).await;
            } => return Ok(()),
        };
        match detected {
            Ok(Ok(Detected::Http(protocol, ahead))) => {
                let opened = Opened { io, ahead, activity, started };
                self.serve_as(protocol, opened, service, drain).await
            }
            Ok(Ok(Detected::Gone)) => Ok(()),
            Ok(Ok(Detected::Tls)) => Err(ErrorKind::Tls.into()),
            Ok(Err(error)) => Err(ErrorKind::Io(error).into()),
            Err(_) => {
                self.transport.limit(Limit::Detect);
                Ok(())
            }
        }
    }

    /// Serves one connection like [`serve`](Self::serve), of which it is known what is spoken on it.
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve).
    pub async fn serve_protocol<I, S, B, D>(&self, protocol: Protocol, io: I, service: S, drain: D) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        let activity = Activity::new(self.adaptive);
        let io = Io::new(io, &self.transport, &activity);
        let opened = Opened { io, ahead: Ahead::default(), activity, started: Instant::now() };
        self.serve_as(protocol, opened, service, pin!(maybe_done(drain))).await
    }

    async fn serve_as<I, S, B, D>(
        &self,
        protocol: Protocol,
        opened: Opened<I>,
        service: S,
        drain: Pin<&mut MaybeDone<D>>,
    ) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        match protocol {
            Protocol::Http2 => {
                let mut serving = Serving::new(self, opened, service);
                serving.serve(drain).await
            }
            Protocol::Http1 => {
                let Opened { io, ahead, activity, started } = opened;
                let lifetime = Lifetime::without_frames(self.max_age, self.max_idle, started);
                let life = http1::Life {
                    lifetime,
                    write_stall: self.write_stall,
                    stream_idle: self.stream_idle,
                    transport: &self.transport,
                };
                // Boxed, so that connections of HTTP/2 are not the larger for it.
                Box::pin(self.http1.serve(Rewind::new(io, ahead), service, activity, life, drain)).await
            }
        }
    }
}

/// All of `params` that the engine takes; keep-alive, protection and the limits of a connection's life are its own.
fn builder(params: &ServerParams) -> h2::server::Builder {
    // No `..`: a new field must not compile until it is handled here.
    let ServerParams {
        flow_control,
        keep_alive: _,
        max_concurrent_streams,
        max_frame_size,
        header_table_size,
        max_header_list_size,
        max_pending_accept_reset_streams,
        max_local_error_reset_streams,
        max_send_buf_size,
        max_connection_age: _,
        max_connection_idle: _,
        write_stall_timeout: _,
        stream_idle_timeout: _,
        protection: _,
    } = *params;
    let mut builder = h2::server::Builder::new();
    let (stream, connection) = windows(flow_control);
    builder
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_concurrent_streams(max_concurrent_streams.unwrap_or(DEFAULT_MAX_CONCURRENT_STREAMS))
        .max_header_list_size(max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_local_error_reset_streams(Some(
            max_local_error_reset_streams.unwrap_or(DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS),
        ))
        .max_pending_accept_reset_streams(
            max_pending_accept_reset_streams.unwrap_or(DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS),
        )
        .max_send_buffer_size(max_send_buf_size.unwrap_or(DEFAULT_MAX_SEND_BUF_SIZE));
    if let Some(size) = max_frame_size {
        builder.max_frame_size(size);
    }
    if let Some(size) = header_table_size {
        builder.header_table_size(size);
    }
    builder
}

/// Those of a stream and of a connection, in bytes.
fn windows(flow_control: Option<FlowControl>) -> (u32, u32) {
    match flow_control {
        None => (DEFAULT_WINDOW, DEFAULT_WINDOW),
        Some(FlowControl::Adaptive) => (ping::INITIAL_WINDOW, ping::INITIAL_WINDOW),
        Some(FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size }) => {
            (initial_stream_window_size, initial_connection_window_size)
        }
    }
}

/// Completes when, for [`DRAIN_SILENCE`], no stream was open and not a byte moved; or else, with a limit, when it is
/// time to close in any case.
pub(crate) async fn silence(activity: &Activity, closes_at: Option<Instant>) -> Option<Limit> {
    loop {
        let before = activity.moves();
        let silent_at = Instant::now() + DRAIN_SILENCE;
        tokio::time::sleep_until(closes_at.map_or(silent_at, |at| at.min(silent_at))).await;
        if closes_at.is_some_and(|at| at <= Instant::now()) {
            return Some(Limit::AgeGrace);
        }
        if activity.streams() == 0 && activity.moves() == before {
            return None;
        }
    }
}

// === impl ExtendedConnect ===

impl ExtendedConnect {
    fn is_allowed(&self) -> bool {
        self.0.as_ref().is_some_and(|allowed| allowed())
    }
}

impl fmt::Debug for ExtendedConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExtendedConnect").field(&self.0.is_some()).finish()
    }
}

// === impl Serving ===

impl<I, S, B> Serving<I, S, B>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn new(server: &Server, opened: Opened<I>, service: S) -> Self {
        let Opened { io, ahead, activity, started } = opened;
        let seen = Arc::<Seen>::default();
        let mut meter = Meter::new(server.protection.max_control_frames, &seen);
        // It has not seen what was read before.
        meter.read(ahead.bytes());
        let io = Rewind::new(io.metered(meter), ahead);
        let wake = Arc::<Wake>::default();
        Self {
            phase: Phase::Handshaking(if server.extended_connect.is_allowed() {
                server.builder.clone().enable_connect_protocol().handshake(io)
            } else {
                server.builder.handshake(io)
            }),
            service,
            streams: Running::new(),
            keep_alive: server.keep_alive,
            lifetime: Lifetime::new(server.max_age, server.max_idle, &server.protection, Arc::clone(&seen), started),
            idle: server.stream_idle.map(Idle::new),
            write_stall: server.write_stall,
            flush: Flush { stall: Stall::new(server.write_stall), moves: 0 },
            credit: Credit::new(Arc::clone(&server.buffers), server.windows),
            seen,
            resets: Resets::new(server.protection.max_premature_resets, started),
            opened: 0,
            used: false,
            exceeded: None,
            draining: false,
            waker: Waker::from(Arc::clone(&wake)),
            wake,
            activity,
            transport: Arc::clone(&server.transport),
        }
    }

    async fn serve<D: Future<Output = ()>>(&mut self, drain: Pin<&mut MaybeDone<D>>) -> Result<(), Error> {
        let closes_at = self.lifetime.closes_at();
        tokio::select! {
            biased;
            served = poll_fn(|cx| self.poll(cx)) => match served? {
                None => return Ok(()),
                Some(limit) => self.reached(limit).await?,
            },
            () = drain => {}
        }
        self.drain();
        let activity = Arc::clone(&self.activity);
        tokio::select! {
            biased;
            served = poll_fn(|cx| self.poll(cx)) => match served? {
                None => Ok(()),
                Some(limit) => self.reached(limit).await,
            },
            limit = silence(&activity, closes_at) => {
                if let Some(limit) = limit {
                    self.transport.limit(limit);
                    // Or they would count as lost, which is what clients do.
                    self.streams.clear();
                }
                Ok(())
            }
        }
    }

    /// Serves until the connection is closed (`None`) or has reached a limit.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Limit>, Error>> {
        let _stopped = now::Stopped::new();
        self.seen.start_turn();
        if let Poll::Ready(ended) = self.poll_connection(cx) {
            return Poll::Ready(ended.map(|()| None));
        }
        if let Some(limit) = self.exceeded.or_else(|| self.seen.exceeded()) {
            return Poll::Ready(Ok(Some(limit)));
        }
        let used = mem::take(&mut self.used) || !self.streams.is_empty();
        self.lifetime.poll(used, || self.phase.has_streams(), cx).map(|limit| Ok(Some(limit)))
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Before the connection, which then writes what they have sent.
        self.wake.hold(cx.waker());
        self.poll_streams(cx);
        self.wake.release();
        let mut connection_cx = Context::from_waker(&self.waker);
        if let Phase::Handshaking(handshake) = &mut self.phase {
            let mut connection = ready!(Pin::new(handshake).poll(&mut connection_cx)).map_err(ErrorKind::Failed)?;
            self.activity.ping(connection.ping_pong(), self.keep_alive);
            if self.draining {
                connection.graceful_shutdown();
            }
            self.phase = Phase::Open(connection);
        }
        let Phase::Open(connection) = &mut self.phase else { unreachable!() };
        if let Some(size) = self.credit.poll(self.activity.open_streams(), &self.waker) {
            connection.set_target_window_size(size);
        }
        let mut accepted = false;
        while let Poll::Ready(next) = connection.poll_accept(&mut connection_cx) {
            let (req, mut respond) = match next {
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    if error.is_go_away() && error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                        self.transport.limit(Limit::Engine);
                    }
                    return Poll::Ready(Err(ErrorKind::Failed(error).into()));
                }
                None => return Poll::Ready(Ok(())),
            };
            let started = now::now();
            self.opened += 1;
            // One that is reset by now need not go any further.
            if self.seen.reset()
                && let Poll::Ready(Ok(reason)) = respond.poll_reset(&mut Context::from_waker(Waker::noop()))
            {
                self.transport.reset(Some(reason));
                if self.resets.reset(started, started, self.opened) {
                    self.exceeded = Some(Limit::PrematureResets);
                }
                continue;
            }
            let (head, body) = req.into_parts();
            let length = || hygiene::content_length(&head.headers);
            let mut body = IncomingBody::new(Side::Client, length, body, self.activity.if_adaptive());
            if !body.is_end_stream() {
                body = body.counted(self.activity.open_stream()).unread();
            }
            let progress = self.idle.as_ref().map(|_| Progress::new(grpc::is_grpc(&head.headers)));
            if let Some(progress) = &progress {
                body = body.watched(Arc::clone(progress));
            }
            let state = State::call(&mut self.service, Request::from_parts(head, body), self.write_stall);
            self.streams.push(Answering { started, respond, progress, state });
            accepted = true;
        }
        while let Poll::Ready(found) = self.activity.poll_pings(cx) {
            match found {
                Finding::Dead => return Poll::Ready(Err(ErrorKind::TimedOut.into())),
                Finding::Window(size) => {
                    connection.set_target_window_size(self.credit.resize(size, size));
                    connection.set_initial_window_size(size).map_err(ErrorKind::Failed)?;
                }
            }
        }
        if accepted {
            self.used = true;
            // What they send at once wakes the connection.
            self.poll_streams(cx);
        }
        if let Some(idle) = &mut self.idle {
            while idle.poll(!self.streams.is_empty(), cx).is_ready() {
                idle.look(self.streams.iter().filter_map(|stream| stream.progress.clone()));
            }
        }
        // Responses may be whole, and wait in h2 for their client all the same: at most a piece of each, for which nobody
        // looks but here.
        let waits = self.streams.is_empty() && self.activity.open_streams_count() == 0 && self.phase.has_streams();
        if self.flush.poll(waits, self.activity.moves(), cx).is_ready() {
            self.transport.stream_limit(StreamLimit::WriteStall);
            if let Phase::Open(connection) = &mut self.phase {
                connection.abrupt_shutdown(Reason::CANCEL);
                // As far as the client takes that.
                let _ = connection.poll_accept(&mut Context::from_waker(&self.waker));
            }
            return Poll::Ready(Ok(()));
        }
        // A drain waits for those that are answered but not sent to their end, too.
        let open = if self.draining { self.phase.has_streams().into() } else { self.streams.len() };
        self.activity.set_streams(open);
        Poll::Pending
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) {
        let Self { streams, transport, resets, opened, exceeded, .. } = self;
        streams.poll(cx, |(ended, started)| match ended {
            Piped::Done | Piped::Broken => {}
            Piped::Stalled => transport.stream_limit(StreamLimit::WriteStall),
            Piped::Idle => transport.stream_limit(StreamLimit::Idle),
            Piped::Reset(reason) => {
                transport.reset(Some(reason));
                if resets.reset(started, now::now(), *opened) {
                    *exceeded = Some(Limit::PrematureResets);
                }
            }
            Piped::Lost => transport.reset(None),
        });
    }

    /// Counts a limit; if the client is at fault, which is the error, the connection is closed with all its streams.
    async fn reached(&mut self, limit: Limit) -> Result<(), Error> {
        self.transport.limit(limit);
        let Some(code) = limit.code() else { return Ok(()) };
        if let Phase::Open(connection) = &mut self.phase {
            connection.abrupt_shutdown(code);
            // It is not the client that has reset or lost them.
            self.streams.clear();
            // Whether it reads that or not is all the same.
            let _ = tokio::time::timeout(CLOSING, poll_fn(|cx| connection.poll_closed(cx))).await;
        }
        Err(ErrorKind::Limit(limit).into())
    }

    /// Tells the client to open no more streams.
    fn drain(&mut self) {
        self.draining = true;
        self.lifetime.drain();
        if let Phase::Open(connection) = &mut self.phase {
            connection.graceful_shutdown();
        }
    }
}

impl<I, S, B> Drop for Serving<I, S, B>
where
    S: Service<Request<IncomingBody>>,
{
    fn drop(&mut self) {
        for _ in 0..self.streams.len() {
            self.transport.reset(None);
        }
    }
}

// === impl Flush ===

impl Flush {
    /// Ready when something `waits` and nothing has moved on the connection for too long.
    fn poll(&mut self, waits: bool, moves: u64, cx: &mut Context<'_>) -> Poll<()> {
        if !waits || moves != self.moves {
            self.moves = moves;
            self.stall.over();
        }
        if waits { self.stall.poll(cx) } else { Poll::Pending }
    }
}

// === impl Phase ===

impl<I> Phase<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    /// Whether a stream is open: one that is answered is until its last byte is sent and the client has sent all, too.
    /// This takes h2's lock.
    fn has_streams(&self) -> bool {
        matches!(self, Self::Open(connection) if connection.has_streams())
    }
}

// === impl Answering ===

impl<S, B> Future for Answering<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// How it ended, and when it had started.
    type Output = (Piped, Instant);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let started = self.started;
        self.poll_end(cx).map(|ended| (ended, started))
    }
}

impl<S, B> Answering<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_end(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Piped> {
        let mut this = self.project();
        if let Some(progress) = this.progress {
            if progress.is_over(cx) {
                match this.state.project() {
                    StateProj::Sending { pipe } => pipe.reset(Reason::CANCEL),
                    _ => {
                        let answer = Answer::idle().into_response(progress.grpc);
                        // Fails only if the client has reset the stream.
                        let _ = this.respond.send_response(answer, true);
                    }
                }
                return Poll::Ready(Piped::Idle);
            }
            progress.mark();
        }
        loop {
            let (polled, write_stall) = match this.state.as_mut().project() {
                StateProj::Sending { pipe } => return pipe.poll(cx),
                StateProj::Called { response, write_stall } => {
                    let (polled, interim) = interim::during(|| response.poll(cx));
                    if interim {
                        send_interim(this.respond, cx);
                    }
                    (polled, *write_stall)
                }
                StateProj::Unready { waiting, write_stall } => {
                    let (service, _) = &mut **waiting.as_mut().expect("a service is called once");
                    match service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {
                            let (mut service, req) = *waiting.take().expect("seen above");
                            let (response, write_stall) = (service.call(req), *write_stall);
                            this.state.as_mut().project_replace(State::Called { response, write_stall });
                            continue;
                        }
                        Poll::Ready(Err(error)) => (Poll::Ready(Err(error)), *write_stall),
                        Poll::Pending => (Poll::Pending, *write_stall),
                    }
                }
            };
            let sent = match polled {
                Poll::Pending => {
                    let reset = ready!(this.respond.poll_reset(cx));
                    return Poll::Ready(reset.map_or(Piped::Lost, Piped::Reset));
                }
                Poll::Ready(Ok(rsp)) => {
                    let (head, body) = rsp.into_parts();
                    let ended = body.is_end_stream();
                    let to = this.respond.send_response(Response::from_parts(head, ()), ended);
                    to.map(|to| {
                        (!ended).then(|| {
                            let mut pipe = Pipe::new(body, Reason::INTERNAL_ERROR);
                            pipe.send_to(to, write_stall);
                            pipe
                        })
                    })
                    .map_err(|error| error.reason())
                }
                Poll::Ready(Err(error)) => {
                    // Perhaps because the client has reset its stream.
                    if let Poll::Ready(Ok(reason)) = this.respond.poll_reset(cx) {
                        return Poll::Ready(Piped::Reset(reason));
                    }
                    Err(reason::first(&*error.into()))
                }
            };
            match sent {
                Ok(Some(pipe)) => this.state.as_mut().project_replace(State::Sending { pipe }),
                Ok(None) => return Poll::Ready(Piped::Done),
                Err(reason) => {
                    this.respond.send_reset(reason.unwrap_or(Reason::INTERNAL_ERROR));
                    return Poll::Ready(Piped::Done);
                }
            };
        }
    }
}

/// Sends what came before a response.
#[cold]
fn send_interim(respond: &mut SendResponse<Bytes>, cx: &mut Context<'_>) {
    for head in interim::take() {
        // h2 would send it on a stream that is reset, too.
        if respond.poll_reset(cx).is_pending() {
            let _ = respond.send_informational(head);
        }
    }
}

// === impl State ===

impl<S, B> State<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
{
    fn call(service: &mut S, req: Request<IncomingBody>, write_stall: Duration) -> Self {
        // Nearly always ready; if not, the request waits by itself, with a waker of its own.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called { response: service.call(req), write_stall },
            Poll::Ready(Err(_)) | Poll::Pending => {
                let clone = service.clone();
                Self::Unready { waiting: Some(Box::new((mem::replace(service, clone), req))), write_stall }
            }
        }
    }
}

// === impl Error ===

impl Error {
    pub(crate) fn http1(source: hyper::Error) -> Self {
        ErrorKind::Http1(source).into()
    }

    pub(crate) fn io(source: io::Error) -> Self {
        ErrorKind::Io(source).into()
    }

    /// The client was gone before it sent a whole request, or while nothing was open: nothing to worry about.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        match &self.0 {
            ErrorKind::Failed(source) => source.is_io(),
            ErrorKind::Http1(source) => source.is_incomplete_message() || source.is_closed(),
            ErrorKind::Io(_) => true,
            ErrorKind::TimedOut | ErrorKind::Tls | ErrorKind::Limit(_) => false,
        }
    }

    /// The limit that the client went beyond, if that is why.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        match self.0 {
            ErrorKind::Limit(limit) => Some(limit),
            _ => None,
        }
    }

    /// The client speaks TLS, and is served in clear text.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0, ErrorKind::Tls)
    }
}
