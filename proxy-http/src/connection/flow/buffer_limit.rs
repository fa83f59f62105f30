//! The bound that connections share of DATA that is buffered for readers which have stopped, and of the heads of requests.

use std::{
    mem,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

/// A limit of the bytes that connections buffer for readers that have stopped, beyond their windows, and for the heads of
/// requests.
///
/// All connections that are given the same limit share it. Connections from clients whose windows are adaptive take the part
/// of their window above 1 MiB from it, up to three quarters, so that promises to clients have a bound, too. When the
/// limit is used up, connections get no more window: a connection whose window is used up by streams whose readers have
/// stopped stalls, and memory does not grow.
///
/// The heads of a client's requests whose responses have not begun, beyond 64 KiB a connection of HTTP/2, may have half of the
/// limit, and 16 MiB at least. A connection gets at most a quarter of the bytes left, so that others have some.
#[derive(Debug)]
pub struct BufferLimit {
    max: usize,
    /// Window above [`MIN_CONNECTION_WINDOW`] of connections whose windows are adaptive.
    reserved: AtomicUsize,
    /// Window that connections have been given for DATA that their streams hold.
    given: AtomicUsize,
    /// Streams that hold data for readers that have stopped, of the connections that have been given window.
    holding: AtomicUsize,
    /// Bytes that the heads of requests have taken.
    heads: AtomicUsize,
    /// Connections whose heads have taken some.
    with_heads: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// Connections that have less window than they want.
#[derive(Debug)]
struct Waiting {
    wakers: Vec<Waker>,
    /// How often they were woken.
    wakes: u64,
}

const UNPOISONED: &str = "nothing panics with the lock held";

/// The least window of a connection whose windows are adaptive: that of the default params.
pub const MIN_CONNECTION_WINDOW: u32 = 1 << 20;
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
/// The part of the limit for the heads of requests, and the least.
const FOR_HEADS: usize = 2;
const MIN_FOR_HEADS: usize = 16 << 20;
/// One connection gets at most one part in this many of the bytes left to reserve.
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
            heads: AtomicUsize::new(0),
            with_heads: AtomicUsize::new(0),
            waiting: Mutex::new(Waiting { wakers: Vec::new(), wakes: 0 }),
        }
    }

    /// Bytes of window that connections have been given for DATA held for readers that have stopped.
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
        let left = self.left();
        take(&self.given, |given| (wanted as usize).min(left.saturating_sub(given)))
    }

    /// Takes back bytes that a connection was given, and wakes the connections that want more.
    pub(super) fn take_back(&self, bytes: u32) {
        if bytes == 0 {
            return;
        }
        self.given.fetch_sub(bytes as usize, Relaxed);
        self.wake_waiting();
    }

    /// Wakes the connections that want more bytes.
    fn wake_waiting(&self) {
        let mut waiting = self.waiting.lock().expect(UNPOISONED);
        if waiting.wakers.is_empty() {
            return;
        }
        waiting.wakes += 1;
        let wakers = mem::take(&mut waiting.wakers);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has `waker` woken when bytes are taken back, unless it waits since `since`. Returns since when it waits. `is_short`: it
    /// wants more bytes, and is woken at once if another connection, on another thread, has given some back meanwhile.
    pub(super) fn wait(&self, waker: &Waker, since: Option<u64>, is_short: bool) -> u64 {
        let mut waiting = self.waiting.lock().expect(UNPOISONED);
        if since != Some(waiting.wakes) {
            waiting.wakers.push(waker.clone());
        }
        if is_short && self.left() > self.held() {
            waker.wake_by_ref();
        }
        waiting.wakes
    }

    /// The bytes that may be given to all connections together.
    fn left(&self) -> usize {
        self.max.saturating_sub(self.reserved() + self.heads())
    }

    /// Bytes that the heads of requests have taken.
    pub(super) fn heads(&self) -> usize {
        self.heads.load(Relaxed)
    }

    /// Takes `wanted` bytes for the heads of a connection that has `taken` some before; false if it gets none.
    pub(super) fn take_heads(&self, taken: usize, wanted: usize) -> bool {
        let max = (self.max / FOR_HEADS).max(MIN_FOR_HEADS);
        let is_taken = self.heads.try_update(Relaxed, Relaxed, |heads| {
            let left = max.saturating_sub(heads);
            Some(heads + wanted).filter(|_| wanted <= left && taken + wanted <= left / PART)
        });
        if taken == 0 && is_taken.is_ok() {
            self.with_heads.fetch_add(1, Relaxed);
        }
        is_taken.is_ok()
    }

    /// Takes back bytes for heads. `all`: the connection has none left.
    pub(super) fn give_back_heads(&self, bytes: usize, all: bool) {
        self.heads.fetch_sub(bytes, Relaxed);
        if all {
            self.with_heads.fetch_sub(1, Relaxed);
        }
        self.wake_waiting();
    }

    /// Whether a connection whose heads have `taken` bytes has no less than the mean.
    pub(super) fn is_large_share(&self, taken: usize) -> bool {
        taken > 0 && taken.saturating_mul(self.with_heads.load(Relaxed)) >= self.heads()
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

/// Adds the result of `get` to `sum`, and returns it.
fn take(sum: &AtomicUsize, get: impl Fn(usize) -> usize) -> u32 {
    let before = sum.try_update(Relaxed, Relaxed, |sum| Some(sum + get(sum)).filter(|_| get(sum) > 0));
    before.map_or(0, |before| u32::try_from(get(before)).expect("no more than was wanted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, atomic::AtomicBool};

    struct Flag(AtomicBool);

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    #[test]
    fn bytes_that_are_given_back_wake_the_connections_that_want_them() {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let (waker, woken) = (Waker::from(Arc::clone(&flag)), || flag.0.swap(false, Relaxed));
        let buffers = BufferLimit::new(10);
        assert_eq!((buffers.give(8), buffers.give(8)), (8, 2));
        let since = buffers.wait(&waker, None, true);
        assert_eq!(buffers.wait(&waker, Some(since), true), since);
        assert_eq!(buffers.waiting.lock().unwrap().wakers.len(), 1);
        assert!(!woken());
        buffers.take_back(3);
        assert!(woken());
        // These came back before it waits.
        let since = buffers.wait(&waker, Some(since), true);
        assert!(woken());
        assert_eq!(buffers.give(8), 3);
        buffers.wait(&waker, Some(since), true);
        assert!(!woken());
        buffers.take_back(1);
        assert!(woken());
        // Other connections wait for the pressure to end.
        buffers.wait(&waker, None, false);
        assert!(!woken());
    }
}
