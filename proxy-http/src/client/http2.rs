//! The task that drives a connection of HTTP/2 to an endpoint.

use crate::{
    BoxError,
    client::{capacity::OnCapacity, error::ConnectError},
    connection::{
        flow::{
            flow_control::{Flow, KeepAliveTimedOut},
            windows::initial_windows,
        },
        frames::local_settings::tolerated,
        io::Io,
        state::{ConnectionState, GoAway},
        write_batch::Chunk,
    },
    message::connect_protocol::ConnectProtocol,
    stats::{Side, Transport},
};
use h2::Reason;
use http::{Method, Request, Version, request::Parts};
use http_h2::{ClientParams, RESET_STREAM_DURATION};
use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// The state of the task that drives a connection of HTTP/2.
pub(super) struct Driver<I> {
    pub(super) connection: h2::client::Connection<Io<I>, Chunk>,
    pub(super) connection_state: Arc<ConnectionState>,
    pub(super) flow: Flow,
    pub(super) transport: Arc<Transport>,
    pub(super) on_capacity: OnCapacity,
    pub(super) max_malformed: usize,
}

/// h2's budget for DATA frames of less than 256 bytes that wait to be read, in bytes: each frame costs 256 less its length,
/// and beyond the budget h2 ends the connection with ENHANCE_YOUR_CALM. h2's default is half of the connection's window,
/// which a burst of some 2,000 small gRPC messages exhausts. Bodies read their frames even when their readers have stopped,
/// so frames wait only from one read to the next poll of their streams, and the size of bursts decides. This budget is
/// enough for all of a stream's default window in frames of one byte. The price is as much memory, which h2 keeps as long as
/// the connection lives, for each connection to an endpoint that sends bursts of that size.
const DATA_FRAME_BUDGET: usize = 16 << 20;
/// The part of that budget beyond which a connection is replaced.
const MAX_DATA_FRAME_COST: u64 = DATA_FRAME_BUDGET as u64 / 2;
/// Servers of HTTP/1.1, and of TLS, close a connection on which HTTP/2's preface comes.
const CLOSED_EARLY: &str = "connection was closed before SETTINGS came; the endpoint may speak another protocol";
/// Streams to open before the peer's SETTINGS are known. None, because the peer would refuse streams above its limit.
const INITIAL_MAX_SEND_STREAMS: usize = 0;

/// Applies `params` to h2's builder. Keep-alive and the write-stall timeout are not h2's.
pub(super) fn builder(params: &ClientParams) -> h2::client::Builder {
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
    let max_frame_size = max_frame_size.unwrap_or(ClientParams::DEFAULT_MAX_FRAME_SIZE);
    let max_header_list_size = max_header_list_size.unwrap_or(ClientParams::DEFAULT_MAX_HEADER_LIST_SIZE);
    let mut builder = h2::client::Builder::new();
    let (stream, connection) =
        initial_windows(flow_control.unwrap_or(ClientParams::DEFAULT_FLOW_CONTROL), Side::Endpoint);
    builder
        .enable_push(false)
        .initial_max_send_streams(INITIAL_MAX_SEND_STREAMS)
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_concurrent_reset_streams(
            max_concurrent_reset_streams.unwrap_or(ClientParams::DEFAULT_MAX_CONCURRENT_RESET_STREAMS),
        )
        .reset_stream_duration(RESET_STREAM_DURATION)
        .max_local_error_reset_streams(Some(
            max_local_error_reset_streams.unwrap_or(ClientParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS),
        ))
        .max_frame_size(max_frame_size)
        .max_header_list_size(tolerated(max_header_list_size, max_frame_size))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_send_buffer_size(max_send_buf_size.unwrap_or(ClientParams::DEFAULT_MAX_SEND_BUF_SIZE));
    if let Some(size) = header_table_size {
        builder.header_table_size(size);
    }
    builder
}

