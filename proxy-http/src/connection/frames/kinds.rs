//! The kinds of frames that have a rate limit, and their counts.

use crate::stats::Limit;
use tokio::time::Instant;

/// Counts since a time. They start anew when a limit is reached a second or more after it.
#[derive(Debug)]
pub(super) struct RateWindow {
    pub(super) since: Instant,
    pub(super) counts: [u64; KINDS.len()],
    pub(super) requests: u64,
    /// DATA frames that are not empty.
    pub(super) data: u64,
    /// Bytes sent to the client.
    pub(super) written: u64,
}

/// The kinds of frames that have a rate limit. The constants below are the indices of each, here and in the counts.
pub(super) const KINDS: [Limit; 7] = [
    Limit::PriorityFrames,
    Limit::ResetFrames,
    Limit::SettingsFrames,
    Limit::PingFrames,
    Limit::WindowUpdateFrames,
    Limit::OtherFrames,
    Limit::EmptyDataFrames,
];
pub(super) const PRIORITY_FRAMES: usize = 0;
pub(super) const RESET_FRAMES: usize = 1;
pub(super) const SETTINGS_FRAMES: usize = 2;
pub(super) const PING_FRAMES: usize = 3;
pub(super) const WINDOW_UPDATE_FRAMES: usize = 4;
pub(super) const OTHER_FRAMES: usize = 5;
pub(super) const EMPTY_DATA_FRAMES: usize = 6;
/// Bytes of h2's automatic reply to each kind (PING ACK), which do not raise the limit as other bytes sent to the client do.
/// SETTINGS count for 50 frames, beside which the 9 bytes of their ACK are nothing.
pub(super) const REPLY_BYTES: [u64; KINDS.len()] = [0, 0, 0, 17, 0, 0, 0];

// === impl RateWindow ===

impl RateWindow {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, counts: [0; KINDS.len()], requests: 0, data: 0, written: 0 }
    }
}
