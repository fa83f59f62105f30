//! The counts that h2 keeps over a connection's life, as far as its writes show them.
//!
//! h2 resets streams for errors of their peer. It bears a number of them, and then ends the connection with all that is open
//! on it. It tells neither the number nor each of them: a frame that comes late on a stream that it has forgotten belongs to
//! no stream. And the numbers of streams end at 2^31 (RFC 9113 section 5.1.1): requests that find none left fail. Nor does it
//! tell of the requests that it answers with 431 by itself.

use crate::{
    connection::{
        frames::{
            head::{DATA, END_STREAM, FrameHead, HEADERS, RST_STREAM},
            reader::{FrameObserver, FrameReader},
        },
        state::ConnectionState,
    },
    stats::{Observe, ProxyError, record_refused},
};
use http::{StatusCode, Version};
use std::{convert::Infallible, sync::Arc};

/// Notes the frames that are written on one connection on its state.
#[derive(Debug)]
pub(crate) struct EngineCounts {
    connection_state: Arc<ConnectionState>,
    /// Observes the requests that h2 refuses. `None`: they are not recorded.
    observe: Option<Arc<dyn Observe>>,
    /// Whether h2 has answered a request with 431.
    has_refused_head: bool,
}

/// Streams that are opened above this one are among the last: as many as requests may need while a connection is replaced.
const LAST_STREAMS: u32 = (1 << 31) - (1 << 20);
/// The length of an error code, which is the payload of RST_STREAM (RFC 9113 section 6.4).
const CODE: usize = 4;
/// The field block of h2's own 431, which has no other field: a literal that goes into HPACK's table (RFC 7541 section 6.2.1).
const TOO_LARGE: [u8; 5] = [0x48, 0x83, 0x69, 0x90, 0xff];
/// The least byte of a field of HPACK's dynamic table (RFC 7541 section 6.1), as which the next ones have it.
const DYNAMIC_FIELD: u8 = 0x80 | 62;
// RFC 9113 section 7.
const PROTOCOL_ERROR: u8 = 0x1;
const FLOW_CONTROL_ERROR: u8 = 0x3;
const STREAM_CLOSED: u8 = 0x5;

// === impl EngineCounts ===

impl EngineCounts {
    /// A reader for a connection whose first frame is written after `before` bytes.
    pub(crate) fn reader(
        before: usize,
        connection_state: &Arc<ConnectionState>,
        observe: Option<Arc<dyn Observe>>,
    ) -> FrameReader<Self> {
        let connection_state = Arc::clone(connection_state);
        FrameReader::new(before, Self { connection_state, observe, has_refused_head: false })
    }

    fn head_refused(&mut self) {
        self.has_refused_head = true;
        self.connection_state.count_head_too_large();
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        record_refused(self.observe.as_ref(), Version::HTTP_2, status, ProxyError::HeadTooLarge);
    }
}

impl FrameReader<EngineCounts> {
    /// Counts the frames in `bytes`, which were written.
    #[inline]
    pub(crate) fn wrote(&mut self, bytes: &[u8]) {
        if !self.pass_over(bytes.len()) {
            self.wrote_frames(bytes);
        }
    }

    #[inline(never)]
    fn wrote_frames(&mut self, bytes: &[u8]) {
        let Ok(()) = self.follow(bytes);
    }
}

impl FrameObserver for EngineCounts {
    type Error = Infallible;

    #[inline(always)]
    fn head(&mut self, head: FrameHead, _: usize) -> Result<usize, Infallible> {
        Ok(match head.kind {
            DATA => {
                self.connection_state.path().add_peer_connection_window(-(head.length as i64));
                0
            }
            HEADERS => {
                if head.stream > LAST_STREAMS {
                    self.connection_state.set_last_streams();
                }
                let is_status_alone = head.length <= TOO_LARGE.len() && head.flags & END_STREAM != 0;
                if is_status_alone { head.length } else { 0 }
            }
            RST_STREAM => CODE,
            _ => 0,
        })
    }

    #[inline(always)]
    fn payload(&mut self, head: FrameHead, bytes: &[u8]) -> usize {
        match (head.kind, bytes) {
            (RST_STREAM, [_, _, _, PROTOCOL_ERROR | FLOW_CONTROL_ERROR | STREAM_CLOSED]) => {
                self.connection_state.engine_reset();
            }
            (HEADERS, bytes) if *bytes == TOO_LARGE => self.head_refused(),
            // Or another status without any field, which has not been seen on one connection with these.
            (HEADERS, [DYNAMIC_FIELD..=u8::MAX]) if self.has_refused_head => self.head_refused(),
            _ => {}
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
            let connection_state = ConnectionState::new(&Arc::default());
            let mut counts = EngineCounts::reader("preface".len(), &connection_state, None);
            all.chunks(size).for_each(|chunk| counts.wrote(chunk));
            let nears = [3, 4].map(|resets| connection_state.nears_engine_limit(resets, u64::MAX));
            assert_eq!(nears, [true, false], "{size}");
            assert!(!connection_state.has_few_streams_left());
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
            let connection_state = ConnectionState::new(&Arc::default());
            EngineCounts::reader(0, &connection_state, None).wrote(&frame);
            assert_eq!(connection_state.has_few_streams_left(), last);
        }
    }
}
