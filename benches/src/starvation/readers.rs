//! Clients that have stopped reading, or that send to an endpoint that has.

use super::{Scene, Stop};
use crate::load::{self, Client, Payload, STREAM_WINDOW, Workload};
use bytes::Bytes;
use http::Request;
use std::{
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Clients that have stopped reading; or that send to an endpoint that has.
#[derive(Debug)]
pub(super) struct Readers {
    answered: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
    readers: usize,
    /// Dropping it closes their connections.
    _connections: JoinSet<()>,
}

/// Bytes that each stopped reader asks for, or sends.
const STOPPED: u64 = 8_000_000;
/// How long readers may take until they are answered.
const ASKING: Duration = Duration::from_secs(15);
/// How long a reader reads its socket, if it stops doing so.
const READING: Duration = Duration::from_millis(300);

// === impl Readers ===

impl Readers {
    /// Connects to `target`, and returns once all have asked.
    pub(super) async fn ask(scene: &Scene, target: SocketAddr) -> io::Result<Self> {
        let (answered, gone) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut connections = JoinSet::new();
        let mut left = scene.readers;
        while left > 0 {
            let streams = left.min(scene.streams_each.max(1));
            left -= streams;
            match scene.workload {
                Workload::Upload => {
                    let client = load::connect(target, STREAM_WINDOW, &mut connections).await?;
                    for _ in 0..streams {
                        connections.spawn(upload(client.clone(), Arc::clone(&gone)));
                    }
                }
                _ => {
                    let io = TcpStream::connect(target).await?;
                    io.set_nodelay(true)?;
                    let (answered, gone) = (Arc::clone(&answered), Arc::clone(&gone));
                    connections.spawn(stop(io, streams, scene.stop, answered, gone));
                }
            }
        }
        let readers = scene.readers;
        if scene.workload != Workload::Upload && scene.stop == Stop::Window {
            let all = async {
                while answered.load(Relaxed) + gone.load(Relaxed) < readers {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            // Readers that are not answered in time are counted.
            timeout(ASKING, all).await.unwrap_or_default();
        }
        Ok(Self { answered, gone, readers, _connections: connections })
    }

    /// Closes all connections. Returns how many were answered, and how many were still there.
    pub(super) fn leave(self) -> (usize, usize) {
        (self.answered.load(Relaxed), self.readers.saturating_sub(self.gone.load(Relaxed)))
    }
}

async fn upload(mut client: Client, gone: Arc<AtomicUsize>) {
    let req = Request::post("http://bench.example/stop").body(Payload::bytes(STOPPED)).expect("the URI is valid");
    if client.ready().await.is_ok() {
        // There is no response, unless the proxy gives it.
        let _ = client.send_request(req).await;
    }
    gone.fetch_add(1, Relaxed);
}

/// A connection on which `streams` are asked for and not read.
async fn stop(io: TcpStream, streams: usize, stop: Stop, answered: Arc<AtomicUsize>, gone: Arc<AtomicUsize>) {
    let mut builder = h2::client::Builder::new();
    match stop {
        Stop::Window => builder.initial_window_size(0),
        Stop::Socket => builder.initial_window_size(STREAM_WINDOW),
    };
    let Ok((client, mut connection)) = builder.handshake::<_, Bytes>(io).await else {
        gone.fetch_add(streams, Relaxed);
        return;
    };
    let mut asked = JoinSet::new();
    for _ in 0..streams {
        let (client, answered, gone) = (client.clone(), Arc::clone(&answered), Arc::clone(&gone));
        asked.spawn(async move {
            let _ = ask(client, &answered).await;
            gone.fetch_add(1, Relaxed);
        });
    }
    match stop {
        Stop::Window => connection.await.unwrap_or_default(),
        Stop::Socket => {
            timeout(READING, &mut connection).await.unwrap_or(Ok(())).unwrap_or_default();
            pending().await
        }
    }
    asked.join_all().await;
}

/// Asks, and waits for an end that should not come.
async fn ask(client: h2::client::SendRequest<Bytes>, answered: &AtomicUsize) -> Result<(), h2::Error> {
    let mut client = client.ready().await?;
    let mut req = Request::new(());
    *req.uri_mut() = format!("http://bench.example/bytes/{STOPPED}").parse().expect("the URI is valid");
    let (rsp, _) = client.send_request(req, true)?;
    let mut body = rsp.await?.into_body();
    answered.fetch_add(1, Relaxed);
    // Without a window the proxy can send nothing; with one the window is not given back.
    while poll_fn(|cx| body.poll_data(cx)).await.transpose()?.is_some() {}
    Ok(())
}
