//! How costly it is to ask an endpoint: a moving average of its latency that follows peaks at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The latency of an endpoint as it is to be reckoned with now.
///
/// Times are nanoseconds after one that all share, since to subtract two `Instant`s takes as long as all else here. Two
/// threads that observe at once may lose one of their latencies, which is cheaper than a lock for each request.
#[derive(Debug)]
pub(crate) struct Load {
    /// Seconds, as bits of an `f64`; NaN: nothing is known yet.
    cost: AtomicU64,
    updated: AtomicU64,
}

/// The time in which a latency that is not seen again loses most of its weight, in seconds: so many times itself, within
/// bounds. An endpoint that is left alone for a peak cannot show that it was one, so what a short one costs is short.
const DECAY: f64 = 4.0;
const MIN_DECAY: f64 = 0.05;
const MAX_DECAY: f64 = 1.0;
/// What weight a latency has at least, so that one peak is forgotten after some tens of requests that are fast.
const MIN_WEIGHT: f64 = 1.0 / 16.0;

// === impl Load ===

impl Load {
    pub(crate) const fn new() -> Self {
        Self { cost: AtomicU64::new(f64::NAN.to_bits()), updated: AtomicU64::new(0) }
    }

    /// A response's head came to a request that was sent then.
    pub(crate) fn observe(&self, sent: u64, now: u64) {
        let latency = seconds(sent, now);
        let before = f64::from_bits(self.cost.load(Relaxed));
        let cost = if latency < before {
            let kept = decay(before, seconds(self.updated.load(Relaxed), now)).min(1.0 - MIN_WEIGHT);
            before * kept + latency * (1.0 - kept)
        } else {
            latency
        };
        self.cost.store(cost.to_bits(), Relaxed);
        self.updated.store(now, Relaxed);
    }

    /// No response's head has come yet, which is as bad as one that comes only now.
    pub(crate) fn observe_late(&self, sent: u64, now: u64) {
        if self.cost(now).is_some_and(|cost| seconds(sent, now) > cost) {
            self.observe(sent, now);
        }
    }

    /// The latency to reckon with, in seconds; it fades while nothing is observed, so that the endpoint is tried again.
    pub(crate) fn cost(&self, now: u64) -> Option<f64> {
        let cost = f64::from_bits(self.cost.load(Relaxed));
        (!cost.is_nan()).then(|| cost * decay(cost, seconds(self.updated.load(Relaxed), now)))
    }

    /// Whether a latency was observed after that time.
    pub(crate) fn has_answered(&self, since: u64) -> bool {
        self.updated.load(Relaxed) > since
    }

    /// How long ago that time is if nothing was observed after it, in seconds, or else zero.
    pub(crate) fn silence(&self, since: u64, now: u64) -> f64 {
        if self.has_answered(since) { 0.0 } else { seconds(since, now) }
    }
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

/// What is left of the weight of a latency after so many seconds.
fn decay(cost: f64, seconds: f64) -> f64 {
    // The usual case, without the cost of a power.
    if seconds < MIN_DECAY / 1e2 { 1.0 } else { (-seconds / (DECAY * cost).clamp(MIN_DECAY, MAX_DECAY)).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn peaks_count_at_once_and_fade_with_fast_requests() {
        let load = Load::new();
        load.observe(999 * MS, 1_000 * MS);
        load.observe(900 * MS, 1_000 * MS);
        assert_eq!(load.cost(1_000 * MS), Some(0.1));
        for _ in 0..100 {
            load.observe(999 * MS, 1_000 * MS);
        }
        assert!(load.cost(1_000 * MS).unwrap() < 0.0015, "{load:?}");
    }

    #[test]
    fn costs_fade_while_nothing_is_asked() {
        let load = Load::new();
        assert_eq!(load.cost(0), None);
        load.observe(0, 100 * MS);
        assert!(load.cost(5_100 * MS).unwrap() < 0.001);
    }

    #[test]
    fn what_is_not_answered_counts_once_it_is_late() {
        let load = Load::new();
        load.observe_late(0, 500 * MS);
        assert_eq!(load.cost(500 * MS), None, "nothing says what is late");
        load.observe(490 * MS, 500 * MS);
        load.observe_late(495 * MS, 500 * MS);
        assert_eq!(load.cost(500 * MS), Some(0.01));
        load.observe_late(450 * MS, 500 * MS);
        assert_eq!(load.cost(500 * MS), Some(0.05));
    }

    #[test]
    fn silence_lasts_until_the_next_response() {
        let load = Load::new();
        assert_eq!([5, 8].map(|ms| load.silence(5 * MS, ms * MS)), [0.0, 0.003]);
        load.observe(5 * MS, 9 * MS);
        assert_eq!([5, 9].map(|asked| load.silence(asked * MS, 10 * MS)), [0.0, 0.001]);
    }
}
