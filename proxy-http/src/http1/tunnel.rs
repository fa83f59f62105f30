//! Tunnels: connections that are no longer HTTP, after an upgrade (RFC 9110 section 7.8) or CONNECT (section 9.3.6).
//!
//! For the other side of the proxy a tunnel is a body in each direction, in either version of HTTP.

use crate::{
    body::{
        backpressure::{buffer, cut},
        channel::BodySender,
        outcome::{Backpressure, SendOutcome},
    },
    connection::streams::OpenStream,
    http1::{
        linger::{MAX_SILENCE, linger},
        timeouts::Timeouts,
    },
    message::answer::Answer,
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

/// The two directions of a connection's bytes.
pub(crate) struct Tunnel<B> {
    /// The bytes to write to the connection.
    from: B,
    /// Takes the bytes that are read from the connection.
    to: BodySender,
    _stream: Option<OpenStream>,
}

/// An endpoint's connection that becomes a tunnel once hyper gives it up.
pub(crate) struct EndpointTunnel {
    pub(crate) endpoint: OnUpgrade,
    /// Takes the bytes that are read from the connection.
    pub(crate) to: BodySender,
    pub(crate) write_stall: Duration,
}

/// The tunnel that a client's connection becomes once hyper gives it up.
pub(crate) struct TunnelSlot<B>(Arc<Mutex<Option<Tunnel<B>>>>);

/// Why a tunnel ended before both of its directions had.
#[derive(Debug)]
pub(crate) enum TunnelError {
    /// The connection failed.
    Io(io::Error),
    /// The other side of the proxy failed.
    Body,
    /// No byte moved for too long.
    Timeout(StreamLimit),
}

/// A tunnel with the connection that it runs on.
struct TunnelIo<I, B> {
    io: I,
    tunnel: Tunnel<B>,
    /// Bytes that hyper had read.
    read: Bytes,
    /// Whether the end of the connection's bytes has been sent on, or their receiver is gone.
    read_ended: bool,
    /// The part of the last frame that is not written.
    unwritten: Bytes,
    write_state: WriteState,
    /// The count of reads and writes.
    moves: u64,
}

/// The direction from the body to the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum WriteState {
    /// No byte waits.
    Flushed,
    /// Bytes may wait to be flushed.
    Unflushed,
    /// The body has ended, and the transport is not shut down.
    BodyEnded,
    ShutDown,
}

/// The largest read, in bytes. It goes to the stack and is copied from there, so that an idle tunnel has no buffer.
const READ_BYTES: usize = 16 << 10;
/// How long a peer may send nothing before its connection is closed after an error of the other side.
const MAX_SILENCE_AFTER_ERROR: Duration = Duration::from_millis(500);
const UNPOISONED: &str = "nothing panics with the lock held";

/// Whether a response with this status accepts a request for a tunnel.
pub(crate) fn is_accepted_by(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS
}

// === impl Tunnel ===

impl<B> Tunnel<B> {
    pub(crate) fn new(from: B, to: BodySender, stream: Option<OpenStream>) -> Self {
        Self { from, to, _stream: stream }
    }
}

impl<B: Body<Data = Bytes> + Unpin + 'static> Tunnel<B> {
    /// Copies bytes in both directions until both have ended, or the other side of the proxy has failed, and then gives the
    /// peer time to read the last ones. `read`: bytes that hyper had read.
    pub(crate) async fn run<I>(self, io: I, read: Bytes, mut timeouts: Timeouts) -> Result<(), TunnelError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let (unwritten, write_state) = (Bytes::new(), WriteState::Flushed);
        let mut tunnel = TunnelIo { io, tunnel: self, read, read_ended: false, unwritten, write_state, moves: 0 };
        let ended = poll_fn(|cx| {
            let blocked = tunnel.write(cx)?;
            tunnel.read(cx)?;
            if tunnel.read_ended && tunnel.write_state == WriteState::ShutDown {
                return Poll::Ready(Ok(()));
            }
            timeouts.poll(true, blocked, tunnel.moves, cx).map(|limit| Err(TunnelError::Timeout(limit)))
        })
        .await;
        if !matches!(ended, Err(TunnelError::Io(_))) {
            tunnel.tunnel.to.give_up();
        }
        let TunnelIo { io, mut tunnel, .. } = tunnel;
        if matches!(ended, Err(TunnelError::Timeout(_))) {
            // A tunnel has no trailers, but records why it ends.
            let _ = cut(&mut tunnel.from, &Answer::idle());
        }
        drop(tunnel);
        match ended {
            Ok(()) => linger(io, MAX_SILENCE).await,
            // The peer must not take the bytes for whole, so it gets no end of them, but soon the end of the connection.
            Err(TunnelError::Body) => linger(io, MAX_SILENCE_AFTER_ERROR).await,
            Err(TunnelError::Io(_) | TunnelError::Timeout(_)) => {}
        }
        ended
    }
}

