//! Where the requests of a direction go: to one back end, or each by its route.

use crate::{
    authorities::Authorities,
    backend::Backend,
    dns::{self, Names},
    proxy_protocol::Sender,
    routing::Routing,
};
use app_env::EndpointProtocol;
use proxy_http::{
    Endpoints, Proxy, Stats,
    proxy::{self, Backend as _, BackendEndpoints, Bounds, ByAuthority, ByRoute, Limits},
};
use std::{sync::Arc, time::Duration};

/// Where the requests of a direction go, for all workers.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    One(Arc<Backend>),
    Routed { routing: Arc<Routing>, bounds: Bounds },
    Named { authorities: Authorities, default_port: u16, bounds: Bounds },
}

/// A destination as one worker sees it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) name: String,
    /// The endpoints that it is connected to.
    pub(crate) endpoints: Vec<Endpoints>,
    pub(crate) names: Names,
    /// How long ago a request used it last. `None`: it is not connected to, or always is.
    pub(crate) unused: Option<Duration>,
    pub(crate) is_connected: bool,
}

/// The endpoints that one worker is connected to.
#[derive(Clone, Debug)]
pub(crate) enum Connected {
    One { name: Arc<str>, endpoints: BackendEndpoints, names: Names },
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

    /// One worker's proxies of clients. `None`: clients share the worker's connections.
    pub(crate) fn by_client(&self, limits: &Arc<Limits>, stats: &Arc<Stats>) -> Option<Sender> {
        match self {
            Self::One(backend) => Sender::new(backend, limits, stats),
            Self::Routed { .. } | Self::Named { .. } => None,
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
                let (name, names) = (backend.name().into(), backend.names.clone());
                (proxy, Connected::One { name, endpoints: connected, names })
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
    pub(crate) fn destinations(&self) -> Vec<proxy::Destination<Backend>> {
        match self {
            Self::One { .. } => Vec::new(),
            Self::Routed(destinations) => destinations.connected(),
            Self::Named(destinations) => destinations.connected(),
        }
    }

    /// The endpoints that are connected to, once for each protocol.
    pub(crate) fn endpoints(&self) -> Vec<Endpoints> {
        match self {
            Self::One { endpoints, .. } => by_protocol(endpoints.clone()).collect(),
            Self::Routed(_) | Self::Named(_) => {
                self.destinations().into_iter().flat_map(|destination| by_protocol(destination.endpoints)).collect()
            }
        }
    }

    /// The word for where destinations come from.
    pub(crate) fn source(&self) -> &'static str {
        match self {
            Self::One { .. } => "endpoints",
            Self::Routed(_) => "route",
            Self::Named(_) => "authority",
        }
    }

    /// The destinations that are connected to, and the ones that routes have beside these.
    pub(crate) fn views(&self) -> Vec<View> {
        if let Self::One { name, endpoints, names } = self {
            let endpoints = by_protocol(endpoints.clone()).collect();
            let (name, names) = (name.to_string(), names.clone());
            return vec![View { name, endpoints, names, unused: None, is_connected: true }];
        }
        let connected = self.destinations();
        let routes = if let Self::Routed(destinations) = self { Some(destinations.routes()) } else { None };
        let idle = routes.iter().flat_map(|routes| routes.backends()).filter(|backend| {
            let is_it = |destination: &proxy::Destination<Backend>| Arc::ptr_eq(&destination.backend, backend);
            !connected.iter().any(is_it)
        });
        let idle: Vec<_> = idle.map(|backend| View::new(backend, Vec::new(), None)).collect();
        let connected = connected.into_iter().map(|proxy::Destination { backend, endpoints, unused }| {
            View::new(&backend, by_protocol(endpoints).collect(), Some(unused))
        });
        connected.chain(idle).collect()
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
    pub(crate) fn names(&self) -> Vec<(String, dns::Status)> {
        match self {
            Self::One { names, .. } => names.status(),
            Self::Routed(destinations) => {
                destinations.routes().backends().iter().flat_map(|backend| backend.names.status()).collect()
            }
            Self::Named(_) => {
                self.destinations().iter().flat_map(|destination| destination.backend.names.status()).collect()
            }
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

// === impl View ===

impl View {
    fn new(backend: &Backend, endpoints: Vec<Endpoints>, unused: Option<Duration>) -> Self {
        let (name, names) = (backend.name().to_owned(), backend.names.clone());
        Self { name, endpoints, names, unused, is_connected: unused.is_some() }
    }
}

/// The endpoints of a back end, once for each protocol.
fn by_protocol(connected: BackendEndpoints) -> impl Iterator<Item = Endpoints> {
    [Some(connected.endpoints), connected.http1].into_iter().flatten()
}
