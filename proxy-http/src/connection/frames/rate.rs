//! Reads along what a client sends, by the heads of its frames.
//!
//! h2 answers or drops most frames by itself, so that nobody learns how many there were, how long a header block took,
//! or that a client never came to its first frame.

use crate::connection::{
    frames::{
        empty_data::{EmptyData, may_be_empty},
        head::{HEAD, PREFACE},
        kinds::{ANSWERS, EMPTY_DATA, Window, exceeded},
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

/// Follows the frames of one connection, and counts those that carry no request.
#[derive(Debug)]
pub(crate) struct FrameRates {
    seen: Arc<FrameCounts>,
    /// Frames of one kind in a second.
    max: u64,
    /// What is to come of the preface or of a payload, if it is within one.
    left: Option<usize>,
    /// The first bytes of a head that is not whole yet.
    head: [u8; HEAD],
    head_bytes: usize,
    /// What is to come before the client has greeted: the preface and a frame.
    greeting: u8,
    /// Header blocks so far.
    blocks: u32,
    /// The number of the one that is not whole yet. 0: there is none.
    block: u32,
    ends_block: bool,
    empty_data: EmptyData,
    /// Empty DATA frames with no frame of use between them.
    in_a_row: u32,
    /// When the first of them came.
    row_since: Instant,
    /// Whether the next byte is the length of a DATA frame's padding.
    padded: bool,
    small_data: SmallDataBudget,
    connection_state: Arc<ConnectionState>,
    window: Window,
}

const SECOND: Duration = Duration::from_secs(1);
/// Frames of each kind that a request may bring with it: each side of a stream has one or two to send.
const FRAMES_A_REQUEST: u64 = 4;
/// Bytes sent to a client for which it may send a frame of each kind: some give window back twice for each DATA frame,
/// and the smallest gRPC message with its two heads has 14.
const BYTES_A_FRAME: u64 = 16;
/// What a PING that answers one of ours counts for. We send a few in a second at most, and h2 logs each that it has not
/// sent.
const PONG: u64 = 100;
/// What SETTINGS count for that are to be answered: they may move the windows of all streams.
const SETTINGS: u64 = 50;
/// Frames that are read before other connections have their turn, and the connection's own streams: what they have not
/// taken of tiny DATA by then counts against the client, and 2,000 frames are too many for h2.
const FRAMES_A_TURN: u32 = 128;
/// Empty DATA frames in a row within a second. An application that hands on each piece of a page, empty or not, has some
/// hundred in a row.
const EMPTY_IN_A_ROW: u32 = 1_000;
// Flags of RFC 9113 section 6.
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const END_HEADERS: u8 = 0x4;

// === impl FrameRates ===

impl FrameRates {
    /// For a connection that starts now.
    pub(crate) fn new(
        max_control_frames: u32,
        seen: &Arc<FrameCounts>,
        connection_state: &Arc<ConnectionState>,
    ) -> Self {
        let now = Instant::now();
        Self {
            seen: Arc::clone(seen),
            max: max_control_frames.into(),
            left: Some(PREFACE),
            head: [0; HEAD],
            head_bytes: 0,
            greeting: 2,
            blocks: 0,
            block: 0,
            ends_block: false,
            empty_data: EmptyData::default(),
            in_a_row: 0,
            row_since: now,
            padded: false,
            small_data: SmallDataBudget::default(),
            connection_state: Arc::clone(connection_state),
            window: Window::new(now),
        }
    }

    /// Whether more may be read now; if not, either `cx` is woken soon or a limit is exceeded.
    pub(crate) fn may_read(&self, cx: &mut Context<'_>) -> bool {
        if self.seen.exceeded().is_some() {
            return false;
        }
        let has_turn = self.seen.turn.load(Relaxed) < FRAMES_A_TURN;
        if !has_turn {
            wake::after_others(cx);
        }
        has_turn
    }

    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.window.written += bytes as u64;
    }

    /// Follows what was read, and tells how many frames began with it. `None`: it exceeds a limit.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Option<u32> {
        let before = self.seen.turn.load(Relaxed);
        let mut turn = before;
        let all = bytes.len();
        self.empty_data.clear();
        loop {
            if let Some(left) = self.left {
                if self.padded
                    && let Some(padding) = bytes.first()
                {
                    self.padded = false;
                    if usize::from(*padding) + 1 == left {
                        self.connection_state.padding_alone();
                    }
                }
                let Some(rest) = bytes.get(left..) else {
                    self.left = Some(left - bytes.len());
                    break;
                };
                bytes = rest;
                self.end();
            }
            let Some(head) = self.take_head(&mut bytes) else { break };
            turn = turn.saturating_add(1);
            if let Err(exceeded) = self.begin(head, all - bytes.len()) {
                self.seen.exceeded.store(exceeded, Relaxed);
                return None;
            }
        }
        self.seen.turn.store(turn, Relaxed);
        self.seen.block.store(self.block, Relaxed);
        Some(turn - before)
    }

    /// The empty DATA frames in what was read last.
    pub(crate) fn empty_data(&mut self) -> &mut EmptyData {
        &mut self.empty_data
    }

    /// How many bytes at the end of what was read last begin what may be an empty DATA frame.
    pub(crate) fn may_begin_empty(&self) -> usize {
        if may_be_empty(&self.head[..self.head_bytes]) { self.head_bytes } else { 0 }
    }

    fn take_head(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEAD]> {
        if self.head_bytes == 0
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(*head);
        }
        let (part, rest) = bytes.split_at(bytes.len().min(HEAD - self.head_bytes));
        self.head[self.head_bytes..][..part.len()].copy_from_slice(part);
        self.head_bytes += part.len();
        *bytes = rest;
        (self.head_bytes == HEAD).then(|| {
            self.head_bytes = 0;
            self.head
        })
    }

    /// A frame begins, with a head that ends after `end` bytes of what was read; the error is what of [`FrameCounts::exceeded`] it
    /// makes.
    fn begin(&mut self, [len @ .., kind, flags, a, b, c, d]: [u8; HEAD], end: usize) -> Result<(), u8> {
        let [high, mid, low] = len;
        let left = usize::from(high) << 16 | usize::from(mid) << 8 | usize::from(low);
        self.left = Some(left);
        let (kind, weight) = match kind {
            // What is tiny and waits to be read is h2's to bound; what is read goes its way.
            0 => {
                if left == 0 && self.empty_data.empty(flags, [a, b, c, d], end) {
                    return self.empty();
                }
                self.in_a_row = 0;
                self.padded = flags & PADDED != 0 && left > 0;
                self.window.data += 1;
                self.small_data.add(left, self.connection_state.open_streams());
                return Ok(());
            }
            1 => {
                self.empty_data.headers(flags, [a, b, c, d]);
                self.in_a_row = 0;
                self.window.requests += 1;
                self.blocks = self.blocks.wrapping_add(1).max(1);
                self.block = self.blocks;
                self.ends_block = flags & END_HEADERS != 0;
                return Ok(());
            }
            // CONTINUATION. h2 bounds how many there may be.
            9 => {
                self.empty_data.continuation(flags);
                self.ends_block = flags & END_HEADERS != 0;
                return Ok(());
            }
            2 => (0, 1),
            3 => {
                self.seen.reset.store(true, Relaxed);
                (1, 1)
            }
            4 => (2, if flags & ACK == 0 { SETTINGS } else { 1 }),
            6 => (3, if flags & ACK == 0 { 1 } else { PONG }),
            8 => (4, 1),
            _ => (5, 1),
        };
        self.count(kind, weight)
    }

    /// An empty DATA frame, which h2 does not see.
    fn empty(&mut self) -> Result<(), u8> {
        self.in_a_row += 1;
        if self.in_a_row == 1 {
            self.row_since = now();
        } else if self.in_a_row > EMPTY_IN_A_ROW {
            if now() - self.row_since < SECOND {
                return Err(exceeded(EMPTY_DATA));
            }
            self.in_a_row = 0;
        }
        self.count(EMPTY_DATA, 1)
    }

    fn count(&mut self, kind: usize, weight: u64) -> Result<(), u8> {
        let count = &mut self.window.counts[kind];
        *count += weight;
        if *count > self.max { self.check(kind, weight) } else { Ok(()) }
    }

    /// Whether there were too many frames of a kind; if so, or if they took long enough, all starts anew.
    fn check(&mut self, kind: usize, weight: u64) -> Result<(), u8> {
        let Window { since, counts, requests, data, written } = &self.window;
        let now = now();
        if now - *since >= SECOND {
            self.window = Window::new(now);
            self.window.counts[kind] = weight;
            return Ok(());
        }
        let answers: u64 = counts.iter().zip(ANSWERS).map(|(count, bytes)| count * bytes).sum();
        let most = self.max + FRAMES_A_REQUEST * requests + written.saturating_sub(answers) / BYTES_A_FRAME;
        // Some clients send one after each piece of a body.
        let most = if kind == EMPTY_DATA { most + data } else { most };
        if counts[kind] > most { Err(exceeded(kind)) } else { Ok(()) }
    }

    /// The preface or a frame is whole.
    fn end(&mut self) {
        self.left = None;
        if self.ends_block {
            self.ends_block = false;
            self.block = 0;
        }
        if self.greeting > 0 {
            self.greeting -= 1;
            self.seen.greeted.store(self.greeting == 0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Limit;
    use std::task::Waker;

    const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const MAX: u32 = 100;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let [_, len @ ..] = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = [&len[..], &[kind, flags, 0, 0, 0, 1]].concat();
        // Whatever is taken for a head by mistake counts.
        frame.resize(HEAD + payload, 6);
        frame
    }

    fn greeted() -> (FrameRates, Arc<FrameCounts>) {
        let seen = Arc::<FrameCounts>::default();
        let mut frame_rates = FrameRates::new(MAX, &seen, &ConnectionState::new(false));
        frame_rates.read(PREFACE_AND_SETTINGS);
        assert!(seen.greeted());
        (frame_rates, seen)
    }

    #[track_caller]
    fn exceeds_at(most: u64, flags: u8, prepare: impl Fn(&mut FrameRates)) {
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
                4 if flags == 0 => SETTINGS,
                6 if flags == ACK => PONG,
                _ => 1,
            };
            // The first SETTINGS count, too.
            let most = (if kind == 4 { most - SETTINGS } else { most }) / weight;
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
        // The answer to the first SETTINGS is no reason, and those to PINGs are to be taken off.
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
            assert_eq!(frame_rates.window.counts, [0, 0, SETTINGS, 1, 1, 0, 0], "{size}");
            assert_eq!(frame_rates.window.requests, 1);
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
        let mut frame_rates = FrameRates::new(MAX, &seen, &ConnectionState::new(false));
        for byte in PREFACE_AND_SETTINGS {
            assert!(!seen.greeted());
            frame_rates.read(&[*byte]);
        }
        assert!(seen.greeted());
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
