//! Connections to endpoints: a tower service that makes them, and the service that each one is.

use crate::{
    BoxError, IncomingBody,
    activity::{Activity, OpenStream},
    credit::{Buffers, Credit},
    head::Head,
    http1::{self, client::To},
    hygiene,
    interim::Room,
    io::Io,
    ping::{self, Finding},
    pipe::{Pipe, Piped},
    reason::{self, Side},
    server::Protocol,
    stats::Transport,
};
use bytes::Bytes;
use h2::{Reason, ext};
use http::{Request, Response, Version, request::Parts};
use http_body::Body;
use http_h2::{ClientParams, FlowControl, OutOfRange};
use std::{
    error::Error as StdError,
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tower_service::Service;

/// Makes connections to targets: a `Service<Target>` whose response is the connection's service.
///
/// A connection of HTTP/2 is made when its peer's SETTINGS have come, and say that it takes streams.
///
/// `C` is the connector, a tower service that turns a target into an `AsyncRead + AsyncWrite`. `B` is the body of the
/// requests to be sent.
pub struct Connect<C, B> {
    connector: C,
    params: ClientParams,
    protocol: Protocol,
    builder: h2::client::Builder,
    timeout: Option<Duration>,
    transport: Arc<Transport>,
    buffers: Arc<Buffers>,
    body: PhantomData<fn(B)>,
}

/// One connection to an endpoint, as a service; clones share the connection.
///
/// A connection of HTTP/1.1 has one stream at a time; one that nobody waits for any more closes it.
/// The connection closes when all clones are dropped and the streams on it have ended. A request without authority
/// is sent without `:authority`. A response future that is dropped resets its stream with CANCEL.
pub struct SendRequest<B> {
    engine: Engine,
    activity: Arc<Activity>,
    closed: watch::Receiver<()>,
    write_stall: Duration,
    body: PhantomData<fn(B)>,
}

#[derive(Clone)]
enum Engine {
    Http2(h2::client::SendRequest<Bytes>),
    Http1(http1::client::Handle),
}

/// A response that is on its way; if it fails, its request is given back.
#[must_use = "a response that nobody waits for is cancelled"]
pub struct Sending<B>(Option<Box<Outgoing<B>>>);

/// A request that is to be sent, and perhaps again.
pub(crate) struct Outgoing<B> {
    head: Head,
    upload: Pipe<B>,
    sent: Option<Result<Sent, Error>>,
    /// Where the body goes in HTTP/1.1. `None`: it goes nowhere, or to a stream of HTTP/2.
    http1: Option<To>,
    interim: Room,
}

enum Sent {
    Http2 {
        response: h2::client::ResponseFuture,
        stream: OpenStream,
        /// Who wants to know of the response's data.
        activity: Option<Arc<Activity>>,
    },
    Http1(http1::client::Sent),
}

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
    #[error("HTTP handshake failed")]
    Handshake,
    #[error("connecting took longer than {0:?}")]
    TimedOut(Duration),
}

/// Why a request got no response.
#[derive(Debug)]
pub struct Error {
    /// `None`: `fault` says it all.
    source: Option<Source>,
    sent: bool,
    /// `None`: the source says it.
    fault: Option<Fault>,
}

/// What is wrong where it is not the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    RequestBroken,
    RequestTooLarge,
    Stalled,
    ResponseMalformed,
}

#[derive(Debug)]
enum Source {
    Http2(h2::Error),
    Http1(http1::client::Failure),
}

/// A request that got no response, given back.
pub struct SendError<B> {
    /// Why there is no response. [`Error::is_unprocessed`] says whether it is certainly safe to send the request again.
    pub error: Error,
    /// The request; some of its body may have been taken. `None`: the body broke, or the request cannot be sent at all.
    pub request: Option<Request<B>>,
}

