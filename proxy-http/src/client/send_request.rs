//! Connections to endpoints: a tower service that makes them, and the service that each one is.

use crate::{
    BoxError, IncomingBody,
    body::{outcome::SendOutcome, send::Pipe},
    client::{
        error::{Error, SendError},
        http1::{self, To},
    },
    connection::{state::ConnectionState, streams::OpenStream},
    http1::tunnel,
    message::{head::Head, interim::Room, validate},
    stats::Side,
};
use bytes::Bytes;
use h2::ext;
use http::{Request, Response, StatusCode, Version, request::Parts};
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
/// A connection of HTTP/1.1 has one stream at a time; one that nobody waits for any more closes it.
/// The connection closes when all clones are dropped and the streams on it have ended. A request without authority
/// is sent without `:authority`. A response future that is dropped resets its stream with CANCEL.
///
/// A response that ends while its request is still being sent ends the request, too, unless it has made the stream a tunnel:
/// the stream is reset with CANCEL, and in HTTP/1.1 the connection closes.
pub struct SendRequest<B> {
    pub(super) engine: Engine,
    pub(super) connection_state: Arc<ConnectionState>,
    pub(super) closed: watch::Receiver<()>,
    pub(super) write_stall: Duration,
    pub(super) body: PhantomData<fn(B)>,
}

#[derive(Clone)]
pub(super) enum Engine {
    Http2(h2::client::SendRequest<Bytes>),
    Http1(http1::Handle),
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
        connection_state: Option<Arc<ConnectionState>>,
    },
    Http1(http1::Sent),
}

/// A response that is on its way.
#[derive(Debug)]
#[must_use = "a response that nobody waits for is cancelled"]
pub struct ResponseFuture<B>(Sending<B>);

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
        self.connection_state.streams()
    }

    /// Streams that the peer takes at once: its SETTINGS_MAX_CONCURRENT_STREAMS. In HTTP/1.1 one, and none while the last
    /// one is not quite over.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        match &self.engine {
            Engine::Http2(_) => self.connection_state.max_streams(),
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

    /// Whether the endpoint has answered anything on the connection.
    pub(crate) fn has_answered(&self) -> bool {
        self.connection_state.has_answered()
    }

    /// What happens on the connection, also after its end.
    pub(crate) fn connection_state(&self) -> &Arc<ConnectionState> {
        &self.connection_state
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
        request.sent = Some(self.start(request).map_err(|error| error.on_connection(self.has_answered())));
    }

    fn start(&mut self, Outgoing { head, upload, http1, .. }: &mut Outgoing<B>) -> Result<Sent, Error> {
        let h2 = match &mut self.engine {
            Engine::Http2(h2) => h2,
            Engine::Http1(handle) => {
                let stream = self.connection_state.open_stream();
                let sent = handle.send(head.take(), upload.body_mut(), stream, self.write_stall);
                let (sent, to) = sent.map_err(Error::http1)?;
                *http1 = Some(to);
                return Ok(Sent::Http1(sent));
            }
        };
        let ended = upload.body_mut().is_end_stream();
        let request = outgoing(head);
        // Some endpoints would end the connection for it.
        if head.list_size().is_some_and(|size| size > self.connection_state.max_header_list()) {
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
        let (stream, connection_state) = (self.connection_state.open_stream(), self.connection_state.if_adaptive());
        Ok(Sent::Http2 { response, stream, connection_state })
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
            connection_state: Arc::clone(&self.connection_state),
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
        Self { head, upload: Pipe::request(body), sent: None, http1: None, interim: Room::new() }
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
        match &self.sent {
            Some(Ok(Sent::Http2 { .. })) => self.poll_http2(cx),
            Some(Ok(Sent::Http1(_))) => self.poll_http1(cx),
            _ => match self.sent.take() {
                Some(Err(error)) => Poll::Ready(Err(error)),
                _ => panic!("a response was polled before its request was sent, or after its end"),
            },
        }
    }

    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<IncomingBody>, Error>> {
        let Some(Ok(Sent::Http2 { response, stream, .. })) = &mut self.sent else { unreachable!() };
        let mut responded = match self.upload.poll(cx) {
            Poll::Ready(SendOutcome::Broken) => Err(Error::REQUEST_BROKEN),
            Poll::Ready(SendOutcome::Stalled) => Err(Error::STALLED),
            _ => {
                while stream.expects_interim()
                    && let Poll::Ready(Some(Ok(rsp))) = response.poll_informational(cx)
                {
                    self.interim.pass(rsp);
                }
                ready!(Pin::new(response).poll(cx)).map_err(Error::unanswered).and_then(|mut rsp| {
                    let length = validate::response(&mut rsp, stream.max_list());
                    let length = length.map_err(|_| Error::RESPONSE_MALFORMED)?;
                    Ok((rsp, length))
                })
            }
        };
        let Some(Ok(Sent::Http2 { stream, connection_state, .. })) = self.sent.take() else { unreachable!() };
        match &mut responded {
            Ok(_) => stream.answered(),
            Err(error) => {
                if error.is_response_malformed() {
                    stream.malformed();
                }
                if error.says_overload() {
                    stream.refused();
                }
                error.set_connection(&stream);
            }
        }
        let is_done = self.upload.is_done();
        Poll::Ready(responded.map(|(rsp, length)| {
            let (head, body) = rsp.into_parts();
            let mut body = IncomingBody::new(Side::Endpoint, || length, body, connection_state);
            if !is_done && !self.is_tunnel(head.status) {
                self.upload.stop_at(body.end_of_response());
            }
            let body = if validate::has_no_content(head.status) { body.without_content() } else { body };
            Response::from_parts(head, body.counted(stream).alone(is_done))
        }))
    }

    fn poll_http1(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<IncomingBody>, Error>> {
        let Some(Ok(Sent::Http1(sent))) = &mut self.sent else { unreachable!() };
        let sending = self.http1.as_mut().map(|to| to.poll(self.upload.body_mut(), &mut self.interim, cx));
        let mut responded = match sending {
            Some(Poll::Ready(SendOutcome::Broken)) => Err(Error::REQUEST_BROKEN),
            Some(Poll::Ready(SendOutcome::Stalled)) => Err(Error::STALLED),
            _ => ready!(sent.poll(cx)).map_err(Error::http1),
        };
        let Some(Ok(Sent::Http1(sent))) = self.sent.take() else { unreachable!() };
        let (stream, to) = sent.into_parts();
        if let Err(error) = &mut responded {
            error.set_connection(&stream);
        }
        if to.is_some() {
            self.http1 = to;
        }
        Poll::Ready(responded.map(|rsp| {
            rsp.map(|body| {
                let mut body = IncomingBody::http1(Side::Endpoint, body);
                if let Some(To::Upload(upload)) = self.http1.as_mut().filter(|to| !to.is_done()) {
                    upload.stop_at(body.end_of_response());
                }
                body.counted(stream)
            })
        }))
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

    /// Whether a response with this status makes the stream a tunnel, whose directions end each by itself.
    fn is_tunnel(&self, status: StatusCode) -> bool {
        self.is_connect() && tunnel::is_accepted_by(status)
    }

    /// Sends the rest of the request by itself, until its response has ended, and tells how that ended.
    pub(crate) fn go_on(self, ended: impl FnOnce(SendOutcome) + Send + 'static) {
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
