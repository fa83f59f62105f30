//! Makes connections to endpoints.

use crate::{
    BoxError,
    client::{Engine, SendRequest},
    connection::{
        detect::Protocol,
        discard::RESET_STREAM_DURATION,
        frames::local_settings::tolerated,
        io::Io,
        ping::{self, Finding},
        state::{Activity, GoAway},
        window_credit::{Buffers, Credit},
    },
    endpoints::EndpointLog,
    http1,
    stats::Transport,
};
use bytes::Bytes;
use h2::Reason;
use http_h2::{ClientParams, FlowControl, OutOfRange};
use std::{
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tower_service::Service;

/// Makes connections to targets: a `Service<Target>` whose response is the connection's service.
///
/// A connection of HTTP/2 is made when its peer's SETTINGS have come, even if they say that it takes no streams yet.
///
/// `C` is the connector, a tower service that turns a target into an `AsyncRead + AsyncWrite`. `B` is the body of the
/// requests to be sent.
pub struct Connect<C, B> {
    connector: C,
    params: ClientParams,
    protocol: Protocol,
    builder: h2::client::Builder,
    timeout: Option<Duration>,
    handshake_timeout: Option<Duration>,
    transport: Arc<Transport>,
    buffers: Arc<Buffers>,
    log: Arc<EndpointLog>,
    on_transport: OnRoom,
    on_room: OnRoom,
    body: PhantomData<fn(B)>,
}

/// Called when a connection may have room for one more request.
pub(crate) type OnRoom = Arc<dyn Fn() + Send + Sync>;

/// A connection that is being made.
pub type ConnectFuture<B> = Pin<Box<dyn Future<Output = Result<SendRequest<B>, ConnectError>> + Send>>;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ConnectError {
    kind: ConnectErrorKind,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum ConnectErrorKind {
    #[error("could not connect")]
    Transport,
    #[error("HTTP handshake failed")]
    Handshake,
    #[error("connecting took longer than {0:?}")]
    TimedOut(Duration),
    #[error("endpoint's SETTINGS did not come in {0:?}")]
    NoSettings(Duration),
    #[error("connection was lost before any response")]
    Lost,
}

/// Remembered locally reset streams where `ClientParams` name no number: enough that cancelled requests whose
/// answers arrive late do not end the connection for all others.
const DEFAULT_MAX_CONCURRENT_RESET_STREAMS: usize = 10_000;
// What `ClientParams` say of an unset one.
const DEFAULT_STREAM_WINDOW: u32 = 2 << 20;
const DEFAULT_CONNECTION_WINDOW: u32 = 5 << 20;
/// Four times that of servers, and about Envoy's 60 KiB: h2 leaves out, without a word, what is above it in trailers.
const DEFAULT_MAX_HEADER_LIST_SIZE: u32 = 64 << 10;
const DEFAULT_MAX_SEND_BUF_SIZE: usize = 1 << 20;
const DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;
const DEFAULT_WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// What DATA frames of less than 256 bytes that wait in h2 may cost before it ends the connection with
/// ENHANCE_YOUR_CALM, in bytes: each costs what is missing of the 256. h2's own choice is half of the connection's
/// window, which a burst of some 2,000 small gRPC messages is enough for. Bodies take what comes even when their readers
/// have stopped, so frames wait only from one read to the next poll of their streams, and a burst is what counts. This
/// is enough for all of a stream's default window in frames of one byte. The price is so much memory, which h2 keeps as
/// long as the connection lives, for each connection to an endpoint that sends such bursts.
const DATA_FRAME_BUDGET: usize = 16 << 20;
/// What may be owed of it on a connection that takes requests.
const MAX_OWED: u64 = DATA_FRAME_BUDGET as u64 / 2;
/// Streams to open before the peer's SETTINGS say how many it takes. None: those above its limit would be refused.
const INITIAL_MAX_SEND_STREAMS: usize = 0;

// === impl Connect ===

impl<C, B> Connect<C, B> {
    /// Connections over what `connector` makes, tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(connector: C, params: &ClientParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        Ok(Self {
            connector,
            params: *params,
            protocol: Protocol::Http2,
            builder: builder(params),
            timeout: None,
            handshake_timeout: None,
            transport: Arc::default(),
            buffers: Arc::default(),
            log: Arc::default(),
            on_transport: Arc::new(|| {}),
            on_room: Arc::new(|| {}),
            body: PhantomData,
        })
    }

    /// The same with other params, where `overrides` sets them.
    ///
    /// # Errors
    ///
    /// The first of the params that is out of its range.
    pub fn override_from(self, overrides: &ClientParams) -> Result<Self, OutOfRange> {
        let params = self.params.override_from(overrides);
        params.validate()?;
        Ok(Self { params, builder: builder(&params), ..self })
    }

    /// Speaks `protocol`. Not set: HTTP/2. Of the params, `max_header_list_size` alone holds for HTTP/1.1.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    pub(crate) fn is_http1(&self) -> bool {
        self.protocol == Protocol::Http1
    }

    /// Gives up when the transport, with its TLS, takes longer than `timeout`. Not set: no limit.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Gives up when the peer's SETTINGS take longer than `timeout` once there is a transport. Not set: no limit.
    ///
    /// Requests wait meanwhile, under time-outs of their own. HTTP/1.1 has no such handshake.
    #[must_use]
    pub fn handshake_timeout(self, timeout: Duration) -> Self {
        Self { handshake_timeout: Some(timeout), ..self }
    }

    /// Reports the states of endpoints in `log`, which several share that connect to the same ones. Not set: each in its own.
    #[must_use]
    pub fn log_to(self, log: Arc<EndpointLog>) -> Self {
        Self { log, ..self }
    }

    pub(crate) fn log(&self) -> &Arc<EndpointLog> {
        &self.log
    }

    /// Calls `on_transport` when there is a transport, but no handshake yet. Not set: nobody is told.
    pub(crate) fn on_transport(self, on_transport: OnRoom) -> Self {
        Self { on_transport, ..self }
    }

    /// Calls `on_room` when a connection may have room for one more request. Not set: nobody is told.
    pub(crate) fn on_room(self, on_room: OnRoom) -> Self {
        Self { on_room, ..self }
    }

    /// Doubles the interval of keep-alive PINGs of connections made from now on; returns the new one. `None`: none are sent.
    pub(crate) fn slow_keep_alive(&mut self) -> Option<Duration> {
        let keep_alive = self.params.keep_alive.as_mut()?;
        keep_alive.interval = keep_alive.interval.saturating_mul(2);
        Some(keep_alive.interval)
    }

    /// Counts connections and their bytes on `transport`.
    #[must_use]
    pub fn count_on(self, transport: Arc<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Has connections take what they hold for readers that have stopped from `buffers`. Not set: there is no bound.
    #[must_use]
    pub fn buffer_in(self, buffers: Arc<Buffers>) -> Self {
        Self { buffers, ..self }
    }
}

