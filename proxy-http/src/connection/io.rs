//! The transport under a connection, which counts what it carries.

use crate::{
    connection::{
        frames::{
            empty_data::Held, engine_counts::EngineCounts, head::PREFACE, local_settings::LocalSettings,
            peer::PeerSettings, rate::FrameRates,
        },
        state::ConnectionState,
        wake,
    },
    stats::Transport,
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
        connection_state: Arc<ConnectionState>,
        // Follows what a client sends; what endpoints send goes unmetered.
        frame_rates: Option<FrameRates>,
        // Follows what an endpoint of HTTP/2 sends. Boxed, so that clients' connections are not the larger for it.
        announced: Option<Box<PeerSettings>>,
        // Whether the last read brought so many frames that the next one is to bring fewer.
        crowded: bool,
        // What h2 has not got of a frame that it may not see.
        held: Held,
        // Until the first SETTINGS are written.
        local_settings: Option<Box<LocalSettings>>,
        // Follows what is written in HTTP/2.
        engine_counts: Option<EngineCounts>,
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
    pub(crate) fn new(inner: I, transport: &Arc<Transport>, connection_state: &Arc<ConnectionState>) -> Self {
        transport.opened();
        let (open, connection_state) = (Open(Arc::clone(transport)), Arc::clone(connection_state));
        Self {
            inner,
            open,
            connection_state,
            frame_rates: None,
            announced: None,
            crowded: false,
            held: Held::default(),
            local_settings: None,
            engine_counts: None,
            turn: None,
        }
    }

    /// The same, from a client of HTTP/2, which `max_header_list` is announced to.
    pub(crate) fn metered(self, frame_rates: FrameRates, max_header_list: u32) -> Self {
        Self { frame_rates: Some(frame_rates), ..self.announcing(max_header_list, 0) }
    }

    /// The same, from an endpoint of HTTP/1.1, where `interim` counts the interim responses that hyper has found.
    pub(crate) fn in_turns(self, interim: Arc<AtomicU32>) -> Self {
        Self { turn: Some(Turn { interim, read: 0, parsed: false }), ..self }
    }

    /// The same, from an endpoint of HTTP/2, which `max_header_list` is announced to.
    pub(crate) fn announced(self, max_header_list: u32) -> Self {
        Self { announced: Some(Box::new(PeerSettings::new())), ..self.announcing(max_header_list, PREFACE) }
    }

    fn announcing(self, max_header_list: u32, before: usize) -> Self {
        let local_settings = Some(Box::new(LocalSettings::new(max_header_list, before)));
        Self { local_settings, engine_counts: Some(EngineCounts::new(before)), ..self }
    }
}

impl<I: AsyncRead> Io<I> {
    /// Reads until it is known whether h2 is to see the frame that is held, and then gives it what it is to see. Ready with
    /// `false`: there is nothing of that.
    #[cold]
    fn poll_held(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let mut this = self.project();
        while !this.held.passes() {
            let mut missing = ReadBuf::new(this.held.missing());
            ready!(this.inner.as_mut().poll_read(cx, &mut missing))?;
            let read = missing.filled();
            let count = read.len();
            if count == 0 {
                // The end comes once more when it is asked for.
                this.held.pass();
                break;
            }
            this.open.0.read(count);
            this.connection_state.moved();
            let Some(found) = follow(this.frame_rates, this.announced, this.connection_state, read) else {
                return Poll::Pending;
            };
            if found.empty {
                this.held.clear();
                return Poll::Ready(Ok(false));
            }
            this.held.came(count);
        }
        buf.put_slice(this.held.give(buf.remaining()));
        Poll::Ready(Ok(true))
    }
}

impl<I: AsyncRead> AsyncRead for Io<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let this = self.as_mut().project();
            if this.frame_rates.as_ref().is_some_and(|frame_rates| !frame_rates.may_read(cx))
                || !this.connection_state.has_turn(cx)
            {
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
            if !this.held.is_empty() {
                if ready!(self.as_mut().poll_held(cx, buf))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
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
            this.connection_state.moved();
            if let Some(turn) = this.turn {
                if !read.is_empty() {
                    this.connection_state.set_answered();
                }
                turn.read += read.len();
                turn.parsed = true;
                return Poll::Ready(Ok(()));
            }
            let Some(found) = follow(this.frame_rates, this.announced, this.connection_state, read) else {
                // The connection is closed for it, and need not do what it asks for.
                buf.set_filled(before);
                return Poll::Pending;
            };
            // A short one that is full of frames may have more of them behind it.
            *this.crowded = found.frames >= if *this.crowded { CROWD / 4 } else { CROWD };
            if !found.empty && found.may_begin_empty == 0 || read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let read = &mut buf.filled_mut()[before..];
            let left = read.len().checked_sub(found.may_begin_empty).map_or(read.len(), |start| {
                this.held.hold(&read[start..]);
                start
            });
            let left = take_out(this.frame_rates, this.announced, &mut read[..left]);
            buf.set_filled(before + left);
            // To return nothing would mean that all has come.
            if left > 0 {
                return Poll::Ready(Ok(()));
            }
        }
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
        this.connection_state.moved();
        if let Some(frame_rates) = this.frame_rates {
            frame_rates.wrote(n);
        }
        if let Some(counts) = this.engine_counts {
            this.connection_state.engine_counted(counts.wrote(&buf[..n]));
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
        this.connection_state.moved();
        if let Some(frame_rates) = this.frame_rates {
            frame_rates.wrote(n);
        }
        if let Some(counts) = this.engine_counts {
            let mut left = n;
            for buf in bufs {
                let written = left.min(buf.len());
                this.connection_state.engine_counted(counts.wrote(&buf[..written]));
                left -= written;
            }
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

/// What was found in what was read.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Frames that began.
    frames: u32,
    /// There are empty DATA frames among them.
    empty: bool,
    /// Bytes at the end that begin what may be one.
    may_begin_empty: usize,
}

/// Follows what was read. `None`: it exceeds a limit.
fn follow(
    frame_rates: &mut Option<FrameRates>,
    announced: &mut Option<Box<PeerSettings>>,
    connection_state: &ConnectionState,
    read: &[u8],
) -> Option<Found> {
    let mut found = Found::default();
    if let Some(frame_rates) = frame_rates {
        found.frames = frame_rates.read(read)?;
        found.empty = frame_rates.empty_data().any();
        found.may_begin_empty = frame_rates.may_begin_empty();
    }
    if let Some(announced) = announced {
        found.frames = announced.read(read, connection_state);
        found.empty = announced.empty_data().any();
        found.may_begin_empty = announced.may_begin_empty();
    }
    Some(found)
}

/// Takes the empty DATA frames out of what was read, and tells how many bytes are left.
#[cold]
fn take_out(frame_rates: &mut Option<FrameRates>, announced: &mut Option<Box<PeerSettings>>, read: &mut [u8]) -> usize {
    let empty = frame_rates.as_mut().map(FrameRates::empty_data);
    match empty.or_else(|| announced.as_mut().map(|announced| announced.empty_data())) {
        Some(empty) => empty.take_out(read),
        None => read.len(),
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}
