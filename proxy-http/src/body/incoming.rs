//! Received bodies, which end without an error only if the peer ended its stream cleanly.

use crate::{
    body::{backlog::Backlog, error::Error, http1::Incoming, outcome::Backpressure, source::Source},
    connection::{streams::OpenStream, timeouts::idle::Progress},
    message::validate,
    stats::{Record, Side},
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

/// The body of a received message.
///
/// In HTTP/2 it ends without an error only if the peer ended its stream: by END_STREAM, by trailers, or with all bytes of
/// its content-length. The window of a DATA frame is released to the peer when the next frame is polled: the reader has
/// forwarded the first one by then, so the bytes buffered for a stream never exceed its window.
///
/// In HTTP/1.1 it ends with the last chunk, with all bytes of the content-length, or, in a response that has neither, when
/// the connection closes.
#[derive(Debug)]
pub struct IncomingBody {
    source: Receiver,
    side: Side,
    /// Bytes of the content-length that have not been received. `None`: the message has no content-length.
    remaining: Option<u64>,
    /// Whether the body has been polled.
    polled: bool,
    /// Whether all data has been received from h2.
    data_done: bool,
    /// Whether all of the message, trailers included, has been received from h2, which must not be polled any more.
    all_received: bool,
    /// Whether the body has ended, or ends without a frame. Saves asking h2, which takes a lock.
    pub(super) ended: bool,
    stream: Option<OpenStream>,
    /// Whether the reader counts as stopped while it does not wait in a poll, as it may not call [`buffer`](Source::buffer).
    assumes_backpressure: bool,
    /// Whether the other direction has ended, so that this is the stream's last handle: h2 releases the window of data that
    /// was taken when that is dropped.
    is_last_handle: bool,
    /// Marked when data comes, for the stream idle timeout.
    progress: Option<Arc<Progress>>,
    /// Bytes of the frame yielded last, whose window is not released yet.
    unreleased: usize,
    /// Whether it is a direction of a tunnel, not the content of a message.
    is_tunnel: bool,
    /// Frames received under backpressure. `None`: none.
    backlog: Option<Box<Backlog>>,
    /// Tells the task that sends the request that this response has ended cleanly. `None`: it has been told, or the request
    /// had been sent whole before the response began, or is a tunnel's.
    unfinished_request: Option<oneshot::Sender<()>>,
    /// The record of the client's request.
    pub(super) record: Record,
}

#[derive(Debug)]
enum Receiver {
    Http2(RecvStream),
    /// Boxed to keep the enum as small as the other variant.
    Http1(Box<Incoming>),
    /// The connection's task discards the rest.
    Discarded,
}

// === impl IncomingBody ===

impl IncomingBody {
    /// The body of an HTTP/2 message from `side`, whose content-length is `length`. `ended`: its head ended the stream.
    pub(crate) fn new(side: Side, ended: bool, length: Option<u64>, source: RecvStream) -> Self {
        // h2 has validated it, and checks it against the data.
        let remaining = if ended { None } else { length };
        Self::of(side, ended, Receiver::Http2(source), remaining)
    }

    /// The body of an HTTP/1.1 message, or the bytes of a tunnel, from `side`.
    pub(crate) fn http1(side: Side, source: Incoming) -> Self {
        Self::of(side, source.is_end_stream(), Receiver::Http1(Box::new(source)), None)
    }

    /// Whether it is the body of an HTTP/1.1 message and not of a tunnel.
    pub(crate) fn is_http1_message(&self) -> bool {
        matches!(&self.source, Receiver::Http1(source) if matches!(**source, Incoming::Message(_)))
    }

    fn of(side: Side, ended: bool, source: Receiver, remaining: Option<u64>) -> Self {
        Self {
            source,
            side,
            remaining,
            polled: false,
            data_done: false,
            all_received: false,
            ended,
            stream: None,
            assumes_backpressure: false,
            is_last_handle: false,
            progress: None,
            unreleased: 0,
            is_tunnel: false,
            backlog: None,
            unfinished_request: None,
            record: Record::default(),
        }
    }

    /// Resolves once the response has been received whole and has ended cleanly, which may be before its reader has taken
    /// all of it; fails if the body is dropped before. For a response whose request has not been sent whole.
    pub(crate) fn end_of_response(&mut self) -> oneshot::Receiver<()> {
        let (sender, end) = oneshot::channel();
        self.unfinished_request = Some(sender);
        if self.ended {
            self.tell_end();
        }
        end
    }

    fn tell_end(&mut self) {
        if let Some(sender) = self.unfinished_request.take() {
            // Fails if the request has been sent whole by now.
            let _ = sender.send(());
        }
    }

    /// Keeps `stream` counted as open as long as the body lives, and as backpressured while its reader has stopped.
    pub(crate) fn with_stream(mut self, stream: OpenStream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// Counts the reader as stopped whenever it does not wait in a poll. Without this it counts as stopped when it calls
    /// [`buffer`](Source::buffer).
    pub(crate) fn assume_backpressure(mut self) -> Self {
        self.assumes_backpressure = true;
        let held = if self.ended { 0 } else { self.assumed() };
        self.set_held(held);
        self
    }

    /// Ends [`assume_backpressure`](Self::assume_backpressure): the reader calls [`buffer`](Source::buffer) from its next
    /// poll on.
    pub(crate) fn reader_reports_backpressure(&mut self) {
        self.assumes_backpressure = false;
    }

    /// Sets whether the stream's other direction, the request, has been sent whole.
    pub(crate) fn with_request_sent(mut self, is_sent: bool) -> Self {
        self.is_last_handle = is_sent;
        self
    }

    /// Marks on `progress` when data comes.
    pub(crate) fn with_progress(mut self, progress: Arc<Progress>) -> Self {
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
        let Receiver::Http2(source) = &mut self.source else { return Poll::Ready(None) };
        let polled = source.poll_data(cx);
        if let Poll::Ready(Some(Ok(data))) = &polled {
            if let Some(progress) = &self.progress {
                progress.mark();
            }
            if let Some(stream) = &mut self.stream {
                stream.received(data.len());
            }
        }
        polled
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        let Receiver::Http2(source) = &mut self.source else { return Poll::Ready(Ok(None)) };
        source.poll_trailers(cx)
    }

    /// Receives the trailers of a response, if there are any, from h2. The task that sends the request is told only then: it
    /// resets the stream, and h2 yields no more frames of a stream that is reset.
    fn receive_trailers(&mut self, cx: &mut Context<'_>) {
        match self.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => {
                if trailers.is_some() {
                    self.backlog.get_or_insert_default().trailers = trailers;
                }
                self.all_received = true;
                self.tell_end();
            }
            Poll::Ready(Err(error)) => self.backlog.get_or_insert_default().failed = Some(error),
            Poll::Pending => {}
        }
    }

    /// Whether the peer has ended its stream, and all frames of it have been received from h2.
    fn is_all_received(&self) -> bool {
        match &self.source {
            Receiver::Http2(source) => self.all_received || source.is_end_stream(),
            Receiver::Http1(source) => source.is_end_stream(),
            Receiver::Discarded => true,
        }
    }

    /// The body of a message without content (RFC 9110 section 6.4.1): data makes it malformed.
    pub(crate) fn without_content(mut self) -> Self {
        self.remaining = Some(0);
        self
    }

    /// A direction of a tunnel.
    pub(crate) fn with_tunnel(mut self, is_tunnel: bool) -> Self {
        self.is_tunnel = is_tunnel;
        self
    }

    /// Whether h2 may have left out some of the trailers.
    fn is_cut(&self) -> bool {
        match (&self.stream, &self.source) {
            (Some(stream), Receiver::Http2(source)) => stream.is_cut(|| source.stream_id().as_u32()),
            _ => false,
        }
    }

    fn malformed(&self) -> Error {
        self.stream.iter().for_each(OpenStream::malformed);
        Error::malformed(self.side)
    }

    fn broken(&self, error: &h2::Error) -> Error {
        // h2 resets malformed streams itself.
        match error.is_reset() && error.is_library() {
            true => self.malformed(),
            false => Error::engine(self.side, error, self.is_tunnel),
        }
    }

    fn release_capacity(&mut self) {
        let unreleased = mem::take(&mut self.unreleased);
        if unreleased > 0
            && let Receiver::Http2(source) = &mut self.source
        {
            // Fails only if the stream has ended, and then its window is of no use.
            let _ = source.flow_control().release_capacity(unreleased);
        }
    }

    fn set_held(&mut self, bytes: usize) {
        if let Some(stream) = &mut self.stream {
            stream.set_held(bytes);
        }
    }

    /// The bytes that the stream is assumed to hold while its reader may have stopped unseen: all that its window lets come.
    fn assumed(&self) -> usize {
        self.stream.as_ref().map_or(0, OpenStream::window)
    }

    /// The bytes that are received and not read.
    fn unread(&self) -> usize {
        self.unreleased + self.backlog.as_ref().map_or(0, |backlog| backlog.bytes())
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        // The other direction may go on for long; until it ends, its handle keeps h2 from releasing the window by itself.
        if !self.is_last_handle {
            self.release_capacity();
        }
        // A reader that has seen the end by `is_end_stream` does not poll again.
        if self.unfinished_request.is_some() && self.is_all_received() {
            self.tell_end();
        }
        // A request that was not read to its end: a response may end before its request.
        if self.side == Side::Client
            && !self.ended
            && !self.data_done
            && let Some(stream) = &self.stream
            && let Receiver::Http2(source) = &self.source
            && !source.is_end_stream()
            && let Receiver::Http2(source) = mem::replace(&mut self.source, Receiver::Discarded)
        {
            stream.discard_rest(source);
        }
    }
}

impl Source for IncomingBody {
    /// Receives all frames that h2 has, which the stream's window bounds: h2 ends a connection on which too many small
    /// frames wait to be read. In HTTP/1.1 the data stays in the connection, since it has no other message.
    fn buffer(&mut self, cx: &mut Context<'_>) -> Backpressure {
        if let Receiver::Http1(source) = &self.source {
            return if self.ended || source.is_end_stream() { Backpressure::End } else { Backpressure::Data };
        }
        let failed = self.backlog.as_ref().is_some_and(|backlog| backlog.failed.is_some());
        if !self.ended && !self.data_done && !failed {
            let largest_frame = self.stream.as_ref().map_or(0, OpenStream::largest_frame);
            while let Poll::Ready(polled) = self.receive(cx) {
                match polled {
                    // An empty frame carries nothing but END_STREAM, which h2 reports as the end.
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => self.backlog.get_or_insert_default().push(data, largest_frame),
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
                self.receive_trailers(cx);
            }
            let unread = self.unread();
            if let (Some(stream), Receiver::Http2(source)) = (&mut self.stream, &mut self.source) {
                stream.set_held_by_stopped(unread, source.stream_id().as_u32());
                stream.waits(source, cx);
            }
        }
        let is_end = (self.ended || self.data_done) && !self.backlog.as_ref().is_some_and(|it| it.is_before_end());
        if is_end { Backpressure::End } else { Backpressure::Data }
    }

    fn finish(&mut self) {
        self.release_capacity();
        self.set_held(0);
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
        if let Receiver::Http1(source) = &mut self.source {
            let frame = ready!(source.poll(side, cx));
            // Trailers are the last frame, and a reader may stop polling at them.
            if frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers)) {
                self.tell_end();
            }
            return Poll::Ready(frame);
        }
        self.polled = true;
        self.release_capacity();
        if !self.data_done || self.backlog.is_some() {
            let Poll::Ready(polled) = self.poll_data(cx) else {
                self.set_held(0);
                let this = &mut *self;
                if let (Some(stream), Receiver::Http2(source)) = (&mut this.stream, &mut this.source) {
                    stream.waits(source, cx);
                }
                return Poll::Pending;
            };
            match polled {
                Some(Ok(data)) => {
                    self.unreleased = data.len();
                    // Of a reader that goes on, just the data that came before it did is held.
                    let held = if self.backlog.is_some() { self.unread() } else { 0 };
                    let held = if self.assumes_backpressure { held.max(self.assumed()) } else { held };
                    self.set_held(held);
                    if let Some(remaining) = &mut self.remaining {
                        // Fails only for a message without content; h2 checks the others.
                        let Some(less) = remaining.checked_sub(data.len() as u64) else {
                            return Poll::Ready(Some(Err(self.malformed())));
                        };
                        *remaining = less;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A server that has responded may reset the stream with NO_ERROR to stop the request (RFC 9113 section 8.1).
                // h2 then reports the reset and not an END_STREAM before it; the content-length shows that the body is
                // complete.
                Some(Err(error)) if self.remaining == Some(0) && error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(&error)))),
                None => self.data_done = true,
            }
        }
        let trailers = if self.all_received {
            Ok(self.backlog.take().and_then(|backlog| backlog.trailers))
        } else {
            ready!(self.poll_trailers(cx))
        };
        if trailers.is_ok() {
            (self.all_received, self.ended) = (true, true);
            self.tell_end();
        }
        let max_header_list = self.stream.as_ref().map_or(usize::MAX, OpenStream::local_max_header_list);
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| match validate::trailers(&trailers, max_header_list) {
                Ok(()) if !self.is_cut() => Ok(Frame::trailers(trailers)),
                _ => Err(self.malformed()),
            }),
            Err(error) => Some(Err(self.broken(&error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        // Asking h2 takes a lock. Until the first poll its answer at the construction, in `ended`, is good enough.
        if self.ended {
            return true;
        }
        // h2 refuses an END_STREAM before the last byte of the content-length.
        if self.unreleased > 0 && self.remaining.is_some_and(|remaining| remaining > 0) {
            return false;
        }
        match &self.source {
            Receiver::Http2(source) => {
                self.polled && self.backlog.is_none() && (self.all_received || source.is_end_stream())
            }
            Receiver::Http1(source) => source.is_end_stream(),
            Receiver::Discarded => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        match &self.source {
            Receiver::Http2(_) => self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
            Receiver::Http1(source) => source.size_hint(),
            Receiver::Discarded => SizeHint::with_exact(0),
        }
    }
}
