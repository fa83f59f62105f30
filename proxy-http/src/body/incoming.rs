//! Bodies that end without an error only when the peer ended its stream cleanly.

use crate::{
    body::{
        backlog::Backlog,
        channel::Broken,
        error::{Error, Kind},
        http1::Incoming,
        outcome::Backpressure,
        source::Source,
    },
    connection::{state::ConnectionState, streams::OpenStream, timeouts::idle::Progress},
    message::{fields, validate},
    stats::Side,
};
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;

/// The body of a message, as its peer sends it.
///
/// It ends without an error only if the peer ended its stream: by END_STREAM, by trailers, or by all bytes of its
/// content-length. Window is given back to the peer for data that was taken once more is asked for: who asks has passed
/// it on, so what is held on the way is never more than the stream's window.
///
/// In HTTP/1.1 it ends by the last chunk, by all bytes of the content-length, or, where a response has neither, when the
/// connection does.
#[derive(Debug)]
pub struct IncomingBody {
    from: From,
    side: Side,
    /// What is missing of the content-length. `None`: the message gives none.
    remaining: Option<u64>,
    /// Whether anything was asked of it yet.
    asked: bool,
    data_done: bool,
    /// Whether h2 has handed out all of the message, trailers too, and must not be asked any more.
    whole: bool,
    /// Whether the end is known to follow without data: saves asking h2, which takes a lock.
    ended: bool,
    /// Who wants to know of data.
    connection_state: Option<Arc<ConnectionState>>,
    stream: Option<OpenStream>,
    /// Whether its reader may stop without a word, so that it counts as stopped whenever it is not asking.
    unread: bool,
    /// Whether nobody else has a part of the stream: then h2 gives back what is taken when the body is dropped.
    alone: bool,
    /// Who wants to know when something moves.
    progress: Option<Arc<Progress>>,
    /// Bytes taken whose window is not given back yet.
    taken: usize,
    /// What came while the reader had stopped. `None`: nothing.
    backlog: Option<Box<Backlog>>,
    /// Tells the sender of the request that this response has ended cleanly. `None`: the sender has been told, or it does not
    /// need to know: the request had been sent whole before the response began, or is a tunnel's.
    unfinished_request: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
enum From {
    Http2(RecvStream),
    /// Boxed, so that the other is not the larger for it.
    Http1(Box<Incoming>),
    /// It is left to its connection.
    Left,
}

// === impl IncomingBody ===

impl IncomingBody {
    /// The body of a message whose content-length is `length`, from a peer of that side. `connection_state` is told of data.
    pub(crate) fn new(
        side: Side,
        length: impl FnOnce() -> Option<u64>,
        from: RecvStream,
        connection_state: Option<Arc<ConnectionState>>,
    ) -> Self {
        let ended = from.is_end_stream();
        // h2 has checked it, against the data too.
        let remaining = if ended { None } else { length() };
        Self::of(side, ended, From::Http2(from), remaining, connection_state)
    }

    /// The body of an HTTP/1.1 message, or what is in the place of one, from a peer of that side.
    pub(crate) fn http1(side: Side, from: Incoming) -> Self {
        Self::of(side, from.is_end_stream(), From::Http1(Box::new(from)), None, None)
    }

    /// Whether it is the body of a message of HTTP/1.1, and no tunnel.
    pub(crate) fn is_http1_message(&self) -> bool {
        matches!(&self.from, From::Http1(from) if matches!(**from, Incoming::Message(_)))
    }

    fn of(
        side: Side,
        ended: bool,
        from: From,
        remaining: Option<u64>,
        connection_state: Option<Arc<ConnectionState>>,
    ) -> Self {
        Self {
            from,
            side,
            remaining,
            asked: false,
            data_done: false,
            whole: false,
            ended,
            connection_state,
            stream: None,
            unread: false,
            alone: false,
            progress: None,
            taken: 0,
            backlog: None,
            unfinished_request: None,
        }
    }

    /// Resolves once all of the response has come and has ended cleanly, which may be before its reader has taken all of
    /// it; fails if the body is dropped before. For a response whose request has not been sent whole.
    pub(crate) fn end_of_response(&mut self) -> oneshot::Receiver<()> {
        let (told, end) = oneshot::channel();
        self.unfinished_request = Some(told);
        if self.ended {
            self.tell_end();
        }
        end
    }