/// Remembered locally reset streams where `ClientParams` name no number: enough that cancelled requests whose
/// answers arrive late do not end the connection for all others.
const DEFAULT_MAX_CONCURRENT_RESET_STREAMS: usize = 10_000;
// What `ClientParams` say of an unset one.
const DEFAULT_STREAM_WINDOW: u32 = 2 << 20;
const DEFAULT_CONNECTION_WINDOW: u32 = 5 << 20;
/// Four times that of servers, and about Envoy's 60 KiB: h2 leaves out, without a word, what is above it in trailers.
const DEFAULT_MAX_HEADER_LIST_SIZE: u32 = 64 << 10;
const DEFAULT_MAX_SEND_BUF_SIZE: usize = 1 << 20;
const DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;
const DEFAULT_WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// What DATA frames of less than 256 bytes that wait in h2 may cost before it ends the connection with
/// ENHANCE_YOUR_CALM, in bytes: each costs what is missing of the 256. h2's own choice is half of the connection's
/// window, which a burst of some 2,000 small gRPC messages is enough for. Bodies take what comes even when their readers
/// have stopped, so frames wait only from one read to the next poll of their streams, and a burst is what counts. This
/// is enough for all of a stream's default window in frames of one byte. The price is so much memory, which h2 keeps as
/// long as the connection lives, for each connection to an endpoint that sends such bursts.
const DATA_FRAME_BUDGET: usize = 16 << 20;
/// Streams to open before the peer's SETTINGS say how many it takes. None: those above its limit would be refused.
const INITIAL_MAX_SEND_STREAMS: usize = 0;

// === impl Connect ===

impl<C, B> Connect<C, B> {
    /// Connections over what `connector` makes, tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(connector: C, params: &ClientParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        Ok(Self {
            connector,
            params: *params,
            protocol: Protocol::Http2,
            builder: builder(params),
            timeout: None,
            transport: Arc::default(),
            buffers: Arc::default(),
            body: PhantomData,
        })
    }

    /// The same with other params, where `overrides` sets them.
    ///
    /// # Errors
    ///
    /// The first of the params that is out of its range.
    pub fn override_from(self, overrides: &ClientParams) -> Result<Self, OutOfRange> {
        let params = self.params.override_from(overrides);
        params.validate()?;
        Ok(Self { params, builder: builder(&params), ..self })
    }

    /// Speaks `protocol`. Not set: HTTP/2. Of the params, `max_header_list_size` alone holds for HTTP/1.1.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    pub(crate) fn is_http1(&self) -> bool {
        self.protocol == Protocol::Http1
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

    /// Has connections take what they hold for readers that have stopped from `buffers`. Not set: there is no bound.
    #[must_use]
    pub fn buffer_in(self, buffers: Arc<Buffers>) -> Self {
        Self { buffers, ..self }
    }
}

/// All of `params` that the engine takes; keep-alive and the timeout are the connection's own.
fn builder(params: &ClientParams) -> h2::client::Builder {
    // No `..`: a new field must not compile until it is handled here.
    let ClientParams {
        flow_control,
        keep_alive: _,
        max_concurrent_reset_streams,
        max_local_error_reset_streams,
        max_frame_size,
        header_table_size,
        max_header_list_size,
        max_send_buf_size,
        write_stall_timeout: _,
    } = *params;
    let mut builder = h2::client::Builder::new();
    let (stream, connection) = windows(flow_control);
    builder
        .enable_push(false)
        .initial_max_send_streams(INITIAL_MAX_SEND_STREAMS)
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_concurrent_reset_streams(max_concurrent_reset_streams.unwrap_or(DEFAULT_MAX_CONCURRENT_RESET_STREAMS))
        .max_local_error_reset_streams(Some(
            max_local_error_reset_streams.unwrap_or(DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS),
        ))
        .max_header_list_size(max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_send_buffer_size(max_send_buf_size.unwrap_or(DEFAULT_MAX_SEND_BUF_SIZE));
    if let Some(size) = max_frame_size {
        builder.max_frame_size(size);
    }
    if let Some(size) = header_table_size {
        builder.header_table_size(size);
    }
    builder
}

/// Those of a stream and of a connection, in bytes.
fn windows(flow_control: Option<FlowControl>) -> (u32, u32) {
    match flow_control {
        None => (DEFAULT_STREAM_WINDOW, DEFAULT_CONNECTION_WINDOW),
        Some(FlowControl::Adaptive) => (ping::INITIAL_WINDOW, ping::INITIAL_WINDOW),
        Some(FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size }) => {
            (initial_stream_window_size, initial_connection_window_size)
        }
    }
}

