//! A circuit breaker for each endpoint: consecutive failures eject the endpoint, and a probe brings it back.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Params {
    /// Consecutive failures that eject an endpoint: lost connections, HTTP 502, 503 and 504, gRPC UNAVAILABLE. 0: never.
    /// Default: 7.
    pub consecutive_failures: u32,
    /// The first ejection's duration; each failed probe doubles it. Default: 1 s.
    pub min_ejection: Duration,
    /// The longest duration of an ejection. Default: a minute.
    pub max_ejection: Duration,
}

/// The circuit breaker of one endpoint.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// No request has failed since the last success. That is nearly always so, and then no lock is taken.
    is_healthy: AtomicBool,
    circuit: Mutex<Circuit>,
}

#[derive(Debug)]
struct Circuit {
    state: CircuitState,
    /// Ejections since the last success.
    ejections: u32,
}

#[derive(Clone, Copy, Debug)]
enum CircuitState {
    Closed {
        failures: u32,
    },
    /// The endpoint is ejected: no request is sent before `until`, and then one as a probe.
    Open {
        until: Instant,
    },
    /// A probe is in flight: its outcome closes the circuit or opens it again.
    HalfOpen {
        since: Instant,
        /// When its response has begun. `None`: it has not.
        answered: Option<Instant>,
    },
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    /// The endpoint neither succeeded nor failed: the client cancelled the request, or it ended without a response for a reason that
    /// may lie in the request, such as a short deadline.
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
        Self { is_healthy: AtomicBool::new(true), circuit: Mutex::new(Circuit::HEALTHY) }
    }

    /// Whether the endpoint is not ejected.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_healthy() || self.lock().is_closed()
    }

    /// Whether a request may be sent now.
    pub(crate) fn can_send(&self, params: &Params, now: Instant) -> bool {
        self.is_healthy() || self.lock().can_send(params, now)
    }

    /// Notes that a request is sent. Returns whether it is a probe.
    pub(crate) fn record_sent(&self, params: &Params, now: Instant) -> bool {
        if self.is_healthy() {
            return false;
        }
        let mut circuit = self.lock();
        let is_probe = circuit.record_sent(params, now);
        self.is_healthy.store(circuit.is_healthy(), Relaxed);
        is_probe
    }

    /// Notes that the response to a probe has begun, and is no failure so far.
    pub(crate) fn record_answer(&self, now: Instant) {
        if let CircuitState::HalfOpen { answered, .. } = &mut self.lock().state {
            answered.get_or_insert(now);
        }
    }

    /// Notes how a request ended, which was sent as a probe or not. `may_eject`: enough other endpoints are not ejected.
    /// Returns whether the endpoint is ejected from now on.
    pub(crate) fn record_outcome(
        &self,
        outcome: Outcome,
        is_probe: bool,
        may_eject: bool,
        params: &Params,
        now: Instant,
    ) -> bool {
        if self.is_healthy() && outcome != Outcome::Failure {
            return false;
        }
        let mut circuit = self.lock();
        let was_closed = circuit.is_closed();
        circuit.record_outcome(outcome, is_probe, may_eject, params, now);
        self.is_healthy.store(circuit.is_healthy(), Relaxed);
        was_closed && !circuit.is_closed()
    }

    fn is_healthy(&self) -> bool {
        self.is_healthy.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().expect("nothing panics with the lock held")
    }
}

// === impl Circuit ===

impl Circuit {
    const HEALTHY: Self = Self { state: CircuitState::Closed { failures: 0 }, ejections: 0 };

