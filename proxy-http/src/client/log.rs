//! Rate limit of log lines about endpoints.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// Limits the log lines about each endpoint, for the connections of all workers together.
///
/// A change of state is logged once. A failure that lasts is logged again each minute, and after five seconds if its reason is
/// another one.
#[derive(Default)]
pub struct EndpointLog(Mutex<HashMap<Arc<str>, LastLogged>>);

/// The last log lines about one endpoint.
#[derive(Debug, Default)]
struct LastLogged {
    state: Option<LastState>,
    go_away: Option<Instant>,
}

/// The state in the last log line about an endpoint.
#[derive(Debug)]
struct LastState {
    state: LoggedState,
    /// Why the endpoint failed, without its numbers; empty if it is ready.
    reason: String,
    at: Instant,
}

/// The state of an endpoint, as one worker sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LoggedState {
    /// A connection was made.
    Ready,
    /// An attempt to connect failed.
    Unreachable,
    /// The endpoint closes connections before any response.
    Lost,
}

/// The interval at which a line is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// The interval at which another reason of the same state is logged: reasons that alternate fill no log.
const OTHER_REASON_AFTER: Duration = Duration::from_secs(5);

// === impl EndpointLog ===

impl EndpointLog {
    /// Whether the endpoint is to be logged as ready; if so, notes that it was.
    pub(crate) fn should_log_ready(&self, endpoint: &Arc<str>, now: Instant) -> bool {
        self.should_log_state(endpoint, LoggedState::Ready, String::new(), now)
    }

    /// Whether the state is to be logged now, with the reason of a failure; if so, notes that it was.
    pub(crate) fn should_log_state(
        &self,
        endpoint: &Arc<str>,
        state: LoggedState,
        mut reason: String,
        now: Instant,
    ) -> bool {
        // rustls tells the time and an age in seconds, which make no other reason of an expired certificate.
        reason.retain(|char| !char.is_ascii_digit());
        self.with(endpoint, |last| {
            let should_log = last.state.as_ref().is_none_or(|before| {
                let after = if before.reason == reason { REPEAT_AFTER } else { OTHER_REASON_AFTER };
                // Ready endpoints stay ready: no line repeats that.
                before.state != state || state != LoggedState::Ready && now >= before.at + after
            });
            if should_log {
                last.state = Some(LastState { state, reason, at: now });
            }
            should_log
        })
    }

    /// Whether a GOAWAY of the endpoint is to be logged now; if so, notes that it was.
    pub(crate) fn should_log_go_away(&self, endpoint: &Arc<str>, now: Instant) -> bool {
        self.with(endpoint, |last| {
            let should_log = last.go_away.is_none_or(|at| now >= at + REPEAT_AFTER);
            if should_log {
                last.go_away = Some(now);
            }
            should_log
        })
    }

    /// Forgets an endpoint that was removed.
    pub(crate) fn forget(&self, endpoint: &str) {
        self.0.lock().expect(UNPOISONED).remove(endpoint);
    }

    fn with(&self, endpoint: &Arc<str>, change: impl FnOnce(&mut LastLogged) -> bool) -> bool {
        change(self.0.lock().expect(UNPOISONED).entry(Arc::clone(endpoint)).or_default())
    }
}

impl fmt::Debug for EndpointLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointLog").finish_non_exhaustive()
    }
}

const UNPOISONED: &str = "nothing panics with the lock held";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_logged_once_and_a_failure_again_each_minute() {
        let log = EndpointLog::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let start = Instant::now();
        let logs = |endpoint, state, seconds| {
            log.should_log_state(endpoint, state, String::new(), start + Duration::from_secs(seconds))
        };
        assert!(logs(&a, LoggedState::Unreachable, 0) && logs(&b, LoggedState::Unreachable, 0));
        assert!(!logs(&a, LoggedState::Unreachable, 1), "another worker finds the same");
        assert!(!logs(&a, LoggedState::Unreachable, 59) && logs(&a, LoggedState::Unreachable, 60));
        assert!(
            logs(&a, LoggedState::Ready, 61)
                && !logs(&a, LoggedState::Ready, 61)
                && !logs(&a, LoggedState::Ready, 1_000)
        );
        assert!(logs(&a, LoggedState::Lost, 1_001) && logs(&a, LoggedState::Ready, 1_002));
        log.forget("a");
        assert!(logs(&a, LoggedState::Ready, 1_003) && !logs(&b, LoggedState::Unreachable, 59));
    }

    #[test]
    fn another_reason_is_logged_after_five_seconds() {
        let log = EndpointLog::default();
        let (a, start) = ("a".into(), Instant::now());
        let logs = |reason: &str, seconds| {
            let now = start + Duration::from_secs(seconds);
            log.should_log_state(&a, LoggedState::Unreachable, reason.to_owned(), now)
        };
        assert!(logs("refused", 0) && !logs("other protocol", 4) && !logs("refused", 5));
        assert!(logs("other protocol", 5) && !logs("other protocol", 10) && !logs("refused", 9));
        assert!(logs("refused", 10) && logs("refused", 70));
    }

    #[test]
    fn a_reason_that_tells_the_time_stays_the_same() {
        let log = EndpointLog::default();
        let (a, start) = ("a".into(), Instant::now());
        let logs = |seconds| {
            let reason = format!("certificate expired: verification time {}, {} seconds ago", 90 + seconds, seconds);
            log.should_log_state(&a, LoggedState::Unreachable, reason, start + Duration::from_secs(seconds))
        };
        assert!(logs(0) && !logs(5) && !logs(59) && logs(60));
    }

    #[test]
    fn go_aways_are_logged_once_a_minute() {
        let log = EndpointLog::default();
        let (a, start) = ("a".into(), Instant::now());
        assert!(log.should_log_go_away(&a, start) && !log.should_log_go_away(&a, start + REPEAT_AFTER / 2));
        assert!(log.should_log_go_away(&a, start + REPEAT_AFTER));
    }
}
