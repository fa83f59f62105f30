//! The trailers of a chunked response (RFC 9112 section 7.1.2).
//!
//! hyper sends only trailers that the head's `trailer` field names. A head need not have that field (RFC 9110 section
//! 6.6.2), and in HTTP/2 mostly has not. So hyper never sees the trailers: it ends the body with an empty last chunk,
//! in a write of its own, and the guard replaces that by the last chunk with the trailers.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, header};
use std::{
    io,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// Takes trailers from a response's body to the guard of its connection, which writes them.
#[derive(Debug, Default)]
pub(crate) struct TrailerWriter {
    state: AtomicU8,
    /// Written in the place of [`LAST_CHUNK`].
    bytes: Mutex<Bytes>,
}

// The states of a writer.
const IDLE: u8 = 0;
/// The response's body waits until hyper's buffer is written.
const WAITING: u8 = 1;
const BODY_WRITTEN: u8 = 2;
/// The trailers replace hyper's next write.
const QUEUED: u8 = 3;
/// The end of a chunked body, as hyper writes it.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Fields that change the meaning of a message if a recipient merges them into its header (RFC 9110 section 6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 7] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
];
const UNPOISONED: &str = "nothing panics with the lock held";

// === impl TrailerWriter ===

impl TrailerWriter {
    /// Ready when the data before the trailers is written. The connection's task is woken then.
    pub(crate) fn poll_body_written(&self) -> Poll<()> {
        if self.state.load(Relaxed) == BODY_WRITTEN {
            return Poll::Ready(());
        }
        self.state.store(WAITING, Relaxed);
        Poll::Pending
    }

    /// Queues the trailers. To be called once [`poll_body_written`](Self::poll_body_written) is ready.
    pub(crate) fn queue(&self, trailers: &HeaderMap) {
        *self.bytes.lock().expect(UNPOISONED) = encode(trailers);
        self.state.store(QUEUED, Relaxed);
    }

    /// To be called when the response's body is dropped before its trailers are queued.
    pub(crate) fn cancel(&self) {
        self.state.store(IDLE, Relaxed);
    }

    /// To be called when hyper's buffer is written.
    pub(crate) fn body_written(&self, cx: &Context<'_>) {
        if self.state.load(Relaxed) == WAITING {
            self.state.store(BODY_WRITTEN, Relaxed);
            cx.waker().wake_by_ref();
        }
    }

    pub(crate) fn is_queued(&self) -> bool {
        self.state.load(Relaxed) == QUEUED
    }

    /// Writes the trailers in the place of hyper's last chunk. Other bytes are written as they are, without trailers.
    pub(crate) fn poll_write_end<I: AsyncWrite + Unpin>(
        &self,
        io: &mut I,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !buf.starts_with(LAST_CHUNK) {
            self.state.store(IDLE, Relaxed);
            return Pin::new(io).poll_write(cx, buf);
        }
        let mut bytes = self.bytes.lock().expect(UNPOISONED);
        while bytes.has_remaining() {
            let n = ready!(Pin::new(&mut *io).poll_write(cx, &bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(n);
        }
        self.state.store(IDLE, Relaxed);
        Poll::Ready(Ok(LAST_CHUNK.len()))
    }
}

fn encode(trailers: &HeaderMap) -> Bytes {
    let mut bytes = b"0\r\n".to_vec();
    for (name, value) in trailers.iter().filter(|(name, _)| !NOT_IN_TRAILERS.contains(name)) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}
