//! The kinds of frames that are counted, and how many there were of each.

use crate::stats::Limit;
use tokio::time::Instant;

/// What there was since a time, a second ago or more.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) since: Instant,
    pub(super) counts: [u64; KINDS.len()],
    pub(super) requests: u64,
    /// DATA frames that are not empty.
    pub(super) data: u64,
    pub(super) written: u64,
}

/// The kinds of frames that are counted.
pub(super) const KINDS: [Limit; 7] = [
    Limit::PriorityFrames,
    Limit::ResetFrames,
    Limit::SettingsFrames,
    Limit::PingFrames,
    Limit::WindowUpdateFrames,
    Limit::OtherFrames,
    Limit::EmptyDataFrames,
];
/// The index of the last one.
pub(super) const EMPTY_DATA: usize = KINDS.len() - 1;
/// The bytes of what each is answered with, which are no reason for more. Those of SETTINGS are too few for what each counts.
pub(super) const ANSWERS: [u64; KINDS.len()] = [0, 0, 0, 17, 0, 0, 0];

// === impl Window ===

impl Window {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, counts: [0; KINDS.len()], requests: 0, data: 0, written: 0 }
    }
}

/// What [`Seen::exceeded`] has for a kind.
pub(super) fn exceeded(kind: usize) -> u8 {
    kind as u8 + 1
}
