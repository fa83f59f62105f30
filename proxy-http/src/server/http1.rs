//! One connection of HTTP/1.1 from a client, by hyper.

use crate::{
    BoxError, IncomingBody,
    body::outcome::Backpressure,
    connection::{
        io::Io,
        rewind::Rewind,
        state::ConnectionState,
        timeouts::lifetime::{DrainEnd, Lifetime, drained, time_is_up},
    },
    http1::{
        Params,
        guard::{Guard, GuardState},
        linger::{MAX_SILENCE, linger},
        params::max_headers,
        timeouts::Timeouts,
        tunnel::{Tunnel, TunnelError},
    },
    server::{
        adapter::{Adapter, ExchangeSlots},
        error::Error,
    },
    stats::{Limit, OpenRecord, ProxyError, StreamLimit, Transport},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::MaybeDone};
use http::{Request, Response, StatusCode, uri::Scheme};
use http_body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};
use tower_service::Service;

/// The settings that all HTTP/1.1 connections of a server share.
#[derive(Clone, Debug)]
pub(crate) struct Http1Server {
    builder: http1::Builder,
    header_read_timeout: Duration,
    max_header_list: usize,
    scheme: Scheme,
}

/// The limits of one connection, and the counters of them.
pub(crate) struct Limits<'a> {
    pub(crate) lifetime: Lifetime,
    /// How long a write may be blocked.
    pub(crate) write_stall: Duration,
    /// How long no byte may move while a request is open. `None`: for ever.
    pub(crate) stream_idle: Option<Duration>,
    /// How long a drain may take. `None`: any time.
    pub(crate) drain_timeout: Option<Duration>,
    pub(crate) transport: &'a Arc<Transport>,
    pub(crate) records: OpenRecord,
}

/// One connection with its request, if one is open.
struct Http1Connection<'a, C, B> {
    /// hyper's connection.
    connection: C,
    timeouts: Timeouts,
    head_timeout: HeadTimeout,
    guard_state: Arc<GuardState>,
    connection_state: &'a ConnectionState,
    slots: ExchangeSlots<B>,
    transport: &'a Transport,
    /// The connection's count of moves at the last poll.
    moves: u64,
    /// Whether the open request has been ended for a cause that is counted and recorded.
    is_cut: bool,
}

/// Why a connection is no longer served as before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ServeEnd {
    /// hyper has finished it.
    Finished,
    /// The server's drain starts.
    Drain,
    /// The connection has reached one of its limits.
    Limit(Limit),
    /// No byte has moved for too long, or a response's deadline has passed while its write was blocked.
    Timeout,
}

/// The timeout of a request's head.
struct HeadTimeout {
    limit: Duration,
    guard_state: Arc<GuardState>,
    connection_state: Arc<ConnectionState>,
    /// Runs until a head may have taken too long. Requests do not reset it: when it fires, it is set again if the head has
    /// begun later.
    timer: Pin<Box<Sleep>>,
}

/// The least size of hyper's buffer, in bytes, which is larger where heads may be; hyper's own default is some 400 KiB. It bounds
/// the bytes of one connection that are read but not parsed, or not written.
const MIN_BUFFER: usize = 64 << 10;

// === impl Http1Server ===

impl Http1Server {
    /// `max_head`: bytes of the largest head that a client may send.
    pub(crate) fn new(params: &Params, max_head: usize) -> Self {
        // No `..`: a new field must not compile until it is handled here.
        let Params { header_read_timeout, https, max_headers_count } = *params;
        let mut builder = http1::Builder::new();
        // A response without a date goes on without one, as in HTTP/2.
        builder.auto_date_header(false).max_header_size(max_head).max_buf_size(MIN_BUFFER.max(max_head));
        if let Some(max) = max_headers(max_headers_count, max_head) {
            builder.max_headers(max);
        }
        Self {
            builder,
            header_read_timeout,
            max_header_list: max_head,
            scheme: if https { Scheme::HTTPS } else { Scheme::HTTP },
        }
    }

