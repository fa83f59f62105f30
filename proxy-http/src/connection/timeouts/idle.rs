//! Streams on which nothing moves, in either direction.

use crate::connection::now::now;
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
pub(crate) struct Idle {
    limit: Duration,
    /// Until a stream may have been idle for so long. Streams leave it alone: what they did is looked at when it is up.
    timer: Pin<Box<Sleep>>,
    /// Whether it runs: not while no stream is open.
    armed: bool,
    /// Whom it wakes.
    waker: Option<Waker>,
}

/// When something moved on one stream last. Shared with the request's body, which may go its own way.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    /// Nanoseconds after that.
    at: AtomicU64,
    over: AtomicBool,
    /// The stream's.
    task: AtomicWaker,
    /// Whether an answer of ours has gRPC's form.
    pub(crate) grpc: bool,
}

/// 100 years, which can be added to any time.
const FOREVER: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

// === impl Idle ===

impl Idle {
    pub(crate) fn new(limit: Duration) -> Self {
        let limit = limit.min(FOREVER);
        Self { limit, timer: Box::pin(sleep_until(Instant::now() + limit)), armed: false, waker: None }
    }

    /// Waits until streams are to be looked at.
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
        // Unconstrained, or the timer might be put off with others of the task's futures, and not learn of its waker.
        ready!(Pin::new(&mut coop::unconstrained(self.timer.as_mut())).poll(cx));
        self.waker = None;
        Poll::Ready(())
    }

    /// Looks at them, and tells those which have been idle for too long.
    pub(crate) fn look(&mut self, streams: impl Iterator<Item = Arc<Progress>>) {
        let now = Instant::now();
        let ends_at = |progress: Arc<Progress>| {
            let at = progress.at() + self.limit;
            if at > now {
                return Some(at);
            }
            progress.over.store(true, Relaxed);
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
    pub(crate) fn new(grpc: bool) -> Arc<Self> {
        let (at, over) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { started: now(), at, over, task: AtomicWaker::new(), grpc })
    }

    /// Something moved.
    pub(crate) fn mark(&self) {
        let nanos = now().saturating_duration_since(self.started).as_nanos();
        self.at.store(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
    }

    /// Whether nothing has for too long; if not, `cx` is woken then.
    pub(crate) fn is_over(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.over.load(Relaxed)
    }

    fn at(&self) -> Instant {
        self.started + Duration::from_nanos(self.at.load(Relaxed))
    }
}
