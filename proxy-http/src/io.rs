//! The transport under a connection, which counts what it carries.

use crate::{activity::Activity, announced::Announced, meter::Meter, stats::Transport, wake};
use pin_project_lite::pin_project;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A transport that adds its life and its bytes to the counters of one peer.
    #[derive(Debug)]
    pub(crate) struct Io<I> {
        #[pin]
        inner: I,
        open: Open,
        activity: Arc<Activity>,
        // Follows what a client sends; what endpoints send goes unmetered.
        meter: Option<Meter>,
        // Follows what an endpoint of HTTP/2 sends. Boxed, so that clients' connections are not the larger for it.
        announced: Option<Box<Announced>>,
        // Whether the last read brought so many frames that the next one is to bring fewer.
        crowded: bool,
        // Bytes read in this turn, where turns are counted in bytes.
        turn: Option<usize>,
    }
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
struct Open(Arc<Transport>);

/// Frames in a read after which the next one is of [`SHORT`] bytes: h2 takes all that a read has brought before others have
/// their turn.
const CROWD: u32 = 256;
/// About as many of the smallest frames.
const SHORT: usize = 2 << 10;
/// Bytes of HTTP/1.1 until others have their turn: some 3,600 of the smallest heads of interim responses.
const BYTES_A_TURN: usize = 128 << 10;

// === impl Io ===

impl<I> Io<I> {
    pub(crate) fn new(inner: I, transport: &Arc<Transport>, activity: &Arc<Activity>) -> Self {
        transport.opened();
        let (open, activity) = (Open(Arc::clone(transport)), Arc::clone(activity));
        Self { inner, open, activity, meter: None, announced: None, crowded: false, turn: None }
    }

    pub(crate) fn metered(self, meter: Meter) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// The same, from an endpoint of HTTP/1.1: hyper takes all interim responses that there are at once.
    pub(crate) fn in_turns(self) -> Self {
        Self { turn: Some(0), ..self }
    }

    /// The same, from an endpoint of HTTP/2.
    pub(crate) fn announced(self) -> Self {
        Self { announced: Some(Box::new(Announced::new())), ..self }
    }
}

impl<I: AsyncRead> AsyncRead for Io<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.meter.as_ref().is_some_and(|meter| !meter.may_read(cx)) || !this.activity.has_turn(cx) {
            return Poll::Pending;
        }
        if this.turn.as_mut().is_some_and(|read| *read >= BYTES_A_TURN) {
            *this.turn = Some(0);
            wake::after_others(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if *this.crowded {
            let mut short = ReadBuf::new(buf.initialize_unfilled_to(SHORT.min(buf.remaining())));
            ready!(this.inner.poll_read(cx, &mut short))?;
            let read = short.filled().len();
            buf.advance(read);
        } else {
            ready!(this.inner.poll_read(cx, buf))?;
        }
        let read = &buf.filled()[before..];
        this.open.0.read(read.len());
        this.activity.moved();
        if let Some(turn) = this.turn {
            *turn += read.len();
        }
        let mut frames = 0;
        if let Some(meter) = this.meter {
            frames = meter.read(read);
        }
        if let Some(announced) = this.announced {
            frames = announced.read(read, this.activity);
        }
        // A short one that is full of frames may have more of them behind it.
        *this.crowded = frames >= if *this.crowded { CROWD / 4 } else { CROWD };
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite> AsyncWrite for Io<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let n = ready!(this.inner.poll_write(cx, buf))?;
        this.open.0.wrote(n);
        this.activity.moved();
        if let Some(meter) = this.meter {
            meter.wrote(n);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let n = ready!(this.inner.poll_write_vectored(cx, bufs))?;
        this.open.0.wrote(n);
        this.activity.moved();
        if let Some(meter) = this.meter {
            meter.wrote(n);
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}
