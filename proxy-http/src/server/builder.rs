//! Connections from clients, served by a tower service.

use crate::{
    connection::{
        detect::Protocol,
        flow::{buffer_limit::BufferLimit, windows::initial_windows},
        frames::local_settings::tolerated,
        io::Io,
        rewind::ReadAhead,
        state::ConnectionState,
    },
    http1::Params,
    server::http1,
    stats::{Observe, Side, Transport},
};
use http_h2::{
    ClientKeepAlive, FlowControl, KeepAlive, MaxConnectionAge, OutOfRange, Protection, RESET_STREAM_DURATION,
    ServerParams,
};
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Serves HTTP/2 with prior knowledge, and HTTP/1.1, on any transport.
///
/// One server serves any number of connections, each by a call of [`serve`](Self::serve). The [crate](crate#examples) has an
/// example.
#[derive(Clone, Debug)]
pub struct Server {
    pub(super) builder: h2::server::Builder,
    pub(super) http1: http1::Http1Server,
    pub(super) max_header_list: u32,
    pub(super) max_engine_resets: usize,
    pub(super) detect_timeout: Duration,
    /// `None`: a drain may take any time.
    pub(super) drain_timeout: Option<Duration>,
    pub(super) extended_connect: ExtendedConnect,
    pub(super) keep_alive: Option<ClientKeepAlive>,
    pub(super) max_age: Option<MaxConnectionAge>,
    pub(super) max_idle: Option<Duration>,
    pub(super) write_stall: Duration,
    pub(super) stream_idle: Option<Duration>,
    pub(super) flow_control: FlowControl,
    pub(super) protection: Protection,
    pub(super) transport: Arc<Transport>,
    pub(super) buffers: Arc<BufferLimit>,
}

/// A connection that was accepted, as far as it is known before it is served.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// The client's address. `None`: it is not told.
    pub peer: Option<SocketAddr>,
    /// The protocol. `None`: it is detected.
    pub protocol: Option<Protocol>,
    /// Observes the connection's requests. `None`: they are not recorded.
    pub observe: Option<Arc<dyn Observe>>,
}

