//! hyper's own HTTP/2, tuned by the same parameters as [`proxy_http::Server`](crate::Server) and
//! [`proxy_http::Connect`](crate::Connect).
//!
//! [`server_builder`] and [`client_builder`] give hyper's builders. [`Server`] and [`Connect`] are the shortest tower
//! services over them: they have no queue, no retries, no counters and none of the proxy's protection.
//!
//! A parameter that is not set has the default that [`http_h2`] documents, also where hyper's own differs. hyper has no
//! setter for these parameters, so they have no effect here:
//!
//! | parameter | with hyper |
//! | --- | --- |
//! | [`ServerParams::max_concurrent_reset_streams`] | 50 streams are remembered, for a second |
//! | [`ServerParams::max_connection_age`] | any age; [`graceful_shutdown`] is the caller's |
//! | [`ServerParams::max_connection_idle`] | any time without a stream |
//! | [`ServerParams::write_stall_timeout`], [`ClientParams::write_stall_timeout`] | a stream waits for its window without limit |
//! | [`ServerParams::stream_idle_timeout`] | a stream may be silent without limit |
//! | [`ServerParams::protection`] | no timeout for a preface or a header block, no limit of premature resets or control frames |
//!
//! `max_header_list_size` differs in its effect, as hyper has one setter for the size that is announced and the size
//! that is taken: a request or response that is far above it ends the connection, and trailers lose the fields above it
//! without an error. [`FlowControl::Adaptive`] differs as well: hyper's windows start at 65,535 bytes, grow with the
//! bandwidth-delay product up to 16 MiB and never shrink; the ones of [`Server`](crate::Server) start full and shrink while
//! receivers have stopped.
//!
//! [`graceful_shutdown`]: hyper::server::conn::http2::Connection::graceful_shutdown
//!
//! # Examples
//!
//! A request through a client and a server of hyper, over an in-memory pipe:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt as _, Full};
//! use http_h2::{ClientParams, ServerParams};
//! use hyper::body::Incoming;
//! use proxy_http::hyper::{Connect, Server};
//! use std::{convert::Infallible, future::pending};
//! use tower::{MakeService as _, Service as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let (client_io, server_io) = tokio::io::duplex(64 * 1024);
//!
//! // The server sends every request's body back.
//! let echo = service_fn(|req: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(req.into_body())) });
//! let server = Server::new(&ServerParams::DEFAULT)?;
//! tokio::spawn(async move { server.serve(server_io, echo, pending()).await });
//!
//! // The client's connector hands out the other end of the pipe.
//! let mut io = Some(client_io);
//! let connector = service_fn(move |_target: &str| {
//!     std::future::ready(io.take().ok_or(std::io::Error::from(std::io::ErrorKind::NotFound)))
//! });
//! let mut connect = Connect::<_, Full<Bytes>>::new(connector, &ClientParams::DEFAULT)?;
//!
//! let mut connection = connect.make_service("in memory").await?;
//! let req = Request::post("http://echo.example/").body(Full::new(Bytes::from("hello")))?;
//! let rsp = connection.call(req).await?;
//! assert_eq!(rsp.into_body().collect().await?.to_bytes(), "hello");
//! # Ok(())
//! # }
//! ```

use crate::BoxError;
use http::{Request, Response};
use http_body::Body;
use http_h2::{ClientKeepAlive, ClientParams, FlowControl, KeepAlive, OutOfRange, RESET_STREAM_DURATION, ServerParams};
use hyper::{body::Incoming, client::conn::http2 as client, server::conn::http2 as server};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

/// Serves HTTP/2 with prior knowledge on any transport, by hyper; the [module](self#examples) has an example.
#[derive(Clone, Debug)]
pub struct Server {
    builder: server::Builder<TokioExecutor>,
}

