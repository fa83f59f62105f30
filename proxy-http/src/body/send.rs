//! Sends a body on a stream, as fast as the peer takes it.

use crate::{
    BoxError,
    body::{
        hold::{finish, hold, read_http1},
        outcome::{Backpressure, SendOutcome},
    },
    connection::timeouts::stall::Stall,
    message::reason,
};
use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::sync::oneshot;

/// A body on its way to a peer. Its trailers or its end become the stream's end, its error a RST_STREAM.
pub(crate) struct Pipe<B> {
    body: B,
    /// What is left of the last chunk.
    rest: Bytes,
    /// `None`: all is sent, or nothing yet.
    to: Option<SendStream<Bytes>>,
    /// Whether what was sent last may still wait for window: then so does what comes next.
    full: bool,
    /// What an error of the body resets the stream with that names no code.
    broken: Reason,
    stall: Stall,
    /// Resolves when the response to this request ends. `None`: the response has not begun, or it makes a tunnel, or this is
    /// the body of a response.
    end_of_response: Option<oneshot::Receiver<()>>,
    /// Whether h2 has all of the body, but the last piece may wait there for window. Always false for a response.
    buffered: bool,
    is_request: bool,
}

/// How much is sent at most where there is window for a byte, in bytes: the usual size of a frame. h2 keeps what is
/// beyond the window, and does not tell how it shrinks, so a peer that takes less than this looks as if it took nothing.
const PIECE: usize = 16 << 10;

// === impl Pipe ===

impl<B> Pipe<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A body that is not sent yet.
    pub(crate) fn new(body: B, broken: Reason) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            to: None,
            full: false,
            broken,
            stall: Stall::default(),
            end_of_response: None,
            buffered: false,
            is_request: false,
        }
    }

    /// The body of a request, that is not sent yet.
    pub(crate) fn request(body: B) -> Self {
        Self { is_request: true, ..Self::new(body, Reason::CANCEL) }
    }

    /// Sends the body on this stream from now on, and resets it with CANCEL when the peer takes nothing for `stall`.
    pub(crate) fn send_to(&mut self, to: SendStream<Bytes>, stall: Duration) {
        (self.full, self.buffered) = (false, false);
        self.rest = Bytes::new();
        self.stall = Stall::new(stall);
        self.end_of_response = None;
        self.to = if self.body.is_end_stream() { None } else { Some(to) };
    }

    /// RapidResets the stream, if not all is sent.
    pub(crate) fn reset(&mut self, reason: Reason) {
        if let Some(to) = &mut self.to {
            to.send_reset(reason);
        }
    }

    /// Gives the stream up.
    pub(crate) fn stop(&mut self) {
        self.to = None;
    }

    /// Sends no more once the response has ended, as `end_of_response` tells.
    pub(crate) fn stop_at(&mut self, end_of_response: oneshot::Receiver<()>) {
        self.end_of_response = Some(end_of_response);
    }

    /// RapidResets the stream if the response has ended: the endpoint needs no more of the request.
    ///
    /// The code is CANCEL, since hyper's servers take NO_ERROR for the clean end of a request.
    fn is_answered(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.end_of_response else { return false };
        let Poll::Ready(ended) = Pin::new(end).poll(cx) else { return false };
        self.end_of_response = None;
        let Some(to) = self.to.as_mut().filter(|_| ended.is_ok()) else { return false };
        to.send_reset(Reason::CANCEL);
        self.to = None;
        true
    }

    /// Whether all is sent.
    pub(crate) fn is_done(&self) -> bool {
        self.to.is_none()
    }

    pub(crate) fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    pub(crate) fn into_body(self) -> B {
        self.body
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SendOutcome> {
        if self.is_answered(cx) {
            return Poll::Ready(SendOutcome::Answered);
        }
        let Some(to) = self.to.as_mut().filter(|_| !self.buffered) else { return Poll::Ready(SendOutcome::Done) };
        loop {
            let mut waits = false;
            if self.full {
                match may_send(to, &mut self.body, &mut self.stall, cx) {
                    Ok(end) => waits = end,
                    Err(polled) => return polled,
                }
            }
            let frame = if self.rest.is_empty() {
                let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return poll_reset(to, cx) };
                frame
            } else {
                Some(Ok(Frame::data(mem::take(&mut self.rest))))
            };
            let ended = match frame {
                None => to.send_data(Bytes::new(), true).map(|()| true),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        if data.len() > PIECE {
                            self.rest = data.split_off(PIECE);
                        }
                        let ended = self.rest.is_empty() && self.body.is_end_stream();
                        if ended && self.is_request && self.full {
                            to.reserve_capacity(data.len());
                            waits = to.capacity() < data.len();
                        }
                        self.full = true;
                        to.send_data(data, ended).map(|()| ended)
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => to.send_trailers(trailers).map(|()| true),
                        // There is no third kind of frame yet.
                        Err(_) => Ok(false),
                    },
                },
                Some(Err(error)) => {
                    // Perhaps because the peer has reset the stream.
                    if let Poll::Ready(ended) = poll_reset(to, cx) {
                        return Poll::Ready(ended);
                    }
                    let error = error.into();
                    to.send_reset(reason::first(&*error).unwrap_or(self.broken));
                    return Poll::Ready(SendOutcome::Broken);
                }
            };
            match ended {
                Ok(true) => {
                    self.buffered = waits && self.is_request;
                    if !self.buffered {
                        self.to = None;
                    }
                    finish(&mut self.body);
                    return Poll::Ready(SendOutcome::Done);
                }
                Ok(false) => {}
                // The stream cannot be sent on: it is reset, or lost.
                Err(_) => return poll_reset(to, cx),
            }
        }
    }
}

