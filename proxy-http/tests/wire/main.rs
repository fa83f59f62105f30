//! The proxy over the wire: raw h2 peers on both sides.

mod answers;
mod balance;
mod client_cert;
mod connect;
mod early;
mod endpoint_ends;
mod extended_connect;
mod frames;
mod framing;
mod http1;
mod http1_endpoints;
mod http1_stalls;
mod hygiene;
mod interim;
mod late;
mod lifetime;
mod malformed;
mod params;
mod protection;
mod raw;
mod resets;
mod stalls;
mod support;
mod truncation;
mod turns;
mod websockets;
