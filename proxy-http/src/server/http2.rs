//! One connection of HTTP/2 from a client.

use crate::{
    BoxError, IncomingBody,
    body::outcome::SendOutcome,
    connection::{
        discard::DiscardedBodies,
        flow::{
            flow_control::{Flow, KeepAliveTimedOut},
            held_heads::HeldHeads,
            sending::{SendingStream, StoppedClient},
        },
        frames::{rapid_reset::RapidResets, rate::FrameRates, seen::FrameCounts},
        io::Io,
        now,
        rewind::Rewind,
        state::ConnectionState,
        timeouts::{
            idle::{Progress, StreamIdle},
            lifetime::{DrainEnd, Lifetime, drained},
            stall::FlushTimeout,
        },
        wake::DeferredWake,
        write_batch::Chunk,
    },
    message::{answer::Answer, connect_protocol::ConnectProtocol, grpc, head, validate},
    server::{
        builder::{DetectedConnection, MAX_UNREAD_SMALL_DATA, Server, to_usize},
        error::{Error, ErrorKind},
        stream::{StreamState, StreamTask, count_outcome, refuse},
        task_slots::TaskSlots,
    },
    stats::{Limit, Observe, ProxyError, Record, Side, StreamLimit, Transport},
};
use bytes::Bytes;
use futures_util::future::MaybeDone;
use h2::{
    Reason,
    server::{Connection, Handshake},
};
use http::{Method, Request, Response};
use http_body::Body;
use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tower_service::Service;

/// One connection with all its streams, which end with it.
pub(super) struct Http2Connection<I, S, B>
where
    S: Service<Request<IncomingBody>>,
{
    phase: Phase<I>,
    service: S,
    streams: TaskSlots<StreamTask<S, S::Future, B>>,
    lifetime: Lifetime,
    /// `None`: a drain may take any time.
    drain_timeout: Option<Duration>,
    /// `None`: streams may be idle for any time.
    idle: Option<StreamIdle>,
    write_stall: Duration,
    flush: FlushTimeout,
    discarded: DiscardedBodies,
    flow: Flow,
    frame_counts: Arc<FrameCounts>,
    rapid_resets: RapidResets,
    max_header_list: usize,
    heads: HeldHeads,
    /// Half of the streams that h2 may reset for the client's errors in the connection's life.
    max_engine_resets: usize,
    /// How many streams the client has opened.
    opened: u64,
    /// Whether a stream was opened since the lifetime was last polled.
    is_used: bool,
    /// The limit that the client's resets have reached.
    exceeded: Option<Limit>,
    is_draining: bool,
    wake: Arc<DeferredWake>,
    /// `wake`, as the connection is polled with it.
    waker: Waker,
    connection_state: Arc<ConnectionState>,
    transport: Arc<Transport>,
    observe: Option<Arc<dyn Observe>>,
}

enum Phase<I> {
    Handshaking(Handshake<Rewind<Io<I>>, Chunk>),
    Open(Connection<Rewind<Io<I>>, Chunk>),
}

/// How long a client that went beyond a limit may take to read the GOAWAY.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the transport may take to take the resets of streams before a connection is closed, and then the GOAWAY.
const RESET_TIMEOUT: Duration = Duration::from_millis(500);

// === impl Http2Connection ===

