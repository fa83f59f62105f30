//! Raises a connection's window for the streams that are under backpressure, so that the others are not blocked by them.
//!
//! The streams of a connection share its window, and data that is received but not read uses up its part of it (RFC 9113
//! section 5.2). Streams whose readers have stopped would use up all of it, and then the others could not receive. So the
//! window is raised by the window of each backpressured stream: the others always have the configured window, or three
//! quarters of it at worst. The price is memory, a stream's window for each backpressured stream; [`BufferLimit`] bounds the
//! sum.

use crate::connection::streams::Streams;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

/// A limit of the bytes that connections buffer under backpressure, beyond their configured windows.
///
/// All connections that are given the same limit share it. When it is used up, connections get no more window: a connection
/// whose window is used up by streams whose readers have stopped stalls, and memory does not grow.
#[derive(Debug)]
pub struct BufferLimit {
    max: usize,
    given: AtomicUsize,
}

/// The window that one connection has beyond its configured one, taken from the [`BufferLimit`].
#[derive(Debug)]
pub(crate) struct WindowCredit {
    buffers: Arc<BufferLimit>,
    /// The configured windows, in bytes.
    stream: u32,
    connection: u32,
    /// Bytes by which the connection's window is raised now.
    given: u32,
    /// The connection's waker, as the streams have it.
    waker: Option<Waker>,
}

/// The largest window there is (RFC 9113 section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// One part in this many of the connection's window may be backpressured before the window is raised, and be given in excess
/// before it is lowered, so that streams which stop for a short time do not change it.
const SLACK: u32 = 4;

// === impl BufferLimit ===

impl BufferLimit {
    /// At most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, given: AtomicUsize::new(0) }
    }

    /// Bytes of window that connections have been given for streams under backpressure: the most that these may buffer.
    pub fn held(&self) -> usize {
        self.given.load(Relaxed)
    }

    /// Takes as many of `bytes` as are left.
    fn take(&self, bytes: u32) -> u32 {
        let asked = bytes as usize;
        let left = |given: usize| asked.min(self.max.saturating_sub(given));
        let taken =
            self.given.try_update(Relaxed, Relaxed, |given| Some(given + left(given)).filter(|_| left(given) > 0));
        taken.map_or(0, |given| u32::try_from(left(given)).expect("no more than was asked for"))
    }

    fn give_back(&self, bytes: u32) {
        self.given.fetch_sub(bytes as usize, Relaxed);
    }
}

impl Default for BufferLimit {
    /// No limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

// === impl WindowCredit ===

impl WindowCredit {
    pub(crate) fn new(buffers: Arc<BufferLimit>, (stream, connection): (u32, u32)) -> Self {
        Self { buffers, stream, connection, given: 0, waker: None }
    }

    /// The connection's window, if it is to change. To be called in each poll of the connection, so that the streams have
    /// its current `waker`.
    pub(crate) fn poll(&mut self, streams: &Streams, waker: &Waker) -> Option<u32> {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
            streams.set_waker(waker, self.wakes_at());
        }
        let wanted = self.wanted(streams.backpressured());
        if wanted.abs_diff(self.given) <= self.slack() && (wanted > 0 || self.given == 0) {
            return None;
        }
        let before = self.given;
        if wanted > before {
            self.given += self.buffers.take(wanted - before);
        } else {
            self.given = wanted;
            self.buffers.give_back(before - wanted);
        }
        // While the limit is used up, streams do not wake the connection: it asks again when it is polled for another
        // reason.
        streams.set_wakes_at(if self.given < wanted { usize::MAX } else { self.wakes_at() });
        (self.given != before).then(|| self.window())
    }

    /// Sets the configured windows anew, and returns the connection's window.
    pub(crate) fn resize(&mut self, stream: u32, connection: u32) -> u32 {
        (self.stream, self.connection) = (stream, connection);
        self.window()
    }

    fn window(&self) -> u32 {
        self.connection.saturating_add(self.given).min(MAX_WINDOW)
    }

