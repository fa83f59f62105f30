//! Sends a body on a stream of HTTP/2, as fast as the peer gives window.

use crate::{
    BoxError,
    body::{
        backpressure::{buffer, cut, discard_http1, finish},
        outcome::{Backpressure, SendOutcome},
    },
    connection::{flow::sending::SendingStream, timeouts::stall::Stall, write_batch::Chunk},
    message::{answer::Answer, reset_code},
};
use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::sync::oneshot;

/// Sends a body to a peer. Its trailers or its end become END_STREAM, its error a RST_STREAM.
pub(crate) struct Pipe<B> {
    body: B,
    /// The rest of the last chunk.
    rest: Bytes,
    /// `None`: the body is sent whole, or its sending has not begun.
    stream: Option<SendStream<Chunk>>,
    /// Whether a chunk has been sent.
    has_sent: bool,
    /// Whether the chunk sent last may still wait in h2 for window; the next one is not taken from the body before.
    awaits_window: bool,
    /// `None`: nothing is being sent.
    sending: Option<SendingStream>,
    /// The code that the stream is reset with after an error of the body that carries no code, and when the proxy itself ends
    /// it.
    default_code: Reason,
    stall: Stall,
    /// Resolves when the response to this request ends. `None`: the response has not begun, or it makes a tunnel, or this is
    /// the body of a response.
    end_of_response: Option<oneshot::Receiver<()>>,
    /// Whether h2 has all of the body, but the last piece may wait there for window. Always false for a response.
    buffered: bool,
    is_request: bool,
}

/// The most bytes given to h2 at once where there is window for at least one: the default SETTINGS_MAX_FRAME_SIZE. h2
/// buffers the bytes beyond the window, and does not tell when it sends them, so a peer that takes less than this seems to
/// take nothing.
const MAX_CHUNK: usize = 16 << 10;
/// The most where the peer takes larger frames, and there is window for all of it. Other streams wait for a frame.
const MAX_LARGE_CHUNK: usize = 64 << 10;

// === impl Pipe ===

impl<B> Pipe<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A body whose sending has not begun.
    pub(crate) fn new(body: B, default_code: Reason) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            stream: None,
            has_sent: false,
            awaits_window: false,
            sending: None,
            default_code,
            stall: Stall::default(),
            end_of_response: None,
            buffered: false,
            is_request: false,
        }
    }

    /// The body of a request whose sending has not begun.
    pub(crate) fn request(body: B) -> Self {
        Self { is_request: true, ..Self::new(body, Reason::CANCEL) }
    }

    /// Starts to send the body, which has not ended, on `stream`, which is reset when the peer takes no data for `stall`.
    pub(crate) fn send_to(&mut self, stream: SendStream<Chunk>, sending: SendingStream, stall: Duration) {
        (self.has_sent, self.awaits_window, self.buffered) = (false, false, false);
        self.rest = Bytes::new();
        self.stall = Stall::new(stall);
        self.end_of_response = None;
        (self.stream, self.sending) = (Some(stream), Some(sending));
    }

    /// Ends the response for `cause`, unless it is sent whole, so that the client sees that it is not: with trailers that say
    /// so, or with a reset.
    pub(crate) fn cut(&mut self, cause: &Answer) {
        let Some(mut stream) = self.stream.take() else { return };
        let mut cx = Context::from_waker(Waker::noop());
        // Trailers would wait behind data that has no window.
        let is_sent =
            self.rest.is_empty() && (!self.awaits_window || poll_window(&mut stream, &mut cx) == Poll::Ready(true));
        let trailers = if is_sent { cut(&mut self.body, cause) } else { None };
        if trailers.is_none_or(|trailers| stream.send_trailers(trailers).is_err()) {
            stream.send_reset(self.default_code);
        }
    }

    /// Stops sending and drops the stream.
    pub(crate) fn stop(&mut self) {
        (self.stream, self.sending) = (None, None);
    }

    /// Stops sending once `end_of_response` resolves: the response has ended.
    pub(crate) fn stop_at(&mut self, end_of_response: oneshot::Receiver<()>) {
        self.end_of_response = Some(end_of_response);
    }

    /// Resets the stream if the response has ended, since the endpoint needs no more of the request (RFC 9113 section 8.1);
    /// returns whether it did.
    ///
    /// The code is CANCEL, since hyper's servers take NO_ERROR for the clean end of a request.
    fn stop_if_answered(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.end_of_response else { return false };
        let Poll::Ready(ended) = Pin::new(end).poll(cx) else { return false };
        self.end_of_response = None;
        let Some(stream) = self.stream.as_mut().filter(|_| ended.is_ok()) else { return false };
        stream.send_reset(Reason::CANCEL);
        self.stream = None;
        true
    }

    /// Whether the body is sent whole.
    pub(crate) fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    pub(crate) fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    pub(crate) fn into_body(self) -> B {
        self.body
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SendOutcome> {
        if self.stop_if_answered(cx) {
            return Poll::Ready(SendOutcome::Answered);
        }
        let Some(stream) = self.stream.as_mut().filter(|_| !self.buffered) else {
            return Poll::Ready(SendOutcome::Done);
        };
        loop {
            let mut waits = false;
            if self.awaits_window {
                let (body, sending, has_rest) = (&mut self.body, &mut self.sending, !self.rest.is_empty());
                match wait_for_window(stream, body, has_rest, sending, &mut self.stall, self.default_code, cx) {
                    Ok(end) => (waits, self.awaits_window) = (end, end),
                    Err(polled) => return polled,
                }
            }
            let frame = if self.rest.is_empty() {
                let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return poll_reset(stream, cx) };
                frame
            } else {
                Some(Ok(Frame::data(mem::take(&mut self.rest))))
            };
            let ended = match frame {
                None => stream.send_data(Bytes::new().into(), true).map(|()| true),
                Some(Ok(frame)) => match frame.into_data() {
                    // END_STREAM by itself, before trailers of the proxy's own. grpclib takes an empty frame there for a cut message.
                    Ok(data) if data.is_empty() && !self.body.is_end_stream() => Ok(false),
                    Ok(mut data) => {
                        if data.len() > MAX_CHUNK {
                            self.rest = data.split_off(chunk(stream, self.sending.as_ref(), data.len()));
                        }
                        let ended = self.rest.is_empty() && self.body.is_end_stream();
                        if ended && self.is_request && self.has_sent {
                            stream.reserve_capacity(data.len());
                            waits = stream.capacity() < data.len();
                        }
                        (self.has_sent, self.awaits_window) = (true, true);
                        stream.send_data(data.into(), ended).map(|()| ended)
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => stream.send_trailers(trailers).map(|()| true),
                        // `http_body` has no third kind of frame yet.
                        Err(_) => Ok(false),
                    },
                },
                Some(Err(error)) => {
                    // The error may follow from the peer's RST_STREAM, whose code is the better one.
                    if let Poll::Ready(ended) = poll_reset(stream, cx) {
                        return Poll::Ready(ended);
                    }
                    let error = error.into();
                    stream.send_reset(reset_code::first(&*error).unwrap_or(self.default_code));
                    return Poll::Ready(SendOutcome::Broken);
                }
            };
            match ended {
                Ok(true) => {
                    self.buffered = waits && self.is_request;
                    if !self.buffered {
                        self.stream = None;
                    }
                    finish(&mut self.body);
                    return Poll::Ready(SendOutcome::Done);
                }
                Ok(false) => {}
                // The stream is reset, or its connection lost.
                Err(_) => return poll_reset(stream, cx),
            }
        }
    }
}

