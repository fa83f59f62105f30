//! Bodies that end without an error only when the peer ended its stream cleanly.

use crate::reason::{self, Side};
use bytes::Bytes;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The body of a message that a peer sends.
    ///
    /// HTTP/2 engines report some broken streams as a plain end: hyper does so for a RST_STREAM(NO_ERROR) and for its
    /// own keep-alive timeout. Passed on as END_STREAM, a truncated message would look whole. So this body takes an
    /// end for clean only if the peer said so: by END_STREAM, by trailers, or by all bytes of its content-length.
    ///
    /// ```
    /// use http_body_util::{BodyExt, Full};
    /// use proxy_http::IncomingBody;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let body = IncomingBody::from_endpoint(Full::new(bytes::Bytes::from("whole")));
    /// assert_eq!(body.collect().await.unwrap().to_bytes(), "whole");
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct IncomingBody<B = hyper::body::Incoming> {
        #[pin]
        inner: B,
        side: Side,
        trailers: bool,
    }
}

/// Why a body ended before its message was whole.
///
/// As the error of a body that is sent on, it makes hyper reset the stream with the code that the other side is to see.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    /// What the other side's stream is reset with; hyper looks for it among the sources.
    passed_on: h2::Error,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Reset(Reason),
    Truncated,
    Lost,
    TimedOut,
}

// === impl IncomingBody ===

impl<B> IncomingBody<B> {
    /// The body of a request: where it breaks, the endpoint's stream is reset.
    pub fn from_client(inner: B) -> Self {
        Self { inner, side: Side::Client, trailers: false }
    }

    /// The body of a response: where it breaks, the client's stream is reset.
    pub fn from_endpoint(inner: B) -> Self {
        Self { inner, side: Side::Endpoint, trailers: false }
    }
}

impl<B> Body for IncomingBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: StdError + 'static,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        Poll::Ready(match ready!(this.inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => {
                *this.trailers |= frame.is_trailers();
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(Error::from_source(*this.side, &error))),
            None => {
                let clean = *this.trailers || this.inner.is_end_stream() || this.inner.size_hint().exact() == Some(0);
                if clean { None } else { Some(Err(Error::truncated(*this.side))) }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.inner.size_hint();
        match hint.exact() {
            // hyper says "exactly 0" of every message without a body and would add a content-length that its sender
            // left out.
            Some(0) => SizeHint::default(),
            _ => hint,
        }
    }
}

// === impl Error ===

impl Error {
    fn from_source(side: Side, source: &(dyn StdError + 'static)) -> Self {
        match reason::remote_reset(source) {
            Some(reason) => Self { kind: Kind::Reset(reason), passed_on: side.passed_on(reason).into() },
            None => Self { kind: Kind::Lost, passed_on: side.lost().into() },
        }
    }

    fn truncated(side: Side) -> Self {
        Self { kind: Kind::Truncated, passed_on: side.passed_on(Reason::NO_ERROR).into() }
    }

    pub(crate) fn timed_out() -> Self {
        Self { kind: Kind::TimedOut, passed_on: Reason::CANCEL.into() }
    }

    /// The code of the peer's RST_STREAM, where that is what ended the body. NO_ERROR and the engine's own keep-alive
    /// timeout cannot be told apart; both are [truncated](Self::is_truncated).
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        match self.kind {
            Kind::Reset(reason) => Some(reason.into()),
            _ => None,
        }
    }

    /// The stream ended without END_STREAM, but not by an error code.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.kind == Kind::Truncated
    }

    /// The connection that the body came from was lost.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.kind == Kind::Lost
    }

    /// The request's deadline passed before its response was whole.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind == Kind::TimedOut
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Reset(reason) => write!(f, "stream was reset: {reason:?}"),
            Kind::Truncated => f.write_str("body ended before its stream did"),
            Kind::Lost => f.write_str("connection was lost before the body's end"),
            Kind::TimedOut => f.write_str("deadline passed before the body's end"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.passed_on)
    }
}
