//! The server at the end of all loads.

use super::{CONNECTION_WINDOW, Payload, STREAM_WINDOW, Workload, body::trailers, workload::MESSAGES};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use http_h2::{FlowControl, ServerParams};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_http::hyper::server_builder;
use std::{
    future::{pending, ready},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

/// A server on a free port of loopback. Dropping it closes all connections.
///
/// | path | answer |
/// | --- | --- |
/// | `/bytes/N` | N bytes |
/// | `/drain` | nothing, once the request was read |
/// | `/stop` | never one, and the request's body is never read |
/// | `/bench.Echo/Repeat` | 64 gRPC messages of 4 KiB; with `?N` so many |
/// | `/bench.Echo/Collect` | one gRPC message, once the request was read |
/// | anything else | the request's body, with `grpc-status: 0` behind it |
#[derive(Debug)]
pub struct Endpoint {
    addr: SocketAddr,
    received: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

/// The choices of an [`Endpoint`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Params {
    /// Bytes that a client may send unread on each stream.
    pub(crate) stream_window: u32,
    /// The send buffer of each socket. `None`: as the system likes, which is megabytes on loopback.
    pub(crate) send_buffer: Option<u32>,
}

/// Limits that never bind.
const PARAMS: ServerParams = ServerParams {
    max_concurrent_streams: Some(100_000),
    max_pending_accept_reset_streams: Some(100_000),
    ..ServerParams::DEFAULT
};

type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

// === impl Params ===

impl Params {
    /// Windows that never bind.
    pub(crate) const DEFAULT: Self = Self { stream_window: STREAM_WINDOW, send_buffer: None };
}

// === impl Endpoint ===

impl Endpoint {
    /// Starts the server on the current runtime, with windows that never bind.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub async fn spawn() -> io::Result<Self> {
        Self::with(Params::DEFAULT).await
    }

    /// Starts the server on the current runtime.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub(crate) async fn with(params: Params) -> io::Result<Self> {
        let Params { stream_window, send_buffer } = params;
        let socket = TcpSocket::new_v4()?;
        if let Some(send_buffer) = send_buffer {
            // Accepted sockets inherit it.
            socket.set_send_buffer_size(send_buffer)?;
        }
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(1024)?;
        let addr = listener.local_addr()?;
        let received = Arc::<AtomicU64>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, stream_window, Arc::clone(&received)));
        Ok(Self { addr, received, _tasks: tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Bytes of requests' bodies that arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

async fn accept(listener: TcpListener, stream_window: u32, received: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((io, _)) = listener.accept().await {
        let _ = io.set_nodelay(true);
        connections.spawn(serve(io, stream_window, Arc::clone(&received)));
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection to its end, as [`Endpoint`] does; adds the bytes of requests' bodies to `received`.
pub async fn serve_endpoint<I>(io: I, received: Arc<AtomicU64>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve(io, STREAM_WINDOW, received).await;
}

async fn serve<I>(io: I, stream_window: u32, received: Arc<AtomicU64>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let flow_control = Some(FlowControl::Fixed {
        initial_stream_window_size: stream_window,
        initial_connection_window_size: CONNECTION_WINDOW,
    });
    let params = ServerParams { flow_control, ..PARAMS };
    let service = service_fn(move |req| answer(req, Arc::clone(&received)));
    let builder = server_builder(&params, TokioExecutor::new()).expect("the params are in range");
    // How a connection ends shows at the client.
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

async fn answer(req: Request<Incoming>, received: Arc<AtomicU64>) -> Result<Answer, hyper::Error> {
    let path = req.uri().path().to_owned();
    let number = req.uri().query().and_then(|query| query.parse().ok());
    let content_type = req.headers().get(header::CONTENT_TYPE).cloned();
    let mut body = req.into_body();
    let body = if let Some(len) = path.strip_prefix("/bytes/") {
        boxed(Payload::bytes(len.parse().unwrap_or_default()))
    } else if path == "/drain" {
        drain(&mut body, &received).await?;
        boxed(Payload::bytes(0))
    } else if path == "/stop" {
        // Dropped, with the body, when the stream is reset.
        pending().await
    } else if path == "/bench.Echo/Repeat" {
        drain(&mut body, &received).await?;
        boxed(Workload::repeated(number.unwrap_or(MESSAGES)).with_status())
    } else if path == "/bench.Echo/Collect" {
        drain(&mut body, &received).await?;
        boxed(Workload::collected().with_status())
    } else {
        body.map_frame(move |frame| {
            received.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Relaxed);
            frame
        })
        .with_trailers(ready(Some(Ok(trailers()))))
        .boxed_unsync()
    };
    let mut rsp = Response::new(body);
    rsp.headers_mut().extend(content_type.map(|value| (header::CONTENT_TYPE, value)));
    Ok(rsp)
}

fn boxed(payload: Payload) -> UnsyncBoxBody<Bytes, hyper::Error> {
    payload.map_err(|never| match never {}).boxed_unsync()
}

async fn drain(body: &mut Incoming, received: &AtomicU64) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        received.fetch_add(frame?.data_ref().map_or(0, Bytes::len) as u64, Relaxed);
    }
    Ok(())
}
