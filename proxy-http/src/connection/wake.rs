//! How tasks wake themselves, and are spared from it.

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

/// Wakes the task of a connection, but not while its streams run: what they send wakes the connection, and it is
/// polled after them in any case.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    task: AtomicWaker,
    held: AtomicBool,
}

/// Wakes the task of `cx` once all others that may run have run, and the worker has asked for events.
///
/// Those who wake themselves at once keep it from asking for as many turns as its runtime's event interval has, so that
/// whatever comes for others meanwhile waits for all of these.
pub(crate) fn after_others(cx: &mut Context<'_>) {
    // Pending, with the waker put aside.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

// === impl Wake ===

impl Wake {
    /// From now on `task` is to be woken, but not before [`release`](Self::release); whoever calls that then polls.
    pub(crate) fn hold(&self, task: &Waker) {
        self.task.register(task);
        self.held.store(true, Relaxed);
    }

    pub(crate) fn release(&self) {
        self.held.store(false, Relaxed);
    }
}

impl std::task::Wake for Wake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Relaxed will do: what there is to see is behind locks (h2's, tokio's) that the poll which follows takes.
        if !self.held.load(Relaxed) {
            self.task.wake();
        }
    }
}
