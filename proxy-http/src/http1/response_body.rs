//! A response's body on its way to an HTTP/1.1 client.

use crate::{
    BoxError,
    body::{backpressure::buffer, outcome::Backpressure},
    connection::streams::OpenStream,
    http1::trailers::TrailerWriter,
    message::fields,
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};

/// The body that hyper polls. It takes frames from the service's body, which is in the connection's slot.
pub(crate) struct Http1ResponseBody<B> {
    /// `None`: the body is empty.
    slot: Option<BodySlot<B>>,
    /// `None`: the client takes no trailers.
    writer: Option<Arc<TrailerWriter>>,
    /// The trailers, which wait until the data before them is written.
    trailers: Option<HeaderMap>,
    _stream: Option<OpenStream>,
}

/// The body that a connection is sending, of which there is one at a time. hyper does not poll it while its writes are
/// blocked; the connection has it [hold](Self::hold) the frames that come meanwhile, which must not pile up.
pub(crate) struct BodySlot<B>(Arc<Mutex<Option<B>>>);

// === impl Http1ResponseBody ===

impl<B> Http1ResponseBody<B> {
    /// `body` is kept in `slot` until it has been sent. `writer` writes its trailers.
    pub(crate) fn new(
        body: B,
        slot: &BodySlot<B>,
        writer: Option<Arc<TrailerWriter>>,
        stream: Option<OpenStream>,
    ) -> Self {
        *slot.lock() = Some(body);
        Self { slot: Some(slot.clone()), writer, trailers: None, _stream: stream }
    }

    pub(crate) fn empty(stream: Option<OpenStream>) -> Self {
        Self { slot: None, writer: None, trailers: None, _stream: stream }
    }

    fn with_body<T>(&self, with: impl FnOnce(&mut B) -> T) -> Option<T> {
        self.slot.as_ref().and_then(|slot| slot.lock().as_mut().map(with))
    }
}

impl<B> Drop for Http1ResponseBody<B> {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            let body = slot.lock().take();
            // The body's drop may run any code, so the lock is released before.
            drop(body);
        }
        if let (Some(writer), Some(_)) = (&self.writer, &self.trailers) {
            writer.cancel();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Http1ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.trailers.is_none() {
            let polled = self.with_body(|body| Pin::new(body).poll_frame(cx)).unwrap_or(Poll::Ready(None));
            if self.writer.is_none() {
                return polled;
            }
            let frame = match ready!(polled) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            let mut trailers = match frame.into_trailers() {
                Ok(trailers) => trailers,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            fields::strip_trailers(&mut trailers);
            self.trailers = Some(trailers);
        }
        if let (Some(writer), Some(trailers)) = (&self.writer, &self.trailers) {
            ready!(writer.poll_body_written());
            writer.queue(trailers);
        }
        self.trailers = None;
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.with_body(|body| body.is_end_stream()).unwrap_or(true)
    }

    fn size_hint(&self) -> SizeHint {
        self.with_body(|body| body.size_hint()).unwrap_or(SizeHint::with_exact(0))
    }
}

// === impl BodySlot ===

impl<B> BodySlot<B> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Whether there is no body: no response has begun, or it has ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<B>> {
        self.0.lock().expect("nothing panics with the lock held")
    }
}

impl<B> BodySlot<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// To be called while writes are blocked.
    pub(crate) fn hold(&self, cx: &mut Context<'_>) -> Backpressure {
        self.lock().as_mut().map_or(Backpressure::End, |body| buffer(body, cx))
    }
}

impl<B> Clone for BodySlot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
