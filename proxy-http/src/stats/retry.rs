//! Reasons to retry a request.

use std::fmt;

/// Why a request was retried.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// The connection had closed before any of the request was sent.
    Unsent,
    /// The endpoint's GOAWAY has a last stream identifier below the request's: it was not processed (RFC 9113 section 6.8).
    GoAway,
    /// The endpoint reset the stream with REFUSED_STREAM. By RFC 9113 section 8.7 the request was not processed, but some proxies
    /// send it for requests that were.
    Refused,
    /// The connection was lost before the response came.
    ConnectionLost,
    /// The response's status was 502, 503 or 504.
    GatewayError,
    /// The response's gRPC status was UNAVAILABLE.
    Unavailable,
}

// === impl Reason ===

impl Reason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 6] =
        [Self::Unsent, Self::GoAway, Self::Refused, Self::ConnectionLost, Self::GatewayError, Self::Unavailable];

    /// Whether a retry for it counts against the retry budget. Requests that a closing connection did not process do not:
    /// they come in one burst, once for the connection.
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
