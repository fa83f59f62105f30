//! Transfers on fresh connections, through a fresh proxy and without one: how soon a window fills the path.
//!
//! A load that runs for a while hides the start of a connection, where windows that grow are still small. Here each
//! transfer is the first on its connection, and the time runs from before the connection opens until the last byte.

use crate::{
    link::{Direction, Link, Relay},
    load::{self, Endpoint, Exchange, STREAM_WINDOW, Workload},
    matrix::{Machine, Record, Results, Side, Windows, settings},
    process::Proxy,
    report::Spread,
    timer::Clock,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::timeout};

/// Streams that begin together on a fresh connection, over one link.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// A download, an upload or a gRPC server stream.
    pub workload: Workload,
    /// The proxy's windows, toward the client and toward the endpoint. `None`: no proxy.
    pub windows: Option<Windows>,
    /// Streams.
    pub streams: usize,
    /// The size of each, in units of 1,000,000 bytes.
    pub megabytes: u64,
    /// The link's round trip, in milliseconds.
    pub rtt_ms: u64,
    /// The link's bandwidth, in Mbit/s each way.
    pub mbits: u64,
    /// Whether the link is before the endpoint or before the client.
    pub side: Side,
    /// More variables for the proxy, without the `LINKERD2_PROXY_` that all have.
    #[serde(default)]
    pub env: Vec<(String, String)>,
}

/// One measurement of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transferred {
    /// Bytes of bodies, in units of 1,000,000 a second.
    pub megabytes_per_second: f64,
    /// From before the connection opens until the last byte.
    pub seconds: f64,
    /// The most resident memory that the proxy had, in KiB. `None`: no proxy.
    pub peak_rss_kib: Option<u64>,
    /// The proxy's time on a CPU, in seconds. `None`: no proxy.
    pub cpu_seconds: Option<f64>,
}

/// The plan's choices.
#[derive(Clone, Debug)]
pub struct Options {
    /// The proxy's binary.
    pub app: PathBuf,
    /// The transfers to measure.
    pub transfers: Vec<Transfer>,
    /// How often, one round after the other.
    pub rounds: usize,
    /// Where results go; if a part of them is there, the rest is measured.
    pub out: PathBuf,
}

/// The plan's round trips, in milliseconds.
pub const RTTS: [u64; 4] = [1, 10, 40, 80];
/// The plan's streams, and the size of each in units of 1,000,000 bytes.
pub const SHAPES: [(usize, u64); 3] = [(1, 16), (16, 8), (64, 2)];
/// A transfer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// All transfers of the plan, over links of 1 Gbit/s on `side`: without a proxy, and with one that has each of `windows`, and
/// `env`.
pub fn plan(windows: &[Windows], side: Side, env: &[(String, String)]) -> Vec<Transfer> {
    let mut transfers = Vec::new();
    let mut add = |workload, (streams, megabytes)| {
        for rtt_ms in RTTS {
            let with = windows.iter().copied().map(Some);
            transfers.extend([None].into_iter().chain(with).map(|windows| Transfer {
                workload,
                windows,
                streams,
                megabytes,
                rtt_ms,
                mbits: 1_000,
                side,
                env: if windows.is_some() { env.to_vec() } else { Vec::new() },
            }));
        }
    };
    for workload in [Workload::Download, Workload::Upload] {
        SHAPES.into_iter().for_each(|shape| add(workload, shape));
    }
    add(Workload::ServerStreaming, SHAPES[0]);
    transfers
}