impl<C, B, T> Service<T> for Connect<C, B>
where
    C: Service<T>,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
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
        let buffers = Arc::clone(&self.buffers);
        let ClientParams {
            keep_alive,
            flow_control,
            max_local_error_reset_streams,
            max_header_list_size,
            write_stall_timeout,
            ..
        } = self.params;
        let max_malformed = max_local_error_reset_streams.unwrap_or(DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS) / 2;
        let write_stall = write_stall_timeout.unwrap_or(DEFAULT_WRITE_STALL_TIMEOUT);
        let adaptive = flow_control == Some(FlowControl::Adaptive);
        let timeout = self.timeout;
        let protocol = self.protocol;
        let connected = async move {
            let io = connecting.await.map_err(ConnectError::transport)?;
            let activity = Activity::new(adaptive);
            let (open, closed) = watch::channel(());
            let engine = match protocol {
                Protocol::Http2 => {
                    let io = Io::new(io, &transport, &activity).announced();
                    let (h2, mut connection) = builder.handshake(io).await.map_err(ConnectError::handshake)?;
                    activity.ping(connection.ping_pong(), keep_alive);
                    let mut credit = Credit::new(buffers, windows(flow_control));
                    settings(&mut connection, &h2, &activity, &mut credit).await?;
                    tokio::spawn(drive(connection, h2.clone(), Arc::clone(&activity), credit, open, max_malformed));
                    Engine::Http2(h2)
                }
                Protocol::Http1 => {
                    let io = Io::new(io, &transport, &activity);
                    let max_head = max_header_list_size.unwrap_or(DEFAULT_MAX_HEADER_LIST_SIZE);
                    let max_head = usize::try_from(max_head).unwrap_or(usize::MAX);
                    let made = http1::client::connect(io, max_head, open).await;
                    Engine::Http1(made.map_err(ConnectError::handshake)?)
                }
            };
            Ok(SendRequest { engine, activity, closed, write_stall, body: PhantomData })
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
            params: self.params,
            protocol: self.protocol,
            builder: self.builder.clone(),
            timeout: self.timeout,
            transport: Arc::clone(&self.transport),
            buffers: Arc::clone(&self.buffers),
            body: PhantomData,
        }
    }
}

impl<C: fmt::Debug, B> fmt::Debug for Connect<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("connector", &self.connector).field("timeout", &self.timeout).finish()
    }
}

