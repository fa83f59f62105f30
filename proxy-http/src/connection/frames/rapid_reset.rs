//! Streams that a client opens only to have them reset.
//!
//! Each costs a request, to us and to an endpoint, and the client two small frames; and since a stream that is reset is
//! no longer open, the limit of open streams does not bound them (CVE-2023-44487). It is the same if the client breaks
//! the protocol so that we reset its streams (CVE-2025-8671).

use std::time::Duration;
use tokio::time::Instant;

/// Counts the streams of one connection that were reset too soon.
#[derive(Debug)]
pub(crate) struct RapidResets {
    max: u32,
    since: Instant,
    /// Streams that had been opened before.
    opened: u64,
    count: u32,
}

/// A stream that has been open for longer has done its work, or at least cost its client some time.
const SOON: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(10);

// === impl RapidResets ===

impl RapidResets {
    pub(crate) fn new(max: u32, now: Instant) -> Self {
        Self { max, since: now, opened: 0, count: 0 }
    }

    /// Counts a stream that was opened at `started` and reset `now`, when there had been `opened` streams in all; true if
    /// there are too many.
    pub(crate) fn reset(&mut self, started: Instant, now: Instant, opened: u64) -> bool {
        if now - started >= SOON {
            return false;
        }
        if now - self.since >= WINDOW {
            *self = Self { max: self.max, since: now, opened: opened - 1, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count > self.max && 2 * u64::from(self.count) > opened - self.opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of streams at which they are too many, where one in `every` is reset `after` it was opened, with `pause`
    /// between them.
    fn too_many(every: u64, after: Duration, pause: Duration) -> Option<u64> {
        let mut now = Instant::now();
        let mut resets = RapidResets::new(500, now);
        (1..=10_000).find(|opened| {
            now += pause;
            opened % every == 0 && resets.reset(now, now + after, *opened)
        })
    }

    #[tokio::test]
    async fn most_streams_of_many_are_too_many() {
        assert_eq!(too_many(1, Duration::ZERO, Duration::ZERO), Some(501));
        assert_eq!(too_many(2, Duration::ZERO, Duration::ZERO), None, "not more than half");
        assert_eq!(too_many(1, SOON - Duration::from_millis(1), Duration::ZERO), Some(501));
        assert_eq!(too_many(1, SOON, Duration::ZERO), None, "not soon");
    }

    #[tokio::test]
    async fn resets_are_counted_for_ten_seconds() {
        assert_eq!(too_many(1, Duration::ZERO, WINDOW / 500), None);
        assert_eq!(too_many(1, Duration::ZERO, WINDOW / 510), Some(501));
    }
}
