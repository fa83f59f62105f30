//! Connections of HTTP/1.1, by hyper.

use crate::{
    BoxError, IncomingBody,
    body::outcome::Backpressure,
    connection::{
        io::Io,
        rewind::Rewind,
        state::ConnectionState,
        timeouts::lifetime::{Lifetime, silence},
    },
    http1::{
        Params,
        guard::{Guard, Heads},
        sending::Slot,
        timeouts::Timeouts,
        tunnel::{Broken, Place},
    },
    server::{
        adapter::{Adapter, Places},
        error::Error,
    },
    stats::{Limit, Transport},
};
use bytes::Bytes;
use futures_util::future::MaybeDone;
use http::{Request, Response, uri::Scheme};
use http_body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use std::{
    future::{Future, pending, poll_fn},
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

/// A connection that is served.
struct Serving<'a, C, B> {
    /// hyper's.
    connection: C,
    still: Timeouts,
    timeout: HeadTimeout,
    heads: Arc<Heads>,
    connection_state: &'a ConnectionState,
    places: Places<B>,
    transport: &'a Transport,
    /// What the connection had moved when it was last looked at.
    moves: u64,
}

/// Why a connection ends that hyper would go on with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    Limit(Limit),
    /// Nothing moves, or a response's deadline has passed while nothing did.
    Timeouts,
}

/// The time that heads may take.
struct HeadTimeout {
    limit: Duration,
    heads: Arc<Heads>,
    connection_state: Arc<ConnectionState>,
    /// Until one may have taken too long. Requests leave it alone: what they did is looked at when it is up.
    timer: Pin<Box<Sleep>>,
}

/// Least that hyper takes for the most of its buffer; also what one connection may have unread or unsent.
const MAX_BUFFER: usize = 64 << 10;

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
        connection_state: Arc<ConnectionState>,
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
        let timeout = HeadTimeout::new(self.header_read_timeout, &heads, &connection_state);
        let mut builder = self.builder.clone();
        // hyper closes at once what is shut down before it has read anything; but something has come.
        let drained = drain.as_mut().output_mut().is_some();
        builder.keep_alive(!drained);
        let places = Places { tunnel: Place::new(), body: Slot::new(), ending: Arc::default() };
        let adapter = Adapter::new(service, &self.scheme, &connection_state, transport, &places);
        let guard = Guard::new(io, Arc::clone(&heads), Arc::clone(&connection_state), Arc::clone(&places.ending));
        let connection = builder.serve_connection(TokioIo::new(guard), adapter);
        let still = Timeouts::new(write_stall, stream_idle);
        let mut serving = Serving {
            connection,
            still,
            timeout,
            heads,
            connection_state: &connection_state,
            places,
            transport,
            moves: 0,
        };
        let reached = tokio::select! {
            biased;
            // First, so that a response which is due now says that it is the last.
            () = drain => None,
            served = poll_fn(|cx| serving.poll_life(&mut lifetime, cx)) => Some(served?),
        };
        if let Some(Some(ended)) = reached
            && !serving.is_drained_for(ended)
        {
            return Ok(());
        }
        if reached != Some(None) {
            if !drained {
                Pin::new(&mut serving.connection).graceful_shutdown();
            }
            tokio::select! {
                biased;
                ended = poll_fn(|cx| serving.poll(cx)) => if let Some(ended) = ended? {
                    serving.is_drained_for(ended);
                    return Ok(());
                },
                limit = silence(&connection_state, closes_at) => {
                    limit.into_iter().for_each(|limit| transport.limit(limit));
                    return Ok(());
                }
            }
        }
        // hyper has done its part.
        let Some(tunnel) = serving.places.tunnel.take() else { return Ok(()) };
        let http1::Parts { io, read_buf, .. } = serving.connection.into_parts();
        let Some(io) = io.into_inner().into_inner() else { return Ok(()) };
        let ended = tokio::select! {
            ended = tunnel.run(io, read_buf, Timeouts::new(write_stall, stream_idle)) => Some(ended),
            () = at(closes_at) => None,
        };
        tunnelled(ended, transport)
    }
}

/// Counts how a tunnel ended. `None`: its connection was too old.
fn tunnelled(ended: Option<Result<(), Broken>>, transport: &Transport) -> Result<(), Error> {
    match ended {
        None => {
            transport.limit(Limit::AgeGrace);
            Ok(())
        }
        Some(Ok(()) | Err(Broken::Body)) => Ok(()),
        Some(Err(Broken::Timeouts(limit))) => {
            transport.count_stream_limit(limit);
            Ok(())
        }
        Some(Err(Broken::Io(error))) => {
            transport.count_reset(None);
            Err(Error::io(error))
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

// === impl Serving ===

impl<C, B> Serving<'_, C, B>
where
    C: Future<Output = hyper::Result<()>> + Unpin,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves until hyper has done its part (`None`), or the connection is to end for something else.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Ended>, Error>> {
        let Self { connection, still, timeout, heads, connection_state, places, transport, .. } = self;
        if let Poll::Ready(ended) = Pin::new(connection).poll(cx) {
            let lost = connection_state.streams() > 0 && ended.as_ref().is_err_and(|error| !error.is_user());
            if lost {
                transport.count_reset(None);
            }
            if let Err(error) = &ended {
                count(error, transport);
            }
            return Poll::Ready(ended.map(|()| None).map_err(Error::http1));
        }
        let blocked = heads.is_blocked();
        let expired = blocked && places.body.hold(cx) == Backpressure::Expired;
        let stands = still.poll(connection_state.streams() > 0, blocked, connection_state.moves(), cx);
        if let Poll::Ready(limit) = stands {
            transport.count_stream_limit(limit);
        }
        if expired || stands.is_ready() {
            return Poll::Ready(Ok(Some(Ended::Timeouts)));
        }
        timeout.poll(cx).map(|()| Ok(Some(Ended::Limit(Limit::HeaderRead))))
    }

    /// Counts why the connection ends. Tells whether it is drained for that, and not closed at once.
    fn is_drained_for(&self, ended: Ended) -> bool {
        let Ended::Limit(limit) = ended else { return false };
        self.transport.limit(limit);
        limit != Limit::HeaderRead
    }

    /// The same as [`poll`](Self::poll), or until the connection's life is over.
    fn poll_life(&mut self, lifetime: &mut Lifetime, cx: &mut Context<'_>) -> Poll<Result<Option<Ended>, Error>> {
        if let Poll::Ready(served) = self.poll(cx) {
            return Poll::Ready(served);
        }
        let has_streams = self.connection_state.streams() > 0;
        // A request may have come and gone since.
        let used = mem::replace(&mut self.moves, self.connection_state.moves()) != self.connection_state.moves();
        let mut polled = lifetime.poll(has_streams || used, || has_streams, cx);
        if used && !has_streams && polled.is_pending() {
            polled = lifetime.poll(false, || false, cx);
        }
        polled.map(|limit| Ok(Some(Ended::Limit(limit))))
    }
}

// === impl HeadTimeout ===

impl HeadTimeout {
    fn new(limit: Duration, heads: &Arc<Heads>, connection_state: &Arc<ConnectionState>) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        Self { limit, heads: Arc::clone(heads), connection_state: Arc::clone(connection_state), timer }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.connection_state.streams() > 0 {
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