impl<B> Pipe<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends the rest by itself, and tells how that ended.
    pub(crate) fn go_on(mut self, ended: impl FnOnce(SendOutcome) + Send + 'static) {
        if self.is_done() {
            return;
        }
        tokio::spawn(async move {
            let piped = poll_fn(|cx| self.poll(cx)).await;
            ended(piped);
            let Self { body, to, end_of_response, .. } = self;
            if piped != SendOutcome::Done {
                drop(to);
                return read_http1(body).await;
            }
            drop(body);
            if let (Some(mut to), Some(end)) = (to, end_of_response)
                && end.await.is_ok()
            {
                // The last piece is not sent either if it still waits for window.
                to.send_reset(Reason::CANCEL);
            }
        });
    }
}

/// Whether more can be sent on a stream that may be full, or else how the pipe is. `Ok(true)`: nothing but the end, which
/// waits behind what may be there for the window, but for none itself.
fn may_send<B: 'static>(
    to: &mut SendStream<Bytes>,
    body: &mut B,
    stall: &mut Stall,
    cx: &mut Context<'_>,
) -> Result<bool, Poll<SendOutcome>> {
    match poll_room(to, cx) {
        Poll::Ready(true) => {
            stall.over();
            Ok(false)
        }
        Poll::Ready(false) => Err(poll_reset(to, cx)),
        Poll::Pending => match hold(body, cx) {
            Backpressure::End => Ok(true),
            Backpressure::Data if stall.poll(cx).is_pending() => Err(poll_reset(to, cx)),
            held => {
                to.send_reset(Reason::CANCEL);
                Err(Poll::Ready(if held == Backpressure::Expired { SendOutcome::Broken } else { SendOutcome::Stalled }))
            }
        },
    }
}

/// Ready when there is window for a byte at least; false if the stream has ended.
fn poll_room(to: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<bool> {
    to.reserve_capacity(1);
    while to.capacity() == 0 {
        let Some(Ok(_)) = ready!(to.poll_capacity(cx)) else { return Poll::Ready(false) };
    }
    Poll::Ready(true)
}

fn poll_reset(to: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<SendOutcome> {
    to.poll_reset(cx).map(|reset| reset.map_or(SendOutcome::Lost, SendOutcome::Reset))
}
