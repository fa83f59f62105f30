//! Leaves endpoints alone that keep failing.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// When an endpoint is left alone, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Params {
    /// Failures in a row that eject an endpoint: lost connections, HTTP 502, 503 and 504, gRPC UNAVAILABLE. 0: none do.
    pub consecutive_failures: u32,
    /// How long an endpoint is left alone at first; each failed probe doubles it.
    pub min_ejection: Duration,
    /// The longest it is left alone.
    pub max_ejection: Duration,
}

/// Whether one endpoint may be asked.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// Nothing has failed since something last worked, as nearly always: saves the lock.
    calm: AtomicBool,
    history: Mutex<History>,
}

#[derive(Debug)]
struct History {
    state: State,
    /// Ejections since the endpoint last worked.
    ejections: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        failures: u32,
    },
    /// No requests until then, and then one.
    Open {
        until: Instant,
    },
    /// One request is on its way, and all depends on it.
    Probing {
        since: Instant,
    },
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    /// It tells nothing of the endpoint: the client went away.
    Unknown,
}

// === impl Params ===

impl Default for Params {
    /// 7 failures, for 1 s to 1 min.
    fn default() -> Self {
        Self { consecutive_failures: 7, min_ejection: Duration::from_secs(1), max_ejection: Duration::from_secs(60) }
    }
}

// === impl Breaker ===

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { calm: AtomicBool::new(true), history: Mutex::new(History::CALM) }
    }

    /// Whether the endpoint is not ejected.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_calm() || self.lock().is_closed()
    }

    /// Whether a request may be sent now.
    pub(crate) fn admits(&self, params: &Params, now: Instant) -> bool {
        self.is_calm() || self.lock().admits(params, now)
    }

    /// A request is sent.
    pub(crate) fn sent(&self, now: Instant) {
        if !self.is_calm() {
            self.lock().sent(now);
        }
    }

    /// A request has ended. `may_eject`: enough other endpoints are there.
    pub(crate) fn ended(&self, outcome: Outcome, may_eject: bool, params: &Params, now: Instant) {
        if self.is_calm() && outcome != Outcome::Failure {
            return;
        }
        let mut history = self.lock();
        history.ended(outcome, may_eject, params, now);
        self.calm.store(history.is_calm(), Relaxed);
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("nothing panics with the lock held")
    }
}

// === impl History ===

impl History {
    const CALM: Self = Self { state: State::Closed { failures: 0 }, ejections: 0 };

    fn is_calm(&self) -> bool {
        matches!(self.state, State::Closed { failures: 0 })
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn admits(&self, params: &Params, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } => now >= until,
            // A probe that takes that long does not hold up the next.
            State::Probing { since } => now >= since + params.max_ejection,
        }
    }

    fn sent(&mut self, now: Instant) {
        if !self.is_closed() {
            self.state = State::Probing { since: now };
        }
    }

    fn ended(&mut self, outcome: Outcome, may_eject: bool, params: &Params, now: Instant) {
        match (&mut self.state, outcome) {
            (State::Closed { failures }, Outcome::Success) => *failures = 0,
            (State::Closed { failures }, Outcome::Failure) => {
                *failures = failures.saturating_add(1);
                if params.consecutive_failures > 0 && *failures >= params.consecutive_failures && may_eject {
                    self.eject(params, now);
                }
            }
            (State::Probing { .. }, Outcome::Success) => *self = Self::CALM,
            (State::Probing { .. }, Outcome::Failure) => self.eject(params, now),
            (State::Probing { .. }, Outcome::Unknown) => self.state = State::Open { until: now },
            // Sent before it was ejected.
            (State::Open { .. }, _) | (State::Closed { .. }, Outcome::Unknown) => {}
        }
    }

    fn eject(&mut self, params: &Params, now: Instant) {
        let times = 1_u32.checked_shl(self.ejections).unwrap_or(u32::MAX);
        let pause = params.min_ejection.saturating_mul(times).min(params.max_ejection);
        self.ejections = self.ejections.saturating_add(1);
        self.state = State::Open { until: now + pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const PARAMS: Params = Params { consecutive_failures: 3, min_ejection: S, max_ejection: Duration::from_secs(5) };

    fn ended(breaker: &Breaker, outcome: Outcome, now: Instant) {
        breaker.ended(outcome, true, &PARAMS, now);
    }

    #[test]
    fn failures_in_a_row_eject_for_ever_longer_until_a_probe_succeeds() {
        let mut now = Instant::now();
        let breaker = Breaker::new();
        for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::Failure, Outcome::Failure] {
            ended(&breaker, outcome, now);
            assert!(breaker.admits(&PARAMS, now));
        }
        for pause in [1, 2, 4, 5, 5] {
            ended(&breaker, Outcome::Failure, now);
            assert!(!breaker.admits(&PARAMS, now + pause * S - S / 2));
            now += pause * S;
            assert!(breaker.admits(&PARAMS, now));
            breaker.sent(now);
            assert!(!breaker.admits(&PARAMS, now), "only one probe");
        }
        ended(&breaker, Outcome::Success, now);
        assert!(breaker.is_closed());
        ended(&breaker, Outcome::Failure, now);
        assert!(breaker.is_closed(), "it starts over");
    }

    #[test]
    fn a_probe_that_tells_nothing_is_followed_by_another() {
        let mut now = Instant::now();
        let breaker = Breaker::new();
        (0..3).for_each(|_| ended(&breaker, Outcome::Failure, now));
        now += S;
        breaker.sent(now);
        ended(&breaker, Outcome::Unknown, now);
        assert!(breaker.admits(&PARAMS, now) && !breaker.is_closed());
    }

    #[test]
    fn nothing_is_ejected_that_may_not_be() {
        let now = Instant::now();
        let breaker = Breaker::new();
        for _ in 0..10 {
            breaker.ended(Outcome::Failure, false, &PARAMS, now);
        }
        assert!(breaker.is_closed());
        let never = Params { consecutive_failures: 0, ..PARAMS };
        for _ in 0..10 {
            breaker.ended(Outcome::Failure, true, &never, now);
        }
        assert!(breaker.is_closed());
    }
}
