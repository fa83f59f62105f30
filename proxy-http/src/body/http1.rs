//! Bodies received from a peer of HTTP/1.1.

use crate::{
    body::{
        channel::{BodyReceiver, Http1BodyError},
        error::Error,
    },
    message::fields,
    stats::Side,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// The body of a message, or the stream of bytes of a tunnel.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The body of a message, which hyper frames.
    Message(body::Incoming),
    /// The bytes that come through a tunnel.
    Tunnel(BodyReceiver),
}

// === impl Incoming ===

impl Incoming {
    /// The next frame from `side`, as it is forwarded. An error: the body is incomplete.
    pub(super) fn poll(&mut self, side: Side, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(self.poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(mut frame) => {
                if let Some(trailers) = frame.trailers_mut() {
                    fields::strip_trailers(trailers);
                }
                Ok(frame)
            }
            // The reset of a tunnel's connection is RST_STREAM with CANCEL (RFC 8441 section 5).
            Err(Http1BodyError::Reset) => Err(Error::tunnel_reset()),
            Err(Http1BodyError::Lost) => Err(Error::lost(side)),
            Err(Http1BodyError::GivenUp) => Err(Error::tunnel_given_up()),
        }))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1BodyError>>> {
        match self {
            // hyper ends a body without an error only if it is complete.
            Self::Message(body) => Pin::new(body).poll_frame(cx).map_err(|_| Http1BodyError::Lost),
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
