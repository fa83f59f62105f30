//! Rate limits of a client's frames.
//!
//! h2 answers or drops most frames by itself. It does not tell how many there were, how long a field block took, or that a
//! client never came to its first frame.

use crate::connection::{
    frames::{
        empty_data::{EmptyDataFilter, FramesRead},
        head::{
            ACK, CONTINUATION, DATA, FrameHead, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        },
        kinds::{
            EMPTY_DATA_FRAMES, OTHER_FRAMES, PING_FRAMES, PRIORITY_FRAMES, REPLY_BYTES, RESET_FRAMES, RateWindow,
            SETTINGS_FRAMES, WINDOW_UPDATE_FRAMES,
        },
        local_settings::FieldBlock,
        peer_windows,
        reader::{FrameObserver, FrameReader},
        seen::FrameCounts,
        small_data::SmallDataBudget,
    },
    now::now,
    state::ConnectionState,
    wake,
};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Context,
    time::Duration,
};
use tokio::time::Instant;

/// Bounds the rate of the frames of one client that carry no request.
#[derive(Debug)]
pub(crate) struct FrameRates {
    seen: Arc<FrameCounts>,
    connection_state: Arc<ConnectionState>,
    /// Frames of one kind in a second.
    max: u64,
    window: RateWindow,
    /// Frames that began in the last read.
    frames: u32,
    /// Parts of the greeting that have not come: the preface and a frame.
    greeting: u8,
    /// Field blocks so far.
    blocks: u32,
    /// The frame that is read ends the last of them.
    ends_block: bool,
    block: FieldBlock,
    empty_data: EmptyDataFilter,
    /// Empty DATA frames with no frame of use between them.
    in_a_row: u32,
    /// When the first of them came.
    row_since: Instant,
    small_data: SmallDataBudget,
}

const SECOND: Duration = Duration::from_secs(1);
/// Frames of each kind that a request may bring with it: each side of a stream has one or two to send.
const FRAMES_A_REQUEST: u64 = 4;
/// Bytes sent to a client for which it may send a frame of each kind: some give window back twice for each DATA frame,
/// and the smallest gRPC message with its two heads has 14.
const BYTES_A_FRAME: u64 = 16;
/// The weight of a PING that answers one of ours. We send a few in a second at most, and h2 logs each answer to a PING that
/// it has not sent.
const PONG_WEIGHT: u64 = 100;
/// The weight of SETTINGS that are to be answered: they may move the windows of all streams.
const SETTINGS_WEIGHT: u64 = 50;
/// Frames that are read before other connections have their turn, and the connection's own streams: tiny DATA that they
/// have not taken by then counts against the client, and 2,000 frames are too many for h2.
const FRAMES_A_TURN: u32 = 128;
/// Empty DATA frames in a row within a second. An application that hands on each piece of a page, empty or not, has some
/// hundred in a row.
const EMPTY_IN_A_ROW: u32 = 1_000;

// === impl FrameRates ===

impl FrameRates {
    /// A reader for a connection that starts now.
    pub(crate) fn reader(
        max_control_frames: u32,
        seen: &Arc<FrameCounts>,
        connection_state: &Arc<ConnectionState>,
    ) -> FrameReader<Self> {
        let now = Instant::now();
        let rates = Self {
            seen: Arc::clone(seen),
            connection_state: Arc::clone(connection_state),
            max: max_control_frames.into(),
            window: RateWindow::new(now),
            frames: 0,
            greeting: 2,
            blocks: 0,
            ends_block: false,
            block: FieldBlock::default(),
            empty_data: EmptyDataFilter::default(),
            in_a_row: 0,
            row_since: now,
            small_data: SmallDataBudget::default(),
        };
        FrameReader::new(PREFACE, rates)
    }

    /// The empty DATA frames of the last read.
    pub(crate) fn empty_data(&mut self) -> &mut EmptyDataFilter {
        &mut self.empty_data
    }

