//! Sends a body on a stream, as fast as the peer takes it.

use crate::{BoxError, reason};
use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// A body on its way to a peer. Its trailers or its end become the stream's end, its error a RST_STREAM.
pub(crate) struct Pipe<B> {
    body: B,
    to: SendStream<Bytes>,
    /// Whether what was sent last may still wait for window: then so does what comes next.
    full: bool,
    /// What an error of the body resets the stream with that names no code.
    broken: Reason,
}

/// How a pipe ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Piped {
    /// All is sent.
    Done,
    /// The body broke, and so the stream is reset.
    Broken,
    /// The peer reset the stream.
    Reset(Reason),
    /// The connection is lost.
    Lost,
}

// === impl Pipe ===

impl<B> Pipe<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(body: B, to: SendStream<Bytes>, broken: Reason) -> Self {
        Self { body, to, full: false, broken }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Piped> {
        loop {
            if self.full && !ready!(self.poll_room(cx)) {
                return self.poll_reset(cx);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return self.poll_reset(cx) };
            let ended = match frame {
                None => self.to.send_data(Bytes::new(), true).map(|()| true),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let ended = self.body.is_end_stream();
                        self.full = true;
                        self.to.send_data(data, ended).map(|()| ended)
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => self.to.send_trailers(trailers).map(|()| true),
                        // There is no third kind of frame yet.
                        Err(_) => Ok(false),
                    },
                },
                Some(Err(error)) => {
                    let error = error.into();
                    self.to.send_reset(reason::first(&*error).unwrap_or(self.broken));
                    return Poll::Ready(Piped::Broken);
                }
            };
            match ended {
                Ok(true) => return Poll::Ready(Piped::Done),
                Ok(false) => {}
                // The stream cannot be sent on: it is reset, or lost.
                Err(_) => return self.poll_reset(cx),
            }
        }
    }

    /// Ready when there is window for a byte at least; false if the stream has ended.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.to.reserve_capacity(1);
        while self.to.capacity() == 0 {
            let Some(Ok(_)) = ready!(self.to.poll_capacity(cx)) else { return Poll::Ready(false) };
        }
        Poll::Ready(true)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Piped> {
        self.to.poll_reset(cx).map(|reset| reset.map_or(Piped::Lost, Piped::Reset))
    }
}
