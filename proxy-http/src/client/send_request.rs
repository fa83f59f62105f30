//! A connection to an endpoint as a service of requests, in either version.

use crate::{
    BoxError, IncomingBody,
    body::{outcome::SendOutcome, send::Pipe},
    client::{
        error::{Error, SendError},
        http1::{self, BodySink},
        http2,
    },
    connection::{
        flow::sending::{SendingStream, StoppedClient},
        state::ConnectionState,
        streams::OpenStream,
        write_batch::Chunk,
    },
    http1::tunnel,
    message::{authority, connect_protocol::ConnectProtocol, head::Head, interim::InterimBudget, validate},
    stats::Side,
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request::Parts, uri::Authority};
use http_body::Body;
use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::sync::watch;
use tower_service::Service;

/// One connection to an endpoint, as a service; clones share the connection.
///
/// The connection closes when all clones are dropped and the streams on it have ended. A request without authority is sent
/// without `:authority`. A response that is dropped before its end resets its stream with CANCEL. A connection of HTTP/1.1
/// has one stream at a time, and closes if a response is dropped before its end.
///
/// A response that ends while its request is still being sent ends the request, too, unless the stream is a tunnel: the
/// stream is reset with CANCEL, and in HTTP/1.1 the connection closes.
pub struct SendRequest<B> {
    pub(super) engine: Engine,
    pub(super) connection_state: Arc<ConnectionState>,
    pub(super) closed: watch::Receiver<()>,
    pub(super) write_stall: Duration,
    /// Replaces the authority of each request. `None`: the request's own is sent.
    pub(super) authority: Option<Arc<Authority>>,
    pub(super) body: PhantomData<fn(B)>,
}

#[derive(Clone)]
pub(super) enum Engine {
    Http2(h2::client::SendRequest<Chunk>),
    Http1(http1::Handle),
}

/// The future of a response; if it fails, the error has the request.
#[must_use = "a response that nobody waits for is cancelled"]
pub struct Sending<B>(Option<Box<OutgoingRequest<B>>>);

/// A request that can be sent, and sent again.
pub(crate) struct OutgoingRequest<B> {
    head: Head,
    upload: Pipe<B>,
    sent: Option<Result<InFlight, Error>>,
    /// Where the body goes in HTTP/1.1. `None`: the request is not being sent, or in HTTP/2.
    http1: Option<BodySink>,
    interim: InterimBudget,
    /// The client does not read other responses.
    is_of_stopped_client: bool,
}

enum InFlight {
    Http2 {
        response: h2::client::ResponseFuture,
        stream: OpenStream,
    },
    /// Boxed to keep the enum as small as the other variant.
    Http1(Box<http1::PendingResponse>),
}

/// The future of a response.
#[derive(Debug)]
#[must_use = "a response that nobody waits for is cancelled"]
pub struct ResponseFuture<B>(Sending<B>);

// === impl SendRequest ===

