//! Flow control (RFC 9113 section 5.2) of one connection: the windows that it grants, the bytes that it buffers, the streams
//! that wait for window, and the path to the peer as PINGs measure it.

pub(crate) mod blocked;
pub(crate) mod buffer_limit;
pub(crate) mod flow_control;
pub(crate) mod held_heads;
pub(crate) mod network_path;
pub(crate) mod ping;
pub(crate) mod sending;
pub(crate) mod window_limit;
pub(crate) mod windows;