/// Waits for the peer's SETTINGS, and then has the streams that it takes noted.
async fn settings<I: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<Io<I>, Bytes>,
    handle: &h2::client::SendRequest<Bytes>,
    activity: &Activity,
    credit: &mut Credit,
) -> Result<(), ConnectError> {
    poll_fn(|cx| {
        let ended = poll_connection(connection, activity, credit, cx).map_err(ConnectError::handshake)?;
        let max = handle.current_max_send_streams();
        activity.set_max_streams(max);
        match ended {
            Poll::Ready(()) => Poll::Ready(Err(ConnectError::handshake("connection was closed before SETTINGS came"))),
            Poll::Pending if max > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Moves a connection's frames until it is closed: by its peer, or because all handles are dropped and all streams
/// have ended. Drops `open` once it takes no more requests, as after more than `max_malformed` malformed responses.
async fn drive<I: AsyncRead + AsyncWrite + Unpin>(
    mut connection: h2::client::Connection<Io<I>, Bytes>,
    mut handle: h2::client::SendRequest<Bytes>,
    activity: Arc<Activity>,
    mut credit: Credit,
    open: watch::Sender<()>,
    max_malformed: usize,
) {
    let ended = {
        let mut going = pin!(poll_fn(|cx| {
            if let Poll::Ready(ended) = poll_connection(&mut connection, &activity, &mut credit, cx) {
                return Poll::Ready(Some(ended));
            }
            activity.set_max_streams(handle.current_max_send_streams());
            // Before h2 has enough of malformed responses, and ends the connection for all that is open on it.
            if activity.malformed() > max_malformed {
                return Poll::Ready(None);
            }
            // After GOAWAY, what is open goes on, but nothing can be added.
            match handle.poll_ready(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Err(_)) => Poll::Ready(None),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        }));
        tokio::select! {
            biased;
            ended = &mut going => ended,
            () = open.closed() => None,
        }
    };
    drop((open, handle));
    let ended = match ended {
        Some(ended) => ended,
        None => poll_fn(|cx| poll_connection(&mut connection, &activity, &mut credit, cx)).await,
    };
    if let Err(error) = ended {
        tracing::debug!(error = &*error, "connection to endpoint failed");
    }
}

fn poll_connection<I: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<Io<I>, Bytes>,
    activity: &Activity,
    credit: &mut Credit,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BoxError>> {
    activity.start_turn();
    // Before the connection, which then tells its peer.
    if let Some(size) = credit.poll(activity.open_streams(), cx.waker()) {
        connection.set_target_window_size(size);
    }
    if Pin::new(&mut *connection).poll(cx)?.is_ready() {
        return Poll::Ready(Ok(()));
    }
    while let Poll::Ready(found) = activity.poll_pings(cx) {
        match found {
            Finding::Dead => return Poll::Ready(Err("keep-alive timed out".into())),
            Finding::Window(size) => {
                connection.set_target_window_size(credit.resize(size, size));
                connection.set_initial_window_size(size)?;
            }
        }
    }
    Poll::Pending
}

// === impl SendRequest ===

impl<B> SendRequest<B> {
    /// Whether the connection takes no more requests: it was closed, or its peer sent GOAWAY.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.has_changed().is_err()
    }

    /// Streams that have not ended.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.activity.streams()
    }

    /// Streams that the peer takes at once: its SETTINGS_MAX_CONCURRENT_STREAMS. In HTTP/1.1 one, and none while the last
    /// one is not quite over.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        match &self.engine {
            Engine::Http2(_) => self.activity.max_streams(),
            Engine::Http1(http1) => http1.is_ready().into(),
        }
    }

    /// Whether the peer takes extended CONNECT (RFC 8441 section 3).
    pub(crate) fn takes_extended_connect(&self) -> bool {
        match &self.engine {
            Engine::Http2(h2) => h2.is_extended_connect_protocol_enabled(),
            // It is made an upgrade, and what comes of that is up to each request.
            Engine::Http1(_) => true,
        }
    }

    /// Whether the connection was of use, as known at any later time: in HTTP/1.1, where it may well end with its first
    /// response.
    pub(crate) fn worked(&self) -> impl Fn() -> bool + Send + use<B> {
        let worked: Option<Arc<AtomicBool>> = match &self.engine {
            Engine::Http2(_) => None,
            Engine::Http1(http1) => Some(http1.worked()),
        };
        move || worked.as_ref().is_some_and(|worked| worked.load(Relaxed))
    }

    /// Completes when the connection takes no more requests.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<B> {
        let mut closed = self.closed.clone();
        async move { while closed.changed().await.is_ok() {} }
    }
}

