//! How old a connection gets, and how long it goes without a stream.

use crate::stats::Limit;
use http_h2::MaxConnectionAge;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    task::coop,
    time::{Instant, Sleep},
};

/// The limits of one connection's life, which share a timer.
#[derive(Debug)]
pub(crate) struct Lifetime {
    age: Option<Age>,
    idle: Option<Idle>,
    /// Until the first of them may be reached. Requests leave it alone: what they did is looked at when it is up.
    timer: Pin<Box<Sleep>>,
    /// Whom the timer wakes. `None`: it has not been polled yet.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
struct Age {
    /// When the connection is drained.
    drains_at: Instant,
    /// When it is closed.
    closes_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    max: Duration,
    /// When a stream was open last, as far as it is known.
    since: Instant,
    has_streams: bool,
}

/// What part of an age is added to it or taken from it at most.
const JITTER: u32 = 10;
/// 100 years, which can be added to any time.
const FOREVER: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

// === impl Lifetime ===

impl Lifetime {
    /// The life of a connection that starts now. `None`: nothing limits it.
    pub(crate) fn new(age: Option<MaxConnectionAge>, idle: Option<Duration>) -> Option<Self> {
        let now = Instant::now();
        let age = age.map(|age| Age::new(age, now));
        let idle = idle.map(|max| Idle { max, since: now, has_streams: false });
        let timer = Box::pin(tokio::time::sleep_until(next(age, idle)?));
        Some(Self { age, idle, timer, waker: None })
    }

    /// When the connection is to be closed with all that is open on it. `None`: never.
    pub(crate) fn closes_at(&self) -> Option<Instant> {
        self.age.map(|age| age.closes_at)
    }

    /// Waits for a limit that has the connection drained. To be polled whenever a stream may have begun or ended.
    pub(crate) fn poll(&mut self, has_streams: impl FnOnce() -> bool, cx: &mut Context<'_>) -> Poll<Limit> {
        if let Some(idle) = &mut self.idle {
            idle.update(has_streams());
        }
        let wakes = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if wakes && !self.timer.is_elapsed() {
            // To poll it would register the waker once more, which costs more than all else here.
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        // Unconstrained, or the timer might be put off with others of the task's futures, and not learn of its waker.
        while Pin::new(&mut coop::unconstrained(self.timer.as_mut())).poll(cx).is_ready() {
            let now = Instant::now();
            if self.age.is_some_and(|age| age.drains_at <= now) {
                return Poll::Ready(Limit::Age);
            }
            if self.idle.as_mut().is_some_and(|idle| idle.is_over(now)) {
                return Poll::Ready(Limit::Idle);
            }
            let next = next(self.age, self.idle).expect("there is a limit, or there would be no timer");
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}

fn next(age: Option<Age>, idle: Option<Idle>) -> Option<Instant> {
    let drains_at = age.map(|age| age.drains_at);
    let idle_at = idle.map(|idle| after(idle.since, idle.max));
    drains_at.into_iter().chain(idle_at).min()
}

fn after(start: Instant, time: Duration) -> Instant {
    start + time.min(FOREVER)
}

// === impl Age ===

impl Age {
    fn new(MaxConnectionAge { age, grace }: MaxConnectionAge, now: Instant) -> Self {
        let drains_at = after(now, jittered(age));
        Self { drains_at, closes_at: after(drains_at, grace) }
    }
}

fn jittered(age: Duration) -> Duration {
    let most = age / JITTER;
    (age - most).saturating_add(most.mul_f64(2.0 * fastrand::f64()))
}

// === impl Idle ===

impl Idle {
    /// Reads the clock only when the last stream has ended.
    fn update(&mut self, has_streams: bool) {
        if self.has_streams && !has_streams {
            self.since = Instant::now();
        }
        self.has_streams = has_streams;
    }

    fn is_over(&mut self, now: Instant) -> bool {
        if self.has_streams {
            self.since = now;
        }
        after(self.since, self.max) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, mem};

    #[test]
    fn ages_differ_by_a_tenth() {
        let age = Duration::from_secs(1_000);
        let ages: Vec<_> = (0..10_000).map(|_| jittered(age).as_secs()).collect();
        assert!(ages.iter().all(|age| (900..=1_100).contains(age)));
        // All of the range is used: to miss a twentieth of it by chance is as good as impossible.
        assert!(ages.iter().any(|age| *age < 910) && ages.iter().any(|age| *age > 1_090));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_used_up_its_turn_is_woken_all_the_same() {
        let mut lifetime = Lifetime::new(None, Some(Duration::from_secs(1))).unwrap();
        let mut first = true;
        let reached = poll_fn(|cx| {
            while mem::take(&mut first) && coop::has_budget_remaining() {
                let Poll::Ready(turn) = coop::poll_proceed(cx) else { unreachable!() };
                turn.made_progress();
                first = true;
            }
            lifetime.poll(|| false, cx)
        });
        assert_eq!(tokio::time::timeout(Duration::from_secs(2), reached).await, Ok(Limit::Idle));
    }

    #[tokio::test]
    async fn no_duration_is_too_long() {
        let max = MaxConnectionAge { age: Duration::MAX, grace: Duration::MAX };
        let lifetime = Lifetime::new(Some(max), Some(Duration::MAX)).unwrap();
        assert!(lifetime.closes_at() > Some(Instant::now() + FOREVER));
        assert!(Lifetime::new(None, None).is_none());
    }
}