/// All of `params` that the engine takes; keep-alive and the timeout are the connection's own.
fn builder(params: &ClientParams) -> h2::client::Builder {
    // No `..`: a new field must not compile until it is handled here.
    let ClientParams {
        flow_control,
        keep_alive: _,
        max_concurrent_reset_streams,
        max_local_error_reset_streams,
        max_frame_size,
        header_table_size,
        max_header_list_size,
        max_send_buf_size,
        write_stall_timeout: _,
    } = *params;
    let mut builder = h2::client::Builder::new();
    let (stream, connection) = windows(flow_control);
    builder
        .enable_push(false)
        .initial_max_send_streams(INITIAL_MAX_SEND_STREAMS)
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_concurrent_reset_streams(max_concurrent_reset_streams.unwrap_or(DEFAULT_MAX_CONCURRENT_RESET_STREAMS))
        .reset_stream_duration(RESET_STREAM_DURATION)
        .max_local_error_reset_streams(Some(
            max_local_error_reset_streams.unwrap_or(DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS),
        ))
        .max_header_list_size(tolerated(max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE)))
        .data_frame_budget(DATA_FRAME_BUDGET)
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
        None => (DEFAULT_STREAM_WINDOW, DEFAULT_CONNECTION_WINDOW),
        Some(FlowControl::Adaptive) => (ping::INITIAL_WINDOW, ping::INITIAL_WINDOW),
        Some(FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size }) => {
            (initial_stream_window_size, initial_connection_window_size)
        }
    }
}