impl<I, S, B> Http2Connection<I, S, B>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(server: &Server, opened: DetectedConnection<I>, service: S) -> Self {
        let DetectedConnection { io, ahead, connection_state, started, observe } = opened;
        let frame_counts = Arc::<FrameCounts>::default();
        let mut frame_rates =
            FrameRates::reader(server.protection.max_control_frames, &frame_counts, &connection_state);
        // Detection has read the first bytes before the frames were counted.
        frame_rates.read(ahead.bytes());
        connection_state.set_local_max_header_list(to_usize(server.max_header_list));
        let io = Rewind::new(io.with_http2_client(frame_rates, server.max_header_list, observe.clone()), ahead);
        let wake = Arc::<DeferredWake>::default();
        let flow = Flow::new(Arc::clone(&server.buffers), server.flow_control, server.keep_alive, Side::Client);
        let mut builder = server.builder.clone();
        builder.initial_window_size(flow.stream_window());
        if server.extended_connect.is_allowed() {
            builder.enable_connect_protocol();
        }
        Self {
            phase: Phase::Handshaking(builder.handshake(io)),
            service,
            streams: TaskSlots::new(),
            lifetime: Lifetime::new(
                server.max_age,
                server.max_idle,
                &server.protection,
                Arc::clone(&frame_counts),
                started,
            ),
            drain_timeout: server.drain_timeout,
            idle: server.stream_idle.map(StreamIdle::new),
            write_stall: server.write_stall,
            flush: FlushTimeout::new(server.write_stall),
            discarded: DiscardedBodies::default(),
            flow,
            frame_counts,
            rapid_resets: RapidResets::new(server.protection.max_premature_resets, started),
            max_header_list: to_usize(server.max_header_list),
            heads: HeldHeads::new(Arc::clone(&server.buffers), Arc::clone(&connection_state)),
            max_engine_resets: server.max_engine_resets,
            opened: 0,
            is_used: false,
            exceeded: None,
            is_draining: false,
            waker: Waker::from(Arc::clone(&wake)),
            wake,
            connection_state,
            transport: Arc::clone(&server.transport),
            observe,
        }
    }

    pub(super) async fn serve<D: Future<Output = ()>>(&mut self, drain: Pin<&mut MaybeDone<D>>) -> Result<(), Error> {
        let served = self.serve_and_drain(drain).await;
        if served.as_ref().is_err_and(Error::is_keep_alive_timeout) {
            // The client is lost, unless it reads and answers nothing.
            (0..self.streams.len()).for_each(|_| self.transport.count_reset(None));
            self.streams.iter_mut().for_each(|stream| stream.record.reset_by_client(None));
            self.close(true).await;
        }
        served
    }

    async fn serve_and_drain<D: Future<Output = ()>>(
        &mut self,
        mut drain: Pin<&mut MaybeDone<D>>,
    ) -> Result<(), Error> {
        let closes_at = self.lifetime.closes_at();
        tokio::select! {
            biased;
            served = poll_fn(|cx| self.poll(cx)) => match served? {
                None => return Ok(()),
                Some(limit) => self.handle_limit(limit).await?,
            },
            () = drain.as_mut() => {}
        }
        self.drain();
        let connection_state = Arc::clone(&self.connection_state);
        // Boxed, or the future of each connection would have its size.
        let drained = Box::pin(drained(&connection_state, closes_at, drain, self.drain_timeout));
        tokio::select! {
            biased;
            served = poll_fn(|cx| self.poll(cx)) => match served? {
                None => Ok(()),
                Some(limit) => self.handle_limit(limit).await,
            },
            end = drained => {
                if end == DrainEnd::Age {
                    self.transport.limit(Limit::AgeGrace);
                }
                if end != DrainEnd::Silence {
                    self.close(false).await;
                }
                Ok(())
            }
        }
    }

    /// Ends the streams that are open, so that the client sees that their responses are not whole, and closes the connection.
    ///
    /// GOAWAY and the end of the connection do not show it: node's client takes a part of a response for all of it. `is_lost`: the
    /// streams are counted as reset by the client.
    async fn close(&mut self, is_lost: bool) {
        let Phase::Open(connection) = &mut self.phase else { return };
        let transport = (!is_lost).then_some(&*self.transport);
        self.streams.iter_mut().for_each(|stream| stream.cut(&Answer::closing(), transport));
        // Before the drop, which counts open streams as lost by the client.
        self.streams.clear();
        let written = poll_fn(|cx| {
            while let Poll::Ready(next) = connection.poll_accept(cx) {
                let Some(Ok((_, mut respond))) = next else { return Poll::Ready(()) };
                respond.send_reset(Reason::REFUSED_STREAM);
            }
            if connection.has_streams() { Poll::Pending } else { Poll::Ready(()) }
        });
        let is_written = timeout(RESET_TIMEOUT, written).await.is_ok();
        // Of streams that h2 has whole, and the client has not taken, nothing else tells.
        connection.abrupt_shutdown(if is_written { Reason::NO_ERROR } else { Reason::INTERNAL_ERROR });
        let _ = timeout(RESET_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await;
    }

    /// Serves until the connection is closed (`None`) or has reached a limit.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Limit>, Error>> {
        let _stopped = now::ClockGuard::new();
        self.frame_counts.start_turn();
        if let Poll::Ready(ended) = self.poll_connection(cx) {
            return Poll::Ready(ended.map(|()| None));
        }
        if let Some(limit) = self.exceeded.or_else(|| self.frame_counts.exceeded()) {
            return Poll::Ready(Ok(Some(limit)));
        }
        if !self.is_draining && self.connection_state.nears_engine_limit(self.max_engine_resets, MAX_UNREAD_SMALL_DATA)
        {
            return Poll::Ready(Ok(Some(Limit::EngineLifetime)));
        }
        let is_used = mem::take(&mut self.is_used) || !self.streams.is_empty();
        self.lifetime.poll(is_used, || self.phase.has_streams(), cx).map(|limit| Ok(Some(limit)))
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The streams before the connection, which then writes the frames that they send.
        self.wake.defer(cx.waker());
        self.poll_streams(cx);
        self.wake.resume();
        ready!(self.poll_handshake())?;
        // So that h2, which reads before each request, does not poll a transport again that has nothing to read.
        self.frame_counts.set_accepting(true);
        let accepted = self.accept();
        self.frame_counts.set_accepting(false);
        let Some(accepted) = accepted? else { return Poll::Ready(Ok(())) };
        self.connection_state.update_blocked();
        self.poll_pings(cx)?;
        if accepted {
            self.is_used = true;
            // Frames that new streams send at once wake the connection.
            self.poll_streams(cx);
            self.connection_state.open_streams().wake_if_held();
        }
        self.heads.trim();
        self.discarded.poll(&self.connection_state, cx);
        if let Some(idle) = &mut self.idle {
            while idle.poll(!self.streams.is_empty(), cx).is_ready() {
                idle.check(self.streams.iter().filter_map(|stream| stream.progress.clone()));
            }
        }
        // There may be whole responses that are not written yet: at most a piece of each, but their streams have ended here,
        // and no other timeout applies to them.
        let waits = self.streams.is_empty() && self.connection_state.open_streams_count() == 0 && self.has_unwritten();
        if self.flush.poll(waits, self.connection_state.moves(), cx).is_ready() {
            self.transport.count_stream_limit(StreamLimit::WriteStall);
            if let Phase::Open(connection) = &mut self.phase {
                connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                // Writes the GOAWAY, as far as the client's transport takes it.
                let _ = connection.poll_accept(&mut Context::from_waker(&self.waker));
            }
            return Poll::Ready(Ok(()));
        }
        // A drain waits for responses that are whole but not written, too.
        let open = if self.is_draining { self.has_unwritten().into() } else { self.streams.len() };
        self.connection_state.set_streams(open);
        Poll::Pending
    }

    fn poll_handshake(&mut self) -> Poll<Result<(), Error>> {
        if let Phase::Handshaking(handshake) = &mut self.phase {
            let mut cx = Context::from_waker(&self.waker);
            let mut connection = ready!(Pin::new(handshake).poll(&mut cx)).map_err(ErrorKind::Failed)?;
            self.flow.start(&mut connection, &self.connection_state);
            if self.is_draining {
                connection.graceful_shutdown();
            }
            self.phase = Phase::Open(connection);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether h2 has frames of streams that are to be written, or has written some that the transport has not taken.
    fn has_unwritten(&self) -> bool {
        self.connection_state.has_unwritten() || self.phase.has_streams()
    }

    /// Reads and writes frames, and calls the service with each new request. Returns whether there were any; `None`: the
    /// connection is closed.
    fn accept(&mut self) -> Result<Option<bool>, Error> {
        let Phase::Open(connection) = &mut self.phase else { unreachable!() };
        self.flow.poll_windows(connection, &self.connection_state, &mut Context::from_waker(&self.waker));
        let mut accepted = false;
        while let Poll::Ready(next) = connection.poll_accept(&mut Context::from_waker(&self.waker)) {
            let (req, mut respond) = match next {
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    let error = Error::from(ErrorKind::Failed(error));
                    if error.is_engine_limit() {
                        self.transport.limit(Limit::Engine);
                    }
                    return Err(error);
                }
                None => return Ok(None),
            };
            let started = now::now();
            self.opened += 1;
            let (mut head, body) = req.into_parts();
            let record = Record::start(self.observe.as_ref(), &mut head, started);
            // A request that is already reset does not go to the service.
            if self.frame_counts.has_reset()
                && let Poll::Ready(Ok(reason)) = respond.poll_reset(&mut Context::from_waker(Waker::noop()))
            {
                self.transport.count_reset(Some(reason));
                record.reset_by_client(Some(reason.into()));
                if self.rapid_resets.reset(started, started, self.opened) {
                    self.exceeded = Some(Limit::PrematureResets);
                }
                continue;
            }
            if head.method == Method::CONNECT {
                ConnectProtocol::from_engine(&mut head.extensions);
            }
            let mut sending = SendingStream::new(&self.connection_state, head.uri.path_and_query().cloned());
            if self.connection_state.has_stopped() {
                head.extensions.insert(StoppedClient);
            }
            let ended = body.is_end_stream();
            let length = if ended { None } else { validate::content_length(&head.headers) };
            let mut body = IncomingBody::new(Side::Client, ended, length, body);
            if !ended {
                body = body.with_stream(self.connection_state.open_stream().with_window_held()).assume_backpressure();
            }
            let (is_grpc, progress) = (grpc::is_grpc(&head.headers), self.idle.as_ref().map(|_| Progress::new()));
            if let Some(progress) = &progress {
                body = body.with_progress(Arc::clone(progress));
            }
            let size = head::list_size(&head);
            let refused = if size > self.max_header_list {
                Some((Limit::HeadersCount, Answer::header_list_too_large()))
            } else {
                self.heads.hold(size, &mut sending).map(|answer| (Limit::BufferedHeads, answer))
            };
            if let Some((limit, answer)) = refused {
                self.transport.limit(limit);
                refuse(&mut respond, answer, is_grpc, &record, &self.transport);
                continue;
            }
            let state = StreamState::call(&mut self.service, head, body.with_record(record.clone()));
            let (sending, write_stall) = (Some(sending), self.write_stall);
            self.streams.push(StreamTask { started, respond, sending, write_stall, is_grpc, progress, record, state });
            accepted = true;
        }
        Ok(Some(accepted))
    }

    fn poll_pings(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let Phase::Open(connection) = &mut self.phase else { unreachable!() };
        match self.flow.poll_pings(connection, &self.connection_state, cx) {
            Poll::Ready(KeepAliveTimedOut) => Err(ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) {
        let Self { streams, transport, rapid_resets, opened, exceeded, .. } = self;
        streams.poll(cx, |(ended, started)| {
            count_outcome(ended, transport);
            if matches!(ended, SendOutcome::Reset(_)) && rapid_resets.reset(started, now::now(), *opened) {
                *exceeded = Some(Limit::PrematureResets);
            }
        });
    }

    /// Counts a limit. If it is the client's fault, the connection is closed with all its streams, and the limit is the
    /// error.
    async fn handle_limit(&mut self, limit: Limit) -> Result<(), Error> {
        self.transport.limit(limit);
        let Some(code) = limit.code() else { return Ok(()) };
        if let Phase::Open(connection) = &mut self.phase {
            connection.abrupt_shutdown(code);
            self.streams.iter().for_each(|stream| stream.record.cut(ProxyError::ConnectionLimit, Some(code.into())));
            // Before the drop, which counts open streams as lost by the client.
            self.streams.clear();
            // The connection ends whether the client reads the GOAWAY or not.
            let _ = timeout(GOAWAY_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await;
        }
        Err(ErrorKind::Limit(limit).into())
    }

    /// Tells the client to open no more streams.
    fn drain(&mut self) {
        self.is_draining = true;
        self.lifetime.drain();
        if let Phase::Open(connection) = &mut self.phase {
            connection.graceful_shutdown();
        }
    }
}

impl<I, S, B> Drop for Http2Connection<I, S, B>
where
    S: Service<Request<IncomingBody>>,
{
    fn drop(&mut self) {
        for _ in 0..self.streams.len() {
            self.transport.count_reset(None);
        }
    }
}

// === impl Phase ===

impl<I> Phase<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    /// Whether a stream is open or half-closed (RFC 9113 section 5.1): until the last bytes of both its messages are
    /// written and read. This takes h2's lock.
    fn has_streams(&self) -> bool {
        matches!(self, Self::Open(connection) if connection.has_streams())
    }
}
