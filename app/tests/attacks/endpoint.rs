//! A well-behaved endpoint, in a thread of its own, that answers as a path says.

use crate::{priority::usual, threads::Thread};
use bytes::Bytes;
use h2::{RecvStream, SendStream, server};
use http::{Request, Response};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, task::yield_now, time::sleep};

pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    pub(crate) thread: Thread,
    asked: Arc<AtomicUsize>,
}

/// The state that the endpoint's tasks share.
#[derive(Clone)]
struct Shared {
    /// Requests that came to `/hang` so far.
    asked: Arc<AtomicUsize>,
    /// Requests for large bodies take turns, with pauses for all others. It is the proxy that is measured.
    turn: Arc<Semaphore>,
}

/// So many bytes are not much.
const LITTLE: usize = 1_000;
/// Bytes of a large body that are sent in one turn: a stream's window.
const PIECE: usize = 64 << 10;
/// Between turns, so that the endpoint, which is a debug build, holds up nobody.
const PAUSE: Duration = Duration::from_millis(1);

impl Endpoint {
    /// `/bytes/N` is answered with so many bytes, `/tiny/N` with so many DATA frames of a byte; `/hang` never.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Shared { asked: Arc::default(), turn: Arc::new(Semaphore::new(1)) };
        let asked = Arc::clone(&shared.asked);
        let (tell, thread) = mpsc::channel();
        usual(|| {
            thread::spawn(move || {
                let _ = tell.send(Thread::current());
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(accept(listener, shared));
            })
        });
        let thread = thread.recv().expect("it starts");
        Self { addr, thread, asked }
    }

    /// Requests that came to `/hang` so far.
    pub(crate) fn asked_to_hang(&self) -> usize {
        self.asked.load(Relaxed)
    }

    /// Waits until so many have come there.
    pub(crate) async fn hangs(&self, count: usize) {
        while self.asked_to_hang() < count {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Shared) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let mut builder = server::Builder::new();
            // It is the proxy that is attacked.
            builder
                .max_concurrent_streams(100)
                .max_pending_accept_reset_streams(1 << 20)
                .max_local_error_reset_streams(None);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            while let Some(Ok((req, respond))) = connection.accept().await {
                tokio::spawn(answer(req, respond, shared.clone()));
                yield_now().await;
            }
        });
    }
}

async fn answer(req: Request<RecvStream>, mut respond: server::SendResponse<Bytes>, shared: Shared) {
    let (head, mut body) = req.into_parts();
    let (what, count) = parts(head.uri.path());
    if what == "hang" {
        shared.asked.fetch_add(1, Relaxed);
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        return;
    }
    let Ok(mut to) = respond.send_response(Response::new(()), false) else { return };
    tokio::spawn(async move {
        while let Some(Ok(chunk)) = body.data().await {
            let _ = body.flow_control().release_capacity(chunk.len());
        }
    });
    // Waits for window each time, so that the frames of a tiny one come to be on their way one by one.
    let piece = if what == "tiny" { 1 } else { count };
    let mut rest = count;
    while rest > 0 {
        let turn = (count >= LITTLE).then_some(&*shared.turn);
        let Some(sent) = send(&mut to, rest.min(piece), turn).await else { return };
        rest -= sent;
    }
    let _ = to.send_data(Bytes::new(), true);
}

/// Sends as many bytes as the window has room for, in its `turn`.
async fn send(to: &mut SendStream<Bytes>, most: usize, turn: Option<&Semaphore>) -> Option<usize> {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    // A stream that waits for its turn holds no window of the connection that others could use.
    to.reserve_capacity(1);
    while to.capacity() == 0 {
        std::future::poll_fn(|cx| to.poll_capacity(cx)).await?.ok()?;
    }
    let _turn = match turn {
        None => None,
        Some(turn) => {
            let turn = turn.acquire().await.ok()?;
            sleep(PAUSE).await;
            Some(turn)
        }
    };
    to.reserve_capacity(most.min(ZEROS.len()));
    let bytes = to.capacity().min(most).min(ZEROS.len());
    to.send_data(Bytes::from_static(&ZEROS[..bytes]), false).ok()?;
    Some(bytes)
}

/// The two parts of a path, the second as a number.
fn parts(path: &str) -> (&str, usize) {
    let (what, count) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    (what, count.parse().unwrap_or(0))
}
