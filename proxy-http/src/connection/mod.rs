//! The state of one connection, on either side: its I/O, the protocol that it begins with, its streams, the frames that are
//! read beside the engine, its timeouts, its PINGs, and the windows that it grants and is granted.

pub(crate) mod detect;
pub(crate) mod discard;
pub(crate) mod flow;
pub(crate) mod frames;
pub(crate) mod io;
pub(crate) mod now;
pub(crate) mod rewind;
pub(crate) mod state;
pub(crate) mod streams;
pub(crate) mod timeouts;
pub(crate) mod wake;
pub(crate) mod write_batch;