impl<B> SendRequest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends a request, and gives it back if it gets no response.
    ///
    /// Beyond the streams that the peer takes at once, it waits for one of them to end.
    pub fn try_send(&mut self, req: Request<B>) -> Sending<B> {
        let (head, body) = req.into_parts();
        let mut request = Box::new(Outgoing::new(head, body, false));
        self.send(&mut request);
        Sending(Some(request))
    }

    /// Sends a request, or sends it again.
    pub(crate) fn send(&mut self, request: &mut Outgoing<B>) {
        request.sent = Some(self.start(request));
    }

    fn start(&mut self, Outgoing { head, upload, http1, .. }: &mut Outgoing<B>) -> Result<Sent, Error> {
        let h2 = match &mut self.engine {
            Engine::Http2(h2) => h2,
            Engine::Http1(handle) => {
                let stream = self.activity.open_stream();
                let sent = handle.send(head.take(), upload.body_mut(), stream, self.write_stall);
                let (sent, to) = sent.map_err(Error::http1)?;
                *http1 = Some(to);
                return Ok(Sent::Http1(sent));
            }
        };
        let ended = upload.body_mut().is_end_stream();
        let request = outgoing(head);
        // Some endpoints would end the connection for it.
        if head.list_size().is_some_and(|size| size > self.activity.max_header_list()) {
            return Err(Error::REQUEST_TOO_LARGE);
        }
        let sent = match h2.send_request(request, ended) {
            // The last request waits to be sent. A handle has one such at most, but there may be many handles.
            Err(_) if h2.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending() => {
                *h2 = h2.clone();
                h2.send_request(outgoing(head), ended)
            }
            sent => sent,
        };
        let (response, to) = sent.map_err(Error::unsent)?;
        upload.send_to(to, self.write_stall);
        let (stream, activity) = (self.activity.open_stream(), self.activity.if_adaptive());
        Ok(Sent::Http2 { response, stream, activity })
    }
}

/// A head as h2 sends it.
fn outgoing(head: &mut Head) -> Request<()> {
    let mut head = head.take();
    // h2 takes a request without authority only as one that comes from HTTP/1.1; it is sent without `:authority` all
    // the same. linkerd2-proxy does it so.
    head.version = if head.uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    Request::from_parts(head, ())
}

impl<B> Service<Request<B>> for SendRequest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<IncomingBody>;
    type Error = Error;
    type Future = ResponseFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.engine {
            Engine::Http2(h2) => h2.poll_ready(cx).map_err(Error::unsent),
            Engine::Http1(http1) => http1.poll_ready(cx).map_err(Error::http1),
        }
    }

    fn call(&mut self, req: Request<B>) -> ResponseFuture<B> {
        ResponseFuture(self.try_send(req))
    }
}

impl<B> Clone for SendRequest<B> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            activity: Arc::clone(&self.activity),
            closed: self.closed.clone(),
            write_stall: self.write_stall,
            body: PhantomData,
        }
    }
}

impl<B> fmt::Debug for SendRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRequest").field("closed", &self.is_closed()).finish()
    }
}

