//! The transport under a connection, which counts what it carries.

use crate::{
    activity::Activity,
    announced::Announced,
    local_settings::LocalSettings,
    meter::{Meter, PREFACE},
    stats::Transport,
    wake,
};
use pin_project_lite::pin_project;
use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A transport that adds its life and its bytes to the counters of one peer.
    #[derive(Debug)]
    pub(crate) struct Io<I> {
        #[pin]
        inner: I,
        open: Open,
        activity: Arc<Activity>,
        // Follows what a client sends; what endpoints send goes unmetered.
        meter: Option<Meter>,
        // Follows what an endpoint of HTTP/2 sends. Boxed, so that clients' connections are not the larger for it.
        announced: Option<Box<Announced>>,
        // Whether the last read brought so many frames that the next one is to bring fewer.
        crowded: bool,
        // Until the first SETTINGS are written.
        local_settings: Option<Box<LocalSettings>>,
        // Follows what an endpoint of HTTP/1.1 sends.
        turn: Option<Turn>,
    }
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
struct Open(Arc<Transport>);

/// What an endpoint of HTTP/1.1 has sent since others had their turn.
#[derive(Debug)]
struct Turn {
    /// Interim responses since the last read.
    interim: Arc<AtomicU32>,
    /// What was read, in bytes.
    read: usize,
    /// By now hyper has found what the last read brought.
    parsed: bool,
}

/// Frames in a read after which the next one is of [`SHORT`] bytes: h2 takes all that a read has brought before others have
/// their turn.
const CROWD: u32 = 256;
/// About as many of the smallest frames.
const SHORT: usize = 2 << 10;
/// Interim responses in a read of HTTP/1.1 after which the next one is as short: hyper takes all of them at once, too.
const INTERIM_CROWD: u32 = 16;
/// Bytes of HTTP/1.1 until others have their turn, and what an interim response counts for beside its own.
const BYTES_A_TURN: usize = 128 << 10;
const BYTES_AN_INTERIM: usize = 1 << 10;

// === impl Io ===

impl<I> Io<I> {
    pub(crate) fn new(inner: I, transport: &Arc<Transport>, activity: &Arc<Activity>) -> Self {
        transport.opened();
        let (open, activity) = (Open(Arc::clone(transport)), Arc::clone(activity));
        Self {
            inner,
            open,
            activity,
            meter: None,
            announced: None,
            crowded: false,
            local_settings: None,
            turn: None,
        }
    }

    /// The same, from a client of HTTP/2, which `max_header_list` is announced to.
    pub(crate) fn metered(self, meter: Meter, max_header_list: u32) -> Self {
        Self { meter: Some(meter), ..self.announcing(max_header_list, 0) }
    }

    /// The same, from an endpoint of HTTP/1.1, where `interim` counts the interim responses that hyper has found.
    pub(crate) fn in_turns(self, interim: Arc<AtomicU32>) -> Self {
        Self { turn: Some(Turn { interim, read: 0, parsed: false }), ..self }
    }

    /// The same, from an endpoint of HTTP/2, which `max_header_list` is announced to.
    pub(crate) fn announced(self, max_header_list: u32) -> Self {
        Self { announced: Some(Box::new(Announced::new())), ..self.announcing(max_header_list, PREFACE) }
    }

    fn announcing(self, max_header_list: u32, before: usize) -> Self {
        Self { local_settings: Some(Box::new(LocalSettings::new(max_header_list, before))), ..self }
    }
}

impl<I: AsyncRead> AsyncRead for Io<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.meter.as_ref().is_some_and(|meter| !meter.may_read(cx)) || !this.activity.has_turn(cx) {
            return Poll::Pending;
        }
        if let Some(turn) = this.turn {
            if mem::take(&mut turn.parsed) {
                let interim = turn.interim.swap(0, Relaxed);
                *this.crowded = interim >= INTERIM_CROWD;
                turn.read += BYTES_AN_INTERIM * interim as usize;
            }
            if turn.read >= BYTES_A_TURN {
                turn.read = 0;
                wake::after_others(cx);
                return Poll::Pending;
            }
        }
        let before = buf.filled().len();
        if *this.crowded {
            let mut short = ReadBuf::new(buf.initialize_unfilled_to(SHORT.min(buf.remaining())));
            ready!(this.inner.poll_read(cx, &mut short))?;
            let read = short.filled().len();
            buf.advance(read);
        } else {
            ready!(this.inner.poll_read(cx, buf))?;
        }
        let read = &buf.filled()[before..];
        this.open.0.read(read.len());
        this.activity.moved();
        if let Some(turn) = this.turn {
            if !read.is_empty() {
                this.activity.set_answered();
            }
            turn.read += read.len();
            turn.parsed = true;
            return Poll::Ready(Ok(()));
        }
        let mut frames = 0;
        if let Some(meter) = this.meter {
            let Some(began) = meter.read(read) else {
                // The connection is closed for it, and need not do what it asks for.
                buf.set_filled(before);
                return Poll::Pending;
            };
            frames = began;
        }
        if let Some(announced) = this.announced {
            frames = announced.read(read, this.activity);
        }
        // A short one that is full of frames may have more of them behind it.
        *this.crowded = frames >= if *this.crowded { CROWD / 4 } else { CROWD };
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite> AsyncWrite for Io<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut this = self.project();
        let n = ready!(match this.local_settings {
            None => this.inner.poll_write(cx, buf),
            Some(first) => this.inner.as_mut().poll_write(cx, first.next(buf)),
        })?;
        this.local_settings.take_if(|first| first.wrote(n));
        this.open.0.wrote(n);
        this.activity.moved();
        if let Some(meter) = this.meter {
            meter.wrote(n);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.local_settings.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |first| first));
        }
        let this = self.project();
        let n = ready!(this.inner.poll_write_vectored(cx, bufs))?;
        this.open.0.wrote(n);
        this.activity.moved();
        if let Some(meter) = this.meter {
            meter.wrote(n);
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}
