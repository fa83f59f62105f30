//! HTTP/1.1 by hyper, on either side: framing that has one meaning, heads of either version, trailers, upgrades and the
//! tunnels that follow them.

mod framing;
pub(crate) mod guard;
pub(crate) mod linger;
pub(crate) mod params;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod response_body;
pub(crate) mod reuse;
pub(crate) mod timeouts;
pub(crate) mod trailers;
pub(crate) mod tunnel;
pub(crate) mod websocket;

pub use self::params::Params;
