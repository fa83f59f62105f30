//! The sizes of what comes before a frame's payload.

/// The length of a client's preface.
pub(crate) const PREFACE: usize = 24;
/// The length of a frame's head (RFC 9113 section 4.1).
pub(crate) const HEAD: usize = 9;
