//! The one reader of frames beside h2: of the bytes of one direction of a connection, in pieces of any size.
//!
//! h2 answers or drops most frames by itself, and does not tell. So each direction has a reader with an observer:
//! [`FrameRates`] counts the frames of a client, [`EndpointFrames`] notes the frames of an endpoint, and [`EngineCounts`]
//! counts the frames that h2 writes. The reader parses each head, and hands on the first bytes of a payload in the pieces
//! that its observer asks for.
//! The rest is passed over, which for a read or write within a payload is a compare and a subtract.
//!
//! [`FrameRates`]: super::rate::FrameRates
//! [`EndpointFrames`]: super::endpoint::EndpointFrames
//! [`EngineCounts`]: super::engine_counts::EngineCounts

use crate::connection::frames::head::{FrameHead, HEAD};

/// Counts or notes the frames of one direction.
pub(crate) trait FrameObserver {
    /// Ends the reading. Nothing is read afterwards.
    type Error;

    /// A head has come, which ends after `end` of the bytes that are read now. Returns the number of bytes, [`MAX_PIECE`] at
    /// most, that [`payload`](Self::payload) gets from the start of the payload.
    fn head(&mut self, head: FrameHead, end: usize) -> Result<usize, Self::Error>;

    /// The bytes that were asked for, or as many as the payload has. Returns the number of bytes that the next call gets.
    fn payload(&mut self, _: FrameHead, _: &[u8]) -> usize {
        0
    }

    /// The last byte of the preface or of a frame has come.
    fn end(&mut self) {}
}

/// Reads frames for an observer.
#[derive(Debug)]
pub(crate) struct FrameReader<O> {
    pub(crate) observer: O,
    /// Bytes of the preface or of a payload that are passed over before the next head.
    left: usize,
    /// The bytes that have come of a head, or of the piece of a payload.
    part: [u8; HEAD],
    part_len: usize,
    /// The piece of a payload that has not come. `None`: a head is next, behind the bytes that are left.
    piece: Option<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    head: FrameHead,
    len: usize,
    /// Bytes of payload behind it.
    left: usize,
}

/// The most bytes of a payload that an observer gets at once.
pub(crate) const MAX_PIECE: usize = 8;

// === impl FrameReader ===

impl<O: FrameObserver> FrameReader<O> {
    /// For a direction whose first frame comes after `before` bytes.
    pub(crate) fn new(before: usize, observer: O) -> Self {
        Self { observer, left: before, part: [0; HEAD], part_len: 0, piece: None }
    }

    /// Goes on behind `count` bytes if all of them belong to a payload, or the preface, that is passed over. If not, returns
    /// false, and they are to be [followed](Self::follow).
    #[inline]
    pub(crate) fn pass_over(&mut self, count: usize) -> bool {
        if self.left == 0 || count > self.left {
            return false;
        }
        self.left -= count;
        if self.left == 0 {
            self.observer.end();
        }
        true
    }

    /// Goes on with `bytes`, which are not all [passed over](Self::pass_over).
    #[inline(always)]
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<(), O::Error> {
        let mut rest = &bytes[self.left..];
        if self.left > 0 {
            self.left = 0;
            self.observer.end();
        } else if self.part_len > 0 || self.piece.is_some() {
            let Some(after) = self.end_part(rest)? else { return Ok(()) };
            rest = after;
        }
        while let Some((head, after)) = rest.split_first_chunk() {
            let head = FrameHead::from_bytes(*head);
            let wanted = self.observer.head(head, bytes.len() - after.len())?;
            let Some(after) = self.payload(head, wanted, head.length, after) else { return Ok(()) };
            rest = after;
        }
        if !rest.is_empty() {
            self.keep(rest);
        }
        Ok(())
    }

    /// The bytes of a head that has come in part. Empty: there is none.
    pub(crate) fn head_part(&self) -> &[u8] {
        if self.piece.is_none() { &self.part[..self.part_len] } else { &[] }
    }

