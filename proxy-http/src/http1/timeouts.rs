//! The write-stall timeout and the stream idle timeout on connections of HTTP/1.1.

use crate::{
    connection::timeouts::{
        idle::{Progress, StreamIdle},
        stall::Stall,
    },
    stats::StreamLimit,
};
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// The timeouts of the request that is open on one connection; there is one at most.
#[derive(Debug)]
pub(crate) struct Timeouts {
    stall: Stall,
    /// `None`: there is no stream idle timeout.
    idle: Option<(StreamIdle, Arc<Progress>)>,
    /// The connection's count of moves at the last poll.
    moves: u64,
}

// === impl Timeouts ===

impl Timeouts {
    pub(crate) fn new(write_stall: Duration, idle: Option<Duration>) -> Self {
        let idle = idle.map(|limit| (StreamIdle::new(limit), Progress::new()));
        Self { stall: Stall::new(write_stall), idle, moves: 0 }
    }

    /// Ready when no byte has moved for too long. `open`: a request is open; `blocked`: the last write is pending. `moves`:
    /// the connection's count of reads and writes.
    pub(crate) fn poll(&mut self, open: bool, blocked: bool, moves: u64, cx: &mut Context<'_>) -> Poll<StreamLimit> {
        let moved = moves != self.moves;
        self.moves = moves;
        if moved || !blocked {
            self.stall.clear();
        }
        if blocked && self.stall.poll(cx).is_ready() {
            return Poll::Ready(StreamLimit::WriteStall);
        }
        let Some((idle, progress)) = &mut self.idle else { return Poll::Pending };
        if moved {
            progress.mark();
        }
        while idle.poll(open, cx).is_ready() {
            idle.check(open.then(|| Arc::clone(progress)).into_iter());
        }
        if open && progress.is_timed_out(cx) { Poll::Ready(StreamLimit::Idle) } else { Poll::Pending }
    }
}
