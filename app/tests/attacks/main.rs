//! What hostile and broken peers do to the binary, and what it does about it, always beside a victim: a well-behaved client
//! with eight streams through the same worker to the same endpoint. It must see no error, and fare as well as undisturbed.
//!
//! Attacks are of a tenth of the size that they are known with; `ATTACKS_FACTOR=10` makes them as large. `ATTACKS_APP` names
//! another binary than the debug build, a release build, of which more is asked.

mod connections;
mod control;
mod endpoint;
mod endpoints;
mod frames;
mod headers;
mod pauses;
mod priority;
mod readers;
mod resets;
mod rig;
mod threads;
mod victim;
mod windows;
