//! Requests of HTTP/1.1 as the services of this crate take them, and their responses as hyper takes them.

use crate::{
    IncomingBody,
    body::{channel::BodySender, http1::Incoming},
    connection::{state::ConnectionState, streams::OpenStream},
    http1::{
        guard::GuardState,
        request::{self, RequestContext, RequestKind},
        response_body::{BodySlot, Http1ResponseBody},
        trailers::TrailerWriter,
        tunnel::{Tunnel, TunnelSlot},
    },
    message::{
        fields::{self, Invalid},
        head::list_size,
    },
    stats::{Limit, OpenRecord, ProxyError, Side, Transport},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header, response::Parts, uri::Scheme};
use http_body::Body;
use hyper::{body, ext::ReasonPhrase};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};
use tower_service::Service;

/// A service of this crate as the service that hyper calls.
pub(super) struct Adapter<S, B> {
    service: S,
    scheme: Scheme,
    connection_state: Arc<ConnectionState>,
    transport: Arc<Transport>,
    slots: ExchangeSlots<B>,
    guard_state: Arc<GuardState>,
    /// The size of the largest header list that a request may have, in bytes.
    max_header_list: usize,
}

pin_project! {
    /// The response to one request.
    pub(super) struct ResponseFuture<S, F, B> {
        context: RequestContext,
        stream: Option<OpenStream>,
        // Sends on the bytes that the client sends through a tunnel. `None`: it has asked for none.
        tunnel: Option<BodySender>,
        slots: ExchangeSlots<B>,
        #[pin]
        state: ResponseState<S, F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    pub(super) enum ResponseState<S, F> {
        Refused { status: StatusCode },
        Unready { service: S, request: Option<Request<IncomingBody>> },
        Called { #[pin] response: F },
    }
}

/// Parts of the exchange that hyper owns, where the connection can reach them too.
pub(super) struct ExchangeSlots<B> {
    pub(super) tunnel: TunnelSlot<B>,
    pub(super) body: BodySlot<B>,
    pub(super) trailers: Arc<TrailerWriter>,
    pub(super) records: OpenRecord,
}

// === impl ExchangeSlots ===

impl<B> ExchangeSlots<B> {
    pub(super) fn new(records: OpenRecord) -> Self {
        Self { tunnel: TunnelSlot::new(), body: BodySlot::new(), trailers: Arc::default(), records }
    }
}

impl<B> Clone for ExchangeSlots<B> {
    fn clone(&self) -> Self {
        Self {
            tunnel: self.tunnel.clone(),
            body: self.body.clone(),
            trailers: Arc::clone(&self.trailers),
            records: self.records.clone(),
        }
    }
}

// === impl Adapter ===

impl<S, B> Adapter<S, B> {
    pub(super) fn new(
        service: S,
        scheme: &Scheme,
        connection_state: &Arc<ConnectionState>,
        transport: &Arc<Transport>,
        slots: &ExchangeSlots<B>,
        guard_state: &Arc<GuardState>,
        max_header_list: usize,
    ) -> Self {
        let (connection_state, transport) = (Arc::clone(connection_state), Arc::clone(transport));
        let guard_state = Arc::clone(guard_state);
        Self {
            service,
            scheme: scheme.clone(),
            connection_state,
            transport,
            slots: slots.clone(),
            guard_state,
            max_header_list,
        }
    }
}

impl<S, B> hyper::service::Service<Request<body::Incoming>> for Adapter<S, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Response<Http1ResponseBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, S::Future, B>;

    fn call(&self, req: Request<body::Incoming>) -> Self::Future {
        let (stream, slots) = (Some(self.connection_state.open_stream()), self.slots.clone());
        let (mut head, body) = req.into_parts();
        let record = slots.records.start(&mut head);
        let checked = request::from_client(&mut head, &self.scheme, body.is_end_stream()).map_err(|Invalid(reason)| {
            tracing::debug!(reason, "bad request");
            self.transport.count_malformed();
            StatusCode::BAD_REQUEST
        });
        let context = match checked {
            // The same limit as in HTTP/2. hyper's own is one of the bytes on the wire, which are fewer.
            Ok(_) if list_size(&head) > self.max_header_list => {
                self.transport.limit(Limit::HeadersCount);
                Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            checked => checked,
        };
        let context = match context {
            Ok(context) => context,
            Err(status) => {
                let is_large = status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                let error = if is_large { ProxyError::HeadTooLarge } else { ProxyError::BadRequest };
                self.transport.count_early_answer(error, status, None);
                record.edit(|end| (end.status, end.proxy_error) = (Some(status), Some(error)));
                let (context, state) = (RequestContext::default(), ResponseState::Refused { status });
                return ResponseFuture { context, stream, tunnel: None, slots, state };
            }
        };
        self.guard_state.set_last_request(context.is_last);
        let (tunnel, body) = if context.kind == RequestKind::Plain {
            (None, Incoming::Message(body))
        } else {
            let (tunnel, received) = BodySender::new(false);
            (Some(tunnel), Incoming::Tunnel(received))
        };
        let request = Request::from_parts(head, IncomingBody::http1(Side::Client, body).with_record(record));
        let mut service = self.service.clone();
        let state = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => ResponseState::Called { response: service.call(request) },
            Poll::Ready(Err(_)) | Poll::Pending => ResponseState::Unready { service, request: Some(request) },
        };
        ResponseFuture { context, stream, tunnel, slots, state }
    }
}

// === impl ResponseFuture ===

impl<S, B> Future for ResponseFuture<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Http1ResponseBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Refused { status } => return Poll::Ready(Ok(refusal(*status, this.stream.take()))),
                StateProj::Called { response } => {
                    let rsp = ready!(response.poll(cx))?;
                    return Poll::Ready(Ok(this.context.respond(
                        rsp,
                        this.stream.take(),
                        this.tunnel.take(),
                        this.slots,
                    )));
                }
                StateProj::Unready { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let response = service.call(request.take().expect("a service is called once"));
                    this.state.as_mut().project_replace(ResponseState::Called { response });
                }
            }
        }
    }
}

