//! The one place that knows which values RFC 9113 and the HTTP/2 engine accept.

use std::{error::Error, fmt, ops::RangeInclusive};

/// A setting whose values have a range.
///
/// ```
/// use http_h2::Setting;
///
/// assert!(Setting::MaxFrameSize.check(16_384).is_ok());
/// assert_eq!(Setting::MaxFrameSize.range(), 16_384..=16_777_215);
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Setting {
    /// Bytes a peer may send unread on one stream: 1..=2147483647 (RFC 9113 section 6.5.2; 0 would admit nothing).
    InitialStreamWindowSize,
    /// Bytes a peer may send unread on one connection: 1..=2147483647 (RFC 9113 section 6.9.1).
    InitialConnectionWindowSize,
    /// Nanoseconds of silence before a PING: above zero.
    KeepAliveInterval,
    /// Nanoseconds a PING's answer may take: above zero.
    KeepAliveTimeout,
    /// Bytes of the largest frame accepted: 16384..=16777215 (RFC 9113 section 6.5.2).
    MaxFrameSize,
    /// Bytes of the largest header list accepted: 1..=4294967295 (0 would refuse every message).
    MaxHeaderListSize,
    /// Bytes buffered for sending on a stream: 1..=4294967295 (0 would never send).
    MaxSendBufSize,
    /// Nanoseconds before a connection is drained for its age: above zero.
    MaxConnectionAge,
    /// Nanoseconds without a stream before a connection is drained: above zero.
    MaxConnectionIdle,
    /// Nanoseconds for which a peer may take nothing on a stream: above zero.
    WriteStallTimeout,
    /// Nanoseconds for which nothing may move on a stream: above zero.
    StreamIdleTimeout,
    /// Nanoseconds for a client's preface and first frame: above zero.
    HandshakeTimeout,
    /// Nanoseconds for a header block: above zero.
    HeaderTimeout,
    /// Frames of one kind in a second: 100..=4294967295 (clients that behave send some, too).
    MaxControlFrames,
}

/// A value outside of the range of its setting.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct OutOfRange {
    setting: Setting,
    value: u64,
}

// === impl Setting ===

impl Setting {
    /// The setting's name, as the field of the params that holds it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InitialStreamWindowSize => "initial_stream_window_size",
            Self::InitialConnectionWindowSize => "initial_connection_window_size",
            Self::KeepAliveInterval => "keep_alive.interval",
            Self::KeepAliveTimeout => "keep_alive.timeout",
            Self::MaxFrameSize => "max_frame_size",
            Self::MaxHeaderListSize => "max_header_list_size",
            Self::MaxSendBufSize => "max_send_buf_size",
            Self::MaxConnectionAge => "max_connection_age.age",
            Self::MaxConnectionIdle => "max_connection_idle",
            Self::WriteStallTimeout => "write_stall_timeout",
            Self::StreamIdleTimeout => "stream_idle_timeout",
            Self::HandshakeTimeout => "protection.handshake_timeout",
            Self::HeaderTimeout => "protection.header_timeout",
            Self::MaxControlFrames => "protection.max_control_frames",
        }
    }

    /// The values accepted, in the setting's unit.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::InitialStreamWindowSize | Self::InitialConnectionWindowSize => 1..=(1 << 31) - 1,
            Self::KeepAliveInterval
            | Self::KeepAliveTimeout
            | Self::MaxConnectionAge
            | Self::MaxConnectionIdle
            | Self::WriteStallTimeout
            | Self::StreamIdleTimeout
            | Self::HandshakeTimeout
            | Self::HeaderTimeout => 1..=u64::MAX,
            Self::MaxFrameSize => (1 << 14)..=(1 << 24) - 1,
            Self::MaxHeaderListSize | Self::MaxSendBufSize => 1..=u32::MAX as u64,
            Self::MaxControlFrames => 100..=u32::MAX as u64,
        }
    }

    /// Checks a value, in the setting's unit, against its range.
    ///
    /// # Errors
    ///
    /// The value, when it is out of range.
    pub fn check(self, value: u64) -> Result<(), OutOfRange> {
        if self.range().contains(&value) { Ok(()) } else { Err(OutOfRange { setting: self, value }) }
    }
}

// === impl OutOfRange ===

impl OutOfRange {
    /// The setting whose value it is.
    #[must_use]
    pub const fn setting(&self) -> Setting {
        self.setting
    }

    /// The value that was refused, in the setting's unit.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.setting.range();
        write!(f, "{} is {}, must be ", self.setting.name(), self.value)?;
        if *range.end() == u64::MAX {
            write!(f, "at least {}", range.start())
        } else {
            write!(f, "{}..={}", range.start(), range.end())
        }
    }
}

impl Error for OutOfRange {}
