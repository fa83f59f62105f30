//! Stopped readers beside a transfer and small requests: the rates of a proxy's other clients, and its memory.
//!
//! Each stopped reader is a client that asks for 8 MB and takes none of it. In the mirror of this, each uploads 8 MB to an
//! endpoint that reads none of it. Beside them one client transfers 16 MB again and again, and others send small
//! requests at a fixed rate. The same traffic is measured before, without stopped readers, through the same proxy.

mod readers;
mod table;

pub use table::Table;

use self::readers::Readers;
use crate::{
    link::{Direction, Link, Relay},
    load::{self, Client, End, Endpoint, Exchange, STREAM_WINDOW, Workload, endpoint},
    matrix::{Latency, Machine, Record, Results, Side, Windows, settings},
    process::Proxy,
    timer::{Clock, Timer},
};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Stopped readers, the traffic beside them, and the proxy between.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// `Download`: clients stop reading. `Upload`: the endpoint stops reading. The transfers beside are of the same kind.
    pub workload: Workload,
    /// The proxy's windows, toward the client and toward the endpoint.
    pub windows: Windows,
    /// Stopped readers.
    pub readers: usize,
    /// How many of them share a client connection.
    pub streams_each: usize,
    /// How they stop.
    pub stop: Stop,
    /// The link's round trip, in milliseconds.
    pub rtt_ms: u64,
    /// The link's bandwidth, in Mbit/s each way.
    pub mbits: u64,
    /// Whether stopped readers come to a new proxy, instead of the one that the traffic without them went through.
    pub cold: bool,
    /// More variables for the proxy, without the `LINKERD2_PROXY_` that all have.
    pub env: Vec<(String, String)>,
}

/// How a client stops reading.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// SETTINGS_INITIAL_WINDOW_SIZE is 0 and no WINDOW_UPDATE comes; the connection is read.
    #[default]
    Window,
    /// The window is large; nothing is read from the socket once the request was sent.
    Socket,
}

/// One measurement of a scene.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// Without stopped readers.
    pub without: Traffic,
    /// Beside them.
    pub with: Traffic,
    /// Stopped readers that got a response's head. None does of uploads, and none that reads no socket.
    pub answered: usize,
    /// Stopped readers that were still there at the end.
    pub stayed: usize,
    /// The proxy's resident memory.
    pub rss: Rss,
}

/// The traffic beside stopped readers, in its measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes of large transfers, in units of 1,000,000 a second.
    pub megabytes_per_second: f64,
    /// How many large transfers ended how.
    pub transfers: BTreeMap<String, u64>,
    /// Small requests that were sent.
    pub requests: u64,
    /// How many of them ended how.
    pub ends: BTreeMap<String, u64>,
    /// Latencies of requests that ended well, from when they were to be sent. `None`: none did.
    pub latency_us: Option<Latency>,
}

/// A proxy's resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rss {
    /// Before there was any traffic.
    pub start: u64,
    /// After the traffic without stopped readers.
    pub without: u64,
    /// Beside stopped readers, after the measured time.
    pub with: u64,
    /// The most there ever was.
    pub peak: u64,
    /// Some time after all clients have gone.
    pub after: u64,
}

/// The scenes to measure, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The proxy's binary.
    pub app: PathBuf,
    /// The scenes.
    pub scenes: Vec<Scene>,
    /// How often, one round after the other.
    pub rounds: usize,
    /// The parameters of each measurement.
    pub params: Params,
    /// Where results go; if a part of them is there, the rest is measured.
    pub out: PathBuf,
}

/// The parameters of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// How long to measure the traffic, each time.
    pub time: Duration,
    /// Small requests in that time.
    pub requests: u32,
    /// How long to wait before the last look at the proxy's memory.
    pub after: Duration,
}

const LARGE: u64 = 16_000_000;
/// Connections that small requests are spread over.
const CLIENTS: usize = 4;
/// After how long a small request is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long traffic runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the proxy may fill its buffers for stopped readers, before traffic beside them begins.
const SETTLING: Duration = Duration::from_secs(2);
/// The window of an endpoint that stops reading: the rest of an upload stays in the proxy.
const ENDPOINT_WINDOW: u32 = 65_535;
/// The send buffer of an endpoint before a link: responses to small requests would wait for the downloads in it.
const SEND_BUFFER: u32 = 128 << 10;

