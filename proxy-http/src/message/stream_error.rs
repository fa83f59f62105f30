//! The error of one stream, which has the code of its RST_STREAM.

use h2::Reason;
use std::{error::Error as StdError, fmt};

/// An error that chooses the code of a stream's RST_STREAM (RFC 9113 section 5.4.2).
///
/// A [`Server`](crate::Server) whose service or whose response's body fails resets the stream, with the code of the first
/// `StreamError` among the error and its sources, or else with INTERNAL_ERROR. A request whose body fails is reset in the same
/// way, but by default with CANCEL. Errors of this crate that come from a stream have one among their sources.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use proxy_http::{IncomingBody, StreamError};
///
/// /// Clients may send again a request that is answered with REFUSED_STREAM (RFC 9113 section 8.7).
/// async fn serve(req: Request<IncomingBody>) -> Result<Response<IncomingBody>, StreamError> {
///     if req.uri().path() == "/busy" { Err(StreamError::REFUSED_STREAM) } else { Ok(Response::new(req.into_body())) }
/// }
/// ```
#[derive(Debug)]
pub struct StreamError {
    code: Reason,
    source: Option<h2::Error>,
}

// === impl StreamError ===

impl StreamError {
    /// The stream's peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self::of(Reason::PROTOCOL_ERROR);
    /// The sender of the reset failed.
    pub const INTERNAL_ERROR: Self = Self::of(Reason::INTERNAL_ERROR);
    /// No part of the request was processed, so a client may send it again.
    pub const REFUSED_STREAM: Self = Self::of(Reason::REFUSED_STREAM);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self::of(Reason::CANCEL);
    /// The peer sends too much or too often.
    pub const ENHANCE_YOUR_CALM: Self = Self::of(Reason::ENHANCE_YOUR_CALM);

    /// An error with any code; RFC 9113 section 7 defines 0 to 13, and a receiver takes others for INTERNAL_ERROR.
    #[must_use]
    pub fn new(code: u32) -> Self {
        Self::of(code.into())
    }

    /// The code of the RST_STREAM.
    #[must_use]
    pub fn code(&self) -> u32 {
        self.code.into()
    }

    pub(crate) const fn of(code: Reason) -> Self {
        Self { code, source: None }
    }

    /// The engine's error, if it has a code.
    pub(crate) fn from_engine(source: h2::Error) -> Result<Self, h2::Error> {
        match source.reason() {
            Some(code) => Ok(Self { code, source: Some(source) }),
            None => Err(source),
        }
    }

    /// The engine's error that this one was made from.
    pub(crate) fn engine(&self) -> Option<&h2::Error> {
        self.source.as_ref()
    }

    pub(super) fn reason(&self) -> Reason {
        self.code
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream error {:?}", self.code)
    }
}

impl StdError for StreamError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
