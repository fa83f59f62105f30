//! The time, read at most once in each poll of a connection.
//!
//! A poll takes microseconds, so all requests of a connection that start or end in it can share a time. Reading the clock
//! twice for each request was one per cent of its cost.

use std::{cell::Cell, marker::PhantomData, time::Duration};
use tokio::time::Instant;

/// Stops the clock of this thread: while the guard lives, [`now`] returns the same time.
pub(crate) struct ClockGuard(PhantomData<*const ()>);

#[derive(Clone, Copy)]
enum Clock {
    Running,
    /// Stopped, and not read yet.
    Unread,
    Read(Instant),
}

/// 100 years, which can be added to any `Instant`.
pub(super) const FOREVER: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

thread_local! {
    static CLOCK: Cell<Clock> = const { Cell::new(Clock::Running) };
}

/// The time of the poll that calls this, or the current time outside of one.
pub(crate) fn now() -> Instant {
    match CLOCK.get() {
        Clock::Read(now) => now,
        Clock::Running => Instant::now(),
        Clock::Unread => {
            let now = Instant::now();
            CLOCK.set(Clock::Read(now));
            now
        }
    }
}

// === impl ClockGuard ===

impl ClockGuard {
    pub(crate) fn new() -> Self {
        CLOCK.set(Clock::Unread);
        Self(PhantomData)
    }
}

impl Drop for ClockGuard {
    fn drop(&mut self) {
        CLOCK.set(Clock::Running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn now_is_constant_while_a_guard_lives() {
        let start = now();
        let guard = ClockGuard::new();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now() - start, Duration::from_secs(1), "the clock is read at the first call");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now() - start, Duration::from_secs(1));
        drop(guard);
        assert_eq!(now() - start, Duration::from_secs(2));
    }
}
