//! The streams of one connection, and the state that they share.

use crate::{
    connection::flow::{blocked::BlockedStreams, buffer_limit::MIN_STREAM_WINDOW},
    stats::{BlockedReason, Transport},
};
use h2::RecvStream;
use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Waker},
};

/// The state that the streams of one connection share.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Bytes of DATA that streams hold because their readers have stopped.
    held: AtomicUsize,
    /// The streams that hold any.
    holding: AtomicUsize,
    /// The held bytes at which the connection's task is woken.
    wakes_at: AtomicUsize,
    /// The window of a stream, in bytes.
    window: AtomicU32,
    /// How often the peer has acknowledged SETTINGS, which may make windows smaller.
    acknowledged: AtomicU32,
    /// The readers of streams that smaller windows may block.
    readers: Mutex<BTreeMap<u32, Waker>>,
    /// Streams whose window is used up.
    receiving: BlockedStreams,
    /// Whether the connection's window is raised by less than is held.
    is_short_of_buffers: AtomicBool,
    /// The connection's task.
    waker: Mutex<Option<Waker>>,
    /// Streams reset because a message on them is malformed.
    pub(super) malformed: AtomicUsize,
    /// Streams that the peer has reset in a row, before any response, as if it had no capacity for them.
    pub(super) refused: AtomicUsize,
    /// The peer has ended the connection with an error, which one stream may have caused.
    pub(super) ended_by_error: AtomicBool,
    /// The peer has responded to a request, or its GOAWAY says that it processes some.
    pub(super) has_answered: AtomicBool,
    /// The peer has sent an interim response, or a header block that may be one.
    interim: AtomicBool,
    /// Bodies whose rest the connection's task is to discard.
    unread_bodies: UnreadBodies,
    /// The largest header list that is forwarded. Not set: any size.
    pub(super) local_max_header_list: OnceLock<usize>,
    /// Streams whose trailers h2 may have cut. Not set: there is none.
    cut: OnceLock<Box<Mutex<VecDeque<u32>>>>,
    /// The largest payload of a DATA frame that has begun to come.
    largest_frame: AtomicUsize,
    /// Bytes that small DATA frames have been charged, and bytes of that repaid by reading the frames.
    charged: AtomicU64,
    paid: AtomicU64,
}

/// One open stream, counted while this lives: the references to `streams` are the count.
#[derive(Debug)]
pub(crate) struct OpenStream {
    streams: Arc<Streams>,
    /// Bytes of DATA that the stream holds because its reader has stopped.
    held: usize,
    /// `None`: its window is not used up.
    blocked: Option<u32>,
    /// The most that can have come of it with padding, in bytes.
    received: usize,
    /// `None`: smaller windows cannot block it. Boxed, since few streams receive enough for that.
    reader: Option<Box<Reader>>,
}

/// A reader that waits for DATA, as [`Streams::readers`] has it.
#[derive(Debug)]
struct Reader {
    id: u32,
    waker: Waker,
    /// [`Streams::acknowledged`] when h2 was last asked for a WINDOW_UPDATE.
    acknowledged: u32,
}

/// Bodies dropped by their readers before their end, until the connection's task takes them.
#[derive(Debug, Default)]
pub(crate) struct UnreadBodies {
    any: AtomicBool,
    bodies: Mutex<Vec<RecvStream>>,
}

const UNPOISONED: &str = "nothing panics with the lock held";

/// The number of streams reset in a row, before any response, after which the connection accepts no more requests.
pub(super) const MAX_REFUSED: usize = 4;
/// Streams with large trailers that are noted. Most of them end as soon as these are read.
const MAX_CUT: usize = 1_024;
/// The window of a stream before SETTINGS (RFC 9113 section 6.9.2).
const INITIAL_WINDOW: u32 = 65_535;
/// The largest payload of DATA by default (RFC 9113 section 4.2).
const MAX_FRAME: usize = 16_384;
/// The most that padding takes of a DATA frame, with its length (RFC 9113 section 6.1).
const MAX_PADDING: usize = 256;
/// A DATA frame of fewer bytes is charged the difference; a larger one repays it.
pub(super) const SMALL: usize = 256;

