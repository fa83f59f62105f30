//! A connection to an endpoint that speaks HTTP/1.1, by hyper: one request at a time.

use super::{
    Incoming,
    fields::Invalid,
    request, response,
    tunnel::Agreed,
    upload::{Feed, Upload, Uploading},
    websocket::Key,
};
use crate::{activity::OpenStream, client::OnRoom, interim::Room, io::Io, pipe::Piped};
use bytes::Bytes;
use http::{Request, Response, Version, request::Parts};
use http_body::Body;
use hyper::{
    body,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// The way to one connection; clones share it.
#[derive(Clone)]
pub(crate) struct Handle {
    /// `None`: the connection takes no more requests after the one that it has.
    hyper: Arc<Mutex<Option<http1::SendRequest<Uploading>>>>,
    /// The connection has answered a request.
    worked: Arc<AtomicBool>,
    /// Interim responses, for who reads from the endpoint.
    interim: Arc<AtomicU32>,
}

/// A request on its way, and its response.
pub(crate) struct Sent {
    response: Responding,
    stream: OpenStream,
    worked: Arc<AtomicBool>,
    /// The connection had answered others before.
    reused: bool,
    asks: Asks,
    /// Where the request's body goes now. `None`: where it went before.
    to: Option<To>,
    write_stall: Duration,
}

/// Where a request's body goes.
#[derive(Debug)]
pub(crate) enum To {
    Upload(Upload),
    /// The endpoint has agreed to a tunnel. Boxed, since few do.
    Tunnel(Box<Agreed>),
}

/// What a request asks its endpoint for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Asks {
    Response,
    /// With the client's own key, which the client checks the answer to.
    Upgrade,
    /// With a key of the proxy's.
    Websocket(Key),
    Connect,
}

type Responding =
    Pin<Box<dyn Future<Output = Result<Response<body::Incoming>, TrySendError<Request<Uploading>>>> + Send>>;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct Failure {
    kind: Kind,
    source: Option<hyper::Error>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum Kind {
    /// It cannot be sent as HTTP/1.1.
    #[error("request has no form in HTTP/1.1: {0}")]
    Refused(&'static str),
    #[error("connection to endpoint was closed before the request was sent")]
    Unsent,
    #[error("connection to endpoint was lost")]
    Lost { reused: bool, handshake: bool },
    #[error("endpoint's response is not HTTP/1.1: {0}")]
    Bad(&'static str),
}

/// Least that hyper takes for the most of its buffer; also what one connection may have unread or unsent.
const MAX_BUFFER: usize = 64 << 10;
const UNPOISONED: &str = "nothing panics with the lock held";

/// Makes a connection over `io`, and has it driven by a task that drops `open` at its end. `max_head`: bytes of the
/// largest head that the endpoint may send. `interim` counts its interim responses.
pub(crate) async fn connect<I>(
    io: Io<I>,
    max_head: usize,
    interim: Arc<AtomicU32>,
    open: watch::Sender<()>,
    on_room: OnRoom,
) -> hyper::Result<Handle>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(max_head).max_buf_size(MAX_BUFFER.max(max_head));
    let (mut hyper, connection) = builder.handshake(TokioIo::new(io)).await?;
    let mut connection = connection.with_upgrades();
    let handle = Arc::new(Mutex::new(None::<http1::SendRequest<Uploading>>));
    // Weak: the connection closes when nobody else has a handle.
    let weak = Arc::downgrade(&handle);
    tokio::spawn(async move {
        let mut was_ready = true;
        let ended = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            let is_ready = weak.upgrade().is_some_and(|handle| {
                handle.lock().expect(UNPOISONED).as_ref().is_some_and(http1::SendRequest::is_ready)
            });
            if is_ready && !std::mem::replace(&mut was_ready, is_ready) {
                on_room();
            }
            was_ready = is_ready;
            polled
        })
        .await;
        drop(open);
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "connection to endpoint failed");
        }
    });
    // Until the task has run, it does not take requests.
    poll_fn(|cx| hyper.poll_ready(cx)).await?;
    *handle.lock().expect(UNPOISONED) = Some(hyper);
    Ok(Handle { hyper: handle, worked: Arc::default(), interim })
}

// === impl Handle ===

