//! A transport whose first bytes were read ahead to detect the protocol.

use pin_project_lite::pin_project;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A transport that yields bytes that were read ahead once more, before its others.
    #[derive(Debug)]
    pub(crate) struct Rewind<I> {
        #[pin]
        inner: I,
        ahead: ReadAhead,
    }
}

/// Bytes that were read ahead: only as many as are needed to detect the protocol, since they are copied once more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadAhead {
    bytes: [u8; Self::MAX],
    start: u8,
    end: u8,
}

// === impl ReadAhead ===

impl ReadAhead {
    /// The length of HTTP/2's client preface.
    pub(crate) const MAX: usize = 24;

    /// Keeps `read`, at most [`MAX`](Self::MAX) bytes.
    pub(crate) fn new(read: &[u8]) -> Self {
        let mut bytes = [0; Self::MAX];
        bytes[..read.len()].copy_from_slice(read);
        Self { bytes, start: 0, end: u8::try_from(read.len()).expect("MAX fits") }
    }

    /// The bytes that have not been read once more.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start.into()..self.end.into()]
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }

    fn read(&mut self, buf: &mut ReadBuf<'_>) {
        let left = self.bytes();
        let taken = left.len().min(buf.remaining());
        buf.put_slice(&left[..taken]);
        self.start += u8::try_from(taken).expect("MAX fits");
    }
}

// === impl Rewind ===

impl<I> Rewind<I> {
    /// Puts the bytes that were read from `inner` before its others.
    pub(crate) fn new(inner: I, ahead: ReadAhead) -> Self {
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