    /// Serves a connection as [`Server::serve`](crate::Server::serve) says.
    pub(crate) async fn serve<I, S, B, D>(
        &self,
        io: Rewind<Io<I>>,
        service: S,
        connection_state: Arc<ConnectionState>,
        Limits { mut lifetime, write_stall, stream_idle, drain_timeout, transport, records }: Limits<'_>,
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
        let guard_state = GuardState::new();
        let head_timeout = HeadTimeout::new(self.header_read_timeout, &guard_state, &connection_state);
        let mut builder = self.builder.clone();
        // hyper closes a connection at once that is shut down before hyper has read from it, though detection may have read
        // the start of a request. Without keep-alive hyper serves that request, and then closes.
        // (Nothing has asked for the drain yet if detection had bytes at once, as of a client that waited to be accepted.)
        let is_drained = drain.as_mut().now_or_never().is_some();
        builder.keep_alive(!is_drained);
        let slots = ExchangeSlots::new(records.clone());
        let max_list = self.max_header_list;
        let adapter = Adapter::new(service, &self.scheme, &connection_state, transport, &slots, &guard_state, max_list);
        let guard =
            Guard::new(io, Arc::clone(&guard_state), Arc::clone(&connection_state), Arc::clone(&slots.trailers));
        let connection = builder.serve_connection(TokioIo::new(guard), adapter);
        let timeouts = Timeouts::new(write_stall, stream_idle);
        let mut http1_connection = Http1Connection {
            connection,
            timeouts,
            head_timeout,
            guard_state,
            connection_state: &connection_state,
            slots,
            transport,
            moves: 0,
            is_cut: false,
        };
        let finished = match http1_connection.until_drain(&mut lifetime, drain.as_mut()).await {
            Ok(ServeEnd::Finished) => Ok(true),
            Ok(end) if !end.is_graceful() => Ok(false),
            Ok(_) => {
                if !is_drained {
                    Pin::new(&mut http1_connection.connection).graceful_shutdown();
                }
                let drained = drained(&connection_state, closes_at, drain.as_mut(), drain_timeout);
                http1_connection.finish(drained).await
            }
            Err(error) => Err(error),
        };
        if matches!(finished, Ok(false)) {
            http1_connection.cut(ProxyError::Closing);
            return Ok(());
        }
        let tunnel = http1_connection.slots.tunnel.take().filter(|_| finished.is_ok());
        let http1::Parts { io, read_buf, .. } = http1_connection.connection.into_parts();
        let over = cut_at(time_is_up(closes_at, drain, drain_timeout), records);
        let timeouts = Timeouts::new(write_stall, stream_idle);
        end(io.into_inner(), tunnel, read_buf, finished.map(drop), timeouts, over, transport).await
    }
}

/// Ends a connection that hyper has finished: runs the tunnel that it may have become, or else reads on until the client has
/// read the last response; but not longer than until it is `over`. `read`: bytes that hyper had read.
async fn end<I, B>(
    io: Guard<I>,
    tunnel: Option<Tunnel<B>>,
    read: Bytes,
    finished: Result<(), Error>,
    timeouts: Timeouts,
    over: impl Future<Output = DrainEnd>,
    transport: &Transport,
) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let Some(tunnel) = tunnel else {
        // Other errors break a response off, of which the client is to see at once that it is not whole.
        if finished.as_ref().map_or_else(Error::is_refusal, |()| true) {
            tokio::select! {
                () = linger(io.into_transport(), MAX_SILENCE) => {}
                _ = over => {}
            }
        }
        return finished;
    };
    let Some(io) = io.into_inner() else { return Ok(()) };
    tokio::select! {
        ended = tunnel.run(io, read, timeouts) => count_tunnel(ended, transport),
        end = over => {
            if end == DrainEnd::Age {
                transport.limit(Limit::AgeGrace);
            }
            Ok(())
        }
    }
}

/// Waits for the end of a connection's time, and records it for the tunnel that may be open then.
async fn cut_at(end: impl Future<Output = DrainEnd>, records: OpenRecord) -> DrainEnd {
    let end = end.await;
    records.last().cut(ProxyError::Closing, None);
    end
}

/// Counts how a tunnel ended.
fn count_tunnel(ended: Result<(), TunnelError>, transport: &Transport) -> Result<(), Error> {
    match ended {
        Ok(()) | Err(TunnelError::Body) => Ok(()),
        Err(TunnelError::Timeout(limit)) => {
            transport.count_stream_limit(limit);
            Ok(())
        }
        Err(TunnelError::Io(error)) => {
            transport.count_reset(None);
            Err(Error::io(error))
        }
    }
}

/// Counts and records the errors of requests that hyper refuses before they come to the service.
fn count_refusal(error: &hyper::Error, transport: &Transport, records: &OpenRecord) {
    if error.is_parse_too_large() {
        transport.count_head_too_large();
        records.refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ProxyError::HeadTooLarge);
    } else if error.is_parse() {
        transport.count_malformed();
        transport.count_early_answer(ProxyError::BadRequest, StatusCode::BAD_REQUEST, None);
        records.refused(StatusCode::BAD_REQUEST, ProxyError::BadRequest);
    }
}

// === impl Http1Connection ===

