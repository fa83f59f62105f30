//! The end of a response in chunks, with its trailers (RFC 9112 section 7.1.2).
//!
//! hyper sends only trailers that the head has announced, which it need not do (RFC 9110 section 6.6.2), and in HTTP/2
//! mostly does not. So hyper never sees them: it ends the body as one without, and where it writes that, which it
//! has to write by itself, the guard writes another end.

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

/// What a connection's body and its guard tell each other.
#[derive(Debug, Default)]
pub(crate) struct TrailerWriter {
    state: AtomicU8,
    /// To be written in the place of [`CHUNKED`].
    bytes: Mutex<Bytes>,
}

// What an ending is about.
const NONE: u8 = 0;
/// The body waits until all that came before is written.
const AWAITED: u8 = 1;
const WRITTEN: u8 = 2;
/// The bytes come next.
const DUE: u8 = 3;
/// What hyper ends a body in chunks with.
const CHUNKED: &[u8] = b"0\r\n\r\n";
/// What would change how the message is understood, if some took it in and others did not (RFC 9110 section 6.5.1).
const NOT_SENT: [HeaderName; 7] = [
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
    /// Whether all that came before is written; if not, the task is woken when it is.
    pub(crate) fn poll_written(&self) -> Poll<()> {
        if self.state.load(Relaxed) == WRITTEN {
            return Poll::Ready(());
        }
        self.state.store(AWAITED, Relaxed);
        Poll::Pending
    }

    /// To be called next.
    pub(crate) fn put(&self, trailers: &HeaderMap) {
        *self.bytes.lock().expect(UNPOISONED) = encode(trailers);
        self.state.store(DUE, Relaxed);
    }

    /// Nobody waits any more.
    pub(crate) fn give_up(&self) {
        self.state.store(NONE, Relaxed);
    }

    /// All that hyper has is written.
    pub(crate) fn written(&self, cx: &Context<'_>) {
        if self.state.load(Relaxed) == AWAITED {
            self.state.store(WRITTEN, Relaxed);
            cx.waker().wake_by_ref();
        }
    }

    pub(crate) fn is_due(&self) -> bool {
        self.state.load(Relaxed) == DUE
    }

    /// Writes it in the place of what hyper writes, if that is an end in chunks.
    pub(crate) fn poll_write<I: AsyncWrite + Unpin>(
        &self,
        io: &mut I,
        cx: &mut Context<'_>,
        hypers: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !hypers.starts_with(CHUNKED) {
            self.state.store(NONE, Relaxed);
            return Pin::new(io).poll_write(cx, hypers);
        }
        let mut bytes = self.bytes.lock().expect(UNPOISONED);
        while bytes.has_remaining() {
            let n = ready!(Pin::new(&mut *io).poll_write(cx, &bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(n);
        }
        self.state.store(NONE, Relaxed);
        Poll::Ready(Ok(CHUNKED.len()))
    }
}

fn encode(trailers: &HeaderMap) -> Bytes {
    let mut bytes = b"0\r\n".to_vec();
    for (name, value) in trailers.iter().filter(|(name, _)| !NOT_SENT.contains(name)) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}
