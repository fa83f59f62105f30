//! A connection to an endpoint that speaks HTTP/1.1, by hyper: one request at a time.

use super::{
    fields::Invalid,
    request, response,
    upload::{Upload, Uploading},
};
use crate::{activity::OpenStream, io::Io};
use http::{Request, Response, request::Parts};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
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
    hyper: Arc<Mutex<http1::SendRequest<Uploading>>>,
    /// The connection has answered a request.
    worked: Arc<AtomicBool>,
}

/// A request on its way, and its response.
pub(crate) struct Sent {
    response: Responding,
    stream: OpenStream,
    worked: Arc<AtomicBool>,
    /// The connection had answered others before.
    reused: bool,
    /// The request asks for an upgrade.
    upgrades: bool,
}

type Responding = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<Uploading>>>> + Send>>;

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
    Lost { reused: bool },
    #[error("endpoint's response is not HTTP/1.1: {0}")]
    Bad(&'static str),
}

/// Least that hyper takes for the most of its buffer; also what one connection may have unread or unsent.
const MAX_BUFFER: usize = 64 << 10;
const UNPOISONED: &str = "nothing panics with the lock held";

/// Makes a connection over `io`, and has it driven by a task that drops `open` at its end. `max_head`: bytes of the
/// largest head that the endpoint may send.
pub(crate) async fn connect<I>(io: Io<I>, max_head: usize, open: watch::Sender<()>) -> hyper::Result<Handle>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(max_head).max_buf_size(MAX_BUFFER.max(max_head));
    let (mut hyper, connection) = builder.handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        let ended = connection.with_upgrades().await;
        drop(open);
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "connection to endpoint failed");
        }
    });
    // Until the task has run, it does not take requests.
    poll_fn(|cx| hyper.poll_ready(cx)).await?;
    Ok(Handle { hyper: Arc::new(Mutex::new(hyper)), worked: Arc::default() })
}

// === impl Handle ===

impl Handle {
    /// Whether the connection takes a request now: the last one and its response have ended.
    pub(crate) fn is_ready(&self) -> bool {
        self.hyper.lock().expect(UNPOISONED).is_ready()
    }

    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.hyper.lock().expect(UNPOISONED).poll_ready(cx).map_err(Failure::unsent)
    }

    /// Whether the connection has answered a request, as known at any later time.
    pub(crate) fn worked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.worked)
    }

    /// Sends a request whose body is `body`; the rest of that has to be sent by [`Upload::poll`], which gives up when
    /// the endpoint takes nothing of it for `write_stall`.
    pub(crate) fn send<B: Body>(
        &self,
        mut head: Parts,
        body: &B,
        stream: OpenStream,
        write_stall: Duration,
    ) -> Result<(Sent, Upload), Failure> {
        let ended = body.is_end_stream();
        let upgrades = request::send(&mut head, ended).map_err(Failure::refused)?;
        let (upload, uploading) = Upload::new(ended, write_stall);
        let req = Request::from_parts(head, uploading);
        let response = Box::pin(self.hyper.lock().expect(UNPOISONED).try_send_request(req));
        let worked = self.worked();
        let reused = worked.load(Relaxed);
        Ok((Sent { response, stream, worked, reused, upgrades }, upload))
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
                response::accept(&mut rsp, self.upgrades).map(|()| rsp).map_err(Failure::bad)
            }
            Err(mut error) => Err(match error.take_message() {
                Some(_) => Failure::unsent(error.into_error()),
                None => Failure::lost(error.into_error(), self.reused),
            }),
        })
    }

    pub(crate) fn into_stream(self) -> OpenStream {
        self.stream
    }
}

// === impl Failure ===

impl Failure {
    fn refused(Invalid(reason): Invalid) -> Self {
        Self { kind: Kind::Refused(reason), source: None }
    }

    fn bad(Invalid(reason): Invalid) -> Self {
        Self { kind: Kind::Bad(reason), source: None }
    }

    fn unsent(source: hyper::Error) -> Self {
        Self { kind: Kind::Unsent, source: Some(source) }
    }

    fn lost(source: hyper::Error, reused: bool) -> Self {
        let kind = if source.is_parse() { Kind::Bad("it cannot be parsed") } else { Kind::Lost { reused } };
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
        self.kind == Kind::Lost { reused: true }
    }
}
