//! Why a request got no response on a connection of HTTP/1.1.

use crate::{connection::detect::OtherProtocol, message::fields::Invalid};

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct Failure {
    kind: FailureKind,
    source: Option<hyper::Error>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum FailureKind {
    #[error("request has no form in HTTP/1.1: {0}")]
    Unrepresentable(&'static str),
    #[error("connection to endpoint was closed before the request was sent")]
    Unsent,
    #[error("connection to endpoint was lost")]
    Lost { reused: bool, handshake: bool },
    #[error("endpoint had closed the idle connection with 408")]
    IdleTimeout,
    #[error("endpoint's response is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    #[error("{0}")]
    OtherProtocol(OtherProtocol),
}

// === impl Failure ===

impl Failure {
    /// The connection accepts no more requests.
    pub(super) const CLOSED: Self = Self { kind: FailureKind::Unsent, source: None };

    pub(super) const IDLE_TIMEOUT: Self = Self { kind: FailureKind::IdleTimeout, source: None };

    pub(super) fn unrepresentable(Invalid(reason): Invalid) -> Self {
        Self { kind: FailureKind::Unrepresentable(reason), source: None }
    }

    pub(super) fn malformed(Invalid(reason): Invalid) -> Self {
        Self { kind: FailureKind::Malformed(reason), source: None }
    }

    pub(super) fn unsent(source: hyper::Error) -> Self {
        Self { kind: FailureKind::Unsent, source: Some(source) }
    }

    pub(super) fn lost(source: hyper::Error, reused: bool, handshake: bool) -> Self {
        let lost = FailureKind::Lost { reused, handshake };
        let kind = if source.is_parse() { FailureKind::Malformed("it cannot be parsed") } else { lost };
        Self { kind, source: Some(source) }
    }

    /// The response is not HTTP/1.1, but starts as one of another protocol does.
    pub(super) fn other_protocol(other: OtherProtocol) -> Self {
        Self { kind: FailureKind::OtherProtocol(other), source: None }
    }

    /// The request cannot be expressed in HTTP/1.1.
    pub(crate) fn is_unrepresentable(&self) -> bool {
        matches!(self.kind, FailureKind::Unrepresentable(_))
    }

    /// The endpoint's response is not HTTP/1.1.
    pub(crate) fn is_malformed(&self) -> bool {
        matches!(self.kind, FailureKind::Malformed(_) | FailureKind::OtherProtocol(_))
    }

    /// The endpoint speaks another protocol.
    pub(crate) fn is_other_protocol(&self) -> bool {
        matches!(self.kind, FailureKind::OtherProtocol(_))
    }

    /// Nothing of the request was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self.kind, FailureKind::Unrepresentable(_) | FailureKind::Unsent)
    }

    /// The connection had been idle, and the endpoint may have closed it before it read the request.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self.kind, FailureKind::Lost { reused: true, .. })
    }

    /// The endpoint closed the idle connection with 408, and has not read the request.
    pub(crate) fn is_idle_timeout(&self) -> bool {
        self.kind == FailureKind::IdleTimeout
    }

    /// The request was a WebSocket handshake, which is a GET.
    pub(crate) fn is_websocket_handshake(&self) -> bool {
        matches!(self.kind, FailureKind::Lost { handshake: true, .. })
    }
}
