//! The bound of what connections buffer for readers that have stopped, which connections share.

use std::{
    mem,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

/// A limit of the bytes that connections buffer for readers that have stopped, beyond their windows.
///
/// All connections that are given the same limit share it. Connections from clients whose windows are adaptive take the part
/// of their window above 1 MiB from it, up to three quarters, so that what clients have been promised has a bound, too. When the
/// limit is used up, connections get no more window: a connection whose window is used up by streams whose readers have
/// stopped stalls, and memory does not grow.
#[derive(Debug)]
pub struct BufferLimit {
    max: usize,
    /// Window above [`MIN_CONNECTION_WINDOW`] of connections whose windows are adaptive.
    reserved: AtomicUsize,
    /// Window that connections have been given for what their streams hold.
    given: AtomicUsize,
    /// Streams that hold data for readers that have stopped, of the connections that have been given window.
    holding: AtomicUsize,
    /// Connections that have less window than they want.
    waiting: Mutex<Vec<Waker>>,
    /// How often they were woken.
    wakes: AtomicU64,
}

/// The least window of a connection whose windows are adaptive: that of the default params.
pub(crate) const MIN_CONNECTION_WINDOW: u32 = 1 << 20;
/// The least stream window under pressure: the initial one of RFC 9113 section 6.9.2.
pub(crate) const MIN_STREAM_WINDOW: u32 = 65_535;
/// The part of the limit that readers which have stopped are meant to use: a sixteenth, 16 MiB of the default limit.
const TARGET: usize = 16;
/// The part of the target that the streams of one connection may use, whatever the others do, until [`SEVERE`].
const SHARE: usize = 8;
/// The part of the limit that is used when pressure is severe.
const SEVERE: usize = 4;
/// The part of the limit that is never reserved: a half by connections of which nothing is known yet, a quarter by the ones
/// whose path has been measured.
const KEPT: usize = 2;
const KEPT_FROM_MEASURED: usize = 4;
/// The part that one connection gets at most of what is left to reserve.
const PART: usize = 4;

// === impl BufferLimit ===

impl BufferLimit {
    /// At most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            reserved: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
            holding: AtomicUsize::new(0),
            waiting: Mutex::new(Vec::new()),
            wakes: AtomicU64::new(0),
        }
    }

    /// Bytes of window that connections have been given for what they hold for readers that have stopped.
    pub fn held(&self) -> usize {
        self.given.load(Relaxed)
    }

    /// Bytes of window that connections whose windows are adaptive have been granted above that of the default params. They
    /// cost no memory until a reader stops.
    pub fn reserved(&self) -> usize {
        self.reserved.load(Relaxed)
    }

    /// Reserves as much of `wanted` as a connection gets now. `is_measured`: it is known to need that.
    pub(super) fn reserve(&self, wanted: u32, is_measured: bool) -> u32 {
        let kept = self.max / if is_measured { KEPT_FROM_MEASURED } else { KEPT };
        take(&self.reserved, |reserved| (wanted as usize).min((self.max - kept).saturating_sub(reserved) / PART))
    }

    pub(super) fn unreserve(&self, bytes: u32) {
        self.reserved.fetch_sub(bytes as usize, Relaxed);
    }

    /// Gives as many of `wanted` bytes as are left.
    pub(super) fn give(&self, wanted: u32) -> u32 {
        let left = self.max.saturating_sub(self.reserved());
        take(&self.given, |given| (wanted as usize).min(left.saturating_sub(given)))
    }

    /// Takes back what a connection was given, and wakes the ones that want more.
    pub(super) fn take_back(&self, bytes: u32) {
        if bytes == 0 {
            return;
        }
        self.given.fetch_sub(bytes as usize, Relaxed);
        let waiting = mem::take(&mut *self.waiting.lock().expect("nothing panics with the lock held"));
        if !waiting.is_empty() {
            self.wakes.fetch_add(1, Relaxed);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Has `waker` woken when bytes are taken back, unless it waits since `since`. Returns since when it waits.
    pub(super) fn wait(&self, waker: &Waker, since: Option<u64>) -> u64 {
        let wakes = self.wakes.load(Relaxed);
        if since != Some(wakes) {
            self.waiting.lock().expect("nothing panics with the lock held").push(waker.clone());
        }
        wakes
    }

    /// Sets the number of a connection's streams that hold data, which was `before`.
    pub(super) fn set_holding(&self, before: usize, now: usize) {
        if now >= before {
            self.holding.fetch_add(now - before, Relaxed);
        } else {
            self.holding.fetch_sub(before - now, Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn holding(&self) -> usize {
        self.holding.load(Relaxed)
    }

    /// Whether so much is held that connections are to shrink the windows of their streams.
    pub(super) fn is_under_pressure(&self) -> bool {
        self.held() >= self.max / TARGET / 2
    }

    /// Whether so little is held that windows may be full again.
    pub(super) fn is_relieved(&self) -> bool {
        self.held() <= self.max / TARGET / 4
    }

    /// The window under pressure of the streams of a connection of which `holding` hold data: such that all streams which
    /// hold data hold little more than the target together.
    pub(super) fn stream_window(&self, holding: usize, full: u32) -> u32 {
        let (target, held) = (self.max / TARGET, self.held());
        let all = if held < target { target / self.holding.load(Relaxed).max(holding).max(1) } else { 0 };
        let own = if held < self.max / SEVERE { target / SHARE / holding.max(1) } else { 0 };
        let window = u32::try_from(all.max(own)).unwrap_or(u32::MAX).min(full);
        // Powers of two, so that a few streams more or less change nothing.
        window.checked_ilog2().map_or(0, |log| 1 << log).max(MIN_STREAM_WINDOW)
    }
}

impl Default for BufferLimit {
    /// As much as a `usize` can tell, which is no limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

/// Adds what `get` says to `sum`, and returns it.
fn take(sum: &AtomicUsize, get: impl Fn(usize) -> usize) -> u32 {
    let before = sum.try_update(Relaxed, Relaxed, |sum| Some(sum + get(sum)).filter(|_| get(sum) > 0));
    before.map_or(0, |before| u32::try_from(get(before)).expect("no more than was wanted"))
}
