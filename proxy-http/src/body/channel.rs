//! A body that passes between a stream's task and the task of an HTTP/1.1 connection, one frame at a time.

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

/// The sending half: takes the frames of a body.
#[derive(Debug)]
pub(crate) struct BodySender(Arc<Channel>);

/// The receiving half: yields the frames to hyper, or to the peer of a tunnel.
#[derive(Debug)]
pub(crate) struct BodyReceiver {
    channel: Arc<Channel>,
}

/// Why a body ended before it was complete.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Http1BodyError {
    /// The connection closed before the end of the message.
    #[error("the message broke off")]
    Lost,
    /// The sender dropped its half before the end, as after a RST_STREAM.
    #[error("the body was reset")]
    Reset,
    /// The exchange ended because of its other direction.
    #[error("the body was given up")]
    GivenUp,
}

#[derive(Debug)]
struct Channel {
    state: Mutex<ChannelState>,
    sender: AtomicWaker,
    receiver: AtomicWaker,
}

#[derive(Debug)]
struct ChannelState {
    /// The frame that the receiver has not taken yet.
    frame: Option<Frame<Bytes>>,
    /// How the body ends after `frame`. `None`: more frames follow.
    end: Option<Result<(), Http1BodyError>>,
    /// The receiver was dropped.
    closed: bool,
    /// Interim responses that the sender has not taken yet.
    interim: Vec<Response<()>>,
}

/// The most interim responses that wait for the sender, which is woken for each; more are dropped.
const MAX_INTERIM: usize = 64;

// === impl BodySender ===

impl BodySender {
    /// Both halves of a channel. `ended`: there is no body.
    pub(crate) fn new(ended: bool) -> (Self, BodyReceiver) {
        let state = ChannelState { frame: None, end: ended.then_some(Ok(())), closed: false, interim: Vec::new() };
        let (state, sender, receiver) = (Mutex::new(state), AtomicWaker::new(), AtomicWaker::new());
        let channel = Arc::new(Channel { state, sender, receiver });
        (Self(Arc::clone(&channel)), BodyReceiver { channel })
    }

    /// Ready when a frame can be sent; an error tells how the body ended.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), SendOutcome>> {
        // Registered before the check, so that a frame taken after the check wakes this task.
        self.0.sender.register(cx.waker());
        let state = self.0.lock();
        if state.end.is_some() {
            Poll::Ready(Err(SendOutcome::Done))
        } else if state.closed {
            Poll::Ready(Err(SendOutcome::Lost))
        } else if state.frame.is_some() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Takes the interim responses, in their order.
    pub(super) fn take_interim(&self) -> Vec<Response<()>> {
        mem::take(&mut self.0.lock().interim)
    }

    /// Whether the end of the body has been sent.
    pub(super) fn is_done(&self) -> bool {
        self.0.lock().end.is_some()
    }

    /// Sends data; [`poll_ready`](Self::poll_ready) must have returned `Ok`.
    pub(crate) fn send(&self, data: Bytes) {
        self.put(Some(Frame::data(data)), None);
    }

    /// Ends the body after the frames that were sent.
    pub(crate) fn end(&self) {
        self.end_with(Ok(()));
    }

    /// Ends the body with an error, because of the other direction of the exchange.
    pub(crate) fn give_up(&self) {
        self.end_with(Err(Http1BodyError::GivenUp));
    }

    fn end_with(&self, end: Result<(), Http1BodyError>) {
        self.0.lock().end.get_or_insert(end);
        self.0.receiver.wake();
    }

    pub(super) fn put(&self, frame: Option<Frame<Bytes>>, end: Option<Result<(), Http1BodyError>>) {
        let mut state = self.0.lock();
        (state.frame, state.end) = (frame, end);
        drop(state);
        self.0.receiver.wake();
    }
}

/// A body whose sender is dropped before its end is incomplete.
impl Drop for BodySender {
    fn drop(&mut self) {
        self.end_with(Err(Http1BodyError::Reset));
    }
}

// === impl BodyReceiver ===

impl BodyReceiver {
    /// Counts the interim responses to this body's request, and hands them to the sender if `pass_on` is set.
    pub(crate) fn on_interim<B>(&self, req: &mut Request<B>, count: Arc<AtomicU32>, pass_on: bool) {
        let channel = pass_on.then(|| Arc::clone(&self.channel));
        hyper::ext::on_informational(req, move |rsp| {
            count.fetch_add(1, Relaxed);
            let Some(channel) = &channel else { return };
            let mut state = channel.lock();
            if state.interim.len() < MAX_INTERIM {
                state.interim.push(interim::from_http1(rsp.status(), rsp.headers()));
                drop(state);
                channel.sender.wake();
            }
        });
    }
}

impl Body for BodyReceiver {
    type Data = Bytes;
    type Error = Http1BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1BodyError>>> {
        self.channel.receiver.register(cx.waker());
        let mut state = self.channel.lock();
        if let Some(frame) = state.frame.take() {
            drop(state);
            self.channel.sender.wake();
            return Poll::Ready(Some(Ok(frame)));
        }
        match state.end {
            None => Poll::Pending,
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.channel.lock();
        state.frame.is_none() && matches!(state.end, Some(Ok(())))
    }

    /// Unknown: hyper takes the length from the head, or sends the body in chunks.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for BodyReceiver {
    fn drop(&mut self) {
        self.channel.lock().closed = true;
        self.channel.sender.wake();
    }
}

// === impl Channel ===

impl Channel {
    fn lock(&self) -> MutexGuard<'_, ChannelState> {
        self.state.lock().expect("nothing panics with the lock held")
    }
}
