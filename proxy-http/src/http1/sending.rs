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

/// The body as hyper takes it.
pub(crate) struct Sending<B> {
    /// Where it is. `None`: there is none.
    slot: Option<Slot<B>>,
    /// Where its trailers go. `None`: the client takes none.
    ending: Option<Arc<TrailerWriter>>,
    /// All that is left of it.
    trailers: Option<HeaderMap>,
    _stream: Option<OpenStream>,
}

/// Where a connection finds the body that it is sending, of which there is one at a time: hyper asks for nothing while the
/// client takes nothing, but what comes meanwhile must not pile up.
pub(crate) struct Slot<B>(Arc<Mutex<Option<B>>>);

// === impl Sending ===

impl<B> Sending<B> {
    /// `body` is kept in `slot` until it has been sent. `ending`: where its trailers go.
    pub(crate) fn new(body: B, slot: &Slot<B>, ending: Option<Arc<TrailerWriter>>, stream: Option<OpenStream>) -> Self {
        *slot.lock() = Some(body);
        Self { slot: Some(slot.clone()), ending, trailers: None, _stream: stream }
    }

    pub(crate) fn empty(stream: Option<OpenStream>) -> Self {
        Self { slot: None, ending: None, trailers: None, _stream: stream }
    }

    fn body<T>(&self, ask: impl FnOnce(&mut B) -> T) -> Option<T> {
        self.slot.as_ref().and_then(|slot| slot.lock().as_mut().map(ask))
    }
}

impl<B> Drop for Sending<B> {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            let body = slot.lock().take();
            // Whatever it does then, it is not with the lock held.
            drop(body);
        }
        if let (Some(ending), Some(_)) = (&self.ending, &self.trailers) {
            ending.give_up();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sending<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.trailers.is_none() {
            let polled = self.body(|body| Pin::new(body).poll_frame(cx)).unwrap_or(Poll::Ready(None));
            if self.ending.is_none() {
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
        if let (Some(ending), Some(trailers)) = (&self.ending, &self.trailers) {
            ready!(ending.poll_written());
            ending.put(trailers);
        }
        self.trailers = None;
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.body(|body| body.is_end_stream()).unwrap_or(true)
    }

    fn size_hint(&self) -> SizeHint {
        self.body(|body| body.size_hint()).unwrap_or(SizeHint::with_exact(0))
    }
}

// === impl Slot ===

impl<B> Slot<B> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, Option<B>> {
        self.0.lock().expect("nothing panics with the lock held")
    }
}

impl<B> Slot<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// To be called while the client takes nothing.
    pub(crate) fn hold(&self, cx: &mut Context<'_>) -> Backpressure {
        self.lock().as_mut().map_or(Backpressure::End, |body| buffer(body, cx))
    }
}

impl<B> Clone for Slot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