// === impl Streams ===

impl Streams {
    pub(super) fn new(transport: &Arc<Transport>) -> Self {
        Self {
            held: AtomicUsize::new(0),
            holding: AtomicUsize::new(0),
            wakes_at: AtomicUsize::new(0),
            window: AtomicU32::new(INITIAL_WINDOW),
            acknowledged: AtomicU32::new(0),
            readers: Mutex::default(),
            receiving: BlockedStreams::new(Arc::clone(transport), BlockedReason::Reader),
            is_short_of_buffers: AtomicBool::new(false),
            waker: Mutex::new(None),
            malformed: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            ended_by_error: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            interim: AtomicBool::new(false),
            unread_bodies: UnreadBodies::default(),
            local_max_header_list: OnceLock::new(),
            cut: OnceLock::new(),
            largest_frame: AtomicUsize::new(0),
            charged: AtomicU64::new(0),
            paid: AtomicU64::new(0),
        }
    }

    /// The largest header list that is forwarded.
    pub(crate) fn local_max_header_list(&self) -> usize {
        self.local_max_header_list.get().copied().unwrap_or(usize::MAX)
    }

    /// Notes that the trailers of `stream`, if its block is trailers, may have lost fields.
    pub(crate) fn note_cut(&self, stream: u32) {
        let mut cut = self.cut.get_or_init(Box::default).lock().expect(UNPOISONED);
        if cut.len() == MAX_CUT {
            cut.pop_front();
        }
        cut.push_back(stream);
    }

    /// Streams whose window is used up.
    pub(crate) fn receiving(&self) -> &BlockedStreams {
        &self.receiving
    }

    /// Sets the window of a stream.
    pub(super) fn set_window(&self, bytes: u32) {
        self.window.store(bytes, Relaxed);
    }

    /// The engine has applied SETTINGS that the peer has acknowledged. SETTINGS that make windows smaller may leave a stream
    /// without any although all of its DATA is read: h2 sends WINDOW_UPDATE when DATA is read, and not then.
    pub(super) fn settings_applied(&self) {
        self.acknowledged.fetch_add(1, Relaxed);
        self.readers.lock().expect(UNPOISONED).values().for_each(Waker::wake_by_ref);
    }

    /// Sets whether the connection's window is raised by less than is held.
    pub(super) fn set_short_of_buffers(&self, is_short: bool) {
        if self.is_short_of_buffers.swap(is_short, Relaxed) != is_short {
            self.receiving.set_reason(self.receiving_reason());
        }
    }

    fn receiving_reason(&self) -> BlockedReason {
        if self.is_short_of_buffers.load(Relaxed) { BlockedReason::Budget } else { BlockedReason::Reader }
    }

    /// Bytes of DATA that streams hold because their readers have stopped.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// The streams that hold any.
    pub(crate) fn holding(&self) -> usize {
        self.holding.load(Relaxed)
    }

    /// Sets the bytes that one stream holds, `before` until now.
    fn set_held(&self, before: usize, now: usize) {
        if before == 0 {
            self.holding.fetch_add(1, Relaxed);
        } else if now == 0 {
            self.holding.fetch_sub(1, Relaxed);
        }
        if now < before {
            self.held.fetch_sub(before - now, Relaxed);
        } else {
            self.held.fetch_add(now - before, Relaxed);
        }
    }

    /// Wakes the connection's task if streams hold so much that it is to raise the window.
    pub(crate) fn wake_if_held(&self) {
        if self.held() >= self.wakes_at.load(Relaxed) {
            self.wake();
        }
    }

    /// Records that the peer sends interim responses.
    pub(crate) fn expect_interim(&self) {
        self.interim.store(true, Relaxed);
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().expect(UNPOISONED) {
            waker.wake_by_ref();
        }
    }

    /// Sets the bytes that small DATA frames have been charged so far.
    pub(crate) fn set_charged(&self, charged: u64) {
        self.charged.store(charged, Relaxed);
    }

