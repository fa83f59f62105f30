//! The stream idle timeout: ends streams on which nothing is received or sent.

use crate::connection::now::{FOREVER, now};
use futures_util::task::AtomicWaker;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    task::coop,
    time::{Instant, Sleep, sleep_until},
};

/// The stream idle timeout of one connection, with one timer for all of its streams.
#[derive(Debug)]
pub(crate) struct StreamIdle {
    limit: Duration,
    /// Until a stream may have been idle for `limit`. Progress of a stream does not reset the timer; it is checked when the
    /// timer expires.
    timer: Pin<Box<Sleep>>,
    /// Whether the timer is set: it is not while no stream is open.
    armed: bool,
    /// The waker registered with the timer.
    waker: Option<Waker>,
}

/// The time of the last progress on one stream. Shared with the request's body, which may be read in another task.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    /// Nanoseconds from `started` to the last progress.
    at: AtomicU64,
    timed_out: AtomicBool,
    /// The task of the stream.
    task: AtomicWaker,
}

// === impl StreamIdle ===

impl StreamIdle {
    pub(crate) fn new(limit: Duration) -> Self {
        let limit = limit.min(FOREVER);
        Self { limit, timer: Box::pin(sleep_until(Instant::now() + limit)), armed: false, waker: None }
    }

    /// Ready when the streams are to be [checked](Self::check).
    pub(crate) fn poll(&mut self, has_streams: bool, cx: &mut Context<'_>) -> Poll<()> {
        if !self.armed {
            if !has_streams {
                return Poll::Pending;
            }
            self.armed = true;
            self.waker = None;
            self.timer.as_mut().reset(now() + self.limit);
        }
        let wakes = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if wakes && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        // Unconstrained: a task that has used up tokio's budget would not register its waker with the timer.
        ready!(Pin::new(&mut coop::unconstrained(self.timer.as_mut())).poll(cx));
        self.waker = None;
        Poll::Ready(())
    }

    /// Times out the streams that have been idle for too long, and sets the timer for the next.
    pub(crate) fn check(&mut self, streams: impl Iterator<Item = Arc<Progress>>) {
        let now = Instant::now();
        let ends_at = |progress: Arc<Progress>| {
            let at = progress.at() + self.limit;
            if at > now {
                return Some(at);
            }
            progress.timed_out.store(true, Relaxed);
            progress.task.wake();
            None
        };
        match streams.filter_map(ends_at).min() {
            Some(at) => self.timer.as_mut().reset(at),
            None => self.armed = false,
        }
    }
}

// === impl Progress ===

impl Progress {
    pub(crate) fn new() -> Arc<Self> {
        let (at, timed_out) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { started: now(), at, timed_out, task: AtomicWaker::new() })
    }

    /// Records progress: a frame was received or sent.
    pub(crate) fn mark(&self) {
        let nanos = now().saturating_duration_since(self.started).as_nanos();
        self.at.store(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
    }

    /// Whether the stream has timed out; if not, `cx` is woken when it does.
    pub(crate) fn is_timed_out(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.timed_out.load(Relaxed)
    }

    fn at(&self) -> Instant {
        self.started + Duration::from_nanos(self.at.load(Relaxed))
    }
}
