//! Spans on their way to the exporter: bounded in size, and handed over in batches.

use super::span::RequestSpans;
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

/// Spans that wait, by request.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is a whole batch.
    wake: Notify,
    pub(super) counts: Counts,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Box<RequestSpans>>,
    bytes: usize,
}

/// Counts spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    queued: AtomicU64,
    exported: AtomicU64,
    lost_by_queue: AtomicU64,
    rejected: AtomicU64,
    partly_rejected: AtomicU64,
    retries: AtomicU64,
}

/// Memory of the requests that may wait: of common ones, some thirty thousand.
const MAX_BYTES: usize = 16 << 20;
/// Requests of one message. Receivers take 4 MiB by default; the largest requests have some 13 KiB each.
const BATCH: usize = 256;
/// The longest that a request waits for others of its message. A worker wakes the exporter only when a batch is whole, since that
/// is a call of the system.
const INTERVAL: Duration = Duration::from_secs(1);

// === impl Queue ===

impl Queue {
    /// Adds the spans of a request, which are counted as lost if too many wait.
    pub(super) fn push(&self, request: Box<RequestSpans>) {
        let size = request.size();
        let mut waiting = self.lock();
        if waiting.bytes + size > MAX_BYTES {
            drop(waiting);
            self.counts.lost_by_queue.fetch_add(request.spans(), Relaxed);
            return;
        }
        self.counts.queued.fetch_add(request.spans(), Relaxed);
        waiting.bytes += size;
        waiting.requests.push_back(request);
        let is_batch = waiting.requests.len() == BATCH;
        drop(waiting);
        if is_batch {
            self.wake.notify_one();
        }
    }

    /// Waits for a batch, or for a while if there are fewer requests, and takes them. Empty: `closing` is true, and none waits.
    pub(super) async fn next(&self, closing: &mut watch::Receiver<bool>) -> Vec<Box<RequestSpans>> {
        loop {
            let is_closing = is_closing(closing);
            let waits = self.lock().requests.len();
            let is_late = waits < BATCH && !is_closing && {
                let woken = async {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        // An error: `is_closing` says so.
                        _ = closing.wait_for(|closing| *closing) => {}
                    }
                };
                timeout(INTERVAL, woken).await.is_err()
            };
            let mut waiting = self.lock();
            let batch = waiting.requests.len().min(BATCH);
            if is_closing || batch == BATCH || (is_late && batch > 0) {
                let requests: Vec<_> = waiting.requests.drain(..batch).collect();
                waiting.bytes -= requests.iter().map(|request| request.size()).sum::<usize>();
                return requests;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the process ends, or has nothing any more that makes spans.
pub(super) fn is_closing(closing: &watch::Receiver<bool>) -> bool {
    *closing.borrow() || closing.has_changed().is_err()
}

// === impl Counts ===

impl Counts {
    /// Spans that the collector has taken.
    pub(crate) fn exported(&self) -> u64 {
        self.exported.load(Relaxed)
    }

    /// Spans that wait, or are on their way.
    pub(crate) fn waiting(&self) -> u64 {
        let done = [&self.exported, &self.rejected, &self.partly_rejected].map(|count| count.load(Relaxed));
        self.queued.load(Relaxed).saturating_sub(done.iter().sum())
    }

    /// Spans that were not taken, by reason.
    pub(crate) fn lost(&self) -> [(&'static str, u64); 3] {
        [
            ("queue", self.lost_by_queue.load(Relaxed)),
            ("rejected", self.rejected.load(Relaxed)),
            ("partial_success", self.partly_rejected.load(Relaxed)),
        ]
    }

    /// Messages that were sent again, each time.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// The collector has taken a message, and rejected some of its spans.
    pub(super) fn exported_but(&self, spans: u64, rejected: u64) {
        let rejected = rejected.min(spans);
        self.exported.fetch_add(spans - rejected, Relaxed);
        self.partly_rejected.fetch_add(rejected, Relaxed);
    }

    pub(super) fn reject(&self, spans: u64) {
        self.rejected.fetch_add(spans, Relaxed);
    }

    pub(super) fn retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::span::tests::request;
    use tokio::time::Instant;

    #[test]
    fn beyond_its_bytes_all_is_lost_and_counted() {
        let queue = Queue::default();
        let mut pushed = 0;
        while queue.counts.lost()[0].1 == 0 {
            queue.push(request());
            pushed += 1;
        }
        assert!((20_000..60_000).contains(&pushed), "{pushed}");
        assert_eq!(queue.counts.lost(), [("queue", 2), ("rejected", 0), ("partial_success", 0)]);
        assert_eq!(queue.counts.waiting(), 2 * (pushed - 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_taken_at_once_and_fewer_after_a_while_or_at_the_end() {
        let (queue, (closing, mut closed)) = (Queue::default(), watch::channel(false));
        let push = |count| (0..count).for_each(|_| queue.push(request()));
        let started = Instant::now();
        push(2 * BATCH + 3);
        for _ in 0..2 {
            assert_eq!(queue.next(&mut closed).await.len(), BATCH);
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(queue.next(&mut closed).await.len(), 3);
        assert_eq!(started.elapsed(), INTERVAL);
        let (batch, ()) = tokio::join!(queue.next(&mut closed), async {
            tokio::time::sleep(INTERVAL / 2).await;
            push(BATCH);
        });
        assert_eq!((batch.len(), started.elapsed()), (BATCH, INTERVAL + INTERVAL / 2));
        push(1);
        closing.send_replace(true);
        assert_eq!(queue.next(&mut closed).await.len(), 1);
        assert_eq!(queue.next(&mut closed).await.len(), 0);
        assert_eq!(started.elapsed(), INTERVAL + INTERVAL / 2);
        assert_eq!(queue.lock().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_source_of_spans_the_queue_ends() {
        let (queue, (closing, mut closed)) = (Queue::default(), watch::channel(false));
        queue.push(request());
        drop(closing);
        assert_eq!(queue.next(&mut closed).await.len(), 1);
        assert_eq!(queue.next(&mut closed).await.len(), 0);
    }
}
