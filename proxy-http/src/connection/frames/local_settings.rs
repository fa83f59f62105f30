//! SETTINGS_MAX_HEADER_LIST_SIZE in our SETTINGS, which is less than h2 takes.
//!
//! h2 has one number for both, and a header list above it soon ends the connection with all that is open on it: four times
//! as much after HPACK, or a few CONTINUATIONs. So h2 is given [a larger one](tolerated), messages between the two are
//! answered or reset one by one, and the size that peers are to keep to is put into the first SETTINGS frame as it is
//! written. h2 sends later ones for windows alone.

use crate::{
    connection::{
        frames::head::{END_STREAM, FrameHead, HEAD, HEADERS, SETTING, SETTINGS, SETTINGS_MAX_HEADER_LIST_SIZE},
        state::ConnectionState,
    },
    message::head::FIELD_OVERHEAD,
};

/// The writes of a connection up to the end of its first SETTINGS frame.
#[derive(Debug)]
pub(crate) struct LocalSettings {
    max_header_list: u32,
    /// Bytes to write before the frame.
    before: usize,
    /// The frame. Empty: h2 has not written it.
    frame: Vec<u8>,
    /// Bytes of the frame that are written.
    written: usize,
}

/// The field block that is being read, of which h2 may leave fields out.
#[derive(Debug, Default)]
pub(crate) struct FieldBlock {
    /// Bytes of its frames so far.
    length: usize,
    ends_stream: bool,
}

/// h2 takes this many times the size that is announced.
const TOLERANCE: u32 = 4;
/// The least that h2 takes, in bytes: a field block in three full frames is well within.
const LEAST_TOLERATED: u32 = 64 << 10;
/// The initial SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2).
const DEFAULT_MAX_FRAME: u32 = 16 << 10;
/// The most by which larger frames raise the size, since a list is memory. With frames above 64 KiB h2 takes fewer
/// CONTINUATIONs, but five at least.
const MAX_SCALE: u32 = 4;

/// The largest header list that h2 takes where `announced` is announced, and frames of up to `max_frame`, in bytes as RFC
/// 9113 section 6.5.2 counts them. Above it h2 answers with a 431 of its own or cuts trailers, and may end the connection.
///
/// h2 takes as many CONTINUATIONs as the list needs in frames of the largest size, and a few more. Peers send shorter ones, so
/// that larger frames take a larger list along.
pub(crate) fn tolerated(announced: u32, max_frame: u32) -> u32 {
    let frames = (max_frame / DEFAULT_MAX_FRAME).clamp(1, MAX_SCALE);
    least_tolerated(announced).saturating_mul(frames)
}

/// The [tolerated] list with frames of the default size.
fn least_tolerated(announced: u32) -> u32 {
    announced.saturating_mul(TOLERANCE).max(LEAST_TOLERATED)
}

/// The least bytes of a field block of which h2 leaves fields out while the others are no larger than `announced`. Until now
/// it has taken `announced` at most, so the first field that it leaves out is as large as the rest. Such a
/// field is none of HPACK's table of 4,096 bytes, so it is a literal, and Huffman's code has five bits for a byte at least.
pub(crate) fn least_cut(announced: usize) -> usize {
    let left = match u32::try_from(announced) {
        Ok(size) if size <= u32::MAX / TOLERANCE => least_tolerated(size) - size,
        // h2 takes no more than that, and nobody sends it.
        _ => return usize::MAX,
    };
    (left as usize - FIELD_OVERHEAD) * 5 / 8
}

/// Less than the [least](least_cut) for any size that is announced.
const NEVER_CUT: usize = 16 << 10;

// === impl FieldBlock ===

impl FieldBlock {
    /// HEADERS or CONTINUATION has begun. Notes the stream if its trailers may be cut: h2 does not tell.
    #[inline(always)]
    pub(super) fn frame(&mut self, head: FrameHead, connection_state: &ConnectionState) {
        if head.kind != HEADERS || !head.ends_block() || head.length > NEVER_CUT {
            self.follow(head, connection_state);
        }
    }