impl<C, B, T> Service<T> for Connect<C, B>
where
    C: Service<T>,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = SendRequest<B>;
    type Error = ConnectError;
    // Boxed once a connection.
    type Future = ConnectFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.connector.poll_ready(cx).map_err(ConnectError::transport)
    }

    fn call(&mut self, target: T) -> ConnectFuture<B> {
        let connecting = self.connector.call(target);
        let builder = self.builder.clone();
        let transport = Arc::clone(&self.transport);
        let buffers = Arc::clone(&self.buffers);
        let ClientParams {
            keep_alive,
            flow_control,
            max_local_error_reset_streams,
            max_header_list_size,
            write_stall_timeout,
            ..
        } = self.params;
        let max_malformed = max_local_error_reset_streams.unwrap_or(DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS) / 2;
        let write_stall = write_stall_timeout.unwrap_or(DEFAULT_WRITE_STALL_TIMEOUT);
        let adaptive = flow_control == Some(FlowControl::Adaptive);
        let Self { timeout, handshake_timeout, protocol, .. } = *self;
        let (on_transport, on_room) = (Arc::clone(&self.on_transport), Arc::clone(&self.on_room));
        Box::pin(async move {
            let io = match timeout {
                None => connecting.await,
                Some(limit) => {
                    tokio::time::timeout(limit, connecting).await.map_err(|_| ConnectError::timed_out(limit))?
                }
            };
            let io = io.map_err(ConnectError::transport)?;
            on_transport();
            let activity = Activity::new(adaptive);
            let (open, closed) = watch::channel(());
            let max_header_list = max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE);
            let max_head = usize::try_from(max_header_list).unwrap_or(usize::MAX);
            let engine = match protocol {
                Protocol::Http2 => {
                    activity.limit_lists(max_head);
                    let io = Io::new(io, &transport, &activity).announced(max_header_list);
                    let (h2, mut connection) = builder.handshake(io).await.map_err(ConnectError::handshake)?;
                    activity.ping(connection.ping_pong(), keep_alive);
                    let mut credit = Credit::new(buffers, windows(flow_control));
                    let settings = settings(&mut connection, &h2, &activity, &mut credit);
                    match handshake_timeout {
                        None => settings.await?,
                        Some(limit) => {
                            let settings = tokio::time::timeout(limit, settings).await;
                            settings.map_err(|_| ConnectError::no_settings(limit))??;
                        }
                    }
                    let driver = Driver {
                        connection,
                        activity: Arc::clone(&activity),
                        credit,
                        transport,
                        on_room,
                        max_malformed,
                    };
                    tokio::spawn(driver.drive(h2.clone(), open));
                    Engine::Http2(h2)
                }
                Protocol::Http1 => {
                    let interim = Arc::default();
                    let io = Io::new(io, &transport, &activity).in_turns(Arc::clone(&interim));
                    let made = http1::client::connect(io, max_head, interim, open, on_room).await;
                    Engine::Http1(made.map_err(ConnectError::handshake)?)
                }
            };
            Ok(SendRequest { engine, activity, closed, write_stall, body: PhantomData })
        })
    }
}

impl<C: Clone, B> Clone for Connect<C, B> {
    fn clone(&self) -> Self {
        Self {
            connector: self.connector.clone(),
            params: self.params,
            protocol: self.protocol,
            builder: self.builder.clone(),
            timeout: self.timeout,
            handshake_timeout: self.handshake_timeout,
            transport: Arc::clone(&self.transport),
            buffers: Arc::clone(&self.buffers),
            log: Arc::clone(&self.log),
            on_transport: Arc::clone(&self.on_transport),
            on_room: Arc::clone(&self.on_room),
            body: PhantomData,
        }
    }
}

impl<C: fmt::Debug, B> fmt::Debug for Connect<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("connector", &self.connector).field("timeout", &self.timeout).finish()
    }
}

