//! The time, read at most once in each poll of a connection.
//!
//! A poll takes microseconds, and all of a connection's requests that start or end in it may well share a time. To read
//! the clock twice for each of them was one per cent of their cost.

use std::{cell::Cell, marker::PhantomData};
use tokio::time::Instant;

/// As long as it lives, [`now`] is the same on this thread.
pub(crate) struct Stopped(PhantomData<*const ()>);

#[derive(Clone, Copy)]
enum Clock {
    Running,
    /// Stopped, but nobody has asked yet.
    Unread,
    Read(Instant),
}

thread_local! {
    static CLOCK: Cell<Clock> = const { Cell::new(Clock::Running) };
}

/// The time of the poll that this is called in, or else the current one.
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

// === impl Stopped ===

impl Stopped {
    pub(crate) fn new() -> Self {
        CLOCK.set(Clock::Unread);
        Self(PhantomData)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        CLOCK.set(Clock::Running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_while_it_is_stopped() {
        let start = now();
        let stopped = Stopped::new();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now() - start, Duration::from_secs(1), "it is read when first asked for");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now() - start, Duration::from_secs(1));
        drop(stopped);
        assert_eq!(now() - start, Duration::from_secs(2));
    }
}
