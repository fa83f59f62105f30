//! Tells, by the first bytes of its frames, that an endpoint sends interim responses, and how many frames there are.
//!
//! h2 passes over them where nobody asks, and to ask takes its lock. Most endpoints never send one, so their requests need
//! not ask.

use crate::connection::frames::empty_data::{EmptyData, may_be_empty};
use std::mem;

/// Follows the frames of one connection.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// What is to come of a frame that says nothing more.
    left: usize,
    /// The start of a frame.
    start: [u8; START],
    len: usize,
    empty_data: EmptyData,
}

/// What there was in one read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scanned {
    /// Frames that began.
    pub(crate) frames: u32,
    /// One of them may be an interim response. Some final ones look like it, too.
    pub(crate) interim: bool,
    /// One of them begins a response, or its trailers, or is a GOAWAY that promises some.
    pub(crate) heads: bool,
    /// DATA frames of padding alone.
    pub(crate) padding_alone: u32,
    /// Empty DATA frames, which may be taken out.
    pub(crate) empty: u32,
}

/// A frame's head, and of a block of fields enough to tell its status.
const START: usize = HEAD + 8;
// RFC 9113 sections 4.1 and 6.2.
const HEAD: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

// === impl Scan ===

impl Scan {
    /// Goes on with what was read. `data` is told the length of each DATA frame.
    pub(crate) fn read(&mut self, mut bytes: &[u8], mut data: impl FnMut(usize)) -> Scanned {
        let mut scanned = Scanned::default();
        let all = bytes.len();
        self.empty_data.clear();
        loop {
            let Some(rest) = bytes.get(self.left..) else {
                self.left -= bytes.len();
                return scanned;
            };
            bytes = rest;
            self.left = 0;
            let (start, known) = if self.len == 0
                && let Some(start) = bytes.first_chunk()
            {
                (start, START)
            } else {
                let taken = bytes.len().min(START - self.len);
                self.start[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
                (&self.start, self.len + taken)
            };
            let frame = match look(start, known) {
                Looked::Headers { frame, interim } => {
                    let [_, _, _, kind, flags, a, b, c, d, ..] = *start;
                    match kind {
                        HEADERS => {
                            scanned.heads = true;
                            self.empty_data.headers(flags, [a, b, c, d]);
                        }
                        _ => self.empty_data.continuation(flags),
                    }
                    scanned.interim |= interim;
                    frame
                }
                Looked::Data { frame, padding_alone } => {
                    let [_, _, _, _, flags, a, b, c, d, ..] = *start;
                    let end = all - bytes.len() + HEAD - self.len;
                    if frame == HEAD && self.empty_data.empty(flags, [a, b, c, d], end) {
                        scanned.empty += 1;
                    } else {
                        scanned.padding_alone += u32::from(padding_alone);
                        data(frame - HEAD);
                    }
                    frame
                }
                Looked::GoAway { frame, last } => {
                    scanned.heads |= last;
                    frame
                }
                Looked::Other(frame) => frame,
                Looked::More => {
                    self.len += bytes.len();
                    return scanned;
                }
            };
            scanned.frames += 1;
            self.left = frame - mem::take(&mut self.len);
        }
    }

    /// The empty DATA frames in what was read last.
    pub(crate) fn empty_data(&mut self) -> &mut EmptyData {
        &mut self.empty_data
    }

    /// How many bytes at the end of what was read last begin what may be an empty DATA frame.
    pub(crate) fn may_begin_empty(&self) -> usize {
        if self.len < HEAD && may_be_empty(&self.start[..self.len]) { self.len } else { 0 }
    }
}

enum Looked {
    /// HEADERS or CONTINUATION of so many bytes, which may be an interim response.
    Headers { frame: usize, interim: bool },
    /// DATA of so many, which may be padding alone.
    Data { frame: usize, padding_alone: bool },
    /// GOAWAY of so many, and whether it leaves any stream in.
    GoAway { frame: usize, last: bool },
    /// Something else of so many.
    Other(usize),
    /// What is known does not tell.
    More,
}

/// Looks at the start of a frame, of which so many bytes are known.
fn look(start: &[u8; START], known: usize) -> Looked {
    let [a, b, c, kind, flags, ..] = *start;
    let frame = HEAD + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
    if known < HEAD {
        return Looked::More;
    }
    match kind {
        HEADERS => {}
        CONTINUATION => return Looked::Headers { frame, interim: false },
        DATA if flags & PADDED != 0 && frame > HEAD => {
            if known == HEAD {
                return Looked::More;
            }
            return Looked::Data { frame, padding_alone: frame == HEAD + 1 + usize::from(start[HEAD]) };
        }
        DATA => return Looked::Data { frame, padding_alone: false },
        GOAWAY if frame >= START => {
            return if known < START {
                Looked::More
            } else {
                Looked::GoAway { frame, last: start[HEAD..HEAD + 4] != [0; 4] }
            };
        }
        _ => return Looked::Other(frame),
    }
    // One that ends the stream is final, or trailers.
    if flags & END_STREAM != 0 {
        return Looked::Headers { frame, interim: false };
    }
    let end = frame.min(START);
    if known < end {
        return Looked::More;
    }
    Looked::Headers { frame, interim: flags & (PADDED | PRIORITY) != 0 || is_interim(&start[HEAD..end]) }
}

/// Whether a block of fields may begin with a status below 200 (RFC 7541 section 6).
fn is_interim(mut block: &[u8]) -> bool {
    // The table's new size comes before all fields.
    while let [first @ 0x20..=0x3f, rest @ ..] = block {
        let more = if *first == 0x3f {
            rest.iter().position(|byte| byte & 0x80 == 0).map_or(rest.len(), |at| at + 1)
        } else {
            0
        };
        block = &rest[more..];
    }
    match *block {
        // All of it is in a table: final, or seen when it was put there.
        [0x80..=0xff, ..] => false,
        // `:status`, and a value that begins with 1, in ASCII or in Huffman's code.
        [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, 0..=0x7f, digit, ..] => digit == b'1',
        [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, 0x80..=0xff, code, ..] => code >> 3 == 0b00001,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let mut scan = Scan::default();
            let mut data = Vec::new();
            let scanned: Vec<_> =
                bytes.chunks(size).map(|chunk| scan.read(chunk, |length| data.push(length))).collect();
            assert_eq!(data, [100, 0, 100, 0], "{block:x?} by {size}");
            assert_eq!(scanned.iter().any(|scanned| scanned.interim), expect, "{block:x?} by {size}");
            assert_eq!(scanned.iter().map(|scanned| scanned.frames).sum::<u32>(), 9, "{block:x?} by {size}");
        }
    }

