//! Request bodies that can be sent again.

use crate::{
    IncomingBody,
    body::{error::Error, outcome::Backpressure, source::Source},
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use smallvec::SmallVec;
use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// A request's body that remembers what it has yielded, up to a bound, until the request is answered.
///
/// A request that an endpoint has not processed can then go to another one from its start.
#[derive(Debug)]
pub struct Replay {
    inner: IncomingBody,
    /// Bytes that may still be remembered. `None`: more has been yielded, or nothing needs to be remembered any more.
    room: Option<usize>,
    /// What has been yielded. `None`: nothing yet, as for the many requests without a body.
    past: Option<Box<Past>>,
    malformed: bool,
    without_trailers: bool,
}

/// What a body has yielded, and may yield again.
#[derive(Debug, Default)]
struct Past {
    /// Mostly one, in calls of gRPC.
    data: SmallVec<[Bytes; 1]>,
    trailers: Option<HeaderMap>,
    /// How many of `data` have been yielded since the last rewind.
    next: usize,
    /// Whether `trailers` are still to be yielded.
    trailers_next: bool,
    /// The inner body has ended: nothing more is to be asked of it.
    ended: bool,
}

/// What each frame after the first costs at least, in bytes.
const FRAME: usize = 256;
/// Frames after the first of fewer bytes are copied: each keeps the buffer that it was read into from being freed, with
/// what came for other streams.
const SMALL: usize = 4 << 10;

// === impl Replay ===

impl Replay {
    /// Remembers at most `limit` bytes of `inner`.
    #[must_use]
    pub fn new(mut inner: IncomingBody, limit: usize) -> Self {
        inner.will_hold();
        Self { inner, room: Some(limit), past: None, malformed: false, without_trailers: false }
    }

    /// Ends where trailers would come.
    #[must_use]
    pub fn without_trailers(self) -> Self {
        Self { without_trailers: true, ..self }
    }

    /// Starts over; false if that is not possible, because more was yielded than is remembered, or the body broke.
    #[must_use]
    pub fn rewind(&mut self) -> bool {
        if let Some(past) = &mut self.past {
            past.next = 0;
            past.trailers_next = past.trailers.is_some();
        }
        self.room.is_some()
    }

    /// Whether it has yielded trailers, and remembers them.
    pub(crate) fn has_trailers(&self) -> bool {
        self.past.as_ref().is_some_and(|past| past.trailers.is_some())
    }

    /// Remembers nothing more.
    pub fn forget(&mut self) {
        self.room = None;
        if let Some(past) = &mut self.past {
            past.drop_yielded();
        }
    }

    /// Whether the body broke because its peer sent what HTTP does not allow.
    pub(crate) fn is_malformed(&self) -> bool {
        self.malformed
    }

    fn remember(&mut self, frame: &Frame<Bytes>) {
        let Some(room) = self.room else { return };
        let past = self.past.get_or_insert_default();
        if let Some(data) = frame.data_ref() {
            let least = if past.data.is_empty() { 0 } else { FRAME };
            self.room = room.checked_sub(data.len().max(least));
            if self.room.is_some() {
                let shares = least == 0 || data.len() >= SMALL;
                past.data.push(if shares { data.clone() } else { Bytes::copy_from_slice(data) });
            }
            past.next = past.data.len();
            if self.room.is_none() {
                past.drop_yielded();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            past.trailers = Some(trailers.clone());
        }
    }
}

impl Source for Replay {
    fn hold(&mut self, cx: &mut Context<'_>) -> Backpressure {
        let held = self.inner.hold(cx);
        if self.past.as_ref().is_some_and(|past| past.is_left()) { Backpressure::Data } else { held }
    }

    fn finish(&mut self) {
        self.inner.finish();
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.is_http1_message() {
            while let Some(Ok(_)) = ready!(Pin::new(&mut *self).poll_frame(cx)) {}
        }
        Poll::Ready(())
    }
}

impl Body for Replay {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { inner, room, past, .. } = &mut *self;
        if let Some(past) = past {
            if let Some(frame) = past.again(room.is_some()) {
                return Poll::Ready(Some(Ok(frame)));
            }
            if past.ended {
                return Poll::Ready(None);
            }
        }
        let mut frame = ready!(Pin::new(inner).poll_frame(cx));
        if self.without_trailers && matches!(&frame, Some(Ok(frame)) if frame.is_trailers()) {
            frame = None;
        }
        match &frame {
            Some(Ok(frame)) => self.remember(frame),
            Some(Err(error)) => (self.room, self.malformed) = (None, error.is_malformed()),
            None => {}
        }
        if let Some(past) = &mut self.past {
            past.ended = !matches!(&frame, Some(Ok(frame)) if frame.is_data());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.past.as_ref().is_none_or(|past| !past.is_left()) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.past.is_none() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

// === impl Past ===

impl Past {
    /// Whether something is to be yielded again.
    fn is_left(&self) -> bool {
        self.next < self.data.len() || self.trailers_next
    }

    /// What is to be yielded again; it stays if it may be needed once more.
    fn again(&mut self, stays: bool) -> Option<Frame<Bytes>> {
        if let Some(data) = self.data.get_mut(self.next) {
            self.next += 1;
            return Some(Frame::data(if stays { data.clone() } else { mem::take(data) }));
        }
        mem::take(&mut self.trailers_next).then(|| self.trailers.clone().map(Frame::trailers))?
    }

    fn drop_yielded(&mut self) {
        self.data.drain(..self.next);
        self.next = 0;
    }
}
