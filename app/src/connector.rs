//! Connections to endpoints, in clear text or in TLS.

use crate::{
    descriptors::{Use, exhausted, is_reserved},
    dns::Target,
    listener::{is_same_file, set_options},
    tls,
    transport::{Socket, Transport},
};
use app_env::{StreamAddr, TcpParams, UnixAddr};
use proxy_http::{BoxError, Protocol};
use std::{
    future::Future,
    io,
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream, UnixSocket, UnixStream},
    time::sleep,
};
use tower_service::Service;

/// Connects to an endpoint's address, unless that is a listener of the process itself: requests would come back, or come to the
/// admin server from this host, which it trusts.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    params: TcpParams,
    own: OwnListeners,
    /// The PROXY protocol header that connections begin with. `None`: they have none.
    header: Option<Arc<[u8]>>,
    /// The client's side of TLS, and the protocol that it offers. `None`: clear text.
    tls: Option<(Arc<tls::Client>, Protocol)>,
}

/// The addresses on which the process listens, once all are bound. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnListeners(Arc<OnceLock<Vec<StreamAddr>>>);

/// The time between two attempts to connect to a Unix domain socket whose listener has a full queue.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

// === impl Connector ===

impl Connector {
    pub(crate) fn new(params: TcpParams, own: OwnListeners, tls: Option<(Arc<tls::Client>, Protocol)>) -> Self {
        Self { params, own, header: None, tls }
    }

    /// Sends `header` ahead of all else, also of TLS.
    pub(crate) fn header(self, header: Option<Arc<[u8]>>) -> Self {
        Self { header, ..self }
    }
}

// === impl OwnListeners ===

impl OwnListeners {
    pub(crate) fn set(&self, addrs: Vec<StreamAddr>) {
        // Set once, when a process starts.
        let _ = self.0.set(addrs);
    }

    /// Whether a connection to an address would come to one of them.
    fn has(&self, addr: &StreamAddr) -> bool {
        let own = self.0.get().into_iter().flatten();
        match addr {
            StreamAddr::Tcp(addr) => Self::tcp_has(own.filter_map(StreamAddr::tcp), *addr),
            StreamAddr::Unix(addr) => own.filter_map(StreamAddr::unix).any(|own| match (own.path(), addr.path()) {
                (Some(own), Some(path)) => is_same_file(own, path),
                _ => own == addr,
            }),
        }
    }

    fn tcp_has(mut own: impl Iterator<Item = SocketAddr>, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        // The system lets nobody bind addresses of other hosts.
        let is_local = || ip.is_unspecified() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok();
        own.any(|own| {
            let own_ip = own.ip().to_canonical();
            // The unspecified address, as a destination, is loopback.
            own.port() == addr.port()
                && (own_ip == ip || (own_ip.is_unspecified() || ip.is_unspecified()) && is_local())
        })
    }
}

impl Service<Target> for Connector {
    type Response = Transport;
    type Error = BoxError;
    // Boxed once a connection.
    type Future = Pin<Box<dyn Future<Output = Result<Transport, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Target { addr, host }: Target) -> Self::Future {
        let (params, header, tls) = (self.params, self.header.clone(), self.tls.clone());
        let is_own = self.own.has(&addr);
        Box::pin(async move {
            if is_own {
                return Err("it is a listener of this proxy".into());
            }
            let mut stream = match addr {
                StreamAddr::Tcp(addr) => Socket::Tcp(connect_tcp(addr, &params).await?),
                StreamAddr::Unix(addr) => Socket::Unix(connect_unix(&addr).await?),
            };
            if let Some(header) = header {
                // One write: some receivers close a connection whose header is not whole at once.
                stream.write_all(&header).await?;
            }
            Ok(match tls {
                None => Transport::Plain(stream),
                Some((tls, protocol)) => Transport::TlsClient(tls.connect(host.as_deref(), stream, protocol).await?),
            })
        })
    }
}

async fn connect_tcp(addr: SocketAddr, params: &TcpParams) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if is_reserved(&socket, Use::Endpoint) {
        return Err(exhausted());
    }
    let stream = socket.connect(addr).await?;
    set_options(&stream, params);
    Ok(stream)
}

async fn connect_unix(addr: &UnixAddr) -> io::Result<UnixStream> {
    let path = addr.to_system();
    loop {
        let socket = UnixSocket::new_stream()?;
        if is_reserved(&socket, Use::Endpoint) {
            return Err(exhausted());
        }
        match socket.connect(&path).await {
            // The listener's queue is full, of which TCP tells nothing but silence. The caller's timeout bounds both.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL_QUEUE_PAUSE).await,
            connected => return connected,
        }
    }
}
