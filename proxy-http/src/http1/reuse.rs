//! Whether a connection to an endpoint may be used again.
//!
//! A response does not name its request: the bytes that an endpoint sends after a request are its response (RFC 9112
//! section 9.2). Bytes that are left of one exchange would answer another client's request. So a connection takes another
//! request only if both messages of its last exchange ended exactly where their framing says, and no byte has come since;
//! every other end closes it.
//!
//! hyper reads a response that has several lengths or codings, or lines that end with LF alone, by rules of its own, and
//! uses its connection again. [`ResponseWatch`] reads the same bytes strictly by RFC 9112 section 6.3. It changes none of
//! them: a response that it rejects is forwarded, but is the last of its connection.

use crate::{
    connection::detect::OtherProtocol,
    http1::framing::{BodyFraming, FramingParser, ParseState, Rejected},
    message::fields,
};
use std::{
    io, mem,
    pin::Pin,
    sync::atomic::{
        AtomicBool, AtomicU8,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The last exchange of one connection, which decides whether there may be another.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: AtomicU8,
    /// How far the request has come.
    request: AtomicU8,
    /// The request is a HEAD, whose response has no body whatever its fields say.
    is_head: AtomicBool,
    /// The protocol of bytes that are not HTTP/1.1, if it is known.
    other_protocol: OnceLock<OtherProtocol>,
}

/// The next step of a connection while hyper is idle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It takes its first request.
    FirstUse,
    /// It takes another request.
    Reuse,
    /// It takes no other request.
    Close,
    /// There is nothing new to decide.
    Unchanged,
}

/// An endpoint's transport, which follows the framing of the responses.
pub(crate) struct ResponseWatch<I> {
    inner: I,
    exchange: Arc<Exchange>,
    responses: ResponseParser,
}

/// Reads responses strictly by RFC 9112.
#[derive(Debug, Default)]
struct ResponseParser {
    /// A response is due: a byte of its request has been written. No byte may come before.
    is_open: bool,
    is_head: bool,
    head: ResponseHead,
    /// Reads bodies, and keeps the start of a head's line that is not whole yet.
    framing: FramingParser,
}

/// A response's head, as far as it is read.
#[derive(Debug, Default)]
struct ResponseHead {
    /// `None`: the status line is not whole yet.
    status: Option<u16>,
    framing: BodyFraming,
    /// Has `connection: close`.
    close: bool,
}

// The states of an exchange.
/// There was no exchange yet, and hyper is not ready.
const NEW: u8 = 0;
/// The connection may have a request.
const READY: u8 = 1;
/// hyper has a request, and has written no byte of it.
const QUEUED: u8 = 2;
/// A part of the request is written, and the exchange has not ended.
const IN_FLIGHT: u8 = 3;
/// Both messages ended exactly where their framing says. hyper may not know yet.
const COMPLETE: u8 = 4;
/// The last exchange ended in another way, or bytes have come that belong to none.
const BROKEN: u8 = 5;

// How far a request has come.
/// hyper does not have all of it.
const PARTIAL: u8 = 0;
/// hyper has all of it.
const BUFFERED: u8 = 1;
/// All of it is written.
const WRITTEN: u8 = 2;

// === impl Exchange ===

impl Exchange {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(NEW),
            request: AtomicU8::new(PARTIAL),
            is_head: AtomicBool::new(false),
            other_protocol: OnceLock::new(),
        })
    }

    /// Whether the last exchange lets the connection take a request.
    pub(crate) fn is_ready(&self) -> bool {
        self.state.load(Acquire) == READY
    }

    /// Begins the next exchange; false if the connection takes none.
    pub(crate) fn begin(&self, is_head: bool) -> bool {
        let begun = self.state.compare_exchange(READY, QUEUED, AcqRel, Relaxed).is_ok();
        if begun {
            self.request.store(PARTIAL, Relaxed);
            self.is_head.store(is_head, Relaxed);
        }
        begun
    }

    /// To be called when hyper has all of the request, or has dropped it.
    pub(crate) fn request_buffered(&self) {
        self.request.store(BUFFERED, Relaxed);
    }

    /// Decides whether the connection may have another request. To be called while hyper is idle: only this makes the
    /// connection ready.
    pub(crate) fn decide(&self) -> Verdict {
        let (next, verdict) = match self.state.load(Acquire) {
            NEW => (READY, Verdict::FirstUse),
            COMPLETE => (READY, Verdict::Reuse),
            // For hyper the exchange has ended, by strict framing it has not.
            IN_FLIGHT | BROKEN => (BROKEN, Verdict::Close),
            _ => return Verdict::Unchanged,
        };
        self.state.store(next, Release);
        verdict
    }

    /// Whether [`decide`](Self::decide) may have something to decide.
    pub(crate) fn is_undecided(&self) -> bool {
        !matches!(self.state.load(Relaxed), READY | QUEUED)
    }

    /// The protocol that the endpoint speaks in place of HTTP/1.1, if its bytes have shown one.
    pub(crate) fn other_protocol(&self) -> Option<OtherProtocol> {
        self.other_protocol.get().copied()
    }

    fn is_written(&self) -> bool {
        self.request.load(Relaxed) == WRITTEN
    }

    fn set(&self, state: u8) {
        self.state.store(state, Release);
    }
}

// === impl ResponseWatch ===

impl<I> ResponseWatch<I> {
    pub(crate) fn new(inner: I, exchange: Arc<Exchange>) -> Self {
        Self { inner, exchange, responses: ResponseParser::default() }
    }

