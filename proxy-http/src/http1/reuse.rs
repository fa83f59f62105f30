//! Whether a connection to an endpoint may be used again.
//!
//! A response does not name its request: the bytes that an endpoint sends after a request are taken for the answer to it
//! (RFC 9112 section 9.2). Bytes that are left of one exchange would be the answer to another client's request. So a
//! connection takes another request only if both messages of its last exchange ended exactly where their framing says, and
//! nothing has come since; every other end closes it.
//!
//! hyper reads a response that has several lengths or codings, or lines that end with LF alone, by rules of its own, and
//! uses its connection again. [`Watch`] reads the same bytes to the letter of RFC 9112 section 6.3. It changes none of them:
//! a response that it does not understand is passed on, but is the last of its connection.

use crate::{
    http1::framing::{At, Framing, Scan, Spoilt},
    message::fields,
};
use std::{
    io, mem,
    pin::Pin,
    sync::Arc,
    sync::atomic::{
        AtomicBool, AtomicU8,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The last exchange of one connection, and with it the answer to whether there may be another.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: AtomicU8,
    /// How much of the request hyper has.
    request: AtomicU8,
    /// The request is a HEAD, whose response has no body whatever its fields say.
    is_head: AtomicBool,
}

/// What a connection whose engine is idle is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is ready for its first request.
    New,
    /// It is ready for another request.
    Again,
    /// It must not have another request.
    Close,
    /// The verdict is known already.
    Known,
}

/// A transport that follows what its endpoint sends.
pub(crate) struct Watch<I> {
    inner: I,
    exchange: Arc<Exchange>,
    responses: Responses,
}

/// Reads responses to the letter.
#[derive(Debug, Default)]
struct Responses {
    /// The request of the response has begun to be written. Nothing may come before.
    open: bool,
    is_head: bool,
    head: Head,
    /// What is not a head, and the start of a line that is not all there.
    scan: Scan,
}

/// What a response's head has said so far.
#[derive(Debug, Default)]
struct Head {
    /// `None`: its first line is not all there.
    status: Option<u16>,
    framing: Framing,
    /// The endpoint will close the connection.
    close: bool,
}

// The states of an exchange.
/// There was none yet, and hyper is not ready.
const NEW: u8 = 0;
/// The connection may have a request.
const FREE: u8 = 1;
/// hyper has a request, and has written nothing of it.
const ASKED: u8 = 2;
/// The request is on its way, or its response.
const BUSY: u8 = 3;
/// Both messages ended exactly where they say. hyper may not know yet.
const ENDED: u8 = 4;
/// The last exchange ended in another way, or something has come that belongs to none.
const SPOILT: u8 = 5;

// How much of a request hyper has.
const OPEN: u8 = 0;
/// All of it.
const TAKEN: u8 = 1;
/// All of it, and it is written.
const WRITTEN: u8 = 2;

// === impl Exchange ===

impl Exchange {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: AtomicU8::new(NEW), request: AtomicU8::new(OPEN), is_head: AtomicBool::new(false) })
    }

    /// Whether the connection may be used, as far as its last exchange is concerned.
    pub(crate) fn is_free(&self) -> bool {
        self.state.load(Acquire) == FREE
    }

    /// Begins the next exchange; false if there must be none.
    pub(crate) fn begin(&self, is_head: bool) -> bool {
        let begun = self.state.compare_exchange(FREE, ASKED, AcqRel, Relaxed).is_ok();
        if begun {
            self.request.store(OPEN, Relaxed);
            self.is_head.store(is_head, Relaxed);
        }
        begun
    }

    /// hyper has all of the request, or wants no more of it.
    pub(crate) fn taken(&self) {
        self.request.store(TAKEN, Relaxed);
    }

    /// Decides whether the connection may have another request, while hyper is idle: only here does it become free.
    pub(crate) fn judge(&self) -> Verdict {
        let (next, verdict) = match self.state.load(Acquire) {
            NEW => (FREE, Verdict::New),
            ENDED => (FREE, Verdict::Again),
            // hyper holds the exchange for ended, and the watch does not.
            BUSY | SPOILT => (SPOILT, Verdict::Close),
            _ => return Verdict::Known,
        };
        self.state.store(next, Release);
        verdict
    }

    /// Whether there is something to judge.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state.load(Relaxed), FREE | ASKED)
    }

    fn is_written(&self) -> bool {
        self.request.load(Relaxed) == WRITTEN
    }

    fn set(&self, state: u8) {
        self.state.store(state, Release);
    }
}

// === impl Watch ===

