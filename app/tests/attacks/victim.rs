//! A well-behaved client with eight streams, in a thread of its own, so that nobody's work delays its clock.

use crate::{
    pauses,
    priority::{is_apart, usual},
    rig::{PATIENCE, is_release},
    threads::{Spent, Thread, Threads},
};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::Request;
use std::{
    env,
    io::{self, Write as _},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

const STREAMS: usize = 8;
/// Requests of each stream that are measured at least: what holds up all of them once shows in the P99, and one that is
/// late by itself does not.
const LEAST: usize = 50;
/// Between the requests of a stream.
const PAUSE: Duration = Duration::from_millis(2);
/// What the victim's P99 may be in any case, as far as it is not the machine's doing: of one measurement, which is what a test
/// has, a machine that is busy with others makes four in a hundred more than twice what was before.
const FLOOR: Duration = Duration::from_millis(20);
/// How much more it may be where there is one CPU for all, and the proxy goes on with the attack while the victim waits.
const SHARED: u32 = 2;
/// The same where it is a debug build, in which all that the attacker asks for takes so much longer.
const DEBUG: u32 = 5;
/// The same by the clock, beside any other load.
const WALL_FLOOR: Duration = Duration::from_millis(500);
/// The same where the machine's part is known: a load of twenty on two CPUs makes it two seconds now and then.
const KNOWN_WALL_FLOOR: Duration = Duration::from_secs(5);

pub(crate) struct Victim {
    addr: SocketAddr,
    proxy: Threads,
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

/// The time that 99 of 100 requests took at most.
#[derive(Clone, Copy, Debug)]
struct P99 {
    /// By the clock.
    wall: Duration,
    /// Without the machine's part: the proxy's waits for a CPU, and pauses.
    own: Duration,
    /// Without the victim's and the endpoint's waits either, which share a CPU with all that the machine does beside.
    least: Duration,
}

/// A request.
struct Took {
    started: Instant,
    ended: Instant,
    /// The proxy's CPU time meanwhile, and all waits for a CPU.
    proxy: Spent,
}

impl Victim {
    /// Sees how it fares before an attack.
    pub(crate) async fn start(addr: SocketAddr, proxy: Threads) -> Self {
        let fared = Measuring::start(addr, proxy.clone()).end().await;
        assert!(fared.errors.is_empty(), "undisturbed: {:?}", fared.errors);
        Self { addr, proxy, undisturbed: fared.p99 }
    }

    pub(crate) fn begin(&self) -> Measuring {
        Measuring::start(self.addr, self.proxy.clone())
    }

    /// It must have fared as well.
    pub(crate) async fn check(&self, measuring: Measuring) {
        let fared = measuring.end().await;
        assert!(fared.errors.is_empty(), "{} errors: {:?}", fared.errors.len(), fared.errors[0]);
        report(self.undisturbed, fared.p99);
        let slower = if is_release() { 1 } else { DEBUG } * if is_apart() { 1 } else { SHARED };
        let floor = slower * FLOOR;
        let is_fine = |p99: Duration, undisturbed: Duration, floor: Duration| p99 <= floor.max(2 * undisturbed);
        let is_known = self.proxy.are_known() && pauses::are_noticed();
        let wall_floor = if is_known { KNOWN_WALL_FLOOR } else { WALL_FLOOR };
        let fine = is_fine(fared.p99.wall, self.undisturbed.wall, wall_floor)
            && (!is_known || is_fine(fared.p99.least, self.undisturbed.least, floor));
        assert!(fine, "{:?}, undisturbed {:?}", fared.p99, self.undisturbed);
    }
}

impl Measuring {
    fn start(addr: SocketAddr, proxy: Threads) -> Self {
        let (stop, told) = watch::channel(false);
        let (fared, done) = oneshot::channel();
        usual(move || {
            thread::spawn(move || {
                let proxy = proxy.with(&Thread::current());
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = fared.send(runtime.block_on(run(addr, &proxy, &told)));
            })
        });
        Self { stop, done }
    }

    async fn end(self) -> Fared {
        self.stop.send_replace(true);
        timeout(2 * PATIENCE, self.done).await.expect("the victim ends").unwrap()
    }
}

impl Took {
    fn wall(&self) -> Duration {
        self.ended - self.started
    }

    /// Without the time in which the proxy waited for a CPU, which is its own and the attacker's, and without pauses.
    fn own(&self) -> Duration {
        self.less(self.proxy.waited)
    }

    /// Without the time in which the victim or the endpoint waited either.
    fn least(&self) -> Duration {
        self.less(self.proxy.waited + self.proxy.others_waited)
    }

    /// Not less than the proxy has run: one of its threads may have waited for another, or the victim for the proxy.
    fn less(&self, waited: Duration) -> Duration {
        let wall = self.wall();
        let busy = wall.saturating_sub(waited).max(self.proxy.ran.min(wall));
        busy.saturating_sub(pauses::between(self.started, self.ended))
    }
}

/// Where `ATTACKS_REPORT` is set: a line for each measurement, past the capture of tests' output.
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

async fn run(addr: SocketAddr, proxy: &Threads, stop: &watch::Receiver<bool>) -> Fared {
    let stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (client, stop, proxy) = (client.clone(), stop.clone(), proxy.clone());
        streams.spawn(async move {
            let mut fared = Vec::new();
            while fared.len() < LEAST || !*stop.borrow() {
                let (started, before) = (Instant::now(), proxy.spent());
                let asked = timeout(PATIENCE, ask(client.clone())).await.unwrap_or_else(|_| Err("hung".to_owned()));
                let took = Took { started, ended: Instant::now(), proxy: proxy.spent() - before };
                let failed = asked.is_err();
                fared.push(asked.map(|()| took));
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
            Ok(one) => took.push(one),
            Err(error) => errors.push(error),
        }
    }
    let of = |time: fn(&Took) -> Duration| p99(took.iter().map(time));
    Fared { p99: P99 { wall: of(Took::wall), own: of(Took::own), least: of(Took::least) }, errors }
}

fn p99(took: impl Iterator<Item = Duration>) -> Duration {
    let mut took: Vec<_> = took.collect();
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