    fn record_write(&mut self, written: &Poll<io::Result<usize>>) {
        let Self { exchange, responses, .. } = self;
        if !responses.is_open && !responses.is_rejected() && matches!(written, Poll::Ready(Ok(1..))) {
            responses.is_open = true;
            responses.is_head = exchange.is_head.load(Relaxed);
            exchange.set(IN_FLIGHT);
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ResponseWatch<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, exchange, responses } = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(inner).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if read.is_empty() || responses.is_rejected() {
            return Poll::Ready(Ok(()));
        }
        let unasked = !responses.is_open;
        if responses.is_at_start()
            && let Some(other @ (OtherProtocol::Http2 | OtherProtocol::Tls)) = OtherProtocol::of(read)
        {
            let _ = exchange.other_protocol.set(other);
        }
        responses.read(read);
        // After a response that is whole before its request, the endpoint may read the rest of that as another request.
        if responses.is_rejected() || !responses.is_open && !exchange.is_written() {
            responses.framing.state = ParseState::Rejected;
            exchange.set(BROKEN);
        } else if !responses.is_open {
            exchange.set(COMPLETE);
        }
        // hyper may have a request to write, and would take the bytes for its response.
        if unasked {
            buf.set_filled(before);
            let error = match exchange.other_protocol() {
                Some(other) => io::Error::new(io::ErrorKind::InvalidData, other),
                None => io::Error::new(io::ErrorKind::InvalidData, "bytes came that nothing had asked for"),
            };
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for ResponseWatch<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.record_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.record_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when its buffer is written.
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        if self.exchange.request.load(Relaxed) == BUFFERED {
            self.exchange.request.store(WRITTEN, Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

// === impl ResponseParser ===

impl ResponseParser {
    fn is_rejected(&self) -> bool {
        self.framing.state == ParseState::Rejected
    }

    /// Whether the next byte is the first of a response.
    fn is_at_start(&self) -> bool {
        self.framing.state == ParseState::Head && self.head.status.is_none() && self.framing.line.is_empty()
    }

    /// Follows the bytes that were read.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_rejected() {
            let read = if !self.is_open {
                Err(Rejected)
            } else if self.framing.state == ParseState::Head {
                self.read_head(bytes)
            } else {
                self.read_body(bytes)
            };
            match read {
                Ok(n) => bytes = &bytes[n..],
                Err(Rejected) => self.framing.state = ParseState::Rejected,
            }
        }
    }

    /// Reads bytes of a body, and returns how many.
    fn read_body(&mut self, bytes: &[u8]) -> Result<usize, Rejected> {
        let skipped = self.framing.skip(bytes);
        if skipped == 0 {
            self.framing.state = self.framing.step(bytes[0])?;
        }
        // The response ends with its body.
        self.is_open = self.framing.state != ParseState::Head;
        Ok(skipped.max(1))
    }

    /// Reads bytes of a head up to the end of a line, and returns how many.
    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, Rejected> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            bytes.iter().try_for_each(|byte| self.framing.line.push(*byte).map(drop))?;
            return Ok(bytes.len());
        };
        if self.framing.line.is_empty() {
            let line = bytes[..end].strip_suffix(b"\r").ok_or(Rejected)?;
            self.read_line(line, true)?;
        } else {
            bytes[..end].iter().try_for_each(|byte| self.framing.line.push(*byte).map(drop))?;
            let mut line = mem::take(&mut self.framing.line);
            self.read_line(line.start(), line.is_whole())?;
            // Fails if no CR came before.
            line.push(b'\n')?;
        }
        Ok(end + 1)
    }

    /// Reads a line of a head, or its start if it is not whole.
    fn read_line(&mut self, line: &[u8], is_whole: bool) -> Result<(), Rejected> {
        let Some(status) = self.head.status else {
            self.head.status = Some(parse_status(line)?);
            return Ok(());
        };
        if line.is_empty() {
            let ResponseHead { framing, close, .. } = mem::take(&mut self.head);
            self.framing.state = self.state_after_head(status, framing, close)?;
            return Ok(());
        }
        match line[0] {
            b'c' | b'C' | b't' | b'T' => self.head.read_field(line, is_whole),
            _ => Ok(()),
        }
    }

    /// The state after a head. [`ParseState::Head`]: the final response has no body, or the response was interim.
    fn state_after_head(&mut self, status: u16, framing: BodyFraming, close: bool) -> Result<ParseState, Rejected> {
        let state = framing.body_state();
        match status {
            _ if close => Err(Rejected),
            // The bytes after 101 are not HTTP. Other interim responses have no content (RFC 9110 section 15.2).
            100 | 102..=199 if framing.is_none() => Ok(ParseState::Head),
            ..=199 => Err(Rejected),
            // 204 has no content, and must not have a length (RFC 9110 section 8.6); some servers send 0.
            204 if state != ParseState::Head => Err(Rejected),
            // Without length and coding, a body ends with the connection.
            205.. | 200..=203 if framing.is_none() && !self.is_head && status != 304 => Err(Rejected),
            _ => {
                let has_no_body = self.is_head || status == 304;
                self.is_open = !has_no_body && state != ParseState::Head;
                Ok(if has_no_body { ParseState::Head } else { state })
            }
        }
    }
}

/// The status code of a status line of HTTP/1.1, the version whose connections persist.
fn parse_status(line: &[u8]) -> Result<u16, Rejected> {
    let digits = line.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)).ok_or(Rejected)?;
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Rejected)
}

// === impl ResponseHead ===

impl ResponseHead {
    fn read_field(&mut self, line: &[u8], is_whole: bool) -> Result<(), Rejected> {
        let value = |name: &[u8]| {
            let start = line.get(..name.len())?;
            start.eq_ignore_ascii_case(name).then(|| &line[name.len()..])
        };
        if let Some(options) = value(b"connection:") {
            self.close |= fields::has_option(options, b"close");
            return if is_whole { Ok(()) } else { Err(Rejected) };
        }
        self.framing.read_field(line, is_whole)
    }
}