// === impl Outgoing ===

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// `strip`: see [`Head::Whole`].
    pub(crate) fn new(head: Parts, body: B, strip: bool) -> Self {
        let head = Head::Whole { head, strip };
        Self { head, upload: Pipe::new(body, Reason::CANCEL), sent: None, http1: None, interim: Room::new() }
    }

    pub(crate) fn body_mut(&mut self) -> &mut B {
        self.upload.body_mut()
    }

    /// Sends nothing more, until it is sent again.
    pub(crate) fn stop(&mut self) {
        self.upload.stop();
        self.http1 = None;
    }

    /// Ready with the response when it has been sent; the request may still be on its way then.
    pub(crate) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<IncomingBody>, Error>> {
        if let Some(Ok(Sent::Http2 { response, stream, .. })) = &mut self.sent {
            let responded = match self.upload.poll(cx) {
                Poll::Ready(Piped::Broken) => Err(Error::REQUEST_BROKEN),
                Poll::Ready(Piped::Stalled) => Err(Error::STALLED),
                _ => {
                    while stream.expects_interim()
                        && let Poll::Ready(Some(Ok(rsp))) = response.poll_informational(cx)
                    {
                        self.interim.pass(rsp);
                    }
                    ready!(Pin::new(response).poll(cx)).map_err(Error::unanswered).and_then(|mut rsp| {
                        let length = hygiene::response(&mut rsp).map_err(|_| Error::RESPONSE_MALFORMED)?;
                        Ok((rsp, length))
                    })
                }
            };
            let Some(Ok(Sent::Http2 { stream, activity, .. })) = self.sent.take() else { unreachable!() };
            if responded.as_ref().is_err_and(Error::is_response_malformed) {
                stream.malformed();
            }
            return Poll::Ready(responded.map(|(rsp, length)| {
                let (head, body) = rsp.into_parts();
                let body = IncomingBody::new(Side::Endpoint, || length, body, activity);
                let body = if hygiene::has_no_content(head.status) { body.without_content() } else { body };
                Response::from_parts(head, body.counted(stream).alone(self.upload.is_done()))
            }));
        }
        if let Some(Ok(Sent::Http1(sent))) = &mut self.sent {
            let sending = self.http1.as_mut().map(|to| to.poll(self.upload.body_mut(), &mut self.interim, cx));
            let responded = match sending {
                Some(Poll::Ready(Piped::Broken)) => Err(Error::REQUEST_BROKEN),
                Some(Poll::Ready(Piped::Stalled)) => Err(Error::STALLED),
                _ => ready!(sent.poll(cx)).map_err(Error::http1),
            };
            let Some(Ok(Sent::Http1(sent))) = self.sent.take() else { unreachable!() };
            let (stream, to) = sent.into_parts();
            if to.is_some() {
                self.http1 = to;
            }
            return Poll::Ready(
                responded.map(|rsp| rsp.map(|body| IncomingBody::http1(Side::Endpoint, body).counted(stream))),
            );
        }
        match self.sent.take() {
            Some(Err(error)) => Poll::Ready(Err(error)),
            _ => panic!("a response was polled before its request was sent, or after its end"),
        }
    }

    /// Whether all of the request has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.upload.is_done() && self.http1.as_ref().is_none_or(To::is_done)
    }

    /// Whether it asks for a tunnel.
    pub(crate) fn is_connect(&self) -> bool {
        self.head.is_connect()
    }

    /// Whether it asks for one as RFC 8441 has it.
    pub(crate) fn is_extended_connect(&self) -> bool {
        self.head.is_connect() && self.head.extensions().get::<ext::Protocol>().is_some()
    }

    /// Sends the rest of the request by itself, and tells how that ended.
    pub(crate) fn go_on(self, ended: impl FnOnce(Piped) + Send + 'static) {
        match self.http1 {
            None => self.upload.go_on(ended),
            Some(http1) => http1.go_on(self.upload.into_body(), ended),
        }
    }

    /// What can be sent again, if anything.
    fn give_back(self, error: &Error) -> Option<Request<B>> {
        let whole = !error.is_request_broken() && !error.is_stalled() && !error.is_malformed();
        whole.then(|| Request::from_parts(self.head.into_parts(), self.upload.into_body()))
    }
}

// === impl Sending ===

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<IncomingBody>, SendError<B>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let request = self.0.as_mut().expect("a response is polled to its end once");
        let responded = ready!(request.poll_response(cx));
        let request = self.0.take().expect("seen above");
        Poll::Ready(match responded {
            Ok(response) => {
                request.go_on(|_| {});
                Ok(response.map(IncomingBody::unread))
            }
            Err(error) => Err(SendError { request: request.give_back(&error), error }),
        })
    }
}

