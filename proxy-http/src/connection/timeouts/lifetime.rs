//! The timeouts of a client's connection: age, idleness, the handshake and header blocks.

use crate::{
    connection::{
        frames::seen::FrameCounts,
        now::{FOREVER, now},
        state::ConnectionState,
    },
    stats::Limit,
};
use futures_util::future::MaybeDone;
use http_h2::{MaxConnectionAge, Protection};
use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    task::coop,
    time::{Instant, Sleep},
};

/// The timeouts of one connection, which share a timer.
#[derive(Debug)]
pub(crate) struct Lifetime {
    age: Option<Age>,
    idle: Option<ConnectionIdle>,
    /// The deadline of the client's preface and SETTINGS. `None`: they have come.
    handshake_by: Option<Instant>,
    /// The header block that is incomplete.
    block: Option<HeaderBlock>,
    header_timeout: Duration,
    seen: Arc<FrameCounts>,
    /// Until the first timeout may be reached. Requests do not reset the timer; their effect is checked when it expires.
    timer: Pin<Box<Sleep>>,
    /// The waker registered with the timer. `None`: the timer has not been polled yet.
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
struct ConnectionIdle {
    max: Duration,
    /// The last time at which a stream is known to have been open.
    since: Instant,
    has_streams: bool,
}

/// Why a connection that is draining is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DrainEnd {
    /// No stream is open, and its client does not close it.
    Silence,
    /// The grace after its age is over.
    Age,
    /// The time that a drain may take is over.
    Timeout,
}

/// A header block that had begun and not ended when it was checked.
#[derive(Clone, Copy, Debug)]
struct HeaderBlock {
    number: u32,
    ends_by: Instant,
}

/// At most one part in this many of an age is added to it or subtracted from it.
const JITTER: u32 = 10;
/// The time for which a draining connection without an open stream may be silent before it is closed. A client that
/// acknowledges the drain's PING is disconnected long before.
pub(crate) const DRAIN_SILENCE: Duration = Duration::from_secs(5);

// === impl Lifetime ===

impl Lifetime {
    /// The timeouts of a connection that was accepted at `started`.
    pub(crate) fn new(
        age: Option<MaxConnectionAge>,
        idle: Option<Duration>,
        protection: &Protection,
        seen: Arc<FrameCounts>,
        started: Instant,
    ) -> Self {
        let age = age.map(|age| Age::new(age, started));
        let idle = idle.map(|max| ConnectionIdle { max, since: started, has_streams: false });
        let handshake_by = after(started, protection.handshake_timeout);
        let timer = Box::pin(tokio::time::sleep_until(handshake_by));
        let mut this = Self {
            age,
            idle,
            handshake_by: Some(handshake_by),
            block: None,
            header_timeout: protection.header_timeout,
            seen,
            timer,
            waker: None,
        };
        this.reset_timer(started);
        this
    }

    /// The timeouts of an HTTP/1.1 connection, which has no frames: age and idleness alone.
    pub(crate) fn without_frames(age: Option<MaxConnectionAge>, idle: Option<Duration>, started: Instant) -> Self {
        let mut this = Self::new(age, idle, &Protection::DEFAULT, Arc::default(), started);
        this.handshake_by = None;
        this.reset_timer(started);
        this
    }

    /// The time at which the connection is to be closed with all its streams. `None`: never.
    pub(crate) fn closes_at(&self) -> Option<Instant> {
        self.age.map(|age| age.closes_at)
    }

    /// Ends the timeouts of age and idleness: the connection is draining.
    pub(crate) fn drain(&mut self) {
        (self.age, self.idle) = (None, None);
    }

    /// Waits for a timeout. To be polled whenever a stream or a header block may have begun or ended; `used`: a stream is
    /// open, or was since the last poll.
    pub(crate) fn poll(&mut self, used: bool, has_streams: impl FnOnce() -> bool, cx: &mut Context<'_>) -> Poll<Limit> {
        if let Some(idle) = &mut self.idle {
            idle.update(used, has_streams);
        }
        if self.block.is_none()
            && let Some(number) = self.seen.block()
        {
            // At most once in `header_timeout`: the timer is not reset when the block ends.
            let now = now();
            self.block = Some(HeaderBlock { number, ends_by: after(now, self.header_timeout) });
            self.reset_timer(now);
        }
        let wakes = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if wakes && !self.timer.is_elapsed() {
            // Polling the timer would register the waker once more, which costs more than the rest of this function.
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        // Unconstrained: a task that has used up tokio's budget would not register its waker with the timer.
        while Pin::new(&mut coop::unconstrained(self.timer.as_mut())).poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(limit) = self.reached(now) {
                return Poll::Ready(limit);
            }
            self.reset_timer(now);
        }
        Poll::Pending
    }

