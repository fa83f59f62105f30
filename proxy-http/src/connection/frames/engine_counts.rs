//! What h2 counts over a connection's life, as far as it shows in what is written.
//!
//! Streams that h2 resets for what their peer did wrong: it bears a number of them, and then ends the connection with all
//! that is open on it. It does not tell how many there were, nor of each: what comes late on a stream that it has forgotten
//! is no stream's any more. And the numbers of streams, which end at 2^31 (RFC 9113 section 5.1.1): requests that find none
//! left fail.

use crate::connection::frames::head::HEAD;

/// Follows the frames that are written on one connection.
#[derive(Debug)]
pub(crate) struct EngineCounts {
    /// What is to come before the next frame.
    left: usize,
    /// The start of a frame that is not known yet.
    start: [u8; RESET],
    known: usize,
}

/// What was found in what was written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counted {
    /// Streams that were reset with a code that h2 resets with by itself. Some of those may be passed on from the other side.
    pub(crate) resets: usize,
    /// There are few streams left to open.
    pub(crate) last_streams: bool,
}

/// Streams that are opened above this one are among the last: so many that requests find some while a connection is replaced.
const LAST_STREAMS: u32 = (1 << 31) - (1 << 20);
// RFC 9113 sections 6.4 and 7.
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const RESET: usize = HEAD + 4;
const PROTOCOL_ERROR: u8 = 0x1;
const FLOW_CONTROL_ERROR: u8 = 0x3;
const STREAM_CLOSED: u8 = 0x5;

// === impl EngineCounts ===

impl EngineCounts {
    /// For a connection whose first frame is written after `before` bytes.
    pub(crate) fn new(before: usize) -> Self {
        Self { left: before, start: [0; RESET], known: 0 }
    }

    /// Follows what was written.
    pub(crate) fn wrote(&mut self, mut bytes: &[u8]) -> Counted {
        let mut counted = Counted::default();
        loop {
            let Some(rest) = bytes.get(self.left..) else {
                self.left -= bytes.len();
                return counted;
            };
            bytes = rest;
            let (start, known) = if self.known == 0
                && let Some(start) = bytes.first_chunk()
            {
                (start, RESET)
            } else {
                let taken = bytes.len().min(RESET - self.known);
                self.start[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
                (&self.start, self.known + taken)
            };
            let [a, b, c, kind, _, stream @ .., _, _, _, code] = *start;
            let is_reset = kind == RST_STREAM && known >= HEAD;
            if known < if is_reset { RESET } else { HEAD } {
                (self.known, self.left) = (known, 0);
                return counted;
            }
            if is_reset && matches!(code, PROTOCOL_ERROR | FLOW_CONTROL_ERROR | STREAM_CLOSED) {
                counted.resets += 1;
            }
            counted.last_streams |= kind == HEADERS && u32::from_be_bytes(stream) > LAST_STREAMS;
            let frame = HEAD + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            self.left = frame - self.known;
            self.known = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_counted_by_their_code() {
        let frame = |kind: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, 0, 0, 0, 0, RST_STREAM][..], payload].concat()
        };
        let reset = |code: u8| frame(RST_STREAM, &[0, 0, 0, code]);
        let all = [b"preface".to_vec(), frame(0, &[RST_STREAM; 20]), reset(8), frame(4, &[]), reset(1), reset(3)];
        let all = [all.concat(), frame(1, &[1]), reset(5), frame(0, &[]), reset(7), reset(1)].concat();
        for size in 1..=all.len() {
            let mut counts = EngineCounts::new("preface".len());
            let counted: Vec<_> = all.chunks(size).map(|chunk| counts.wrote(chunk)).collect();
            assert_eq!(counted.iter().map(|counted| counted.resets).sum::<usize>(), 4, "{size}");
            assert!(counted.iter().all(|counted| !counted.last_streams));
        }
    }

    #[test]
    fn the_last_streams_are_told() {
        for (kind, stream, last) in [
            (HEADERS, LAST_STREAMS - 1, false),
            (HEADERS, LAST_STREAMS + 1, true),
            (0, LAST_STREAMS + 1, false),
            (HEADERS, u32::MAX >> 1, true),
        ] {
            let frame = [&[0, 0, 0, kind, 4][..], &stream.to_be_bytes()].concat();
            assert_eq!(EngineCounts::new(0).wrote(&frame), Counted { resets: 0, last_streams: last });
        }
    }
}
