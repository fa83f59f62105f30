//! Interim responses of an endpoint, as the first bytes of a field block show them.
//!
//! h2 drops them where a request does not poll for them, and a poll takes its lock. Most endpoints never send any, so their
//! requests need not poll.

use crate::connection::frames::{
    head::{END_STREAM, FrameHead, HAS_PRIORITY, PADDED},
    reader::MAX_PIECE,
};

/// The number of bytes of a HEADERS frame's block that [`may_be_interim`] needs. A head that ends its stream is final, or
/// trailers.
pub(super) fn wanted(head: FrameHead) -> usize {
    if head.flags & END_STREAM == 0 { MAX_PIECE } else { 0 }
}

/// Whether HEADERS that do not end their stream may begin an interim response. Some final responses look like one, too.
pub(super) fn may_be_interim(head: FrameHead, start: &[u8]) -> bool {
    head.flags & (PADDED | HAS_PRIORITY) != 0 || is_interim(start)
}

/// Whether a field block may begin with a status below 200 (RFC 7541 section 6).
fn is_interim(mut block: &[u8]) -> bool {
    // Updates of the dynamic table's size come before all fields (section 4.2).
    while let [first @ 0x20..=0x3f, rest @ ..] = block {
        let more = if *first == 0x3f {
            rest.iter().position(|byte| byte & 0x80 == 0).map_or(rest.len(), |at| at + 1)
        } else {
            0
        };
        block = &rest[more..];
    }
    match *block {
        // An indexed field. The static table has final statuses only, and a field of the dynamic table was read as a literal
        // before.
        [0x80..=0xff, ..] => false,
        // A literal of `:status`, whose value begins with 1, in ASCII or in the Huffman code.
        [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, 0..=0x7f, digit, ..] => digit == b'1',
        [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, 0x80..=0xff, code, ..] => code >> 3 == 0b00001,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::frames::{
        head::{DATA, HEADERS},
        reader::{FrameObserver, FrameReader},
    };
    use std::convert::Infallible;

    #[derive(Default)]
    struct Observer {
        data: Vec<usize>,
        interim: bool,
        frames: u32,
    }

    impl FrameObserver for Observer {
        type Error = Infallible;

        fn head(&mut self, head: FrameHead, _: usize) -> Result<usize, Infallible> {
            self.frames += 1;
            if head.kind == DATA {
                self.data.push(head.length);
            }
            Ok(if head.kind == HEADERS { wanted(head) } else { 0 })
        }

        fn payload(&mut self, head: FrameHead, start: &[u8]) -> usize {
            self.interim |= may_be_interim(head, start);
            0
        }
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// In reads of each size, between frames of other kinds.
    #[track_caller]
    fn check(flags: u8, block: &[u8], expect: bool) {
        let other =
            [frame(4, 0, &[0; 12]), frame(0, 0, &[0x48; 100]), frame(0, 1, &[]), frame(1, 4, &[0x88, 0x48, 3, b'1'])];
        let bytes = [other.concat(), frame(HEADERS, flags, block), other.concat()].concat();
        for size in 1..=bytes.len() {
            let mut reader = FrameReader::new(0, Observer::default());
            for chunk in bytes.chunks(size) {
                if !reader.pass_over(chunk.len()) {
                    let Ok(()) = reader.follow(chunk);
                }
            }
            let Observer { data, interim, frames } = reader.observer;
            assert_eq!(data, [100, 0, 100, 0], "{block:x?} by {size}");
            assert_eq!(interim, expect, "{block:x?} by {size}");
            assert_eq!(frames, 9, "{block:x?} by {size}");
        }
    }

    #[test]
    fn interim_statuses_are_found_in_each_encoding() {
        for name in [0x08, 0x18, 0x48, 0x4e] {
            check(4, &[name, 3, b'1', b'0', b'3'], true);
            // 103 and 100 in the Huffman code.
            check(4, &[name, 0x82, 0x08, 0x19], true);
            check(4, &[name, 0x82, 0x08, 0x01], true);
        }
        check(4, b"\x00\x07:status\x03103", true);
        check(4, b"\x7e\x03103", true);
        check(4, &[0x3f, 0xe1, 0x1f, 0x48, 3, b'1', b'0', b'3'], true);
        check(4, &[0x20, 0x3f, 0xe1, 0x1f, 0x48, 0x82, 0x08, 0x19], true);
        check(4 | PADDED, &[1, 0x48, 3, b'1', b'0', b'3', 0], true);
        check(4 | HAS_PRIORITY, &[0, 0, 0, 0, 16, 0x48, 3, b'1', b'0', b'3'], true);
        // The rest is in CONTINUATION.
        check(0, &[], true);
        check(0, &[0x48], true);
    }

    #[test]
    fn final_statuses_and_trailers_are_not_interim() {
        for indexed in [0x88, 0x8e, 0xbe, 0xff] {
            check(4, &[indexed], false);
            check(4, &[0x20, indexed], false);
            check(4, &[0x3f, 0xe1, 0x1f, indexed, 0x48, 3, b'1'], false);
        }
        for status in [b"201", b"301", b"403", b"503"] {
            check(4, &[&[0x48, 3], &status[..]].concat(), false);
        }
        // 201, 302, 429 and 503 in the Huffman code.
        for code in [&[0x82, 0x10, 0x03][..], &[0x82, 0x64, 0x02], &[0x83, 0x68, 0x4f, 0xff], &[0x83, 0x6c, 0x0c, 0xff]]
        {
            check(4, &[&[0x48], code].concat(), false);
        }
        check(5, b"\x40\x0bgrpc-status\x010", false);
        check(5, &[0x48, 3, b'1', b'0', b'3'], false);
    }
}
