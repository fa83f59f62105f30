//! Load balancing: the choice among endpoints that accept a request, by latency, requests in flight and share.
//!
//! The fewest requests in flight for the share do not give each endpoint its share: with few in flight, the endpoint with
//! the largest share wins every time. So each endpoint has a virtual time, as in weighted fair queueing, which advances by
//! 1 / share with each request. An endpoint that is behind the mean is owed requests; they count against those that it has in
//! flight, up to a bound. Within the bound requests in flight decide, beyond it they cannot keep an endpoint from its share.

use std::time::Duration;
use tokio::time::Instant;

/// An endpoint that accepts a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its index among all endpoints.
    pub(super) index: usize,
    /// Its share of the requests, against the others' shares; above zero.
    pub(super) share: f64,
    pub(super) in_flight: usize,
    /// In seconds. `None`: not measured yet.
    pub(super) latency: Option<f64>,
    /// Seconds for which requests have been in flight without any response from the endpoint. Zero: none are in flight, or a
    /// response has come since the first of them was sent.
    pub(super) silence: f64,
    pub(super) virtual_time: f64,
}

/// State that one choice leaves to the next.
#[derive(Debug)]
pub(super) struct Choice {
    /// `None`: the next request is not part of a batch.
    batch: Option<Batch>,
    /// Requests in the largest of the recent batches; fades with each smaller batch.
    largest_batch: f64,
    /// The mean of the endpoints' virtual times, weighted by their shares.
    mean_virtual_time: f64,
}

/// Requests that came together and go to one endpoint: then their responses come together, too, and many are written at
/// once. That saves most of the additional CPU per request that several endpoints cost over one.
#[derive(Clone, Copy, Debug)]
struct Batch {
    index: usize,
    /// Added to the endpoint's virtual time by each request: 1 / share.
    step: f64,
    requests: usize,
    /// The clock of the last request's poll. Requests of the same poll belong to the batch, up to `max_read`.
    last: Instant,
    max_read: usize,
    /// Requests of other polls belong to the batch until this time, up to `max`.
    until: Instant,
    max: usize,
}

/// Latencies that differ by less than this factor count as equal, as do all below [`FAST_LATENCY`]: on fast networks noise
/// is larger, and an endpoint that gets no requests because of noise cannot show that it was noise.
const LATENCY_TOLERANCE: f64 = 2.0;
/// Only an endpoint of a lower latency, in seconds, gets batches, so that a batch does not wait long. The time that a batch
/// waits at the endpoint is part of the latency; when that exceeds the bound, the next requests are spread.
const FAST_LATENCY: f64 = 0.002;
/// Requests of reads that come within this time of the first go to one endpoint, up to [`MAX_BATCH`] requests. While no
/// request is in flight, a batch holds the requests of one read only.
const BATCH_TIME: Duration = Duration::from_micros(500);
const MAX_BATCH: f64 = 64.0;
/// The requests of one read that go to one endpoint at most. Requests that are spread are answered at different times, so
/// the client sends the next ones at different times, too.
const MAX_READ: f64 = 256.0;
/// The batches by which an endpoint may be behind its share or ahead of it. With fewer, shares were off by up to 30 % in a
/// simulation of 256 requests in flight; with more, an endpoint with many long streams would get more of them.
const MAX_OWED_BATCHES: f64 = 4.0;
/// The factor by which the largest batch's size fades with each batch that follows.
const BATCH_SIZE_DECAY: f64 = 0.98;

// === impl Choice ===

impl Choice {
    pub(super) const fn new() -> Self {
        Self { batch: None, largest_batch: 1.0, mean_virtual_time: 0.0 }
    }

    /// Adds this request to the batch of the one before, if it belongs there. Returns the endpoint and the step of its
    /// virtual time.
    pub(super) fn continue_batch(
        &mut self,
        now: Instant,
        has_room: impl FnOnce(usize) -> bool,
    ) -> Option<(usize, f64)> {
        let Batch { index, step, requests, last, max_read, until, max } = self.batch.as_mut()?;
        let belongs = now == *last && *requests < *max_read || now < *until && *requests < *max;
        if !belongs || !has_room(*index) {
            return None;
        }
        *last = now;
        *requests += 1;
        Some((*index, *step))
    }

