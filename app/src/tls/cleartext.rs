//! TLS where none is expected.

use super::Throttle;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A client's connection without TLS, which fails with a word about it if the client starts a TLS handshake.
#[derive(Debug)]
pub(crate) struct Cleartext {
    stream: TcpStream,
    /// `None`: the client has begun to speak.
    silent: Option<Arc<Throttle>>,
}

/// The type of a TLS record that starts a handshake (RFC 8446 section 5.1). No HTTP starts like this.
const HANDSHAKE: u8 = 22;

// === impl Cleartext ===

impl Cleartext {
    pub(crate) fn new(stream: TcpStream, log: Arc<Throttle>) -> Self {
        Self { stream, silent: Some(log) }
    }

    /// Looks at the first bytes.
    #[cold]
    fn begun(&self, log: &Throttle, first: Option<&u8>) -> io::Result<()> {
        if first != Some(&HANDSHAKE) {
            return Ok(());
        }
        if log.admits() {
            let peer = self.stream.peer_addr().ok();
            tracing::warn!(?peer, "client speaks TLS to a listener that has no certificate; closing its connection");
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "client speaks TLS to a listener that has no certificate"))
    }
}

impl AsyncRead for Cleartext {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(match self.silent.take() {
            None => Ok(()),
            Some(log) => self.begun(&log, buf.filled().get(before)),
        })
    }
}

impl AsyncWrite for Cleartext {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