impl Handle {
    /// Whether the connection takes a request now: the last one and its response have ended.
    pub(crate) fn is_ready(&self) -> bool {
        self.hyper.lock().expect(UNPOISONED).as_ref().is_some_and(http1::SendRequest::is_ready)
    }

    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut hyper = self.hyper.lock().expect(UNPOISONED);
        let hyper = hyper.as_mut().ok_or(Failure::CLOSED)?;
        hyper.poll_ready(cx).map_err(Failure::unsent)
    }

    /// Whether the connection has answered a request, as known at any later time.
    pub(crate) fn worked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.worked)
    }

    /// Sends a request whose body is `body`; the rest of that has to be sent by [`To::poll`], which gives up when the
    /// endpoint takes nothing of it for `write_stall`.
    pub(crate) fn send<B: Body>(
        &self,
        mut head: Parts,
        body: &B,
        stream: OpenStream,
        write_stall: Duration,
    ) -> Result<(Sent, To), Failure> {
        let ended = body.is_end_stream();
        let is_http2 = head.version == Version::HTTP_2;
        let asks = request::send(&mut head, ended).map_err(Failure::refused)?;
        // What goes through a tunnel waits until there is one.
        let (upload, uploading) = Upload::new(ended || asks != Asks::Response, write_stall);
        let mut req = Request::from_parts(head, uploading);
        // Clients of HTTP/1.1 get none: hyper has no way for them.
        Uploading::hear_interim(&mut req, Arc::clone(&self.interim), is_http2);
        let response = {
            let mut hyper = self.hyper.lock().expect(UNPOISONED);
            let sending = hyper.as_mut().ok_or(Failure::CLOSED)?;
            let response = Box::pin(sending.try_send_request(req));
            // Where an endpoint takes for a tunnel what is none to us, nothing may follow.
            if asks == Asks::Connect {
                *hyper = None;
            }
            response
        };
        let worked = self.worked();
        let reused = worked.load(Relaxed);
        Ok((Sent { response, stream, worked, reused, asks, to: None, write_stall }, To::Upload(upload)))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("worked", &self.worked).finish_non_exhaustive()
    }
}

// === impl Sent ===

impl Sent {
    /// Ready with the response, whose stream is to be counted as long as its body lives.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Incoming>, Failure>> {
        Poll::Ready(match ready!(self.response.as_mut().poll(cx)) {
            Ok(mut rsp) => {
                self.worked.store(true, Relaxed);
                match response::accept(&mut rsp, &self.asks).map_err(Failure::bad)? {
                    None => Ok(rsp.map(Incoming::Message)),
                    Some(endpoint) => {
                        let (to, received) = Feed::new(false);
                        self.to = Some(To::Tunnel(Box::new(Agreed { endpoint, to, write_stall: self.write_stall })));
                        Ok(rsp.map(|_| Incoming::Tunnel(received)))
                    }
                }
            }
            Err(mut error) => Err(match error.take_message() {
                Some(_) => Failure::unsent(error.into_error()),
                None => Failure::lost(error.into_error(), self.reused, self.asks.is_get()),
            }),
        })
    }

    /// What is to be counted as long as the response's body lives, and where the request's goes from now on if it does not
    /// go where it went before.
    pub(crate) fn into_parts(self) -> (OpenStream, Option<To>) {
        (self.stream, self.to)
    }
}

// === impl To ===

impl To {
    /// Whether all of the body is on its way.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Upload(upload) if upload.is_done())
    }

    /// Sends of `body` what is taken before the response has come.
    pub(crate) fn poll<B>(&mut self, body: &mut B, interim: &mut Room, cx: &mut Context<'_>) -> Poll<Piped>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        match self {
            Self::Upload(upload) => upload.poll(body, interim, cx),
            Self::Tunnel(_) => Poll::Pending,
        }
    }

    /// Sends the rest of `body` by itself, and tells how that ended.
    pub(crate) fn go_on<B>(self, body: B, ended: impl FnOnce(Piped) + Send + 'static)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        match self {
            Self::Upload(upload) => upload.go_on(body, ended),
            Self::Tunnel(agreed) => agreed.go_on(body, ended),
        }
    }
}

// === impl Asks ===

impl Asks {
    /// Whether the request is a GET, though the proxy has it as CONNECT.
    fn is_get(&self) -> bool {
        matches!(self, Self::Upgrade | Self::Websocket(_))
    }
}

// === impl Failure ===

impl Failure {
    /// The connection has had its last request.
    const CLOSED: Self = Self { kind: Kind::Unsent, source: None };

    fn refused(Invalid(reason): Invalid) -> Self {
        Self { kind: Kind::Refused(reason), source: None }
    }

    fn bad(Invalid(reason): Invalid) -> Self {
        Self { kind: Kind::Bad(reason), source: None }
    }

    fn unsent(source: hyper::Error) -> Self {
        Self { kind: Kind::Unsent, source: Some(source) }
    }

    fn lost(source: hyper::Error, reused: bool, handshake: bool) -> Self {
        let lost = Kind::Lost { reused, handshake };
        let kind = if source.is_parse() { Kind::Bad("it cannot be parsed") } else { lost };
        Self { kind, source: Some(source) }
    }

    /// The request has no form in HTTP/1.1. Says why.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.kind, Kind::Refused(_))
    }

    /// The endpoint's response is not what HTTP/1.1 allows.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self.kind, Kind::Bad(_))
    }

    /// Nothing of the request was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self.kind, Kind::Refused(_) | Kind::Unsent)
    }

    /// The connection had been idle, and the endpoint may have closed it before it saw the request.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self.kind, Kind::Lost { reused: true, .. })
    }

    /// The request was a WebSocket's handshake, which is a GET.
    pub(crate) fn is_handshake(&self) -> bool {
        matches!(self.kind, Kind::Lost { handshake: true, .. })
    }
}