/// Measures the scenes that are missing, one after the other. Returns all results.
///
/// # Errors
///
/// When results cannot be read or written.
pub async fn run(options: &Options) -> io::Result<Table> {
    let rounds = 0..options.rounds;
    let planned = rounds.clone().flat_map(|round| options.scenes.iter().map(move |scene| (scene.to_string(), round)));
    let machine = Machine::here(&options.app, options.params.time.as_secs_f64(), options.rounds);
    let mut results = Results::open(&options.out, &machine, planned)?;
    for round in rounds {
        for scene in options.scenes.iter().filter(|scene| !results.has(&scene.to_string(), round)).collect::<Vec<_>>() {
            let sample = scene.measure(options).await.map_err(|error| error.to_string());
            match &sample {
                Ok(sample) => println!("round {}: {scene}: {sample}", round + 1),
                Err(error) => eprintln!("round {}: {scene}: {error}", round + 1),
            }
            results.add(&Record::Starvation { scene: scene.clone(), round, sample })?;
        }
    }
    let mut table = Table::default();
    table.add_run(Results::read(&options.out)?);
    table.retain(&options.scenes);
    Ok(table)
}

// === impl Scene ===

impl Scene {
    /// Where the link is: the proxy's own windows govern DATA that comes over it.
    pub fn side(&self) -> Side {
        if self.workload == Workload::Upload { Side::Client } else { Side::Endpoint }
    }

    /// The proxy's windows, and all that is not as it is by default.
    fn setting(&self) -> String {
        let name = self.to_string();
        let rest = name.split_once("ms").map_or("", |(_, rest)| rest);
        format!("{}{rest}", self.windows.label())
    }

    /// Starts a link, an endpoint and a proxy, and measures traffic without stopped readers and beside them.
    ///
    /// # Errors
    ///
    /// When the proxy does not start or ends early, or this process is out of ports or descriptors.
    pub async fn measure(&self, options: &Options) -> io::Result<Beside> {
        let mut rig = self.rig(&options.app).await?;
        let mut rss = Rss { start: rig.proxy.usage()?.rss_kib, ..Rss::default() };
        let without = traffic(self.workload, rig.target, &rig.endpoint, options.params).await?;
        rss.without = rig.proxy.usage()?.rss_kib;
        if self.cold {
            rig = self.rig(&options.app).await?;
            rss.start = rig.proxy.usage()?.rss_kib;
        }
        // Not over the link of the mirror: only the proxy stands between them and the traffic.
        let readers = Readers::ask(self, rig.proxy.addr()).await?;
        sleep(SETTLING).await;
        let with = traffic(self.workload, rig.target, &rig.endpoint, options.params).await?;
        rss.with = rig.proxy.usage()?.rss_kib;
        let (answered, stayed) = readers.leave();
        sleep(options.params.after).await;
        let usage = rig.proxy.usage()?;
        rss.after = usage.rss_kib;
        rss.peak = usage.peak_rss_kib;
        Ok(Beside { without, with, answered, stayed, rss })
    }

    async fn rig(&self, app: &Path) -> io::Result<Rig> {
        let both = Direction::of_round_trip(Duration::from_millis(self.rtt_ms), self.mbits);
        let link = Link::new(both, both, Clock::Kernel);
        let env = [settings(self.windows), self.env.clone()].concat();
        if self.side() == Side::Client {
            let params = endpoint::Params { stream_window: ENDPOINT_WINDOW, ..endpoint::Params::DEFAULT };
            let endpoint = Endpoint::with(params).await?;
            let proxy = Proxy::spawn(app, endpoint.addr(), &env)?;
            let relay = Relay::spawn(link, proxy.addr()).await?;
            Ok(Rig { target: relay.addr(), endpoint, proxy, _relay: relay })
        } else {
            let params = endpoint::Params { send_buffer: Some(SEND_BUFFER), ..endpoint::Params::DEFAULT };
            let endpoint = Endpoint::with(params).await?;
            let relay = Relay::spawn(link, endpoint.addr()).await?;
            let proxy = Proxy::spawn(app, relay.addr(), &env)?;
            Ok(Rig { target: proxy.addr(), endpoint, proxy, _relay: relay })
        }
    }
}

