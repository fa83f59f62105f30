//! A link between two ends: one-way delay, jitter, bandwidth and a bounded queue, for each direction.
//!
//! A link is a fluid model over bytes: each write takes its bytes' time on the wire, one after the other, then the
//! delay, and is read on the other side when its last byte has arrived. It loses and reorders nothing and knows no
//! congestion control, so measurements over it show the effect of HTTP/2's flow control under delay and bandwidth.

mod pipe;
mod profile;
mod relay;

pub use self::{
    pipe::End,
    profile::{Factors, Profile},
    relay::Relay,
};

use self::pipe::Lane;
use crate::timer::Clock;
use serde::{Deserialize, Serialize};
use std::{io, sync::Arc, time::Duration};

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// How long a byte takes from one end to the other.
    pub delay: Duration,
    /// The most that is added to the delay, at random and evenly; the order of bytes stays.
    pub jitter: Duration,
    /// Bits a second, shared by all connections over the link. `None`: no limit.
    pub bandwidth: Option<u64>,
    /// Bytes that may wait for the wire; then writes wait. Meaningless without a bandwidth.
    pub queue: usize,
    /// How bandwidth and delay change over time.
    pub profile: Profile,
}

/// A link, as many connections may use at once.
#[derive(Clone, Debug)]
pub struct Link {
    up: Arc<Lane>,
    down: Arc<Lane>,
}

// === impl Direction ===

impl Direction {
    /// No delay and no limit.
    pub const DIRECT: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        bandwidth: None,
        queue: 256 << 10,
        profile: Profile::Steady,
    };

    /// Half of a round trip of `rtt`, at `mbits` Mbit/s.
    pub const fn of_round_trip(rtt: Duration, mbits: u64) -> Self {
        Self { delay: rtt.checked_div(2).expect("two is not zero"), bandwidth: Some(mbits * 1_000_000), ..Self::DIRECT }
    }
}

// === impl Link ===

impl Link {
    /// A link whose first ends write `up` and read `down`. Its profiles start now.
    pub fn new(up: Direction, down: Direction, clock: Clock) -> Self {
        Self { up: Arc::new(Lane::new(up, clock)), down: Arc::new(Lane::new(down, clock)) }
    }

    /// A link that is the same in both directions, and as exact as the kernel's timers.
    pub fn symmetric(both: Direction) -> Self {
        Self::new(both, both, Clock::Kernel)
    }

    /// A connection over the link.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors, of which each end takes two.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn pair(&self) -> io::Result<(End, End)> {
        pipe::pair(&self.up, &self.down)
    }

    /// Counts `hops`, the way to and from the link, as a part of its delay in each direction.
    fn count_hops(&self, hops: Duration) {
        self.up.count_hops(hops);
        self.down.count_hops(hops);
    }

    /// Bytes that went up and down so far.
    pub fn carried(&self) -> (u64, u64) {
        (self.up.carried(), self.down.carried())
    }
}

#[cfg(test)]
mod tests;
