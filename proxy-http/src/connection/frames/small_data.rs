//! What small DATA frames of a peer cost its connection for good.
//!
//! h2 charges a connection for each DATA frame of less than 256 bytes until it is read, so that few wait. It never is on a
//! stream that was reset, but h2 charges for it all the same, and when that has added up, it ends the connection. What has
//! added up nobody can ask it.

use crate::connection::streams::{SMALL, Streams, charge};

/// What has added up on one connection.
#[derive(Debug, Default)]
pub(crate) struct SmallDataBudget {
    /// What there was to pay for so far, in bytes.
    charged: u64,
}

// === impl SmallDataBudget ===

impl SmallDataBudget {
    /// A DATA frame of so many bytes has begun.
    pub(crate) fn add(&mut self, length: usize, streams: &Streams) {
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
    fn who_reads_and_who_sends_much_pays() {
        let (mut small_data, streams) = (SmallDataBudget::default(), Streams::default());
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
