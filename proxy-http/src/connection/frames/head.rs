//! The head of a frame (RFC 9113 section 4.1), and the types and flags of frames that are read here (section 6).

/// A frame's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameHead {
    /// Bytes of payload.
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// The length of a client's preface (RFC 9113 section 3.4).
pub(crate) const PREFACE: usize = 24;
/// The length of a frame's head.
pub(crate) const HEAD: usize = 9;

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
/// The flag of HEADERS.
pub(crate) const HAS_PRIORITY: u8 = 0x20;

/// The length of one setting (RFC 9113 section 6.5.1).
pub(crate) const SETTING: usize = 6;
pub(crate) const SETTINGS_INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
pub(crate) const SETTINGS_MAX_FRAME_SIZE: [u8; 2] = [0, 5];
pub(crate) const SETTINGS_MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];

// === impl FrameHead ===

impl FrameHead {
    /// From its bytes. The reserved bit says nothing.
    #[inline]
    pub(crate) fn from_bytes([high, mid, low, kind, flags, stream @ ..]: [u8; HEAD]) -> Self {
        // One load for both.
        let length_and_kind = u32::from_be_bytes([high, mid, low, kind]);
        Self {
            length: (length_and_kind >> 8) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        }
    }

    /// Whether HEADERS or CONTINUATION ends its field block.
    pub(crate) fn ends_block(self) -> bool {
        self.flags & END_HEADERS != 0
    }

    /// Whether a length of padding comes first in the payload of DATA or HEADERS. Without payload the frame is malformed.
    pub(crate) fn has_padding(self) -> bool {
        self.flags & PADDED != 0 && self.length > 0
    }
}