impl<B> SendRequest<B> {
    /// Whether the connection accepts no more requests: it was closed, the peer sent GOAWAY, or it is to be replaced.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.has_changed().is_err()
    }

    /// Open streams.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.connection_state.streams()
    }

    /// Concurrent streams that the peer accepts: its SETTINGS_MAX_CONCURRENT_STREAMS. In HTTP/1.1 one, and none until the
    /// connection can be reused after the last request.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        match &self.engine {
            Engine::Http2(_) => self.connection_state.max_streams(),
            Engine::Http1(http1) => http1.is_ready().into(),
        }
    }

    /// Whether the peer's SETTINGS enable extended CONNECT (RFC 8441 section 3).
    pub(crate) fn is_extended_connect_enabled(&self) -> bool {
        match &self.engine {
            Engine::Http2(h2) => h2.is_extended_connect_protocol_enabled(),
            // It is sent as an upgrade, which the endpoint accepts or not for each request.
            Engine::Http1(_) => true,
        }
    }

    /// Whether the endpoint has answered any request on the connection.
    pub(crate) fn has_answered(&self) -> bool {
        self.connection_state.has_answered()
    }

    /// The state of the connection, also after its end.
    pub(crate) fn connection_state(&self) -> &Arc<ConnectionState> {
        &self.connection_state
    }

    /// Completes when the connection accepts no more requests.
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
    /// Sends a request. If it gets no response, the error has the request.
    ///
    /// Beyond the concurrent streams that the peer accepts, the request waits for one of them to end.
    pub fn try_send(&mut self, req: Request<B>) -> Sending<B> {
        let (head, body) = req.into_parts();
        let mut request = Box::new(OutgoingRequest::new(head, body, false));
        self.send(&mut request);
        Sending(Some(request))
    }

    /// Sends a request, or sends it again.
    pub(crate) fn send(&mut self, request: &mut OutgoingRequest<B>) {
        request.sent = Some(self.start(request).map_err(|error| error.with_connection_answered(self.has_answered())));
    }

    fn start(
        &mut self,
        OutgoingRequest { head, upload, http1, .. }: &mut OutgoingRequest<B>,
    ) -> Result<InFlight, Error> {
        let authority = &self.authority;
        let h2 = match &mut self.engine {
            Engine::Http2(h2) => h2,
            Engine::Http1(handle) => {
                let stream = self.connection_state.open_stream();
                let sent = handle.send(take(head, authority.as_deref()), upload.body_mut(), stream, self.write_stall);
                let (sent, to) = sent.map_err(Error::http1)?;
                *http1 = Some(to);
                return Ok(InFlight::Http1(Box::new(sent)));
            }
        };
        let ended = upload.body_mut().is_end_stream();
        let request = http2::request(take(head, authority.as_deref()));
        let path = request.uri().path_and_query().filter(|_| !ended).cloned();
        // RFC 9113 section 6.5.2: the peer's limit is advisory, but some endpoints end the connection for a larger head.
        if head.list_size().is_some_and(|size| size > self.connection_state.peer_max_header_list()) {
            return Err(Error::REQUEST_TOO_LARGE);
        }
        let sent = match h2.send_request(request, ended) {
            // The handle's last request waits to be sent. A handle has at most one, so another handle sends this one.
            Err(_) if h2.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending() => {
                *h2 = h2.clone();
                h2.send_request(http2::request(take(head, authority.as_deref())), ended)
            }
            sent => sent,
        };
        let (response, to) = sent.map_err(Error::unsent)?;
        if !ended {
            upload.send_to(to, SendingStream::new(&self.connection_state, path), self.write_stall);
        }
        Ok(InFlight::Http2 { response, stream: self.connection_state.open_stream() })
    }
}

/// Takes a request's head, with the authority that the endpoint is sent if it has one of its own.
fn take(head: &mut Head, authority: Option<&Authority>) -> Parts {
    let mut head = head.take();
    if let Some(authority) = authority {
        authority::replace(&mut head, authority);
    }
    head
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
            connection_state: Arc::clone(&self.connection_state),
            closed: self.closed.clone(),
            write_stall: self.write_stall,
            authority: self.authority.clone(),
            body: PhantomData,
        }
    }
}

impl<B> fmt::Debug for SendRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRequest").field("closed", &self.is_closed()).finish()
    }
}

// === impl OutgoingRequest ===

