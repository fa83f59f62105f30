//! The transport under a connection, which counts the bytes it carries, and reads frames beside the engine.

use crate::{
    connection::{
        frames::{
            empty_data::{EmptyDataFilter, FramesRead, HeldHead},
            endpoint::EndpointFrames,
            engine_counts::EngineCounts,
            head::PREFACE,
            local_settings::LocalSettings,
            rate::FrameRates,
            reader::FrameReader,
        },
        state::ConnectionState,
        wake,
        write_batch::WriteBatch,
    },
    stats::{Observe, Transport},
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
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

pin_project! {
    /// A transport that adds its life and its bytes to the counters of one peer.
    #[derive(Debug)]
    #[project = IoProject]
    pub(crate) struct Io<I> {
        #[pin]
        inner: I,
        open: OpenGuard,
        connection_state: Arc<ConnectionState>,
        incoming: Incoming,
        outgoing: Outgoing,
    }
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
struct OpenGuard {
    transport: Arc<Transport>,
    /// Its place among the open connections.
    place: usize,
    opened: Instant,
}

/// The direction from the peer.
#[derive(Debug, Default)]
struct Incoming {
    peer: Peer,
    /// Whether the next read is to be short, since the last one brought more than a turn should have.
    reads_short: bool,
    /// The start of a frame at the end of the last read, which h2 may not need to see.
    held: HeldHead,
}

/// The direction to the peer. Empty for HTTP/1.1.
#[derive(Debug, Default)]
struct Outgoing {
    /// Until the first SETTINGS are written.
    local_settings: Option<Box<LocalSettings>>,
    frames: Option<FrameReader<EngineCounts>>,
    batch: WriteBatch,
}

#[derive(Debug, Default)]
enum Peer {
    /// A client of HTTP/1.1, or of a version that is not known yet.
    #[default]
    Other,
    Http2Client(FrameReader<FrameRates>),
    Http2Endpoint(FrameReader<EndpointFrames>),
    Http1Endpoint(Http1Turn),
}

/// The reads from an endpoint of HTTP/1.1 since others had their turn.
#[derive(Debug)]
struct Http1Turn {
    /// Interim responses that hyper has found since the last read.
    interim: Arc<AtomicU32>,
    /// Bytes that were read, and the weight of interim responses.
    read: usize,
    /// By now hyper has parsed the last read.
    parsed: bool,
}

/// Frames in a read after which the next one is of [`SHORT_READ`] bytes: h2 takes all frames of a read before others have
/// their turn.
const MANY_FRAMES: u32 = 256;
/// The bytes of about as many of the smallest frames.
const SHORT_READ: usize = 2 << 10;
/// Interim responses in a read of HTTP/1.1 after which the next one is as short: hyper takes all of them at once, too.
const MANY_INTERIM: u32 = 16;
/// Bytes of HTTP/1.1 until others have their turn.
const BYTES_A_TURN: usize = 128 << 10;
/// The weight of an interim response beside its bytes.
const BYTES_AN_INTERIM: usize = 1 << 10;

// === impl Io ===

impl<I> Io<I> {
    pub(crate) fn new(inner: I, transport: &Arc<Transport>, connection_state: &Arc<ConnectionState>) -> Self {
        let place = transport.opened(Arc::<ConnectionState>::downgrade(connection_state));
        let open = OpenGuard { transport: Arc::clone(transport), place, opened: Instant::now() };
        let connection_state = Arc::clone(connection_state);
        Self { inner, open, connection_state, incoming: Incoming::default(), outgoing: Outgoing::default() }
    }

    /// The same with a client of HTTP/2 as its peer, to which `max_header_list` is announced. `observe`: records the requests that
    /// h2 refuses.
    pub(crate) fn with_http2_client(
        mut self,
        frames: FrameReader<FrameRates>,
        max_header_list: u32,
        observe: Option<Arc<dyn Observe>>,
    ) -> Self {
        self.connection_state.set_http2();
        self.incoming.peer = Peer::Http2Client(frames);
        self.outgoing = Outgoing::new(max_header_list, EngineCounts::reader(0, &self.connection_state, observe), 0);
        self
    }

    /// The same with an endpoint of HTTP/2 as its peer, to which `max_header_list` is announced.
    pub(crate) fn with_http2_endpoint(mut self, max_header_list: u32) -> Self {
        self.connection_state.set_http2();
        self.incoming.peer = Peer::Http2Endpoint(EndpointFrames::reader(&self.connection_state));
        let frames = EngineCounts::reader(PREFACE, &self.connection_state, None);
        self.outgoing = Outgoing::new(max_header_list, frames, PREFACE);
        self
    }

    /// The same with an endpoint of HTTP/1.1 as its peer, where `interim` counts the interim responses that hyper has found.
    pub(crate) fn with_http1_endpoint(mut self, interim: Arc<AtomicU32>) -> Self {
        self.incoming.peer = Peer::Http1Endpoint(Http1Turn { interim, read: 0, parsed: false });
        self
    }
}

impl<I: AsyncRead> Io<I> {
    /// Reads until it is known whether h2 is to see the frame that is held, and then gives h2 the bytes that are held. Ready
    /// with `false`: h2 is not to see it.
    #[cold]
    fn poll_held(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let IoProject { mut inner, open, connection_state, incoming, .. } = self.project();
        while !incoming.held.passes() {
            let mut missing = ReadBuf::new(incoming.held.missing());
            ready!(inner.as_mut().poll_read(cx, &mut missing))?;
            let read = missing.filled();
            let count = read.len();
            if count == 0 {
                // The end comes once more when it is asked for.
                incoming.held.pass();
                break;
            }
            open.transport.read(count);
            connection_state.path().read(count);
            connection_state.moved();
            let Some(frames) = incoming.peer.follow(read) else { return Poll::Pending };
            if frames.has_empty {
                incoming.held.clear();
                return Poll::Ready(Ok(false));
            }
            incoming.held.add(count);
        }
        buf.put_slice(incoming.held.give(buf.remaining()));
        Poll::Ready(Ok(true))
    }
}

impl<I: AsyncRead> AsyncRead for Io<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.connection_state.path().is_acknowledged() {
            self.connection_state.settings_applied();
        }
        loop {
            let IoProject { inner, open, connection_state, incoming, .. } = self.as_mut().project();
            if !incoming.may_read(connection_state, cx) {
                return Poll::Pending;
            }
            if !incoming.held.is_empty() {
                if ready!(self.as_mut().poll_held(cx, buf))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let before = buf.filled().len();
            let polled = if incoming.reads_short {
                let mut short = ReadBuf::new(buf.initialize_unfilled_to(SHORT_READ.min(buf.remaining())));
                let polled = inner.poll_read(cx, &mut short);
                let read = short.filled().len();
                buf.advance(read);
                polled
            } else {
                inner.poll_read(cx, buf)
            };
            if polled.is_pending()
                && let Peer::Http2Client(frames) = &incoming.peer
            {
                frames.note_read_pending();
            }
            ready!(polled)?;
            let read = &mut buf.filled_mut()[before..];
            let count = read.len();
            open.transport.read(count);
            connection_state.path().read(count);
            connection_state.moved();
            let Some(left) = incoming.read(read, connection_state) else {
                // The connection is closed for them, and h2 need not see them.
                buf.set_filled(before);
                return Poll::Pending;
            };
            buf.set_filled(before + left);
            // An empty read would mean the end.
            if left > 0 || count == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncWrite> AsyncWrite for Io<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut this = self.project();
        if this.outgoing.local_settings.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return this.poll_first(cx, first.map_or(&[], |first| first));
        }
        let count = if this.outgoing.frames.is_some() && this.outgoing.batch.takes(bufs) {
            if !this.outgoing.batch.has_room() {
                ready!(this.poll_batch(cx))?;
            }
            this.outgoing.batch.add(bufs)
        } else {
            let polled = this.inner.as_mut().poll_write_vectored(cx, bufs);
            ready!(this.wrote(polled))?
        };
        this.follow(count, bufs.iter().map(|buf| &**buf));
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if this.outgoing.batch.flushes_later() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_batch(cx))?;
        this.inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        ready!(this.poll_batch(cx))?;
        this.inner.poll_shutdown(cx)
    }
}

