//! The choice among endpoints that accept a request: by latency, by requests in flight, and by their shares.
//!
//! The fewest requests in flight for the share do not give each endpoint its share: with few in flight, the endpoint with the
//! largest share wins every time. So each endpoint has a virtual time, as in weighted fair queueing, which advances by
//! 1 / share with each request. An endpoint that is behind the mean is owed requests; they count against those that it has in
//! flight, up to a bound. Within the bound requests in flight decide, beyond it they cannot keep an endpoint from its share.

use std::time::Duration;
use tokio::time::Instant;

/// An endpoint that accepts a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its place among all endpoints.
    pub(super) index: usize,
    /// Its share of the requests, against the others' shares; above zero.
    pub(super) share: f64,
    pub(super) in_flight: usize,
    /// In seconds. `None`: not measured yet.
    pub(super) latency: Option<f64>,
    /// For how long a request has been in flight while no response came, in seconds. Zero: none is, or one came.
    pub(super) silence: f64,
    pub(super) virtual_time: f64,
}

/// State that one choice leaves to the next.
#[derive(Debug)]
pub(super) struct Choice {
    /// `None`: the next request is for itself.
    batch: Option<Batch>,
    /// Requests of the largest among the last batches.
    largest: f64,
    /// The mean of the endpoints' virtual times.
    mean: f64,
}

/// Requests that came together and go to one endpoint: then their responses come together, too, and many are written at
/// once. That saves most of what several endpoints cost more than one.
#[derive(Clone, Copy, Debug)]
struct Batch {
    index: usize,
    /// What a request adds to the endpoint's virtual time.
    step: f64,
    requests: usize,
    /// Requests of this poll belong to the batch, up to `max_read`.
    last: Instant,
    max_read: usize,
    /// Requests of other polls do until then, up to `max`.
    until: Instant,
    max: usize,
}

/// Whether an endpoint gets its full share, or less at first (slow start).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    /// Not ready yet, and no other was when it was listed or lost: its full share once it is ready.
    Together,
    /// Not ready yet, while others are: a growing share once it is ready.
    Alone,
    /// It has been ready: its share grows from that time. `None`: the full share.
    Ready(Option<Instant>),
}

/// Endpoints whose latencies differ by less than this factor are taken for equal, and so are those that are [`FAST`]: on
/// fast networks noise is larger, and an endpoint that gets no requests because of noise cannot show that it was noise.
const EQUAL: f64 = 2.0;
/// Only an endpoint that answers within this, in seconds, gets batches, so that a batch does not wait long. With what it
/// has to wait, the endpoint is not fast any more, and the next requests are spread.
const FAST: f64 = 0.002;
/// Reads that come within this time of the first go to one endpoint, until they have brought so many requests. A quiet
/// proxy's are each for itself.
const TOGETHER: Duration = Duration::from_micros(500);
const MAX_BATCH: f64 = 64.0;
/// The requests of one read stay together up to so many: those that are parted once are answered apart, and so come apart
/// from then on.
const MAX_READ: f64 = 256.0;
/// The batches that an endpoint may be owed, or have been given too many. With fewer, shares were off by up to 30 % in a
/// simulation of 256 requests in flight; with more, an endpoint with many long streams would get more of them.
const OWED: f64 = 4.0;
/// What is left of the size of a large batch with each batch that follows.
const FADING: f64 = 0.98;
/// In slow start an endpoint gets this part of its share at first.
const FIRST_SHARE: f64 = 0.1;

// === impl Choice ===

impl Choice {
    pub(super) const fn new() -> Self {
        Self { batch: None, largest: 1.0, mean: 0.0 }
    }

    /// The endpoint of the request before, if this request belongs to the same batch, and what to add to the endpoint's
    /// virtual time.
    pub(super) fn stay(&mut self, now: Instant, has_room: impl FnOnce(usize) -> bool) -> Option<(usize, f64)> {
        let Batch { index, step, requests, last, max_read, until, max } = self.batch.as_mut()?;
        let belongs = now == *last && *requests < *max_read || now < *until && *requests < *max;
        if !belongs || !has_room(*index) {
            return None;
        }
        *last = now;
        *requests += 1;
        Some((*index, *step))
    }

