//! Whether the windows that a peer is granted limit its sending.
//!
//! A sender that is limited by a window sends one window a round trip. So if the bytes of DATA that came in a round trip are
//! about as many, and no reader has stopped, a larger window would let more come. One measurement may be chance; a limit is
//! told once no measurement of ten seconds denies it.

use crate::{
    connection::flow::network_path::NetworkPath,
    stats::{LimitingWindow, WindowLimit},
};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The last measurements of one connection that found its windows to be the limit, all in a row.
#[derive(Debug, Default)]
pub(crate) struct LimitedMeasurements {
    /// When the first and the last were taken, in milliseconds of the connection's age. Zero: the last one found no limit.
    first: AtomicU64,
    last: AtomicU64,
    /// Whether it is the connection's window, and not its streams'.
    is_connection: AtomicBool,
}

/// A shorter round trip is limited by other things than windows.
const MIN_ROUND_TRIP: Duration = Duration::from_millis(1);
/// How long measurements have to agree.
const MIN_TIME: Duration = Duration::from_secs(10);
/// The age at which a measurement tells nothing any more: twice the longest pause between two.
const MAX_AGE: Duration = Duration::from_secs(20);

// === impl LimitedMeasurements ===

impl LimitedMeasurements {
    /// Notes a round trip in which `received` bytes of DATA came, on a connection whose windows are fixed. It has `streams`
    /// that receive, which hold `held` bytes for readers that have stopped; `age` is the connection's.
    pub(crate) fn measured(&self, received: u32, path: &NetworkPath, streams: usize, held: usize, age: Duration) {
        let (stream, connection) = path.windows();
        let streams = u64::try_from(streams).unwrap_or(u64::MAX).max(1);
        let (all_streams, connection) = (u64::from(stream).saturating_mul(streams), u64::from(connection));
        let window = all_streams.min(connection);
        let received = u64::from(received);
        let may_limit = held == 0 && path.measured().is_some_and(|(round_trip, _)| round_trip >= MIN_ROUND_TRIP);
        // h2 gives window back in halves, and a measurement may begin and end between the two: one of a half tells nothing.
        if may_limit && (window / 9 * 4..window / 3 * 2).contains(&received) {
            return;
        }
        let now = millis(age);
        let is_stale = age.saturating_sub(Duration::from_millis(self.last.load(Relaxed))) > MAX_AGE;
        if !may_limit || received < window / 3 * 2 {
            self.first.store(0, Relaxed);
        } else if self.first.load(Relaxed) == 0 || is_stale {
            self.first.store(now, Relaxed);
        }
        self.last.store(now, Relaxed);
        self.is_connection.store(connection < all_streams, Relaxed);
    }

    /// The limit, if measurements have agreed for long enough, on a connection of this age.
    pub(crate) fn limit(&self, age: Duration) -> Option<WindowLimit> {
        let [first, last] = [&self.first, &self.last].map(|at| Duration::from_millis(at.load(Relaxed)));
        let time = last.saturating_sub(first);
        if first.is_zero() || time <= MIN_TIME || age.saturating_sub(last) > MAX_AGE {
            return None;
        }
        let is_connection = self.is_connection.load(Relaxed);
        let window = if is_connection { LimitingWindow::Connection } else { LimitingWindow::Stream };
        Some(WindowLimit { window, time })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A path of this round-trip time, for which windows of 60,000 and 100,000 bytes are granted.
    fn path(round_trip: Duration) -> NetworkPath {
        let path = NetworkPath::new();
        path.set_windows(60_000, 100_000);
        path.set_measured(round_trip, 1_000_000);
        path
    }

    /// The limit after measurements of `received` bytes every four seconds of sixteen.
    fn after(received: [u32; 5], streams: usize, round_trip: Duration) -> Option<LimitingWindow> {
        let (path, measurements) = (path(round_trip), LimitedMeasurements::default());
        for (received, age) in received.into_iter().zip((1..).step_by(4)) {
            measurements.measured(received, &path, streams, 0, SECOND * age);
        }
        measurements.limit(SECOND * 18).map(|limit| limit.window)
    }

    #[test]
    fn a_window_a_round_trip_is_a_limit() {
        let (lan, wan) = (Duration::from_micros(900), Duration::from_millis(40));
        assert_eq!(after([60_000; 5], 1, wan), Some(LimitingWindow::Stream));
        assert_eq!(after([40_000; 5], 1, wan), Some(LimitingWindow::Stream));
        assert_eq!(after([39_999; 5], 1, wan), None, "less than two thirds");
        assert_eq!(after([60_000; 5], 2, wan), None, "two streams may have more");
        assert_eq!(after([67_000; 5], 2, wan), Some(LimitingWindow::Connection));
        assert_eq!(after([60_000; 5], 1, lan), None, "the path is short");
        assert_eq!(after([60_000, 60_000, 60_000, 0, 60_000], 1, wan), None, "not all of ten seconds");
        assert_eq!(after([0, 60_000, 60_000, 60_000, 60_000], 1, wan), Some(LimitingWindow::Stream));
        assert_eq!(after([60_000, 30_000, 60_000, 30_000, 60_000], 1, wan), Some(LimitingWindow::Stream), "halves");
        assert_eq!(after([30_000; 5], 1, wan), None, "a half and no more");
    }

    #[test]
    fn a_reader_that_stops_is_no_limit_of_windows() {
        let (path, measurements) = (path(SECOND), LimitedMeasurements::default());
        (1..30).for_each(|age| measurements.measured(60_000, &path, 1, 1, SECOND * age));
        assert_eq!(measurements.limit(SECOND * 30), None);
    }

    #[test]
    fn what_was_measured_long_ago_tells_nothing() {
        let (path, measurements) = (path(SECOND), LimitedMeasurements::default());
        (1..=12).for_each(|age| measurements.measured(60_000, &path, 1, 0, SECOND * age));
        assert_eq!(measurements.limit(SECOND * 12).map(|limit| limit.time), Some(SECOND * 11));
        assert!(measurements.limit(SECOND * 32).is_some());
        assert_eq!(measurements.limit(SECOND * 33), None);
        measurements.measured(60_000, &path, 1, 0, SECOND * 33);
        assert_eq!(measurements.limit(SECOND * 33), None, "a new row");
    }
}
