//! A request of HTTP/1.1, from hyper to a service of this crate, and its response.

use crate::{
    IncomingBody,
    body::{channel::BodySender, http1::Incoming},
    connection::{state::ConnectionState, streams::OpenStream},
    http1::{
        request::{self, Asked, Wanted},
        sending::{Sending, Slot},
        trailers::TrailerWriter,
        tunnel::{Place, Tunnel},
    },
    message::fields::{self, Invalid},
    stats::{Side, Transport},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header, response::Parts, uri::Scheme};
use http_body::Body;
use hyper::body;
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};
use tower_service::Service;

/// A service of this crate as hyper calls it.
pub(super) struct Adapter<S, B> {
    service: S,
    scheme: Scheme,
    connection_state: Arc<ConnectionState>,
    transport: Arc<Transport>,
    places: Places<B>,
}

pin_project! {
    /// A request that is being answered.
    pub(super) struct Answering<S, F, B> {
        asked: Asked,
        stream: Option<OpenStream>,
        // The way of what the client sends in a tunnel. `None`: it has asked for none.
        tunnel: Option<BodySender>,
        places: Places<B>,
        #[pin]
        state: State<S, F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    pub(super) enum State<S, F> {
        Refused,
        Unready { service: S, request: Option<Request<IncomingBody>> },
        Called { #[pin] response: F },
    }
}

/// Where a connection finds what is in hyper's hands.
pub(super) struct Places<B> {
    pub(super) tunnel: Place<B>,
    pub(super) body: Slot<B>,
    pub(super) ending: Arc<TrailerWriter>,
}

// === impl Places ===

impl<B> Clone for Places<B> {
    fn clone(&self) -> Self {
        Self { tunnel: self.tunnel.clone(), body: self.body.clone(), ending: Arc::clone(&self.ending) }
    }
}

// === impl Adapter ===

impl<S, B> Adapter<S, B> {
    pub(super) fn new(
        service: S,
        scheme: &Scheme,
        connection_state: &Arc<ConnectionState>,
        transport: &Arc<Transport>,
        places: &Places<B>,
    ) -> Self {
        let (connection_state, transport) = (Arc::clone(connection_state), Arc::clone(transport));
        Self { service, scheme: scheme.clone(), connection_state, transport, places: places.clone() }
    }
}

impl<S, B> hyper::service::Service<Request<body::Incoming>> for Adapter<S, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Response<Sending<B>>;
    type Error = S::Error;
    type Future = Answering<S, S::Future, B>;

    fn call(&self, req: Request<body::Incoming>) -> Self::Future {
        let (stream, places) = (Some(self.connection_state.open_stream()), self.places.clone());
        let (mut head, body) = req.into_parts();
        let asked = match request::accept(&mut head, &self.scheme, body.is_end_stream()) {
            Ok(asked) => asked,
            Err(Invalid(reason)) => {
                tracing::debug!(reason, "bad request");
                self.transport.count_malformed();
                return Answering { asked: Asked::default(), stream, tunnel: None, places, state: State::Refused };
            }
        };
        let (tunnel, body) = if asked.wants == Wanted::Response {
            (None, Incoming::Message(body))
        } else {
            let (tunnel, uploading) = BodySender::new(false);
            (Some(tunnel), Incoming::Tunnel(uploading))
        };
        let request = Request::from_parts(head, IncomingBody::http1(Side::Client, body));
        let mut service = self.service.clone();
        let state = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => State::Called { response: service.call(request) },
            Poll::Ready(Err(_)) | Poll::Pending => State::Unready { service, request: Some(request) },
        };
        Answering { asked, stream, tunnel, places, state }
    }
}

// === impl Answering ===

impl<S, B> Future for Answering<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Sending<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Refused => return Poll::Ready(Ok(refusal(StatusCode::BAD_REQUEST, this.stream.take()))),
                StateProj::Called { response } => {
                    let rsp = ready!(response.poll(cx))?;
                    return Poll::Ready(Ok(this.asked.respond(
                        rsp,
                        this.stream.take(),
                        this.tunnel.take(),
                        this.places,
                    )));
                }
                StateProj::Unready { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let response = service.call(request.take().expect("a service is called once"));
                    this.state.as_mut().project_replace(State::Called { response });
                }
            }
        }
    }
}

/// An answer after which the connection closes: what comes next may not be what the client means.
fn refusal<B>(status: StatusCode, stream: Option<OpenStream>) -> Response<Sending<B>> {
    let mut rsp = Response::new(Sending::empty(stream));
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(header::CONNECTION, CLOSE);
    rsp
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

// === impl Asked ===

impl Asked {
    /// The response as HTTP/1.1 has it.
    fn respond<B: Body>(
        &self,
        rsp: Response<B>,
        stream: Option<OpenStream>,
        tunnel: Option<BodySender>,
        places: &Places<B>,
    ) -> Response<Sending<B>> {
        let (mut head, body) = rsp.into_parts();
        if let Some(tunnel) = tunnel {
            if self.wants.agree(&mut head) {
                places.tunnel.put(Tunnel::new(body, tunnel, stream));
                head.version = Version::HTTP_11;
                return Response::from_parts(head, Sending::empty(None));
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
            return refusal(StatusCode::BAD_GATEWAY, stream);
        }
        head.version = Version::HTTP_11;
        if self.wants == Wanted::Tunnel {
            head.headers.insert(header::CONNECTION, CLOSE);
        }
        let ending = self.trailers.then(|| Arc::clone(&places.ending));
        Response::from_parts(head, Sending::new(body, &places.body, ending, stream))
    }
}

// === impl Wanted ===

impl Wanted {
    /// Whether this is the head of the response that a tunnel follows; if so, makes it one of HTTP/1.1.
    fn agree(&self, head: &mut Parts) -> bool {
        let agreed = match self {
            Self::Response => false,
            // An HTTP/1.1 endpoint has answered to the key itself. Of HTTP/2, success has it agreed.
            Self::Websocket(_) if head.status == StatusCode::SWITCHING_PROTOCOLS => true,
            Self::Websocket(Some(key)) if head.status.is_success() && head.version == Version::HTTP_2 => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                key.answer(&mut head.headers);
                true
            }
            Self::Websocket(_) => false,
            Self::Tunnel => head.status.is_success(),
        };
        if agreed {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        agreed
    }
}