    /// Ends the batch: the endpoints have changed.
    pub(super) fn end_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.largest = (self.largest * FADING).max(batch.requests as f64);
        }
    }

    /// The mean virtual time, which is that of an endpoint that is owed nothing.
    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    /// Requests of the largest among the last batches, at least one.
    pub(super) fn largest(&self) -> usize {
        self.largest as usize
    }

    /// The best of the candidates, whose virtual times it brings up to date. `busy`: a request is in flight. `None`: there is
    /// no candidate.
    ///
    /// Of candidates that are equal it is the first.
    pub(super) fn choose(&mut self, candidates: &mut [Candidate], now: Instant, busy: bool) -> Option<usize> {
        self.end_batch();
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for candidate in &*candidates {
            least = least.min(candidate.latency.unwrap_or(f64::INFINITY));
            most = most.max(candidate.share);
        }
        let slow = EQUAL * least.max(FAST);
        let (mut sum, mut shares) = (0.0, 0.0);
        for candidate in candidates.iter().filter(|candidate| candidate.is_fair(slow)) {
            sum += candidate.share * candidate.virtual_time;
            shares += candidate.share;
        }
        if shares > 0.0 {
            self.mean = sum / shares;
        }
        let max_read = MAX_READ / most;
        let mut best = None;
        for (place, candidate) in candidates.iter_mut().enumerate() {
            // Of four divisions for each candidate one is left.
            let step = 1.0 / candidate.share;
            let bound = OWED * self.largest.min(max_read * candidate.share).max(1.0) * step;
            let owed = if candidate.is_fair(slow) { bound } else { 0.0 };
            candidate.virtual_time = candidate.virtual_time.max(self.mean - owed).min(self.mean + bound);
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
            until: if busy { now + TOGETHER } else { now },
            max: scaled(MAX_BATCH),
        };
        self.batch = chosen.latency.is_some_and(|latency| latency < FAST).then_some(batch);
        Some(chosen.index)
    }
}

// === impl Candidate ===

impl Candidate {
    /// Whether it is owed requests when it is behind. One that is slow is behind for a reason, and one that is silent for
    /// longer than its latency explains might not answer at all.
    fn is_fair(&self, slow: f64) -> bool {
        let latency = self.latency.unwrap_or(0.0);
        latency <= slow && self.silence <= EQUAL * latency.max(FAST)
    }

    /// Requests in flight with one more, times latency if that is much more than the least.
    fn cost(&self, slow: f64) -> f64 {
        let requests = (self.in_flight + 1) as f64;
        match self.latency {
            Some(latency) if latency > slow => EQUAL * latency / slow * requests,
            _ => requests,
        }
    }
}

// === impl Start ===

impl Start {
    /// Of an endpoint that is listed now.
    pub(super) fn new(others_are_ready: bool) -> Self {
        if others_are_ready { Self::Alone } else { Self::Together }
    }

    /// Takes notice of a change, and says whether the endpoint starts. One that was ready starts anew once an attempt to
    /// connect to it has failed.
    pub(super) fn update(&mut self, is_ready: bool, has_failed: bool, others_are_ready: bool, now: Instant) -> bool {
        let before = std::mem::replace(
            self,
            match *self {
                Self::Together if is_ready => Self::Ready(None),
                Self::Alone if is_ready => Self::Ready(others_are_ready.then_some(now)),
                Self::Ready(_) if !is_ready && has_failed => Self::Alone,
                unchanged => unchanged,
            },
        );
        is_ready && before != *self
    }