/// Makes connections to targets by hyper: a `Service<Target>` whose response is the connection's service.
///
/// `C` is the connector, a tower service that turns a target into an `AsyncRead + AsyncWrite`. `B` is the body of the
/// requests to be sent.
///
/// ```
/// # use {bytes::Bytes, http::Request, http_body_util::Full, http_h2::ClientParams, proxy_http::hyper::Connect};
/// let tcp = tower::service_fn(|addr: String| tokio::net::TcpStream::connect(addr));
/// let connect = Connect::new(tcp, &ClientParams::DEFAULT)?;
///
/// fn is_make_service(_: impl tower::MakeService<String, Request<Full<Bytes>>>) {}
/// is_make_service(connect);
/// # Ok::<(), http_h2::OutOfRange>(())
/// ```
pub struct Connect<C, B> {
    connector: C,
    builder: client::Builder<TokioExecutor>,
    body: PhantomData<fn(B)>,
}

/// One connection of hyper's, as a service; clones share the connection.
///
/// It is ready until the connection is closed: requests above the peer's limit of streams wait in hyper. The connection
/// closes when all clones are dropped and the streams on it have ended. A response future that is dropped resets its
/// stream with CANCEL.
pub struct SendRequest<B>(client::SendRequest<B>);

/// The future of a connection.
pub type ConnectFuture<B> = Pin<Box<dyn Future<Output = Result<SendRequest<B>, ConnectError>> + Send>>;

/// The future of a response.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

/// Why no connection was made.
///
/// ```
/// # use {bytes::Bytes, http_body_util::Empty, http_h2::ClientParams, proxy_http::hyper::Connect, tower::ServiceExt as _};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), http_h2::OutOfRange> {
/// // Nothing listens on port 0.
/// let tcp = tower::service_fn(|addr: &str| tokio::net::TcpStream::connect(addr.to_owned()));
/// let connect = Connect::<_, Empty<Bytes>>::new(tcp, &ClientParams::DEFAULT)?;
/// let error = connect.oneshot("127.0.0.1:0").await.unwrap_err();
/// assert!(error.is_transport());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConnectError(ConnectErrorKind);

