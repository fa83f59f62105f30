//! The two sides of a proxy.

/// The side of the proxy that something came from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The client, which sends requests to us.
    Client,
    /// The endpoint, which answers them.
    Endpoint,
}
