//! TCP connections to endpoints.

use crate::{
    descriptors::{Use, exhausted, is_reserved},
    listener::set_options,
};
use app_env::TcpParams;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::net::{TcpSocket, TcpStream};
use tower_service::Service;

/// Connects to an endpoint's address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpConnector {
    params: TcpParams,
}

// === impl TcpConnector ===

impl TcpConnector {
    pub(crate) fn new(params: TcpParams) -> Self {
        Self { params }
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
        let Self { params } = *self;
        let addr = target.into();
        Box::pin(async move {
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
