//! Which charts there are.

use super::{Chart, Data, Kind, Series, Spread};
use crate::{
    link::Profile,
    load::Workload,
    matrix::{Cell, Sample, Side, Windows, plan},
};

const LINK_RTTS: [u64; 3] = [1, 20, 80];
/// The windows that differ most, where all would be too many.
pub(super) const CHOICE: [Windows; 4] =
    [Windows::DEFAULT, Windows::Fixed { stream: 256 << 10, connection: 4 << 20 }, Windows::LARGEST, Windows::Adaptive];
pub(super) const PROFILES: [&str; 4] = ["steady", "step", "sine", "dip"];

/// All charts for which there are results.
pub(super) fn all(data: &Data) -> Vec<Chart> {
    let mut charts = vec![
        over_stream_window(data),
        over_connection_window(data),
        over_streams(data),
        latency(data),
        tail(data),
        varying(data),
        memory(data),
        starvation(data),
    ];
    for chart in &mut charts {
        chart.series.retain(|series| series.values.iter().any(Option::is_some));
    }
    charts.retain(|chart| !chart.is_empty());
    charts
}

pub(super) fn down(sample: &Sample) -> Option<f64> {
    Some(sample.down_mbits)
}

pub(super) fn download(windows: Windows, streams: usize, rtt_ms: u64) -> Cell {
    Cell::new(Workload::Download, windows, streams, rtt_ms, Side::Endpoint)
}

pub(super) fn slow_readers(windows: Windows, streams: usize) -> Cell {
    Cell::new(Workload::SlowReaders, windows, streams, 1, Side::Endpoint)
}

/// A download over a link that changes.
pub(super) fn varied(windows: Windows, profile: &str) -> Cell {
    Cell { profile: Profile::named(profile).unwrap_or_default(), ..download(windows, 8, 20) }
}

fn series<T: Copy>(
    name: impl Into<String>,
    over: impl IntoIterator<Item = T>,
    value: impl Fn(T) -> Option<Spread>,
) -> Series {
    Series { name: name.into(), values: over.into_iter().map(value).collect() }
}

fn over_stream_window(data: &Data) -> Chart {
    let windows = || {
        plan::STREAM_WINDOWS
            .map(|stream| Windows::Fixed { stream, connection: 16 << 20 })
            .into_iter()
            .chain([Windows::Adaptive])
    };
    let of =
        |rtt_ms| series(format!("{rtt_ms} ms"), windows(), |windows| data.spread(&download(windows, 1, rtt_ms), down));
    Chart {
        name: "throughput-stream-window",
        title: "One download: the stream window and the round trip decide".to_owned(),
        x: "stream window (connection window 16 MiB)",
        y: "Mbit/s, each line ten times the one below",
        legend: "round trip:",
        categories: vec!["64 KiB".to_owned(), "256 KiB".to_owned(), "1 MiB".to_owned(), "adaptive".to_owned()],
        series: LINK_RTTS.map(of).to_vec(),
        kind: Kind::Bars,
        log: true,
    }
}

fn over_connection_window(data: &Data) -> Chart {
    let windows = || {
        let fixed = plan::CONNECTION_WINDOWS.map(|connection| Windows::Fixed { stream: 1 << 20, connection });
        fixed.into_iter().chain([Windows::Adaptive])
    };
    let of =
        |rtt_ms| series(format!("{rtt_ms} ms"), windows(), |windows| data.spread(&download(windows, 64, rtt_ms), down));
    Chart {
        name: "throughput-connection-window",
        title: "64 downloads on one connection: its window bounds them together".to_owned(),
        x: "connection window (stream window 1 MiB)",
        y: "Mbit/s of all",
        legend: "round trip:",
        categories: vec!["1 MiB".to_owned(), "4 MiB".to_owned(), "16 MiB".to_owned(), "adaptive".to_owned()],
        series: LINK_RTTS.map(of).to_vec(),
        kind: Kind::Bars,
        log: false,
    }
}

fn over_streams(data: &Data) -> Chart {
    let of = |windows: Windows| {
        series(windows.label(), plan::STREAMS, |streams| data.spread(&download(windows, streams, 20), down))
    };
    Chart {
        name: "throughput-streams",
        title: "Downloads over a round trip of 20 ms: more streams fill the link, up to the connection window"
            .to_owned(),
        x: "downloads at once, on one connection",
        y: "Mbit/s of all",
        legend: "stream / connection window:",
        categories: plan::STREAMS.map(|streams| streams.to_string()).to_vec(),
        series: CHOICE.map(of).to_vec(),
        kind: Kind::Bars,
        log: false,
    }
}