#[derive(Debug, thiserror::Error)]
enum ConnectErrorKind {
    #[error("could not connect")]
    Transport(#[source] BoxError),
    #[error("HTTP/2 handshake failed")]
    Handshake(#[source] hyper::Error),
}

/// hyper adds the durations of keep-alive to an `Instant`, which panics for those beyond its range; this is within it.
const MAX_DURATION: Duration = Duration::from_nanos(u64::MAX);

/// hyper's server builder, with everything of `params` that it has a setter for, on tokio's timer.
///
/// ```
/// use http_h2::ServerParams;
/// use hyper_util::rt::{TokioExecutor, TokioIo};
/// # use {bytes::Bytes, http::{Request, Response}, http_body_util::Empty, hyper::{body::Incoming, service::service_fn}};
///
/// # let (client_io, io) = tokio::io::duplex(1_024);
/// # let service = service_fn(|_: Request<Incoming>| async { Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new())) });
/// let params = ServerParams { max_concurrent_streams: Some(100), ..ServerParams::DEFAULT };
/// let builder = proxy_http::hyper::server_builder(&params, TokioExecutor::new())?;
/// let connection = builder.serve_connection(TokioIo::new(io), service);
/// # Ok::<(), http_h2::OutOfRange>(())
/// ```
///
/// # Errors
///
/// The first of `params` that is out of its range: hyper and h2 would panic, or fail each connection.
pub fn server_builder<E>(params: &ServerParams, exec: E) -> Result<server::Builder<E>, OutOfRange> {
    params.validate()?;
    // No `..`: a new field must not compile until it is handled here or is a row of the module's table.
    let ServerParams {
        flow_control,
        keep_alive,
        max_concurrent_streams,
        max_frame_size,
        header_table_size,
        max_header_list_size,
        max_pending_accept_reset_streams,
        max_concurrent_reset_streams: _,
        max_local_error_reset_streams,
        max_send_buf_size,
        max_connection_age: _,
        max_connection_idle: _,
        write_stall_timeout: _,
        stream_idle_timeout: _,
        protection: _,
    } = *params;
    let mut builder = server::Builder::new(exec);
    builder
        .timer(TokioTimer::new())
        // hyper takes `None` for no limit.
        .max_concurrent_streams(max_concurrent_streams.unwrap_or(ServerParams::DEFAULT_MAX_CONCURRENT_STREAMS))
        .max_local_error_reset_streams(
            max_local_error_reset_streams.unwrap_or(ServerParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS),
        )
        // hyper takes `None` for h2's default, which is 20.
        .max_pending_accept_reset_streams(
            max_pending_accept_reset_streams.unwrap_or(ServerParams::DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS),
        )
        .max_header_list_size(max_header_list_size.unwrap_or(ServerParams::DEFAULT_MAX_HEADER_LIST_SIZE))
        .max_send_buf_size(max_send_buf_size.unwrap_or(ServerParams::DEFAULT_MAX_SEND_BUF_SIZE))
        .max_frame_size(max_frame_size.unwrap_or(ServerParams::DEFAULT_MAX_FRAME_SIZE))
        .header_table_size(header_table_size);
    match flow_control.unwrap_or(ServerParams::DEFAULT_FLOW_CONTROL) {
        FlowControl::Adaptive => builder.adaptive_window(true),
        FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size } => builder
            .initial_stream_window_size(initial_stream_window_size)
            .initial_connection_window_size(initial_connection_window_size),
    };
    if let Some(KeepAlive { interval, timeout }) = keep_alive {
        builder.keep_alive_interval(interval.min(MAX_DURATION)).keep_alive_timeout(timeout.min(MAX_DURATION));
    }
    Ok(builder)
}

/// hyper's client builder, with everything of `params` that it has a setter for, on tokio's timer.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use http_h2::{ClientParams, FlowControl};
/// use hyper_util::rt::{TokioExecutor, TokioIo};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (io, _server) = tokio::io::duplex(1_024);
/// let params = ClientParams { flow_control: Some(FlowControl::Adaptive), ..ClientParams::DEFAULT };
/// let builder = proxy_http::hyper::client_builder(&params, TokioExecutor::new())?;
/// let (client, connection) = builder.handshake::<_, Empty<Bytes>>(TokioIo::new(io)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The first of `params` that is out of its range: hyper and h2 would panic, or fail each connection.
pub fn client_builder<E: Clone>(params: &ClientParams, exec: E) -> Result<client::Builder<E>, OutOfRange> {
    params.validate()?;
    // No `..`: a new field must not compile until it is handled here or is a row of the module's table.
    let ClientParams {
        flow_control,
        keep_alive,
        max_concurrent_reset_streams,
        max_local_error_reset_streams,
        max_frame_size,
        header_table_size,
        max_header_list_size,
        max_send_buf_size,
        write_stall_timeout: _,
    } = *params;
    let mut builder = client::Builder::new(exec);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_reset_streams(
            max_concurrent_reset_streams.unwrap_or(ClientParams::DEFAULT_MAX_CONCURRENT_RESET_STREAMS),
        )
        .reset_stream_duration(RESET_STREAM_DURATION)
        // hyper takes `None` for no limit.
        .max_local_error_reset_streams(
            max_local_error_reset_streams.unwrap_or(ClientParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS),
        )
        .max_header_list_size(max_header_list_size.unwrap_or(ClientParams::DEFAULT_MAX_HEADER_LIST_SIZE))
        .max_send_buf_size(max_send_buf_size.unwrap_or(ClientParams::DEFAULT_MAX_SEND_BUF_SIZE))
        .max_frame_size(max_frame_size.unwrap_or(ClientParams::DEFAULT_MAX_FRAME_SIZE))
        .header_table_size(header_table_size);
    match flow_control.unwrap_or(ClientParams::DEFAULT_FLOW_CONTROL) {
        FlowControl::Adaptive => builder.adaptive_window(true),
        FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size } => builder
            .initial_stream_window_size(initial_stream_window_size)
            .initial_connection_window_size(initial_connection_window_size),
    };
    if let Some(ClientKeepAlive { interval, timeout, while_idle }) = keep_alive {
        builder
            .keep_alive_interval(interval.min(MAX_DURATION))
            .keep_alive_timeout(timeout.min(MAX_DURATION))
            .keep_alive_while_idle(while_idle);
    }
    Ok(builder)
}