    /// Ends the batch, because the endpoints have changed.
    pub(super) fn end_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.largest_batch = (self.largest_batch * BATCH_SIZE_DECAY).max(batch.requests as f64);
        }
    }

    /// The mean virtual time. An endpoint at the mean has had exactly its share.
    pub(super) fn mean_virtual_time(&self) -> f64 {
        self.mean_virtual_time
    }

    /// Requests in the largest of the recent batches, at least one.
    pub(super) fn largest_batch(&self) -> usize {
        self.largest_batch as usize
    }

    /// Chooses the candidate of the lowest cost, the first of equal ones, and updates all virtual times. `busy`: a request
    /// is in flight. `None`: there is no candidate.
    pub(super) fn choose(&mut self, candidates: &mut [Candidate], now: Instant, busy: bool) -> Option<usize> {
        self.end_batch();
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for candidate in &*candidates {
            least = min(least, candidate.latency.unwrap_or(f64::INFINITY));
            most = max(most, candidate.share);
        }
        let slow = LATENCY_TOLERANCE * least.max(FAST_LATENCY);
        let (mut sum, mut shares) = (0.0, 0.0);
        for candidate in candidates.iter().filter(|candidate| candidate.can_be_owed(slow)) {
            sum += candidate.share * candidate.virtual_time;
            shares += candidate.share;
        }
        if shares > 0.0 {
            self.mean_virtual_time = sum / shares;
        }
        let max_read = MAX_READ / most;
        let mut best = None;
        for (place, candidate) in candidates.iter_mut().enumerate() {
            // The only division for each candidate; the terms below multiply by it.
            let step = 1.0 / candidate.share;
            let bound = MAX_OWED_BATCHES * max(min(self.largest_batch, max_read * candidate.share), 1.0) * step;
            let owed = if candidate.can_be_owed(slow) { bound } else { 0.0 };
            let (earliest, latest) = (self.mean_virtual_time - owed, self.mean_virtual_time + bound);
            candidate.virtual_time = min(max(candidate.virtual_time, earliest), latest);
            let score = candidate.cost(slow) * step + candidate.virtual_time;
            if best.is_none_or(|(_, _, least)| score < least) {
                best = Some((place, step, score));
            }
        }
        let (place, step, _) = best?;
        let chosen = &mut candidates[place];
        chosen.virtual_time += step;
        let scaled = |requests: f64| (requests * chosen.share / most) as usize;
        let batch = Batch {
            index: chosen.index,
            step,
            requests: 1,
            last: now,
            max_read: scaled(MAX_READ),
            until: if busy { now + BATCH_TIME } else { now },
            max: scaled(MAX_BATCH),
        };
        self.batch = chosen.latency.is_some_and(|latency| latency < FAST_LATENCY).then_some(batch);
        Some(chosen.index)
    }
}

// === impl Candidate ===

impl Candidate {
    /// Whether the endpoint is owed requests when it is behind its share. A slow endpoint is not, since it is behind because
    /// it is slow; nor is one that has been silent for longer than its latency explains, since it might not answer at all.
    fn can_be_owed(&self, slow: f64) -> bool {
        let latency = self.latency.unwrap_or(0.0);
        latency <= slow && self.silence <= LATENCY_TOLERANCE * max(latency, FAST_LATENCY)
    }

    /// Requests in flight with this one; times latency if that is much higher than the lowest.
    fn cost(&self, slow: f64) -> f64 {
        let requests = (self.in_flight + 1) as f64;
        match self.latency {
            Some(latency) if latency > slow => LATENCY_TOLERANCE * latency / slow * requests,
            _ => requests,
        }
    }
}

