//! The windows that the peer grants, the frames that it takes, and its acknowledgement of our SETTINGS. h2 tells the rest of a
//! stream's window, and nothing else.

use crate::connection::{
    flow::network_path::NetworkPath,
    frames::head::{
        ACK, FrameHead, SETTING, SETTINGS, SETTINGS_INITIAL_WINDOW_SIZE, SETTINGS_MAX_FRAME_SIZE, WINDOW_UPDATE,
    },
};

/// The length of an increment, which is the payload of WINDOW_UPDATE (RFC 9113 section 6.9).
const INCREMENT: usize = 4;

/// Notes the head of a frame. Returns the number of bytes of its payload that [`note`] needs next.
#[inline]
pub(super) fn wanted(head: FrameHead, path: &NetworkPath) -> usize {
    match head.kind {
        WINDOW_UPDATE if head.stream == 0 => INCREMENT,
        SETTINGS if head.flags & ACK == 0 => SETTING,
        SETTINGS => {
            path.set_acknowledged(true);
            0
        }
        _ => 0,
    }
}

/// Notes a piece of the payload of WINDOW_UPDATE or SETTINGS. Returns the number of bytes that are needed next.
pub(super) fn note(head: FrameHead, bytes: &[u8], path: &NetworkPath) -> usize {
    match *bytes {
        [a, b, c, d] if head.kind == WINDOW_UPDATE => {
            path.add_peer_connection_window((u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1)).into());
            0
        }
        [high, low, a, b, c, d] if head.kind == SETTINGS => {
            let value = u32::from_be_bytes([a, b, c, d]);
            match [high, low] {
                SETTINGS_INITIAL_WINDOW_SIZE => path.set_peer_stream_window(value),
                SETTINGS_MAX_FRAME_SIZE => path.set_peer_max_frame(value),
                _ => {}
            }
            SETTING
        }
        _ => 0,
    }
}
