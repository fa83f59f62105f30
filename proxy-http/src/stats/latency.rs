//! Histograms of durations.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A histogram of durations, with their sum.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

/// The upper bounds of the latency buckets, in microseconds; one more bucket takes longer ones. From a millisecond on the
/// bounds are linkerd2-proxy's.
pub const LATENCY_BUCKETS: [u32; 29] = [
    100,
    250,
    500,
    1_000,
    2_000,
    3_000,
    4_000,
    5_000,
    10_000,
    20_000,
    30_000,
    40_000,
    50_000,
    100_000,
    200_000,
    300_000,
    400_000,
    500_000,
    1_000_000,
    2_000_000,
    3_000_000,
    4_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    30_000_000,
    40_000_000,
    50_000_000,
    100_000_000,
];

// === impl Latency ===

impl Latency {
    /// Counts of each bucket of [`LATENCY_BUCKETS`], and of the one above the last; not cumulative.
    pub fn buckets(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|count| count.load(Relaxed))
    }

    /// The sum of all latencies.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us.load(Relaxed))
    }

    /// Adds a latency.
    pub fn record(&self, latency: Duration) {
        // Rounded up: a bound is below the latency exactly if it is below this.
        let us = u64::from(latency.subsec_nanos().div_ceil(1_000))
            .saturating_add(latency.as_secs().saturating_mul(1_000_000));
        let bucket = LATENCY_BUCKETS.partition_point(|bound| u64::from(*bound) < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Adds all latencies of another histogram.
    pub(crate) fn add(&self, other: &Self) {
        for (count, more) in self.buckets.iter().zip(other.buckets()) {
            count.fetch_add(more, Relaxed);
        }
        self.sum_us.fetch_add(other.sum_us.load(Relaxed), Relaxed);
    }
}
