//! Load generators of other projects against the same set-up, to compare this crate's figures with theirs.

use crate::{
    load::{Endpoint, Load, Workload},
    matrix::Windows,
    process::{Proxy, Usage},
};
use hdrhistogram::Histogram;
use serde_json::Value;
use std::{
    env, fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::Command;

/// The tools to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The proxy's binary.
    pub app: PathBuf,
    /// Requests of each tool.
    pub requests: u32,
    /// Streams at once, on one connection.
    pub streams: u32,
    /// The proxy's windows.
    pub windows: Windows,
}

/// One tool's row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The tool and its requests.
    pub name: &'static str,
    /// Its result.
    pub outcome: Outcome,
}

/// The result of a tool.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It ran.
    Ran(Figures),
    /// It did not: the reason, and the remedy.
    Absent(String),
    /// It was to run, and failed.
    Failed(String),
}

/// A tool's figures, and the proxy's use of CPU and memory meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests a second.
    pub rps: f64,
    /// Latencies, in microseconds.
    pub p50: u64,
    /// 95 % are below.
    pub p95: u64,
    /// 99 % are below.
    pub p99: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The proxy's time on a CPU for each request, in microseconds.
    pub cpu_us_per_request: f64,
    /// The most resident memory that the proxy had, in KiB.
    pub peak_rss_kib: u64,
}

/// The definition that ghz needs; the endpoint answers its `Unary` as the echo server does.
const PROTO: &str = include_str!("../proto/echo.proto");
/// A tool that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the tools that are installed, each with a fresh proxy, beside this crate's own load of the same kind.
///
/// # Errors
///
/// When proxy or endpoint do not start.
pub async fn run(options: &Options) -> io::Result<Vec<Row>> {
    let endpoint = Endpoint::spawn().await?;
    let scratch = env::temp_dir().join(format!("benches-outside-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let rows = async {
        Ok(vec![
            own(options, "benches, GET of 128 bytes", Workload::Unary, endpoint.addr()).await?,
            h2load(options, endpoint.addr(), &scratch).await?,
            own(options, "benches, gRPC of 128 bytes", Workload::GrpcUnary, endpoint.addr()).await?,
            ghz(options, endpoint.addr(), &scratch).await?,
            Row { name: "wrk2", outcome: Outcome::Absent(wrk2()) },
        ])
    };
    let rows = rows.await;
    fs::remove_dir_all(&scratch)?;
    rows
}

async fn own(options: &Options, name: &'static str, workload: Workload, endpoint: SocketAddr) -> io::Result<Row> {
    let proxy = Proxy::spawn(&options.app, endpoint, &options.windows.settings())?;
    let load = Load {
        target: proxy.addr(),
        workload,
        connections: 1,
        streams: options.streams as usize,
        rate: None,
        warm_up: Duration::from_millis(200),
        time: Duration::from_secs(2),
        timeout: Duration::from_secs(10),
    };
    let (outcome, before, after) = load.run(|| proxy.usage()).await?;
    let (before, after) = (before?, after?);
    let measured = Figures { failed: outcome.failed(), ..Figures::of(&outcome.latency_us) };
    let rps = outcome.ok() as f64 / outcome.time.as_secs_f64();
    let figures = Figures { rps, ..measured }.with_usage(before, after, outcome.ok());
    Ok(Row { name, outcome: Outcome::Ran(figures) })
}

async fn h2load(options: &Options, endpoint: SocketAddr, scratch: &Path) -> io::Result<Row> {
    let name = "h2load, GET of 128 bytes";
    if find("h2load").is_none() {
        let how = "not on PATH: apt-get install nghttp2-client";
        return Ok(Row { name, outcome: Outcome::Absent(how.to_owned()) });
    }
    let proxy = Proxy::spawn(&options.app, endpoint, &options.windows.settings())?;
    let log = scratch.join("h2load.log");
    let mut command = Command::new("h2load");
    command.args(["-c1", "-t1", &format!("-n{}", options.requests), &format!("-m{}", options.streams)]);
    command.arg(format!("--log-file={}", log.display())).arg(format!("http://{}/bytes/128", proxy.addr()));
    let before = proxy.usage()?;
    let output = finish(command).await;
    let after = proxy.usage()?;
    let figures = output.and_then(|output| {
        let figures = parse_h2load(&String::from_utf8_lossy(&output.stdout), &fs::read_to_string(&log)?)?;
        Ok(figures.with_usage(before, after, options.requests.into()))
    });
    Ok(Row { name, outcome: figures.into() })
}

async fn ghz(options: &Options, echo: SocketAddr, scratch: &Path) -> io::Result<Row> {
    let name = "ghz, gRPC of 128 bytes";
    if find("ghz").is_none() {
        let how = "not on PATH: https://ghz.sh/docs/install, or go install github.com/bojand/ghz/cmd/ghz@latest";
        return Ok(Row { name, outcome: Outcome::Absent(how.to_owned()) });
    }
    let proxy = Proxy::spawn(&options.app, echo, &options.windows.settings())?;
    let proto = scratch.join("echo.proto");
    fs::write(&proto, PROTO)?;
    // 128 bytes, in base64: 42 times three, and two.
    let data = format!("{{\"payload\":\"{}AAA=\"}}", "AAAA".repeat(42));
    let mut command = Command::new("ghz");
    command.args(["--insecure", "--format=json", "--call=bench.Echo.Unary", "--connections=1"]);
    command.arg(format!("--proto={}", proto.display())).arg(format!("--data={data}"));
    command.arg(format!("--concurrency={}", options.streams)).arg(format!("--total={}", options.requests));
    command.arg(proxy.addr().to_string());
    let before = proxy.usage()?;
    let output = finish(command).await;
    let after = proxy.usage()?;
    let figures = output.and_then(|output| {
        let report = serde_json::from_slice(&output.stdout)?;
        let figures = parse_ghz(&report).ok_or_else(|| io::Error::other("what ghz prints is not understood"))?;
        Ok(figures.with_usage(before, after, options.requests.into()))
    });
    Ok(Row { name, outcome: figures.into() })
}

fn wrk2() -> String {
    let why = "it speaks HTTP/1.1 only, and this compares HTTP/2; `Load::rate` does what it is for";
    match find("wrk2") {
        Some(_) => format!("not run: {why}"),
        None => format!("not on PATH, and not worth getting for this: {why}"),
    }
}

/// Runs a tool to its end. It is killed when it takes too long.
async fn finish(mut command: Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ended with {}: {stderr}", output.status)))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// From h2load's summary, and its log of a line `start\tstatus\tmicroseconds` for each request.
fn parse_h2load(summary: &str, log: &str) -> io::Result<Figures> {
    let bad = || io::Error::other("what h2load prints is not understood");
    let rps = summary.split_once(" req/s").and_then(|(before, _)| before.rsplit([' ', ',']).next()?.parse().ok());
    let mut latency = Histogram::new_with_max(60_000_000, 3).map_err(io::Error::other)?;
    let mut failed = 0;
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let status = fields.next().ok_or_else(bad)?;
        let us: i64 = fields.next().and_then(|us| us.parse().ok()).ok_or_else(bad)?;
        if status == "200" {
            latency.saturating_record(us.unsigned_abs());
        } else {
            failed += 1;
        }
    }
    Ok(Figures { rps: rps.ok_or_else(bad)?, failed, ..Figures::of(&latency) })
}

/// From ghz's report.
fn parse_ghz(report: &Value) -> Option<Figures> {
    let distribution = report.get("latencyDistribution")?.as_array()?;
    let quantile = |percent: u64| {
        let entry =
            distribution.iter().find(|entry| entry.get("percentage").and_then(Value::as_u64) == Some(percent))?;
        Some(entry.get("latency")?.as_u64()? / 1_000)
    };
    let count = report.get("count")?.as_u64()?;
    let ok = report.pointer("/statusCodeDistribution/OK").and_then(Value::as_u64).unwrap_or_default();
    Some(Figures {
        rps: report.get("rps")?.as_f64()?,
        p50: quantile(50)?,
        p95: quantile(95)?,
        p99: quantile(99)?,
        failed: count - ok,
        ..Figures::default()
    })
}

// === impl Row ===

impl Row {
    /// The head of a table of rows.
    pub const HEAD: &str =
        "tool                                RPS    P50 us    P95 us    P99 us   failed  CPU us/request  peak RSS KiB";
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<28}", self.name)?;
        match &self.outcome {
            Outcome::Absent(why) => write!(f, " {why}"),
            Outcome::Failed(why) => write!(f, " failed: {why}"),
            Outcome::Ran(Figures { rps, p50, p95, p99, failed, cpu_us_per_request, peak_rss_kib }) => write!(
                f,
                "{rps:>11.0} {p50:>9} {p95:>9} {p99:>9} {failed:>8} {cpu_us_per_request:>15.1} {peak_rss_kib:>13}"
            ),
        }
    }
}