impl<B> Pipe<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends the rest in a task of its own, which then calls `ended`.
    pub(crate) fn spawn_rest(mut self, ended: impl FnOnce(SendOutcome) + Send + 'static) {
        if self.is_done() {
            return;
        }
        tokio::spawn(async move {
            let outcome = poll_fn(|cx| self.poll(cx)).await;
            ended(outcome);
            let Self { body, stream, end_of_response, .. } = self;
            if outcome != SendOutcome::Done {
                drop(stream);
                return discard_http1(body).await;
            }
            drop(body);
            if let (Some(mut stream), Some(end)) = (stream, end_of_response)
                && end.await.is_ok()
            {
                // Has h2 drop the last chunk, if it still waits for window.
                stream.send_reset(Reason::CANCEL);
            }
        });
    }
}

/// Waits until the stream has window for more data; an error is the result of the poll, and `code` the one of a reset. `has_rest`:
/// some of the last frame is left to send. `Ok(true)`: there is no window, but END_STREAM or trailers are all that is left. They
/// need no window themselves, but follow the DATA that waits for it.
fn wait_for_window<B: 'static>(
    stream: &mut SendStream<Chunk>,
    body: &mut B,
    has_rest: bool,
    sending: &mut Option<SendingStream>,
    stall: &mut Stall,
    code: Reason,
    cx: &mut Context<'_>,
) -> Result<bool, Poll<SendOutcome>> {
    let polled = poll_window(stream, cx);
    if let Some(sending) = sending {
        match polled {
            Poll::Pending => sending.block(|| stream.stream_id().as_u32()),
            Poll::Ready(_) => sending.unblock(),
        }
    }
    match polled {
        Poll::Ready(true) => {
            stall.clear();
            Ok(false)
        }
        Poll::Ready(false) => Err(poll_reset(stream, cx)),
        Poll::Pending => match buffer(body, cx) {
            Backpressure::End if !has_rest => Ok(true),
            Backpressure::End | Backpressure::Data if stall.poll(cx).is_pending() => Err(poll_reset(stream, cx)),
            pressure => {
                stream.send_reset(code);
                Err(Poll::Ready(if pressure == Backpressure::Expired {
                    SendOutcome::Broken
                } else {
                    SendOutcome::Stalled
                }))
            }
        },
    }
}

/// The bytes to give to h2 at once of `len`, which is more than [`MAX_CHUNK`].
fn chunk(stream: &mut SendStream<Chunk>, sending: Option<&SendingStream>, len: usize) -> usize {
    let max_frame = sending.map_or(MAX_CHUNK, SendingStream::peer_max_frame).min(MAX_LARGE_CHUNK);
    let most = len.min(max_frame);
    if most <= MAX_CHUNK {
        return MAX_CHUNK;
    }
    stream.reserve_capacity(most);
    stream.capacity().clamp(MAX_CHUNK, most)
}

/// Ready when there is window for at least one byte; false if the stream has ended.
fn poll_window(stream: &mut SendStream<Chunk>, cx: &mut Context<'_>) -> Poll<bool> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        let Some(Ok(_)) = ready!(stream.poll_capacity(cx)) else { return Poll::Ready(false) };
    }
    Poll::Ready(true)
}

fn poll_reset(stream: &mut SendStream<Chunk>, cx: &mut Context<'_>) -> Poll<SendOutcome> {
    stream.poll_reset(cx).map(|reset| reset.map_or(SendOutcome::Lost, SendOutcome::Reset))
}
