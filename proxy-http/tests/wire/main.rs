//! The proxy over the wire: raw h2 peers on both sides.

mod answers;
mod balance;
mod client_cert;
mod frames;
mod hygiene;
mod lifetime;
mod malformed;
mod params;
mod protection;
mod resets;
mod stalls;
mod support;
mod truncation;
mod turns;
