//! The addresses of a client's connection.

use app_env::{Forwarded, RateLimit};
use proxy_http::proxy::{ClientRates, ForwardedField, Rate};
use std::{fmt, net::SocketAddr};

/// The other end of a connection from a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerAddr {
    Tcp(SocketAddr),
    /// A process of this host, by a Unix domain socket. Clients bind none, so that they have no address.
    Unix,
}

/// The addresses of a client's connection. They differ if a PROXY protocol header has told the client's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ClientAddr {
    /// The client, as log lines, the page of connections and endpoints are told it.
    pub(crate) client: PeerAddr,
    /// The other end of the connection: the client, or a load balancer between.
    pub(crate) peer: PeerAddr,
    /// The address that the client has connected to, as the header tells it. `None`: the connection's own.
    pub(crate) destination: Option<SocketAddr>,
}

// === impl PeerAddr ===

impl PeerAddr {
    /// The IP address and the port. `None`: there are none.
    pub(crate) fn tcp(self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(addr),
            Self::Unix => None,
        }
    }

    /// Whether it is a process of this host.
    pub(crate) fn is_local(self) -> bool {
        self.tcp().is_none_or(|addr| addr.ip().to_canonical().is_loopback())
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

// === impl ClientAddr ===

impl ClientAddr {
    /// The client is the other end of the connection.
    pub(crate) fn direct(peer: PeerAddr) -> Self {
        Self { client: peer, peer, destination: None }
    }

    /// The load balancer that passes the connection on. `None`: the client itself is connected.
    pub(crate) fn via(self) -> Option<PeerAddr> {
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