    /// The part of its share that the endpoint gets now: from a tenth to all over `slow_start`.
    pub(super) fn part(self, slow_start: Duration, now: Instant) -> f64 {
        let since = match self {
            Self::Together | Self::Ready(None) => return 1.0,
            Self::Alone => now,
            Self::Ready(Some(since)) => since,
        };
        let age = now.saturating_duration_since(since);
        if age >= slow_start { 1.0 } else { age.div_duration_f64(slow_start).max(FIRST_SHARE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cmp::Reverse, collections::BinaryHeap};

    const MS: f64 = 1e-3;
    const NAMED: [&[f64]; 5] =
        [&[1.0, 1.0, 1.0], &[1.0, 3.0, 6.0], &[1.0, 0.5, 0.1], &[1.0, 100.0], &[1.0, 1.0, 1.0, 1.0, 10.0]];

    /// Endpoints by their candidates, a clock, and chance that is the same each time.
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

        /// Sends a request, and says which endpoint it went to.
        fn send(&mut self) -> usize {
            let index = match self.choice.stay(self.now, |_| true) {
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

        /// Keeps `clients` with `streams` each busy: they send together, and again when a response came, up to `requests`.
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
                // Responses of one endpoint come together.
                let mut sent = vec![0; self.all.len()];
                (0..answered).for_each(|_| sent[self.send()] += 1);
                for (index, sent) in sent.into_iter().enumerate().filter(|(_, sent)| *sent > 0) {
                    arrivals.push(Reverse((at + latency + self.rng.u64(0..=latency / 10), Some(index), sent)));
                }
            }
        }

        /// Each got its share, give or take 5 %.
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
    fn one_request_after_another_keeps_to_the_shares() {
        for shares in NAMED {
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
    fn many_at_once_keep_to_the_shares_whether_fast_or_slow() {
        for shares in NAMED {
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
        for shares in [NAMED[1], NAMED[2]] {
            let mut endpoints = Endpoints::new(shares, 0.3 * MS);
            endpoints.load(1, 64, 6_000);
            endpoints.check("a few thousand");
        }
    }

    #[test]
    fn a_read_stays_together_on_equal_endpoints() {
        let mut endpoints = Endpoints::new(NAMED[0], 0.3 * MS);
        for _ in 0..30 {
            let first = endpoints.send();
            assert!((1..256).all(|_| endpoints.send() == first));
            endpoints.all[first].in_flight = 0;
            endpoints.now += Duration::from_millis(1);
        }
        assert_eq!(endpoints.given, [2_560; 3]);
    }

    #[test]
    fn a_slow_endpoint_is_asked_by_latency_and_is_owed_nothing_for_it() {
        let mut endpoints = Endpoints::new(NAMED[0], 10.0 * MS);
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
    fn an_endpoint_that_does_not_answer_is_asked_no_more_than_the_others_have_in_flight() {
        let mut endpoints = Endpoints::new(NAMED[0], 20.0 * MS);
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
        let mut endpoints = Endpoints::new(NAMED[0], 0.3 * MS);
        endpoints.all[0].in_flight = 100;
        for _ in 0..200 {
            endpoints.send();
            endpoints.now += Duration::from_millis(10);
        }
        assert!(endpoints.given[0] < 10, "{:?}", endpoints.given);
    }

    #[test]
    fn endpoints_start_with_a_tenth_only_while_others_are_ready() {
        let (now, slow_start) = (Instant::now(), Duration::from_secs(10));
        let parts = |start: Start| [0, 1, 5, 10].map(|s| start.part(slow_start, now + Duration::from_secs(s)));
        let updated = |mut start: Start, changes: &[(bool, bool, bool)]| {
            for (is_ready, has_failed, others) in changes {
                start.update(*is_ready, *has_failed, *others, now);
            }
            start
        };
        let (full, grows) = (Start::Ready(None), Start::Ready(Some(now)));
        assert_eq!((parts(full), parts(grows)), ([1.0; 4], [0.1, 0.1, 0.5, 1.0]));
        assert_eq!(grows.part(Duration::ZERO, now), 1.0);
        assert_eq!(
            updated(Start::new(false), &[(false, true, true), (true, false, true)]),
            full,
            "with the first list"
        );
        assert_eq!(updated(Start::new(true), &[(true, false, true)]), grows, "it joins the others");
        assert_eq!(updated(Start::new(true), &[(true, false, false)]), full, "the others have gone meanwhile");
        assert_eq!(updated(full, &[(false, false, true), (true, false, true)]), full, "reconnected at once");
        assert_eq!(updated(full, &[(false, true, true), (true, false, true)]), grows, "back after failed attempts");
    }
}
