//! DATA frames that are empty and do not end their stream: h2 takes 100 of them in a connection's life, and then ends it.
//!
//! They have no effect on a message (RFC 9113 section 6.1), and some peers send one for each empty chunk that an
//! application hands them. So they are taken out of what is read before h2 sees them, and each side has a bound of its own
//! on them, which is a rate.
//!
//! Frames with padding stay: their padding counts against the windows, which h2 alone can give back. So do those that are
//! a protocol error, such as DATA on an idle stream or within a header block: h2 says so.

use crate::connection::frames::head::HEAD;

/// Finds such frames in what is read of one connection. Told of every frame that may change what follows.
#[derive(Debug, Default)]
pub(crate) struct EmptyData {
    /// The highest stream whose headers have come. On those above, DATA is a protocol error.
    highest_stream: u32,
    /// Whether CONTINUATION must follow.
    in_block: bool,
    /// Where the frames end in what was read last, in bytes.
    ends: Vec<usize>,
}

/// A frame's head that h2 has not got yet, or only a part of it: it may turn out to be one that h2 is not to see.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: [u8; HEAD],
    len: u8,
    /// How many of the bytes h2 has got.
    given: u8,
    /// Whether h2 is to see the frame.
    passes: bool,
}

const DATA: u8 = 0x0;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

// === impl EmptyData ===

impl EmptyData {
    /// HEADERS begin.
    pub(crate) fn headers(&mut self, flags: u8, stream: [u8; 4]) {
        self.highest_stream = self.highest_stream.max(id(stream));
        self.in_block = flags & END_HEADERS == 0;
    }

    /// A CONTINUATION begins.
    pub(crate) fn continuation(&mut self, flags: u8) {
        self.in_block = flags & END_HEADERS == 0;
    }

    /// A DATA frame of zero bytes begins, whose head ends after `end` bytes of what was read. Whether h2 is not to see it.
    pub(crate) fn empty(&mut self, flags: u8, stream: [u8; 4], end: usize) -> bool {
        let stream = id(stream);
        // Streams of clients have odd numbers; 0 is the connection.
        let stays = flags & (END_STREAM | PADDED) != 0
            || self.in_block
            || stream.is_multiple_of(2)
            || stream > self.highest_stream;
        if !stays {
            self.ends.push(end);
        }
        !stays
    }

    /// Whether there was one in what was read last.
    pub(crate) fn any(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Forgets them.
    pub(crate) fn clear(&mut self) {
        self.ends.clear();
    }

    /// Takes them out of what was read last, and tells how many bytes are left.
    pub(crate) fn take_out(&mut self, read: &mut [u8]) -> usize {
        let mut left = 0;
        let mut from = 0;
        for end in self.ends.drain(..) {
            // One whose head began before cannot be taken out: h2 has got that.
            let Some(start) = end.checked_sub(HEAD) else { continue };
            read.copy_within(from..start, left);
            left += start - from;
            from = end;
        }
        read.copy_within(from.., left);
        left + read.len() - from
    }
}

/// Whether the start of a frame's head, which is not empty, may be that of an empty DATA frame.
pub(crate) fn may_be_empty(start: &[u8]) -> bool {
    start.iter().take(4).all(|byte| *byte == DATA)
        && start.get(4).is_none_or(|flags| flags & (END_STREAM | PADDED) == 0)
}

fn id(stream: [u8; 4]) -> u32 {
    u32::from_be_bytes(stream) & (u32::MAX >> 1)
}

// === impl Held ===

impl Held {
    /// Keeps the start of a head back.
    pub(crate) fn hold(&mut self, start: &[u8]) {
        *self = Self { len: start.len() as u8, ..Self::default() };
        self.bytes[..start.len()].copy_from_slice(start);
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether h2 gets it.
    pub(crate) fn passes(&self) -> bool {
        self.passes
    }

    /// Has h2 get what there is.
    pub(crate) fn pass(&mut self) {
        self.passes = true;
    }

    /// The place of the bytes that are missing.
    pub(crate) fn missing(&mut self) -> &mut [u8] {
        &mut self.bytes[usize::from(self.len)..]
    }

    /// So many more have come; has h2 get all of them if they are no empty DATA frame's, which is known of whole heads.
    pub(crate) fn came(&mut self, count: usize) {
        self.len += count as u8;
        self.passes = !may_be_empty(&self.bytes[..usize::from(self.len)]) || usize::from(self.len) == HEAD;
    }

    /// Drops it.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// The bytes that h2 is to get, `room` at most.
    pub(crate) fn give(&mut self, room: usize) -> &[u8] {
        let (from, len) = (usize::from(self.given), usize::from(self.len));
        let to = len.min(from + room);
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

    #[test]
    fn what_is_between_stays() {
        let head = |stream| [0, 0, 0, 0, 0, 0, 0, 0, stream];
        for (parts, left) in [
            (vec![&head(1)[..]], ""),
            (vec![b"abc", &head(1)], "abc"),
            (vec![&head(1), b"abc"], "abc"),
            (vec![b"a", &head(1), &head(3), b"bc", &head(1), b"d"], "abcd"),
        ] {
            let mut empty = EmptyData::default();
            empty.headers(END_HEADERS, [0, 0, 0, 3]);
            let mut end = 0;
            for part in &parts {
                end += part.len();
                if part.len() == HEAD {
                    assert!(empty.empty(0, part[5..].try_into().unwrap(), end));
                }
            }
            let mut read = parts.concat();
            let len = empty.take_out(&mut read);
            assert_eq!(read[..len], *left.as_bytes());
            assert!(!empty.any());
        }
    }

    #[test]
    fn what_h2_is_to_see_stays() {
        let mut empty = EmptyData::default();
        empty.headers(END_HEADERS, [0, 0, 0, 3]);
        for (flags, stream) in [(END_STREAM, 1), (PADDED, 1), (0, 0), (0, 2), (0, 5)] {
            assert!(!empty.empty(flags, [0, 0, 0, stream], HEAD), "{flags} on {stream}");
        }
        // The highest bit says nothing.
        assert!(empty.empty(0, [0x80, 0, 0, 3], HEAD));
        empty.headers(0, [0, 0, 0, 5]);
        assert!(!empty.empty(0, [0, 0, 0, 5], HEAD), "within a header block");
        empty.continuation(END_HEADERS);
        assert!(empty.empty(0, [0, 0, 0, 5], HEAD));
    }

    #[test]
    fn a_head_is_held_until_it_is_known() {
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
        let mut held = Held::default();
        held.hold(&[0, 0]);
        held.missing()[..2].copy_from_slice(&[0, 6]);
        held.came(2);
        assert!(held.passes());
        assert_eq!(held.give(1), [0]);
        assert!(!held.is_empty());
        assert_eq!(held.give(8), [0, 0, 6]);
        assert!(held.is_empty());
    }
}