/// Waits for the peer's SETTINGS, and then has the streams that it takes noted.
async fn settings<I: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<Io<I>, Bytes>,
    handle: &h2::client::SendRequest<Bytes>,
    activity: &Activity,
    credit: &mut Credit,
) -> Result<(), ConnectError> {
    poll_fn(|cx| {
        let ended = poll_connection(connection, activity, credit, cx).map_err(ConnectError::handshake)?;
        activity.set_max_streams(handle.current_max_send_streams());
        match ended {
            Poll::Ready(()) => Poll::Ready(Err(ConnectError::handshake("connection was closed before SETTINGS came"))),
            Poll::Pending if activity.has_settings() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A connection of HTTP/2, and all that its task needs.
struct Driver<I> {
    connection: h2::client::Connection<Io<I>, Bytes>,
    activity: Arc<Activity>,
    credit: Credit,
    transport: Arc<Transport>,
    on_room: OnRoom,
    max_malformed: usize,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Driver<I> {
    /// Moves the connection's frames until it is closed: by its peer, or because all handles are dropped and all streams
    /// have ended. Drops `open` once it takes no more requests: after GOAWAY, or when it is to be replaced.
    async fn drive(mut self, mut handle: h2::client::SendRequest<Bytes>, open: watch::Sender<()>) {
        let ended = {
            let mut going = pin!(poll_fn(|cx| {
                if let Poll::Ready(ended) = self.poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                self.set_max_streams(handle.current_max_send_streams());
                if self.is_worn_out() {
                    return Poll::Ready(None);
                }
                // After GOAWAY, what is open goes on, but nothing can be added.
                match handle.poll_ready(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Err(_)) => Poll::Ready(None),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                }
            }));
            tokio::select! {
                biased;
                ended = &mut going => ended,
                () = open.closed() => None,
            }
        };
        if let Poll::Ready(Err(error)) = handle.poll_ready(&mut Context::from_waker(Waker::noop())) {
            self.note(&error);
        }
        drop((open, handle));
        let ended = match ended {
            Some(ended) => ended,
            None => poll_fn(|cx| self.poll(cx)).await,
        };
        if let Err(error) = ended {
            tracing::debug!(error = &*error, "connection to endpoint failed");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        poll_connection(&mut self.connection, &self.activity, &mut self.credit, cx)
    }

    /// The peer may take more streams than it did.
    fn set_max_streams(&self, max: usize) {
        let before = self.activity.max_streams();
        if max != before {
            self.activity.set_max_streams(max);
            if max > before {
                (self.on_room)();
            }
        }
    }

    /// Whether other requests should have another connection, before this one ends with all that is open on it: h2 has had
    /// nearly enough of malformed responses, of DATA that comes late on streams that it has forgotten, or of DATA that is small,
    /// most of which came on streams that were reset, or padding alone; or there are few streams left to open, or the peer refuses
    /// stream after stream.
    fn is_worn_out(&self) -> bool {
        self.activity.malformed() > self.max_malformed
            || self.activity.nears_engine_limit(self.max_malformed, MAX_OWED)
            || self.activity.has_few_streams_left()
            || self.activity.refuses()
    }

    /// Takes notice of the peer's GOAWAY.
    fn note(&self, error: &h2::Error) {
        if !error.is_go_away() || !error.is_remote() {
            return;
        }
        let reason = error.reason();
        self.transport.count_go_away(reason);
        if let Some(reason) = reason.filter(|reason| *reason != Reason::NO_ERROR) {
            self.activity.set_go_away(GoAway { reason, text: error.to_string() });
        }
    }
}

fn poll_connection<I: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<Io<I>, Bytes>,
    activity: &Activity,
    credit: &mut Credit,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BoxError>> {
    activity.start_turn();
    // Before the connection, which then tells its peer.
    if let Some(size) = credit.poll(activity.open_streams(), cx.waker()) {
        connection.set_target_window_size(size);
    }
    if Pin::new(&mut *connection).poll(cx)?.is_ready() {
        return Poll::Ready(Ok(()));
    }
    while let Poll::Ready(found) = activity.poll_pings(cx) {
        match found {
            Finding::Dead => return Poll::Ready(Err("keep-alive timed out".into())),
            Finding::Window(size) => {
                connection.set_target_window_size(credit.resize(size, size));
                connection.set_initial_window_size(size)?;
            }
        }
    }
    Poll::Pending
}

// === impl ConnectError ===

impl ConnectError {
    fn transport(source: impl Into<BoxError>) -> Self {
        Self { kind: ConnectErrorKind::Transport, source: Some(source.into()) }
    }

    fn handshake(source: impl Into<BoxError>) -> Self {
        Self { kind: ConnectErrorKind::Handshake, source: Some(source.into()) }
    }

    fn timed_out(limit: Duration) -> Self {
        Self { kind: ConnectErrorKind::TimedOut(limit), source: None }
    }

    fn no_settings(limit: Duration) -> Self {
        Self { kind: ConnectErrorKind::NoSettings(limit), source: None }
    }

    /// The connection was made, and lost before it was of any use.
    pub(crate) fn lost() -> Self {
        Self { kind: ConnectErrorKind::Lost, source: None }
    }

    /// The connection was made, and lost before it was of any use.
    pub(crate) fn is_lost(&self) -> bool {
        self.kind == ConnectErrorKind::Lost
    }

    /// The connector failed, for example because the connection was refused.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        self.kind == ConnectErrorKind::Transport
    }

    /// The transport was made, but the peer's SETTINGS did not come.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        matches!(self.kind, ConnectErrorKind::Handshake | ConnectErrorKind::NoSettings(_))
    }

    /// Connecting took longer than allowed, or the peer's SETTINGS did.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, ConnectErrorKind::TimedOut(_) | ConnectErrorKind::NoSettings(_))
    }
}
