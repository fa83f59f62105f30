//! A body on its way to the task of a connection, or from it, frame by frame.

use crate::{body::outcome::SendOutcome, message::interim};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use std::{
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

/// The end that a body's frames go in at.
#[derive(Debug)]
pub(crate) struct Feed(Arc<Shared>);

/// The end that hyper takes them from.
#[derive(Debug)]
pub(crate) struct Uploading {
    shared: Arc<Shared>,
}

/// Why a body is not whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the message broke off")]
    Lost,
    /// Who sends it has given it up, as after a reset.
    #[error("the body was reset")]
    Reset,
    /// For what became of the other direction.
    #[error("the body was given up")]
    GivenUp,
}

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
    /// What the endpoint has said before its response.
    interim: Vec<Response<()>>,
}

/// Interim responses that wait to be taken, which they are at once.
const MAX_INTERIM: usize = 64;

// === impl Feed ===

impl Feed {
    /// Both ends. `ended`: there is no body.
    pub(crate) fn new(ended: bool) -> (Self, Uploading) {
        let slot = Mutex::new(Slot { frame: None, end: ended.then_some(Ok(())), closed: false, interim: Vec::new() });
        let shared = Arc::new(Shared { slot, sender: AtomicWaker::new(), receiver: AtomicWaker::new() });
        (Self(Arc::clone(&shared)), Uploading { shared })
    }

    /// Ready when there is room for a frame, or else how the body ended.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), SendOutcome>> {
        // Before the look: who takes a frame then wakes this task.
        self.0.sender.register(cx.waker());
        let slot = self.0.lock();
        if slot.end.is_some() {
            Poll::Ready(Err(SendOutcome::Done))
        } else if slot.closed {
            Poll::Ready(Err(SendOutcome::Lost))
        } else if slot.frame.is_some() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// What the endpoint has said before its response.
    pub(super) fn take_interim(&self) -> Vec<Response<()>> {
        mem::take(&mut self.0.lock().interim)
    }

    /// Whether all of the body is on its way.
    pub(super) fn is_done(&self) -> bool {
        self.0.lock().end.is_some()
    }

    /// Sends data, for which there must be room.
    pub(crate) fn send(&self, data: Bytes) {
        self.put(Some(Frame::data(data)), None);
    }

    /// Says that no more follows what was sent.
    pub(crate) fn end(&self) {
        self.end_with(Ok(()));
    }

    /// Says that more would have followed, but for the other direction.
    pub(crate) fn give_up(&self) {
        self.end_with(Err(Broken::GivenUp));
    }

    fn end_with(&self, end: Result<(), Broken>) {
        self.0.lock().end.get_or_insert(end);
        self.0.receiver.wake();
    }

    pub(super) fn put(&self, frame: Option<Frame<Bytes>>, end: Option<Result<(), Broken>>) {
        let mut slot = self.0.lock();
        (slot.frame, slot.end) = (frame, end);
        drop(slot);
        self.0.receiver.wake();
    }
}

/// A body that is given up before its end is none.
impl Drop for Feed {
    fn drop(&mut self) {
        self.end_with(Err(Broken::Reset));
    }
}

// === impl Uploading ===

impl Uploading {
    /// Counts interim responses to the request, whose body it is, and has them wake the sender if they are to be passed on.
    pub(crate) fn hear_interim<B>(&self, req: &mut Request<B>, count: Arc<AtomicU32>, pass_on: bool) {
        let shared = pass_on.then(|| Arc::clone(&self.shared));
        hyper::ext::on_informational(req, move |rsp| {
            count.fetch_add(1, Relaxed);
            let Some(shared) = &shared else { return };
            let mut slot = shared.lock();
            if slot.interim.len() < MAX_INTERIM {
                slot.interim.push(interim::from_http1(rsp.status(), rsp.headers()));
                drop(slot);
                shared.sender.wake();
            }
        });
    }
}

impl Body for Uploading {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.shared.receiver.register(cx.waker());
        let mut slot = self.shared.lock();
        if let Some(frame) = slot.frame.take() {
            drop(slot);
            self.shared.sender.wake();
            return Poll::Ready(Some(Ok(frame)));
        }
        match slot.end {
            None => Poll::Pending,
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let slot = self.shared.lock();
        slot.frame.is_none() && matches!(slot.end, Some(Ok(())))
    }

    /// Not known: a length is in the head, or the body is sent in chunks.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.sender.wake();
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().expect("nothing panics with the lock held")
    }
}