    fn tell_end(&mut self) {
        if let Some(told) = self.unfinished_request.take() {
            // Fails if the request has been sent whole by now.
            let _ = told.send(());
        }
    }

    /// Keeps `stream` counted as long as the body lives, and as one that is held while its reader has stopped.
    pub(crate) fn counted(mut self, stream: OpenStream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// Takes its reader for stopped whenever it is not asking. Not called: it has when it says so, by [`hold`](Source::hold).
    pub(crate) fn unread(mut self) -> Self {
        self.unread = true;
        self.set_held(!self.ended);
        self
    }

    /// Says that from its next read on the reader calls [`hold`](Source::hold).
    pub(crate) fn will_hold(&mut self) {
        self.unread = false;
    }

    /// Says that the other direction of the stream has ended.
    pub(crate) fn alone(mut self, alone: bool) -> Self {
        self.alone = alone;
        self
    }

    /// Marks on `progress` when data comes.
    pub(crate) fn watched(mut self, progress: Arc<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(backlog) = &mut self.backlog {
            let polled = backlog.pop().map(Ok).or_else(|| backlog.failed.take().map(Err));
            self.backlog.take_if(|backlog| backlog.is_empty());
            return Poll::Ready(polled);
        }
        self.receive(cx)
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let From::Http2(from) = &mut self.from else { return Poll::Ready(None) };
        let polled = from.poll_data(cx);
        if let Poll::Ready(Some(Ok(data))) = &polled {
            if let Some(progress) = &self.progress {
                progress.mark();
            }
            if let Some(stream) = &self.stream {
                stream.received(data.len());
            }
        }
        polled
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        let From::Http2(from) = &mut self.from else { return Poll::Ready(Ok(None)) };
        from.poll_trailers(cx)
    }

    /// Takes the trailers of a response, if there are any, from h2. The sender of the request is told only then: it resets the
    /// stream, and h2 hands out nothing more of a stream that is reset.
    fn take_end(&mut self, cx: &mut Context<'_>) {
        match self.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => {
                if trailers.is_some() {
                    self.backlog.get_or_insert_default().trailers = trailers;
                }
                self.whole = true;
                self.tell_end();
            }
            Poll::Ready(Err(error)) => self.backlog.get_or_insert_default().failed = Some(error),
            Poll::Pending => {}
        }
    }

    /// Whether the peer has ended its stream, and h2 has handed out all that it sent.
    fn is_taken_whole(&self) -> bool {
        match &self.from {
            From::Http2(from) => self.whole || from.is_end_stream(),
            From::Http1(from) => from.is_end_stream(),
            From::Left => true,
        }
    }

    /// The body of a message that has none: it ends, and before that there is no data.
    pub(crate) fn without_content(mut self) -> Self {
        self.remaining = Some(0);
        self
    }

    fn max_list(&self) -> usize {
        self.stream.as_ref().map_or(usize::MAX, OpenStream::max_list)
    }

    fn malformed(&self) -> Error {
        if let Some(stream) = &self.stream {
            stream.malformed();
        }
        Error::malformed(self.side)
    }

    fn broken(&self, error: &h2::Error) -> Error {
        // h2 resets what is malformed.
        if error.is_reset() && error.is_library() { self.malformed() } else { Error::new(self.side, error) }
    }

    fn give_back(&mut self) {
        let taken = mem::take(&mut self.taken);
        if taken > 0
            && let From::Http2(from) = &mut self.from
        {
            // Fails only if the stream has ended, and then there is nothing to give back.
            let _ = from.flow_control().release_capacity(taken);
        }
    }

