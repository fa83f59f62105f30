//! Errors of requests, and of attempts to connect.

use crate::{
    BoxError,
    client::failure::Failure,
    connection::streams::OpenStream,
    message::{reset_code, stream_error::StreamError},
};
use h2::Reason;
use http::Request;
use std::{error::Error as StdError, fmt, time::Duration};

/// Why a request got no response.
#[derive(Debug)]
pub struct Error {
    /// `None`: `fault` is the whole cause.
    source: Option<Source>,
    sent: bool,
    /// `None`: the cause is `source`.
    fault: Option<Fault>,
    /// The endpoint had ended the connection by GOAWAY with an error code. The error may be that of another stream.
    ended_by_error: bool,
    /// The endpoint had answered some request on the connection.
    connection_answered: bool,
}

/// A cause other than the loss of the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    RequestBroken,
    RequestTooLarge,
    Stalled,
    ResponseMalformed,
}

/// The error of the engine.
#[derive(Debug)]
pub(super) enum Source {
    /// An error of a stream or of its connection, with a code.
    Http2(StreamError),
    /// Without a code: the transport failed, or h2 refused the request.
    Http2WithoutCode(h2::Error),
    Http1(Failure),
}

/// A request that got no response, and the error.
#[non_exhaustive]
pub struct SendError<B> {
    /// Why there is no response. [`Error::is_unprocessed`] tells whether it is certainly safe to send the request again.
    pub error: Error,
    /// The request; some of its body may have been read. `None`: the body failed, the endpoint stalled, or the request is
    /// malformed.
    pub request: Option<Request<B>>,
}

// === impl Error ===

impl Error {
    pub(super) const REQUEST_BROKEN: Self = Self::new(None, true, Some(Fault::RequestBroken));
    pub(super) const STALLED: Self = Self::new(None, true, Some(Fault::Stalled));
    pub(super) const REQUEST_TOO_LARGE: Self = Self::new(None, false, Some(Fault::RequestTooLarge));
    pub(super) const RESPONSE_MALFORMED: Self = Self::new(None, true, Some(Fault::ResponseMalformed));

    const fn new(source: Option<Source>, sent: bool, fault: Option<Fault>) -> Self {
        Self { source, sent, fault, ended_by_error: false, connection_answered: false }
    }

    pub(super) fn unsent(source: h2::Error) -> Self {
        Self::new(Some(Source::http2(source)), false, None)
    }

    pub(super) fn unanswered(source: h2::Error) -> Self {
        // h2 itself resets the stream of a malformed response.
        let fault = (source.is_reset() && source.is_library()).then_some(Fault::ResponseMalformed);
        Self::new(Some(Source::http2(source)), true, fault)
    }

    pub(super) fn http1(source: Failure) -> Self {
        let sent = !source.is_unsent();
        let fault = source.is_malformed().then_some(Fault::ResponseMalformed);
        Self::new(Some(Source::Http1(source)), sent, fault)
    }

    fn http2(&self) -> Option<&h2::Error> {
        match &self.source {
            Some(Source::Http2(source)) => source.engine(),
            Some(Source::Http2WithoutCode(source)) => Some(source),
            _ => None,
        }
    }

    /// The request's body failed, so its stream was reset; the endpoint is not at fault.
    #[must_use]
    pub fn is_request_broken(&self) -> bool {
        self.fault == Some(Fault::RequestBroken)
    }