fn latency(data: &Data) -> Chart {
    let of = |workload: Workload, name: &str, rtt_ms, figure: fn(&Sample) -> Option<f64>| {
        series(name, plan::STREAMS, |streams| {
            data.spread(&Cell::new(workload, Windows::DEFAULT, streams, rtt_ms, Side::Endpoint), figure)
        })
    };
    let p50 = |sample: &Sample| Some(sample.latency_us?.p50 as f64 / 1e3);
    let p99 = |sample: &Sample| Some(sample.latency_us?.p99 as f64 / 1e3);
    Chart {
        name: "latency-streams",
        title: "Latency of small requests, one after the other on each stream, on loopback and over 20 ms".to_owned(),
        x: "streams at once, on one connection",
        y: "milliseconds, each line ten times the one below",
        legend: "",
        categories: plan::STREAMS.map(|streams| streams.to_string()).to_vec(),
        series: vec![
            of(Workload::Unary, "GET P50", 0, p50),
            of(Workload::Unary, "GET P99", 0, p99),
            of(Workload::GrpcUnary, "gRPC P50", 0, p50),
            of(Workload::GrpcUnary, "gRPC P99", 0, p99),
            of(Workload::Unary, "GET 20 ms P50", 20, p50),
            of(Workload::Unary, "GET 20 ms P99", 20, p99),
        ],
        kind: Kind::Lines,
        log: true,
    }
}

fn tail(data: &Data) -> Chart {
    let workloads = [Workload::ServerStreaming, Workload::ClientStreaming, Workload::Bidi];
    let of = |windows: Windows| {
        series(windows.label(), workloads, |workload| {
            let cell = Cell::new(workload, windows, 8, 20, plan::telling_side(workload));
            data.spread(&cell, |sample| Some(sample.latency_us?.p99 as f64 / 1e3))
        })
    };
    Chart {
        name: "tail-windows",
        title: "gRPC streams of 64 messages of 4 KiB over 20 ms, 8 at once: P99".to_owned(),
        x: "kind of call (bidirectional: 20 ms on each side of the proxy, the others on the side that sends)",
        y: "milliseconds from a stream's start to its end",
        legend: "stream / connection window:",
        categories: ["server streaming", "client streaming", "bidirectional"].map(str::to_owned).to_vec(),
        series: CHOICE.map(of).to_vec(),
        kind: Kind::Bars,
        log: false,
    }
}

fn varying(data: &Data) -> Chart {
    let of =
        |windows: Windows| series(windows.label(), PROFILES, |profile| data.spread(&varied(windows, profile), down));
    Chart {
        name: "adaptive-varying",
        title: "Adaptive against fixed windows where the link changes: 8 downloads".to_owned(),
        x: "20 ms, 1 Gbit/s; step: 80 ms half-way; sine: 4 to 36 ms, 0.2 to 1.8 Gbit/s; dip: 0.1 Gbit/s for 150 of 500 ms",
        y: "Mbit/s of all",
        legend: "stream / connection window:",
        categories: PROFILES.map(str::to_owned).to_vec(),
        series: CHOICE.map(of).to_vec(),
        kind: Kind::Bars,
        log: false,
    }
}

fn memory(data: &Data) -> Chart {
    let windows = [
        Windows::DEFAULT,
        Windows::Fixed { stream: 65_535, connection: 16 << 20 },
        Windows::Fixed { stream: 1 << 20, connection: 1 << 20 },
        Windows::LARGEST,
        Windows::Adaptive,
    ];
    let of = |windows: Windows| {
        series(windows.label(), plan::STREAMS, |streams| {
            data.spread(&slow_readers(windows, streams), |sample| Some(sample.peak_rss_kib as f64 / 1024.0))
        })
    };
    Chart {
        name: "memory-streams",
        title: "Memory of the proxy with clients that hardly read".to_owned(),
        x: "slow downloads at once, on one connection",
        y: "MiB of resident memory, at most",
        legend: "stream / connection window:",
        categories: plan::STREAMS.map(|streams| streams.to_string()).to_vec(),
        series: windows.map(of).to_vec(),
        kind: Kind::Lines,
        log: false,
    }
}

fn starvation(data: &Data) -> Chart {
    let of = |streams: usize| {
        series(streams.to_string(), plan::windows(), |windows: Windows| {
            data.spread(&slow_readers(windows, streams), |sample| Some(sample.rps))
        })
    };
    Chart {
        name: "starvation",
        title: "The fast stream beside slow readers of the same connection".to_owned(),
        x: "stream window / connection window",
        y: "answers of 64 KiB a second on the fast stream (RTT 1 ms)",
        legend: "slow readers:",
        categories: plan::windows().map(Windows::label).collect(),
        series: plan::STREAMS.map(of).to_vec(),
        kind: Kind::Bars,
        log: false,
    }
}
