//! Connections to endpoints: a tower service that makes them, and the service that each one is.

use crate::{BoxError, IncomingBody, exec::Spawn, io::Io, reason, stats::Transport};
use h2::Reason;
use http::{Request, Response, Version};
use http_body::Body;
use http_h2::{ClientKeepAlive, ClientParams, FlowControl, OutOfRange};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tower_service::Service;

/// Makes HTTP/2 connections to targets: a `Service<Target>` whose response is the connection's service.
///
/// `C` is the connector, a tower service that turns a target into an `AsyncRead + AsyncWrite`. `B` is the body of the
/// requests to be sent.
pub struct Connect<C, B> {
    connector: C,
    builder: http2::Builder<Spawn>,
    timeout: Option<Duration>,
    transport: Arc<Transport>,
    body: PhantomData<fn(B)>,
}

/// One HTTP/2 connection to an endpoint, as a service; clones share the connection.
///
/// The connection closes when all clones are dropped and the streams on it have ended. A request without authority
/// is sent without `:authority`. A response future that is dropped resets its stream with CANCEL.
pub struct SendRequest<B> {
    inner: http2::SendRequest<B>,
    closed: watch::Receiver<()>,
}

/// A response that is on its way; its request is given back if nothing of it was sent.
#[must_use = "a response that nobody waits for is cancelled"]
pub struct Sending<B> {
    // The one box of a request: hyper's future has no name.
    inner: Pin<Box<dyn Future<Output = Sent<B>> + Send>>,
}

/// What hyper says of a request.
type Sent<B> = Result<Response<Incoming>, TrySendError<Request<B>>>;

/// A response that is on its way.
#[derive(Debug)]
#[must_use = "a response that nobody waits for is cancelled"]
pub struct ResponseFuture<B>(Sending<B>);

/// A connection that is being made.
pub type ConnectFuture<B> = Pin<Box<dyn Future<Output = Result<SendRequest<B>, ConnectError>> + Send>>;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ConnectError {
    kind: ConnectErrorKind,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum ConnectErrorKind {
    #[error("could not connect")]
    Transport,
    #[error("HTTP/2 handshake failed")]
    Handshake,
    #[error("connecting took longer than {0:?}")]
    TimedOut(Duration),
}

/// Why a request got no response.
#[derive(Debug)]
pub struct Error {
    source: hyper::Error,
}

/// A request that got no response, given back if not a byte of it was sent.
pub struct SendError<B> {
    /// Why there is no response.
    pub error: Error,
    /// The request, to be sent elsewhere. `None`: the endpoint may have seen it.
    pub request: Option<Request<B>>,
}

/// Remembered locally reset streams where `ClientParams` name no number: enough that cancelled requests whose
/// answers arrive late do not end the connection for all others.
const DEFAULT_MAX_CONCURRENT_RESET_STREAMS: usize = 10_000;

// === impl Connect ===

impl<C, B> Connect<C, B> {
    /// Connections over what `connector` makes, tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(connector: C, params: &ClientParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        let mut builder = http2::Builder::new(Spawn);
        builder.timer(TokioTimer::new());
        apply(params, &mut builder);
        Ok(Self { connector, builder, timeout: None, transport: Arc::default(), body: PhantomData })
    }

    /// Gives up when transport and handshake take longer than `timeout`. Not set: no limit.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Counts connections and their bytes on `transport`.
    #[must_use]
    pub fn count_on(self, transport: Arc<Transport>) -> Self {
        Self { transport, ..self }
    }
}

/// Sets each of `params` that is given; what is not keeps hyper's default.
fn apply(params: &ClientParams, builder: &mut http2::Builder<Spawn>) {
    // No `..`: a new field must not compile until it is handled here.
    let ClientParams {
        flow_control,
        keep_alive,
        max_concurrent_reset_streams,
        max_local_error_reset_streams,
        max_frame_size,
        header_table_size,
        max_header_list_size,
        max_send_buf_size,
    } = *params;
    match flow_control {
        None => {}
        Some(FlowControl::Adaptive) => {
            builder.adaptive_window(true);
        }
        Some(FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size }) => {
            builder
                .initial_stream_window_size(initial_stream_window_size)
                .initial_connection_window_size(initial_connection_window_size);
        }
    }
    if let Some(ClientKeepAlive { interval, timeout, while_idle }) = keep_alive {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(while_idle);
    }
    builder.max_concurrent_reset_streams(max_concurrent_reset_streams.unwrap_or(DEFAULT_MAX_CONCURRENT_RESET_STREAMS));
    if let Some(max) = max_local_error_reset_streams {
        builder.max_local_error_reset_streams(max);
    }
    if let Some(size) = max_frame_size {
        builder.max_frame_size(size);
    }
    if let Some(size) = header_table_size {
        builder.header_table_size(size);
    }
    if let Some(size) = max_header_list_size {
        builder.max_header_list_size(size);
    }
    if let Some(size) = max_send_buf_size {
        builder.max_send_buf_size(size);
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
        let transport = Arc::clone(&self.transport);
        let timeout = self.timeout;
        let connected = async move {
            let io = connecting.await.map_err(ConnectError::transport)?;
            let io = TokioIo::new(Io::new(io, &transport, &Arc::default()));
            let (inner, connection) = builder.handshake(io).await.map_err(ConnectError::handshake)?;
            let (open, closed) = watch::channel(());
            // Ends when the peer closes, or when all senders are dropped and all streams have ended.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = &error as &dyn StdError, "connection to endpoint failed");
                }
                drop(open);
            });
            Ok(SendRequest { inner, closed })
        };
        Box::pin(async move {
            let Some(limit) = timeout else { return connected.await };
            tokio::time::timeout(limit, connected).await.unwrap_or_else(|_| Err(ConnectError::timed_out(limit)))
        })
    }
}

