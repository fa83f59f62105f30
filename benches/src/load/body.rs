//! Bodies of a given size.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

/// A body of equal pieces; as an answer of gRPC, with a status behind it.
#[derive(Clone, Debug)]
pub struct Payload {
    piece: Bytes,
    /// Bytes that are left to send.
    left: u64,
    status: bool,
}

/// As long as the largest frame that the proxy takes of an endpoint by default.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

// === impl Payload ===

impl Payload {
    /// `len` bytes.
    pub fn bytes(len: u64) -> Self {
        Self { piece: Bytes::from_static(&ZEROS), left: len, status: false }
    }

    /// `count` gRPC messages of `size` bytes each, not compressed.
    pub fn messages(count: u64, size: u32) -> Self {
        let mut message = BytesMut::with_capacity(5 + size as usize);
        message.put_u8(0);
        message.put_u32(size);
        message.put_bytes(0, size as usize);
        let piece = message.freeze();
        Self { left: count * piece.len() as u64, piece, status: false }
    }

    /// Bytes that are left to send.
    pub(crate) fn remaining(&self) -> u64 {
        self.left
    }

    /// The same, with `grpc-status: 0` behind it.
    #[must_use]
    pub fn with_status(self) -> Self {
        Self { status: true, ..self }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left > 0 {
            let len = this.left.min(this.piece.len() as u64);
            this.left -= len;
            return Poll::Ready(Some(Ok(Frame::data(this.piece.slice(..len as usize)))));
        }
        let status = std::mem::take(&mut this.status);
        Poll::Ready(status.then(|| Ok(Frame::trailers(trailers()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && !self.status
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The trailers of a gRPC response.
pub(super) fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