    /// The timeout that is reached, if any; clears the deadlines that were met.
    fn reached(&mut self, now: Instant) -> Option<Limit> {
        if self.seen.has_greeted() {
            self.handshake_by = None;
        }
        if self.handshake_by.is_some_and(|by| by <= now) {
            return Some(Limit::Handshake);
        }
        if let Some(HeaderBlock { number, .. }) = self.block.take_if(|block| block.ends_by <= now) {
            let open = self.seen.block();
            if open == Some(number) {
                return Some(Limit::HeaderBlock);
            }
            self.block = open.map(|number| HeaderBlock { number, ends_by: after(now, self.header_timeout) });
        }
        if self.age.is_some_and(|age| age.drains_at <= now) {
            return Some(Limit::Age);
        }
        self.idle.as_mut().is_some_and(|idle| idle.is_over(now)).then_some(Limit::Idle)
    }

    /// Sets the timer to the next deadline.
    fn reset_timer(&mut self, now: Instant) {
        let idle = self.idle.map(|idle| after(idle.since, idle.max));
        let times = [self.age.map(|age| age.drains_at), idle, self.handshake_by, self.block.map(|block| block.ends_by)];
        let next = times.into_iter().flatten().min();
        self.timer.as_mut().reset(next.unwrap_or_else(|| after(now, FOREVER)));
    }
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

// === impl ConnectionIdle ===

impl ConnectionIdle {
    /// Calls `has_streams`, and reads the clock, only until the last stream has ended.
    fn update(&mut self, used: bool, has_streams: impl FnOnce() -> bool) {
        if used {
            self.has_streams = true;
        } else if self.has_streams && !has_streams() {
            self.has_streams = false;
            self.since = now();
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        if self.has_streams {
            self.since = now;
        }
        after(self.since, self.max) <= now
    }
}

/// Completes when a connection that is draining is to be closed: at `closes_at`, `timeout` after `drain`, or when no stream
/// was open and no byte moved for [`DRAIN_SILENCE`].
pub(crate) async fn drained<D: Future<Output = ()>>(
    connection_state: &ConnectionState,
    closes_at: Option<Instant>,
    drain: Pin<&mut MaybeDone<D>>,
    timeout: Option<Duration>,
) -> DrainEnd {
    let silent = async {
        loop {
            let before = connection_state.moves();
            tokio::time::sleep(DRAIN_SILENCE).await;
            if connection_state.streams() == 0 && connection_state.moves() == before {
                break;
            }
        }
    };
    tokio::select! {
        biased;
        end = time_is_up(closes_at, drain, timeout) => end,
        () = silent => DrainEnd::Silence,
    }
}

/// Completes at `closes_at` or `timeout` after `drain`. `None`: it has no part in this.
pub(crate) async fn time_is_up<D: Future<Output = ()>>(
    closes_at: Option<Instant>,
    drain: Pin<&mut MaybeDone<D>>,
    timeout: Option<Duration>,
) -> DrainEnd {
    let timed_out = async {
        drain.await;
        sleep_until(timeout.map(|timeout| after(Instant::now(), timeout))).await;
    };
    tokio::select! {
        biased;
        () = sleep_until(closes_at) => DrainEnd::Age,
        () = timed_out => DrainEnd::Timeout,
    }
}

/// `None`: never.
pub(crate) async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => pending().await,
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
        // The whole range is used: that none of 10,000 ages falls into a twentieth of it is practically impossible.
        assert!(ages.iter().any(|age| *age < 910) && ages.iter().any(|age| *age > 1_090));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_used_up_its_budget_is_woken() {
        let mut lifetime = lifetime(None, Some(Duration::from_secs(1)));
        let mut first = true;
        let reached = poll_fn(|cx| {
            while mem::take(&mut first) && coop::has_budget_remaining() {
                let Poll::Ready(turn) = coop::poll_proceed(cx) else { unreachable!() };
                turn.made_progress();
                first = true;
            }
            lifetime.poll(false, || false, cx)
        });
        assert_eq!(tokio::time::timeout(Duration::from_secs(2), reached).await, Ok(Limit::Idle));
    }

    #[tokio::test]
    async fn the_longest_durations_are_valid() {
        let max = MaxConnectionAge { age: Duration::MAX, grace: Duration::MAX };
        let lifetime = lifetime(Some(max), Some(Duration::MAX));
        assert!(lifetime.closes_at() > Some(Instant::now() + FOREVER));
    }

    fn lifetime(age: Option<MaxConnectionAge>, idle: Option<Duration>) -> Lifetime {
        let protection = Protection { handshake_timeout: Duration::MAX, ..Protection::DEFAULT };
        Lifetime::new(age, idle, &protection, Arc::default(), Instant::now())
    }
}