impl<C: Clone, B> Clone for Connect<C, B> {
    fn clone(&self) -> Self {
        Self {
            connector: self.connector.clone(),
            builder: self.builder.clone(),
            timeout: self.timeout,
            transport: Arc::clone(&self.transport),
            body: PhantomData,
        }
    }
}

impl<C: fmt::Debug, B> fmt::Debug for Connect<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("connector", &self.connector).field("timeout", &self.timeout).finish()
    }
}

// === impl SendRequest ===

impl<B> SendRequest<B> {
    /// Whether the connection takes no more requests: it was closed, or its peer sent GOAWAY.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Completes when the connection takes no more requests.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<B> {
        let mut closed = self.closed.clone();
        async move { while closed.changed().await.is_ok() {} }
    }
}

impl<B> SendRequest<B>
where
    B: Body + Send + 'static,
{
    /// Sends a request, and gives it back if the connection ended before any of it was sent.
    pub fn try_send(&mut self, mut req: Request<B>) -> Sending<B> {
        // h2 takes a request without authority only as one that comes from HTTP/1.1; it is sent without `:authority`
        // all the same. linkerd2-proxy does it so.
        *req.version_mut() = if req.uri().authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
        Sending { inner: Box::pin(self.inner.try_send_request(req)) }
    }
}

impl<B> Future for Sending<B> {
    type Output = Result<Response<IncomingBody>, SendError<B>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.inner.as_mut().poll(cx)) {
            Ok(rsp) => Ok(rsp.map(IncomingBody::from_endpoint)),
            Err(mut error) => {
                let request = error.take_message();
                Err(SendError { error: Error { source: error.into_error() }, request })
            }
        })
    }
}

impl<B> Future for ResponseFuture<B> {
    type Output = Result<Response<IncomingBody>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|failed| failed.error)
    }
}

impl<B> Service<Request<B>> for SendRequest<B>
where
    B: Body + Send + 'static,
{
    type Response = Response<IncomingBody>;
    type Error = Error;
    type Future = ResponseFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(|source| Error { source })
    }

    fn call(&mut self, req: Request<B>) -> ResponseFuture<B> {
        ResponseFuture(self.try_send(req))
    }
}

impl<B> Clone for SendRequest<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), closed: self.closed.clone() }
    }
}

impl<B> fmt::Debug for SendRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRequest").field("closed", &self.is_closed()).finish()
    }
}

impl<B> fmt::Debug for Sending<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

// === impl ConnectError ===

impl ConnectError {
    fn transport(source: impl Into<BoxError>) -> Self {
        Self { kind: ConnectErrorKind::Transport, source: Some(source.into()) }
    }

    fn handshake(source: hyper::Error) -> Self {
        Self { kind: ConnectErrorKind::Handshake, source: Some(source.into()) }
    }

    fn timed_out(limit: Duration) -> Self {
        Self { kind: ConnectErrorKind::TimedOut(limit), source: None }
    }

    /// The connector failed, for example because the connection was refused.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        self.kind == ConnectErrorKind::Transport
    }

    /// The transport was made, but the HTTP/2 preface could not be sent.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.kind == ConnectErrorKind::Handshake
    }

    /// Connecting took longer than allowed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, ConnectErrorKind::TimedOut(_))
    }
}

// === impl Error ===

impl Error {
    /// The code of the RST_STREAM that the endpoint answered with, if it did.
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        self.remote_reset().map(Into::into)
    }

    /// The endpoint said, by GOAWAY, that it has not processed the request and will not.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        reason::h2_error(&self.source).is_some_and(|h2| h2.is_go_away() && h2.is_remote())
    }

    /// The connection was lost before the response's head arrived.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.remote_reset().is_none() && !self.is_unprocessed()
    }

    pub(crate) fn remote_reset(&self) -> Option<Reason> {
        reason::remote_reset(&self.source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote_reset() {
            Some(reason) => write!(f, "endpoint reset the stream: {reason:?}"),
            None if self.is_unprocessed() => f.write_str("endpoint went away before it processed the request"),
            None => f.write_str("connection to endpoint was lost"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

// === impl SendError ===

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("error", &self.error).field("unsent", &self.request.is_some()).finish()
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> StdError for SendError<B> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        StdError::source(&self.error)
    }
}