/// Decides once for each connection whether extended CONNECT is announced. `None`: it is not.
#[derive(Clone)]
pub(super) struct ExtendedConnect(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

/// A connection whose protocol is known.
pub(super) struct DetectedConnection<I> {
    pub(super) io: Io<I>,
    /// The bytes that detection has read.
    pub(super) ahead: ReadAhead,
    pub(super) connection_state: Arc<ConnectionState>,
    pub(super) started: Instant,
    /// See [`Accepted::observe`].
    pub(super) observe: Option<Arc<dyn Observe>>,
}

/// As linkerd2-proxy has it.
const DEFAULT_DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The budget of DATA frames below 256 bytes that wait in h2, as toward endpoints. They wait only until their streams are
/// polled, so the budget bounds a burst; clients get less of it than endpoints, since there may be many more of them. It
/// is enough for 16,000 small messages at once, more than the default stream window holds of gRPC's smallest.
const DATA_FRAME_BUDGET: usize = 4 << 20;
/// The part of the budget that unread frames may have used before the connection is drained.
pub(super) const MAX_UNREAD_SMALL_DATA: u64 = DATA_FRAME_BUDGET as u64 / 2;

// === impl Server ===

impl Server {
    /// A server whose connections are tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(params: &ServerParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        let max_header_list = params.max_header_list_size.unwrap_or(ServerParams::DEFAULT_MAX_HEADER_LIST_SIZE);
        let max_resets =
            params.max_local_error_reset_streams.unwrap_or(ServerParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS);
        Ok(Self {
            builder: builder(params),
            http1: http1::Http1Server::new(&Params::default(), to_usize(max_header_list)),
            max_header_list,
            max_engine_resets: max_resets / 2,
            detect_timeout: DEFAULT_DETECT_TIMEOUT,
            drain_timeout: None,
            extended_connect: ExtendedConnect(None),
            keep_alive: params.keep_alive.map(|KeepAlive { interval, timeout }| ClientKeepAlive {
                interval,
                timeout,
                while_idle: true,
            }),
            max_age: params.max_connection_age,
            max_idle: params.max_connection_idle,
            write_stall: params.write_stall_timeout.unwrap_or(ServerParams::DEFAULT_WRITE_STALL_TIMEOUT),
            stream_idle: params.stream_idle_timeout,
            flow_control: params.flow_control.unwrap_or(ServerParams::DEFAULT_FLOW_CONTROL),
            protection: params.protection,
            transport: Arc::default(),
            buffers: Arc::default(),
        })
    }

    /// Counts connections, their bytes, the resets of their streams and the limits that they reach on `transport`. Default: a new one.
    #[must_use]
    pub fn count_on(self, transport: Arc<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Bounds by `buffers` the bytes that connections hold for readers that have stopped. Default: no bound.
    #[must_use]
    pub fn buffer_in(self, buffers: Arc<BufferLimit>) -> Self {
        Self { buffers, ..self }
    }

    /// Serves HTTP/1.1 clients as `params` say. Default: `Params::default()`.
    ///
    /// Of the server's params, the limits of the size of heads and of the life of connections, the write-stall timeout and
    /// the stream idle timeout hold for HTTP/1.1, too.
    #[must_use]
    pub fn http1(self, params: &Params) -> Self {
        Self { http1: http1::Http1Server::new(params, to_usize(self.max_header_list)), ..self }
    }

    /// Announces extended CONNECT (RFC 8441), which WebSocket needs, to a client of HTTP/2 if `allowed` returns true when
    /// its connection opens. Default: to none.
    #[must_use]
    pub fn extended_connect(self, allowed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { extended_connect: ExtendedConnect(Some(Arc::new(allowed))), ..self }
    }

    /// Closes connections whose first bytes have not told the protocol after `timeout`. Default: 10 s.
    #[must_use]
    pub fn detect_timeout(self, timeout: Duration) -> Self {
        Self { detect_timeout: timeout, ..self }
    }

    /// Closes connections that are still open `timeout` after their drain was asked for: the streams that are open end with
    /// an error. Default: never.
    #[must_use]
    pub fn drain_timeout(self, timeout: Duration) -> Self {
        Self { drain_timeout: Some(timeout), ..self }
    }
}

/// The engine's builder. Keep-alive, protection, timeouts and the limits of a connection's life are not the engine's: the
/// connection applies them.
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
    let max_frame_size = max_frame_size.unwrap_or(ServerParams::DEFAULT_MAX_FRAME_SIZE);
    let max_header_list_size = max_header_list_size.unwrap_or(ServerParams::DEFAULT_MAX_HEADER_LIST_SIZE);
    let mut builder = h2::server::Builder::new();
    let (stream, connection) =
        initial_windows(flow_control.unwrap_or(ServerParams::DEFAULT_FLOW_CONTROL), Side::Client);
    builder
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_concurrent_streams(max_concurrent_streams.unwrap_or(ServerParams::DEFAULT_MAX_CONCURRENT_STREAMS))
        .max_frame_size(max_frame_size)
        .max_header_list_size(tolerated(max_header_list_size, max_frame_size))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(
            max_concurrent_reset_streams.unwrap_or(ServerParams::DEFAULT_MAX_CONCURRENT_RESET_STREAMS),
        )
        .reset_stream_duration(RESET_STREAM_DURATION)
        .max_local_error_reset_streams(Some(
            max_local_error_reset_streams.unwrap_or(ServerParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS),
        ))
        .max_pending_accept_reset_streams(
            max_pending_accept_reset_streams.unwrap_or(ServerParams::DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS),
        )
        .max_send_buffer_size(max_send_buf_size.unwrap_or(ServerParams::DEFAULT_MAX_SEND_BUF_SIZE));
    if let Some(size) = header_table_size {
        builder.header_table_size(size);
    }
    builder
}

pub(super) fn to_usize(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

// === impl ExtendedConnect ===

impl ExtendedConnect {
    pub(super) fn is_allowed(&self) -> bool {
        self.0.as_ref().is_some_and(|allowed| allowed())
    }
}

impl fmt::Debug for ExtendedConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExtendedConnect").field(&self.0.is_some()).finish()
    }
}
