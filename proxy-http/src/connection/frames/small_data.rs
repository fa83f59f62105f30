//! DATA that costs its connection for good.
//!
//! h2 charges a connection for each DATA frame of less than 256 bytes until it is read, so that few wait. DATA on a stream
//! that was reset is never read, but h2 charges for it all the same, and when that has added up, it ends the connection.
//! DATA frames of padding alone it counts, too, and never forgets. It tells neither sum.

use crate::connection::{
    frames::head::FrameHead,
    state::ConnectionState,
    streams::{SMALL, Streams, charge},
};

/// The small DATA of one connection's peer.
#[derive(Debug, Default)]
pub(crate) struct SmallDataBudget {
    /// The charges so far, in bytes, less the credit of larger frames.
    charged: u64,
}

// === impl SmallDataBudget ===

impl SmallDataBudget {
    /// A DATA frame begins. Returns the number of bytes of its payload that [`padding`](Self::padding) needs.
    #[inline]
    pub(super) fn data(&mut self, head: FrameHead, connection_state: &ConnectionState) -> usize {
        connection_state.path().received(head.length);
        connection_state.open_streams().frame(head.length);
        self.add(head.length, connection_state.open_streams());
        usize::from(head.has_padding())
    }

    /// The first byte of the payload of padded DATA, which is the length of the padding.
    pub(super) fn padding(head: FrameHead, length: u8, connection_state: &ConnectionState) {
        if usize::from(length) + 1 == head.length {
            connection_state.padding_alone();
        }
    }

    fn add(&mut self, length: usize, streams: &Streams) {
        self.charged += charge(length);
        if let Some(more) = length.checked_sub(SMALL) {
            self.charged = self.charged.saturating_sub(more as u64).max(streams.paid());
        }
        streams.set_charged(self.charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_and_large_frames_pay() {
        let (mut small_data, streams) = (SmallDataBudget::default(), Streams::new(&std::sync::Arc::default()));
        for _ in 0..10 {
            small_data.add(6, &streams);
        }
        assert_eq!(streams.owed(), 2_500);
        streams.pay(charge(6));
        assert_eq!(streams.owed(), 2_250);
        small_data.add(1_256, &streams);
        assert_eq!(streams.owed(), 1_250);
        small_data.add(16_384, &streams);
        assert_eq!(streams.owed(), 0);
        small_data.add(6, &streams);
        assert_eq!(streams.owed(), 250, "nobody pays ahead");
    }
}