impl<I> Watch<I> {
    pub(crate) fn new(inner: I, exchange: Arc<Exchange>) -> Self {
        Self { inner, exchange, responses: Responses::default() }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        let Self { exchange, responses, .. } = self;
        if !responses.open && !responses.is_spoilt() && matches!(written, Poll::Ready(Ok(1..))) {
            responses.open = true;
            responses.is_head = exchange.is_head.load(Relaxed);
            exchange.set(BUSY);
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watch<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, exchange, responses } = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(inner).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if read.is_empty() || responses.is_spoilt() {
            return Poll::Ready(Ok(()));
        }
        let unasked = !responses.open;
        responses.read(read);
        // A response that is whole before its request is leaves the endpoint with the rest of that.
        if responses.is_spoilt() || !responses.open && !exchange.is_written() {
            responses.scan.at = At::Spoilt;
            exchange.set(SPOILT);
        } else if !responses.open {
            exchange.set(ENDED);
        }
        // hyper may have a request to write, and would take them for the answer.
        if unasked {
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes came that nothing had asked for",
            )));
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watch<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written all that it has.
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        if self.exchange.request.load(Relaxed) == TAKEN {
            self.exchange.request.store(WRITTEN, Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

// === impl Responses ===

impl Responses {
    fn is_spoilt(&self) -> bool {
        self.scan.at == At::Spoilt
    }

    /// Follows what was read.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_spoilt() {
            let read = if !self.open {
                Err(Spoilt)
            } else if self.scan.at == At::Head {
                self.head(bytes)
            } else {
                self.body(bytes)
            };
            match read {
                Ok(n) => bytes = &bytes[n..],
                Err(Spoilt) => self.scan.at = At::Spoilt,
            }
        }
    }

    /// Takes bytes of a body, and tells how many.
    fn body(&mut self, bytes: &[u8]) -> Result<usize, Spoilt> {
        let skipped = self.scan.skip(bytes);
        if skipped == 0 {
            self.scan.at = self.scan.step(bytes[0])?;
        }
        // The next head would be that of another response.
        self.open = self.scan.at != At::Head;
        Ok(skipped.max(1))
    }

    /// Takes bytes of a head up to the end of a line, and tells how many.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Spoilt> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            bytes.iter().try_for_each(|byte| self.scan.line.push(*byte).map(drop))?;
            return Ok(bytes.len());
        };
        if self.scan.line.is_empty() {
            let line = bytes[..end].strip_suffix(b"\r").ok_or(Spoilt)?;
            self.line(line, true)?;
        } else {
            bytes[..end].iter().try_for_each(|byte| self.scan.line.push(*byte).map(drop))?;
            let mut line = mem::take(&mut self.scan.line);
            self.line(line.start(), line.is_whole())?;
            // Fails where there is no CR.
            line.push(b'\n')?;
        }
        Ok(end + 1)
    }

    /// A line of a head, of which its start may be all that is known.
    fn line(&mut self, line: &[u8], whole: bool) -> Result<(), Spoilt> {
        let Some(status) = self.head.status else {
            self.head.status = Some(status(line)?);
            return Ok(());
        };
        if line.is_empty() {
            let Head { framing, close, .. } = mem::take(&mut self.head);
            self.scan.at = self.follows(status, framing, close)?;
            return Ok(());
        }
        match line[0] {
            b'c' | b'C' | b't' | b'T' => self.head.field(line, whole),
            _ => Ok(()),
        }
    }

    /// What follows a head. [`At::Head`] is nothing, but for an interim response.
    fn follows(&mut self, status: u16, framing: Framing, close: bool) -> Result<At, Spoilt> {
        let at = framing.body();
        match status {
            _ if close => Err(Spoilt),
            // What follows 101 is not HTTP. Others have no content (RFC 9110 section 15.2).
            100 | 102..=199 if framing.is_none() => Ok(At::Head),
            ..=199 => Err(Spoilt),
            // It has none, and must not say so (RFC 9110 section 8.6); some say 0.
            204 if at != At::Head => Err(Spoilt),
            // It ends with the connection.
            205.. | 200..=203 if framing.is_none() && !self.is_head && status != 304 => Err(Spoilt),
            _ => {
                let none = self.is_head || status == 304;
                self.open = !none && at != At::Head;
                Ok(if none { At::Head } else { at })
            }
        }
    }
}

/// The status of HTTP/1.1, with which connections last.
fn status(line: &[u8]) -> Result<u16, Spoilt> {
    let digits = line.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)).ok_or(Spoilt)?;
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Spoilt)
}

// === impl Head ===

impl Head {
    fn field(&mut self, line: &[u8], whole: bool) -> Result<(), Spoilt> {
        let value = |name: &[u8]| {
            let start = line.get(..name.len())?;
            start.eq_ignore_ascii_case(name).then(|| &line[name.len()..])
        };
        if let Some(options) = value(b"connection:") {
            self.close |= fields::has_option(options, b"close");
            return if whole { Ok(()) } else { Err(Spoilt) };
        }
        self.framing.field(line, whole)
    }
}
