//! Lines about the states of endpoints, few enough to be read.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// What the log has said of each endpoint, so that connections of several workers to it do not say it again.
///
/// A state is told once, and again each minute while it lasts.
#[derive(Default)]
pub struct EndpointLog(Mutex<HashMap<Arc<str>, Said>>);

/// What was said of one endpoint.
#[derive(Debug, Default)]
struct Said {
    state: Option<(State, Instant)>,
    go_away: Option<Instant>,
}

/// The state of an endpoint, as one worker sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// It is connected.
    Ready,
    /// It cannot be connected to.
    Unreachable,
    /// It closes connections before it has answered anything.
    Lost,
}

/// A line is repeated after this time.
const AGAIN: Duration = Duration::from_secs(60);

// === impl EndpointLog ===

impl EndpointLog {
    /// Whether the state is to be told now.
    pub(crate) fn admits_state(&self, endpoint: &Arc<str>, state: State, now: Instant) -> bool {
        self.with(endpoint, |said| {
            // A state that goes on well needs no second line.
            let again = |at: Instant| state != State::Ready && now >= at + AGAIN;
            let admits = said.state.is_none_or(|(last, at)| last != state || again(at));
            if admits {
                said.state = Some((state, now));
            }
            admits
        })
    }

    /// Whether a GOAWAY of the endpoint is to be told now.
    pub(crate) fn admits_go_away(&self, endpoint: &Arc<str>, now: Instant) -> bool {
        self.with(endpoint, |said| {
            let admits = said.go_away.is_none_or(|at| now >= at + AGAIN);
            if admits {
                said.go_away = Some(now);
            }
            admits
        })
    }

    /// The endpoint is gone.
    pub(crate) fn forget(&self, endpoint: &str) {
        self.0.lock().expect(UNPOISONED).remove(endpoint);
    }

    fn with(&self, endpoint: &Arc<str>, change: impl FnOnce(&mut Said) -> bool) -> bool {
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
    fn a_state_is_told_once_and_again_each_minute_while_it_is_bad() {
        let log = EndpointLog::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let start = Instant::now();
        let says = |endpoint, state, seconds| log.admits_state(endpoint, state, start + Duration::from_secs(seconds));
        assert!(says(&a, State::Unreachable, 0) && says(&b, State::Unreachable, 0));
        assert!(!says(&a, State::Unreachable, 1), "another worker finds the same");
        assert!(!says(&a, State::Unreachable, 59) && says(&a, State::Unreachable, 60));
        assert!(says(&a, State::Ready, 61) && !says(&a, State::Ready, 61) && !says(&a, State::Ready, 1_000));
        assert!(says(&a, State::Lost, 1_001) && says(&a, State::Ready, 1_002));
        log.forget("a");
        assert!(says(&a, State::Ready, 1_003) && !says(&b, State::Unreachable, 59));
    }

    #[test]
    fn go_aways_are_told_once_a_minute() {
        let log = EndpointLog::default();
        let (a, start) = ("a".into(), Instant::now());
        assert!(log.admits_go_away(&a, start) && !log.admits_go_away(&a, start + AGAIN / 2));
        assert!(log.admits_go_away(&a, start + AGAIN));
    }
}
