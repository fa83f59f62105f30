//! Connection window for those that move, whatever others hold.
//!
//! The streams of a connection share its window, and what is received but not read keeps its part of it (RFC 9113
//! section 5.2). Streams whose readers have stopped would use it up, and then none of the others could go on. So the
//! window is raised by the window of each stream that is held: what moves always has the window that is set, all but a
//! quarter at worst. The price is memory, a stream's window for each that is held, and [`BufferLimit`] bounds its sum.

use crate::connection::streams::Streams;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

/// How many bytes connections may hold for streams whose readers have stopped, beside the windows they are set to have.
///
/// All connections that are given the same one share it. When it is used up, connections get no more window: reading
/// stalls where readers have stopped, and memory does not grow.
#[derive(Debug)]
pub struct BufferLimit {
    max: usize,
    held: AtomicUsize,
}

/// What one connection has of the [`BufferLimit`].
#[derive(Debug)]
pub(crate) struct Credit {
    buffers: Arc<BufferLimit>,
    /// The windows that are set, in bytes.
    stream: u32,
    connection: u32,
    /// By how much the connection's window is raised now.
    given: u32,
    /// Whom the streams wake.
    waker: Option<Waker>,
}

/// The largest window there is (RFC 9113 section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// What part of the connection's window may be held before it is raised, and given too much before it is lowered: so
/// much is to come and go without a change each time.
const SLACK: u32 = 4;

// === impl BufferLimit ===

impl BufferLimit {
    /// At most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, held: AtomicUsize::new(0) }
    }

    /// Bytes of window that connections have for streams whose readers have stopped: what those may hold at most.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// As many of `bytes` as are left.
    fn take(&self, bytes: u32) -> u32 {
        let asked = bytes as usize;
        let left = |held: usize| asked.min(self.max.saturating_sub(held));
        let taken = self.held.try_update(Relaxed, Relaxed, |held| Some(held + left(held)).filter(|_| left(held) > 0));
        taken.map_or(0, |held| u32::try_from(left(held)).expect("no more than was asked for"))
    }

    fn give_back(&self, bytes: u32) {
        self.held.fetch_sub(bytes as usize, Relaxed);
    }
}

impl Default for BufferLimit {
    /// As many bytes as there are.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

// === impl Credit ===

impl Credit {
    pub(crate) fn new(buffers: Arc<BufferLimit>, (stream, connection): (u32, u32)) -> Self {
        Self { buffers, stream, connection, given: 0, waker: None }
    }

    /// The connection's window, if it is to change. To be asked in each poll of the connection, so that streams find
    /// `waker` up to date.
    pub(crate) fn poll(&mut self, streams: &Streams, waker: &Waker) -> Option<u32> {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
            streams.set_waker(waker, self.wakes_at());
        }
        let wanted = self.wanted(streams.held());
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
        // What there is not enough of is asked for again by other polls than those that held streams ask for.
        streams.set_wakes_at(if self.given < wanted { usize::MAX } else { self.wakes_at() });
        (self.given != before).then(|| self.window())
    }

    /// The windows that are set have changed; the connection's is to be this.
    pub(crate) fn resize(&mut self, stream: u32, connection: u32) -> u32 {
        (self.stream, self.connection) = (stream, connection);
        self.window()
    }

    fn window(&self) -> u32 {
        self.connection.saturating_add(self.given).min(MAX_WINDOW)
    }

    fn wanted(&self, held: usize) -> u32 {
        let most = MAX_WINDOW.saturating_sub(self.connection);
        u32::try_from(held.saturating_mul(self.stream as usize)).unwrap_or(u32::MAX).min(most)
    }

    fn slack(&self) -> u32 {
        self.connection / SLACK
    }

    /// How many streams are held when more window is wanted.
    fn wakes_at(&self) -> usize {
        (self.given.saturating_add(self.slack()) / self.stream.max(1)) as usize + 1
    }
}

impl Drop for Credit {
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

    /// The windows of a connection with so many streams held, one after the other.
    fn windows(credit: &mut Credit, held: impl IntoIterator<Item = usize>) -> Vec<Option<u32>> {
        let streams = Streams::default();
        held.into_iter()
            .map(|held| {
                while streams.held() < held {
                    streams.hold();
                }
                while streams.held() > held {
                    streams.let_go();
                }
                credit.poll(&streams, Waker::noop())
            })
            .collect()
    }

    #[test]
    fn windows_are_raised_by_what_is_held_and_lowered_again() {
        let buffers = Arc::new(BufferLimit::new(10_000));
        let mut credit = Credit::new(Arc::clone(&buffers), (100, 1_000));
        // A quarter of the window is two streams and a half.
        let seen = windows(&mut credit, [0, 1, 2, 3, 4, 5, 6, 20, 18, 10, 1, 0]);
        let [raised, more, most, lowered, low] = [1_300, 1_600, 3_000, 2_000, 1_100].map(Some);
        let none = None;
        assert_eq!(seen, [none, none, none, raised, none, none, more, most, none, lowered, low, Some(1_000)]);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn one_stream_counts_where_its_window_is_the_connections() {
        let mut credit = Credit::new(Arc::default(), (1_000, 1_000));
        assert_eq!(windows(&mut credit, [1, 16, 0]), [Some(2_000), Some(17_000), Some(1_000)]);
        assert_eq!(credit.resize(4_000, 4_000), 4_000);
        assert_eq!(windows(&mut credit, [1]), [Some(8_000)]);
    }

    #[test]
    fn no_window_is_larger_than_there_is() {
        let mut credit = Credit::new(Arc::default(), (1 << 24, 1 << 24));
        assert_eq!(windows(&mut credit, [usize::MAX >> 1, 0].map(|held| held.min(1 << 10)))[0], Some(MAX_WINDOW));
    }

    #[test]
    fn connections_share_what_there_is() {
        let buffers = Arc::new(BufferLimit::new(1_500));
        let mut first = Credit::new(Arc::clone(&buffers), (1_000, 1_000));
        let mut second = Credit::new(Arc::clone(&buffers), (1_000, 1_000));
        assert_eq!(windows(&mut first, [1]), [Some(2_000)]);
        assert_eq!(windows(&mut second, [1, 2]), [Some(1_500), None]);
        assert_eq!(buffers.held(), 1_500);
        drop(first);
        assert_eq!(windows(&mut second, [2]), [Some(2_500)]);
        drop(second);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn streams_wake_the_connection_when_they_hold_too_much() {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let streams = Streams::default();
        let mut credit = Credit::new(Arc::new(BufferLimit::new(400)), (100, 1_000));
        let woken = || flag.0.swap(false, Relaxed);
        let hold = || {
            streams.hold();
            streams.stuck();
        };
        assert_eq!(credit.poll(&streams, &waker), None);
        hold();
        hold();
        assert!(!woken());
        hold();
        assert!(woken());
        assert_eq!(credit.poll(&streams, &waker), Some(1_300));
        hold();
        assert!(!woken());
        (0..2).for_each(|_| hold());
        assert!(woken());
        assert_eq!(credit.poll(&streams, &waker), Some(1_400));
        hold();
        assert!(!woken(), "there is nothing left");
    }
}
