//! Empty DATA frames that do not end their stream: h2 takes 100 of them in a connection's life, and then ends it.
//!
//! They have no effect on a message (RFC 9113 section 6.1), and some peers send one for each empty chunk that an
//! application hands them. So they are removed from the bytes that are read before h2 sees them, and each side has a bound
//! of its own on them, which is a rate.
//!
//! Frames with padding stay: their padding counts against the windows, which h2 alone can give back. So do frames that are
//! a protocol error, such as DATA on an idle stream or within a field block: h2 answers them.

use crate::connection::frames::head::{DATA, END_STREAM, FrameHead, HEAD, PADDED};

/// Finds the frames to remove in the bytes that are read on one connection. It needs each HEADERS, CONTINUATION and empty
/// DATA.
#[derive(Debug, Default)]
pub(crate) struct EmptyDataFilter {
    /// The highest stream whose headers have come. On streams above it DATA is a protocol error.
    highest_stream: u32,
    /// Whether CONTINUATION must follow.
    in_block: bool,
    /// The ends of the frames to remove, as offsets into the last read.
    ends: Vec<usize>,
}

/// The frames of one read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FramesRead {
    /// Frames that began.
    pub(crate) began: u32,
    /// There are empty DATA frames among them that h2 need not see.
    pub(crate) has_empty: bool,
    /// Bytes at the end that may begin another.
    pub(crate) may_begin_empty: u8,
}

/// A frame's head that h2 has not got yet, or only in part, since it may be an empty DATA frame.
#[derive(Debug, Default)]
pub(crate) struct HeldHead {
    bytes: [u8; HEAD],
    len: u8,
    /// The number of bytes that h2 has got.
    given: u8,
    /// Whether h2 gets the frame.
    passes: bool,
}

// === impl EmptyDataFilter ===

impl EmptyDataFilter {
    /// HEADERS begin.
    pub(crate) fn headers(&mut self, head: FrameHead) {
        self.highest_stream = self.highest_stream.max(head.stream);
        self.in_block = !head.ends_block();
    }

    /// A CONTINUATION begins.
    pub(crate) fn continuation(&mut self, head: FrameHead) {
        self.in_block = !head.ends_block();
    }

    /// Whether the DATA frame of zero bytes, whose head ends after `end` bytes of the read, is to be removed.
    pub(crate) fn removes(&mut self, head: FrameHead, end: usize) -> bool {
        // Streams of clients have odd numbers; 0 is the connection.
        let stays = head.flags & (END_STREAM | PADDED) != 0
            || self.in_block
            || head.stream.is_multiple_of(2)
            || head.stream > self.highest_stream;
        if !stays {
            self.ends.push(end);
        }
        !stays
    }

    /// The last read, in which as many frames `began`, and whose end is the part of a head.
    pub(crate) fn frames_read(&self, began: u32, head_part: &[u8]) -> FramesRead {
        let may_begin_empty = if may_be_empty(head_part) { head_part.len() as u8 } else { 0 };
        FramesRead { began, has_empty: !self.ends.is_empty(), may_begin_empty }
    }

    /// Forgets the frames of the last read.
    pub(crate) fn clear(&mut self) {
        self.ends.clear();
    }

    /// Removes the frames from the last read, and returns the number of bytes that are left.
    pub(crate) fn remove(&mut self, read: &mut [u8]) -> usize {
        let mut left = 0;
        let mut from = 0;
        for end in self.ends.drain(..) {
            // A frame whose head began in an earlier read stays: h2 has got a part of it.
            let Some(start) = end.checked_sub(HEAD) else { continue };
            read.copy_within(from..start, left);
            left += start - from;
            from = end;
        }
        read.copy_within(from.., left);
        left + read.len() - from
    }
}

/// Whether the bytes, if any, may begin the head of an empty DATA frame.
fn may_be_empty(start: &[u8]) -> bool {
    start.iter().take(4).all(|byte| *byte == DATA)
        && start.get(4).is_none_or(|flags| flags & (END_STREAM | PADDED) == 0)
}

// === impl HeldHead ===

impl HeldHead {
    /// Keeps the start of a head back.
    pub(crate) fn hold(&mut self, start: &[u8]) {
        *self = Self { len: start.len() as u8, ..Self::default() };
        self.bytes[..start.len()].copy_from_slice(start);
    }

