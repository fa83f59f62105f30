//! Why requests get no response.

use crate::{BoxError, client::failure::Failure, connection::streams::OpenStream, message::reason};
use h2::Reason;
use http::Request;
use std::{error::Error as StdError, fmt, time::Duration};

/// Why a request got no response.
#[derive(Debug)]
pub struct Error {
    /// `None`: `fault` says it all.
    source: Option<Source>,
    sent: bool,
    /// `None`: the source says it.
    fault: Option<Fault>,
    /// The endpoint had ended the connection by GOAWAY with an error, which may be that of another stream.
    ended_by_error: bool,
    /// The connection had been of use to some request.
    of_use: bool,
}

/// What is wrong where it is not the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    RequestBroken,
    RequestTooLarge,
    Stalled,
    ResponseMalformed,
}

#[derive(Debug)]
pub(super) enum Source {
    Http2(h2::Error),
    Http1(Failure),
}

/// A request that got no response, given back.
pub struct SendError<B> {
    /// Why there is no response. [`Error::is_unprocessed`] says whether it is certainly safe to send the request again.
    pub error: Error,
    /// The request; some of its body may have been taken. `None`: the body broke, or the request cannot be sent at all.
    pub request: Option<Request<B>>,
}

// === impl Error ===

impl Error {
    pub(super) const REQUEST_BROKEN: Self =
        Self { source: None, sent: true, fault: Some(Fault::RequestBroken), ended_by_error: false, of_use: false };
    pub(super) const STALLED: Self =
        Self { source: None, sent: true, fault: Some(Fault::Stalled), ended_by_error: false, of_use: false };
    pub(super) const REQUEST_TOO_LARGE: Self =
        Self { source: None, sent: false, fault: Some(Fault::RequestTooLarge), ended_by_error: false, of_use: false };
    pub(super) const RESPONSE_MALFORMED: Self =
        Self { source: None, sent: true, fault: Some(Fault::ResponseMalformed), ended_by_error: false, of_use: false };

    pub(super) fn unsent(source: h2::Error) -> Self {
        Self { source: Some(Source::Http2(source)), sent: false, fault: None, ended_by_error: false, of_use: false }
    }

    pub(super) fn unanswered(source: h2::Error) -> Self {
        // h2 resets what is malformed.
        let fault = (source.is_reset() && source.is_library()).then_some(Fault::ResponseMalformed);
        Self { source: Some(Source::Http2(source)), sent: true, fault, ended_by_error: false, of_use: false }
    }

    pub(super) fn http1(source: Failure) -> Self {
        let sent = !source.is_unsent();
        let fault = source.is_bad().then_some(Fault::ResponseMalformed);
        Self { source: Some(Source::Http1(source)), sent, fault, ended_by_error: false, of_use: false }
    }

    fn http2(&self) -> Option<&h2::Error> {
        match &self.source {
            Some(Source::Http2(source)) => Some(source),
            _ => None,
        }
    }

    /// The request's own body broke, so that its stream was reset; the endpoint has done nothing wrong.
    #[must_use]
    pub fn is_request_broken(&self) -> bool {
        self.fault == Some(Fault::RequestBroken)
    }

