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
/// A change of state is logged once. A failure that lasts is logged again each minute.
#[derive(Default)]
pub struct EndpointLog(Mutex<HashMap<Arc<str>, LastLogged>>);

/// The last log lines about one endpoint.
#[derive(Debug, Default)]
struct LastLogged {
    state: Option<(LoggedState, Instant)>,
    go_away: Option<Instant>,
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

// === impl EndpointLog ===

impl EndpointLog {
    /// Whether the state is to be logged now; if so, notes that it was.
    pub(crate) fn should_log_state(&self, endpoint: &Arc<str>, state: LoggedState, now: Instant) -> bool {
        self.with(endpoint, |last| {
            // Ready endpoints stay ready: no line repeats that.
            let again = |at: Instant| state != LoggedState::Ready && now >= at + REPEAT_AFTER;
            let should_log = last.state.is_none_or(|(state_before, at)| state_before != state || again(at));
            if should_log {
                last.state = Some((state, now));
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
        let logs =
            |endpoint, state, seconds| log.should_log_state(endpoint, state, start + Duration::from_secs(seconds));
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
    fn go_aways_are_logged_once_a_minute() {
        let log = EndpointLog::default();
        let (a, start) = ("a".into(), Instant::now());
        assert!(log.should_log_go_away(&a, start) && !log.should_log_go_away(&a, start + REPEAT_AFTER / 2));
        assert!(log.should_log_go_away(&a, start + REPEAT_AFTER));
    }
}
