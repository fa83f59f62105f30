//! Peak-EWMA latency of an endpoint: a moving average that follows peaks at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The peak-EWMA latency of an endpoint.
///
/// Times are nanoseconds since the balancer started, because to subtract two `Instant`s takes as long as all else here. Of
/// two latencies that are observed at the same time one may be lost, which is cheaper than a lock for each request.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    /// Seconds, as bits of an `f64`. NaN: no latency was observed yet.
    cost: AtomicU64,
    updated: AtomicU64,
}

/// The time constant of the decay, as a multiple of the latency, between [`MIN_DECAY`] and [`MAX_DECAY`] seconds. An
/// endpoint that gets no requests because of a peak cannot show that the peak is over, so a short peak decays fast.
const DECAY: f64 = 4.0;
const MIN_DECAY: f64 = 0.05;
const MAX_DECAY: f64 = 1.0;
/// The least weight of a new latency, so that some tens of fast requests outweigh one peak.
const MIN_WEIGHT: f64 = 1.0 / 16.0;

// === impl PeakEwma ===

impl PeakEwma {
    pub(crate) const fn new() -> Self {
        Self { cost: AtomicU64::new(f64::NAN.to_bits()), updated: AtomicU64::new(0) }
    }

    /// Observes the latency of a response whose head came at `now` to a request sent at `sent`.
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

    /// Observes a request that has ended without a response: its latency is at least the time until `now`. Counts only if
    /// that is more than the average.
    pub(crate) fn observe_late(&self, sent: u64, now: u64) {
        if self.cost(now).is_some_and(|cost| seconds(sent, now) > cost) {
            self.observe(sent, now);
        }
    }

    /// The latency, in seconds; it decays while none is observed, so that the endpoint gets requests again.
    pub(crate) fn cost(&self, now: u64) -> Option<f64> {
        let cost = f64::from_bits(self.cost.load(Relaxed));
        (!cost.is_nan()).then(|| cost * decay(cost, seconds(self.updated.load(Relaxed), now)))
    }

    /// The last average, in seconds, which stays while no latency is observed. `None`: none was yet.
    pub(crate) fn average(&self) -> Option<f64> {
        Some(f64::from_bits(self.cost.load(Relaxed))).filter(|cost| !cost.is_nan())
    }

    /// Whether a latency was observed after `since`.
    pub(crate) fn has_answered(&self, since: u64) -> bool {
        self.updated.load(Relaxed) > since
    }

    /// Seconds since `since`, or zero if a latency was observed after it.
    pub(crate) fn silence(&self, since: u64, now: u64) -> f64 {
        if self.has_answered(since) { 0.0 } else { seconds(since, now) }
    }
}

fn seconds(from: u64, to: u64) -> f64 {
    // Less than 292 years, and an `i64` is converted in one instruction.
    to.saturating_sub(from).cast_signed() as f64 / 1e9
}

/// The part of a latency's weight that is left after `seconds`.
fn decay(cost: f64, seconds: f64) -> f64 {
    // The usual case, without the cost of `exp`.
    if seconds < MIN_DECAY / 1e2 { 1.0 } else { (-seconds / (DECAY * cost).clamp(MIN_DECAY, MAX_DECAY)).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn peaks_count_at_once_and_fade_with_fast_requests() {
        let load = PeakEwma::new();
        load.observe(999 * MS, 1_000 * MS);
        load.observe(900 * MS, 1_000 * MS);
        assert_eq!(load.cost(1_000 * MS), Some(0.1));
        for _ in 0..100 {
            load.observe(999 * MS, 1_000 * MS);
        }
        assert!(load.cost(1_000 * MS).unwrap() < 0.0015, "{load:?}");
    }

    #[test]
    fn costs_fade_while_no_requests_are_sent() {
        let load = PeakEwma::new();
        assert_eq!(load.cost(0), None);
        load.observe(0, 100 * MS);
        assert!(load.cost(5_100 * MS).unwrap() < 0.001);
    }

    #[test]
    fn unanswered_requests_count_once_they_are_late() {
        let load = PeakEwma::new();
        load.observe_late(0, 500 * MS);
        assert_eq!(load.cost(500 * MS), None, "no latency to compare with");
        load.observe(490 * MS, 500 * MS);
        load.observe_late(495 * MS, 500 * MS);
        assert_eq!(load.cost(500 * MS), Some(0.01));
        load.observe_late(450 * MS, 500 * MS);
        assert_eq!(load.cost(500 * MS), Some(0.05));
    }

    #[test]
    fn silence_lasts_until_the_next_response() {
        let load = PeakEwma::new();
        assert_eq!([5, 8].map(|ms| load.silence(5 * MS, ms * MS)), [0.0, 0.003]);
        load.observe(5 * MS, 9 * MS);
        assert_eq!([5, 9].map(|asked| load.silence(asked * MS, 10 * MS)), [0.0, 0.001]);
    }
}
