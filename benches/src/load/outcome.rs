//! The results of a load.

use super::End;
use hdrhistogram::Histogram;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The results of a load in its measured time.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Latencies of the streams that ended well, in microseconds, to three digits and up to a minute.
    pub latency_us: Histogram<u64>,
    /// How many streams ended in which way. Streams that are open at the end of the time are not counted.
    pub ends: BTreeMap<End, u64>,
    /// Bytes of answers that arrived, also of streams that did not end.
    pub received: u64,
    /// The measured time.
    pub time: Duration,
}

/// Collects while the measured time lasts.
#[derive(Debug)]
pub(super) struct Recorder {
    received: AtomicU64,
    measured: Mutex<Measured>,
}

#[derive(Debug)]
struct Measured {
    since: Option<Instant>,
    outcome: Outcome,
}

const LONGEST_US: u64 = 60_000_000;

// === impl Outcome ===

impl Outcome {
    fn new() -> Self {
        let latency_us = Histogram::new_with_max(LONGEST_US, 3).expect("the bounds are valid");
        Self { latency_us, ends: BTreeMap::new(), received: 0, time: Duration::ZERO }
    }

    /// How many streams ended well.
    pub fn ok(&self) -> u64 {
        self.ends.get(&End::Ok).copied().unwrap_or_default()
    }

    /// How many streams ended otherwise.
    pub fn failed(&self) -> u64 {
        self.ends.iter().filter(|(end, _)| !end.is_ok()).map(|(_, count)| count).sum()
    }
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new() -> Self {
        Self { received: 0.into(), measured: Mutex::new(Measured { since: None, outcome: Outcome::new() }) }
    }

    /// The measured time begins.
    pub(super) fn begin(&self) {
        let mut measured = self.lock();
        measured.since = Some(Instant::now());
        measured.outcome.received = self.received.load(Relaxed);
    }

    /// The measured time is over.
    pub(super) fn finish(&self) -> Outcome {
        let mut measured = self.lock();
        let time = measured.since.take().map(|since| since.elapsed()).unwrap_or_default();
        let mut outcome = std::mem::replace(&mut measured.outcome, Outcome::new());
        outcome.received = self.received.load(Relaxed) - outcome.received;
        outcome.time = time;
        outcome
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    pub(super) fn record(&self, end: End, latency: Duration) {
        let mut measured = self.lock();
        if measured.since.is_none() {
            return;
        }
        *measured.outcome.ends.entry(end).or_default() += 1;
        if end.is_ok() {
            measured.outcome.latency_us.saturating_record(latency.as_micros() as u64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