    /// The bytes by which the window is to be raised for this number of backpressured streams.
    fn wanted(&self, backpressured: usize) -> u32 {
        let most = MAX_WINDOW.saturating_sub(self.connection);
        u32::try_from(backpressured.saturating_mul(self.stream as usize)).unwrap_or(u32::MAX).min(most)
    }

    fn slack(&self) -> u32 {
        self.connection / SLACK
    }

    /// The number of backpressured streams at which the window is to be raised.
    fn wakes_at(&self) -> usize {
        (self.given.saturating_add(self.slack()) / self.stream.max(1)) as usize + 1
    }
}

impl Drop for WindowCredit {
    fn drop(&mut self) {
        self.buffers.give_back(self.given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    struct Flag(AtomicBool);

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    /// The windows of a connection with these numbers of backpressured streams, one after the other.
    fn windows(credit: &mut WindowCredit, backpressured: impl IntoIterator<Item = usize>) -> Vec<Option<u32>> {
        let streams = Streams::default();
        backpressured
            .into_iter()
            .map(|count| {
                while streams.backpressured() < count {
                    streams.add_backpressured();
                }
                while streams.backpressured() > count {
                    streams.remove_backpressured();
                }
                credit.poll(&streams, Waker::noop())
            })
            .collect()
    }

    #[test]
    fn windows_are_raised_under_backpressure_and_lowered_again() {
        let buffers = Arc::new(BufferLimit::new(10_000));
        let mut credit = WindowCredit::new(Arc::clone(&buffers), (100, 1_000));
        // A quarter of the window is two streams and a half.
        let seen = windows(&mut credit, [0, 1, 2, 3, 4, 5, 6, 20, 18, 10, 1, 0]);
        let [raised, more, most, lowered, low] = [1_300, 1_600, 3_000, 2_000, 1_100].map(Some);
        let none = None;
        assert_eq!(seen, [none, none, none, raised, none, none, more, most, none, lowered, low, Some(1_000)]);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn one_stream_raises_a_connection_window_of_the_same_size() {
        let mut credit = WindowCredit::new(Arc::default(), (1_000, 1_000));
        assert_eq!(windows(&mut credit, [1, 16, 0]), [Some(2_000), Some(17_000), Some(1_000)]);
        assert_eq!(credit.resize(4_000, 4_000), 4_000);
        assert_eq!(windows(&mut credit, [1]), [Some(8_000)]);
    }

    #[test]
    fn no_window_exceeds_the_protocol_maximum() {
        let mut credit = WindowCredit::new(Arc::default(), (1 << 24, 1 << 24));
        assert_eq!(windows(&mut credit, [usize::MAX >> 1, 0].map(|count| count.min(1 << 10)))[0], Some(MAX_WINDOW));
    }

    #[test]
    fn connections_share_a_buffer_limit() {
        let buffers = Arc::new(BufferLimit::new(1_500));
        let mut first = WindowCredit::new(Arc::clone(&buffers), (1_000, 1_000));
        let mut second = WindowCredit::new(Arc::clone(&buffers), (1_000, 1_000));
        assert_eq!(windows(&mut first, [1]), [Some(2_000)]);
        assert_eq!(windows(&mut second, [1, 2]), [Some(1_500), None]);
        assert_eq!(buffers.held(), 1_500);
        drop(first);
        assert_eq!(windows(&mut second, [2]), [Some(2_500)]);
        drop(second);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn streams_wake_the_connection_when_the_window_is_to_be_raised() {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let streams = Streams::default();
        let mut credit = WindowCredit::new(Arc::new(BufferLimit::new(400)), (100, 1_000));
        let woken = || flag.0.swap(false, Relaxed);
        let stop_reader = || {
            streams.add_backpressured();
            streams.report_backpressure();
        };
        assert_eq!(credit.poll(&streams, &waker), None);
        stop_reader();
        stop_reader();
        assert!(!woken());
        stop_reader();
        assert!(woken());
        assert_eq!(credit.poll(&streams, &waker), Some(1_300));
        stop_reader();
        assert!(!woken());
        (0..2).for_each(|_| stop_reader());
        assert!(woken());
        assert_eq!(credit.poll(&streams, &waker), Some(1_400));
        stop_reader();
        assert!(!woken(), "the limit is used up");
    }
}
