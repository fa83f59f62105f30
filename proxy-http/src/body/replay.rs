//! Request bodies that can be replayed for a retry.

use crate::{
    IncomingBody,
    body::{error::Error, outcome::Backpressure, source::Source},
    message::proxy_fields,
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

/// A request's body that keeps the frames that it has yielded, up to a limit, until the request is answered.
///
/// A request that an endpoint has not processed can then be sent to another endpoint from its start.
#[derive(Debug)]
pub struct Replay {
    inner: IncomingBody,
    /// Bytes that may still be kept. `None`: more has been yielded, or the body is not replayed any more.
    left: Option<usize>,
    /// The frames that have been yielded. `None`: none yet, as for the many requests without a body.
    replayed: Option<Box<Frames>>,
    malformed: bool,
    without_trailers: bool,
}

/// The frames that a body has yielded, and may yield again.
#[derive(Debug, Default)]
struct Frames {
    /// Mostly one, in unary calls of gRPC.
    data: SmallVec<[Bytes; 1]>,
    trailers: Option<HeaderMap>,
    /// The number of `data` frames yielded since the last rewind.
    next: usize,
    /// Whether `trailers` are still to be yielded.
    trailers_next: bool,
    /// The inner body has ended and must not be polled any more.
    ended: bool,
}

/// Bytes that each frame after the first counts for at least.
const MIN_COST: usize = 256;
/// Frames after the first of fewer bytes are copied: a frame shares the buffer that the connection was read into, and keeps
/// all of it allocated, with the frames of other streams.
const SMALL: usize = 4 << 10;

// === impl Replay ===

impl Replay {
    /// Keeps at most `limit` bytes of `inner`.
    pub(crate) fn new(mut inner: IncomingBody, limit: usize) -> Self {
        inner.reader_reports_backpressure();
        Self { inner, left: Some(limit), replayed: None, malformed: false, without_trailers: false }
    }

    /// Drops the trailers: the body ends after its data.
    pub(crate) fn drop_trailers(&mut self) {
        self.without_trailers = true;
    }

    /// Starts over; false if that is not possible, because more was yielded than is kept, or the body ended with an error.
    pub(crate) fn rewind(&mut self) -> bool {
        if let Some(frames) = &mut self.replayed {
            frames.next = 0;
            frames.trailers_next = frames.trailers.is_some();
        }
        self.left.is_some()
    }

    /// Whether it has yielded trailers, and keeps them.
    pub(crate) fn has_trailers(&self) -> bool {
        self.replayed.as_ref().is_some_and(|frames| frames.trailers.is_some())
    }

    /// Drops the frames that were yielded, and keeps no more: the body cannot be replayed.
    pub(crate) fn forget(&mut self) {
        self.left = None;
        if let Some(frames) = &mut self.replayed {
            frames.drop_yielded();
        }
    }

    /// Whether the body ended because its message is malformed.
    pub(crate) fn is_malformed(&self) -> bool {
        self.malformed
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(left) = self.left else { return };
        let frames = self.replayed.get_or_insert_default();
        if let Some(data) = frame.data_ref() {
            let least = if frames.data.is_empty() { 0 } else { MIN_COST };
            self.left = left.checked_sub(data.len().max(least));
            if self.left.is_some() {
                let shares = least == 0 || data.len() >= SMALL;
                frames.data.push(if shares { data.clone() } else { Bytes::copy_from_slice(data) });
            }
            frames.next = frames.data.len();
            if self.left.is_none() {
                frames.drop_yielded();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            frames.trailers = Some(trailers.clone());
        }
    }
}

impl Source for Replay {
    fn buffer(&mut self, cx: &mut Context<'_>) -> Backpressure {
        let pressure = self.inner.buffer(cx);
        if self.replayed.as_ref().is_some_and(|frames| frames.has_next()) { Backpressure::Data } else { pressure }
    }

    fn finish(&mut self) {
        self.inner.finish();
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
        let Self { inner, left, replayed, .. } = &mut *self;
        if let Some(frames) = replayed {
            if let Some(frame) = frames.next_frame(left.is_some()) {
                return Poll::Ready(Some(Ok(frame)));
            }
            if frames.ended {
                return Poll::Ready(None);
            }
        }
        let mut frame = ready!(Pin::new(inner).poll_frame(cx));
        if self.without_trailers && matches!(&frame, Some(Ok(frame)) if frame.is_trailers()) {
            frame = None;
        }
        // Trailers of which none is left would be an empty field section, which some endpoints take for an error.
        if let Some(Ok(of_client)) = &mut frame
            && let Some(trailers) = of_client.trailers_mut()
            && proxy_fields::strip_trailers(trailers)
            && trailers.is_empty()
        {
            frame = None;
        }
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.inner.record.edit(|end| end.request_bytes += bytes);
        }
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(error)) => (self.left, self.malformed) = (None, error.is_malformed()),
            None => {}
        }
        if let Some(frames) = &mut self.replayed {
            frames.ended = !matches!(&frame, Some(Ok(frame)) if frame.is_data());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.replayed.as_ref().is_none_or(|frames| !frames.has_next()) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.replayed.is_none() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

// === impl Frames ===

impl Frames {
    /// Whether a frame is to be yielded again.
    fn has_next(&self) -> bool {
        self.next < self.data.len() || self.trailers_next
    }

    /// The next frame to be yielded again; `keep`: it may be needed once more.
    fn next_frame(&mut self, keep: bool) -> Option<Frame<Bytes>> {
        if let Some(data) = self.data.get_mut(self.next) {
            self.next += 1;
            return Some(Frame::data(if keep { data.clone() } else { mem::take(data) }));
        }
        mem::take(&mut self.trailers_next).then(|| self.trailers.clone().map(Frame::trailers))?
    }

    fn drop_yielded(&mut self) {
        self.data.drain(..self.next);
        self.next = 0;
    }
}
