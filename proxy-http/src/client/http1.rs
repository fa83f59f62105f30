//! A connection of HTTP/1.1 to an endpoint, by hyper: one request at a time.

use crate::{
    body::{
        channel::{BodyReceiver, BodySender, Http1BodyError},
        http1::Incoming,
        outcome::SendOutcome,
        upload::Upload,
    },
    client::{capacity::OnCapacity, failure::Failure},
    connection::{io::Io, streams::OpenStream},
    http1::{
        request::{self, EndpointRequestKind},
        response,
        reuse::{Exchange, ResponseWatch, Verdict},
        tunnel::EndpointTunnel,
    },
    message::{fields, interim::InterimBudget},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU32},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::Instant,
};

/// A handle of one connection; clones share the connection.
#[derive(Clone)]
pub(crate) struct Handle {
    shared: Arc<ConnectionShared>,
    /// Counts interim responses, for the limit of bytes that are read in one turn.
    interim: Arc<AtomicU32>,
}

/// State that the handles of a connection share with its task.
struct ConnectionShared {
    /// `None`: the connection accepts no more requests after the current one.
    hyper: Mutex<Option<http1::SendRequest<RequestBody>>>,
    exchange: Arc<Exchange>,
    opened: Instant,
}

/// A request that was sent, and its response that is awaited.
pub(crate) struct PendingResponse {
    response: Responding,
    stream: OpenStream,
    shared: Arc<ConnectionShared>,
    /// The connection had carried other requests, or had been idle before this one.
    reused: bool,
    kind: EndpointRequestKind,
    /// Where the request's body goes from now on. `None`: unchanged.
    to: Option<BodySink>,
    write_stall: Duration,
}

/// Where a request's body goes.
#[derive(Debug)]
pub(crate) enum BodySink {
    Upload(Upload),
    /// The endpoint has accepted a tunnel. Boxed, since tunnels are rare.
    Tunnel(Box<EndpointTunnel>),
}

/// A request's body, which signals to its exchange when hyper has dropped it.
pub(crate) struct RequestBody {
    uploading: BodyReceiver,
    exchange: Arc<Exchange>,
}

type Responding =
    Pin<Box<dyn Future<Output = Result<Response<body::Incoming>, TrySendError<Request<RequestBody>>>> + Send>>;

/// The limit of hyper's buffer unless heads may be larger: bytes that a connection may have unread or unsent.
const MAX_BUFFER: usize = 64 << 10;
/// A connection that was idle this long before its first request may have been closed by the endpoint for that.
const WAITED: Duration = Duration::from_secs(1);
const UNPOISONED: &str = "nothing panics with the lock held";

/// Makes a connection over `io`, driven by a task that drops `open` when the connection accepts no more requests.
/// `max_head`: the largest head that the endpoint may send, in bytes, and in fields where that is not hyper's own limit.
/// `interim` counts the endpoint's interim responses. The task calls `on_capacity` each time the connection has become ready for another request.
pub(crate) async fn connect<I>(
    io: Io<I>,
    (max_head, max_headers): (usize, Option<usize>),
    interim: Arc<AtomicU32>,
    open: watch::Sender<()>,
    on_capacity: OnCapacity,
) -> Result<Handle, Failure>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(max_head).max_buf_size(MAX_BUFFER.max(max_head));
    // White space before a colon is removed from responses, and refused in requests (RFC 9112 section 5.1).
    builder.allow_spaces_after_header_name_in_responses(true);
    if let Some(max) = max_headers {
        builder.max_headers(max);
    }
    let exchange = Exchange::new();
    let watch = ResponseWatch::new(io, Arc::clone(&exchange));
    let (hyper, connection) = builder.handshake(TokioIo::new(watch)).await.map_err(Failure::unsent)?;
    let shared = Arc::new(ConnectionShared { hyper: Mutex::new(Some(hyper)), exchange, opened: Instant::now() });
    // Only the handles keep the connection open.
    let of_task = Arc::downgrade(&shared);
    let of_exchange = Arc::clone(&shared.exchange);
    tokio::spawn(async move {
        let (mut connection, mut open) = (connection.with_upgrades(), Some(open));
        let ended = poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(ended);
                }
                let judged = of_exchange.is_undecided().then(|| of_task.upgrade()).flatten();
                match judged.map(|shared| shared.judge()) {
                    // hyper closes the connection, since its handle is dropped.
                    Some(Verdict::Close) => open = None,
                    Some(Verdict::Reuse) => {
                        on_capacity();
                        return Poll::Pending;
                    }
                    Some(Verdict::FirstUse | Verdict::Unchanged) | None => return Poll::Pending,
                }
            }
        })
        .await;
        drop(open);
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "connection to endpoint failed");
        }
    });
    let handle = Handle { shared, interim };
    // hyper accepts requests only after the task has run.
    poll_fn(|cx| handle.poll_ready(cx)).await?;
    Ok(handle)
}

// === impl Handle ===