impl<I: AsyncWrite> IoProject<'_, I> {
    /// Writes the first SETTINGS, and the client's preface before them.
    #[cold]
    fn poll_first(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let first = self.outgoing.local_settings.as_deref_mut();
        let polled = self.inner.as_mut().poll_write(cx, first.map_or(buf, |first| first.next(buf)));
        let count = ready!(self.wrote(polled))?;
        self.outgoing.local_settings.take_if(|first| first.wrote(count));
        self.follow(count, [buf]);
        Poll::Ready(Ok(count))
    }

    /// Writes all of the batch.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.batch.is_empty() {
            let inner = self.inner.as_mut();
            let polled = self.outgoing.batch.with_slices(|slices| inner.poll_write_vectored(cx, slices));
            self.connection_state.set_unwritten(polled.is_pending());
            let count = ready!(self.wrote(polled))?;
            self.outgoing.batch.wrote(count)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Counts the bytes that the transport has taken.
    fn wrote(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.connection_state.set_write_blocked(polled.is_pending());
        let count = ready!(polled)?;
        self.open.transport.wrote(count);
        self.connection_state.path().wrote(count);
        self.connection_state.moved();
        Poll::Ready(Ok(count))
    }

    /// Follows the first `count` bytes of `bufs`, which h2 has written.
    fn follow<'a>(&mut self, count: usize, bufs: impl IntoIterator<Item = &'a [u8]>) {
        if let Peer::Http2Client(frames) = &mut self.incoming.peer {
            frames.wrote(count);
        }
        let Some(frames) = &mut self.outgoing.frames else { return };
        let mut left = count;
        for buf in bufs {
            let written = left.min(buf.len());
            frames.wrote(&buf[..written]);
            left -= written;
        }
    }
}