impl<C, B> Http1Connection<'_, C, B>
where
    C: Future<Output = hyper::Result<()>> + Unpin,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves until hyper has finished, or the proxy ends the connection.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ServeEnd, Error>> {
        let Self { connection, timeouts, guard_state, connection_state, slots, transport, .. } = self;
        if let Poll::Ready(ended) = Pin::new(connection).poll(cx) {
            let is_lost = connection_state.streams() > 0 && ended.as_ref().is_err_and(|error| !error.is_user());
            if is_lost {
                transport.count_reset(None);
            }
            if let Err(error) = &ended {
                count_refusal(error, transport, &slots.records);
            }
            return Poll::Ready(ended.map(|()| ServeEnd::Finished).map_err(Error::http1));
        }
        let blocked = guard_state.is_blocked();
        let expired = blocked && slots.body.hold(cx) == Backpressure::Expired;
        let timed_out = timeouts.poll(connection_state.streams() > 0, blocked, connection_state.moves(), cx);
        if let Poll::Ready(limit) = timed_out {
            transport.count_stream_limit(limit);
            self.cut(if limit == StreamLimit::Idle { ProxyError::Idle } else { ProxyError::ClientStalled });
        }
        if expired || timed_out.is_ready() {
            return Poll::Ready(Ok(ServeEnd::Timeout));
        }
        self.head_timeout.poll(cx).map(|()| Ok(ServeEnd::Limit(Limit::HeaderRead)))
    }

    /// Records that the proxy ends the open request, if there is one, and counts it if it has no response.
    fn cut(&mut self, cause: ProxyError) {
        let is_open = self.connection_state.streams() > 0;
        if !mem::replace(&mut self.is_cut, true) && is_open && self.slots.body.is_empty() {
            self.transport.count_proxy_error(cause);
        }
        self.slots.records.last().cut(cause, None);
    }

    /// Serves until the drain starts, or as [`poll_life`](Self::poll_life). Counts the limit that is reached.
    async fn until_drain(
        &mut self,
        lifetime: &mut Lifetime,
        drain: impl Future<Output = ()>,
    ) -> Result<ServeEnd, Error> {
        // hyper reads before a drain that starts right now.
        let first = poll_fn(|cx| Poll::Ready(self.poll_life(lifetime, cx))).await;
        let end = match first {
            Poll::Ready(served) => served?,
            Poll::Pending => tokio::select! {
                biased;
                // The drain first, so that a response which is due now has `connection: close`.
                () = drain => ServeEnd::Drain,
                served = poll_fn(|cx| self.poll_life(lifetime, cx)) => served?,
            },
        };
        self.count_limit(end);
        Ok(end)
    }

    /// Serves the exchange that is open, until its end or the connection's. False if the proxy ends the connection.
    async fn finish(&mut self, drained: impl Future<Output = DrainEnd>) -> Result<bool, Error> {
        let transport = self.transport;
        tokio::select! {
            biased;
            ended = poll_fn(|cx| self.poll(cx)) => {
                let end = ended?;
                self.count_limit(end);
                Ok(end == ServeEnd::Finished)
            }
            end = drained => {
                if end == DrainEnd::Age {
                    transport.limit(Limit::AgeGrace);
                }
                Ok(false)
            }
        }
    }

    /// Counts the limit that the connection has reached, if it has.
    fn count_limit(&self, end: ServeEnd) {
        if let ServeEnd::Limit(limit) = end {
            self.transport.limit(limit);
        }
    }

    /// The same as [`poll`](Self::poll), or until the connection's life is over.
    fn poll_life(&mut self, lifetime: &mut Lifetime, cx: &mut Context<'_>) -> Poll<Result<ServeEnd, Error>> {
        if let Poll::Ready(served) = self.poll(cx) {
            return Poll::Ready(served);
        }
        let has_streams = self.connection_state.streams() > 0;
        // A request may have begun and ended since the last poll.
        let is_used = mem::replace(&mut self.moves, self.connection_state.moves()) != self.connection_state.moves();
        let mut polled = lifetime.poll(has_streams || is_used, || has_streams, cx);
        if is_used && !has_streams && polled.is_pending() {
            polled = lifetime.poll(false, || false, cx);
        }
        polled.map(|limit| Ok(ServeEnd::Limit(limit)))
    }
}

// === impl ServeEnd ===

impl ServeEnd {
    /// Whether the open request is served to its end before the connection closes.
    fn is_graceful(self) -> bool {
        match self {
            Self::Drain => true,
            Self::Limit(limit) => limit != Limit::HeaderRead,
            Self::Finished | Self::Timeout => false,
        }
    }
}

// === impl HeadTimeout ===

impl HeadTimeout {
    fn new(limit: Duration, guard_state: &Arc<GuardState>, connection_state: &Arc<ConnectionState>) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        Self { limit, guard_state: Arc::clone(guard_state), connection_state: Arc::clone(connection_state), timer }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.connection_state.streams() > 0 {
                // While a request is open hyper does not read the next head, whose time begins when the response is over.
                self.guard_state.restart_head();
            }
            let now = Instant::now();
            let expires_at = self.guard_state.head_started().unwrap_or(now) + self.limit;
            if expires_at <= now {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(expires_at);
        }
    }
}