impl Handle {
    /// Whether the connection accepts a request now.
    pub(crate) fn is_ready(&self) -> bool {
        self.shared.exchange.is_ready() && self.shared.hyper().as_ref().is_some_and(http1::SendRequest::is_ready)
    }

    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut hyper = self.shared.hyper();
        ready!(hyper.as_mut().ok_or(Failure::CLOSED)?.poll_ready(cx)).map_err(|error| {
            self.shared.exchange.other_protocol().map_or_else(|| Failure::unsent(error), Failure::other_protocol)
        })?;
        if self.shared.exchange.is_ready() {
            return Poll::Ready(Ok(()));
        }
        // The connection's task is about to decide whether the connection can be reused.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends a request's head. Its `body` is sent by [`BodySink::poll`], which fails if the endpoint accepts nothing of it
    /// for `write_stall`.
    pub(crate) fn send<B: Body>(
        &self,
        mut head: Parts,
        body: &B,
        stream: OpenStream,
        write_stall: Duration,
    ) -> Result<(PendingResponse, BodySink), Failure> {
        let ended = body.is_end_stream();
        let is_http2 = head.version == Version::HTTP_2;
        let kind = request::to_endpoint(&mut head, ended).map_err(Failure::unrepresentable)?;
        let shared = Arc::clone(&self.shared);
        let (response, upload) = {
            let mut hyper = shared.hyper();
            let sending = hyper.as_mut().filter(|_| shared.exchange.begin(head.method == Method::HEAD));
            let sending = sending.ok_or(Failure::CLOSED)?;
            // Data for a tunnel waits until the endpoint has accepted the tunnel.
            let ended = ended || kind != EndpointRequestKind::Plain;
            let (upload, uploading) = Upload::new(ended, write_stall);
            let mut req = Request::from_parts(head, ());
            // Interim responses go to clients of HTTP/2 only: hyper's server of HTTP/1.1 cannot send them.
            uploading.on_interim(&mut req, Arc::clone(&self.interim), is_http2);
            let req = req.map(|()| RequestBody { uploading, exchange: Arc::clone(&shared.exchange) });
            let response = Box::pin(sending.try_send_request(req));
            // Endpoint and proxy may disagree whether a response to CONNECT starts a tunnel, so no request may follow it.
            if kind == EndpointRequestKind::Connect {
                *hyper = None;
            }
            (response, upload)
        };
        let reused = stream.has_answered() || shared.opened.elapsed() >= WAITED;
        Ok((
            PendingResponse { response, stream, shared, reused, kind, to: None, write_stall },
            BodySink::Upload(upload),
        ))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

// === impl ConnectionShared ===

impl ConnectionShared {
    fn hyper(&self) -> MutexGuard<'_, Option<http1::SendRequest<RequestBody>>> {
        self.hyper.lock().expect(UNPOISONED)
    }

    /// Decides whether the connection can have another request. To be called after hyper was polled.
    fn judge(&self) -> Verdict {
        let mut hyper = self.hyper();
        if !hyper.as_ref().is_some_and(http1::SendRequest::is_ready) {
            return Verdict::Unchanged;
        }
        let verdict = self.exchange.decide();
        if verdict == Verdict::Close {
            *hyper = None;
        }
        verdict
    }

    /// Closes the connection to further requests.
    fn close(&self) {
        *self.hyper() = None;
    }
}

// === impl PendingResponse ===

impl PendingResponse {
    /// Polls for the response.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Incoming>, Failure>> {
        Poll::Ready(match ready!(self.response.as_mut().poll(cx)) {
            Ok(rsp) if self.reused && is_idle_timeout(&rsp) => Err(Failure::IDLE_TIMEOUT),
            Ok(mut rsp) => {
                let accepted = response::from_endpoint(&mut rsp, &self.kind);
                match accepted.inspect_err(|_| self.shared.close()).map_err(Failure::malformed)? {
                    None => Ok(rsp.map(Incoming::Message)),
                    Some(endpoint) => {
                        let (to, received) = BodySender::new(false);
                        self.to = Some(BodySink::Tunnel(Box::new(EndpointTunnel {
                            endpoint,
                            to,
                            write_stall: self.write_stall,
                        })));
                        Ok(rsp.map(|_| Incoming::Tunnel(received)))
                    }
                }
            }
            Err(mut error) => Err(match error.take_message() {
                Some(_) => Failure::unsent(error.into_error()),
                None => match self.shared.exchange.other_protocol() {
                    Some(other) => Failure::other_protocol(other),
                    None => Failure::lost(error.into_error(), self.reused, self.kind.is_get()),
                },
            }),
        })
    }

    /// The stream, which counts as open as long as the response's body lives, and where the request's body goes from now on.
    /// `None`: unchanged.
    pub(crate) fn into_parts(self) -> (OpenStream, Option<BodySink>) {
        (self.stream, self.to)
    }
}