// === impl EndpointTunnel ===

impl EndpointTunnel {
    /// Runs the tunnel in a task of its own, which calls `ended` at its end.
    pub(crate) fn spawn<B>(self, body: B, ended: impl FnOnce(SendOutcome) + Send + 'static)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let Self { endpoint, to, write_stall } = self;
        tokio::spawn(async move {
            let Ok(io) = endpoint.await else { return ended(SendOutcome::Lost) };
            let tunnel = Tunnel::new(body, to, None);
            ended(match tunnel.run(TokioIo::new(io), Bytes::new(), Timeouts::new(write_stall, None)).await {
                Ok(()) => SendOutcome::Done,
                Err(TunnelError::Io(_)) => SendOutcome::Lost,
                Err(TunnelError::Body) => SendOutcome::Broken,
                Err(TunnelError::Timeout(_)) => SendOutcome::Stalled,
            });
        });
    }
}

impl fmt::Debug for EndpointTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointTunnel").finish_non_exhaustive()
    }
}

// === impl TunnelIo ===

impl<I, B> TunnelIo<I, B>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin + 'static,
{
    /// Reads while the receiver has room.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), TunnelError> {
        while !self.read_ended {
            match self.tunnel.to.poll_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !self.read.is_empty() => self.tunnel.to.send(mem::take(&mut self.read)),
                Poll::Ready(Ok(())) => {
                    let mut buf = [const { MaybeUninit::uninit() }; READ_BYTES];
                    let mut buf = ReadBuf::uninit(&mut buf);
                    let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, &mut buf) else { break };
                    read.map_err(TunnelError::Io)?;
                    self.moves += 1;
                    self.read_ended = buf.filled().is_empty();
                    if self.read_ended {
                        self.tunnel.to.end();
                    } else {
                        self.tunnel.to.send(Bytes::copy_from_slice(buf.filled()));
                    }
                }
                Poll::Ready(Err(_)) => self.read_ended = true,
            }
        }
        Ok(())
    }

    /// Writes the body's frames. True if a write is blocked.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        loop {
            let mut io = Pin::new(&mut self.io);
            let polled = if !self.unwritten.is_empty() {
                io.poll_write(cx, &self.unwritten).map_ok(|n| {
                    self.unwritten.advance(n);
                    n > 0
                })
            } else if self.write_state == WriteState::BodyEnded {
                io.as_mut().poll_shutdown(cx).map_ok(|()| {
                    self.write_state = WriteState::ShutDown;
                    true
                })
            } else if self.write_state == WriteState::ShutDown {
                return Ok(false);
            } else {
                match Pin::new(&mut self.tunnel.from).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.write_state = WriteState::Unflushed;
                        // A tunnel has no form for trailers.
                        self.unwritten = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Poll::Ready(Some(Err(_))) => return Err(TunnelError::Body),
                    Poll::Ready(None) => {
                        self.write_state = WriteState::BodyEnded;
                        continue;
                    }
                    Poll::Pending if self.write_state == WriteState::Flushed => return Ok(false),
                    Poll::Pending => io.as_mut().poll_flush(cx).map_ok(|()| {
                        self.write_state = WriteState::Flushed;
                        true
                    }),
                }
            };
            match polled.map_err(TunnelError::Io)? {
                Poll::Ready(true) => self.moves += 1,
                Poll::Ready(false) => return Err(TunnelError::Io(io::ErrorKind::WriteZero.into())),
                Poll::Pending if buffer(&mut self.tunnel.from, cx) == Backpressure::Expired => {
                    return Err(TunnelError::Body);
                }
                Poll::Pending => return Ok(true),
            }
        }
    }
}

// === impl TunnelSlot ===

impl<B> TunnelSlot<B> {
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

impl<B> Clone for TunnelSlot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
