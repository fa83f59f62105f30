//! What ends when nothing moves, or has gone on for too long.

pub(crate) mod idle;
pub(crate) mod lifetime;
pub(crate) mod stall;
