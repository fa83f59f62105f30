//! Connections of HTTP/1.1 on which nothing moves.

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

/// The timeouts of what is open on one connection, which is one request at most.
#[derive(Debug)]
pub(crate) struct Timeouts {
    stall: Stall,
    /// `None`: it may be idle for any time.
    idle: Option<(StreamIdle, Arc<Progress>)>,
    /// What the connection had moved when it was last looked at.
    moves: u64,
}

// === impl Timeouts ===

impl Timeouts {
    pub(crate) fn new(write_stall: Duration, idle: Option<Duration>) -> Self {
        let idle = idle.map(|limit| (StreamIdle::new(limit), Progress::new(false)));
        Self { stall: Stall::new(write_stall), idle, moves: 0 }
    }

    /// Ready when nothing has moved for too long. `busy`: a request is open; `blocked`: the client takes nothing of what is
    /// written.
    pub(crate) fn poll(&mut self, busy: bool, blocked: bool, moves: u64, cx: &mut Context<'_>) -> Poll<StreamLimit> {
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
        while idle.poll(busy, cx).is_ready() {
            idle.check(busy.then(|| Arc::clone(progress)).into_iter());
        }
        if busy && progress.is_timed_out(cx) { Poll::Ready(StreamLimit::Idle) } else { Poll::Pending }
    }
}
