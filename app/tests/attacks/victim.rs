//! A well-behaved client with eight streams, in a thread of its own, so that nobody's work delays its clock.

use crate::{
    priority::usual,
    rig::{PATIENCE, is_release},
    waits::Waits,
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
/// What the victim's P99 may be in any case, without the time in which it, the proxy or the endpoint waited for a CPU:
/// what others ask for takes its time, and a few milliseconds say little.
const FLOOR: Duration = Duration::from_millis(10);
/// The same where the proxy is a debug build, in which all that the attacker asks for takes ten times as long.
const DEBUG_FLOOR: Duration = Duration::from_millis(100);
/// The same with that time: whatever runs beside, nobody waits for longer.
const WALL_FLOOR: Duration = Duration::from_millis(500);

pub(crate) struct Victim {
    addr: SocketAddr,
    waits: Waits,
    undisturbed: P99,
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
    /// Without what the machine had them wait.
    own: Duration,
}

impl Victim {
    /// Sees how it fares before an attack.
    pub(crate) async fn start(addr: SocketAddr, waits: Waits) -> Self {
        let fared = Measuring::start(addr, waits.clone()).end().await;
        assert!(fared.errors.is_empty(), "undisturbed: {:?}", fared.errors);
        Self { addr, waits, undisturbed: fared.p99 }
    }

    pub(crate) fn begin(&self) -> Measuring {
        Measuring::start(self.addr, self.waits.clone())
    }

    pub(crate) async fn check(&self, measuring: Measuring) {
        let fared = measuring.end().await;
        assert!(fared.errors.is_empty(), "{} errors: {:?}", fared.errors.len(), fared.errors[0]);
        report(self.undisturbed, fared.p99);
        let floor = if is_release() { FLOOR } else { DEBUG_FLOOR };
        let is_fine = |p99: Duration, undisturbed: Duration, floor: Duration| p99 <= floor.max(2 * undisturbed);
        let fine = is_fine(fared.p99.wall, self.undisturbed.wall, WALL_FLOOR)
            && (!self.waits.are_known() || is_fine(fared.p99.own, self.undisturbed.own, floor));
        assert!(fine, "{:?}, undisturbed {:?}", fared.p99, self.undisturbed);
    }
}

impl Measuring {
    fn start(addr: SocketAddr, waits: Waits) -> Self {
        let (stop, told) = watch::channel(false);
        let (fared, done) = oneshot::channel();
        usual(move || {
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = fared.send(runtime.block_on(run(addr, &told, &waits.and(&Waits::here()))));
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

async fn run(addr: SocketAddr, stop: &watch::Receiver<bool>, waits: &Waits) -> Fared {
    let stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (client, stop, waits) = (client.clone(), stop.clone(), waits.clone());
        streams.spawn(async move {
            let mut fared = Vec::new();
            while fared.len() < LEAST || !*stop.borrow() {
                let (started, waited) = (Instant::now(), waits.total());
                let asked = timeout(PATIENCE, ask(client.clone())).await.unwrap_or_else(|_| Err("hung".to_owned()));
                let failed = asked.is_err();
                let wall = started.elapsed();
                fared.push(asked.map(|()| (wall, wall.saturating_sub(waits.total() - waited))));
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