    /// Repays the charge of a small DATA frame that was read.
    pub(crate) fn pay(&self, charge: u64) {
        self.paid.fetch_add(charge, Relaxed);
    }

    pub(crate) fn paid(&self) -> u64 {
        self.paid.load(Relaxed)
    }

    /// Bytes that are charged and not repaid: the frames are not read yet, or never will be.
    pub(crate) fn owed(&self) -> u64 {
        self.charged.load(Relaxed).saturating_sub(self.paid())
    }

    /// Notes a DATA frame that begins to come.
    #[inline]
    pub(super) fn frame(&self, bytes: usize) {
        if bytes > self.largest_frame.load(Relaxed) {
            self.largest_frame.store(bytes, Relaxed);
        }
    }

    pub(crate) fn unread_bodies(&self) -> &UnreadBodies {
        &self.unread_bodies
    }

    /// Sets the waker of the connection's task, which is woken when streams hold `wakes_at` bytes.
    pub(crate) fn set_waker(&self, waker: &Waker, wakes_at: usize) {
        *self.waker.lock().expect(UNPOISONED) = Some(waker.clone());
        self.set_wakes_at(wakes_at);
    }

    pub(crate) fn set_wakes_at(&self, bytes: usize) {
        self.wakes_at.store(bytes, Relaxed);
    }
}

// === impl OpenStream ===

impl OpenStream {
    pub(super) fn new(streams: &Arc<Streams>) -> Self {
        Self { streams: Arc::clone(streams), held: 0, blocked: None, received: 0, reader: None }
    }

    /// The same, holding all of its window. Does not wake the connection's task, which is to call
    /// [`wake_if_held`](Streams::wake_if_held) after the reader's first poll: most readers then hold nothing.
    pub(crate) fn with_window_held(mut self) -> Self {
        self.held = self.window();
        self.streams.set_held(0, self.held);
        self
    }

    /// Sets the bytes of DATA that the stream holds because its reader has stopped, and wakes the connection's task if it is to
    /// raise the window. Zero: the reader reads.
    #[inline]
    pub(crate) fn set_held(&mut self, bytes: usize) {
        if bytes != self.held {
            self.streams.set_held(self.held, bytes);
            if bytes > self.held {
                self.streams.wake_if_held();
            }
            self.held = bytes;
        }
        if bytes == 0 && self.blocked.is_some() {
            self.unblock();
        }
    }

    /// As [`set_held`](Self::set_held), for the stream `id` of a reader that has stopped: the peer is blocked once the window
    /// is used up, but for less than a frame.
    pub(crate) fn set_held_by_stopped(&mut self, bytes: usize, id: u32) {
        self.set_held(bytes);
        let is_blocked = bytes + MAX_FRAME > self.window();
        if is_blocked != self.blocked.is_some() {
            if is_blocked {
                self.streams.receiving.block(id, None, self.streams.receiving_reason());
                self.blocked = Some(id);
            } else {
                self.unblock();
            }
        }
    }

    /// The largest payload of a DATA frame of the connection, in bytes.
    pub(crate) fn largest_frame(&self) -> usize {
        self.streams.largest_frame.load(Relaxed)
    }

    /// The window of a stream, in bytes.
    pub(crate) fn window(&self) -> usize {
        self.streams.window.load(Relaxed) as usize
    }

    #[cold]
    fn unblock(&mut self) {
        if let Some(id) = self.blocked.take() {
            self.streams.receiving.unblock(id);
        }
    }

    /// The largest header list that is forwarded, in bytes.
    pub(crate) fn local_max_header_list(&self) -> usize {
        self.streams.local_max_header_list()
    }

    /// Whether h2 may have left fields out of the trailers of the stream. `id` takes h2's lock, so it is called only if there are
    /// such streams.
    pub(crate) fn is_cut(&self, id: impl FnOnce() -> u32) -> bool {
        self.streams.cut.get().is_some_and(|cut| {
            let id = id();
            cut.lock().expect(UNPOISONED).contains(&id)
        })
    }

