//! Connections from clients, served by a tower service.

use crate::{
    BoxError, IncomingBody,
    exec::Spawn,
    io::{Activity, Io},
    stats::Transport,
};
use bytes::Buf;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_h2::{FlowControl, KeepAlive, OutOfRange, ServerParams};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use std::{
    cell::RefCell,
    error::Error as StdError,
    fmt,
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

/// Serves HTTP/2 with prior knowledge on any transport.
#[derive(Clone, Debug)]
pub struct Server {
    builder: http2::Builder<Spawn>,
    transport: Arc<Transport>,
}

/// Why a connection ended other than by its client closing it.
#[derive(Debug, thiserror::Error)]
#[error("connection from client failed")]
pub struct Error {
    source: hyper::Error,
}

/// hyper's view of a tower service.
struct PerConnection<S> {
    // hyper calls services by shared reference, but only ever from the connection's one task.
    service: RefCell<S>,
    activity: Arc<Activity>,
}

pin_project! {
    /// A request that is being answered.
    struct Responding<S, F> {
        #[pin]
        state: State<S, F>,
        stream: Option<OpenStream>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<S, F> {
        Unready { waiting: Option<Box<(S, Request<IncomingBody>)>> },
        Called { #[pin] response: F },
    }
}

pin_project! {
    /// A response's body, which keeps its stream counted as open.
    struct Counted<B> {
        #[pin]
        inner: B,
        stream: OpenStream,
    }
}

/// Counts a stream as open while it lives.
struct OpenStream(Arc<Activity>);

/// How long a draining connection with no open stream may stay silent before it is closed. A client that answers the
/// drain's PING is gone long before.
const DRAIN_SILENCE: Duration = Duration::from_secs(5);

// === impl Server ===

impl Server {
    /// A server whose connections are tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(params: &ServerParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        let mut builder = http2::Builder::new(Spawn);
        // A proxy passes on the date that the origin gave, or none.
        builder.timer(TokioTimer::new()).auto_date_header(false);
        apply(params, &mut builder);
        Ok(Self { builder, transport: Arc::default() })
    }

    /// Counts connections and their bytes on `transport`.
    #[must_use]
    pub fn count_on(self, transport: Arc<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Serves one connection until the client closes it, or until it is drained.
    ///
    /// Draining starts when `drain` completes: the client is told by GOAWAY to open no more streams, those that it
    /// had sent by then are served, and the connection closes when the last one ends. A client that does not play
    /// along is closed once no stream is open and nothing has moved for five seconds.
    ///
    /// An error of `service` resets the stream, with the code of the first `h2::Error` among its sources or else with
    /// INTERNAL_ERROR.
    ///
    /// # Errors
    ///
    /// When the transport fails, or when the client breaks the protocol.
    pub async fn serve<I, S, B, D>(&self, io: I, service: S, drain: D) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Buf + Send + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        let activity = Arc::<Activity>::default();
        let io = TokioIo::new(Io::new(io, &self.transport, &activity));
        let service = PerConnection { service: RefCell::new(service), activity: Arc::clone(&activity) };
        let mut connection = pin!(self.builder.serve_connection(io, service));
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended.map_err(|source| Error { source }),
            () = drain => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            biased;
            ended = connection => ended.map_err(|source| Error { source }),
            () = activity.silence() => Ok(()),
        }
    }
}

/// Sets each of `params` that is given; what is not keeps hyper's default.
fn apply(params: &ServerParams, builder: &mut http2::Builder<Spawn>) {
    // No `..`: a new field must not compile until it is handled here.
    let ServerParams {
        flow_control,
        keep_alive,
        max_concurrent_streams,
        max_frame_size,
        header_table_size,
        max_header_list_size,
        max_pending_accept_reset_streams,
        max_local_error_reset_streams,
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
    if let Some(KeepAlive { interval, timeout }) = keep_alive {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    // Not passed on when unset: hyper takes `None` for "no limit" here.
    if let Some(max) = max_concurrent_streams {
        builder.max_concurrent_streams(max);
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
    if let Some(max) = max_pending_accept_reset_streams {
        builder.max_pending_accept_reset_streams(max);
    }
    if let Some(max) = max_local_error_reset_streams {
        builder.max_local_error_reset_streams(max);
    }
    if let Some(size) = max_send_buf_size {
        builder.max_send_buf_size(size);
    }
}

// === impl PerConnection ===

impl<S, B> hyper::service::Service<Request<Incoming>> for PerConnection<S>
where
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<Counted<B>>;
    type Error = S::Error;
    type Future = Responding<S, S::Future>;

    fn call(&self, req: Request<Incoming>) -> Self::Future {
        self.activity.streams.fetch_add(1, Relaxed);
        let stream = Some(OpenStream(Arc::clone(&self.activity)));
        let req = req.map(IncomingBody::from_client);
        let mut service = self.service.borrow_mut();
        // Nearly always ready; if not, the request waits in its own task with its own waker.
        let state = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => State::Called { response: service.call(req) },
            Poll::Ready(Err(_)) | Poll::Pending => {
                let clone = service.clone();
                State::Unready { waiting: Some(Box::new((mem::replace(&mut *service, clone), req))) }
            }
        };
        Responding { state, stream }
    }
}

// === impl Responding ===

impl<S, B> Future for Responding<S, S::Future>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
{
    type Output = Result<Response<Counted<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Called { response } => {
                    let rsp = ready!(response.poll(cx))?;
                    let stream = this.stream.take().expect("a response is polled to its end once");
                    return Poll::Ready(Ok(rsp.map(|inner| Counted { inner, stream })));
                }
                StateProj::Unready { waiting } => {
                    let (service, _) = &mut **waiting.as_mut().expect("a service is called once");
                    ready!(service.poll_ready(cx))?;
                    let (mut service, req) = *waiting.take().expect("seen above");
                    let response = service.call(req);
                    this.state.as_mut().project_replace(State::Called { response });
                }
            }
        }
    }
}

// === impl Counted ===

impl<B: Body> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl OpenStream ===

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

// === impl Activity ===

impl Activity {
    /// Completes when, for [`DRAIN_SILENCE`], no stream was open and not a byte moved.
    async fn silence(&self) {
        loop {
            let before = self.moves.load(Relaxed);
            tokio::time::sleep(DRAIN_SILENCE).await;
            if self.streams.load(Relaxed) == 0 && self.moves.load(Relaxed) == before {
                return;
            }
        }
    }
}

impl<S> fmt::Debug for PerConnection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerConnection").field("activity", &self.activity).finish_non_exhaustive()
    }
}

impl Error {
    /// The client was gone before it sent the HTTP/2 preface, or while nothing was open: nothing to worry about.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        crate::reason::h2_error(&self.source).is_none_or(h2::Error::is_io)
    }

    /// The cause, for a log line.
    #[must_use]
    pub fn cause(&self) -> &(dyn StdError + 'static) {
        &self.source
    }
}
