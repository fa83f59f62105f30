//! Data that was received for a reader that has stopped.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::collections::VecDeque;

/// Frames in their order, the small ones put together: each costs h2 as much as 256 bytes, and keeps the buffer that it
/// was read into from being freed, with what came for other streams.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    whole: VecDeque<Bytes>,
    /// What came after those.
    small: BytesMut,
    /// What ended the stream after all of them.
    pub(crate) failed: Option<h2::Error>,
    /// The trailers that ended the stream. `None`: there were none, or they have not been taken from h2.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Frames of fewer bytes are copied: half of what h2 reads into at a time.
const SMALL: usize = 8 << 10;

// === impl Backlog ===

impl Backlog {
    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
            return;
        }
        if !self.small.is_empty() {
            self.whole.push_back(self.small.split().freeze());
        }
        self.whole.push_back(data);
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.is_before_end() && self.trailers.is_none()
    }

    /// Whether data or an error comes before the end of the stream.
    pub(crate) fn is_before_end(&self) -> bool {
        !self.whole.is_empty() || !self.small.is_empty() || self.failed.is_some()
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        self.whole.pop_front().or_else(|| (!self.small.is_empty()).then(|| self.small.split().freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_order_and_small_ones_become_one() {
        let mut backlog = Backlog::default();
        let sizes = [1, 2, SMALL, SMALL - 1, 3, 2 * SMALL, SMALL, 5];
        for (byte, size) in (b'a'..).zip(sizes) {
            backlog.push(vec![byte; size].into());
        }
        let popped: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        let lengths: Vec<_> = popped.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [3, SMALL, SMALL + 2, 2 * SMALL, SMALL, 5]);
        let expected: Vec<u8> = (b'a'..).zip(sizes).flat_map(|(byte, size)| vec![byte; size]).collect();
        assert_eq!(popped.concat(), expected);
        backlog.push("more".into());
        assert_eq!(backlog.pop().unwrap(), "more");
    }

    #[test]
    fn a_window_of_single_bytes_takes_its_size() {
        let mut backlog = Backlog::default();
        for _ in 0..65_535 {
            backlog.push(Bytes::from_static(b"x"));
        }
        assert!(backlog.small.capacity() <= 64 << 10, "{}", backlog.small.capacity());
        assert!(backlog.whole.is_empty());
    }
}
