//! How long streams were blocked by flow control, and how many are now.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// Why a stream is blocked: its sender has DATA and cannot send it.
///
/// The first three are reasons why this side cannot send, the others why the peer cannot.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BlockedReason {
    /// The peer grants the stream no more window (RFC 9113 section 5.2), or the connection's is not used up and other streams
    /// come first.
    StreamWindow,
    /// The peer grants the connection no more window.
    ConnectionWindow,
    /// The transport takes no more bytes.
    Socket,
    /// Our window of the stream is used up, because its reader on the other side of the proxy has stopped.
    Reader,
    /// As [`Reader`](Self::Reader), and the connection got no window for DATA that its streams hold, because the
    /// [`BufferLimit`](crate::BufferLimit) is used up.
    Budget,
}

/// The streams that were and are blocked for one reason.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Blocked {
    /// The reason.
    pub reason: BlockedReason,
    /// The sum of the times for which streams were blocked, until now.
    pub time: Duration,
    /// The number of streams that are blocked now.
    pub streams: u64,
}

/// Times by reason. A time that lasts is kept as its start, so that nothing has to be done while it lasts.
#[derive(Debug)]
pub(crate) struct BlockedTimes {
    started: Instant,
    reasons: [BlockedTime; BlockedReason::ALL.len()],
}

#[derive(Debug, Default)]
struct BlockedTime {
    streams: AtomicU64,
    /// The sum of the starts of the times that last, in nanoseconds; may wrap.
    starts: AtomicU64,
    /// The sum of the times that have ended, in nanoseconds.
    ended: AtomicU64,
}

// === impl BlockedReason ===

impl BlockedReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::StreamWindow, Self::ConnectionWindow, Self::Socket, Self::Reader, Self::Budget];

    /// The name, in snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StreamWindow => "stream_window",
            Self::ConnectionWindow => "connection_window",
            Self::Socket => "socket",
            Self::Reader => "reader",
            Self::Budget => "budget",
        }
    }
}

// === impl BlockedTimes ===

impl BlockedTimes {
    /// Streams are blocked since `at`.
    pub(crate) fn start(&self, reason: BlockedReason, streams: usize, at: Instant) {
        let time = &self.reasons[reason as usize];
        time.starts.fetch_add(self.nanos(at).wrapping_mul(streams as u64), Relaxed);
        time.streams.fetch_add(streams as u64, Relaxed);
    }

    /// Streams that were blocked since `since` are no longer.
    pub(crate) fn end(&self, reason: BlockedReason, streams: usize, since: Instant, now: Instant) {
        let time = &self.reasons[reason as usize];
        let (since, now, streams) = (self.nanos(since), self.nanos(now), streams as u64);
        time.starts.fetch_sub(since.wrapping_mul(streams), Relaxed);
        time.ended.fetch_add(now.saturating_sub(since).wrapping_mul(streams), Relaxed);
        time.streams.fetch_sub(streams, Relaxed);
    }

    pub(super) fn all(&self, now: Instant) -> impl Iterator<Item = Blocked> {
        let now = self.nanos(now);
        BlockedReason::ALL.into_iter().zip(&self.reasons).map(move |(reason, time)| {
            let streams = time.streams.load(Relaxed);
            // A change between the loads would show as a time of centuries.
            let lasting = now.wrapping_mul(streams).wrapping_sub(time.starts.load(Relaxed));
            let lasting = if lasting > now.saturating_mul(streams) { 0 } else { lasting };
            let time = Duration::from_nanos(time.ended.load(Relaxed).wrapping_add(lasting));
            Blocked { reason, time, streams }
        })
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for BlockedTimes {
    fn default() -> Self {
        Self { started: Instant::now(), reasons: array::from_fn(|_| BlockedTime::default()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_while_they_last_and_after() {
        let times = BlockedTimes::default();
        let at = |seconds| times.started + Duration::from_secs(seconds);
        let reader = |seconds| times.all(at(seconds)).nth(BlockedReason::Reader as usize).unwrap();
        times.start(BlockedReason::Reader, 2, at(1));
        times.start(BlockedReason::Reader, 1, at(3));
        let Blocked { reason, time, streams } = reader(5);
        assert_eq!((reason, time, streams), (BlockedReason::Reader, Duration::from_secs(10), 3));
        times.end(BlockedReason::Reader, 2, at(1), at(5));
        assert_eq!((reader(7).time, reader(7).streams), (Duration::from_secs(12), 1));
        times.end(BlockedReason::Reader, 1, at(3), at(8));
        assert_eq!((reader(90).time, reader(90).streams), (Duration::from_secs(13), 0));
        assert!(times.all(at(90)).all(|other| other.reason == BlockedReason::Reader || other.time.is_zero()));
    }
}