/// Measures the transfers that are missing, in rounds over all of them, each in another order. Returns all results.
///
/// # Errors
///
/// When results cannot be read or written.
pub async fn run(options: &Options) -> io::Result<Table> {
    let rounds = 0..options.rounds;
    let planned = rounds.flat_map(|round| options.transfers.iter().map(move |transfer| (transfer.to_string(), round)));
    let machine = Machine::here(&options.app, 0.0, options.rounds);
    let mut results = Results::open(&options.out, &machine, planned)?;
    let endpoint = Endpoint::spawn().await?;
    for round in 0..options.rounds {
        let mut transfers: Vec<_> =
            options.transfers.iter().filter(|transfer| !results.has(&transfer.to_string(), round)).collect();
        // The one before another is left to chance, the same in each run.
        fastrand::Rng::with_seed(round as u64).shuffle(&mut transfers);
        for transfer in transfers {
            let measured = timeout(PATIENCE, transfer.measure(&options.app, &endpoint)).await;
            let sample = match measured {
                Ok(Ok(sample)) => Ok(sample),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("took too long".to_owned()),
            };
            match &sample {
                Ok(sample) => println!("round {}: {transfer}: {:.1} MB/s", round + 1, sample.megabytes_per_second),
                Err(error) => eprintln!("round {}: {transfer}: {error}", round + 1),
            }
            results.add(&Record::Transfer { transfer: transfer.clone(), round, sample })?;
        }
    }
    let mut table = Table::default();
    table.add_run(Results::read(&options.out)?);
    table.rows.retain(|transfer, _| options.transfers.iter().any(|wanted| wanted.to_string() == *transfer));
    Ok(table)
}

// === impl Transfer ===

impl Transfer {
    /// Whether its name has each of the words.
    pub fn matches(&self, words: &str) -> bool {
        let name = self.to_string();
        words.split_whitespace().all(|word| name.split(' ').any(|part| part == word))
    }

    /// The same transfer without a proxy.
    pub fn without_proxy(&self) -> Self {
        Self { windows: None, env: Vec::new(), ..self.clone() }
    }

    /// How long it should take, by the round trips that fixed windows of the default size need.
    pub fn estimate(&self) -> Duration {
        let bytes = self.streams as f64 * self.megabytes as f64 * 1e6;
        let rtt = self.rtt_ms as f64 / 1e3;
        let wire = bytes * 8.0 / (self.mbits as f64 * 1e6) + rtt;
        let window = match self.windows {
            Some(Windows::Fixed { stream, connection }) => {
                (self.streams as f64 * f64::from(stream)).min(connection.into()) / 1.5
            }
            Some(Windows::Adaptive) | None => f64::INFINITY,
        };
        Duration::from_secs_f64(wire.max(bytes / window * rtt) + 0.15)
    }

    /// Starts a link and, unless there is to be none, a proxy; transfers once.
    ///
    /// # Errors
    ///
    /// When the proxy does not start, or a stream does not end well.
    pub async fn measure(&self, app: &Path, endpoint: &Endpoint) -> io::Result<Transferred> {
        let both = Direction::of_round_trip(Duration::from_millis(self.rtt_ms), self.mbits);
        let link = Link::new(both, both, Clock::Kernel);
        let (mut proxy, relay) = match (self.windows, self.side) {
            (None, _) => (None, Relay::spawn(link, endpoint.addr()).await?),
            (Some(windows), Side::Client) => {
                let proxy = Proxy::spawn(app, endpoint.addr(), &[settings(windows), self.env.clone()].concat())?;
                let relay = Relay::spawn(link, proxy.addr()).await?;
                (Some(proxy), relay)
            }
            (Some(windows), _) => {
                let relay = Relay::spawn(link, endpoint.addr()).await?;
                (Some(Proxy::spawn(app, relay.addr(), &[settings(windows), self.env.clone()].concat())?), relay)
            }
        };
        let target = match (&proxy, self.side) {
            (Some(proxy), Side::Endpoint) => proxy.addr(),
            _ => relay.addr(),
        };
        if let Some(proxy) = &mut proxy {
            proxy.ready().await?;
        }
        let before = proxy.as_ref().map(Proxy::usage).transpose()?;

        let start = Instant::now();
        let mut connection = JoinSet::new();
        let client = load::connect(target, STREAM_WINDOW, &mut connection).await?;
        let mut streams = JoinSet::new();
        for _ in 0..self.streams {
            let exchange = Exchange::sized(self.workload, self.megabytes * 1_000_000);
            streams.spawn(exchange.run(client.clone(), |_| {}));
        }
        for end in streams.join_all().await {
            if !end.is_ok() {
                return Err(io::Error::other(format!("a stream ended with {end}")));
            }
        }
        let seconds = start.elapsed().as_secs_f64();

        let used = proxy.as_ref().map(Proxy::usage).transpose()?;
        Ok(Transferred {
            megabytes_per_second: (self.streams as u64 * self.megabytes) as f64 / seconds,
            seconds,
            peak_rss_kib: used.map(|used| used.peak_rss_kib),
            cpu_seconds: used.zip(before).map(|(used, before)| used.cpu.saturating_sub(before.cpu).as_secs_f64()),
        })
    }
}

