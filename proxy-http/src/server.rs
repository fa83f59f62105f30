//! Connections from clients, served by a tower service.

mod answering;
mod serving;

pub use crate::connection::detect::Protocol;

use crate::{
    BoxError, IncomingBody,
    connection::{
        detect::{Detected, detect},
        discard::RESET_STREAM_DURATION,
        frames::local_settings::tolerated,
        io::Io,
        ping,
        rewind::{Ahead, Rewind},
        state::Activity,
        timeouts::lifetime::{DRAIN_SILENCE, Lifetime},
        window_credit::Buffers,
    },
    http1,
    server::serving::Serving,
    stats::{Limit, Transport},
};
use bytes::Bytes;
use futures_util::future::{MaybeDone, maybe_done};
use http::{Request, Response};
use http_body::Body;
use http_h2::{ClientKeepAlive, FlowControl, KeepAlive, MaxConnectionAge, OutOfRange, Protection, ServerParams};
use std::{
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tower_service::Service;

/// Serves HTTP/2 with prior knowledge, and HTTP/1.1, on any transport.
#[derive(Clone, Debug)]
pub struct Server {
    builder: h2::server::Builder,
    http1: http1::Serve,
    max_header_list: u32,
    max_engine_resets: usize,
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

/// linkerd2-proxy's.
const DEFAULT_DETECT_TIMEOUT: Duration = Duration::from_secs(10);
// What `ServerParams` say of an unset one.
const DEFAULT_WINDOW: u32 = 1 << 20;
const DEFAULT_MAX_CONCURRENT_STREAMS: u32 = 200;
const DEFAULT_MAX_HEADER_LIST_SIZE: u32 = 16 << 10;
const DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS: usize = DEFAULT_MAX_CONCURRENT_STREAMS as usize;
const DEFAULT_MAX_SEND_BUF_SIZE: usize = 400 << 10;
/// As toward endpoints. Those that are answered early are not among them, but for clients that go on: see `connection::discard`.
const DEFAULT_MAX_CONCURRENT_RESET_STREAMS: usize = 10_000;
const DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;
const DEFAULT_WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// What DATA frames of less than 256 bytes that wait in h2 may cost, as toward endpoints. They wait for a poll of their
/// streams only, so a burst is what counts; clients get less than endpoints, since there may be many more of them. It
/// is enough for 16,000 small messages at once, more than the default stream window holds of gRPC's smallest.
const DATA_FRAME_BUDGET: usize = 4 << 20;
/// What may be owed of it on a connection that is not drained.
const MAX_OWED: u64 = DATA_FRAME_BUDGET as u64 / 2;

// === impl Server ===

impl Server {
    /// A server whose connections are tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(params: &ServerParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        let max_header_list = params.max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE);
        let max_resets = params.max_local_error_reset_streams.unwrap_or(DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS);
        Ok(Self {
            builder: builder(params),
            http1: http1::Serve::new(&http1::Params::default(), in_bytes(max_header_list)),
            max_header_list,
            max_engine_resets: max_resets / 2,
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
        Self { http1: http1::Serve::new(params, in_bytes(self.max_header_list)), ..self }
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
    /// A client of HTTP/2 whose response is whole while its request is not may go on for a second, but gets no more window;
    /// the stream is reset with NO_ERROR then, or when its window is used up (RFC 9113 section 8.1).
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
        max_concurrent_reset_streams,
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
        .max_header_list_size(tolerated(max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE)))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(max_concurrent_reset_streams.unwrap_or(DEFAULT_MAX_CONCURRENT_RESET_STREAMS))
        .reset_stream_duration(RESET_STREAM_DURATION)
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

fn in_bytes(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
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