/// The greater of two numbers, in one instruction: none is NaN, which `f64::max` tells from others in four more.
fn max(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// The lesser of two numbers, likewise.
fn min(a: f64, b: f64) -> f64 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cmp::Reverse, collections::BinaryHeap};

    const MS: f64 = 1e-3;
    const SHARES: [&[f64]; 5] =
        [&[1.0, 1.0, 1.0], &[1.0, 3.0, 6.0], &[1.0, 0.5, 0.1], &[1.0, 100.0], &[1.0, 1.0, 1.0, 1.0, 10.0]];

    /// A simulation of endpoints, with a clock and a random generator of a fixed seed.
    struct Endpoints {
        all: Vec<Candidate>,
        given: Vec<usize>,
        choice: Choice,
        started: Instant,
        now: Instant,
        rng: fastrand::Rng,
    }

    impl Endpoints {
        fn new(shares: &[f64], latency: f64) -> Self {
            let all = shares.iter().enumerate().map(|(index, share)| Candidate {
                index,
                share: *share,
                in_flight: 0,
                latency: Some(latency),
                silence: 0.0,
                virtual_time: 0.0,
            });
            let now = Instant::now();
            Self {
                all: all.collect(),
                given: vec![0; shares.len()],
                choice: Choice::new(),
                started: now,
                now,
                rng: fastrand::Rng::with_seed(7),
            }
        }

        /// Sends a request, and returns the index of its endpoint.
        fn send(&mut self) -> usize {
            let index = match self.choice.continue_batch(self.now, |_| true) {
                Some((index, step)) => {
                    self.all[index].virtual_time += step;
                    index
                }
                None => {
                    let busy = self.all.iter().any(|candidate| candidate.in_flight > 0);
                    self.choice.choose(&mut self.all, self.now, busy).unwrap()
                }
            };
            self.all[index].in_flight += 1;
            self.given[index] += 1;
            index
        }

        /// Has `clients` keep `streams` requests each in flight until `requests` were sent.
        fn load(&mut self, clients: usize, streams: usize, requests: usize) {
            let latency = (self.all[0].latency.unwrap() * 1e9) as u64;
            let first = (0..clients as u64).map(|client| Reverse((client * latency / 7, None::<usize>, streams)));
            let mut arrivals: BinaryHeap<_> = first.collect();
            while self.given.iter().sum::<usize>() < requests {
                let Reverse((at, answered_by, answered)) = arrivals.pop().unwrap();
                if let Some(index) = answered_by {
                    self.all[index].in_flight -= answered;
                }
                self.now = self.started + Duration::from_nanos(at);
                // Responses of one endpoint to one client come together.
                let mut sent = vec![0; self.all.len()];
                (0..answered).for_each(|_| sent[self.send()] += 1);
                for (index, sent) in sent.into_iter().enumerate().filter(|(_, sent)| *sent > 0) {
                    arrivals.push(Reverse((at + latency + self.rng.u64(0..=latency / 10), Some(index), sent)));
                }
            }
        }

        /// Checks that each endpoint got its share within 5 %.
        #[track_caller]
        fn check(&self, case: &str) {
            let all: f64 = self.all.iter().map(|candidate| candidate.share).sum();
            let requests = self.given.iter().sum::<usize>() as f64;
            for (given, candidate) in self.given.iter().zip(&self.all) {
                let due = requests * candidate.share / all;
                assert!(
                    (*given as f64 - due).abs() <= 1.0_f64.max(due * 0.05),
                    "{case}: {:?} of {:?}",
                    self.given,
                    self.all
                );
            }
        }
    }

    #[test]
    fn sequential_requests_keep_to_the_shares() {
        for shares in SHARES {
            let mut endpoints = Endpoints::new(shares, 0.1 * MS);
            for _ in 0..3_000 {
                let index = endpoints.send();
                endpoints.all[index].in_flight -= 1;
                endpoints.now += Duration::from_micros(100);
            }
            endpoints.check("one by one");
        }
    }

    #[test]
    fn concurrent_requests_keep_to_the_shares_at_low_and_high_latency() {
        for shares in SHARES {
            for latency in [0.3 * MS, 20.0 * MS] {
                for (clients, streams) in [(2, 1), (4, 1), (8, 1), (64, 1), (1, 8), (1, 64), (2, 64), (4, 64)] {
                    let mut endpoints = Endpoints::new(shares, latency);
                    endpoints.load(clients, streams, 10_000);
                    endpoints.check(&format!("{latency} s, {clients} x {streams}"));
                }
            }
        }
    }

    #[test]
    fn batches_are_small_enough_for_the_shares_of_a_few_thousand_requests() {
        for shares in [SHARES[1], SHARES[2]] {
            let mut endpoints = Endpoints::new(shares, 0.3 * MS);
            endpoints.load(1, 64, 6_000);
            endpoints.check("a few thousand");
        }
    }

    #[test]
    fn requests_of_one_read_go_to_one_of_equal_endpoints() {
        let mut endpoints = Endpoints::new(SHARES[0], 0.3 * MS);
        for _ in 0..30 {
            let first = endpoints.send();
            assert!((1..256).all(|_| endpoints.send() == first));
            endpoints.all[first].in_flight = 0;
            endpoints.now += Duration::from_millis(1);
        }
        assert_eq!(endpoints.given, [2_560; 3]);
    }

    #[test]
    fn a_slow_endpoint_gets_requests_by_latency_and_is_not_owed_the_rest() {
        let mut endpoints = Endpoints::new(SHARES[0], 10.0 * MS);
        endpoints.all[2].latency = Some(100.0 * MS);
        for _ in 0..1_000 {
            let index = endpoints.send();
            endpoints.all[index].in_flight -= 1;
        }
        assert_eq!(endpoints.given[2], 0, "ten times as slow, and the others have nothing to do");
        endpoints.all[2].latency = Some(10.0 * MS);
        for _ in 0..30 {
            let index = endpoints.send();
            endpoints.all[index].in_flight -= 1;
        }
        assert!((9..=11).contains(&endpoints.given[2]), "{:?}", endpoints.given);
    }

    #[test]
    fn a_silent_endpoint_gets_no_more_requests_than_the_others_have_in_flight() {
        let mut endpoints = Endpoints::new(SHARES[0], 20.0 * MS);
        for _ in 0..1_000 {
            let index = endpoints.send();
            if index == 1 {
                endpoints.all[1].silence = 100.0 * MS;
            } else {
                endpoints.all[index].in_flight -= 1;
            }
        }
        assert_eq!(endpoints.given[1], 1);
    }

    #[test]
    fn endpoints_with_fewer_long_streams_get_the_next_ones() {
        let mut endpoints = Endpoints::new(SHARES[0], 0.3 * MS);
        endpoints.all[0].in_flight = 100;
        for _ in 0..200 {
            endpoints.send();
            endpoints.now += Duration::from_millis(10);
        }
        assert!(endpoints.given[0] < 10, "{:?}", endpoints.given);
    }
}
