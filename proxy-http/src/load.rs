//! How costly it is to ask an endpoint: a moving average of its latency that follows peaks at once.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// The latency of an endpoint as it is to be reckoned with now.
///
/// Two threads that observe at once may lose one of their latencies, which is cheaper than a lock for each request.
#[derive(Debug)]
pub(crate) struct Load {
    /// Seconds, as bits of an `f64`; NaN: nothing is known yet.
    cost: AtomicU64,
    /// Nanoseconds after `added`.
    updated: AtomicU64,
    added: Instant,
}

/// The time in which a latency that is not seen again loses most of its weight.
const DECAY: f64 = 1.0;
/// What weight a latency has at least, so that one peak is forgotten after some tens of requests that are fast.
const MIN_WEIGHT: f64 = 1.0 / 16.0;
/// Of an endpoint that has just come, this part of its share is sent to it at first.
const FIRST_SHARE: f64 = 0.1;

// === impl Load ===

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { cost: AtomicU64::new(f64::NAN.to_bits()), updated: AtomicU64::new(0), added: now }
    }

    /// A response's head came after `latency`.
    pub(crate) fn observe(&self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let before = f64::from_bits(self.cost.load(Relaxed));
        let cost = if latency < before {
            let kept = decay(self.idle(now)).min(1.0 - MIN_WEIGHT);
            before * kept + latency * (1.0 - kept)
        } else {
            latency
        };
        self.cost.store(cost.to_bits(), Relaxed);
        let age = now.saturating_duration_since(self.added).as_nanos();
        self.updated.store(u64::try_from(age).unwrap_or(u64::MAX), Relaxed);
    }

    /// The latency to reckon with, in seconds; it fades while nothing is observed, so that the endpoint is tried again.
    pub(crate) fn cost(&self, now: Instant) -> Option<f64> {
        let cost = f64::from_bits(self.cost.load(Relaxed));
        (!cost.is_nan()).then(|| cost * decay(self.idle(now)))
    }

    /// Seconds since something was observed.
    fn idle(&self, now: Instant) -> f64 {
        let updated = self.added + Duration::from_nanos(self.updated.load(Relaxed));
        now.saturating_duration_since(updated).as_secs_f64()
    }

    /// What part of its share an endpoint gets that came lately: from a tenth to all over `slow_start`.
    pub(crate) fn share(&self, slow_start: Duration, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.added);
        if age >= slow_start { 1.0 } else { (age.as_secs_f64() / slow_start.as_secs_f64()).max(FIRST_SHARE) }
    }
}

/// What is left of a weight after so many seconds.
fn decay(seconds: f64) -> f64 {
    // The usual case, without the cost of a power.
    if seconds < DECAY / 1e3 { 1.0 } else { (-seconds / DECAY).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn peaks_count_at_once_and_fade_with_fast_requests() {
        let now = Instant::now();
        let load = Load::new(now);
        load.observe(MS, now);
        load.observe(100 * MS, now);
        assert_eq!(load.cost(now), Some(0.1));
        for _ in 0..100 {
            load.observe(MS, now);
        }
        assert!(load.cost(now).unwrap() < 0.0015, "{load:?}");
    }

    #[test]
    fn costs_fade_while_nothing_is_asked() {
        let now = Instant::now();
        let load = Load::new(now);
        assert_eq!(load.cost(now), None);
        load.observe(100 * MS, now);
        assert!(load.cost(now + Duration::from_secs(5)).unwrap() < 0.001);
    }

    #[test]
    fn shares_grow_from_a_tenth_to_all() {
        let now = Instant::now();
        let load = Load::new(now);
        let shares = [0, 1, 50, 100, 200].map(|ms| load.share(100 * MS, now + ms * MS));
        assert_eq!(shares, [0.1, 0.1, 0.5, 1.0, 1.0]);
        assert_eq!(load.share(Duration::ZERO, now), 1.0);
    }
}
