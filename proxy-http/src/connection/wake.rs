//! Wakers of a connection's task: one that is deferred while its streams run, and one that lets other tasks run first.

use futures_util::task::AtomicWaker;
use std::{
    future::Future as _,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Waker},
};

/// Wakes the task of a connection, but not while its streams are polled: frames that they send wake the connection, which is
/// polled after them in any case.
#[derive(Debug, Default)]
pub(crate) struct DeferredWake {
    task: AtomicWaker,
    is_deferred: AtomicBool,
}

/// Wakes the task of `cx` once all other runnable tasks have run, and the worker has polled for I/O events.
///
/// A task that wakes itself at once keeps the worker from polling for as many turns as the runtime's event interval has, and
/// events of other tasks wait for all of these turns.
pub(crate) fn after_others(cx: &mut Context<'_>) {
    // Pending: tokio defers the waker until the worker has polled for events.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

// === impl DeferredWake ===

impl DeferredWake {
    /// Sets the task to be woken, and drops its wakes until [`resume`](Self::resume), whose caller then polls the
    /// connection.
    pub(crate) fn defer(&self, task: &Waker) {
        self.task.register(task);
        self.is_deferred.store(true, Relaxed);
    }

    pub(crate) fn resume(&self) {
        self.is_deferred.store(false, Relaxed);
    }
}

impl std::task::Wake for DeferredWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Relaxed suffices: the state that the wake is about is behind locks (h2's, tokio's) that the following poll takes.
        if !self.is_deferred.load(Relaxed) {
            self.task.wake();
        }
    }
}
