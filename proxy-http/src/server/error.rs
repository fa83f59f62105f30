//! Why a connection from a client ended.

use crate::stats::Limit;
use h2::Reason;
use std::io;

/// Why a connection ended other than by its client closing it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] ErrorKind);

#[derive(Debug, thiserror::Error)]
pub(super) enum ErrorKind {
    #[error("connection from client failed")]
    Failed(#[source] h2::Error),
    #[error("connection from client failed")]
    Http1(#[source] hyper::Error),
    #[error("connection from client failed")]
    Io(#[source] io::Error),
    /// No PING was answered in time.
    #[error("keep-alive timed out")]
    TimedOut,
    #[error("client speaks TLS, which is not spoken here")]
    Tls,
    #[error("client went beyond a limit: {0:?}")]
    Limit(Limit),
}

// === impl Error ===

impl Error {
    pub(crate) fn http1(source: hyper::Error) -> Self {
        ErrorKind::Http1(source).into()
    }

    pub(crate) fn io(source: io::Error) -> Self {
        ErrorKind::Io(source).into()
    }

    /// The client's request was refused by hyper, which has answered it.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(&self.0, ErrorKind::Http1(source) if source.is_parse())
    }

    /// The client was gone before it sent a whole request, or while no request was open: no fault of either side.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        match &self.0 {
            ErrorKind::Failed(source) => source.is_io(),
            ErrorKind::Http1(source) => source.is_incomplete_message() || source.is_closed(),
            ErrorKind::Io(_) => true,
            ErrorKind::TimedOut | ErrorKind::Tls | ErrorKind::Limit(_) => false,
        }
    }

    /// The client has not answered a PING in time.
    pub(super) fn is_keep_alive_timeout(&self) -> bool {
        matches!(self.0, ErrorKind::TimedOut)
    }

    /// The limit that the client went beyond, if that ended the connection.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        match self.0 {
            ErrorKind::Limit(limit) => Some(limit),
            _ => None,
        }
    }

    /// The client went beyond a limit of the HTTP/2 engine, as by a header list that is far too large.
    #[must_use]
    pub fn is_engine_limit(&self) -> bool {
        // h2 has COMPRESSION_ERROR for field blocks that are too long alone.
        let is_limit =
            |error: &h2::Error| matches!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM | Reason::COMPRESSION_ERROR));
        matches!(&self.0, ErrorKind::Failed(error) if error.is_go_away() && error.is_library() && is_limit(error))
    }

    /// The client speaks TLS, and is served in clear text.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0, ErrorKind::Tls)
    }
}
