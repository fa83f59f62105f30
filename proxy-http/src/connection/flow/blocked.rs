//! Which streams of a connection are blocked by flow control, since when, and why.
//!
//! The reason is the same for all streams of a connection that cannot send, or for all on which the peer cannot: it follows
//! from the connection. So its change is one step, however many they are, and no stream needs a timer.

use crate::{
    connection::now::now,
    stats::{BlockedReason, Transport},
};
use http::uri::PathAndQuery;
use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The blocked streams of one connection in one direction of DATA.
#[derive(Debug)]
pub(crate) struct BlockedStreams {
    transport: Arc<Transport>,
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    reason: BlockedReason,
    /// Until when the streams' times are summed up.
    summed_until: Instant,
    streams: Vec<BlockedStream>,
}

/// A stream that is blocked.
#[derive(Clone, Debug)]
pub(crate) struct BlockedStream {
    pub(crate) id: u32,
    /// The path of its request. `None`: it has none, or it is not known.
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) since: Instant,
}

/// A client with a stream that is blocked for this long has stopped to read.
const STOPPED: Duration = Duration::from_secs(1);

// === impl BlockedStreams ===

impl BlockedStreams {
    pub(crate) fn new(transport: Arc<Transport>, reason: BlockedReason) -> Self {
        let inner = Inner { reason, summed_until: Instant::now(), streams: Vec::new() };
        Self { transport, count: AtomicUsize::new(0), inner: Mutex::new(inner) }
    }

    /// The counters of the connection.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Whether any stream is blocked.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count() > 0
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether any has been blocked for so long that its reader has stopped.
    pub(crate) fn have_stopped(&self) -> bool {
        let now = now();
        self.any() && self.lock().streams.iter().any(|stream| now.saturating_duration_since(stream.since) >= STOPPED)
    }

    pub(crate) fn block(&self, id: u32, path: Option<PathAndQuery>, reason: BlockedReason) {
        self.change(reason, |streams, now| streams.push(BlockedStream { id, path, since: now }));
    }

    pub(crate) fn unblock(&self, id: u32) {
        let reason = self.lock().reason;
        self.change(reason, |streams, _| {
            if let Some(index) = streams.iter().position(|stream| stream.id == id) {
                streams.swap_remove(index);
            }
        });
    }

    /// Sets the reason, which may have changed.
    pub(crate) fn set_reason(&self, reason: BlockedReason) {
        if self.any() && self.lock().reason != reason {
            self.change(reason, |_, _| {});
        }
    }

    /// At most `max` of them, the oldest first.
    pub(crate) fn oldest(&self, max: usize) -> (BlockedReason, Vec<BlockedStream>) {
        let inner = self.lock();
        let (reason, mut streams) = (inner.reason, inner.streams.clone());
        drop(inner);
        streams.sort_by_key(|stream| stream.since);
        streams.truncate(max);
        (reason, streams)
    }

    fn change(&self, reason: BlockedReason, change: impl FnOnce(&mut Vec<BlockedStream>, Instant)) {
        let now = now();
        let mut inner = self.lock();
        let before = inner.streams.len();
        let since = mem::replace(&mut inner.summed_until, now);
        let reason_before = mem::replace(&mut inner.reason, reason);
        change(&mut inner.streams, now);
        let times = self.transport.blocked_times();
        times.end(reason_before, before, since, now);
        times.start(reason, inner.streams.len(), now);
        self.count.store(inner.streams.len(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics with the lock held")
    }
}

impl Drop for BlockedStreams {
    fn drop(&mut self) {
        if self.any() {
            let reason = self.lock().reason;
            self.change(reason, |streams, _| streams.clear());
        }
    }
}