// === impl Outcome ===

impl From<io::Result<Figures>> for Outcome {
    fn from(figures: io::Result<Figures>) -> Self {
        figures.map_or_else(|error| Self::Failed(error.to_string()), Self::Ran)
    }
}

// === impl Figures ===

impl Figures {
    fn of(latency_us: &Histogram<u64>) -> Self {
        let quantile = |quantile| latency_us.value_at_quantile(quantile);
        Self { p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99), ..Self::default() }
    }

    fn with_usage(self, before: Usage, after: Usage, requests: u64) -> Self {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        Self { cpu_us_per_request: cpu * 1e6 / requests.max(1) as f64, peak_rss_kib: after.peak_rss_kib, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2load_is_understood() {
        let summary = "finished in 17.21ms, 5809.34 req/s, 1.01MB/s\nrequests: 4 total";
        let log = "1\t200\t100\n2\t200\t300\n3\t-1\t50\n4\t200\t200\n";
        let figures = parse_h2load(summary, log).unwrap();
        assert_eq!((figures.rps, figures.p50, figures.p99, figures.failed), (5809.34, 200, 300, 1));
        assert!(parse_h2load("", log).is_err());
        assert!(parse_h2load(summary, "nonsense").is_err());
    }

    #[test]
    fn ghz_is_understood() {
        let report = serde_json::json!({
            "count": 10, "rps": 1234.5, "statusCodeDistribution": { "OK": 9, "Unavailable": 1 },
            "latencyDistribution": [
                { "percentage": 50, "latency": 1_000_000 },
                { "percentage": 95, "latency": 2_000_000 },
                { "percentage": 99, "latency": 3_000_000 },
            ],
        });
        let figures = parse_ghz(&report).unwrap();
        assert_eq!((figures.rps, figures.p50, figures.p95, figures.p99, figures.failed), (1234.5, 1000, 2000, 3000, 1));
        assert_eq!(parse_ghz(&serde_json::json!({})), None);
    }
}
