//! Sees to it that what a client sends as HTTP/1.1 has one meaning.
//!
//! hyper takes what RFC 9112 allows to be lenient about: lines that end with LF alone, `content-length` beside
//! `transfer-encoding`, other codings before `chunked`, a length that is repeated. Who stands before this proxy may read
//! the same bytes in another way, and so let one request hide in the body of another (request smuggling). The guard
//! follows heads and bodies as the bytes come in, and puts a NUL in the place of the first that will not do: no head and
//! no chunk's size may have one, so that hyper answers with 400 and closes the connection, or breaks the body off.

use crate::{
    connection::{state::ConnectionState, streams::OpenStream},
    http1::{
        framing::{At, HEAD_END, Scan},
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

/// A client's transport.
pub(crate) struct Guard<I> {
    inner: I,
    scan: Scan,
    heads: Arc<Heads>,
    /// A head is spoilt, and hyper looks at it only once it has come to its end.
    end_due: bool,
    connection_state: Arc<ConnectionState>,
    /// A response is not over while the client does not take its last bytes, though hyper has them all.
    unwritten: Option<OpenStream>,
    ending: Arc<TrailerWriter>,
}

/// Since when a head is being read, and whether what is written is taken.
#[derive(Debug)]
pub(crate) struct Heads {
    started: Instant,
    /// Nanoseconds from `started` on; 0: none is.
    since: AtomicU64,
    blocked: AtomicBool,
}

// === impl Heads ===

impl Heads {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), since: AtomicU64::new(0), blocked: AtomicBool::new(false) })
    }

    /// When the head that is being read began. `None`: the client owes us nothing.
    pub(crate) fn since(&self) -> Option<Instant> {
        let since = self.since.load(Relaxed);
        (since > 0).then(|| self.started + Duration::from_nanos(since))
    }

    /// Whether the client takes nothing of what is to be written.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }

    /// Has a head that is being read begin now.
    pub(crate) fn restart(&self) {
        if self.since().is_some() {
            self.begin();
        }
    }

    fn begin(&self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.since.store(nanos.max(1), Relaxed);
    }

    fn end(&self) {
        self.since.store(0, Relaxed);
    }
}

// === impl Guard ===

impl<I> Guard<I> {
    pub(crate) fn new(
        inner: I,
        heads: Arc<Heads>,
        connection_state: Arc<ConnectionState>,
        ending: Arc<TrailerWriter>,
    ) -> Self {
        Self { inner, scan: Scan::default(), heads, end_due: false, connection_state, unwritten: None, ending }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.heads.blocked.store(written.is_pending(), Relaxed);
        if written.is_ready() {
            self.unwritten = None;
        } else if self.unwritten.is_none() {
            self.unwritten = Some(self.connection_state.open_stream());
        }
        written
    }

    /// The transport, where no more requests come. `None`: some of what has come since the last one is spoilt.
    pub(crate) fn into_inner(self) -> Option<I> {
        (self.scan.at != At::Spoilt).then_some(self.inner)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guard<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, scan, heads, end_due, .. } = &mut *self;
        if *end_due && buf.remaining() >= HEAD_END.len() {
            *end_due = false;
            buf.put_slice(HEAD_END);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(inner).poll_read(cx, buf))?;
        *end_due |= scan.read(&mut buf.filled_mut()[before..]);
        match (scan.is_in_head(), heads.since()) {
            (true, None) => heads.begin(),
            // Of one that is spoilt the end is not known.
            (false, Some(_)) if scan.at != At::Spoilt => heads.end(),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { inner, ending, .. } = &mut *self;
        let written =
            if ending.is_due() { ending.poll_write(inner, cx, buf) } else { Pin::new(inner).poll_write(cx, buf) };
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.ending.is_due() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ending.written(cx);
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