/// A response after which the connection closes: where a message was refused, the bytes after it may not be framed as its
/// sender means them.
fn refusal<B>(status: StatusCode, stream: Option<OpenStream>) -> Response<Http1ResponseBody<B>> {
    let mut rsp = Response::new(Http1ResponseBody::empty(stream));
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(header::CONNECTION, CLOSE);
    rsp
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

// === impl RequestContext ===

impl RequestContext {
    /// The response as HTTP/1.1 has it; after it, where both sides have agreed to a tunnel, the connection is one.
    fn respond<B: Body>(
        &self,
        rsp: Response<B>,
        stream: Option<OpenStream>,
        tunnel: Option<BodySender>,
        slots: &ExchangeSlots<B>,
    ) -> Response<Http1ResponseBody<B>> {
        let (mut head, body) = rsp.into_parts();
        if let Some(tunnel) = tunnel {
            if self.kind.agree_to_tunnel(&mut head) {
                slots.tunnel.put(Tunnel::new(body, tunnel, stream));
                head.version = Version::HTTP_11;
                return Response::from_parts(head, Http1ResponseBody::empty(None));
            }
            tunnel.end();
        }
        let checked = if head.status.is_informational() {
            Err(Invalid("a final status below 200"))
        } else {
            fields::check_length(&mut head.headers)
        };
        if let Err(Invalid(reason)) = checked {
            tracing::debug!(reason, "bad response");
            slots.records.last().edit(|end| {
                (end.status, end.proxy_error) = (Some(StatusCode::BAD_GATEWAY), Some(ProxyError::BadResponse));
            });
            return refusal(StatusCode::BAD_GATEWAY, stream);
        }
        head.version = Version::HTTP_11;
        // hyper would make up a phrase; it may be empty (RFC 9112 section 4).
        if head.status.canonical_reason().is_none() && head.extensions.get::<ReasonPhrase>().is_none() {
            head.extensions.insert(ReasonPhrase::from_static(b""));
        }
        if self.kind == RequestKind::Connect {
            head.headers.insert(header::CONNECTION, CLOSE);
        }
        let trailers = self.accepts_trailers.then(|| Arc::clone(&slots.trailers));
        Response::from_parts(head, Http1ResponseBody::new(body, &slots.body, trailers, stream))
    }
}

// === impl RequestKind ===

impl RequestKind {
    /// Whether a tunnel follows this response's head; if so, makes it a head of HTTP/1.1.
    fn agree_to_tunnel(&self, head: &mut Parts) -> bool {
        let has_tunnel = match self {
            Self::Plain => false,
            // An HTTP/1.1 endpoint has answered to the client's key itself; one of HTTP/2 agrees by 2xx (RFC 8441
            // section 5).
            Self::Websocket(_) if head.status == StatusCode::SWITCHING_PROTOCOLS => true,
            Self::Websocket(Some(key)) if head.status.is_success() && head.version == Version::HTTP_2 => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                key.answer(&mut head.headers);
                true
            }
            Self::Websocket(_) => false,
            Self::Connect => head.status.is_success(),
        };
        if has_tunnel {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        has_tunnel
    }
}
