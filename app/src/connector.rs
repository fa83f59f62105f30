//! TCP connections to endpoints.

use crate::{
    descriptors::{Use, exhausted, is_reserved},
    listener::set_options,
};
use app_env::TcpParams;
use std::{
    future::Future,
    io,
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};
use tokio::net::{TcpSocket, TcpStream};
use tower_service::Service;

/// Connects to an endpoint's address, unless that is a listener of the process itself: requests would come back, or come to the
/// admin server from this host, which it trusts.
#[derive(Clone, Debug)]
pub(crate) struct TcpConnector {
    params: TcpParams,
    own: OwnListeners,
}

/// The addresses on which the process listens, once all are bound. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnListeners(Arc<OnceLock<Vec<SocketAddr>>>);

// === impl TcpConnector ===

impl TcpConnector {
    pub(crate) fn new(params: TcpParams, own: OwnListeners) -> Self {
        Self { params, own }
    }
}

// === impl OwnListeners ===

impl OwnListeners {
    pub(crate) fn set(&self, addrs: Vec<SocketAddr>) {
        // Set once, when a process starts.
        let _ = self.0.set(addrs);
    }

    /// Whether a connection to an address would come to one of them.
    fn has(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        // The system lets nobody bind addresses of other hosts.
        let is_local = || ip.is_unspecified() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok();
        self.0.get().into_iter().flatten().any(|own| {
            let own_ip = own.ip().to_canonical();
            // The unspecified address, as a destination, is loopback.
            own.port() == addr.port()
                && (own_ip == ip || (own_ip.is_unspecified() || ip.is_unspecified()) && is_local())
        })
    }
}

impl<T: Into<SocketAddr>> Service<T> for TcpConnector {
    type Response = TcpStream;
    type Error = io::Error;
    // Boxed once a connection.
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let params = self.params;
        let addr = target.into();
        let is_own = self.own.has(addr);
        Box::pin(async move {
            if is_own {
                return Err(io::Error::other("it is a listener of this proxy"));
            }
            let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if is_reserved(&socket, Use::Endpoint) {
                return Err(exhausted());
            }
            let stream = socket.connect(addr).await?;
            set_options(&stream, &params);
            Ok(stream)
        })
    }
}
