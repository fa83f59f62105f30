//! A rate limit for log lines of each kind.

use super::Lost;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::layer::{Context, Layer};

/// Drops lines of a kind that come too often. A kind is a place in the code that logs.
///
/// Lines below `info` are not limited: they are written only if somebody has asked for all of them.
#[derive(Debug)]
pub(super) struct RateLimit {
    windows: Mutex<HashMap<Identifier, Window>>,
    lost: Arc<Lost>,
}

/// The lines of one kind in the current interval.
#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
}

/// The lines of one kind that are written in an [`INTERVAL`]: more than a start with some hundred endpoints has.
const MAX_LINES: u32 = 500;
const INTERVAL: Duration = Duration::from_secs(10);

// === impl RateLimit ===

impl RateLimit {
    pub(super) fn new(lost: Arc<Lost>) -> Self {
        Self { windows: Mutex::default(), lost }
    }

    fn admits(&self, kind: Identifier, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.entry(kind).or_insert(Window { start: now, lines: 0 });
        if now.saturating_duration_since(window.start) >= INTERVAL {
            *window = Window { start: now, lines: 0 };
        }
        window.lines = window.lines.saturating_add(1);
        window.lines <= MAX_LINES
    }
}

impl<S: Subscriber> Layer<S> for RateLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let admits = self.admits(event.metadata().callsite(), Instant::now());
        if !admits {
            self.lost.by_rate.fetch_add(1, Relaxed);
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    /// Counts the events that pass.
    struct Count(Arc<Mutex<HashMap<Level, u32>>>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock().unwrap().entry(*event.metadata().level()).or_default() += 1;
        }
    }

    #[test]
    fn lines_of_one_kind_do_not_cost_those_of_another() {
        let (lost, passed) = (Arc::<Lost>::default(), Arc::default());
        let subscriber = Registry::default().with(Count(Arc::clone(&passed))).with(RateLimit::new(Arc::clone(&lost)));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..MAX_LINES + 7 {
                tracing::warn!("a client causes this");
                tracing::debug!("somebody has asked for this");
            }
            tracing::error!("another kind");
        });
        let passed = passed.lock().unwrap().clone();
        let expected = [(Level::WARN, MAX_LINES), (Level::DEBUG, MAX_LINES + 7), (Level::ERROR, 1)];
        assert_eq!(passed, HashMap::from(expected));
        assert_eq!(lost.by_rate.load(Relaxed), 7);
    }

    #[test]
    fn the_next_interval_has_lines_again() {
        struct Callsite;
        impl tracing::Callsite for Callsite {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &tracing::Metadata<'_> {
                unreachable!("nothing asks")
            }
        }
        static CALLSITE: Callsite = Callsite;
        let (limit, start) = (RateLimit::new(Arc::default()), Instant::now());
        let admits = |now| limit.admits(Identifier(&CALLSITE), now);
        assert_eq!((0..2 * MAX_LINES).filter(|_| admits(start)).count(), 500);
        assert!(!admits(start + INTERVAL / 2) && admits(start + INTERVAL));
    }
}