    #[cold]
    fn follow(&mut self, head: FrameHead, connection_state: &ConnectionState) {
        if head.kind == HEADERS {
            *self = Self { length: 0, ends_stream: head.flags & END_STREAM != 0 };
        }
        let before = self.length;
        self.length = before.saturating_add(head.length);
        let streams = connection_state.open_streams();
        let least = least_cut(streams.local_max_header_list());
        if self.ends_stream && before < least && self.length >= least {
            streams.note_cut(head.stream);
        }
    }
}

// === impl LocalSettings ===

impl LocalSettings {
    /// For a connection whose first SETTINGS frame is written after `before` bytes.
    pub(crate) fn new(max_header_list: u32, before: usize) -> Self {
        Self { max_header_list, before, frame: Vec::new(), written: 0 }
    }

    /// The bytes to write now: the first of `bytes`, or bytes in their place.
    pub(crate) fn next<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.before > 0 {
            return &bytes[..bytes.len().min(self.before)];
        }
        if self.frame.is_empty() {
            self.frame = self.announce(bytes);
        }
        &self.frame[self.written..]
    }

    /// Notes that `count` of [these](Self::next) were written. True if the frame ends with them.
    pub(crate) fn wrote(&mut self, count: usize) -> bool {
        if self.before > 0 {
            self.before -= count;
            return false;
        }
        self.written += count;
        self.written == self.frame.len()
    }

    /// The frame at the start of `bytes`, which h2 writes in one piece, with our size in it.
    fn announce(&self, bytes: &[u8]) -> Vec<u8> {
        let head = bytes.first_chunk().map(|head| FrameHead::from_bytes(*head));
        let head = head.filter(|head| head.kind == SETTINGS);
        let Some(frame) = head.and_then(|head| bytes.get(..HEAD + head.length)) else {
            debug_assert!(bytes.is_empty(), "the first frame is SETTINGS, and whole");
            return bytes.to_vec();
        };
        let mut frame = frame.to_vec();
        for setting in frame[HEAD..].chunks_exact_mut(SETTING) {
            if setting.starts_with(&SETTINGS_MAX_HEADER_LIST_SIZE) {
                setting[2..].copy_from_slice(&self.max_header_list.to_be_bytes());
            }
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_replaced_in_writes_of_any_size() {
        let before = b"preface";
        let settings = [&[0, 0, 12, SETTINGS, 0, 0, 0, 0, 0][..], &[0, 4, 0, 6, 0, 6], &[0, 6, 0, 1, 0, 0]].concat();
        let after = b"frames behind it";
        let all = [&before[..], &settings, after].concat();
        let announced = [&settings[..HEAD + 8], &1_000_u32.to_be_bytes()].concat();
        for most in 1..all.len() {
            let mut local = Some(LocalSettings::new(1_000, before.len()));
            let (mut written, mut left) = (Vec::new(), &all[..]);
            while !left.is_empty() {
                let next = local.as_mut().map_or(left, |local| local.next(left));
                let count = next.len().min(most);
                written.extend_from_slice(&next[..count]);
                left = &left[count..];
                local.take_if(|local| local.wrote(count));
            }
            assert!(written == [&before[..], &announced, after].concat(), "{most}");
        }
    }

    #[test]
    fn h2_takes_four_times_as_much_and_64_kib_at_least() {
        for (announced, taken) in [(1, 1 << 16), (16 << 10, 1 << 16), (64 << 10, 1 << 18), (u32::MAX, u32::MAX)] {
            assert_eq!(tolerated(announced, 16 << 10), taken);
        }
    }

    #[test]
    fn larger_frames_leave_as_many_continuations() {
        for (max_frame, taken) in [(16_384, 1 << 18), (20_000, 1 << 18), (32 << 10, 1 << 19), (64 << 10, 1 << 20)] {
            assert_eq!(tolerated(64 << 10, max_frame), taken);
        }
        assert_eq!(tolerated(64 << 10, (1 << 24) - 1), 1 << 20, "memory is bounded");
    }
}
