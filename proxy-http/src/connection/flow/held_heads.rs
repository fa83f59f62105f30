//! The heads of requests that one connection of HTTP/2 holds.
//!
//! A field of a header block may be one byte on the wire, a reference to HPACK's table (RFC 7541 section 6.1), so that a
//! client which sends little has the proxy hold much for each of its streams. The limit of one header list bounds each head,
//! and not their sum, which [`BufferLimit`] bounds: heads are counted until their responses begin, and are then dropped.

use crate::{
    connection::{
        flow::{buffer_limit::BufferLimit, sending::SendingStream},
        state::ConnectionState,
    },
    message::answer::Answer,
};
use std::sync::Arc;

/// The share of the limit that the heads of one connection have taken.
#[derive(Debug)]
pub(crate) struct HeldHeads {
    buffers: Arc<BufferLimit>,
    connection_state: Arc<ConnectionState>,
    taken: usize,
}

/// Bytes of memory for each byte of a header list: the fields as received, and their copy for a retry.
const MEMORY: usize = 2;
/// Bytes that each connection may hold without taking any of the limit. Most connections never hold more.
const FREE: usize = 64 << 10;
/// Bytes that are taken and given back at once, so that connections seldom touch the count that they share.
const STEP: usize = 64 << 10;

// === impl HeldHeads ===

impl HeldHeads {
    pub(crate) fn new(buffers: Arc<BufferLimit>, connection_state: Arc<ConnectionState>) -> Self {
        Self { buffers, connection_state, taken: 0 }
    }

    /// Counts the head of a request, whose header list has `size` bytes, until `stream` drops it. If the limit has no room
    /// for it, returns the answer to the request.
    pub(crate) fn hold(&mut self, size: usize, stream: &mut SendingStream) -> Option<Answer> {
        let bytes = MEMORY * size;
        let held = self.connection_state.heads() + bytes;
        if held > FREE + self.taken {
            let wanted = (held - FREE).next_multiple_of(STEP) - self.taken;
            if !self.buffers.take_heads(self.taken, wanted) {
                // 503 invites other clients to send their requests again, since nothing of them was done.
                let is_largest = self.buffers.is_large_share(self.taken);
                return Some(if is_largest { Answer::heads_too_large() } else { Answer::no_room_for_heads() });
            }
            self.taken += wanted;
        }
        stream.hold_head(bytes);
        None
    }

    /// Gives back the bytes beyond the heads that are held now.
    pub(crate) fn trim(&mut self) {
        if self.taken == 0 {
            return;
        }
        let needed = self.connection_state.heads().saturating_sub(FREE).next_multiple_of(STEP);
        // A step more is kept, or a request at its edge would give back and take for each other request.
        if needed == 0 || needed + STEP < self.taken {
            self.buffers.give_back_heads(self.taken - needed, needed == 0);
            self.taken = needed;
        }
    }
}

impl Drop for HeldHeads {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.buffers.give_back_heads(self.taken, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn connection(buffers: &Arc<BufferLimit>) -> (HeldHeads, Arc<ConnectionState>) {
        let state = ConnectionState::new(&Arc::default());
        (HeldHeads::new(Arc::clone(buffers), Arc::clone(&state)), state)
    }

    /// Streams with heads of `size` bytes, as many as there is room for, 10,000 at most, and the first answer.
    fn fill(
        (heads, state): &mut (HeldHeads, Arc<ConnectionState>),
        size: usize,
    ) -> (Vec<SendingStream>, Option<Answer>) {
        let mut streams = Vec::new();
        for _ in 0..10_000 {
            let mut stream = SendingStream::new(state, None);
            if let Some(answer) = heads.hold(size, &mut stream) {
                return (streams, Some(answer));
            }
            streams.push(stream);
        }
        (streams, None)
    }

    #[test]
    fn connections_with_the_largest_shares_are_turned_away_and_leave_room() {
        let buffers = Arc::new(BufferLimit::new(256 * MIB));
        let mut many: Vec<_> = (0..250).map(|_| connection(&buffers)).collect();
        let held: Vec<_> = many.iter_mut().map(|connection| fill(connection, 16 << 10)).collect();
        assert!(held.iter().all(|(_, answer)| answer.is_some()));
        assert_eq!(held[0].1, Some(Answer::heads_too_large()), "its share is the largest");
        assert_eq!(held[249].1, Some(Answer::no_room_for_heads()), "others have taken all");
        let bytes: usize = held.iter().map(|(streams, _)| streams.len() * MEMORY * (16 << 10)).sum();
        assert!((64 * MIB..=144 * MIB).contains(&bytes), "{bytes}");
        assert!(buffers.heads() <= 128 * MIB);
        // A client with usual requests beside them.
        let mut other = connection(&buffers);
        assert!(fill(&mut other, 300).0.len() >= 100);
        drop((held, many));
        assert_eq!(buffers.heads(), 0, "all is given back");
    }

    #[test]
    fn a_single_connection_may_have_all_its_streams_with_the_largest_heads() {
        let mut alone = connection(&Arc::new(BufferLimit::new(256 * MIB)));
        assert!(fill(&mut alone, 16 << 10).0.len() >= 200);
    }

    #[test]
    fn heads_that_are_dropped_give_their_bytes_back() {
        let buffers = Arc::new(BufferLimit::new(256 * MIB));
        let mut one = connection(&buffers);
        let (mut streams, _) = fill(&mut one, 16 << 10);
        one.0.trim();
        let full = buffers.heads();
        streams.truncate(10);
        // The response of one has begun.
        streams[0].drop_head();
        one.0.trim();
        assert!(0 < buffers.heads() && buffers.heads() < full / 10, "{}", buffers.heads());
        streams.clear();
        one.0.trim();
        assert_eq!((buffers.heads(), one.1.heads()), (0, 0));
    }
}