impl<B> Future for ResponseFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<IncomingBody>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|failed| failed.error)
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

    fn handshake(source: impl Into<BoxError>) -> Self {
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

    /// The transport was made, but the peer's SETTINGS did not come.
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
    const REQUEST_BROKEN: Self = Self { source: None, sent: true, fault: Some(Fault::RequestBroken) };
    const STALLED: Self = Self { source: None, sent: true, fault: Some(Fault::Stalled) };
    const REQUEST_TOO_LARGE: Self = Self { source: None, sent: false, fault: Some(Fault::RequestTooLarge) };
    const RESPONSE_MALFORMED: Self = Self { source: None, sent: true, fault: Some(Fault::ResponseMalformed) };

    fn unsent(source: h2::Error) -> Self {
        Self { source: Some(Source::Http2(source)), sent: false, fault: None }
    }

    fn unanswered(source: h2::Error) -> Self {
        // h2 resets what is malformed.
        let fault = (source.is_reset() && source.is_library()).then_some(Fault::ResponseMalformed);
        Self { source: Some(Source::Http2(source)), sent: true, fault }
    }

    fn http1(source: http1::client::Failure) -> Self {
        let sent = !source.is_unsent();
        let fault = source.is_bad().then_some(Fault::ResponseMalformed);
        Self { source: Some(Source::Http1(source)), sent, fault }
    }

    fn http2(&self) -> Option<&h2::Error> {
        match &self.source {
            Some(Source::Http2(source)) => Some(source),
            _ => None,
        }
    }

    /// The request's own body broke, so that its stream was reset; the endpoint has done nothing wrong.
    #[must_use]
    pub fn is_request_broken(&self) -> bool {
        self.fault == Some(Fault::RequestBroken)
    }

    /// The endpoint took no more of the request for too long, so that its stream was reset.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.fault == Some(Fault::Stalled)
    }

    /// The request's head is larger than the endpoint announced to take (SETTINGS_MAX_HEADER_LIST_SIZE), so that nothing
    /// was sent.
    #[must_use]
    pub fn is_request_too_large(&self) -> bool {
        self.fault == Some(Fault::RequestTooLarge)
    }

    /// HTTP does not allow the response; its stream is reset, all others go on.
    #[must_use]
    pub fn is_response_malformed(&self) -> bool {
        self.fault == Some(Fault::ResponseMalformed)
    }

    /// The code of the RST_STREAM that the endpoint answered with, if it did.
    #[must_use]
    pub fn reset(&self) -> Option<u32> {
        self.remote_reset().map(Into::into)
    }

    /// The endpoint has certainly not processed the request: nothing of it was sent, or the endpoint said so, by
    /// GOAWAY or by REFUSED_STREAM (RFC 9113 section 8.7).
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        !self.sent || self.is_left_out() || self.remote_reset() == Some(Reason::REFUSED_STREAM)
    }

    /// Nothing of the request was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        !self.sent
    }

    /// The request cannot be sent, by this connection or another: h2 finds so, or it has no form in HTTP/1.1.
    pub(crate) fn is_malformed(&self) -> bool {
        let closed = |source: &h2::Error| source.is_io() || source.is_go_away();
        !self.sent && self.http2().is_some_and(|source| !closed(source)) || self.is_refused()
    }

    /// The request has no form in HTTP/1.1.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_refused())
    }

    /// A connection of HTTP/1.1 was lost on which there had been other requests: its peer may have closed it before it
    /// saw this one.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_stale())
    }

    /// So was one that had a WebSocket's handshake, which is a GET, though to us it is none.
    pub(crate) fn is_handshake(&self) -> bool {
        matches!(&self.source, Some(Source::Http1(source)) if source.is_handshake())
    }

    /// The endpoint's GOAWAY leaves the request out.
    pub(crate) fn is_left_out(&self) -> bool {
        self.http2().is_some_and(|source| source.is_go_away() && source.is_remote())
    }

    /// The connection was lost before the response's head arrived.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        self.fault.is_none() && self.remote_reset().is_none() && !self.is_unprocessed()
    }

    pub(crate) fn remote_reset(&self) -> Option<Reason> {
        self.http2().and_then(reason::remote_reset)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote_reset() {
            Some(reason) => write!(f, "endpoint reset the stream: {reason:?}"),
            None if self.is_response_malformed() => f.write_str("endpoint's response is malformed"),
            None if self.is_request_too_large() => f.write_str("the request's head is larger than the endpoint takes"),
            None if self.is_request_broken() => f.write_str("the request's body broke"),
            None if self.is_stalled() => f.write_str("endpoint took no more of the request"),
            None if self.is_left_out() => f.write_str("endpoint went away before it processed the request"),
            None => match &self.source {
                Some(Source::Http1(source)) => source.fmt(f),
                _ => f.write_str("connection to endpoint was lost"),
            },
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.source.as_ref()? {
            Source::Http2(source) => Some(source),
            // It is what `Display` shows.
            Source::Http1(source) => source.source(),
        }
    }
}

// === impl SendError ===

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("error", &self.error).field("request", &self.request.is_some()).finish()
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