    /// Counts an empty DATA frame, which h2 does not see.
    fn count_empty(&mut self) -> Result<(), u8> {
        self.in_a_row += 1;
        if self.in_a_row == 1 {
            self.row_since = now();
        } else if self.in_a_row > EMPTY_IN_A_ROW {
            if now() - self.row_since < SECOND {
                return Err(exceeded(EMPTY_DATA_FRAMES));
            }
            self.in_a_row = 0;
        }
        self.count(EMPTY_DATA_FRAMES, 1)
    }

    fn count(&mut self, kind: usize, weight: u64) -> Result<(), u8> {
        let count = &mut self.window.counts[kind];
        *count += weight;
        if *count > self.max { self.check(kind, weight) } else { Ok(()) }
    }

    /// Fails if there were too many frames of a kind. If they took a second or more, all counts start anew.
    fn check(&mut self, kind: usize, weight: u64) -> Result<(), u8> {
        let RateWindow { since, counts, requests, data, written } = &self.window;
        let now = now();
        if now - *since >= SECOND {
            self.window = RateWindow::new(now);
            self.window.counts[kind] = weight;
            return Ok(());
        }
        let replies: u64 = counts.iter().zip(REPLY_BYTES).map(|(count, bytes)| count * bytes).sum();
        let most = self.max + FRAMES_A_REQUEST * requests + written.saturating_sub(replies) / BYTES_A_FRAME;
        // Some clients send an empty one after each piece of a body.
        let most = if kind == EMPTY_DATA_FRAMES { most + data } else { most };
        if counts[kind] > most { Err(exceeded(kind)) } else { Ok(()) }
    }
}

impl FrameReader<FrameRates> {
    /// Whether the transport may be read now; if not, `cx` is woken soon or by the transport, or a limit is exceeded.
    pub(crate) fn may_read(&self, cx: &mut Context<'_>) -> bool {
        let seen = &self.observer.seen;
        if seen.is_read_pending.load(Relaxed) || seen.exceeded().is_some() {
            return false;
        }
        let has_turn = seen.turn.load(Relaxed) < FRAMES_A_TURN;
        if !has_turn {
            wake::after_others(cx);
        }
        has_turn
    }

    /// The transport has nothing to read, and wakes the task when it has.
    pub(crate) fn note_read_pending(&self) {
        self.observer.seen.note_read_pending();
    }

    /// Goes on with `bytes`, which were read. `None`: they exceed a limit.
    #[inline]
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Option<FramesRead> {
        if self.pass_over(bytes.len()) { Some(FramesRead::default()) } else { self.read_frames(bytes) }
    }

    #[inline(never)]
    fn read_frames(&mut self, bytes: &[u8]) -> Option<FramesRead> {
        self.observer.frames = 0;
        self.observer.empty_data.clear();
        let followed = self.follow(bytes);
        let FrameRates { seen, frames, empty_data, .. } = &self.observer;
        if let Err(exceeded) = followed {
            seen.exceeded.store(exceeded, Relaxed);
            return None;
        }
        seen.turn.store(seen.turn.load(Relaxed).saturating_add(*frames), Relaxed);
        Some(empty_data.frames_read(*frames, self.head_part()))
    }

    /// Counts bytes that were sent to the client.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.observer.window.written += bytes as u64;
    }
}

impl FrameObserver for FrameRates {
    /// A value of [`FrameCounts::exceeded`].
    type Error = u8;

    #[inline(always)]
    fn head(&mut self, head: FrameHead, end: usize) -> Result<usize, u8> {
        self.frames += 1;
        let is_ack = head.flags & ACK != 0;
        let (kind, weight) = match head.kind {
            // h2 bounds tiny DATA that waits to be read; DATA that is read goes its way.
            DATA => {
                if head.length == 0 && self.empty_data.removes(head, end) {
                    return self.count_empty().map(|()| 0);
                }
                self.in_a_row = 0;
                self.window.data += 1;
                return Ok(self.small_data.data(head, &self.connection_state));
            }
            HEADERS => {
                self.empty_data.headers(head);
                self.in_a_row = 0;
                self.window.requests += 1;
                self.blocks = self.blocks.wrapping_add(1).max(1);
                self.seen.block.store(self.blocks, Relaxed);
                self.ends_block = head.ends_block();
                self.block.frame(head, &self.connection_state);
                return Ok(0);
            }
            // h2 bounds how many there may be.
            CONTINUATION => {
                self.empty_data.continuation(head);
                self.block.frame(head, &self.connection_state);
                self.ends_block = head.ends_block();
                return Ok(0);
            }
            PRIORITY => (PRIORITY_FRAMES, 1),
            RST_STREAM => {
                self.seen.reset.store(true, Relaxed);
                (RESET_FRAMES, 1)
            }
            SETTINGS => (SETTINGS_FRAMES, if is_ack { 1 } else { SETTINGS_WEIGHT }),
            PING => (PING_FRAMES, if is_ack { PONG_WEIGHT } else { 1 }),
            WINDOW_UPDATE => (WINDOW_UPDATE_FRAMES, 1),
            _ => (OTHER_FRAMES, 1),
        };
        self.count(kind, weight).map(|()| peer_windows::wanted(head, self.connection_state.path()))
    }