// === impl OpenGuard ===

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.transport.closed(self.place, self.opened.elapsed());
    }
}

// === impl Incoming ===

impl Incoming {
    /// Whether the transport may be read now; if not, `cx` is woken for the next turn or by the transport, or a limit is exceeded.
    fn may_read(&mut self, connection_state: &ConnectionState, cx: &mut Context<'_>) -> bool {
        match &mut self.peer {
            Peer::Http2Client(frames) => frames.may_read(cx) && connection_state.has_turn(cx),
            Peer::Other | Peer::Http2Endpoint(_) => connection_state.has_turn(cx),
            Peer::Http1Endpoint(turn) => {
                if !connection_state.has_turn(cx) {
                    return false;
                }
                if let Some(interim) = turn.end_read() {
                    self.reads_short = interim >= MANY_INTERIM;
                }
                turn.may_read(cx)
            }
        }
    }

    /// Follows the bytes that were read, and removes the ones that h2 does not see. Returns the number of bytes that are
    /// left, or `None` if a limit is exceeded.
    fn read(&mut self, read: &mut [u8], connection_state: &ConnectionState) -> Option<usize> {
        if let Peer::Http1Endpoint(turn) = &mut self.peer {
            if !read.is_empty() {
                connection_state.set_answered();
            }
            turn.read(read.len());
            return Some(read.len());
        }
        let frames = self.peer.follow(read)?;
        // A short read that is full of frames may have more of them behind it.
        self.reads_short = frames.began >= if self.reads_short { MANY_FRAMES / 4 } else { MANY_FRAMES };
        if !frames.has_empty && frames.may_begin_empty == 0 {
            return Some(read.len());
        }
        Some(self.remove_empty(frames, read))
    }

    #[cold]
    fn remove_empty(&mut self, frames: FramesRead, read: &mut [u8]) -> usize {
        // The rest of a head that began in an earlier read is not held: h2 has got a part of it.
        let left = read.len().checked_sub(frames.may_begin_empty.into()).map_or(read.len(), |start| {
            self.held.hold(&read[start..]);
            start
        });
        self.peer.empty_data().map_or(left, |empty_data| empty_data.remove(&mut read[..left]))
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// For HTTP/2, where the first frame is written after `before` bytes.
    fn new(max_header_list: u32, frames: FrameReader<EngineCounts>, before: usize) -> Self {
        let local_settings = Some(Box::new(LocalSettings::new(max_header_list, before)));
        Self { local_settings, frames: Some(frames), batch: WriteBatch::default() }
    }
}

// === impl Peer ===

impl Peer {
    /// Follows the bytes that were read. `None`: they exceed a limit.
    fn follow(&mut self, read: &[u8]) -> Option<FramesRead> {
        match self {
            Self::Http2Client(frames) => frames.read(read),
            Self::Http2Endpoint(frames) => Some(frames.read(read)),
            Self::Other | Self::Http1Endpoint(_) => Some(FramesRead::default()),
        }
    }

    /// The empty DATA frames of the last read.
    fn empty_data(&mut self) -> Option<&mut EmptyDataFilter> {
        match self {
            Self::Http2Client(frames) => Some(frames.observer.empty_data()),
            Self::Http2Endpoint(frames) => Some(frames.observer.empty_data()),
            Self::Other | Self::Http1Endpoint(_) => None,
        }
    }
}

// === impl Http1Turn ===

impl Http1Turn {
    /// The interim responses in the last read, once hyper has parsed it.
    fn end_read(&mut self) -> Option<u32> {
        mem::take(&mut self.parsed).then(|| {
            let interim = self.interim.swap(0, Relaxed);
            self.read += BYTES_AN_INTERIM * interim as usize;
            interim
        })
    }

    /// Whether more may be read in this turn; if not, `cx` is woken for the next one.
    fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        let has_turn = self.read < BYTES_A_TURN;
        if !has_turn {
            self.read = 0;
            wake::after_others(cx);
        }
        has_turn
    }

    fn read(&mut self, count: usize) {
        self.read += count;
        self.parsed = true;
    }
}
