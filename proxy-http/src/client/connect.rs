//! Makes connections to endpoints.

use super::{Engine, SendRequest};
use crate::{
    BoxError,
    activity::Activity,
    credit::{Buffers, Credit},
    http1,
    io::Io,
    ping::{self, Finding},
    server::{Protocol, RESET_STREAM_DURATION},
    stats::Transport,
};
use bytes::Bytes;
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
/// A connection of HTTP/2 is made when its peer's SETTINGS have come, and say that it takes streams.
///
/// `C` is the connector, a tower service that turns a target into an `AsyncRead + AsyncWrite`. `B` is the body of the
/// requests to be sent.
pub struct Connect<C, B> {
    connector: C,
    params: ClientParams,
    protocol: Protocol,
    builder: h2::client::Builder,
    timeout: Option<Duration>,
    transport: Arc<Transport>,
    buffers: Arc<Buffers>,
    body: PhantomData<fn(B)>,
}

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
            transport: Arc::default(),
            buffers: Arc::default(),
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

    /// Gives up when transport and handshake take longer than `timeout`. Not set: no limit.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
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
        .max_header_list_size(max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE))
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
        let timeout = self.timeout;
        let protocol = self.protocol;
        let connected = async move {
            let io = connecting.await.map_err(ConnectError::transport)?;
            let activity = Activity::new(adaptive);
            let (open, closed) = watch::channel(());
            let engine = match protocol {
                Protocol::Http2 => {
                    let io = Io::new(io, &transport, &activity).announced();
                    let (h2, mut connection) = builder.handshake(io).await.map_err(ConnectError::handshake)?;
                    activity.ping(connection.ping_pong(), keep_alive);
                    let mut credit = Credit::new(buffers, windows(flow_control));
                    settings(&mut connection, &h2, &activity, &mut credit).await?;
                    tokio::spawn(drive(connection, h2.clone(), Arc::clone(&activity), credit, open, max_malformed));
                    Engine::Http2(h2)
                }
                Protocol::Http1 => {
                    let interim = Arc::default();
                    let io = Io::new(io, &transport, &activity).in_turns(Arc::clone(&interim));
                    let max_head = max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE);
                    let max_head = usize::try_from(max_head).unwrap_or(usize::MAX);
                    let made = http1::client::connect(io, max_head, interim, open).await;
                    Engine::Http1(made.map_err(ConnectError::handshake)?)
                }
            };
            Ok(SendRequest { engine, activity, closed, write_stall, body: PhantomData })
        };
        Box::pin(async move {
            let Some(limit) = timeout else { return connected.await };
            tokio::time::timeout(limit, connected).await.unwrap_or_else(|_| Err(ConnectError::timed_out(limit)))
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
            transport: Arc::clone(&self.transport),
            buffers: Arc::clone(&self.buffers),
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
        let max = handle.current_max_send_streams();
        activity.set_max_streams(max);
        match ended {
            Poll::Ready(()) => Poll::Ready(Err(ConnectError::handshake("connection was closed before SETTINGS came"))),
            Poll::Pending if max > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Moves a connection's frames until it is closed: by its peer, or because all handles are dropped and all streams
/// have ended. Drops `open` once it takes no more requests, as after more than `max_malformed` malformed responses, or
/// small DATA that nobody will read.
async fn drive<I: AsyncRead + AsyncWrite + Unpin>(
    mut connection: h2::client::Connection<Io<I>, Bytes>,
    mut handle: h2::client::SendRequest<Bytes>,
    activity: Arc<Activity>,
    mut credit: Credit,
    open: watch::Sender<()>,
    max_malformed: usize,
) {
    let ended = {
        let mut going = pin!(poll_fn(|cx| {
            if let Poll::Ready(ended) = poll_connection(&mut connection, &activity, &mut credit, cx) {
                return Poll::Ready(Some(ended));
            }
            activity.set_max_streams(handle.current_max_send_streams());
            // Before h2 has enough of malformed responses, and ends the connection for all that is open on it.
            if activity.malformed() > max_malformed {
                return Poll::Ready(None);
            }
            // And before it has enough of small DATA, most of which came on streams that were reset.
            if activity.open_streams().owed() > MAX_OWED {
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
    drop((open, handle));
    let ended = match ended {
        Some(ended) => ended,
        None => poll_fn(|cx| poll_connection(&mut connection, &activity, &mut credit, cx)).await,
    };
    if let Err(error) = ended {
        tracing::debug!(error = &*error, "connection to endpoint failed");
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

    /// The connector failed, for example because the connection was refused.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        self.kind == ConnectErrorKind::Transport
    }

    /// The transport was made, but the peer's SETTINGS did not come.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.kind == ConnectErrorKind::Handshake
    }

    /// Connecting took longer than allowed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, ConnectErrorKind::TimedOut(_))
    }
}
