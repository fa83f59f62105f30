//! The transport under a connection, which counts what it carries.

use crate::{activity::Activity, meter::Meter, stats::Transport};
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
    }
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
struct Open(Arc<Transport>);

// === impl Io ===

impl<I> Io<I> {
    pub(crate) fn new(inner: I, transport: &Arc<Transport>, activity: &Arc<Activity>) -> Self {
        transport.opened();
        Self { inner, open: Open(Arc::clone(transport)), activity: Arc::clone(activity), meter: None }
    }

    pub(crate) fn metered(self, meter: Meter) -> Self {
        Self { meter: Some(meter), ..self }
    }
}

impl<I: AsyncRead> AsyncRead for Io<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.meter.as_ref().is_some_and(|meter| !meter.may_read(cx)) {
            return Poll::Pending;
        }
        if !this.activity.has_turn() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(this.inner.poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        this.open.0.read(read.len());
        this.activity.moved();
        if let Some(meter) = this.meter {
            meter.read(read);
        }
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
