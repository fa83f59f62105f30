//! The write-stall timeout: the longest time in which a peer takes no data that waits to be sent.

use crate::connection::now::{FOREVER, now};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// The write-stall timeout of one stream. A timer is made only when the stream stalls: few do.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    limit: Duration,
    /// `None`: the stream has never stalled.
    stalled: Option<Box<Stalled>>,
}

#[derive(Debug)]
struct Stalled {
    /// `None`: the stream does not stall now.
    since: Option<Instant>,
    /// Progress does not reset the timer; `since` is checked when it expires.
    timer: Pin<Box<Sleep>>,
}

/// The write-stall timeout of responses that h2 has whole, but has not written to their end.
#[derive(Debug)]
pub(crate) struct FlushTimeout {
    stall: Stall,
    /// The connection's count of moves at the last poll.
    moves: u64,
}

// === impl Stall ===

impl Stall {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit: limit.min(FOREVER), stalled: None }
    }

    /// Ends a stall: the peer takes data.
    pub(crate) fn clear(&mut self) {
        if let Some(stalled) = &mut self.stalled {
            stalled.since = None;
        }
    }

    /// Starts or continues a stall: the peer takes no data. Ready when the timeout has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let stalled =
            self.stalled.get_or_insert_with(|| Box::new(Stalled { since: None, timer: Box::pin(sleep(limit)) }));
        let ends_at = *stalled.since.get_or_insert_with(now) + limit;
        while stalled.timer.as_mut().poll(cx).is_ready() {
            if ends_at <= Instant::now() {
                return Poll::Ready(());
            }
            stalled.timer.as_mut().reset(ends_at);
        }
        Poll::Pending
    }
}

// === impl FlushTimeout ===

impl FlushTimeout {
    pub(crate) fn new(write_stall: Duration) -> Self {
        Self { stall: Stall::new(write_stall), moves: 0 }
    }

    /// Ready when a response `waits` and no byte has moved on the connection for too long.
    pub(crate) fn poll(&mut self, waits: bool, moves: u64, cx: &mut Context<'_>) -> Poll<()> {
        if !waits || moves != self.moves {
            self.moves = moves;
            self.stall.clear();
        }
        if waits { self.stall.poll(cx) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn each_stall_has_the_full_timeout() {
        let mut stall = Stall::new(LIMIT);
        for _ in 0..3 {
            let short = tokio::time::timeout(LIMIT * 9 / 10, poll_fn(|cx| stall.poll(cx)));
            assert!(short.await.is_err());
            stall.clear();
        }
        let started = Instant::now();
        poll_fn(|cx| stall.poll(cx)).await;
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_duration_is_a_valid_timeout() {
        let mut stall = Stall::new(Duration::MAX);
        assert!(tokio::time::timeout(FOREVER / 100, poll_fn(|cx| stall.poll(cx))).await.is_err());
    }
}
