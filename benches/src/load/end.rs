//! How streams end.

use super::find;
use std::{fmt, io};

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum End {
    /// As it should.
    Ok,
    /// An HTTP status other than 200.
    Status(u16),
    /// A gRPC status other than 0.
    Grpc(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// RST_STREAM(REFUSED_STREAM): nothing was done, it can be tried again.
    Refused,
    /// GOAWAY with this code.
    GoAway(u32),
    /// It took too long.
    Timeout,
    /// It ended cleanly, but with too little or too much.
    Truncated,
    /// The connection was lost, or never took the stream.
    Lost,
}

// === impl End ===

impl End {
    /// Whether all is well.
    pub fn is_ok(self) -> bool {
        self == Self::Ok
    }

    /// The end of a failed stream.
    pub fn of_error(error: &hyper::Error) -> Self {
        let Some(h2) = find::<h2::Error>(error) else { return Self::Lost };
        match h2.reason() {
            _ if h2.is_io() || find::<io::Error>(error).is_some() => Self::Lost,
            Some(h2::Reason::REFUSED_STREAM) => Self::Refused,
            Some(code) if h2.is_go_away() => Self::GoAway(code.into()),
            Some(code) => Self::Reset(code.into()),
            None => Self::Lost,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "NO_ERROR" and the like.
        let name = |code: u32| format!("{:?}", h2::Reason::from(code));
        match *self {
            Self::Ok => f.write_str("ok"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(status) => write!(f, "grpc-status {status}"),
            Self::Reset(code) => write!(f, "reset {}", name(code)),
            Self::Refused => f.write_str("refused"),
            Self::GoAway(code) => write!(f, "goaway {}", name(code)),
            Self::Timeout => f.write_str("timeout"),
            Self::Truncated => f.write_str("truncated"),
            Self::Lost => f.write_str("lost"),
        }
    }
}
