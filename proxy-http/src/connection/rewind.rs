//! A transport of which a few bytes have been read ahead.

use pin_project_lite::pin_project;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A transport whose first bytes are read once more.
    #[derive(Debug)]
    pub(crate) struct Rewind<I> {
        #[pin]
        inner: I,
        ahead: Ahead,
    }
}

/// As many bytes as tell one protocol from another. No more: what is read ahead is copied once more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    bytes: [u8; Self::MOST],
    from: u8,
    to: u8,
}

// === impl Ahead ===

impl Ahead {
    /// The length of HTTP/2's preface.
    pub(crate) const MOST: usize = 24;

    /// Bytes that have been read ahead; at most [`MOST`](Self::MOST).
    pub(crate) fn new(read: &[u8]) -> Self {
        let mut bytes = [0; Self::MOST];
        bytes[..read.len()].copy_from_slice(read);
        Self { bytes, from: 0, to: u8::try_from(read.len()).expect("MOST fits") }
    }

    /// What has not been read once more.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.from.into()..self.to.into()]
    }

    fn is_empty(self) -> bool {
        self.from == self.to
    }

    fn read(&mut self, buf: &mut ReadBuf<'_>) {
        let left = self.bytes();
        let taken = left.len().min(buf.remaining());
        buf.put_slice(&left[..taken]);
        self.from += u8::try_from(taken).expect("MOST fits");
    }
}

// === impl Rewind ===

impl<I> Rewind<I> {
    /// `inner`, with what has been read from it.
    pub(crate) fn new(inner: I, ahead: Ahead) -> Self {
        Self { inner, ahead }
    }
}

impl<I: AsyncRead> AsyncRead for Rewind<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.ahead.is_empty() {
            return this.inner.poll_read(cx, buf);
        }
        this.ahead.read(buf);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite> AsyncWrite for Rewind<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
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