    /// Whether none is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether h2 gets it.
    pub(crate) fn passes(&self) -> bool {
        self.passes
    }

    /// Has h2 get the bytes that have come.
    pub(crate) fn pass(&mut self) {
        self.passes = true;
    }

    /// The place of the bytes that are missing.
    pub(crate) fn missing(&mut self) -> &mut [u8] {
        &mut self.bytes[usize::from(self.len)..]
    }

    /// Adds `count` bytes that were read into the [place of the missing ones](Self::missing). h2 gets a head that cannot be
    /// of an empty DATA frame, and a whole one: its caller has dropped an empty DATA frame.
    pub(crate) fn add(&mut self, count: usize) {
        self.len += count as u8;
        self.passes = !may_be_empty(&self.bytes[..usize::from(self.len)]) || usize::from(self.len) == HEAD;
    }

    /// Drops it.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// The next bytes for h2, `max` at most.
    pub(crate) fn give(&mut self, max: usize) -> &[u8] {
        let (from, len) = (usize::from(self.given), usize::from(self.len));
        let to = len.min(from + max);
        self.given = to as u8;
        if to == len {
            self.len = 0;
        }
        &self.bytes[from..to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::frames::head::END_HEADERS;

    fn head(flags: u8, stream: [u8; 4]) -> FrameHead {
        let [a, b, c, d] = stream;
        FrameHead::from_bytes([0, 0, 0, 0, flags, a, b, c, d])
    }

    #[test]
    fn bytes_between_empty_frames_stay() {
        let bytes = |stream| [0, 0, 0, 0, 0, 0, 0, 0, stream];
        for (parts, left) in [
            (vec![&bytes(1)[..]], ""),
            (vec![b"abc", &bytes(1)], "abc"),
            (vec![&bytes(1), b"abc"], "abc"),
            (vec![b"a", &bytes(1), &bytes(3), b"bc", &bytes(1), b"d"], "abcd"),
        ] {
            let mut empty = EmptyDataFilter::default();
            empty.headers(head(END_HEADERS, [0, 0, 0, 3]));
            let mut end = 0;
            for part in &parts {
                end += part.len();
                if part.len() == HEAD {
                    assert!(empty.removes(FrameHead::from_bytes((*part).try_into().unwrap()), end));
                }
            }
            let mut read = parts.concat();
            let len = empty.remove(&mut read);
            assert_eq!(read[..len], *left.as_bytes());
            assert!(!empty.frames_read(0, &[]).has_empty);
        }
    }

    #[test]
    fn frames_that_h2_answers_stay() {
        let mut empty = EmptyDataFilter::default();
        empty.headers(head(END_HEADERS, [0, 0, 0, 3]));
        for (flags, stream) in [(END_STREAM, 1), (PADDED, 1), (0, 0), (0, 2), (0, 5)] {
            assert!(!empty.removes(head(flags, [0, 0, 0, stream]), HEAD), "{flags} on {stream}");
        }
        // The highest bit says nothing.
        assert!(empty.removes(head(0, [0x80, 0, 0, 3]), HEAD));
        empty.headers(head(0, [0, 0, 0, 5]));
        assert!(!empty.removes(head(0, [0, 0, 0, 5]), HEAD), "within a header block");
        empty.continuation(head(END_HEADERS, [0, 0, 0, 5]));
        assert!(empty.removes(head(0, [0, 0, 0, 5]), HEAD));
    }

    #[test]
    fn a_head_is_held_until_its_frame_is_known() {
        for (start, may) in [
            (&[0][..], true),
            (&[0, 0, 0, 0], true),
            (&[0, 0, 0, 0, 4, 0, 0, 0], true),
            (&[0, 0, 1], false),
            (&[0, 0, 0, 1], false),
            (&[0, 0, 0, 0, END_STREAM], false),
            (&[0, 0, 0, 0, PADDED], false),
        ] {
            assert_eq!(may_be_empty(start), may, "{start:?}");
        }
        let mut held = HeldHead::default();
        held.hold(&[0, 0]);
        held.missing()[..2].copy_from_slice(&[0, 6]);
        held.add(2);
        assert!(held.passes());
        assert_eq!(held.give(1), [0]);
        assert!(!held.is_empty());
        assert_eq!(held.give(8), [0, 0, 6]);
        assert!(held.is_empty());
    }
}