impl fmt::Display for Transfer {
    /// Its name, of words that filters pick by.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, windows, streams, megabytes, rtt_ms, mbits, side, env } = self;
        let windows = windows.map_or("no-proxy".to_owned(), |windows| windows.to_string());
        write!(f, "fresh {workload} {windows} x{streams} {megabytes}MB {rtt_ms}ms {side}")?;
        if *mbits != 1_000 {
            write!(f, " {mbits}mbit")?;
        }
        env.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// The results of transfers, by name.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: BTreeMap<String, (Transfer, Vec<Transferred>)>,
}

// === impl Table ===

impl Table {
    /// Adds another run, which replaces earlier measurements of its transfers.
    pub fn add_run(&mut self, records: impl IntoIterator<Item = Record>) {
        let mut run = Self::default();
        for record in records {
            if let Record::Transfer { transfer, sample: Ok(sample), .. } = record {
                let name = transfer.to_string();
                run.rows.entry(name).or_insert_with(|| (transfer, Vec::new())).1.push(sample);
            }
        }
        self.rows.append(&mut run.rows);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The median rate of a transfer, in units of 1,000,000 bytes a second; of an even number the lower one.
    pub fn median(&self, transfer: &Transfer) -> Option<f64> {
        let (_, samples) = self.rows.get(&transfer.to_string())?;
        Spread::median_of(samples.iter().map(|sample| sample.megabytes_per_second))
    }

    /// The windows that transfers were measured with, the smallest first.
    pub fn windows(&self) -> Vec<Windows> {
        let mut all: Vec<Windows> = Vec::new();
        for windows in self.rows.values().filter_map(|(transfer, _)| transfer.windows) {
            if !all.contains(&windows) {
                all.push(windows);
            }
        }
        all.sort_by_key(|windows| size(*windows));
        all
    }

    /// The transfers with these windows, and the median rate of each as a share of that without a proxy.
    pub fn shares(&self, windows: Windows) -> Vec<(&Transfer, f64)> {
        let of = self.rows.values().map(|(transfer, _)| transfer).filter(|transfer| transfer.windows == Some(windows));
        of.filter_map(|transfer| Some((transfer, self.median(transfer)? / self.median(&transfer.without_proxy())?)))
            .collect()
    }

    /// Markdown: MB/s without a proxy and with each windows, and in brackets the share of the rate without one.
    pub fn markdown(&self) -> String {
        let mut columns: Vec<(Windows, &[(String, String)])> = Vec::new();
        let mut rows: Vec<Transfer> = Vec::new();
        for (transfer, _) in self.rows.values() {
            if let Some(windows) = transfer.windows
                && !columns.contains(&(windows, &transfer.env))
            {
                columns.push((windows, &transfer.env));
            }
            let row = transfer.without_proxy();
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        columns.sort_by_key(|(windows, env)| (size(*windows), *env));
        let streaming = |row: &Transfer| row.workload == Workload::ServerStreaming;
        rows.sort_by_key(|row| (row.side == Side::Client, streaming(row), row.workload, row.streams, row.rtt_ms));
        let mut text = "| transfer, RTT | no proxy |".to_owned();
        for (windows, env) in &columns {
            let env: String = env.iter().map(|(name, value)| format!(", {name}={value}")).collect();
            _ = write!(text, " {}{env} |", windows.label());
        }
        _ = writeln!(text, "\n| --- |{}", " ---: |".repeat(1 + columns.len()));
        for row in rows {
            let alone = self.median(&row);
            let Transfer { workload, streams, megabytes, rtt_ms, side, .. } = &row;
            let far = if *side == Side::Client { ", before the client" } else { "" };
            _ = write!(text, "| {workload}, {streams} x {megabytes} MB, {rtt_ms} ms{far} |");
            _ = write!(text, " {} |", alone.map_or("-".to_owned(), |rate| format!("{rate:.1}")));
            for (windows, env) in &columns {
                let rate = self.median(&Transfer { windows: Some(*windows), env: env.to_vec(), ..row.clone() });
                let cell = match (rate, alone) {
                    (Some(rate), Some(alone)) => format!("{rate:.1} ({:.2})", rate / alone),
                    (Some(rate), None) => format!("{rate:.1}"),
                    (None, _) => "-".to_owned(),
                };
                _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        text
    }
}

/// The order of windows in tables: adaptive ones are the last.
fn size(windows: Windows) -> (u32, u32) {
    match windows {
        Windows::Fixed { stream, connection } => (connection.max(stream), stream),
        Windows::Adaptive => (u32::MAX, u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(windows: Option<Windows>) -> Transfer {
        Transfer {
            workload: Workload::Download,
            windows,
            streams: 2,
            megabytes: 1,
            rtt_ms: 10,
            mbits: 1_000,
            side: Side::Endpoint,
            env: Vec::new(),
        }
    }

    fn record(windows: Option<Windows>, round: usize, megabytes_per_second: f64) -> Record {
        let sample = Ok(Transferred { megabytes_per_second, ..Transferred::default() });
        Record::Transfer { transfer: transfer(windows), round, sample }
    }

    #[test]
    fn plan_has_each_transfer_with_and_without_a_proxy() {
        let plan = plan(&[Windows::Adaptive], Side::Endpoint, &[]);
        let of = |windows| plan.iter().filter(move |transfer| transfer.windows == windows);
        let is_plain = |transfer: &&Transfer| transfer.workload != Workload::ServerStreaming;
        assert_eq!(of(Some(Windows::Adaptive)).filter(is_plain).count(), 24);
        assert_eq!(of(None).count(), of(Some(Windows::Adaptive)).count());
        assert!(of(Some(Windows::Adaptive)).all(|transfer| plan.contains(&transfer.without_proxy())));
        let names: std::collections::HashSet<_> = plan.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), plan.len());
    }

    #[test]
    fn table_has_medians_and_their_share() {
        let mut table = Table::default();
        table.add_run([10.0, 100.0, 90.0].iter().enumerate().map(|(n, rate)| record(None, n, *rate)));
        table.add_run([record(Some(Windows::Adaptive), 0, 45.0), record(Some(Windows::DEFAULT), 0, 9.0)]);
        let text = table.markdown();
        assert!(text.contains("| no proxy | 64K / 1M | adaptive |"), "{text}");
        assert!(text.contains("| download, 2 x 1 MB, 10 ms | 90.0 | 9.0 (0.10) | 45.0 (0.50) |"), "{text}");
        assert_eq!(table.windows(), [Windows::DEFAULT, Windows::Adaptive]);
        assert_eq!(table.shares(Windows::Adaptive), [(&transfer(Some(Windows::Adaptive)), 0.5)]);
        // Another run replaces the transfers that it measured again.
        table.add_run([record(None, 0, 50.0)]);
        assert!(table.markdown().contains("| 50.0 | 9.0 (0.18) | 45.0 (0.90) |"), "{}", table.markdown());
    }

    #[tokio::test]
    async fn transfers_without_a_proxy_end_well() {
        let endpoint = Endpoint::spawn().await.unwrap();
        for workload in [Workload::Download, Workload::Upload, Workload::ServerStreaming] {
            let transfer = Transfer { workload, ..transfer(None) };
            let got = transfer.measure(Path::new("no/such/app"), &endpoint).await.unwrap();
            // 2 MB take 16 ms on the wire, after half of a round trip at least.
            assert!(got.seconds > 0.02 && got.megabytes_per_second < 100.0, "{workload}: {got:?}");
            assert_eq!(got.peak_rss_kib, None);
        }
    }
}
