//! The counts that h2 keeps over a connection's life, as far as its writes show them.
//!
//! h2 resets streams for errors of their peer. It bears a number of them, and then ends the connection with all that is open
//! on it. It tells neither the number nor each of them: a frame that comes late on a stream that it has forgotten belongs to
//! no stream. And the numbers of streams end at 2^31 (RFC 9113 section 5.1.1): requests that find none left fail.

use crate::connection::frames::{
    head::{DATA, FrameHead, HEADERS, RST_STREAM},
    reader::{FrameObserver, FrameReader},
};
use std::{convert::Infallible, mem};

/// Observes the frames that are written on one connection.
#[derive(Debug, Default)]
pub(crate) struct EngineCounts {
    counted: Counted,
}

/// The counts of one write.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counted {
    /// Streams that were reset with a code that h2 resets with by itself. Some may be passed on from the other side.
    pub(crate) resets: usize,
    /// There are few streams left to open.
    pub(crate) last_streams: bool,
    /// Bytes of DATA, with their padding.
    pub(crate) data: u32,
}

/// Streams that are opened above this one are among the last: as many as requests may need while a connection is replaced.
const LAST_STREAMS: u32 = (1 << 31) - (1 << 20);
/// The length of an error code, which is the payload of RST_STREAM (RFC 9113 section 6.4).
const CODE: usize = 4;
// RFC 9113 section 7.
const PROTOCOL_ERROR: u8 = 0x1;
const FLOW_CONTROL_ERROR: u8 = 0x3;
const STREAM_CLOSED: u8 = 0x5;

// === impl EngineCounts ===

impl EngineCounts {
    /// A reader for a connection whose first frame is written after `before` bytes.
    pub(crate) fn reader(before: usize) -> FrameReader<Self> {
        FrameReader::new(before, Self::default())
    }
}

impl FrameReader<EngineCounts> {
    /// Counts the frames in `bytes`, which were written.
    #[inline]
    pub(crate) fn wrote(&mut self, bytes: &[u8]) -> Counted {
        if self.pass_over(bytes.len()) { Counted::default() } else { self.wrote_frames(bytes) }
    }

    #[inline(never)]
    fn wrote_frames(&mut self, bytes: &[u8]) -> Counted {
        let Ok(()) = self.follow(bytes);
        mem::take(&mut self.observer.counted)
    }
}

impl FrameObserver for EngineCounts {
    type Error = Infallible;

    #[inline(always)]
    fn head(&mut self, head: FrameHead, _: usize) -> Result<usize, Infallible> {
        Ok(match head.kind {
            DATA => {
                self.counted.data = self.counted.data.saturating_add(head.length as u32);
                0
            }
            HEADERS => {
                self.counted.last_streams |= head.stream > LAST_STREAMS;
                0
            }
            RST_STREAM => CODE,
            _ => 0,
        })
    }

    #[inline(always)]
    fn payload(&mut self, _: FrameHead, code: &[u8]) -> usize {
        if let [_, _, _, PROTOCOL_ERROR | FLOW_CONTROL_ERROR | STREAM_CLOSED] = code {
            self.counted.resets += 1;
        }
        0
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
            let mut counts = EngineCounts::reader("preface".len());
            let counted: Vec<_> = all.chunks(size).map(|chunk| counts.wrote(chunk)).collect();
            assert_eq!(counted.iter().map(|counted| counted.resets).sum::<usize>(), 4, "{size}");
            assert!(counted.iter().all(|counted| !counted.last_streams));
        }
    }

    #[test]
    fn the_last_streams_are_noticed() {
        for (kind, stream, last) in [
            (HEADERS, LAST_STREAMS - 1, false),
            (HEADERS, LAST_STREAMS + 1, true),
            (0, LAST_STREAMS + 1, false),
            (HEADERS, u32::MAX >> 1, true),
        ] {
            let frame = [&[0, 0, 0, kind, 4][..], &stream.to_be_bytes()].concat();
            assert_eq!(EngineCounts::reader(0).wrote(&frame), Counted { last_streams: last, ..Counted::default() });
        }
    }
}