/// Waits for the peer's SETTINGS; by then `connection_state` has the SETTINGS_MAX_CONCURRENT_STREAMS of them.
pub(super) async fn settings<I: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<Io<I>, Chunk>,
    handle: &h2::client::SendRequest<Chunk>,
    connection_state: &ConnectionState,
    flow: &mut Flow,
) -> Result<(), ConnectError> {
    poll_fn(|cx| {
        let ended = poll_connection(connection, connection_state, flow, cx);
        if let Some(other) = connection_state.other_protocol() {
            return Poll::Ready(Err(ConnectError::handshake(other)));
        }
        let ended = match ended {
            Poll::Ready(Err(error)) if is_closed_by_peer(&error) => Poll::Ready(()),
            ended => ended.map_err(ConnectError::handshake)?,
        };
        connection_state.set_max_streams(handle.current_max_send_streams());
        match ended {
            Poll::Ready(()) => Poll::Ready(Err(ConnectError::handshake(CLOSED_EARLY))),
            Poll::Pending if connection_state.has_settings() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Whether the transport failed because the peer had closed it, and for no reason that the error tells.
fn is_closed_by_peer(error: &BoxError) -> bool {
    let io = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
    io.is_some_and(|io| matches!(io.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset))
}

impl<I: AsyncRead + AsyncWrite + Send + Unpin + 'static> Driver<I> {
    /// Starts the task that drives the connection. The task owns the driver and [`drive`](Self::drive) borrows it: a future that is
    /// given one has room for it twice, as its argument and as its local variable.
    pub(super) fn spawn(mut self, handle: h2::client::SendRequest<Chunk>, open: watch::Sender<()>) {
        tokio::spawn(async move { self.drive(handle, open).await });
    }

    /// Drives the connection until it is closed: by the peer, or because all handles are dropped and all streams have ended.
    /// Drops `open` once the connection accepts no more requests: after GOAWAY, or when it is to be replaced.
    async fn drive(&mut self, mut handle: h2::client::SendRequest<Chunk>, open: watch::Sender<()>) {
        let ended = {
            let mut going = pin!(poll_fn(|cx| {
                if let Poll::Ready(ended) = self.poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                self.set_max_streams(handle.current_max_send_streams());
                if self.needs_replacement() {
                    return Poll::Ready(None);
                }
                // After GOAWAY open streams go on, but none can be opened.
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
            self.record_go_away(&error);
        }
        if let Some(Err(error)) = &ended
            && let Some(error) = error.downcast_ref()
        {
            self.record_fault(error);
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
        poll_connection(&mut self.connection, &self.connection_state, &mut self.flow, cx)
    }

    /// Notes the peer's SETTINGS_MAX_CONCURRENT_STREAMS, and signals capacity if it was raised.
    fn set_max_streams(&self, max: usize) {
        let before = self.connection_state.max_streams();
        if max != before {
            self.connection_state.set_max_streams(max);
            if max > before {
                (self.on_capacity)();
            }
        }
    }

    /// Whether new requests need another connection. h2 ends a connection, with all of its streams, after too many malformed
    /// responses, too much DATA that comes late on streams that it has forgotten, or too much small DATA, most of it on
    /// streams that were reset or of padding alone; so it is replaced before that. Also when few stream identifiers are
    /// left, or the peer refuses stream after stream.
    fn needs_replacement(&self) -> bool {
        self.connection_state.malformed() > self.max_malformed
            || self.connection_state.nears_engine_limit(self.max_malformed, MAX_DATA_FRAME_COST)
            || self.connection_state.has_few_streams_left()
            || self.connection_state.is_refusing()
    }

    /// Records the peer's GOAWAY, if `error` is one.
    fn record_go_away(&self, error: &h2::Error) {
        if !error.is_go_away() || !error.is_remote() {
            return;
        }
        let reason = error.reason();
        self.transport.count_go_away(reason);
        if let Some(reason) = reason.filter(|reason| *reason != Reason::NO_ERROR) {
            self.connection_state.set_go_away(GoAway { reason, is_remote: true, text: error.to_string() });
        }
    }

    /// Records that h2 ended the connection because the peer broke the protocol, if `error` says so. A byte in one response
    /// that no field may have is enough, since it is hidden by HPACK and h2 does not go on in a field block.
    fn record_fault(&self, error: &h2::Error) {
        if let Some(reason) = error.reason().filter(|_| error.is_go_away() && error.is_library()) {
            self.connection_state.set_go_away(GoAway { reason, is_remote: false, text: error.to_string() });
        }
    }
}

fn poll_connection<I: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<Io<I>, Chunk>,
    connection_state: &ConnectionState,
    flow: &mut Flow,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BoxError>> {
    connection_state.start_turn();
    // Before the connection is polled, which then sends the WINDOW_UPDATE.
    flow.poll_windows(connection, connection_state, cx);
    if Pin::new(&mut *connection).poll(cx)?.is_ready() {
        return Poll::Ready(Ok(()));
    }
    connection_state.update_blocked();
    flow.poll_pings(connection, connection_state, cx).map(|KeepAliveTimedOut| Err("keep-alive timed out".into()))
}

/// A request's head as h2 sends it.
pub(super) fn request(mut head: Parts) -> Request<()> {
    if head.method == Method::CONNECT {
        ConnectProtocol::to_engine(&mut head.extensions);
    }
    // h2 accepts a request without authority only if its version is HTTP/1.1, and sends it in HTTP/2 without `:authority`.
    // linkerd2-proxy does the same.
    head.version = if head.uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    Request::from_parts(head, ())
}
