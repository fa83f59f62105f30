//! The limits of one client's cost.

use crate::{
    params::nanos,
    range::{OutOfRange, Setting},
};
use std::time::Duration;

/// Bounds on one client's connection, so that its abuse does not cost other clients.
///
/// No client that behaves comes near them. One that goes beyond is told by GOAWAY, where it speaks HTTP/2 by then, and
/// its connection is closed with all that is open on it; other connections are not touched.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Protection {
    /// How long a client may take from when its connection is made until its preface and its first frame, which is
    /// SETTINGS, have come (RFC 9113 section 3.4); above zero. It may then be silent for as long as it likes, or as
    /// [`ServerParams::max_connection_idle`](crate::ServerParams::max_connection_idle) lets it. Default: 10 s.
    pub handshake_timeout: Duration,
    /// How long a client may take over one header block, from the head of its HEADERS frame to the last byte of the
    /// frame that ends it (RFC 9113 section 4.3); above zero, and up to twice as long where blocks follow each other
    /// closely. Default: 10 s.
    pub header_timeout: Duration,
    /// Streams that a client may reset within a second of opening them, or have reset by breaking the protocol, in ten
    /// seconds. More are too many if they are more than half of the streams that it opened in this time, too.
    /// Default: 500.
    pub max_premature_resets: u32,
    /// Frames of each of these kinds that a client may send in a second: PING, SETTINGS, PRIORITY, RST_STREAM,
    /// WINDOW_UPDATE, and all kinds that carry no request. SETTINGS that are to be answered count for 50, PING ACKs for
    /// 100. Four for each request and one for each 16 bytes sent to the client come on top, since it may answer those so; 100
    /// at least. Default: 10,000.
    pub max_control_frames: u32,
}

// === impl Protection ===

impl Protection {
    /// `Protection::default()`, usable in a `const`.
    pub const DEFAULT: Self = Self {
        handshake_timeout: Duration::from_secs(10),
        header_timeout: Duration::from_secs(10),
        max_premature_resets: 500,
        max_control_frames: 10_000,
    };

    pub(crate) fn validate(&self) -> Result<(), OutOfRange> {
        // No `..`: a new field must not compile until it is checked here or named as free.
        let Self { handshake_timeout, header_timeout, max_premature_resets: _, max_control_frames } = *self;
        Setting::HandshakeTimeout.check(nanos(handshake_timeout))?;
        Setting::HeaderTimeout.check(nanos(header_timeout))?;
        Setting::MaxControlFrames.check(max_control_frames.into())
    }
}

impl Default for Protection {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerParams;

    #[test]
    fn no_client_may_be_beyond_a_bound_from_the_start() {
        let refused =
            |protection| ServerParams { protection, ..ServerParams::DEFAULT }.validate().unwrap_err().setting();
        let none = Duration::ZERO;
        assert_eq!(refused(Protection { handshake_timeout: none, ..Protection::DEFAULT }), Setting::HandshakeTimeout);
        assert_eq!(refused(Protection { header_timeout: none, ..Protection::DEFAULT }), Setting::HeaderTimeout);
        assert_eq!(refused(Protection { max_control_frames: 99, ..Protection::DEFAULT }), Setting::MaxControlFrames);
    }

    #[test]
    fn both_bounds_are_accepted() {
        for (time, resets, frames) in [(Duration::from_nanos(1), 0, 100), (Duration::MAX, u32::MAX, u32::MAX)] {
            let protection = Protection {
                handshake_timeout: time,
                header_timeout: time,
                max_premature_resets: resets,
                max_control_frames: frames,
            };
            ServerParams { protection, ..ServerParams::DEFAULT }.validate().unwrap();
        }
        assert_eq!(Protection::default(), Protection::DEFAULT);
    }
}