    fn set_held(&mut self, held: bool) {
        if let Some(stream) = &mut self.stream {
            stream.set_held(held);
        }
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        // The other direction may go on for long.
        if !self.alone {
            self.give_back();
        }
        // A reader that has seen the end by `is_end_stream` does not poll again.
        if self.unfinished_request.is_some() && self.is_taken_whole() {
            self.tell_end();
        }
        // It may well be that the response is whole and the request is not.
        if self.side == Side::Client
            && !self.ended
            && !self.data_done
            && let Some(stream) = &self.stream
            && let From::Http2(from) = &self.from
            && !from.is_end_stream()
            && let From::Http2(from) = mem::replace(&mut self.from, From::Left)
        {
            stream.leave(from);
        }
    }
}

impl Source for IncomingBody {
    /// As far as the stream's window lets it, so that frames do not pile up in h2, which ends the connection when there are
    /// too many small ones. In HTTP/1.1 what comes waits in its connection, which has nothing else.
    fn hold(&mut self, cx: &mut Context<'_>) -> Backpressure {
        if let From::Http1(from) = &self.from {
            return if self.ended || from.is_end_stream() { Backpressure::End } else { Backpressure::Data };
        }
        let failed = self.backlog.as_ref().is_some_and(|backlog| backlog.failed.is_some());
        if !self.ended && !self.data_done && !failed {
            if let Some(stream) = &mut self.stream {
                stream.stuck();
            }
            while let Poll::Ready(polled) = self.receive(cx) {
                match polled {
                    // A frame without data says nothing, unless it is the last.
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => self.backlog.get_or_insert_default().push(data),
                    Some(Err(error)) => {
                        self.backlog.get_or_insert_default().failed = Some(error);
                        break;
                    }
                    None => {
                        self.data_done = true;
                        break;
                    }
                }
            }
            if self.data_done && self.unfinished_request.is_some() {
                self.take_end(cx);
            }
        }
        let is_end = (self.ended || self.data_done) && !self.backlog.as_ref().is_some_and(|it| it.is_before_end());
        if is_end { Backpressure::End } else { Backpressure::Data }
    }

    fn finish(&mut self) {
        self.give_back();
        self.set_held(false);
        self.data_done = true;
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let side = self.side;
        if let From::Http1(from) = &mut self.from {
            let frame = ready!(poll_http1(from, side, cx));
            // Nothing follows trailers, and a reader may stop at them.
            if frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers)) {
                self.tell_end();
            }
            return Poll::Ready(frame);
        }
        self.asked = true;
        self.give_back();
        if !self.data_done || self.backlog.is_some() {
            let Poll::Ready(polled) = self.poll_data(cx) else {
                self.set_held(false);
                return Poll::Pending;
            };
            match polled {
                Some(Ok(data)) => {
                    let unread = self.unread;
                    self.set_held(unread);
                    self.taken = data.len();
                    if let Some(remaining) = &mut self.remaining {
                        // Only of a message without content; h2 has checked the others.
                        let Some(less) = remaining.checked_sub(data.len() as u64) else {
                            return Poll::Ready(Some(Err(self.malformed())));
                        };
                        *remaining = less;
                    }
                    if let Some(connection_state) = &self.connection_state {
                        connection_state.data(data.len());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Who has answered may say by NO_ERROR that it needs no more of the request (RFC 9113 section 8.1). It
                // hides an END_STREAM before it from us, but not that all of the content-length came.
                Some(Err(error)) if self.remaining == Some(0) && error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(&error)))),
                None => self.data_done = true,
            }
        }
        let trailers = if self.whole {
            Ok(self.backlog.take().and_then(|backlog| backlog.trailers))
        } else {
            ready!(self.poll_trailers(cx))
        };
        if trailers.is_ok() {
            (self.whole, self.ended) = (true, true);
            self.tell_end();
        }
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| match validate::trailers(&trailers, self.max_list()) {
                Ok(()) => Ok(Frame::trailers(trailers)),
                Err(_) => Err(self.malformed()),
            }),
            Err(error) => Some(Err(self.broken(&error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        // h2 takes a lock to tell; what it told at first is good enough until something has come.
        if self.ended {
            return true;
        }
        match &self.from {
            From::Http2(from) => self.asked && self.backlog.is_none() && (self.whole || from.is_end_stream()),
            From::Http1(from) => from.is_end_stream(),
            From::Left => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        match &self.from {
            From::Http2(_) => self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
            From::Http1(from) => from.size_hint(),
            From::Left => SizeHint::with_exact(0),
        }
    }
}

fn poll_http1(from: &mut Incoming, side: Side, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
    let frame = ready!(from.poll_frame(cx));
    Poll::Ready(frame.map(|frame| match frame {
        Ok(mut frame) => {
            if let Some(trailers) = frame.trailers_mut() {
                fields::strip_trailers(trailers);
            }
            Ok(frame)
        }
        // RFC 8441 section 5.
        Err(Broken::Reset) => Err(Error { kind: Kind::Reset(Reason::CANCEL), passed_on: Reason::CANCEL.into() }),
        Err(Broken::Lost) => Err(Error { kind: Kind::Lost, passed_on: side.lost().into() }),
        Err(Broken::GivenUp) => Err(Error { kind: Kind::GivenUp, passed_on: Reason::CANCEL.into() }),
    }))
}
