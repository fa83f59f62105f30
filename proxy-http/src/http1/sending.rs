//! A response's body on its way to an HTTP/1.1 client.

use crate::{
    BoxError,
    activity::OpenStream,
    pipe::{Held, hold},
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

/// The body as hyper takes it.
pub(super) struct Sending<B> {
    /// Where it is. `None`: there is none.
    slot: Option<Slot<B>>,
    _stream: Option<OpenStream>,
}

/// Where a connection finds the body that it is sending, of which there is one at a time: hyper asks for nothing while the
/// client takes nothing, but what comes meanwhile must not pile up.
pub(super) struct Slot<B>(Arc<Mutex<Option<B>>>);

// === impl Sending ===

impl<B> Sending<B> {
    /// `body` is kept in `slot` until it has been sent.
    pub(super) fn new(body: B, slot: &Slot<B>, stream: Option<OpenStream>) -> Self {
        *slot.lock() = Some(body);
        Self { slot: Some(slot.clone()), _stream: stream }
    }

    pub(super) fn empty(stream: Option<OpenStream>) -> Self {
        Self { slot: None, _stream: stream }
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
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sending<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.body(|body| Pin::new(body).poll_frame(cx)).unwrap_or(Poll::Ready(None))
    }

    fn is_end_stream(&self) -> bool {
        self.body(|body| body.is_end_stream()).unwrap_or(true)
    }

    fn size_hint(&self) -> SizeHint {
        self.body(|body| body.size_hint()).unwrap_or(SizeHint::with_exact(0))
    }
}

// === impl Slot ===

impl<B> Slot<B> {
    pub(super) fn new() -> Self {
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
    pub(super) fn hold(&self, cx: &mut Context<'_>) -> Held {
        self.lock().as_mut().map_or(Held::End, |body| hold(body, cx))
    }
}

impl<B> Clone for Slot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