    fn is_healthy(&self) -> bool {
        matches!(self.state, CircuitState::Closed { failures: 0 }) && self.ejections == 0
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, CircuitState::Closed { .. })
    }

    fn can_send(&self, params: &Params, now: Instant) -> bool {
        match self.state {
            CircuitState::Closed { .. } => true,
            CircuitState::Open { until } => now >= until,
            // A probe without an outcome must not keep the endpoint ejected for good: a stream may last for days.
            CircuitState::HalfOpen { since, answered: None } => now >= since + params.max_ejection,
            CircuitState::HalfOpen { answered: Some(answered), .. } => now >= answered + params.min_ejection,
        }
    }

    fn record_sent(&mut self, params: &Params, now: Instant) -> bool {
        if self.is_closed() || !self.can_send(params, now) {
            return false;
        }
        let has_lasted = matches!(self.state, CircuitState::HalfOpen { answered: Some(_), .. });
        self.state = if has_lasted {
            // The next ejection is longer all the same: the response may end as a failure yet.
            CircuitState::Closed { failures: 0 }
        } else {
            CircuitState::HalfOpen { since: now, answered: None }
        };
        !has_lasted
    }

    fn record_outcome(&mut self, outcome: Outcome, is_probe: bool, may_eject: bool, params: &Params, now: Instant) {
        match (&mut self.state, outcome) {
            (CircuitState::Closed { .. }, Outcome::Success) => *self = Self::HEALTHY,
            (CircuitState::Closed { failures }, Outcome::Failure) => {
                *failures = failures.saturating_add(1);
                if params.consecutive_failures > 0 && *failures >= params.consecutive_failures && may_eject {
                    self.eject(params, now);
                }
            }
            // The request was sent before the ejection.
            (CircuitState::HalfOpen { .. }, _) if !is_probe => {}
            (CircuitState::HalfOpen { .. }, Outcome::Success) => *self = Self::HEALTHY,
            (CircuitState::HalfOpen { .. }, Outcome::Failure) => self.eject(params, now),
            (CircuitState::HalfOpen { .. }, Outcome::Unknown) => self.state = CircuitState::Open { until: now },
            (CircuitState::Open { .. }, _) | (CircuitState::Closed { .. }, Outcome::Unknown) => {}
        }
    }

    fn eject(&mut self, params: &Params, now: Instant) {
        let times = 1_u32.checked_shl(self.ejections).unwrap_or(u32::MAX);
        let pause = params.min_ejection.saturating_mul(times).min(params.max_ejection);
        self.ejections = self.ejections.saturating_add(1);
        self.state = CircuitState::Open { until: now + pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const PARAMS: Params = Params { consecutive_failures: 3, min_ejection: S, max_ejection: Duration::from_secs(5) };

    fn record_outcome(breaker: &Breaker, outcome: Outcome, now: Instant) {
        breaker.record_outcome(outcome, true, true, &PARAMS, now);
    }

    #[test]
    fn consecutive_failures_eject_for_twice_as_long_each_time_until_a_probe_succeeds() {
        let mut now = Instant::now();
        let breaker = Breaker::new();
        for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::Failure, Outcome::Failure] {
            record_outcome(&breaker, outcome, now);
            assert!(breaker.can_send(&PARAMS, now));
        }
        for pause in [1, 2, 4, 5, 5] {
            record_outcome(&breaker, Outcome::Failure, now);
            assert!(!breaker.can_send(&PARAMS, now + pause * S - S / 2));
            now += pause * S;
            assert!(breaker.can_send(&PARAMS, now));
            assert!(breaker.record_sent(&PARAMS, now) && !breaker.record_sent(&PARAMS, now), "only one probe");
            assert!(!breaker.can_send(&PARAMS, now));
        }
        record_outcome(&breaker, Outcome::Success, now);
        assert!(breaker.is_closed());
        record_outcome(&breaker, Outcome::Failure, now);
        assert!(breaker.is_closed(), "the count starts again at zero");
    }

    #[test]
    fn a_probe_of_unknown_outcome_is_followed_by_another() {
        let mut now = Instant::now();
        let breaker = Breaker::new();
        (0..3).for_each(|_| record_outcome(&breaker, Outcome::Failure, now));
        now += S;
        assert!(breaker.record_sent(&PARAMS, now));
        record_outcome(&breaker, Outcome::Unknown, now);
        assert!(breaker.can_send(&PARAMS, now) && !breaker.is_closed());
    }

    #[test]
    fn no_endpoint_is_ejected_where_ejection_is_not_allowed() {
        let now = Instant::now();
        let breaker = Breaker::new();
        for _ in 0..10 {
            breaker.record_outcome(Outcome::Failure, false, false, &PARAMS, now);
        }
        assert!(breaker.is_closed());
        let never = Params { consecutive_failures: 0, ..PARAMS };
        for _ in 0..10 {
            breaker.record_outcome(Outcome::Failure, false, true, &never, now);
        }
        assert!(breaker.is_closed());
    }
}
