//! Reasons to send a request again.

use std::fmt;

/// Why a request was sent again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// Its connection had closed before any of it was sent.
    Unsent,
    /// The endpoint's GOAWAY left it out.
    GoAway,
    /// The endpoint refused it.
    Refused,
    /// Its connection was lost before its response came.
    ConnectionLost,
    /// It was answered with 502, 503 or 504.
    GatewayError,
    /// It was answered with UNAVAILABLE.
    Unavailable,
}

// === impl Reason ===

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unsent, Self::GoAway, Self::Refused, Self::ConnectionLost, Self::GatewayError, Self::Unavailable];

    /// Whether it counts against the budget. What closing connections leave out must not: that comes in bursts, once.
    pub(crate) fn is_budgeted(self) -> bool {
        !matches!(self, Self::Unsent | Self::GoAway)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsent => "unsent",
            Self::GoAway => "goaway",
            Self::Refused => "refused_stream",
            Self::ConnectionLost => "connection_lost",
            Self::GatewayError => "gateway_error",
            Self::Unavailable => "unavailable",
        })
    }
}
