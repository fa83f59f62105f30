//! Scenarios that the benches measure: a client, the proxy and an endpoint in one process, over in-memory pipes.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{Connect, Endpoints, Proxy, SendRequest, Server, Stats, balance, hyper, proxy};
use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, pending, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::DuplexStream;
use tower::MakeService as _;
use tower_service::Service;

pub mod bulk;
pub mod fresh;
pub mod link;
pub mod load;
pub mod matrix;
pub mod outside;
pub mod process;
pub mod report;
pub mod starvation;
pub mod timer;
pub mod tune;

/// A client whose requests go through the proxy to an endpoint that sends bodies back.
#[derive(Debug)]
pub struct Chain {
    client: SendRequest<Full<Bytes>>,
}

/// A client and a server that sends bodies back, on one connection with nothing between them, by either engine.
#[derive(Debug)]
pub enum Pair {
    /// By this workspace's engine: h2, driven by the connection's task.
    Proxy(SendRequest<Full<Bytes>>),
    /// By hyper, with the same params.
    Hyper(hyper::SendRequest<Full<Bytes>>),
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
        Self { client: connect_over(near).await }
    }

    /// Sends `body` through the chain and returns how many bytes came back.
    ///
    /// # Panics
    ///
    /// When the answer is not whole.
    pub async fn echo(&self, body: Bytes) -> usize {
        echo(self.client.clone(), body).await
    }
}

/// A connection of the workspace's engine over `io`.
async fn connect_over(io: DuplexStream) -> SendRequest<Full<Bytes>> {
    let mut connect = Connect::new(once(io), &ClientParams::DEFAULT).expect("defaults are in range");
    connect.make_service(()).await.expect("a pipe connects")
}

/// A connector that has one transport.
fn once(
    io: DuplexStream,
) -> impl Service<(), Response = DuplexStream, Error = io::Error, Future = Ready<io::Result<DuplexStream>>> {
    let mut io = Some(io);
    tower::service_fn(move |()| ready(io.take().ok_or(io::Error::from(io::ErrorKind::NotFound))))
}

async fn echo<C, B>(mut client: C, body: Bytes) -> usize
where
    C: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug>,
    B: Body<Error: Debug>,
{
    let req = Request::post("http://bench.example/").body(Full::new(body)).expect("the URI is valid");
    let rsp = client.call(req).await.expect("the endpoint answers");
    rsp.into_body().collect().await.expect("the body is whole").to_bytes().len()
}

// === impl Pair ===

impl Pair {
    /// A pair by this workspace's engine, on the current runtime.
    ///
    /// # Panics
    ///
    /// Never: pipes in memory do not fail.
    pub async fn by_proxy() -> Self {
        let (near, far) = tokio::io::duplex(PIPE);
        let server = Server::new(&ServerParams::DEFAULT).expect("defaults are in range");
        tokio::spawn(async move { server.serve(far, Echo, pending()).await });
        Self::Proxy(connect_over(near).await)
    }

    /// A pair by hyper, on the current runtime.
    ///
    /// # Panics
    ///
    /// Never: pipes in memory do not fail.
    pub async fn by_hyper() -> Self {
        let (near, far) = tokio::io::duplex(PIPE);
        let server = hyper::Server::new(&ServerParams::DEFAULT).expect("defaults are in range");
        tokio::spawn(async move { server.serve(far, Echo, pending()).await });
        let mut connect = hyper::Connect::new(once(near), &ClientParams::DEFAULT).expect("defaults are in range");
        Self::Hyper(connect.make_service(()).await.expect("a pipe connects"))
    }

    /// Sends `body` to the server and returns how many bytes came back.
    ///
    /// # Panics
    ///
    /// When the answer is not whole.
    pub async fn echo(&self, body: Bytes) -> usize {
        match self {
            Self::Proxy(client) => echo(client.clone(), body).await,
            Self::Hyper(client) => echo(client.clone(), body).await,
        }
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

impl<B> Service<Request<B>> for Echo {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<B>) -> Self::Future {
        ready(Ok(Response::new(req.into_body())))
    }
}
