//! Timeouts of a connection and of its streams: age, idleness, header blocks, write stalls.

pub(crate) mod idle;
pub(crate) mod lifetime;
pub(crate) mod stall;
