//! Large bodies: the proxy's CPU and calls of the system for each MiB of them, and small requests beside a download on the
//! same client connection.

use crate::{
    load::{Endpoint, Load, Outcome, Workload},
    process::Proxy,
    report::Spread,
};
use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

/// The proxies to measure, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Binaries of the proxy, each with rows of its own.
    pub apps: Vec<PathBuf>,
    /// How often, one round after the other.
    pub rounds: u32,
    /// How long to run each load.
    pub time: Duration,
    /// The proxy's variables, without the `LINKERD2_PROXY_` that all have.
    pub settings: Vec<(String, String)>,
}

/// The measurements of some rounds.
#[derive(Clone, Debug)]
pub struct Table(Vec<Row>);

/// The measurements of one binary.
#[derive(Clone, Debug, Default)]
struct Row {
    app: String,
    down: Bulk,
    up: Bulk,
    alone: Vec<Small>,
    beside: Vec<Small>,
}

/// Large bodies in one direction, a value for each round.
#[derive(Clone, Debug, Default)]
struct Bulk {
    cpu_us_per_mib: Vec<f64>,
    /// `None`: strace is not on PATH.
    calls_per_mib: Vec<Option<f64>>,
}

/// Latencies of small requests in one round, in microseconds, and the ones that failed.
#[derive(Clone, Copy, Debug)]
struct Small {
    p50: u64,
    p99: u64,
    failed: u64,
}

/// Client connections of large bodies, and the streams on all of them.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 32;
/// Small requests a second on one connection, far below the proxy's capacity.
const RATE: f64 = 500.0;
/// More of them than are ever open at once.
const MAX_OPEN: usize = 200;
const WARM_UP: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(10);
/// All calls by which tokio reads and writes sockets, and wakes itself.
const CALLS: &str = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg";
/// How long strace may take to attach.
const ATTACHING: Duration = Duration::from_secs(5);
const MIB: f64 = (1 << 20) as f64;

/// Measures all of it in rounds, each load with a new proxy.
///
/// # Errors
///
/// When a proxy or strace does not start, or ends early.
pub async fn run(options: &Options) -> io::Result<Table> {
    let endpoint = Endpoint::spawn().await?;
    let mut rows: Vec<Row> =
        options.apps.iter().map(|app| Row { app: app.display().to_string(), ..Row::default() }).collect();
    for _ in 0..options.rounds {
        for (row, app) in rows.iter_mut().zip(&options.apps) {
            row.down.add(Workload::Download, app, options, &endpoint).await?;
            row.up.add(Workload::Upload, app, options, &endpoint).await?;
            row.alone.push(Small::measure(Workload::Unary, app, options, endpoint.addr()).await?);
            row.beside.push(Small::measure(Workload::BesideDownload, app, options, endpoint.addr()).await?);
        }
    }
    Ok(Table(rows))
}

// === impl Table ===

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| app | body | CPU us per MiB | reads and writes per MiB |")?;
        writeln!(f, "| --- | --- | ---: | ---: |")?;
        for row in &self.0 {
            for (name, bulk) in [("download", &row.down), ("upload", &row.up)] {
                let cpu = median(bulk.cpu_us_per_mib.iter().copied());
                let calls = median(bulk.calls_per_mib.iter().copied().flatten());
                writeln!(f, "| {} | {name} | {cpu:.0} | {} |", row.app, figure(calls))?;
            }
        }
        writeln!(f, "\n| app | small requests | P50 us | P99 us | P99 against alone | failed |")?;
        writeln!(f, "| --- | --- | ---: | ---: | ---: | ---: |")?;
        for Row { app, alone, beside, .. } in &self.0 {
            let ratio = median(alone.iter().zip(beside).map(|(alone, beside)| beside.p99 as f64 / alone.p99 as f64));
            for (name, small, ratio) in [("alone", alone, 1.0), ("beside a download", beside, ratio)] {
                let p50 = median(small.iter().map(|small| small.p50 as f64));
                let p99 = median(small.iter().map(|small| small.p99 as f64));
                let failed: u64 = small.iter().map(|small| small.failed).sum();
                writeln!(f, "| {app} | {name} | {p50:.0} | {p99:.0} | {ratio:.2} | {failed} |")?;
            }
        }
        Ok(())
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::median_of(values).unwrap_or(f64::NAN)
}

