//! A well-behaved client with eight streams, in a thread of its own, so that nobody's work delays its clock.

use crate::{
    priority::{is_apart, usual},
    rig::{PATIENCE, is_release},
    threads::Threads,
};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::Request;
use std::{
    env,
    io::{self, Write as _},
    net::SocketAddr,
    thread,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const STREAMS: usize = 8;
/// Requests of each stream that are measured at least: what holds up all of them once shows in the P99, and one that is
/// late by itself does not.
const LEAST: usize = 50;
/// Between the requests of a stream.
const PAUSE: Duration = Duration::from_millis(2);
/// What the victim's P99 may be in any case, as far as it is not the machine's doing: others have their turns, of which a
/// request meets several, and now and then a CPU is not there at once.
const FLOOR: Duration = Duration::from_millis(20);
/// How much more it may be where the proxy has no CPU to itself, and goes on with the attack while the victim waits.
const SHARED: u32 = 2;
/// The same where it is a debug build, in which all that the attacker asks for takes so much longer.
const DEBUG: u32 = 5;
/// The same by the clock, whatever else runs.
const WALL_FLOOR: Duration = Duration::from_millis(500);

pub(crate) struct Victim {
    path: Path,
    undisturbed: P99,
}

/// The way of a request and its answer.
#[derive(Clone)]
struct Path {
    addr: SocketAddr,
    proxy: Threads,
    endpoint: Threads,
}

/// One run of the victim, on a connection of its own, until it is told to stop.
pub(crate) struct Measuring {
    stop: watch::Sender<bool>,
    done: oneshot::Receiver<Fared>,
}

#[derive(Debug)]
struct Fared {
    p99: P99,
    errors: Vec<String>,
}

/// What 99 of 100 requests took at most.
#[derive(Clone, Copy, Debug)]
struct P99 {
    /// By the clock.
    wall: Duration,
    /// Without the time in which the victim, the proxy or the endpoint waited for a CPU, but not less than the proxy has run:
    /// they may have waited at the same time.
    own: Duration,
}

impl Victim {
    /// Sees how it fares before an attack.
    pub(crate) async fn start(addr: SocketAddr, proxy: Threads, endpoint: Threads) -> Self {
        let path = Path { addr, proxy, endpoint };
        let fared = Measuring::start(path.clone()).end().await;
        assert!(fared.errors.is_empty(), "undisturbed: {:?}", fared.errors);
        Self { path, undisturbed: fared.p99 }
    }

    pub(crate) fn begin(&self) -> Measuring {
        Measuring::start(self.path.clone())
    }

    /// It may have waited for work that takes so long.
    pub(crate) async fn check(&self, measuring: Measuring, takes: Duration) {
        let fared = measuring.end().await;
        assert!(fared.errors.is_empty(), "{} errors: {:?}", fared.errors.len(), fared.errors[0]);
        report(self.undisturbed, fared.p99);
        let slower = if is_release() { 1 } else { DEBUG } * if is_apart() { 1 } else { SHARED };
        let floor = slower * (FLOOR + takes);
        let is_fine = |p99: Duration, undisturbed: Duration, floor: Duration| p99 <= floor.max(2 * undisturbed);
        let fine = is_fine(fared.p99.wall, self.undisturbed.wall, WALL_FLOOR)
            && (!self.path.proxy.are_known() || is_fine(fared.p99.own, self.undisturbed.own, floor));
        assert!(fine, "{:?}, undisturbed {:?}", fared.p99, self.undisturbed);
    }
}

impl Measuring {
    fn start(path: Path) -> Self {
        let (stop, told) = watch::channel(false);
        let (fared, done) = oneshot::channel();
        usual(move || {
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = fared.send(runtime.block_on(run(&path, &told)));
            })
        });
        Self { stop, done }
    }

    async fn end(self) -> Fared {
        self.stop.send_replace(true);
        timeout(2 * PATIENCE, self.done).await.expect("the victim ends").unwrap()
    }
}

/// Where `ATTACKS_REPORT` is set: a line for each measurement, past what captures the output of tests.
fn report(undisturbed: P99, beside: P99) {
    if env::var_os("ATTACKS_REPORT").is_none() {
        return;
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (before, after) = (ms(undisturbed.own), ms(beside.own));
    let (thread, ratio) = (thread::current(), after / before);
    let line = format!(
        "{} undisturbed {before:.2} ms, beside the attack {after:.2} ms, ratio {ratio:.2}; by the clock {:.2} and {:.2} ms\n",
        thread.name().unwrap_or_default(),
        ms(undisturbed.wall),
        ms(beside.wall)
    );
    let _ = io::stderr().write_all(line.as_bytes());
}

async fn run(path: &Path, stop: &watch::Receiver<bool>) -> Fared {
    let others = path.endpoint.clone().and(&Threads::here());
    let stream = TcpStream::connect(path.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (client, stop, proxy, others) = (client.clone(), stop.clone(), path.proxy.clone(), others.clone());
        streams.spawn(async move {
            let mut fared = Vec::new();
            while fared.len() < LEAST || !*stop.borrow() {
                let (started, before) = (Instant::now(), (proxy.spent(), others.spent()));
                let asked = timeout(PATIENCE, ask(client.clone())).await.unwrap_or_else(|_| Err("hung".to_owned()));
                let failed = asked.is_err();
                let wall = started.elapsed();
                let (proxy, others) = (proxy.spent() - before.0, others.spent() - before.1);
                let own = wall.saturating_sub(proxy.waited + others.waited).max(proxy.ran.min(wall));
                fared.push(asked.map(|()| (wall, own)));
                if failed {
                    break;
                }
                sleep(PAUSE).await;
            }
            fared
        });
    }
    let (mut walls, mut owns, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for fared in streams.join_all().await.into_iter().flatten() {
        match fared {
            Ok((wall, own)) => {
                walls.push(wall);
                owns.push(own);
            }
            Err(error) => errors.push(error),
        }
    }
    Fared { p99: P99 { wall: p99(walls), own: p99(owns) }, errors }
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took.len().checked_sub(1).map_or(Duration::MAX, |last| took[last * 99 / 100])
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
