//! A request's body on its way to the task of a connection of HTTP/1.1, frame by frame.

use crate::{
    body::{
        channel::{Broken, Feed, Uploading},
        hold::{hold, read_http1},
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

/// A body, and how it is sent: as fast as its frames are taken.
#[derive(Debug)]
pub(crate) struct Upload {
    feed: Feed,
    stall: Stall,
    /// Resolves when the response ends. `None`: the response has not begun.
    end_of_response: Option<oneshot::Receiver<()>>,
}

// === impl Upload ===

impl Upload {
    /// Both ends of a request's body. `ended`: there is no body. `stall`: how long nothing may be taken of it.
    pub(crate) fn new(ended: bool, stall: Duration) -> (Self, Uploading) {
        let (feed, uploading) = Feed::new(ended);
        (Self { feed, stall: Stall::new(stall), end_of_response: None }, uploading)
    }

    /// Sends no more once the response has ended, as `end_of_response` tells: the connection closes, as one on which the
    /// request has not been sent whole (RFC 9112 section 9.3).
    pub(crate) fn stop_at(&mut self, end_of_response: oneshot::Receiver<()>) {
        self.end_of_response = Some(end_of_response);
    }

    fn is_answered(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.end_of_response else { return false };
        let Poll::Ready(ended) = Pin::new(end).poll(cx) else { return false };
        self.end_of_response = None;
        if ended.is_ok() {
            self.feed.give_up();
        }
        ended.is_ok()
    }

    /// Whether all of the body is on its way.
    pub(crate) fn is_done(&self) -> bool {
        self.feed.is_done()
    }

    /// Sends of `body` what is taken, and passes interim responses on.
    pub(crate) fn poll<B>(
        &mut self,
        body: &mut B,
        interim: &mut InterimBudget,
        cx: &mut Context<'_>,
    ) -> Poll<SendOutcome>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        if self.is_answered(cx) {
            return Poll::Ready(SendOutcome::Answered);
        }
        loop {
            let room = self.feed.poll_room(cx);
            self.feed.take_interim().into_iter().for_each(|rsp| interim.pass(rsp));
            match room {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending => {
                    let ended = match hold(body, cx) {
                        Backpressure::Expired => SendOutcome::Broken,
                        Backpressure::Data | Backpressure::End => {
                            ready!(self.stall.poll(cx));
                            SendOutcome::Stalled
                        }
                    };
                    self.feed.put(None, Some(Err(Broken::Reset)));
                    return Poll::Ready(ended);
                }
            }
            self.stall.over();
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => self.feed.put(Some(frame), body.is_end_stream().then_some(Ok(()))),
                None => self.feed.put(None, Some(Ok(()))),
                Some(Err(_)) => {
                    self.feed.put(None, Some(Err(Broken::Reset)));
                    return Poll::Ready(SendOutcome::Broken);
                }
            }
        }
    }

    /// Sends the rest of `body` by itself, and tells how that ended.
    pub(crate) fn go_on<B>(mut self, mut body: B, ended: impl FnOnce(SendOutcome) + Send + 'static)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        if !self.is_done() {
            let mut interim = InterimBudget::new();
            tokio::spawn(async move {
                let piped = poll_fn(|cx| self.poll(&mut body, &mut interim, cx)).await;
                ended(piped);
                drop(self);
                if piped != SendOutcome::Done {
                    read_http1(body).await;
                }
            });
        }
    }
}