    /// Goes on in a payload, of which `left` bytes are to come, and `bytes` have. Returns the bytes behind it, or `None` if
    /// it does not end in these.
    #[inline(always)]
    fn payload<'a>(
        &mut self,
        head: FrameHead,
        mut wanted: usize,
        mut left: usize,
        mut bytes: &'a [u8],
    ) -> Option<&'a [u8]> {
        while wanted > 0 {
            let len = wanted.min(left);
            left -= len;
            let Some((piece, after)) = bytes.split_at_checked(len) else {
                self.piece = Some(Piece { head, len, left });
                self.keep(bytes);
                return None;
            };
            wanted = self.observer.payload(head, piece);
            bytes = after;
            if left == 0 {
                break;
            }
        }
        let Some(after) = bytes.get(left..) else {
            self.left = left - bytes.len();
            return None;
        };
        self.observer.end();
        Some(after)
    }

    /// Completes the head or the piece that began in earlier bytes. Returns the bytes behind the frame, or `None` if it does
    /// not end in these.
    #[cold]
    fn end_part<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, O::Error> {
        let len = self.piece.map_or(HEAD, |piece| piece.len);
        let Some((rest_of_part, after)) = bytes.split_at_checked(len - self.part_len) else {
            self.keep(bytes);
            return Ok(None);
        };
        self.keep(rest_of_part);
        self.part_len = 0;
        let (head, wanted, left) = match self.piece.take() {
            None => {
                let head = FrameHead::from_bytes(self.part);
                (head, self.observer.head(head, rest_of_part.len())?, head.length)
            }
            Some(Piece { head, len, left }) => {
                let wanted = self.observer.payload(head, &self.part[..len]);
                (head, if left > 0 { wanted } else { 0 }, left)
            }
        };
        Ok(self.payload(head, wanted, left, after))
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.part[self.part_len..][..bytes.len()].copy_from_slice(bytes);
        self.part_len += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::frames::head::{DATA, PING, SETTING, SETTINGS};
    use std::{convert::Infallible, mem};

    /// Asks for whole settings, for a byte of DATA, and for nothing of others.
    #[derive(Default)]
    struct Log {
        frames: Vec<(u8, Vec<Vec<u8>>)>,
        ended: usize,
        ends: Vec<usize>,
    }

    impl FrameObserver for Log {
        type Error = Infallible;

        fn head(&mut self, head: FrameHead, end: usize) -> Result<usize, Infallible> {
            assert_eq!(head.stream, 3);
            self.frames.push((head.kind, Vec::new()));
            self.ends.push(end);
            Ok(match head.kind {
                SETTINGS => SETTING,
                DATA => 1,
                _ => 0,
            })
        }

        fn payload(&mut self, head: FrameHead, bytes: &[u8]) -> usize {
            self.frames.last_mut().unwrap().1.push(bytes.to_vec());
            if head.kind == SETTINGS { SETTING } else { 0 }
        }

        fn end(&mut self) {
            self.ended += 1;
        }
    }

    #[test]
    fn frames_are_read_in_pieces_of_any_size() {
        let frame = |kind, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 0, 0x80, 0, 0, 3][..], payload].concat();
        let all = [
            b"preface".to_vec(),
            frame(SETTINGS, b"abcdefghijklmn"),
            frame(PING, &[0; 8]),
            frame(DATA, b"data"),
            frame(DATA, b""),
            frame(SETTINGS, b""),
            frame(DATA, b"x"),
        ];
        let heads = [16, 39, 56, 69, 78, 87];
        let all = all.concat();
        let pieces = |pieces: &[&str]| pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect::<Vec<_>>();
        for size in 1..=all.len() {
            let mut reader = FrameReader::new("preface".len(), Log::default());
            let mut ends = Vec::new();
            for (index, chunk) in all.chunks(size).enumerate() {
                for bytes in [&[], chunk] {
                    if !reader.pass_over(bytes.len()) {
                        let Ok(()) = reader.follow(bytes);
                    }
                }
                ends.extend(mem::take(&mut reader.observer.ends).iter().map(|end| index * size + end));
            }
            let expected = [
                (SETTINGS, pieces(&["abcdef", "ghijkl", "mn"])),
                (PING, Vec::new()),
                (DATA, pieces(&["d"])),
                (DATA, pieces(&[""])),
                (SETTINGS, pieces(&[""])),
                (DATA, pieces(&["x"])),
            ];
            assert_eq!(reader.observer.frames, expected, "{size}");
            assert_eq!(reader.observer.ended, 1 + expected.len(), "{size}");
            assert_eq!(ends, heads, "{size}");
        }
        for known in 1..HEAD {
            let mut reader = FrameReader::new(0, Log::default());
            let Ok(()) = reader.follow(&frame(DATA, b"")[..known]);
            assert_eq!(reader.head_part().len(), known);
        }
    }
}