// === impl Server ===

impl Server {
    /// A server whose connections are tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(params: &ServerParams) -> Result<Self, OutOfRange> {
        Ok(Self { builder: server_builder(params, TokioExecutor::new())? })
    }

    /// Serves one connection until the client closes it, or until it is drained.
    ///
    /// Draining starts when `drain` completes: the client is told by GOAWAY to open no more streams, and the connection
    /// closes when the last one ends. Each request is answered in a task of its own. An error of `service` resets the
    /// stream.
    ///
    /// # Errors
    ///
    /// When the transport fails, or when the client breaks the protocol or answers no keep-alive PING.
    pub async fn serve<I, S, B, D>(&self, io: I, service: S, drain: D) -> Result<(), hyper::Error>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        let service = TowerToHyperService::new(service);
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            biased;
            served = &mut connection => return served,
            () = drain => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

// === impl Connect ===

impl<C, B> Connect<C, B> {
    /// Connections over what `connector` makes, tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(connector: C, params: &ClientParams) -> Result<Self, OutOfRange> {
        Ok(Self { connector, builder: client_builder(params, TokioExecutor::new())?, body: PhantomData })
    }
}

impl<C, B, T> Service<T> for Connect<C, B>
where
    C: Service<T>,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = SendRequest<B>;
    type Error = ConnectError;
    // Boxed once a connection.
    type Future = ConnectFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.connector.poll_ready(cx).map_err(ConnectError::transport)
    }

    fn call(&mut self, target: T) -> ConnectFuture<B> {
        let connecting = self.connector.call(target);
        let builder = self.builder.clone();
        Box::pin(async move {
            let io = connecting.await.map_err(ConnectError::transport)?;
            let handshake = builder.handshake(TokioIo::new(io)).await;
            let (client, connection) = handshake.map_err(|error| ConnectError(ConnectErrorKind::Handshake(error)))?;
            // Ends with the connection, which closes when all handles are dropped and its streams have ended.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "connection to endpoint failed");
                }
            });
            Ok(SendRequest(client))
        })
    }
}

impl<C: Clone, B> Clone for Connect<C, B> {
    fn clone(&self) -> Self {
        Self { connector: self.connector.clone(), builder: self.builder.clone(), body: PhantomData }
    }
}

impl<C: fmt::Debug, B> fmt::Debug for Connect<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("connector", &self.connector).field("builder", &self.builder).finish()
    }
}

// === impl SendRequest ===

impl<B> SendRequest<B> {
    /// Whether the connection takes no more requests.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl<B> Service<Request<B>> for SendRequest<B>
where
    B: Body + Send + 'static,
{
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    // Boxed once a request: hyper's future has no name.
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, req: Request<B>) -> ResponseFuture {
        Box::pin(self.0.send_request(req))
    }
}

impl<B> Clone for SendRequest<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> fmt::Debug for SendRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRequest").field("closed", &self.is_closed()).finish()
    }
}

// === impl ConnectError ===

impl ConnectError {
    fn transport(source: impl Into<BoxError>) -> Self {
        Self(ConnectErrorKind::Transport(source.into()))
    }

    /// The connector failed, for example because the connection was refused.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        matches!(self.0, ConnectErrorKind::Transport(_))
    }

    /// The transport was made, but HTTP/2 did not start on it.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        matches!(self.0, ConnectErrorKind::Handshake(_))
    }
}
