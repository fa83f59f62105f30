//! Connections that are no longer HTTP: after an upgrade (RFC 9110 section 7.8), or after CONNECT (section 9.3.6).
//!
//! What the other side of the proxy sees of one is a body in each direction, whatever it speaks itself.

use crate::{
    body::{
        backpressure::buffer,
        channel::BodySender,
        outcome::{Backpressure, SendOutcome},
    },
    connection::streams::OpenStream,
    http1::timeouts::Timeouts,
    stats::StreamLimit,
};
use bytes::{Buf as _, Bytes};
use http::StatusCode;
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::poll_fn,
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What goes both ways on a connection.
pub(crate) struct Tunnel<B> {
    /// What is to be written to it.
    from: B,
    /// Where what is read from it goes.
    to: BodySender,
    _stream: Option<OpenStream>,
}

/// An endpoint's connection that becomes a tunnel once hyper has done its part.
pub(crate) struct Agreed {
    pub(crate) endpoint: OnUpgrade,
    /// Where what is read from it goes.
    pub(crate) to: BodySender,
    pub(crate) write_stall: Duration,
}

/// Where a client's connection finds its tunnel, when hyper has done its part.
pub(crate) struct Place<B>(Arc<Mutex<Option<Tunnel<B>>>>);

/// What ended a tunnel before both of its directions had ended.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection.
    Io(io::Error),
    /// The other side of the proxy.
    Body,
    /// Nothing moved for too long.
    Timeouts(StreamLimit),
}

struct Running<I, B> {
    io: I,
    tunnel: Tunnel<B>,
    /// What was read before.
    read: Bytes,
    /// Whether the end of what is read has been passed on, or nobody takes it any more.
    read_ended: bool,
    /// What is left of the last frame.
    rest: Bytes,
    written: Written,
    /// Reads and writes.
    moves: u64,
}

/// How far the writing has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Written {
    /// All there was, and it is flushed.
    Flushed,
    /// All there was.
    Some,
    /// All, but the peer has not been told.
    All,
    Ended,
}

/// How much is read at once, in bytes. It is copied, so that a tunnel on which nothing comes keeps no room for it.
const PIECE: usize = 16 << 10;
const UNPOISONED: &str = "nothing panics with the lock held";

/// Whether a response with this status to a request for a tunnel is the last of HTTP.
pub(crate) fn follows(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS
}

// === impl Tunnel ===

impl<B> Tunnel<B> {
    pub(crate) fn new(from: B, to: BodySender, stream: Option<OpenStream>) -> Self {
        Self { from, to, _stream: stream }
    }
}

impl<B: Body<Data = Bytes> + Unpin + 'static> Tunnel<B> {
    /// Moves bytes both ways until both sides have ended. `read`: what has come already.
    pub(crate) async fn run<I>(self, io: I, read: Bytes, mut still: Timeouts) -> Result<(), Broken>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let (rest, written) = (Bytes::new(), Written::Flushed);
        let mut running = Running { io, tunnel: self, read, read_ended: false, rest, written, moves: 0 };
        let ended = poll_fn(|cx| {
            let blocked = running.write(cx)?;
            running.read(cx)?;
            if running.read_ended && running.written == Written::Ended {
                return Poll::Ready(Ok(()));
            }
            still.poll(true, blocked, running.moves, cx).map(|limit| Err(Broken::Timeouts(limit)))
        })
        .await;
        if !matches!(ended, Err(Broken::Io(_))) {
            running.tunnel.to.give_up();
        }
        ended
    }
}

// === impl Agreed ===

impl Agreed {
    /// Sends `body` by itself, and tells how that ended.
    pub(crate) fn spawn_rest<B>(self, body: B, ended: impl FnOnce(SendOutcome) + Send + 'static)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let Self { endpoint, to, write_stall } = self;
        tokio::spawn(async move {
            let Ok(io) = endpoint.await else { return ended(SendOutcome::Lost) };
            let tunnel = Tunnel::new(body, to, None);
            ended(match tunnel.run(TokioIo::new(io), Bytes::new(), Timeouts::new(write_stall, None)).await {
                Ok(()) => SendOutcome::Done,
                Err(Broken::Io(_)) => SendOutcome::Lost,
                Err(Broken::Body) => SendOutcome::Broken,
                Err(Broken::Timeouts(_)) => SendOutcome::Stalled,
            });
        });
    }
}

impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreed").finish_non_exhaustive()
    }
}

// === impl Running ===

impl<I, B> Running<I, B>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin + 'static,
{
    /// Reads as long as what is read is taken.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.read_ended {
            match self.tunnel.to.poll_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !self.read.is_empty() => self.tunnel.to.send(mem::take(&mut self.read)),
                Poll::Ready(Ok(())) => {
                    let mut piece = [const { MaybeUninit::uninit() }; PIECE];
                    let mut piece = ReadBuf::uninit(&mut piece);
                    let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, &mut piece) else { break };
                    read.map_err(Broken::Io)?;
                    self.moves += 1;
                    self.read_ended = piece.filled().is_empty();
                    if self.read_ended {
                        self.tunnel.to.end();
                    } else {
                        self.tunnel.to.send(Bytes::copy_from_slice(piece.filled()));
                    }
                }
                Poll::Ready(Err(_)) => self.read_ended = true,
            }
        }
        Ok(())
    }

    /// Writes what there is. Tells whether the peer takes nothing of it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        loop {
            let mut io = Pin::new(&mut self.io);
            let polled = if !self.rest.is_empty() {
                io.poll_write(cx, &self.rest).map_ok(|n| {
                    self.rest.advance(n);
                    n > 0
                })
            } else if self.written == Written::All {
                io.as_mut().poll_shutdown(cx).map_ok(|()| {
                    self.written = Written::Ended;
                    true
                })
            } else if self.written == Written::Ended {
                return Ok(false);
            } else {
                match Pin::new(&mut self.tunnel.from).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.written = Written::Some;
                        // Trailers have no place here.
                        self.rest = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Poll::Ready(Some(Err(_))) => return Err(Broken::Body),
                    Poll::Ready(None) => {
                        self.written = Written::All;
                        continue;
                    }
                    Poll::Pending if self.written == Written::Flushed => return Ok(false),
                    Poll::Pending => io.as_mut().poll_flush(cx).map_ok(|()| {
                        self.written = Written::Flushed;
                        true
                    }),
                }
            };
            match polled.map_err(Broken::Io)? {
                Poll::Ready(true) => self.moves += 1,
                Poll::Ready(false) => return Err(Broken::Io(io::ErrorKind::WriteZero.into())),
                Poll::Pending if buffer(&mut self.tunnel.from, cx) == Backpressure::Expired => {
                    return Err(Broken::Body);
                }
                Poll::Pending => return Ok(true),
            }
        }
    }
}

// === impl Place ===

impl<B> Place<B> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn put(&self, tunnel: Tunnel<B>) {
        *self.0.lock().expect(UNPOISONED) = Some(tunnel);
    }

    pub(crate) fn take(&self) -> Option<Tunnel<B>> {
        self.0.lock().expect(UNPOISONED).take()
    }
}

impl<B> Clone for Place<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
