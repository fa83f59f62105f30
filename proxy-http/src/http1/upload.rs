//! A request's body on its way to the task of its connection, frame by frame.

use crate::{
    pipe::{Held, Piped, hold},
    stall::Stall,
};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::Duration,
};

/// The end that a body's frames go in at.
#[derive(Debug)]
pub(crate) struct Upload {
    shared: Arc<Shared>,
    stall: Stall,
}

/// The end that hyper takes them from.
#[derive(Debug)]
pub(crate) struct Uploading(Arc<Shared>);

/// The body broke, and so the request is not whole.
#[derive(Debug, thiserror::Error)]
#[error("the request's body broke")]
pub(crate) struct Broken;

#[derive(Debug)]
struct Shared {
    slot: Mutex<Slot>,
    sender: AtomicWaker,
    receiver: AtomicWaker,
}

#[derive(Debug)]
struct Slot {
    /// On its way.
    frame: Option<Frame<Bytes>>,
    /// What follows it. `None`: more frames.
    end: Option<Result<(), Broken>>,
    /// Nobody takes frames any more.
    closed: bool,
}

// === impl Upload ===

impl Upload {
    /// Both ends. `ended`: there is no body. `stall`: how long nothing may be taken of it.
    pub(crate) fn new(ended: bool, stall: Duration) -> (Self, Uploading) {
        let slot = Mutex::new(Slot { frame: None, end: ended.then_some(Ok(())), closed: false });
        let shared = Arc::new(Shared { slot, sender: AtomicWaker::new(), receiver: AtomicWaker::new() });
        (Self { shared: Arc::clone(&shared), stall: Stall::new(stall) }, Uploading(shared))
    }

    /// Whether all of the body is on its way.
    pub(crate) fn is_done(&self) -> bool {
        self.shared.lock().end.is_some()
    }

    /// Sends of `body` what is taken.
    pub(crate) fn poll<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Piped>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        loop {
            let waits = {
                // Before the look: who takes a frame then wakes this task.
                self.shared.sender.register(cx.waker());
                let slot = self.shared.lock();
                if slot.end.is_some() {
                    return Poll::Ready(Piped::Done);
                }
                if slot.closed {
                    return Poll::Ready(Piped::Lost);
                }
                slot.frame.is_some()
            };
            if waits {
                let ended = match hold(body, cx) {
                    Held::Expired => Piped::Broken,
                    Held::Data | Held::End => {
                        ready!(self.stall.poll(cx));
                        Piped::Stalled
                    }
                };
                self.put(None, Some(Err(Broken)));
                return Poll::Ready(ended);
            }
            self.stall.over();
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => self.put(Some(frame), body.is_end_stream().then_some(Ok(()))),
                None => self.put(None, Some(Ok(()))),
                Some(Err(_)) => {
                    self.put(None, Some(Err(Broken)));
                    return Poll::Ready(Piped::Broken);
                }
            }
        }
    }

    fn put(&self, frame: Option<Frame<Bytes>>, end: Option<Result<(), Broken>>) {
        let mut slot = self.shared.lock();
        (slot.frame, slot.end) = (frame, end);
        drop(slot);
        self.shared.receiver.wake();
    }

    /// Sends the rest of `body` by itself, and tells how that ended.
    pub(crate) fn go_on<B>(mut self, mut body: B, ended: impl FnOnce(Piped) + Send + 'static)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        if !self.is_done() {
            tokio::spawn(async move { ended(poll_fn(|cx| self.poll(&mut body, cx)).await) });
        }
    }
}

/// A body that is given up before its end is none.
impl Drop for Upload {
    fn drop(&mut self) {
        self.shared.lock().end.get_or_insert(Err(Broken));
        self.shared.receiver.wake();
    }
}

// === impl Uploading ===

impl Body for Uploading {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.receiver.register(cx.waker());
        let mut slot = self.0.lock();
        if let Some(frame) = slot.frame.take() {
            drop(slot);
            self.0.sender.wake();
            return Poll::Ready(Some(Ok(frame)));
        }
        match &slot.end {
            None => Poll::Pending,
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(Broken)) => Poll::Ready(Some(Err(Broken))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let slot = self.0.lock();
        slot.frame.is_none() && matches!(slot.end, Some(Ok(())))
    }

    /// Not known: a length is in the head, or the body is sent in chunks.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.sender.wake();
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().expect("nothing panics with the lock held")
    }
}
