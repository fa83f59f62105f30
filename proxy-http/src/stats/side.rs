//! The two sides of a proxy.

/// The peer that a connection, a message or an error belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The client, which sends requests to us.
    Client,
    /// The endpoint, which answers them.
    Endpoint,
}
