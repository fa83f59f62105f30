//! A well-behaved client with eight streams, in a thread of its own, so that nobody's work delays its clock.

use crate::rig::{PATIENCE, is_release};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::Request;
use std::{net::SocketAddr, thread, time::Duration};
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const STREAMS: usize = 8;
/// Requests of each stream that are measured at least.
const LEAST: usize = 25;
/// Between the requests of a stream.
const PAUSE: Duration = Duration::from_millis(2);
/// What the victim's P99 may be in any case: attacker, proxy, endpoint and victim share two cores or so, where a few
/// milliseconds say little. Whoever is held up by others' readers or frames waits for much longer.
const FLOOR: Duration = Duration::from_millis(100);
/// The same where the proxy is a debug build, in which all that the attacker asks for takes ten times as long.
const DEBUG_FLOOR: Duration = Duration::from_millis(500);

pub(crate) struct Victim {
    addr: SocketAddr,
    undisturbed: Duration,
}

/// One run of the victim, on a connection of its own, until it is told to stop.
pub(crate) struct Measuring {
    stop: watch::Sender<bool>,
    done: oneshot::Receiver<Fared>,
}

#[derive(Debug)]
struct Fared {
    p99: Duration,
    errors: Vec<String>,
}

impl Victim {
    /// Sees how it fares before an attack.
    pub(crate) async fn start(addr: SocketAddr) -> Self {
        let fared = Measuring::start(addr).end().await;
        assert!(fared.errors.is_empty(), "undisturbed: {:?}", fared.errors);
        Self { addr, undisturbed: fared.p99 }
    }

    pub(crate) fn begin(&self) -> Measuring {
        Measuring::start(self.addr)
    }

    pub(crate) async fn check(&self, measuring: Measuring) {
        let fared = measuring.end().await;
        assert!(fared.errors.is_empty(), "{} errors: {:?}", fared.errors.len(), fared.errors[0]);
        let floor = if is_release() { FLOOR } else { DEBUG_FLOOR };
        let most = floor.max(2 * self.undisturbed);
        assert!(fared.p99 <= most, "P99 {:?}, undisturbed {:?}", fared.p99, self.undisturbed);
    }
}

impl Measuring {
    fn start(addr: SocketAddr) -> Self {
        let (stop, told) = watch::channel(false);
        let (fared, done) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = fared.send(runtime.block_on(run(addr, &told)));
        });
        Self { stop, done }
    }

    async fn end(self) -> Fared {
        self.stop.send_replace(true);
        timeout(2 * PATIENCE, self.done).await.expect("the victim ends").unwrap()
    }
}

async fn run(addr: SocketAddr, stop: &watch::Receiver<bool>) -> Fared {
    let stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (client, stop) = (client.clone(), stop.clone());
        streams.spawn(async move {
            let mut fared = Vec::new();
            while fared.len() < LEAST || !*stop.borrow() {
                let started = Instant::now();
                let asked = timeout(PATIENCE, ask(client.clone())).await.unwrap_or_else(|_| Err("hung".to_owned()));
                let failed = asked.is_err();
                fared.push(asked.map(|()| started.elapsed()));
                if failed {
                    break;
                }
                sleep(PAUSE).await;
            }
            fared
        });
    }
    let (mut took, mut errors) = (Vec::new(), Vec::new());
    for fared in streams.join_all().await.into_iter().flatten() {
        match fared {
            Ok(time) => took.push(time),
            Err(error) => errors.push(error),
        }
    }
    took.sort_unstable();
    let p99 = took.len().checked_sub(1).map_or(Duration::MAX, |last| took[last * 99 / 100]);
    Fared { p99, errors }
}

/// A request, to the end of its answer.
async fn ask(client: SendRequest<Bytes>) -> Result<(), String> {
    let req = Request::get("http://test.example/bytes/128").body(()).unwrap();
    let mut client = client.ready().await.map_err(|error| error.to_string())?;
    let (response, _) = client.send_request(req, true).map_err(|error| error.to_string())?;
    let response = response.await.map_err(|error| error.to_string())?;
    if response.status() != 200 {
        return Err(format!("{:?}", response.headers()));
    }
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| error.to_string())?;
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes += chunk.len();
    }
    if bytes == 128 { Ok(()) } else { Err(format!("{bytes} bytes")) }
}
