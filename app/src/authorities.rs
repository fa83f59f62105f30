//! Back ends that requests name by their authorities.

use crate::{
    backend::{Backend, Shared, Source},
    dns,
    linkerd::Linkerd,
    tls,
};
use app_env::{Discovery, HostPort};
use proxy_http::proxy::{NotAllowed, Resolve};
use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Follows the endpoints of authorities, each once for all workers. Clones share them.
#[derive(Clone)]
pub(crate) struct Authorities(Arc<Inner>);

struct Inner {
    allowed: Discovery,
    /// Of an authority without one.
    default_port: u16,
    connect: app_env::Connect,
    tls: Option<Arc<tls::Client>>,
    shared: Shared,
    /// Knows destinations that need not be allowed. `None`: all are looked up in DNS.
    linkerd: Option<Linkerd>,
    /// The back ends that a worker is connected to, and some that none is any more.
    followed: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    backends: HashMap<HostPort, Weak<Backend>>,
    /// How many there may be before the ones that no worker has are removed.
    limit: usize,
}

/// The least of [`Followed::limit`].
const MIN_LIMIT: usize = 64;

// === impl Authorities ===

impl Authorities {
    /// Back ends of the destinations that are `allowed`, or that `linkerd` knows, which are all connected to in one way.
    pub(crate) fn new(
        allowed: Discovery,
        default_port: u16,
        connect: app_env::Connect,
        tls: Option<Arc<tls::Client>>,
        shared: Shared,
        linkerd: Option<Linkerd>,
    ) -> Self {
        Self(Arc::new(Inner { allowed, default_port, connect, tls, shared, linkerd, followed: Mutex::default() }))
    }

    /// Whether requests may go to a host, as [`Resolve`] has it.
    fn is_allowed(&self, host: &str) -> bool {
        let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        match ip {
            Some(ip) => self.0.allowed.allows_ip(ip),
            None => self.0.allowed.allows_name(host),
        }
    }
}

impl Resolve for Authorities {
    type Backend = Backend;

    fn resolve(&self, host: &str, port: u16) -> Result<Arc<Backend>, NotAllowed> {
        let Inner { default_port, connect, tls, shared, linkerd, followed, .. } = &*self.0;
        let is_allowed = self.is_allowed(host);
        if !is_allowed && linkerd.is_none() {
            return Err(NotAllowed);
        }
        // A host that is no name of DNS has no endpoints.
        let endpoint: HostPort = format!("{host}:{port}").parse().map_err(|_| NotAllowed)?;
        let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = followed.backends.get(&endpoint).and_then(Weak::upgrade) {
            return Ok(backend);
        }
        if followed.backends.len() >= followed.limit {
            followed.backends.retain(|_, backend| backend.strong_count() > 0);
            followed.limit = (followed.backends.len() * 2).max(MIN_LIMIT);
        }
        let (connect, tls, shared) = (connect.clone(), tls.clone(), shared.clone());
        let backend = if let Some(linkerd) = linkerd {
            let hosts =
                tls.as_ref().is_some_and(|client| client.needs_hosts()) || connect.health_check.request.is_some();
            let followed = linkerd.follow(endpoint.clone(), is_allowed, hosts);
            Backend::followed(endpoint.to_string(), followed, connect, tls, shared)
        } else if port == *default_port && dns::is_service(endpoint.host()) {
            // The records of a service have the port, so that it has none itself.
            Backend::new(endpoint.host().to_owned(), Source::Service(endpoint.host()), connect, tls, shared)
        } else {
            let endpoints = [endpoint.clone().into()];
            Backend::new(endpoint.to_string(), Source::Endpoints(&endpoints), connect, tls, shared)
        };
        let backend = Arc::new(backend);
        followed.backends.insert(endpoint, Arc::downgrade(&backend));
        Ok(backend)
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("allowed", &self.0.allowed).finish_non_exhaustive()
    }
}
