//! Sends a header ahead of connections to endpoints, each of which then has the requests of one client alone.

use super::header::{Addresses, encode};
use crate::{backend::Backend, client_addr::ClientAddr};
use app_env::ProxyProtocol;
use proxy_http::{
    Proxy, Stats,
    proxy::{ByClient, Limits},
};
use std::{net::SocketAddr, sync::Arc};

/// The proxies of clients on one worker, for a direction whose endpoints are sent headers.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    version: ProxyProtocol,
    backend: Arc<Backend>,
    clients: ByClient,
    stats: Arc<Stats>,
}

// === impl Sender ===

impl Sender {
    /// `None`: endpoints of `backend` are sent no header.
    pub(crate) fn new(backend: &Arc<Backend>, limits: &Arc<Limits>, stats: &Arc<Stats>) -> Option<Self> {
        let clients = ByClient::new(Arc::clone(limits), Arc::clone(stats));
        let (backend, stats) = (Arc::clone(backend), Arc::clone(stats));
        Some(Self { version: backend.proxy_protocol()?, backend, clients, stats })
    }

    /// The proxy of a client. `own`: the address of this host that its connection came to. A header without addresses tells of a
    /// client that has none.
    pub(crate) fn proxy(&self, addr: ClientAddr, own: Option<SocketAddr>) -> Proxy {
        let destination = addr.destination.or(own);
        let addresses =
            addr.client.tcp().zip(destination).map(|(source, destination)| Addresses { source, destination });
        let header: Arc<[u8]> = encode(self.version, addresses).into();
        let Self { backend, stats, .. } = self.clone();
        Proxy::by_client(self.clients.clone(), move || backend.connect_with(Some(&header), &stats))
    }
}