fn figure(value: f64) -> String {
    if value.is_nan() { "strace is not on PATH".to_owned() } else { format!("{value:.0}") }
}

// === impl Bulk ===

impl Bulk {
    async fn add(&mut self, workload: Workload, app: &Path, options: &Options, endpoint: &Endpoint) -> io::Result<()> {
        let load = |target, warm_up| Load {
            target,
            workload,
            connections: CONNECTIONS,
            streams: STREAMS,
            rate: None,
            warm_up,
            time: options.time,
            timeout: TIMEOUT,
        };
        let proxy = Proxy::spawn(app, endpoint.addr(), &options.settings)?;
        let sample = || (proxy.usage(), endpoint.received());
        let (outcome, before, after) = load(proxy.addr(), WARM_UP).run(sample).await?;
        let cpu = after.0?.cpu.saturating_sub(before.0?.cpu).as_secs_f64();
        self.cpu_us_per_mib.push(cpu * 1e6 / mib(&outcome, before.1, after.1));

        // Counted apart: each call takes longer for it.
        let proxy = Proxy::spawn(app, endpoint.addr(), &options.settings)?;
        let calls = match Strace::attach(proxy.id()).await? {
            None => None,
            Some(strace) => {
                let sample = || endpoint.received();
                let (outcome, before, after) = load(proxy.addr(), Duration::ZERO).run(sample).await?;
                Some(strace.count().await? as f64 / mib(&outcome, before, after))
            }
        };
        self.calls_per_mib.push(calls);
        Ok(())
    }
}

/// MiB that have come to the client, or to the endpoint.
fn mib(outcome: &Outcome, before: u64, after: u64) -> f64 {
    outcome.received.max(after - before) as f64 / MIB
}

// === impl Small ===

impl Small {
    async fn measure(workload: Workload, app: &Path, options: &Options, endpoint: SocketAddr) -> io::Result<Self> {
        let proxy = Proxy::spawn(app, endpoint, &options.settings)?;
        let load = Load {
            target: proxy.addr(),
            workload,
            connections: 1,
            streams: MAX_OPEN,
            rate: Some(RATE),
            warm_up: WARM_UP,
            time: options.time,
            timeout: TIMEOUT,
        };
        let (outcome, ..) = load.run(|| ()).await?;
        let quantile = |quantile| outcome.latency_us.value_at_quantile(quantile);
        Ok(Self { p50: quantile(0.5), p99: quantile(0.99), failed: outcome.failed() })
    }
}

/// strace, which counts the calls of a process.
struct Strace {
    child: tokio::process::Child,
    stderr: BufReader<tokio::process::ChildStderr>,
}

// === impl Strace ===

impl Strace {
    /// Attaches to a process with all its threads. `None`: strace is not on PATH.
    async fn attach(id: u32) -> io::Result<Option<Self>> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-e", CALLS, "-p", &id.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            child => child?,
        };
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("strace has no standard error"))?;
        let mut stderr = BufReader::new(stderr);
        let mut line = String::new();
        timeout(ATTACHING, stderr.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if !line.contains("attached") {
            return Err(io::Error::other(format!("strace does not attach: {}", line.trim())));
        }
        Ok(Some(Self { child, stderr }))
    }

    /// Detaches. Returns the number of calls since it attached.
    async fn count(mut self) -> io::Result<u64> {
        let pid = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let pid = pid.ok_or_else(|| io::Error::other("strace has ended early"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let mut summary = String::new();
        self.stderr.read_to_string(&mut summary).await?;
        self.child.wait().await?;
        parse_total(&summary).ok_or_else(|| io::Error::other("what strace prints is not understood"))
    }
}

/// The calls of strace's last line, `100.00 SECONDS MICROSECONDS CALLS [ERRORS] total`.
fn parse_total(summary: &str) -> Option<u64> {
    let total = summary.lines().rev().find(|line| line.trim_end().ends_with(" total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_strace_is_understood() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 80.00    0.000004           4         7         2 recvfrom
 20.00    0.000001           1         5           writev
------ ----------- ----------- --------- --------- ----------------
100.00    0.000005           0        12         2 total
";
        assert_eq!(parse_total(summary), Some(12));
        assert_eq!(parse_total("strace: Process 7 detached"), None);
    }
}
