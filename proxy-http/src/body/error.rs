//! The error of a body that ended before its message was complete.

use crate::{
    message::{reset_code, stream_error::StreamError},
    stats::Side,
};
use h2::Reason;
use std::{error::Error as StdError, fmt};

/// Why a body ended before its message was complete.
///
/// A body that is forwarded and yields this error resets the next hop's stream, with the code of the
/// [`StreamError`](crate::StreamError) that is its source.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    /// The code that the other side's stream is reset with; the sender finds it by `source()`.
    passed_on: StreamError,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ErrorKind {
    Reset(Reason),
    Malformed,
    Lost,
    TimedOut,
    /// The trailers of a gRPC response have no `grpc-status`.
    CutOff,
    /// The proxy reset the stream because of the other direction of the exchange.
    GivenUp,
}

// === impl Error ===

impl Error {
    fn new(kind: ErrorKind, passed_on: Reason) -> Self {
        Self { kind, passed_on: StreamError::of(passed_on) }
    }

    /// `is_tunnel`: the body is a direction of a tunnel, in which CANCEL is the reset of a connection (RFC 8441 section 5).
    pub(super) fn engine(side: Side, error: &h2::Error, is_tunnel: bool) -> Self {
        match reset_code::remote_reset(error) {
            Some(reason) if is_tunnel => Self::new(ErrorKind::Reset(reason), side.passed_on(reason)),
            Some(reason) => Self::new(ErrorKind::Reset(reason), side.passed_on_in_body(reason)),
            None if reset_code::is_ours(error) && is_tunnel => Self::tunnel_given_up(),
            None if reset_code::is_ours(error) => Self::new(ErrorKind::GivenUp, side.lost()),
            None => Self::lost(side),
        }
    }

    /// The connection of an HTTP/1.1 tunnel was reset.
    pub(super) fn tunnel_reset() -> Self {
        Self::new(ErrorKind::Reset(Reason::CANCEL), Reason::CANCEL)
    }

    pub(super) fn lost(side: Side) -> Self {
        Self::new(ErrorKind::Lost, side.lost())
    }

    pub(super) fn tunnel_given_up() -> Self {
        Self::new(ErrorKind::GivenUp, Reason::CANCEL)
    }

    pub(super) fn malformed(side: Side) -> Self {
        Self::new(ErrorKind::Malformed, side.lost())
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(ErrorKind::TimedOut, Reason::INTERNAL_ERROR)
    }

    pub(crate) fn cut_off() -> Self {
        Self::new(ErrorKind::CutOff, Reason::INTERNAL_ERROR)
    }

    /// The code of the peer's RST_STREAM, if that ended the body; CANCEL for a tunnel of HTTP/1.1 whose connection was
    /// reset.
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        match self.kind {
            ErrorKind::Reset(reason) => Some(reason.into()),
            _ => None,
        }
    }

    /// The peer's message is malformed: HTTP does not allow its trailers, its length, or its stream's frames.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.kind == ErrorKind::Malformed
    }

    /// The trailers of a gRPC response have no status.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.kind == ErrorKind::CutOff
    }

    /// The connection that the body came from was lost.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.kind == ErrorKind::Lost
    }

    /// The proxy gave up the exchange because of its other direction: it failed, or its peer took no more data.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.kind == ErrorKind::GivenUp
    }

    /// The request's deadline passed before its response was whole.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind == ErrorKind::TimedOut
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ErrorKind::Reset(reason) => write!(f, "stream was reset: {reason:?}"),
            ErrorKind::Malformed => f.write_str("message is malformed"),
            ErrorKind::Lost => f.write_str("connection was lost before the body's end"),
            ErrorKind::TimedOut => f.write_str("deadline passed before the body's end"),
            ErrorKind::CutOff => f.write_str("trailers without a gRPC status"),
            ErrorKind::GivenUp => f.write_str("the other direction was given up"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.passed_on)
    }
}
