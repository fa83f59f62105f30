//! The state that the task of a client's connection shares with the reader of its frames.

use crate::{connection::frames::kinds::KINDS, stats::Limit};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};

/// Shared by a connection's task and its `FrameRates`, which that task alone polls: `Relaxed` is enough.
#[derive(Debug, Default)]
pub(crate) struct FrameCounts {
    pub(super) greeted: AtomicBool,
    /// 0: none.
    pub(super) block: AtomicU32,
    pub(super) reset: AtomicBool,
    /// An index into [`KINDS`], plus 1. 0: none.
    pub(super) exceeded: AtomicU8,
    /// Frames since the task was polled.
    pub(super) turn: AtomicU32,
    /// Whether the task accepts requests now, one after the other.
    is_accepting: AtomicBool,
    /// Whether the transport has had nothing to read since the task began to accept requests.
    pub(super) is_read_pending: AtomicBool,
}

// === impl FrameCounts ===

impl FrameCounts {
    /// Whether the preface and the first frame have come.
    pub(crate) fn has_greeted(&self) -> bool {
        self.greeted.load(Relaxed)
    }

    /// The number of the field block that has begun and not ended. `None`: there is none.
    pub(crate) fn block(&self) -> Option<u32> {
        Some(self.block.load(Relaxed)).filter(|block| *block != 0)
    }

    /// The limit that was exceeded.
    pub(crate) fn exceeded(&self) -> Option<Limit> {
        let index = self.exceeded.load(Relaxed).checked_sub(1)?;
        Some(KINDS[usize::from(index)])
    }

    /// The connection's task has its turn.
    pub(crate) fn start_turn(&self) {
        self.turn.store(0, Relaxed);
        self.reset.store(false, Relaxed);
    }

    /// The connection's task starts or stops accepting requests.
    ///
    /// h2 reads and writes before each request that it hands out. One read brings many requests, and the transport that had
    /// nothing to read behind them has woken nobody since, so it is not asked again before the last of them.
    pub(crate) fn set_accepting(&self, accepting: bool) {
        self.is_accepting.store(accepting, Relaxed);
        self.is_read_pending.store(false, Relaxed);
    }

    /// The transport has nothing to read, and wakes the task when it has.
    pub(super) fn note_read_pending(&self) {
        self.is_read_pending.store(self.is_accepting.load(Relaxed), Relaxed);
    }

    /// Whether the client has reset a stream in this turn.
    pub(crate) fn has_reset(&self) -> bool {
        self.reset.load(Relaxed)
    }
}