    /// Whether interim responses may come.
    pub(crate) fn expects_interim(&self) -> bool {
        self.streams.interim.load(Relaxed)
    }

    /// Counts a reset by the peer before any response, as if it had no capacity for the stream.
    pub(crate) fn refused(&self) {
        if self.streams.refused.fetch_add(1, Relaxed) + 1 == MAX_REFUSED {
            self.streams.wake();
        }
    }

    /// Ends a row of refused streams: the head of the response has come.
    pub(crate) fn answered(&self) {
        if self.streams.refused.load(Relaxed) > 0 {
            self.streams.refused.store(0, Relaxed);
        }
    }

    /// Whether the peer has responded to a request on the connection, or says that it will.
    pub(crate) fn has_answered(&self) -> bool {
        self.streams.has_answered.load(Relaxed)
    }

    /// Whether the peer has ended the connection with an error.
    pub(crate) fn is_ended_by_error(&self) -> bool {
        self.streams.ended_by_error.load(Relaxed)
    }

    /// Counts a malformed message.
    pub(crate) fn malformed(&self) {
        self.streams.malformed.fetch_add(1, Relaxed);
    }

    /// Repays the charge of a DATA frame of `length` bytes, which was read.
    pub(crate) fn received(&mut self, length: usize) {
        self.received = self.received.saturating_add(length + MAX_PADDING);
        let charge = charge(length);
        if charge > 0 {
            self.streams.pay(charge);
        }
    }

    /// The reader has all DATA of `source` that has come. Should SETTINGS have made windows smaller, or do so before more
    /// comes, the stream may be left without window; then h2 is asked for a WINDOW_UPDATE.
    #[inline]
    pub(crate) fn waits(&mut self, source: &mut RecvStream, cx: &Context<'_>) {
        // A stream of which less has come has some of even the smallest window left.
        if self.received >= MIN_STREAM_WINDOW as usize {
            self.ask_for_window(source, cx);
        }
    }

    fn ask_for_window(&mut self, source: &mut RecvStream, cx: &Context<'_>) {
        let streams = &self.streams;
        let reader = match &mut self.reader {
            Some(reader) if reader.waker.will_wake(cx.waker()) => reader,
            reader => {
                let id = source.stream_id().as_u32();
                let waker = cx.waker().clone();
                streams.readers.lock().expect(UNPOISONED).insert(id, waker.clone());
                let acknowledged = reader.as_ref().map_or(0, |reader| reader.acknowledged);
                reader.insert(Box::new(Reader { id, waker, acknowledged }))
            }
        };
        let acknowledged = streams.acknowledged.load(Relaxed);
        if reader.acknowledged != acknowledged {
            reader.acknowledged = acknowledged;
            // Sends WINDOW_UPDATE if one is due. Fails only if the stream has ended.
            let _ = source.flow_control().release_capacity(0);
        }
    }

    /// Leaves the rest of the body to the connection's task, which discards it.
    pub(crate) fn discard_rest(&self, body: RecvStream) {
        self.streams.unread_bodies.push(body);
        self.streams.wake();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.set_held(0);
        if let Some(reader) = &self.reader {
            self.streams.readers.lock().expect(UNPOISONED).remove(&reader.id);
        }
    }
}

// === impl UnreadBodies ===

impl UnreadBodies {
    pub(crate) fn push(&self, body: RecvStream) {
        self.bodies.lock().expect(UNPOISONED).push(body);
        self.any.store(true, Relaxed);
    }

    pub(super) fn take(&self) -> Vec<RecvStream> {
        // A body pushed after this check wakes the connection's task again.
        if !self.any.load(Relaxed) {
            return Vec::new();
        }
        self.any.store(false, Relaxed);
        mem::take(&mut *self.bodies.lock().expect(UNPOISONED))
    }
}

/// Bytes that a DATA frame of `length` bytes is charged until it is read. For empty frames h2 has another limit. h2 does not
/// charge the last frame of a stream, but its reader cannot tell which is the last.
pub(crate) fn charge(length: usize) -> u64 {
    if length == 0 { 0 } else { SMALL.saturating_sub(length) as u64 }
}
