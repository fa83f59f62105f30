//! The streams of one connection, and what they share.

use h2::RecvStream;
use std::{
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

/// What the streams of one connection share.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Those that hold what was received, since nobody reads it now.
    held: AtomicUsize,
    /// How many are held when the connection wants to know of it.
    wakes_at: AtomicUsize,
    /// The connection.
    waker: Mutex<Option<Waker>>,
    /// Those that were reset because what came on them is malformed.
    pub(super) malformed: AtomicUsize,
    /// Those that the peer has reset in a row, before any response, as if it had no room for them.
    pub(super) refused: AtomicUsize,
    /// The peer has ended the connection for an error, perhaps of one stream alone.
    pub(super) ended_by_error: AtomicBool,
    /// The peer has answered a request, or says by GOAWAY that it will.
    pub(super) has_answered: AtomicBool,
    /// The peer has sent an interim response, or what may be one.
    interim: AtomicBool,
    /// Bodies that nobody reads any more.
    left: Left,
    /// The largest header list that is passed on. Not set: any.
    pub(super) max_list: OnceLock<usize>,
    /// What small DATA frames cost, and what of that was paid by reading them.
    charged: AtomicU64,
    paid: AtomicU64,
}

/// One open stream, counted while it lives: its reference is the count.
#[derive(Debug)]
pub(crate) struct OpenStream {
    streams: Arc<Streams>,
    held: bool,
}

/// Those that were left since their connection has looked.
#[derive(Debug, Default)]
pub(crate) struct Left {
    any: AtomicBool,
    bodies: Mutex<Vec<RecvStream>>,
}

/// Streams that a peer resets in a row, before any response, until its connection takes no more.
pub(super) const MAX_REFUSED: usize = 4;
/// DATA frames of fewer bytes cost what is missing of them, larger ones pay what they have more.
pub(super) const SMALL: usize = 256;

// === impl Streams ===

impl Streams {
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    pub(crate) fn hold(&self) {
        self.held.fetch_add(1, Relaxed);
    }

    pub(crate) fn let_go(&self) {
        self.held.fetch_sub(1, Relaxed);
    }

    /// The peer sends interim responses.
    pub(crate) fn expect_interim(&self) {
        self.interim.store(true, Relaxed);
    }

    /// One that is held will be for some time: wakes the connection if that makes too many.
    pub(crate) fn stuck(&self) {
        if self.held() >= self.wakes_at.load(Relaxed) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().expect("nothing panics with the lock held") {
            waker.wake_by_ref();
        }
    }

    /// What small DATA frames have cost so far, in bytes.
    pub(crate) fn set_charged(&self, charged: u64) {
        self.charged.store(charged, Relaxed);
    }

    /// One of them was read.
    pub(crate) fn pay(&self, charge: u64) {
        self.paid.fetch_add(charge, Relaxed);
    }

    pub(crate) fn paid(&self) -> u64 {
        self.paid.load(Relaxed)
    }

    /// What is not paid for yet, or never will be.
    pub(crate) fn owed(&self) -> u64 {
        self.charged.load(Relaxed).saturating_sub(self.paid())
    }

    pub(crate) fn left(&self) -> &Left {
        &self.left
    }

    /// From now on `waker` is woken when so many are held.
    pub(crate) fn set_waker(&self, waker: &Waker, held: usize) {
        *self.waker.lock().expect("nothing panics with the lock held") = Some(waker.clone());
        self.set_wakes_at(held);
    }

    pub(crate) fn set_wakes_at(&self, held: usize) {
        self.wakes_at.store(held, Relaxed);
    }
}

// === impl OpenStream ===

impl OpenStream {
    pub(super) fn new(streams: &Arc<Streams>) -> Self {
        Self { streams: Arc::clone(streams), held: false }
    }

    /// Whether it holds what was received.
    pub(crate) fn set_held(&mut self, held: bool) {
        if held != self.held {
            self.held = held;
            if held { self.streams.hold() } else { self.streams.let_go() }
        }
    }

    /// The largest header list that is passed on, in bytes.
    pub(crate) fn max_list(&self) -> usize {
        self.streams.max_list.get().copied().unwrap_or(usize::MAX)
    }

    /// Whether interim responses may come.
    pub(crate) fn expects_interim(&self) -> bool {
        self.streams.interim.load(Relaxed)
    }

    /// The peer has reset it before any response, as if it had no room for it.
    pub(crate) fn refused(&self) {
        if self.streams.refused.fetch_add(1, Relaxed) + 1 == MAX_REFUSED {
            self.streams.wake();
        }
    }

    /// The head of its response has come.
    pub(crate) fn answered(&self) {
        if self.streams.refused.load(Relaxed) > 0 {
            self.streams.refused.store(0, Relaxed);
        }
    }

    /// Whether the peer has answered a request on the connection, or says that it will.
    pub(crate) fn has_answered(&self) -> bool {
        self.streams.has_answered.load(Relaxed)
    }

    /// Whether the peer has ended the connection for an error.
    pub(crate) fn is_ended_by_error(&self) -> bool {
        self.streams.ended_by_error.load(Relaxed)
    }

    /// What came on it is malformed.
    pub(crate) fn malformed(&self) {
        self.streams.malformed.fetch_add(1, Relaxed);
    }

    /// A DATA frame of so many bytes was read.
    pub(crate) fn received(&self, length: usize) {
        let charge = charge(length);
        if charge > 0 {
            self.streams.pay(charge);
        }
    }

    /// Leaves the rest of its body to the connection.
    pub(crate) fn leave(&self, body: RecvStream) {
        self.streams.left.push(body);
        self.streams.wake();
    }

    /// It is held, and will be for some time.
    pub(crate) fn stuck(&mut self) {
        self.set_held(true);
        self.streams.stuck();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.set_held(false);
    }
}

// === impl Left ===

impl Left {
    pub(crate) fn push(&self, body: RecvStream) {
        self.bodies.lock().expect("nothing panics with the lock held").push(body);
        self.any.store(true, Relaxed);
    }

    pub(super) fn take(&self) -> Vec<RecvStream> {
        // Whoever comes now wakes the connection.
        if !self.any.load(Relaxed) {
            return Vec::new();
        }
        self.any.store(false, Relaxed);
        mem::take(&mut *self.bodies.lock().expect("nothing panics with the lock held"))
    }
}

/// What a DATA frame of so many bytes costs until it is read. For empty ones h2 has a limit of its own. The last one of a
/// stream costs h2 nothing, but who reads it cannot tell.
pub(crate) fn charge(length: usize) -> u64 {
    if length == 0 { 0 } else { SMALL.saturating_sub(length) as u64 }
}
