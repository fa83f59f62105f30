//! The close of a connection whose peer may still send.
//!
//! A TCP stack answers bytes that come for a socket that is closed, or that nobody has read from it, with a reset, and the
//! reset has the peer's stack drop the bytes that the peer has not read: the response, or the close frame of a WebSocket. So a
//! server closes its half first, and reads on until the peer has closed the other (RFC 9112 section 9.6).

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::timeout,
};

/// How long the peer may send nothing after both halves of an exchange.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(2);
/// How long the peer may send on.
const MAX_TIME: Duration = Duration::from_secs(10);
/// The largest read, in bytes.
const READ_BYTES: usize = 16 << 10;

/// Drops the bytes that come until the peer closes its half, is silent for `max_silence`, or has sent for ten seconds.
pub(crate) async fn linger<I: AsyncRead + Unpin>(mut io: I, max_silence: Duration) {
    let discarding =
        async { while let Ok(Ok(1..)) = timeout(max_silence, poll_fn(|cx| discard(&mut io, cx))).await {} };
    let _ = timeout(MAX_TIME, discarding).await;
}

/// Reads once. Returns how many bytes came; 0: the peer has closed its half.
fn discard<I: AsyncRead + Unpin>(io: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buf = [const { MaybeUninit::uninit() }; READ_BYTES];
    let mut buf = ReadBuf::uninit(&mut buf);
    ready!(Pin::new(io).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}
