//! The addresses of a client's connection.

use app_env::{Forwarded, RateLimit};
use proxy_http::proxy::{ClientRates, ForwardedField, Rate};
use std::net::SocketAddr;

/// The addresses of a client's connection. They differ if a PROXY protocol header has told the client's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ClientAddr {
    /// The client, as log lines, the page of connections and endpoints are told it.
    pub(crate) client: SocketAddr,
    /// The other end of the connection: the client, or a load balancer between.
    pub(crate) peer: SocketAddr,
    /// The address that the client has connected to, as the header tells it. `None`: the connection's own.
    pub(crate) destination: Option<SocketAddr>,
}

// === impl ClientAddr ===

impl ClientAddr {
    /// The client is the other end of the connection.
    pub(crate) fn direct(peer: SocketAddr) -> Self {
        Self { client: peer, peer, destination: None }
    }

    /// The load balancer that passes the connection on. `None`: the client itself is connected.
    pub(crate) fn via(self) -> Option<SocketAddr> {
        (self.peer != self.client).then_some(self.peer)
    }
}

/// The field in which endpoints are told of it.
pub(crate) fn field(forwarded: Forwarded) -> ForwardedField {
    match forwarded {
        Forwarded::XForwardedFor => ForwardedField::XForwardedFor,
        Forwarded::Forwarded => ForwardedField::Forwarded,
    }
}

/// A limit for each client's requests.
pub(crate) fn rates(RateLimit { per_second, burst }: RateLimit) -> ClientRates {
    ClientRates::new(Rate { per_second, burst })
}
