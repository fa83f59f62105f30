//! Measuring one cell.

use super::{Cell, Side};
use crate::{
    link::Relay,
    load::{Endpoint, Load},
    process::{Proxy, Usage},
};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, path::Path, time::Duration};

/// One measurement of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Streams a second that ended well.
    pub rps: f64,
    /// Mbit/s of bodies that reached the client.
    pub down_mbits: f64,
    /// Mbit/s of bodies that reached the endpoint.
    pub up_mbits: f64,
    /// Latencies of streams that ended well, in microseconds. `None`: none did.
    pub latency_us: Option<Latency>,
    /// How many streams ended how.
    pub ends: BTreeMap<String, u64>,
    /// The share of streams that did not end well. 0 if none ended.
    pub error_rate: f64,
    /// The proxy's time on a CPU for each stream that ended, in microseconds. `None`: none did.
    pub cpu_us_per_request: Option<f64>,
    /// The proxy's time on a CPU in per cent of the time.
    pub cpu_percent: f64,
    /// The most resident memory that the proxy had, in KiB.
    pub peak_rss_kib: u64,
    /// Its resident memory at the end, in KiB.
    pub final_rss_kib: u64,
    /// The share of the link's bandwidth that was used, in the direction that was used more. `None`: no link.
    pub utilisation: Option<f64>,
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are below.
    pub p50: u64,
    /// 95 % are below.
    pub p95: u64,
    /// 99 % are below.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

/// The counters at the beginning and at the end of the measured time.
struct Counts {
    usage: io::Result<Usage>,
    received: u64,
    carried: [u64; 4],
}

/// After how long a stream is given up: longer than most cells take, so that a slow stream is not taken for an error.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Starts a proxy as the cell says, runs the cell's load for `time` after a warm-up, and ends the proxy.
///
/// # Errors
///
/// When the proxy does not start or ends early, or this process is out of ports or descriptors.
pub async fn measure(cell: &Cell, app: &Path, endpoint: &Endpoint, time: Duration) -> io::Result<Sample> {
    let (to_endpoint, to_client) = (cell.link(), cell.link());
    let behind = match cell.side {
        Side::Endpoint | Side::Both => Some(Relay::spawn(to_endpoint.clone(), endpoint.addr()).await?),
        Side::Direct | Side::Client => None,
    };
    let proxy = Proxy::spawn(app, behind.as_ref().map_or(endpoint.addr(), Relay::addr), &cell.settings())?;
    let before = match cell.side {
        Side::Client | Side::Both => Some(Relay::spawn(to_client.clone(), proxy.addr()).await?),
        Side::Direct | Side::Endpoint => None,
    };
    let load = Load {
        target: before.as_ref().map_or(proxy.addr(), Relay::addr),
        workload: cell.workload,
        connections: cell.connections,
        streams: cell.streams,
        rate: cell.rate.map(f64::from),
        warm_up: cell.warm_up(),
        time: cell.time(time),
        timeout: TIMEOUT,
    };
    let count = || Counts {
        usage: proxy.usage(),
        received: endpoint.received(),
        carried: [to_endpoint.carried().0, to_endpoint.carried().1, to_client.carried().0, to_client.carried().1],
    };
    let (outcome, from, to) = load.run(count).await?;
    let (used_before, used) = (from.usage?, to.usage?);

    let seconds = outcome.time.as_secs_f64();
    let mbits = |bytes: u64| bytes as f64 * 8.0 / 1e6 / seconds;
    let cpu = used.cpu.saturating_sub(used_before.cpu).as_secs_f64();
    let ended: u64 = outcome.ends.values().sum();
    let carried = to.carried.into_iter().zip(from.carried).map(|(to, from)| to - from).max().unwrap_or_default();
    Ok(Sample {
        rps: outcome.ok() as f64 / seconds,
        down_mbits: mbits(outcome.received),
        up_mbits: mbits(to.received - from.received),
        latency_us: Latency::of(&outcome.latency_us),
        error_rate: if ended > 0 { outcome.failed() as f64 / ended as f64 } else { 0.0 },
        ends: outcome.ends.iter().map(|(end, count)| (end.to_string(), *count)).collect(),
        cpu_us_per_request: (ended > 0).then(|| cpu * 1e6 / ended as f64),
        cpu_percent: cpu / seconds * 100.0,
        peak_rss_kib: used.peak_rss_kib,
        final_rss_kib: used.rss_kib,
        utilisation: (cell.side != Side::Direct).then(|| mbits(carried) / cell.mbits as f64),
    })
}

// === impl Latency ===

impl Latency {
    /// `None`: nothing was recorded.
    pub(crate) fn of(us: &Histogram<u64>) -> Option<Self> {
        (!us.is_empty()).then(|| Self {
            p50: us.value_at_quantile(0.5),
            p95: us.value_at_quantile(0.95),
            p99: us.value_at_quantile(0.99),
            max: us.max(),
        })
    }
}