    /// The first byte of padded DATA, or a piece of WINDOW_UPDATE or SETTINGS.
    #[inline(always)]
    fn payload(&mut self, head: FrameHead, bytes: &[u8]) -> usize {
        if head.kind != DATA {
            return peer_windows::note(head, bytes, self.connection_state.path());
        }
        SmallDataBudget::padding(head, bytes[0], &self.connection_state);
        0
    }

    #[inline(always)]
    fn end(&mut self) {
        if self.ends_block {
            self.ends_block = false;
            self.seen.block.store(0, Relaxed);
        }
        if self.greeting > 0 {
            self.greeting -= 1;
            self.seen.greeted.store(self.greeting == 0, Relaxed);
        }
    }
}

/// The value of [`FrameCounts::exceeded`] for a kind.
fn exceeded(kind: usize) -> u8 {
    kind as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connection::frames::head::{END_HEADERS, HEAD},
        stats::Limit,
    };
    use std::task::Waker;

    const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const MAX: u32 = 100;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let [_, len @ ..] = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = [&len[..], &[kind, flags, 0, 0, 0, 1]].concat();
        // A payload that is taken for a head by mistake counts.
        frame.resize(HEAD + payload, 6);
        frame
    }

    fn greeted() -> (FrameReader<FrameRates>, Arc<FrameCounts>) {
        let seen = Arc::<FrameCounts>::default();
        let mut frame_rates = FrameRates::reader(MAX, &seen, &ConnectionState::new(&Arc::default()));
        frame_rates.read(PREFACE_AND_SETTINGS);
        assert!(seen.has_greeted());
        (frame_rates, seen)
    }

    #[track_caller]
    fn exceeds_at(most: u64, flags: u8, prepare: impl Fn(&mut FrameReader<FrameRates>)) {
        for (kind, limit) in [
            (2, Limit::PriorityFrames),
            (3, Limit::ResetFrames),
            (4, Limit::SettingsFrames),
            (6, Limit::PingFrames),
            (8, Limit::WindowUpdateFrames),
            (7, Limit::OtherFrames),
            (0x42, Limit::OtherFrames),
        ] {
            let (mut frame_rates, seen) = greeted();
            prepare(&mut frame_rates);
            let weight = match kind {
                4 if flags == 0 => SETTINGS_WEIGHT,
                6 if flags == ACK => PONG_WEIGHT,
                _ => 1,
            };
            // The first SETTINGS count, too.
            let most = (if kind == 4 { most - SETTINGS_WEIGHT } else { most }) / weight;
            for _ in 0..most {
                frame_rates.read(&frame(kind, flags, 5));
            }
            assert_eq!(seen.exceeded(), None, "{kind}");
            frame_rates.read(&frame(kind, flags, 5));
            assert_eq!(seen.exceeded(), Some(limit), "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_a_kind_are_bounded() {
        exceeds_at(MAX.into(), 0, |_| {});
        exceeds_at(MAX.into(), ACK, |_| {});
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_bytes_bring_more_with_them() {
        exceeds_at(u64::from(MAX) + 40, 0, |frame_rates| _ = frame_rates.read(&frame(1, END_HEADERS, 5).repeat(10)));
        // The answer to the first SETTINGS is no reason, nor are the answers to PINGs.
        exceeds_at(u64::from(MAX), 0, |frame_rates| frame_rates.wrote(9));
        let (mut frame_rates, seen) = greeted();
        frame_rates.wrote(9 + 16 * 5);
        frame_rates.read(&frame(8, 0, 4).repeat(MAX as usize + 5));
        assert_eq!(seen.exceeded(), None);
        frame_rates.read(&frame(8, 0, 4));
        assert_eq!(seen.exceeded(), Some(Limit::WindowUpdateFrames));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_no_reason_for_more() {
        let (mut frame_rates, seen) = greeted();
        for _ in 0..=MAX {
            assert_eq!(seen.exceeded(), None);
            frame_rates.read(&frame(6, 0, 8));
            frame_rates.wrote(17);
        }
        assert_eq!(seen.exceeded(), Some(Limit::PingFrames));
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_starts_anew() {
        let (mut frame_rates, seen) = greeted();
        let mut second = async |count| {
            frame_rates.read(&frame(6, 0, 8).repeat(count));
            tokio::time::advance(SECOND).await;
        };
        for _ in 0..100 {
            second(MAX as usize).await;
        }
        assert_eq!(seen.exceeded(), None);
        second(2 * MAX as usize + 1).await;
        assert_eq!(seen.exceeded(), Some(Limit::PingFrames));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_their_bodies_are_free() {
        let (mut frame_rates, seen) = greeted();
        for _ in 0..10 * MAX {
            frame_rates
                .read(&[frame(1, 0, 30), frame(9, END_HEADERS, 30), frame(0, 0, 1_000), frame(0, 1, 0)].concat());
        }
        assert_eq!(seen.exceeded(), None);
    }

    #[tokio::test]
    async fn reads_may_end_anywhere() {
        let all = [frame(6, 0, 8), frame(1, 0, 30), frame(9, 0, 0), frame(9, END_HEADERS, 1), frame(8, 0, 4)].concat();
        for size in 1..=all.len() {
            let (mut frame_rates, seen) = greeted();
            let mut read = 0;
            for chunk in all.chunks(size) {
                frame_rates.read(chunk);
                read += chunk.len();
                // From the head of HEADERS to the last byte of the CONTINUATION that ends them.
                assert_eq!(seen.block().is_some(), (26..75).contains(&read), "after {read}, by {size}");
            }
            assert_eq!(frame_rates.observer.window.counts, [0, 0, SETTINGS_WEIGHT, 1, 1, 0, 0], "{size}");
            assert_eq!(frame_rates.observer.window.requests, 1);
        }
    }

    #[tokio::test]
    async fn each_block_has_a_number() {
        let (mut frame_rates, seen) = greeted();
        let part = frame(1, END_HEADERS, 30);
        frame_rates.read(&part[..20]);
        let first = seen.block();
        frame_rates.read(&[&part[20..], &part[..20]].concat());
        let second = seen.block();
        assert!(first.is_some() && second.is_some() && first != second, "{first:?}, {second:?}");
    }

    #[tokio::test]
    async fn a_client_has_greeted_after_its_first_frame() {
        let seen = Arc::<FrameCounts>::default();
        let mut frame_rates = FrameRates::reader(MAX, &seen, &ConnectionState::new(&Arc::default()));
        for byte in PREFACE_AND_SETTINGS {
            assert!(!seen.has_greeted());
            frame_rates.read(&[*byte]);
        }
        assert!(seen.has_greeted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_after_some_frames() {
        let (mut frame_rates, seen) = greeted();
        let cx = &mut Context::from_waker(Waker::noop());
        seen.start_turn();
        frame_rates.read(&frame(0, 0, 1).repeat(FRAMES_A_TURN as usize - 1));
        assert!(frame_rates.may_read(cx));
        frame_rates.read(&frame(0, 0, 1));
        assert!(!frame_rates.may_read(cx));
        seen.start_turn();
        assert!(frame_rates.may_read(cx));
        frame_rates.read(&frame(6, 0, 8).repeat(MAX as usize + 1));
        assert!(!frame_rates.may_read(cx), "nothing more is read once a limit is exceeded");
    }
}
