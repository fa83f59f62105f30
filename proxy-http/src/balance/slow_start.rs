//! Slow start: an endpoint that joins others gets a growing part of its share.

use std::time::Duration;
use tokio::time::Instant;

/// Slow start: whether an endpoint gets its full share, or less at first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SlowStart {
    /// The endpoint is not ready, and no other was when it was listed or lost: it gets its full share once it is ready.
    Skipped,
    /// The endpoint is not ready while others are: its share grows from the time when it is ready.
    Pending,
    /// The endpoint has been ready since this time, from which its share grows. `None`: it gets its full share.
    Ready(Option<Instant>),
}

/// The part of its share that an endpoint gets at the beginning of slow start.
const MIN_FACTOR: f64 = 0.1;

// === impl SlowStart ===

impl SlowStart {
    /// The slow start of an endpoint that is listed now.
    pub(super) fn new(others_are_ready: bool) -> Self {
        if others_are_ready { Self::Pending } else { Self::Skipped }
    }

    /// Follows the endpoint's readiness, and returns whether the endpoint has become ready. An endpoint that was ready
    /// starts again after an attempt to connect to it has failed.
    pub(super) fn update(&mut self, is_ready: bool, has_failed: bool, others_are_ready: bool, now: Instant) -> bool {
        let before = std::mem::replace(
            self,
            match *self {
                Self::Skipped if is_ready => Self::Ready(None),
                Self::Pending if is_ready => Self::Ready(others_are_ready.then_some(now)),
                Self::Ready(_) if !is_ready && has_failed => Self::Pending,
                unchanged => unchanged,
            },
        );
        is_ready && before != *self
    }

    /// The part of its share that the endpoint gets now: grows from a tenth to one over `slow_start`.
    pub(super) fn factor(self, slow_start: Duration, now: Instant) -> f64 {
        let since = match self {
            Self::Skipped | Self::Ready(None) => return 1.0,
            Self::Pending => now,
            Self::Ready(Some(since)) => since,
        };
        let age = now.saturating_duration_since(since);
        if age >= slow_start { 1.0 } else { age.div_duration_f64(slow_start).max(MIN_FACTOR) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_start_with_a_tenth_only_while_others_are_ready() {
        let (now, slow_start) = (Instant::now(), Duration::from_secs(10));
        let parts = |start: SlowStart| [0, 1, 5, 10].map(|s| start.factor(slow_start, now + Duration::from_secs(s)));
        let updated = |mut start: SlowStart, changes: &[(bool, bool, bool)]| {
            for (is_ready, has_failed, others) in changes {
                start.update(*is_ready, *has_failed, *others, now);
            }
            start
        };
        let (full, grows) = (SlowStart::Ready(None), SlowStart::Ready(Some(now)));
        assert_eq!((parts(full), parts(grows)), ([1.0; 4], [0.1, 0.1, 0.5, 1.0]));
        assert_eq!(grows.factor(Duration::ZERO, now), 1.0);
        assert_eq!(
            updated(SlowStart::new(false), &[(false, true, true), (true, false, true)]),
            full,
            "with the first list"
        );
        assert_eq!(updated(SlowStart::new(true), &[(true, false, true)]), grows, "it joins the others");
        assert_eq!(updated(SlowStart::new(true), &[(true, false, false)]), full, "the others have gone meanwhile");
        assert_eq!(updated(full, &[(false, false, true), (true, false, true)]), full, "reconnected at once");
        assert_eq!(updated(full, &[(false, true, true), (true, false, true)]), grows, "back after failed attempts");
    }
}
