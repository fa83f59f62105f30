//! Why a request got no response on a connection of HTTP/1.1.

use crate::message::fields::Invalid;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct Failure {
    kind: Kind,
    source: Option<hyper::Error>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum Kind {
    /// It cannot be sent as HTTP/1.1.
    #[error("request has no form in HTTP/1.1: {0}")]
    Refused(&'static str),
    #[error("connection to endpoint was closed before the request was sent")]
    Unsent,
    #[error("connection to endpoint was lost")]
    Lost { reused: bool, handshake: bool },
    #[error("endpoint had closed the idle connection with 408")]
    IdleTimeout,
    #[error("endpoint's response is not HTTP/1.1: {0}")]
    Bad(&'static str),
}

// === impl Failure ===

impl Failure {
    /// The connection has had its last request.
    pub(super) const CLOSED: Self = Self { kind: Kind::Unsent, source: None };

    pub(super) const IDLE_TIMEOUT: Self = Self { kind: Kind::IdleTimeout, source: None };

    pub(super) fn refused(Invalid(reason): Invalid) -> Self {
        Self { kind: Kind::Refused(reason), source: None }
    }

    pub(super) fn bad(Invalid(reason): Invalid) -> Self {
        Self { kind: Kind::Bad(reason), source: None }
    }

    pub(super) fn unsent(source: hyper::Error) -> Self {
        Self { kind: Kind::Unsent, source: Some(source) }
    }

    pub(super) fn lost(source: hyper::Error, reused: bool, handshake: bool) -> Self {
        let lost = Kind::Lost { reused, handshake };
        let kind = if source.is_parse() { Kind::Bad("it cannot be parsed") } else { lost };
        Self { kind, source: Some(source) }
    }

    /// The request has no form in HTTP/1.1. Says why.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.kind, Kind::Refused(_))
    }

    /// The endpoint's response is not what HTTP/1.1 allows.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self.kind, Kind::Bad(_))
    }

    /// Nothing of the request was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self.kind, Kind::Refused(_) | Kind::Unsent)
    }

    /// The connection had been idle, and the endpoint may have closed it before it saw the request.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self.kind, Kind::Lost { reused: true, .. })
    }

    /// The endpoint had given the connection up with 408, and has not read the request.
    pub(crate) fn is_idle_timeout(&self) -> bool {
        self.kind == Kind::IdleTimeout
    }

    /// The request was a WebSocket's handshake, which is a GET.
    pub(crate) fn is_handshake(&self) -> bool {
        matches!(self.kind, Kind::Lost { handshake: true, .. })
    }
}
