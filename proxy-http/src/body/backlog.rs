//! Frames received under backpressure, before the reader asks for them.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::collections::VecDeque;

/// Received frames in their order, with small ones merged.
///
/// A DATA frame shares the buffer that the connection was read into, and keeps all of it allocated, with the frames of other
/// streams. Each frame kept in h2 also costs as much as 256 bytes. So small frames are copied into one buffer. h2 reuses a
/// buffer that a large frame was read into, so the largest frame of the connection decides which ones are small.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    whole: VecDeque<Bytes>,
    /// Small frames merged, received after all of `whole`.
    small: BytesMut,
    /// The bytes of both.
    bytes: usize,
    /// The error that ended the stream after the data.
    pub(crate) failed: Option<h2::Error>,
    /// The trailers that ended the stream. `None`: there were none, or they have not been received from h2.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Frames of fewer bytes are copied, whatever has come: half of h2's buffer for a frame of the default size.
const SMALL: usize = 8 << 10;

// === impl Backlog ===

impl Backlog {
    /// Adds a frame of a connection whose largest has `largest_frame` bytes.
    pub(crate) fn push(&mut self, data: Bytes, largest_frame: usize) {
        self.bytes += data.len();
        if data.len() < SMALL.max(largest_frame / 2) {
            self.small.extend_from_slice(&data);
            return;
        }
        if !self.small.is_empty() {
            self.whole.push_back(self.small.split().freeze());
        }
        self.whole.push_back(data);
    }

    /// Bytes of DATA.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.is_before_end() && self.trailers.is_none()
    }

    /// Whether data or an error is left, which comes before the trailers.
    pub(crate) fn is_before_end(&self) -> bool {
        !self.whole.is_empty() || !self.small.is_empty() || self.failed.is_some()
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let data = self.whole.pop_front().or_else(|| (!self.small.is_empty()).then(|| self.small.split().freeze()))?;
        self.bytes -= data.len();
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_order_and_small_frames_are_merged() {
        let mut backlog = Backlog::default();
        let sizes = [1, 2, SMALL, SMALL - 1, 3, 2 * SMALL, SMALL, 5];
        for (byte, size) in (b'a'..).zip(sizes) {
            backlog.push(vec![byte; size].into(), 2 * SMALL);
        }
        let popped: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        let lengths: Vec<_> = popped.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [3, SMALL, SMALL + 2, 2 * SMALL, SMALL, 5]);
        let expected: Vec<u8> = (b'a'..).zip(sizes).flat_map(|(byte, size)| vec![byte; size]).collect();
        assert_eq!(popped.concat(), expected);
        backlog.push("more".into(), 0);
        assert_eq!(backlog.pop().unwrap(), "more");
    }

    #[test]
    fn a_frame_that_may_lie_in_a_much_larger_buffer_is_copied() {
        let frame = Bytes::from(vec![0; 2 * SMALL]);
        for (largest_frame, is_copied) in [(0, false), (2 * SMALL, false), (4 * SMALL, false), (8 * SMALL, true)] {
            let mut backlog = Backlog::default();
            backlog.push(frame.clone(), largest_frame);
            assert_eq!(backlog.pop().unwrap().as_ptr() != frame.as_ptr(), is_copied, "{largest_frame}");
        }
    }

    #[test]
    fn a_window_of_one_byte_frames_takes_no_more_than_its_bytes() {
        let mut backlog = Backlog::default();
        for _ in 0..65_535 {
            backlog.push(Bytes::from_static(b"x"), 1);
        }
        assert!(backlog.small.capacity() <= 64 << 10, "{}", backlog.small.capacity());
        assert!(backlog.whole.is_empty());
    }
}
