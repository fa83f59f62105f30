//! Rejects HTTP/1.1 requests whose framing has more than one meaning (request smuggling, RFC 9112 section 11.2).
//!
//! hyper is lenient where RFC 9112 allows it: lines that end with LF alone, `content-length` beside `transfer-encoding`,
//! other codings before `chunked`, a length that is repeated. A proxy before this one may read the same bytes in another
//! way, and so let one request hide in the body of another. The guard follows heads and bodies as the bytes come in, and
//! puts a NUL in the place of the first that is rejected: no head and no chunk's size may have one, so that hyper answers
//! with 400 and closes the connection, or ends the body with an error.

use crate::{
    connection::{state::ConnectionState, streams::OpenStream},
    http1::{
        framing::{FramingParser, HEAD_END, ParseState},
        trailers::TrailerWriter,
    },
};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// A client's transport, whose requests have one meaning.
pub(crate) struct Guard<I> {
    inner: I,
    parser: FramingParser,
    state: Arc<GuardState>,
    /// A head is rejected, and hyper parses it only at its end, which the guard has to add.
    head_end_due: bool,
    connection_state: Arc<ConnectionState>,
    /// Keeps a stream open while a write is blocked: hyper ends a response when it has its last bytes in its buffer.
    blocked_stream: Option<OpenStream>,
    trailers: Arc<TrailerWriter>,
}

/// When the head began that is being read, and whether writes are blocked.
#[derive(Debug)]
pub(crate) struct GuardState {
    started: Instant,
    /// Nanoseconds after `started`; 0: no head is being read.
    head_started: AtomicU64,
    blocked: AtomicBool,
    /// Whether the request that was read last is the last one of its client.
    has_last_request: AtomicBool,
}

// === impl GuardState ===

impl GuardState {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            head_started: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            has_last_request: AtomicBool::new(false),
        })
    }

    /// When the head that is being read began. `None`: none is being read.
    pub(crate) fn head_started(&self) -> Option<Instant> {
        let nanos = self.head_started.load(Relaxed);
        (nanos > 0).then(|| self.started + Duration::from_nanos(nanos))
    }

    /// Whether the last write is pending, as the client does not read.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }

    /// To be called with each request, when its head has been read. `is_last`: its client asks for no more responses.
    pub(crate) fn set_last_request(&self, is_last: bool) {
        self.has_last_request.store(is_last, Relaxed);
    }

    /// Sets the start of a head that is being read to now.
    pub(crate) fn restart_head(&self) {
        if self.head_started().is_some() {
            self.begin_head();
        }
    }

    fn begin_head(&self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.head_started.store(nanos.max(1), Relaxed);
    }

    fn end_head(&self) {
        self.head_started.store(0, Relaxed);
    }
}

// === impl Guard ===

impl<I> Guard<I> {
    pub(crate) fn new(
        inner: I,
        state: Arc<GuardState>,
        connection_state: Arc<ConnectionState>,
        trailers: Arc<TrailerWriter>,
    ) -> Self {
        Self {
            inner,
            parser: FramingParser::default(),
            state,
            head_end_due: false,
            connection_state,
            blocked_stream: None,
            trailers,
        }
    }

    fn record_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.blocked.store(written.is_pending(), Relaxed);
        if written.is_ready() {
            self.blocked_stream = None;
        } else if self.blocked_stream.is_none() {
            self.blocked_stream = Some(self.connection_state.open_stream());
        }
        written
    }

    /// The transport, to be read to its end.
    pub(crate) fn into_transport(self) -> I {
        self.inner
    }

    /// The transport, for a tunnel. `None`: bytes after the last request were rejected, and one of them is replaced.
    pub(crate) fn into_inner(self) -> Option<I> {
        (self.parser.state != ParseState::Rejected).then_some(self.inner)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guard<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, parser, state, head_end_due, .. } = &mut *self;
        if *head_end_due && buf.remaining() >= HEAD_END.len() {
            *head_end_due = false;
            buf.put_slice(HEAD_END);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(inner).poll_read(cx, buf))?;
        // A client that has sent its last request whole may close its half before it reads the response (RFC 9112 section 9.6),
        // which hyper would take for the end of the exchange. hyper reads no more of the connection than that request, so the
        // end is not missed.
        if buf.filled().len() == before && state.has_last_request.load(Relaxed) && parser.is_between_messages() {
            return Poll::Pending;
        }
        *head_end_due |= parser.read(&mut buf.filled_mut()[before..]);
        match (parser.is_in_head(), state.head_started()) {
            (true, None) => state.begin_head(),
            // The end of a head that is rejected is not known.
            (false, Some(_)) if parser.state != ParseState::Rejected => state.end_head(),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { inner, trailers, .. } = &mut *self;
        let written = if trailers.is_queued() {
            trailers.poll_write_end(inner, cx, buf)
        } else {
            Pin::new(inner).poll_write(cx, buf)
        };
        self.record_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.trailers.is_queued() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.record_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.trailers.body_written(cx);
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
