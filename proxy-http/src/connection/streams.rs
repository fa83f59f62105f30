//! The streams of one connection, and the state that they share.

use h2::RecvStream;
use std::{
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

/// The state that the streams of one connection share.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Streams under backpressure: their readers have stopped, and received data waits.
    backpressured: AtomicUsize,
    /// The number of backpressured streams at which the connection's task is woken.
    wakes_at: AtomicUsize,
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
    pub(super) max_list: OnceLock<usize>,
    /// Bytes that small DATA frames have been charged, and bytes of that repaid by reading the frames.
    charged: AtomicU64,
    paid: AtomicU64,
}

/// One open stream, counted while this lives: the references to `streams` are the count.
#[derive(Debug)]
pub(crate) struct OpenStream {
    streams: Arc<Streams>,
    is_backpressured: bool,
}

/// Bodies dropped by their readers before their end, until the connection's task takes them.
#[derive(Debug, Default)]
pub(crate) struct UnreadBodies {
    any: AtomicBool,
    bodies: Mutex<Vec<RecvStream>>,
}

/// The number of streams reset in a row, before any response, after which the connection accepts no more requests.
pub(super) const MAX_REFUSED: usize = 4;
/// A DATA frame of fewer bytes is charged the difference; a larger one repays it.
pub(super) const SMALL: usize = 256;

// === impl Streams ===

impl Streams {
    /// The number of streams under backpressure.
    pub(crate) fn backpressured(&self) -> usize {
        self.backpressured.load(Relaxed)
    }

    pub(crate) fn add_backpressured(&self) {
        self.backpressured.fetch_add(1, Relaxed);
    }

    pub(crate) fn remove_backpressured(&self) {
        self.backpressured.fetch_sub(1, Relaxed);
    }

    /// Records that the peer sends interim responses.
    pub(crate) fn expect_interim(&self) {
        self.interim.store(true, Relaxed);
    }

    /// Wakes the connection's task if it is to raise the window for the streams under backpressure.
    pub(crate) fn report_backpressure(&self) {
        if self.backpressured() >= self.wakes_at.load(Relaxed) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().expect("nothing panics with the lock held") {
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

    pub(crate) fn unread_bodies(&self) -> &UnreadBodies {
        &self.unread_bodies
    }

    /// Sets the waker of the connection's task, which is woken when `wakes_at` streams are under backpressure.
    pub(crate) fn set_waker(&self, waker: &Waker, wakes_at: usize) {
        *self.waker.lock().expect("nothing panics with the lock held") = Some(waker.clone());
        self.set_wakes_at(wakes_at);
    }

    pub(crate) fn set_wakes_at(&self, streams: usize) {
        self.wakes_at.store(streams, Relaxed);
    }
}

// === impl OpenStream ===

impl OpenStream {
    pub(super) fn new(streams: &Arc<Streams>) -> Self {
        Self { streams: Arc::clone(streams), is_backpressured: false }
    }

    /// Sets whether received data waits for a reader that has stopped.
    pub(crate) fn set_backpressured(&mut self, is_backpressured: bool) {
        if is_backpressured != self.is_backpressured {
            self.is_backpressured = is_backpressured;
            if is_backpressured { self.streams.add_backpressured() } else { self.streams.remove_backpressured() }
        }
    }

    /// The largest header list that is forwarded, in bytes.
    pub(crate) fn max_list(&self) -> usize {
        self.streams.max_list.get().copied().unwrap_or(usize::MAX)
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
    pub(crate) fn received(&self, length: usize) {
        let charge = charge(length);
        if charge > 0 {
            self.streams.pay(charge);
        }
    }

    /// Leaves the rest of the body to the connection's task, which discards it.
    pub(crate) fn discard_rest(&self, body: RecvStream) {
        self.streams.unread_bodies.push(body);
        self.streams.wake();
    }

    /// Counts the stream as backpressured, and wakes the connection's task if it is to raise the window.
    pub(crate) fn report_backpressure(&mut self) {
        self.set_backpressured(true);
        self.streams.report_backpressure();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.set_backpressured(false);
    }
}

// === impl UnreadBodies ===

impl UnreadBodies {
    pub(crate) fn push(&self, body: RecvStream) {
        self.bodies.lock().expect("nothing panics with the lock held").push(body);
        self.any.store(true, Relaxed);
    }

    pub(super) fn take(&self) -> Vec<RecvStream> {
        // A body pushed after this check wakes the connection's task again.
        if !self.any.load(Relaxed) {
            return Vec::new();
        }
        self.any.store(false, Relaxed);
        mem::take(&mut *self.bodies.lock().expect("nothing panics with the lock held"))
    }
}

/// Bytes that a DATA frame of `length` bytes is charged until it is read. For empty frames h2 has another limit. h2 does not
/// charge the last frame of a stream, but its reader cannot tell which is the last.
pub(crate) fn charge(length: usize) -> u64 {
    if length == 0 { 0 } else { SMALL.saturating_sub(length) as u64 }
}