    /// The endpoint accepted no more of the request for the write-stall timeout, so its stream was reset.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.fault == Some(Fault::Stalled)
    }

    /// The request's head exceeds the endpoint's SETTINGS_MAX_HEADER_LIST_SIZE, so nothing was sent.
    #[must_use]
    pub fn is_request_too_large(&self) -> bool {
        self.fault == Some(Fault::RequestTooLarge)
    }

    /// The response is malformed (RFC 9113 section 8.1.1, or not HTTP/1.1). In HTTP/2 its stream is reset and all others go
    /// on.
    #[must_use]
    pub fn is_response_malformed(&self) -> bool {
        self.fault == Some(Fault::ResponseMalformed)
    }

    /// The error code of the RST_STREAM that the endpoint sent, if it did.
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        self.remote_reset().map(Into::into)
    }

    /// The endpoint has not processed the request (RFC 9113 section 8.7): nothing of it was sent, its stream is above the last
    /// one of the endpoint's GOAWAY, or it was reset with REFUSED_STREAM, which some proxies send for requests that were
    /// processed.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        !self.sent || self.is_refused()
    }

    /// The endpoint says that it has not processed the request: its stream is above the last one of GOAWAY, or was reset with
    /// REFUSED_STREAM.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_excluded_by_go_away() || self.remote_reset() == Some(Reason::REFUSED_STREAM)
    }

    /// Nothing of the request was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        !self.sent
    }

    /// The request cannot be sent on any connection: h2 refuses it, or it cannot be expressed in HTTP/1.1.
    pub(crate) fn is_malformed(&self) -> bool {
        let closed = |source: &h2::Error| source.is_io() || source.is_go_away();
        !self.sent && self.http2().is_some_and(|source| !closed(source)) || self.is_unrepresentable()
    }

    /// The request cannot be expressed in HTTP/1.1.
    pub(crate) fn is_unrepresentable(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_unrepresentable())
    }

    /// The response is not HTTP/1.1, but starts as one of another protocol does, which `Display` names.
    fn is_other_protocol(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_other_protocol())
    }

    /// A connection of HTTP/1.1 was lost that had carried other requests, or had been idle before its first: the endpoint
    /// may have closed it before it read this request.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_stale())
    }

    /// The request on a connection of HTTP/1.1 that was lost was a WebSocket handshake, which is a GET there and so
    /// idempotent, though the proxy has it as CONNECT.
    pub(crate) fn is_websocket_handshake(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_websocket_handshake())
    }

    /// The endpoint reset the stream with a code of an overloaded server, though not with REFUSED_STREAM.
    pub(super) fn is_overload_reset(&self) -> bool {
        matches!(self.remote_reset(), Some(Reason::ENHANCE_YOUR_CALM | Reason::INTERNAL_ERROR))
    }

    /// Copies the state of the stream's connection.
    pub(super) fn record_connection(&mut self, stream: &OpenStream) {
        (self.ended_by_error, self.connection_answered) = (stream.is_ended_by_error(), stream.has_answered());
    }

    /// Sets whether the endpoint had answered on the connection, for a request that was not sent.
    pub(super) fn with_connection_answered(self, connection_answered: bool) -> Self {
        Self { connection_answered, ..self }
    }

    /// Whether the endpoint had answered some request on the connection.
    pub(crate) fn connection_had_answered(&self) -> bool {
        self.connection_answered
    }

    /// The connection was lost after GOAWAY with an error code. The error may be that of another stream.
    pub(crate) fn is_ended_by_error(&self) -> bool {
        self.ended_by_error && self.is_connection_lost()
    }

    /// The endpoint closed an idle connection of HTTP/1.1 with 408 (RFC 9110 section 15.5.9) before it read the request.
    pub(crate) fn is_idle_timeout(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_idle_timeout())
    }

    /// The request's stream is above the last one that the endpoint's GOAWAY includes.
    pub(crate) fn is_excluded_by_go_away(&self) -> bool {
        self.http2().is_some_and(|source| source.is_go_away() && source.is_remote())
    }

    /// The connection was lost before the response's head arrived.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.fault.is_none() && self.remote_reset().is_none() && !self.is_unprocessed() && !self.is_idle_timeout()
    }

    pub(crate) fn remote_reset(&self) -> Option<Reason> {
        self.http2().and_then(reset_code::remote_reset)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote_reset() {
            Some(reason) => write!(f, "endpoint reset the stream: {reason:?}"),
            None if self.is_response_malformed() && !self.is_other_protocol() => {
                f.write_str("endpoint's response is malformed")
            }
            None if self.is_request_too_large() => f.write_str("the request's head is larger than the endpoint takes"),
            None if self.is_request_broken() => f.write_str("the request's body broke"),
            None if self.is_stalled() => f.write_str("endpoint took no more of the request"),
            None if self.is_excluded_by_go_away() => f.write_str("endpoint went away before it processed the request"),
            None => match &self.source {
                Some(Source::Http1(source)) => source.fmt(f),
                _ => f.write_str("connection to endpoint was lost"),
            },
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.source.as_ref()? {
            Source::Http2(source) => Some(source),
            Source::Http2WithoutCode(source) => Some(source),
            // `Display` shows the failure itself.
            Source::Http1(source) => source.source(),
        }
    }
}

// === impl Source ===

impl Source {
    fn http2(source: h2::Error) -> Self {
        StreamError::from_engine(source).map_or_else(Self::Http2WithoutCode, Self::Http2)
    }
}

// === impl SendError ===

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("error", &self.error).field("request", &self.request.is_some()).finish()
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> StdError for SendError<B> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        StdError::source(&self.error)
    }
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ConnectError {
    kind: ConnectErrorKind,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ConnectErrorKind {
    #[error("could not connect")]
    Transport,
    #[error("HTTP handshake failed")]
    Handshake,
    #[error("connecting took longer than {0:?}")]
    TimedOut(Duration),
    #[error("endpoint's SETTINGS did not come in {0:?}")]
    NoSettings(Duration),
    #[error("connection was lost before any response")]
    Lost,
}

// === impl ConnectError ===

impl ConnectError {
    pub(super) fn transport(source: impl Into<BoxError>) -> Self {
        Self { kind: ConnectErrorKind::Transport, source: Some(source.into()) }
    }

    pub(super) fn handshake(source: impl Into<BoxError>) -> Self {
        Self { kind: ConnectErrorKind::Handshake, source: Some(source.into()) }
    }

    pub(super) fn timed_out(limit: Duration) -> Self {
        Self { kind: ConnectErrorKind::TimedOut(limit), source: None }
    }

    pub(super) fn no_settings(limit: Duration) -> Self {
        Self { kind: ConnectErrorKind::NoSettings(limit), source: None }
    }

    /// The connection was made, and lost before any response.
    pub(crate) fn lost() -> Self {
        Self { kind: ConnectErrorKind::Lost, source: None }
    }

    /// The connection was made, and lost before any response.
    pub(crate) fn is_lost(&self) -> bool {
        self.kind == ConnectErrorKind::Lost
    }

    /// The connector failed, for example because the connection was refused.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        self.kind == ConnectErrorKind::Transport
    }

    /// The transport was made, but the HTTP handshake failed or the peer's SETTINGS did not come.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        matches!(self.kind, ConnectErrorKind::Handshake | ConnectErrorKind::NoSettings(_))
    }

    /// Connecting took longer than allowed, or the peer's SETTINGS did.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, ConnectErrorKind::TimedOut(_) | ConnectErrorKind::NoSettings(_))
    }
}
