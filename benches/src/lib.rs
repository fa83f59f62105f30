//! Scenarios that the benches measure: a client, the proxy and an endpoint in one process, over in-memory pipes.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{Connect, Endpoints, IncomingBody, Proxy, SendRequest, Server, Stats, balance, proxy};
use std::{
    convert::Infallible,
    future::{Ready, pending, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::DuplexStream;
use tower_service::Service;

pub mod link;
pub mod load;
pub mod matrix;
pub mod outside;
pub mod process;
pub mod report;
pub mod timer;
pub mod tune;

/// A client whose requests go through the proxy to an endpoint that sends bodies back.
#[derive(Debug)]
pub struct Chain {
    client: SendRequest<Full<Bytes>>,
}

/// Makes pipes, each with an endpoint at its other end.
#[derive(Clone, Debug)]
struct InMemory(Server);

/// Sends each request's body back.
#[derive(Clone, Copy, Debug)]
struct Echo;

/// Bytes that a pipe holds.
const PIPE: usize = 64 << 10;

// === impl Chain ===

impl Chain {
    /// Builds the chain, all of it with default params, on the current runtime.
    ///
    /// # Panics
    ///
    /// Never: pipes in memory do not fail.
    pub async fn new() -> Self {
        let server = Server::new(&ServerParams::DEFAULT).expect("defaults are in range");
        let connect = Connect::new(InMemory(server.clone()), &ClientParams::DEFAULT).expect("defaults are in range");
        let endpoints = Endpoints::fixed(["endpoint"], &connect, balance::Params::default());
        let limits = Arc::new(proxy::Limits::new(proxy::Params::default()));
        let proxy = Proxy::new(endpoints, limits, Arc::<Stats>::default());
        let (near, far) = tokio::io::duplex(PIPE);
        tokio::spawn(async move { server.serve(far, proxy, pending()).await });
        let mut pipe = Some(near);
        let connector = tower::service_fn(move |()| ready(pipe.take().ok_or(io::Error::from(io::ErrorKind::NotFound))));
        let mut connect = Connect::<_, Full<Bytes>>::new(connector, &ClientParams::DEFAULT).expect("in range");
        let connected: Result<_, proxy_http::client::ConnectError> = connect.call(()).await;
        Self { client: connected.expect("a pipe connects") }
    }

    /// Sends `body` through the chain and returns how many bytes came back.
    ///
    /// # Panics
    ///
    /// When the answer is not whole.
    pub async fn echo(&self, body: Bytes) -> usize {
        let mut client = self.client.clone();
        let req = Request::post("http://bench.example/").body(Full::new(body)).expect("the URI is valid");
        let rsp = client.call(req).await.expect("the endpoint answers");
        rsp.into_body().collect().await.expect("the body is whole").to_bytes().len()
    }
}

// === impl InMemory ===

impl Service<&'static str> for InMemory {
    type Response = DuplexStream;
    type Error = io::Error;
    type Future = Ready<io::Result<DuplexStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        let (near, far) = tokio::io::duplex(PIPE);
        let server = self.0.clone();
        tokio::spawn(async move { server.serve(far, Echo, pending()).await });
        ready(Ok(near))
    }
}

// === impl Echo ===

impl Service<Request<IncomingBody>> for Echo {
    type Response = Response<IncomingBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<IncomingBody>) -> Self::Future {
        ready(Ok(Response::new(req.into_body())))
    }
}