/// Whether a response on a connection that had been idle is no answer to the request (RFC 9110 section 15.5.9): the endpoint
/// closes idle connections with 408, and the request crossed it.
fn is_idle_timeout<B>(rsp: &Response<B>) -> bool {
    rsp.status() == StatusCode::REQUEST_TIMEOUT
        && (rsp.version() < Version::HTTP_11 || fields::has_token(rsp.headers(), &header::CONNECTION, "close"))
}

// === impl BodySink ===

impl BodySink {
    /// Whether all of the body has been passed on to the connection.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Upload(upload) if upload.is_done())
    }

    /// Sends `body` until the response has come. Data for a tunnel is not sent before [`spawn_rest`](Self::spawn_rest).
    pub(crate) fn poll<B>(
        &mut self,
        body: &mut B,
        interim: &mut InterimBudget,
        cx: &mut Context<'_>,
    ) -> Poll<SendOutcome>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        match self {
            Self::Upload(upload) => upload.poll(body, interim, cx),
            Self::Tunnel(_) => Poll::Pending,
        }
    }

    /// Sends the rest of `body`, if any, in a task, and calls `ended` with the outcome.
    pub(crate) fn spawn_rest<B>(self, body: B, ended: impl FnOnce(SendOutcome) + Send + 'static)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        match self {
            Self::Upload(upload) => upload.spawn_rest(body, ended),
            Self::Tunnel(tunnel) => tunnel.spawn(body, ended),
        }
    }
}

// === impl RequestBody ===

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Http1BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1BodyError>>> {
        Pin::new(&mut self.uploading).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.uploading.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.uploading.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.exchange.request_buffered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connection::state::ConnectionState, stats::Transport};
    use http_body_util::Empty;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Has the endpoint send `rsp` in pieces of `piece` bytes. `room`: whether the connection accepts another request then.
    async fn check(rsp: &str, piece: usize, room: bool) {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let connection_state = ConnectionState::new(&Arc::default());
        let io = Io::new(near, &Arc::<Transport>::default(), &connection_state);
        let (open, closed) = watch::channel(());
        let rooms = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&rooms);
        let on_capacity = Arc::new(move || _ = counted.fetch_add(1, Relaxed));
        let handle = connect(io, (1 << 16, None), Arc::default(), open, on_capacity).await.unwrap();
        assert!(handle.is_ready());
        for round in 0..3 {
            assert_eq!(rooms.load(Relaxed), round, "once for each request, and none for the first");
            let head = Request::get("http://a/").body(()).unwrap().into_parts().0;
            let stream = connection_state.open_stream();
            let (mut sent, _to) =
                handle.send(head, &Empty::<Bytes>::new(), stream, Duration::from_secs(1)).expect("it is ready");
            assert!(!handle.is_ready());
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                far.read_buf(&mut read).await.unwrap();
            }
            assert!(!handle.is_ready());
            for piece in rsp.as_bytes().chunks(piece) {
                assert_eq!(rooms.load(Relaxed), round);
                far.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let _rsp = poll_fn(|cx| sent.poll(cx)).await;
            if !room {
                assert_eq!((rooms.load(Relaxed), handle.is_ready()), (0, false), "{rsp}");
                assert!(closed.has_changed().is_err(), "the task has dropped its end");
                return;
            }
            assert!(handle.is_ready(), "{rsp}");
        }
        assert_eq!(rooms.load(Relaxed), 3, "{rsp}");
    }

    #[tokio::test]
    async fn waiting_requests_are_told_of_each_connection_that_can_be_reused() {
        for piece in [1, 9, usize::MAX] {
            check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", piece, true).await;
            check("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", piece, true).await;
            check("HTTP/1.1 200 OK\r\ncontent-length: 0, 0\r\n\r\n", piece, false).await;
            check("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", piece, false).await;
        }
    }

    #[tokio::test]
    async fn a_response_before_any_byte_of_the_request_was_written_is_not_its_answer() {
        const HEAD: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        // The transport holds one head; the next is written only when that is read.
        let (near, mut far) = tokio::io::duplex(HEAD.len());
        let connection_state = ConnectionState::new(&Arc::default());
        let io = Io::new(near, &Arc::<Transport>::default(), &connection_state).with_http1_endpoint(Arc::default());
        let handle = connect(io, (1 << 16, None), Arc::default(), watch::channel(()).0, Arc::new(|| {})).await.unwrap();
        let send = || {
            let head = Request::get("http://a/").body(()).unwrap().into_parts().0;
            let stream = connection_state.open_stream();
            handle.send(head, &Empty::<Bytes>::new(), stream, Duration::from_secs(1)).expect("it is ready")
        };
        let (mut sent, _to) = send();
        tokio::task::yield_now().await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert!(poll_fn(|cx| sent.poll(cx)).await.is_ok());
        let (mut sent, _to) = send();
        tokio::task::yield_now().await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let failure = poll_fn(|cx| sent.poll(cx)).await.unwrap_err();
        assert!(failure.is_stale() && !handle.is_ready(), "{failure:?}");
    }
}
