//! Why a body is not whole.

use crate::{message::reason, stats::Side};
use h2::Reason;
use std::{error::Error as StdError, fmt};

/// Why a body ended before its message was whole.
///
/// As the error of a body that is sent on, it has the stream reset with the code that the other side is to see.
#[derive(Debug)]
pub struct Error {
    pub(super) kind: Kind,
    /// What the other side's stream is reset with; looked for among the sources.
    pub(super) passed_on: h2::Error,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Reset(Reason),
    Malformed,
    Lost,
    TimedOut,
    /// The trailers lack what must be in them.
    CutOff,
    /// This side reset the stream for what became of the other direction.
    GivenUp,
}

// === impl Error ===

impl Error {
    pub(super) fn new(side: Side, error: &h2::Error) -> Self {
        match reason::remote_reset(error) {
            Some(reason) => Self { kind: Kind::Reset(reason), passed_on: side.passed_on(reason).into() },
            None if reason::is_ours(error) => Self { kind: Kind::GivenUp, passed_on: Reason::CANCEL.into() },
            None => Self { kind: Kind::Lost, passed_on: side.lost().into() },
        }
    }

    pub(super) fn malformed(side: Side) -> Self {
        Self { kind: Kind::Malformed, passed_on: side.lost().into() }
    }

    pub(crate) fn timed_out() -> Self {
        Self { kind: Kind::TimedOut, passed_on: Reason::CANCEL.into() }
    }

    pub(crate) fn cut_off() -> Self {
        Self { kind: Kind::CutOff, passed_on: Reason::INTERNAL_ERROR.into() }
    }

    /// The code of the peer's RST_STREAM, where that is what ended the body; CANCEL for a tunnel of HTTP/1.1 whose connection
    /// was reset.
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        match self.kind {
            Kind::Reset(reason) => Some(reason.into()),
            _ => None,
        }
    }

    /// The peer's message is malformed: HTTP does not allow its trailers, its length, or its stream's frames.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.kind == Kind::Malformed
    }

    /// The connection that the body came from was lost.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.kind == Kind::Lost
    }

    /// This side gave up the other direction of the exchange: it broke, or the peer took no more of it.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.kind == Kind::GivenUp
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
            Kind::Malformed => f.write_str("message is malformed"),
            Kind::Lost => f.write_str("connection was lost before the body's end"),
            Kind::TimedOut => f.write_str("deadline passed before the body's end"),
            Kind::CutOff => f.write_str("trailers without a gRPC status"),
            Kind::GivenUp => f.write_str("the other direction was given up"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.passed_on)
    }
}