    /// The endpoint took no more of the request for too long, so that its stream was reset.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.fault == Some(Fault::Stalled)
    }

    /// The request's head is larger than the endpoint announced to take (SETTINGS_MAX_HEADER_LIST_SIZE), so that nothing
    /// was sent.
    #[must_use]
    pub fn is_request_too_large(&self) -> bool {
        self.fault == Some(Fault::RequestTooLarge)
    }

    /// HTTP does not allow the response; its stream is reset, all others go on.
    #[must_use]
    pub fn is_response_malformed(&self) -> bool {
        self.fault == Some(Fault::ResponseMalformed)
    }

    /// The code of the RST_STREAM that the endpoint answered with, if it did.
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        self.remote_reset().map(Into::into)
    }

    /// The endpoint has certainly not processed the request: nothing of it was sent, or the endpoint said so, by
    /// GOAWAY or by REFUSED_STREAM (RFC 9113 section 8.7).
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        !self.sent || self.is_left_out() || self.remote_reset() == Some(Reason::REFUSED_STREAM)
    }

    /// Nothing of the request was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        !self.sent
    }

    /// The request cannot be sent, by this connection or another: h2 finds so, or it has no form in HTTP/1.1.
    pub(crate) fn is_malformed(&self) -> bool {
        let closed = |source: &h2::Error| source.is_io() || source.is_go_away();
        !self.sent && self.http2().is_some_and(|source| !closed(source)) || self.is_refused()
    }

    /// The request has no form in HTTP/1.1.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_refused())
    }

    /// A connection of HTTP/1.1 was lost on which there had been other requests, or that had waited for its first: its peer
    /// may have closed it before it saw this one.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_stale())
    }

    /// So was one that had a WebSocket's handshake, which is a GET, though to us it is none.
    pub(crate) fn is_handshake(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_handshake())
    }

    /// The endpoint has reset the stream as if it had no room for it, though without saying that it did nothing.
    pub(super) fn says_overload(&self) -> bool {
        matches!(self.remote_reset(), Some(Reason::ENHANCE_YOUR_CALM | Reason::INTERNAL_ERROR))
    }

    /// Notes the state of the connection that the stream was on.
    pub(super) fn set_connection(&mut self, stream: &OpenStream) {
        (self.ended_by_error, self.of_use) = (stream.is_ended_by_error(), stream.has_answered());
    }

    /// The same of a request that was not sent, on a connection that had been of use or not.
    pub(super) fn on_connection(self, of_use: bool) -> Self {
        Self { of_use, ..self }
    }

    /// Whether the connection had been of use to some request.
    pub(crate) fn was_of_use(&self) -> bool {
        self.of_use
    }

    /// The connection was lost, and the endpoint had ended it by GOAWAY with an error, perhaps for another stream's sake.
    pub(crate) fn is_ended_by_error(&self) -> bool {
        self.ended_by_error && self.is_connection_lost()
    }

    /// A connection of HTTP/1.1 had waited for the request, and its endpoint had ended the wait with 408 before it read
    /// anything of this one.
    pub(crate) fn is_idle_timeout(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_idle_timeout())
    }

    /// The endpoint's GOAWAY leaves the request out.
    pub(crate) fn is_left_out(&self) -> bool {
        self.http2().is_some_and(|source| source.is_go_away() && source.is_remote())
    }

    /// The connection was lost before the response's head arrived.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.fault.is_none() && self.remote_reset().is_none() && !self.is_unprocessed() && !self.is_idle_timeout()
    }

    pub(crate) fn remote_reset(&self) -> Option<Reason> {
        self.http2().and_then(reason::remote_reset)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote_reset() {
            Some(reason) => write!(f, "endpoint reset the stream: {reason:?}"),
            None if self.is_response_malformed() => f.write_str("endpoint's response is malformed"),
            None if self.is_request_too_large() => f.write_str("the request's head is larger than the endpoint takes"),
            None if self.is_request_broken() => f.write_str("the request's body broke"),
            None if self.is_stalled() => f.write_str("endpoint took no more of the request"),
            None if self.is_left_out() => f.write_str("endpoint went away before it processed the request"),
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
            // It is what `Display` shows.
            Source::Http1(source) => source.source(),
        }
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

/// Why no connection came about.
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

    /// The connection was made, and lost before it was of any use.
    pub(crate) fn lost() -> Self {
        Self { kind: ConnectErrorKind::Lost, source: None }
    }

    /// The connection was made, and lost before it was of any use.
    pub(crate) fn is_lost(&self) -> bool {
        self.kind == ConnectErrorKind::Lost
    }

    /// The connector failed, for example because the connection was refused.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        self.kind == ConnectErrorKind::Transport
    }

    /// The transport was made, but the peer's SETTINGS did not come.
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
