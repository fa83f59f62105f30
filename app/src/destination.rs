//! Where the requests of a direction go: to one back end, or each by its route.

use crate::{
    authorities::Authorities,
    backend::Backend,
    dns::{self, Names},
    routing::Routing,
};
use app_env::{EndpointProtocol, HostPort};
use proxy_http::{
    Endpoints, Proxy, Stats,
    proxy::{Backend as _, BackendEndpoints, Bounds, ByAuthority, ByRoute, Limits},
};
use std::sync::Arc;

/// Where the requests of a direction go, for all workers.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    One(Arc<Backend>),
    Routed { routing: Arc<Routing>, bounds: Bounds },
    Named { authorities: Authorities, default_port: u16, bounds: Bounds },
}

/// The endpoints that one worker is connected to.
#[derive(Clone, Debug)]
pub(crate) enum Connected {
    One { endpoints: BackendEndpoints, names: Names },
    Routed(ByRoute<Backend>),
    Named(ByAuthority<Authorities>),
}

// === impl Destination ===

impl Destination {
    /// Its routes, if requests go by routes.
    pub(crate) fn routing(&self) -> Option<&Arc<Routing>> {
        match self {
            Self::Routed { routing, .. } => Some(routing),
            Self::One(_) | Self::Named { .. } => None,
        }
    }

    /// One worker's proxy, and the endpoints that it connects to. Must be called in a tokio runtime.
    pub(crate) fn connect(&self, limits: &Arc<Limits>, stats: &Arc<Stats>) -> (Proxy, Connected) {
        let (limits, requests) = (Arc::clone(limits), Arc::clone(stats));
        match self {
            Self::One(backend) => {
                let connected = backend.connect(stats);
                let endpoints = connected.endpoints.clone();
                let proxy = match connected.http1.clone() {
                    None => Proxy::new(endpoints, limits, requests),
                    Some(http1) => Proxy::by_protocol(endpoints, http1, limits, requests),
                };
                (proxy, Connected::One { endpoints: connected, names: backend.names.clone() })
            }
            Self::Routed { routing, bounds } => {
                let destinations = ByRoute::spawn(routing.routes(), limits, requests, *bounds);
                (Proxy::by_route(destinations.clone()), Connected::Routed(destinations))
            }
            Self::Named { authorities, default_port, bounds } => {
                let destinations = ByAuthority::spawn(authorities.clone(), *default_port, limits, requests, *bounds);
                (Proxy::by_authority(destinations.clone()), Connected::Named(destinations))
            }
        }
    }
}

// === impl Connected ===

impl Connected {
    /// The back ends that are connected to by route or authority.
    pub(crate) fn destinations(&self) -> Vec<(Arc<Backend>, BackendEndpoints)> {
        match self {
            Self::One { .. } => Vec::new(),
            Self::Routed(destinations) => destinations.connected(),
            Self::Named(destinations) => destinations.connected(),
        }
    }

    /// The endpoints that are connected to, once for each protocol.
    pub(crate) fn endpoints(&self) -> Vec<Endpoints> {
        let list = |connected: BackendEndpoints| [Some(connected.endpoints), connected.http1].into_iter().flatten();
        match self {
            Self::One { endpoints, .. } => list(endpoints.clone()).collect(),
            Self::Routed(_) | Self::Named(_) => {
                self.destinations().into_iter().flat_map(|(_, connected)| list(connected)).collect()
            }
        }
    }

    /// Whether requests can be sent to an endpoint. By route or authority that does not depend on any one of the back ends, which
    /// are connected to when requests come.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::One { .. } => self.endpoints().iter().any(Endpoints::is_ready),
            Self::Routed(_) | Self::Named(_) => true,
        }
    }

    /// The endpoints that are names, and how each is doing.
    pub(crate) fn names(&self) -> Vec<(HostPort, dns::Status)> {
        match self {
            Self::One { names, .. } => names.status(),
            Self::Routed(destinations) => {
                destinations.routes().backends().iter().flat_map(|backend| backend.names.status()).collect()
            }
            Self::Named(_) => self.destinations().iter().flat_map(|(backend, _)| backend.names.status()).collect(),
        }
    }

    /// Whether clients may send extended CONNECT (RFC 8441). With routes, whether all back ends are spoken to in HTTP/1.1, which
    /// has its own form of it: of others it is not known before they are connected to.
    pub(crate) fn is_extended_connect_enabled(&self) -> bool {
        match self {
            Self::One { endpoints, .. } => endpoints.endpoints.is_extended_connect_enabled(),
            Self::Routed(destinations) => {
                destinations.routes().backends().iter().all(|backend| backend.protocol() == EndpointProtocol::Http1)
            }
            Self::Named(_) => false,
        }
    }
}