impl<B> OutgoingRequest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// `strip`: see [`Head::Whole`].
    pub(crate) fn new(head: Parts, body: B, strip: bool) -> Self {
        let is_of_stopped_client = head.extensions.get::<StoppedClient>().is_some();
        let head = Head::Whole { head, strip };
        let (upload, interim) = (Pipe::request(body), InterimBudget::new());
        Self { head, upload, sent: None, http1: None, interim, is_of_stopped_client }
    }

    /// Interim responses are not passed on.
    pub(crate) fn drop_interim(&mut self) {
        self.interim = InterimBudget::NONE;
    }

    /// Whether its client does not read other responses.
    pub(crate) fn is_of_stopped_client(&self) -> bool {
        self.is_of_stopped_client
    }

    pub(crate) fn body_mut(&mut self) -> &mut B {
        self.upload.body_mut()
    }

    /// Stops sending the request, until it is sent again.
    pub(crate) fn stop(&mut self) {
        self.upload.stop();
        self.http1 = None;
    }

    /// Polls for the response. The request's body may still be on its way when it is ready.
    pub(crate) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<IncomingBody>, Error>> {
        match &self.sent {
            Some(Ok(InFlight::Http2 { .. })) => self.poll_http2(cx),
            Some(Ok(InFlight::Http1(_))) => self.poll_http1(cx),
            _ => match self.sent.take() {
                Some(Err(error)) => Poll::Ready(Err(error)),
                _ => panic!("a response was polled before its request was sent, or after its end"),
            },
        }
    }

    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<IncomingBody>, Error>> {
        let Some(Ok(InFlight::Http2 { response, stream })) = &mut self.sent else { unreachable!() };
        let mut responded = match self.upload.poll(cx) {
            Poll::Ready(SendOutcome::Broken) => Err(Error::REQUEST_BROKEN),
            Poll::Ready(SendOutcome::Stalled) => Err(Error::STALLED),
            _ => {
                while stream.expects_interim()
                    && let Poll::Ready(Some(Ok(rsp))) = response.poll_informational(cx)
                {
                    self.interim.pass(rsp);
                }
                ready!(Pin::new(response).poll(cx)).map_err(Error::unanswered)
            }
        };
        let mut length = None;
        if let Ok(rsp) = &mut responded {
            match validate::response(rsp, stream.local_max_header_list()) {
                Ok(found) => length = found,
                Err(_) => responded = Err(Error::RESPONSE_MALFORMED),
            }
        }
        let Some(Ok(InFlight::Http2 { stream, .. })) = self.sent.take() else { unreachable!() };
        let rsp = match responded {
            Ok(rsp) => rsp,
            Err(mut error) => {
                if error.is_response_malformed() {
                    stream.malformed();
                }
                if error.is_overload_reset() {
                    stream.refused();
                }
                error.record_connection(&stream);
                return Poll::Ready(Err(error));
            }
        };
        stream.answered();
        let (status, is_done) = (rsp.status(), self.upload.is_done());
        Poll::Ready(Ok(rsp.map(|source| {
            let has_no_content = validate::has_no_content(status);
            // h2 refuses a response whose content does not have its length, unless it has none by its status or the method.
            let may_have_ended =
                length.is_none_or(|length| length == 0) || has_no_content || *self.head.method() == Method::HEAD;
            let ended = may_have_ended && source.is_end_stream();
            let mut body = IncomingBody::new(Side::Endpoint, ended, length, source);
            let is_tunnel = self.is_tunnel(status);
            if !is_done && !is_tunnel {
                self.upload.stop_at(body.end_of_response());
            }
            let body = if has_no_content { body.without_content() } else { body };
            body.with_stream(stream).with_request_sent(is_done).with_tunnel(is_tunnel)
        })))
    }

    fn poll_http1(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<IncomingBody>, Error>> {
        let Some(Ok(InFlight::Http1(sent))) = &mut self.sent else { unreachable!() };
        let sending = self.http1.as_mut().map(|to| to.poll(self.upload.body_mut(), &mut self.interim, cx));
        let mut responded = match sending {
            Some(Poll::Ready(SendOutcome::Broken)) => Err(Error::REQUEST_BROKEN),
            Some(Poll::Ready(SendOutcome::Stalled)) => Err(Error::STALLED),
            _ => ready!(sent.poll(cx)).map_err(Error::http1),
        };
        let Some(Ok(InFlight::Http1(sent))) = self.sent.take() else { unreachable!() };
        let (stream, to) = sent.into_parts();
        if let Err(error) = &mut responded {
            error.record_connection(&stream);
        }
        if to.is_some() {
            self.http1 = to;
        }
        Poll::Ready(responded.map(|rsp| {
            rsp.map(|body| {
                let mut body = IncomingBody::http1(Side::Endpoint, body);
                if let Some(BodySink::Upload(upload)) = self.http1.as_mut().filter(|to| !to.is_done()) {
                    upload.stop_at(body.end_of_response());
                }
                body.with_stream(stream)
            })
        }))
    }

    /// Whether all of the request has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.upload.is_done() && self.http1.as_ref().is_none_or(BodySink::is_done)
    }

    /// Whether the request is a CONNECT, extended or not.
    pub(crate) fn is_connect(&self) -> bool {
        *self.head.method() == Method::CONNECT
    }

    /// Whether the request is an extended CONNECT (RFC 8441).
    pub(crate) fn is_extended_connect(&self) -> bool {
        self.is_connect() && self.head.extensions().get::<ConnectProtocol>().is_some()
    }

    /// Whether a response with this status makes the stream a tunnel, in which each direction ends on its own.
    fn is_tunnel(&self, status: StatusCode) -> bool {
        self.is_connect() && tunnel::is_accepted_by(status)
    }

    /// Sends the rest of the request, if any, in a task until the response has ended, and calls `ended` with the outcome.
    pub(crate) fn spawn_rest(self, ended: impl FnOnce(SendOutcome) + Send + 'static) {
        match self.http1 {
            None => self.upload.spawn_rest(ended),
            Some(http1) => http1.spawn_rest(self.upload.into_body(), ended),
        }
    }

    /// The request, if it can be sent again.
    fn into_request(self, error: &Error) -> Option<Request<B>> {
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
                request.spawn_rest(|_| {});
                Ok(response.map(IncomingBody::assume_backpressure))
            }
            Err(error) => Err(SendError { request: request.into_request(&error), error }),
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