    #[test]
    fn interim_statuses_are_seen_however_they_are_coded() {
        for name in [0x08, 0x18, 0x48, 0x4e] {
            check(4, &[name, 3, b'1', b'0', b'3'], true);
            // 103 and 100 in Huffman's code.
            check(4, &[name, 0x82, 0x08, 0x19], true);
            check(4, &[name, 0x82, 0x08, 0x01], true);
        }
        check(4, b"\x00\x07:status\x03103", true);
        check(4, b"\x7e\x03103", true);
        check(4, &[0x3f, 0xe1, 0x1f, 0x48, 3, b'1', b'0', b'3'], true);
        check(4, &[0x20, 0x3f, 0xe1, 0x1f, 0x48, 0x82, 0x08, 0x19], true);
        check(4 | PADDED, &[1, 0x48, 3, b'1', b'0', b'3', 0], true);
        check(4 | PRIORITY, &[0, 0, 0, 0, 16, 0x48, 3, b'1', b'0', b'3'], true);
        // The rest is in CONTINUATION.
        check(0, &[], true);
        check(0, &[0x48], true);
    }

    #[test]
    fn final_statuses_and_trailers_are_not_taken_for_them() {
        for indexed in [0x88, 0x8e, 0xbe, 0xff] {
            check(4, &[indexed], false);
            check(4, &[0x20, indexed], false);
            check(4, &[0x3f, 0xe1, 0x1f, indexed, 0x48, 3, b'1'], false);
        }
        for status in [b"201", b"301", b"403", b"503"] {
            check(4, &[&[0x48, 3], &status[..]].concat(), false);
        }
        // 201, 302, 429 and 503 in Huffman's code.
        for code in [&[0x82, 0x10, 0x03][..], &[0x82, 0x64, 0x02], &[0x83, 0x68, 0x4f, 0xff], &[0x83, 0x6c, 0x0c, 0xff]]
        {
            check(4, &[&[0x48], code].concat(), false);
        }
        check(5, b"\x40\x0bgrpc-status\x010", false);
        check(5, &[0x48, 3, b'1', b'0', b'3'], false);
    }
}
