//! Bodies that end without an error only when the peer ended its stream cleanly.

use crate::{
    activity::{Activity, OpenStream},
    reason::{self, Side},
};
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// The body of a message, as its peer sends it.
///
/// It ends without an error only if the peer ended its stream: by END_STREAM, by trailers, or by all bytes of its
/// content-length. Window is given back to the peer as data is taken.
#[derive(Debug)]
pub struct IncomingBody {
    from: RecvStream,
    side: Side,
    /// What is missing of the content-length. `None`: the message gives none.
    remaining: Option<u64>,
    /// Whether anything was asked of it yet.
    asked: bool,
    data_done: bool,
    /// Whether the end is known to follow without data: saves asking h2, which takes a lock.
    ended: bool,
    /// Who wants to know of data.
    activity: Option<Arc<Activity>>,
    _stream: Option<OpenStream>,
}

/// Why a body ended before its message was whole.
///
/// As the error of a body that is sent on, it has the stream reset with the code that the other side is to see.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    /// What the other side's stream is reset with; looked for among the sources.
    passed_on: h2::Error,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Reset(Reason),
    Lost,
    TimedOut,
}

// === impl IncomingBody ===

impl IncomingBody {
    /// The body of a message with these headers, from a peer of that side. `activity` is told of data.
    pub(crate) fn new(side: Side, headers: &HeaderMap, from: RecvStream, activity: Option<Arc<Activity>>) -> Self {
        let ended = from.is_end_stream();
        // h2 has checked it, against the data too.
        let length = if ended { None } else { headers.get(CONTENT_LENGTH) };
        let remaining = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self { from, side, remaining, asked: false, data_done: false, ended, activity, _stream: None }
    }

    /// Keeps `stream` counted as long as the body lives.
    pub(crate) fn counted(self, stream: OpenStream) -> Self {
        Self { _stream: Some(stream), ..self }
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.asked = true;
        if !self.data_done {
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(data)) => {
                    let taken = data.len();
                    // Fails only if the stream has ended, and then there is nothing to give back.
                    let _ = self.from.flow_control().release_capacity(taken);
                    self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(taken as u64));
                    if let Some(activity) = &self.activity {
                        activity.data(taken);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Who has answered may say by NO_ERROR that it needs no more of the request (RFC 9113 section 8.1). It
                // hides an END_STREAM before it from us, but not that all of the content-length came.
                Some(Err(error)) if self.remaining == Some(0) && error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Error::new(self.side, &error)))),
                None => self.data_done = true,
            }
        }
        Poll::Ready(match ready!(self.from.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(Error::new(self.side, &error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        // h2 takes a lock to tell; what it told at first is good enough until something has come.
        self.ended || (self.asked && self.from.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

// === impl Error ===

impl Error {
    fn new(side: Side, error: &h2::Error) -> Self {
        match reason::remote_reset(error) {
            Some(reason) => Self { kind: Kind::Reset(reason), passed_on: side.passed_on(reason).into() },
            None => Self { kind: Kind::Lost, passed_on: side.lost().into() },
        }
    }

    pub(crate) fn timed_out() -> Self {
        Self { kind: Kind::TimedOut, passed_on: Reason::CANCEL.into() }
    }

    /// The code of the peer's RST_STREAM, where that is what ended the body.
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        match self.kind {
            Kind::Reset(reason) => Some(reason.into()),
            _ => None,
        }
    }

    /// The connection that the body came from was lost.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.kind == Kind::Lost
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
            Kind::Lost => f.write_str("connection was lost before the body's end"),
            Kind::TimedOut => f.write_str("deadline passed before the body's end"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.passed_on)
    }
}
