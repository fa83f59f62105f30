//! What comes from a peer of HTTP/1.1.

use crate::body::channel::{Broken, Uploading};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body;
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// What a peer sends.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The body of a message, of which hyper knows the length.
    Message(body::Incoming),
    /// What comes through a tunnel.
    Tunnel(Uploading),
}

// === impl Incoming ===

impl Incoming {
    /// The next frame. An error says that not all has come.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            // hyper ends a body without an error only if all of it has come.
            Self::Message(body) => Pin::new(body).poll_frame(cx).map_err(|_| Broken::Lost),
            Self::Tunnel(body) => Pin::new(body).poll_frame(cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(body) => body.is_end_stream(),
            Self::Tunnel(body) => body.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Message(body) => body.size_hint(),
            Self::Tunnel(body) => body.size_hint(),
        }
    }
}
