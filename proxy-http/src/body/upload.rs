//! Sends a request's body to the task of an HTTP/1.1 connection, one frame at a time.

use crate::{
    body::{
        backpressure::{buffer, discard_http1},
        channel::{BodyReceiver, BodySender, Http1BodyError},
        outcome::{Backpressure, SendOutcome},
    },
    connection::timeouts::stall::Stall,
    message::interim::InterimBudget,
};
use bytes::Bytes;
use http_body::Body;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::sync::oneshot;

/// Sends a body as fast as the connection takes its frames.
#[derive(Debug)]
pub(crate) struct Upload {
    sender: BodySender,
    stall: Stall,
    /// Resolves when the response ends. `None`: the response has not begun.
    end_of_response: Option<oneshot::Receiver<()>>,
}

// === impl Upload ===

impl Upload {
    /// Both halves of a request's body. `ended`: there is no body. `stall`: the longest time in which no frame is taken.
    pub(crate) fn new(ended: bool, stall: Duration) -> (Self, BodyReceiver) {
        let (sender, receiver) = BodySender::new(ended);
        (Self { sender, stall: Stall::new(stall), end_of_response: None }, receiver)
    }

    /// Stops sending once `end_of_response` resolves: the response has ended. The connection is then closed, since a request
    /// that was not sent whole leaves it unusable for another (RFC 9112 section 9.3).
    pub(crate) fn stop_at(&mut self, end_of_response: oneshot::Receiver<()>) {
        self.end_of_response = Some(end_of_response);
    }

    /// Ends the body if the response has ended; returns whether it did.
    fn stop_if_answered(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.end_of_response else { return false };
        let Poll::Ready(ended) = Pin::new(end).poll(cx) else { return false };
        self.end_of_response = None;
        if ended.is_ok() {
            self.sender.give_up();
        }
        ended.is_ok()
    }

    /// Whether the end of the body has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.sender.is_done()
    }

    /// Sends the frames of `body` that the connection takes, and forwards interim responses.
    pub(crate) fn poll<B>(
        &mut self,
        body: &mut B,
        interim: &mut InterimBudget,
        cx: &mut Context<'_>,
    ) -> Poll<SendOutcome>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        if self.stop_if_answered(cx) {
            return Poll::Ready(SendOutcome::Answered);
        }
        loop {
            let ready = self.sender.poll_ready(cx);
            self.sender.take_interim().into_iter().for_each(|rsp| interim.pass(rsp));
            match ready {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending => {
                    let ended = match buffer(body, cx) {
                        Backpressure::Expired => SendOutcome::Broken,
                        Backpressure::Data | Backpressure::End => {
                            ready!(self.stall.poll(cx));
                            SendOutcome::Stalled
                        }
                    };
                    self.sender.put(None, Some(Err(Http1BodyError::Reset)));
                    return Poll::Ready(ended);
                }
            }
            self.stall.clear();
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => self.sender.put(Some(frame), body.is_end_stream().then_some(Ok(()))),
                None => self.sender.put(None, Some(Ok(()))),
                Some(Err(_)) => {
                    self.sender.put(None, Some(Err(Http1BodyError::Reset)));
                    return Poll::Ready(SendOutcome::Broken);
                }
            }
        }
    }

    /// Sends the rest of `body` in a task of its own, which then calls `ended`.
    pub(crate) fn spawn_rest<B>(mut self, mut body: B, ended: impl FnOnce(SendOutcome) + Send + 'static)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        if !self.is_done() {
            let mut interim = InterimBudget::new();
            tokio::spawn(async move {
                let outcome = poll_fn(|cx| self.poll(&mut body, &mut interim, cx)).await;
                ended(outcome);
                drop(self);
                if outcome != SendOutcome::Done {
                    discard_http1(body).await;
                }
            });
        }
    }
}