/// An endpoint, a proxy, and a link on one side of it.
#[derive(Debug)]
struct Rig {
    /// Where traffic goes.
    target: SocketAddr,
    endpoint: Endpoint,
    proxy: Proxy,
    _relay: Relay,
}

impl fmt::Display for Scene {
    /// Its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, windows, readers, streams_each, stop, rtt_ms, mbits, cold, env } = self;
        write!(f, "stopped {workload} {windows} x{readers} {rtt_ms}ms")?;
        if *streams_each != 1 {
            write!(f, " {streams_each}each")?;
        }
        if *stop != Stop::Window {
            f.write_str(" socket")?;
        }
        if *mbits != 1_000 {
            write!(f, " {mbits}mbit")?;
        }
        if *cold {
            f.write_str(" cold")?;
        }
        env.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// The counters of traffic, while it is measured.
#[derive(Debug)]
struct Counts {
    received: AtomicU64,
    ends: Mutex<Ends>,
}

#[derive(Debug)]
struct Ends {
    transfers: BTreeMap<String, u64>,
    requests: BTreeMap<String, u64>,
    latency_us: Histogram<u64>,
}

impl Counts {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client's large transfers, and the small requests of others, all on connections of their own.
async fn traffic(workload: Workload, target: SocketAddr, endpoint: &Endpoint, params: Params) -> io::Result<Traffic> {
    let latency_us = Histogram::new_with_max(60_000_000, 3).expect("the bounds are valid");
    let ends = Ends { transfers: BTreeMap::new(), requests: BTreeMap::new(), latency_us };
    let counts = Arc::new(Counts { received: 0.into(), ends: ends.into() });
    let mut tasks = JoinSet::new();
    let large = load::connect(target, STREAM_WINDOW, &mut tasks).await?;
    let mut small = Vec::new();
    for _ in 0..CLIENTS {
        small.push(load::connect(target, STREAM_WINDOW, &mut tasks).await?);
    }
    tasks.spawn(transfers(workload, large, Arc::clone(&counts)));
    sleep(WARM_UP).await;
    counts.ends().transfers.clear();
    let received = || if workload == Workload::Upload { endpoint.received() } else { counts.received.load(Relaxed) };
    let (start, before) = (Instant::now(), received());
    let mut requests = JoinSet::new();
    requests.spawn(small_requests(small, params, Arc::clone(&counts)));
    sleep(params.time).await;
    let rate = (received() - before) as f64 / 1e6 / start.elapsed().as_secs_f64();
    let transfers = counts.ends().transfers.clone();
    // The requests that were sent last may take their time.
    requests.join_all().await;
    let ends = counts.ends();
    Ok(Traffic {
        megabytes_per_second: rate,
        transfers,
        requests: params.requests.into(),
        ends: ends.requests.clone(),
        latency_us: Latency::of(&ends.latency_us),
    })
}

async fn transfers(workload: Workload, client: Client, counts: Arc<Counts>) {
    while !client.is_closed() {
        let received = |bytes| _ = counts.received.fetch_add(bytes, Relaxed);
        let end = Exchange::sized(workload, LARGE).run(client.clone(), received).await;
        *counts.ends().transfers.entry(end.to_string()).or_default() += 1;
    }
}

async fn small_requests(clients: Vec<Client>, params: Params, counts: Arc<Counts>) {
    let Ok(mut timer) = Timer::new(Clock::Kernel) else { return };
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (client, n) in clients.iter().cycle().zip(0..params.requests) {
        let intended = start + params.time.mul_f64(f64::from(n) / f64::from(params.requests));
        let _ = timer.until(intended).await;
        let (client, counts) = (client.clone(), Arc::clone(&counts));
        tasks.spawn(async move {
            let exchange = Exchange::of(Workload::Unary).run(client, |_| {});
            let end = timeout(PATIENCE, exchange).await.unwrap_or(End::Timeout);
            let mut ends = counts.ends();
            *ends.requests.entry(end.to_string()).or_default() += 1;
            if end.is_ok() {
                ends.latency_us.saturating_record(intended.elapsed().as_micros() as u64);
            }
        });
    }
    tasks.join_all().await;
}

// === impl Traffic ===

impl Traffic {
    /// Small requests that were answered.
    pub fn ok(&self) -> u64 {
        self.ends.get("ok").copied().unwrap_or_default()
    }
}

// === impl Beside ===

impl Beside {
    /// The rate of large transfers beside stopped readers, as a share of the rate without.
    pub fn share(&self) -> f64 {
        self.with.megabytes_per_second / self.without.megabytes_per_second
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { without, with, answered, stayed, rss } = self;
        let latency = |traffic: &Traffic| {
            let ms = |us: u64| us as f64 / 1e3;
            traffic.latency_us.map_or("-".to_owned(), |at| format!("{:.1} / {:.1} ms", ms(at.p50), ms(at.p99)))
        };
        let mib = |kib: u64| kib >> 10;
        write!(
            f,
            "{:.1} MB/s, without {:.1} ({:.2}); small requests {} of {}, P50 / P99 {}, without {} of {}, {}; readers \
             {answered} answered, {stayed} stayed; RSS MiB start {}, without {}, with {}, peak {}, after {}",
            with.megabytes_per_second,
            without.megabytes_per_second,
            self.share(),
            with.ok(),
            with.requests,
            latency(with),
            without.ok(),
            without.requests,
            latency(without),
            mib(rss.start),
            mib(rss.without),
            mib(rss.with),
            mib(rss.peak),
            mib(rss.after),
        )?;
        for (name, ends) in [("small requests", &with.ends), ("transfers", &with.transfers)] {
            for (end, count) in ends.iter().filter(|(end, _)| *end != "ok") {
                write!(f, "; {name}: {count} {end}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn scene(workload: Workload, readers: usize, stop: Stop) -> Scene {
        Scene {
            workload,
            windows: Windows::Adaptive,
            readers,
            streams_each: 2,
            stop,
            rtt_ms: 20,
            mbits: 1_000,
            cold: false,
            env: Vec::new(),
        }
    }

    #[tokio::test]
    async fn stopped_readers_are_answered_and_stay() {
        let endpoint = Endpoint::spawn().await.unwrap();
        let readers = Readers::ask(&scene(Workload::Download, 5, Stop::Window), endpoint.addr()).await.unwrap();
        assert_eq!(readers.leave(), (5, 5));
        let readers = Readers::ask(&scene(Workload::Download, 5, Stop::Socket), endpoint.addr()).await.unwrap();
        assert_eq!(readers.leave().1, 5);
    }

    #[tokio::test]
    async fn readers_that_are_sent_away_are_counted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        // Closes each connection.
        let server = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let readers = Readers::ask(&scene(Workload::Download, 5, Stop::Window), addr).await.unwrap();
        assert_eq!(readers.leave(), (0, 0));
        server.abort();
    }

    #[tokio::test]
    async fn stopped_uploads_send_a_window_and_leave_others_alone() {
        let params = endpoint::Params { stream_window: ENDPOINT_WINDOW, ..endpoint::Params::DEFAULT };
        let endpoint = Endpoint::with(params).await.unwrap();
        let readers = Readers::ask(&scene(Workload::Upload, 3, Stop::Window), endpoint.addr()).await.unwrap();
        let params = Params { time: Duration::from_millis(300), requests: 30, after: Duration::ZERO };
        let got = traffic(Workload::Upload, endpoint.addr(), &endpoint, params).await.unwrap();
        assert_eq!((got.ok(), got.requests, readers.leave()), (30, 30, (0, 3)));
        assert!(got.megabytes_per_second > 0.0, "{got:?}");
    }
}
