//! The gRPC echo service of `proto/echo.proto`, served by tonic until Ctrl-C, for ghz and other gRPC clients.
//!
//! All its messages are of one type and are sent back as they came, so they are passed on as bytes: no code is
//! generated, and none need be.

use bytes::{Buf as _, BufMut as _, Bytes};
use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::tokio_stream::{self, Stream},
    server::{ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tower_service::Service;

/// The echo server, on a free port of loopback. Dropping it closes all connections.
#[derive(Debug)]
pub(crate) struct EchoServer {
    addr: SocketAddr,
    _task: JoinSet<()>,
}

/// The service, one method after the other.
#[derive(Clone, Copy, Debug)]
struct Echo;

/// Messages are bytes.
#[derive(Clone, Copy, Debug)]
struct AsBytes;

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

const REPEATED: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let server = EchoServer::spawn().await?;
    println!("bench.Echo is on {}; its definition is benches/proto/echo.proto", server.addr());
    tokio::signal::ctrl_c().await
}

// === impl EchoServer ===

impl EchoServer {
    /// Starts the server on the current runtime.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub(crate) async fn spawn() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut task = JoinSet::new();
        let serving = Server::builder().add_service(Echo).serve_with_incoming(incoming);
        // It ends with the server, or when the listener does.
        task.spawn(async move { serving.await.unwrap_or_default() });
        Ok(Self { addr, _task: task })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

// === impl Echo ===

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(AsBytes);
            Ok(match req.uri().path() {
                "/bench.Echo/Unary" => grpc.unary(Self, req).await,
                "/bench.Echo/Repeat" => grpc.server_streaming(Self, req).await,
                "/bench.Echo/Collect" => grpc.client_streaming(Self, req).await,
                "/bench.Echo/Chat" => grpc.streaming(Self, req).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, req: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(req.into_inner())))
    }
}

impl ServerStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Ready<Result<Response<Messages>, Status>>;

    fn call(&mut self, req: Request<Bytes>) -> Self::Future {
        let messages = std::iter::repeat_n(req.into_inner(), REPEATED).map(Ok);
        ready(Ok(Response::new(Box::pin(tokio_stream::iter(messages)))))
    }
}

impl ClientStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    fn call(&mut self, req: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move {
            let mut messages = req.into_inner();
            let mut last = Bytes::new();
            while let Some(message) = messages.message().await? {
                last = message;
            }
            Ok(Response::new(last))
        })
    }
}

impl StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Ready<Result<Response<Messages>, Status>>;

    fn call(&mut self, req: Request<Streaming<Bytes>>) -> Self::Future {
        ready(Ok(Response::new(Box::pin(req.into_inner()))))
    }
}

// === impl AsBytes ===

impl Codec for AsBytes {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}
