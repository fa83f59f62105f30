//! A run's answers to the questions of the plan.

use super::{
    Advice, Chart, Data, Spread,
    chart::short,
    charts::{self, CHOICE, PROFILES, down, download, slow_readers, varied},
    table::table,
};
use crate::{
    load::Workload,
    matrix::{Cell, Sample, Side, Windows, plan, size_name},
};
use std::collections::BTreeMap;

/// A fast stream is held up if its rate is below this share of its rate beside fixed windows.
const HELD_UP: f64 = 0.5;

/// Titles and texts; a text is empty where nothing was measured.
pub(super) fn all(data: &Data) -> Vec<(&'static str, String)> {
    let charts = charts::all(data);
    let with = |names: &[&str], text: String| if text.is_empty() { text } else { figures(&charts, names) + &text };
    vec![
        ("What to set", advice(data)),
        ("What does the stream window do?", with(&["throughput-stream-window"], stream_window(data))),
        (
            "What do the connection window and more streams do?",
            with(&["throughput-connection-window", "throughput-streams"], connection_window(data)),
        ),
        ("Does it matter on which side the link is?", sides(data)),
        ("What do they do to latency?", with(&["tail-windows", "latency-streams"], latency(data))),
        ("Does adaptive help where the link changes?", with(&["adaptive-varying"], varying(data))),
        ("What do slow readers do to fast ones?", with(&["starvation"], starvation(data))),
        ("What does it cost in memory?", with(&["memory-streams"], memory(data))),
        ("Which streams failed?", failures(data)),
    ]
}

/// All cells with their measurements.
pub(super) fn cells(data: &Data) -> String {
    let mut measured: Vec<_> = data.cells().iter().collect();
    measured.sort_by_cached_key(|measured| {
        let Cell { workload, rtt_ms, streams, .. } = measured.cell;
        (workload, measured.cell.profile.to_string(), rtt_ms, streams)
    });
    let rows = measured.into_iter().map(|measured| {
        let figure = |figure: fn(&Sample) -> Option<f64>| self::figure(measured.spread(figure));
        let goodput = measured.spread(|sample| Some(sample.down_mbits.max(sample.up_mbits)));
        let goodput = goodput.filter(|goodput| goodput.median > 0.0);
        [
            measured.cell.to_string(),
            figure(|sample| Some(sample.rps)),
            figure(|sample| Some(sample.down_mbits)),
            figure(|sample| Some(sample.up_mbits)),
            goodput.map_or("-".to_owned(), |goodput| {
                format!("{:.0} %", (goodput.max - goodput.min) / goodput.median * 100.0)
            }),
            figure(|sample| Some(sample.latency_us?.p50 as f64 / 1e3)),
            figure(|sample| Some(sample.latency_us?.p95 as f64 / 1e3)),
            figure(|sample| Some(sample.latency_us?.p99 as f64 / 1e3)),
            figure(|sample| Some(sample.latency_us?.max as f64 / 1e3)),
            figure(|sample| Some(sample.error_rate * 100.0)),
            figure(|sample| sample.cpu_us_per_request),
            figure(|sample| Some(sample.cpu_percent)),
            figure(|sample| Some(sample.peak_rss_kib as f64 / 1024.0)),
            figure(|sample| Some(sample.final_rss_kib as f64 / 1024.0)),
            figure(|sample| Some(sample.utilisation? * 100.0)),
        ]
    });
    let head = [
        "cell",
        "RPS",
        "Mbit/s down",
        "Mbit/s up",
        "spread of Mbit/s",
        "P50 ms",
        "P95 ms",
        "P99 ms",
        "max ms",
        "failed %",
        "CPU us per request",
        "CPU %",
        "peak RSS MiB",
        "final RSS MiB",
        "link used %",
    ];
    table(head, rows)
}

/// The charts of these names that there are.
fn figures(charts: &[Chart], names: &[&str]) -> String {
    let there = charts.iter().filter(|chart| names.contains(&chart.name));
    there.map(|chart| format!("![{}]({}.svg)\n\n", chart.title, chart.name)).collect()
}

fn figure(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |spread| short(spread.median))
}

/// Mbit/s of a window once per round trip.
fn window_per_round_trip(window: u32, rtt_ms: u64) -> f64 {
    f64::from(window) * 8.0 / 1e3 / rtt_ms as f64
}

fn advice(data: &Data) -> String {
    let all = Advice::all(data);
    if all.is_empty() {
        return String::new();
    }
    let rows = all.iter().map(|advice| {
        [
            format!("{} ms, {}", advice.rtt_ms, advice.streams),
            size_name(advice.stream),
            size_name(advice.connection),
            short(advice.mbits),
            short(advice.default_mbits),
            advice.adaptive_mbits.map_or("-".to_owned(), short),
            format!("{} KiB", advice.memory() >> 10),
            advice.slow_readers().to_string(),
        ]
    });
    let head = [
        "RTT and streams",
        "stream window",
        "connection window",
        "Mbit/s",
        "with 64K / 1M",
        "adaptive",
        "memory at most",
        "slow readers",
    ];
    table(head, rows)
        + "The smallest windows of the plan that are within 10 % of the fastest, for downloads over a link of 1 Gbit/s \
           (0 ms: bare\nloopback). Set them for what endpoints send with \
           `LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE` and\n\
           `..._INITIAL_CONNECTION_WINDOW_SIZE`, and for what clients send with `..._OUTBOUND_SERVER_HTTP2_...`. \
           *Memory* is what readers that\nstop can make the proxy hold for each connection with that; *slow readers* is \
           how many may stop before it gives the connection more.\nFor another link, `benches tune` does the arithmetic.\n"
}

fn stream_window(data: &Data) -> String {
    let mut rows = Vec::new();
    for stream in plan::STREAM_WINDOWS {
        for rtt_ms in [1, 20, 80] {
            let cell = download(Windows::Fixed { stream, connection: 16 << 20 }, 1, rtt_ms);
            let Some(got) = data.spread(&cell, down) else { continue };
            let bound = window_per_round_trip(stream, rtt_ms);
            let bound = if bound > cell.mbits as f64 { "the link".to_owned() } else { short(bound) };
            rows.push([format!("{}, {rtt_ms} ms", size_name(stream)), short(got.median), bound]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut text = "A sender may have one window on the way, so a single stream gets at most a window per round trip. Windows of \
                    many frames\nget down to two thirds of it: h2 gives credit back once it is half of what is left, which is a \
                    third of the window,\nand what comes after the last third waits for a round trip. To fill a path with one \
                    stream, its window should be twice\nwhat is on the way. The connection window does not matter to one stream, \
                    as long as it is not the smaller.\n\n"
        .to_owned();
    text += &table(["stream window, RTT", "Mbit/s", "window / RTT"], rows);
    let pair = |workload, side| {
        let get = |windows| {
            let cell = Cell::new(workload, windows, 1, 20, side);
            data.spread(&cell, |sample| Some(sample.down_mbits.max(sample.up_mbits)))
        };
        Some((get(Windows::DEFAULT)?, get(Windows::LARGEST)?, get(Windows::Adaptive)?))
    };
    if let Some((default, largest, adaptive)) = pair(Workload::Upload, Side::Client) {
        text += &format!(
            "An upload is the same the other way: at 20 ms {} Mbit/s with 64 KiB toward the client, {} with 1 MiB, {} adaptive.\n",
            short(default.median),
            short(largest.median),
            short(adaptive.median),
        );
    }
    text
}

fn connection_window(data: &Data) -> String {
    let mut rows = Vec::new();
    for windows in plan::windows() {
        let each = |streams| figure(data.spread(&download(windows, streams, 20), down));
        rows.push([windows.label(), each(1), each(8), each(64), each(256)]);
    }
    rows.retain(|row| row[1..].iter().any(|cell| cell != "-"));
    if rows.is_empty() {
        return String::new();
    }
    let bound = short(window_per_round_trip(1 << 20, 20));
    format!(
        "Streams add up until the link is full or their sum reaches the connection window: 1 MiB over 20 ms cannot carry \
         more\nthan {bound} Mbit/s, however many streams share it. Mbit/s of all streams together, at 20 ms:\n\n{}",
        table(["windows", "1 stream", "8", "64", "256"], rows)
    )
}

fn sides(data: &Data) -> String {
    let mut rows = Vec::new();
    for (workload, rtt_ms) in [(Workload::Download, 20), (Workload::Download, 80), (Workload::Upload, 20)] {
        for windows in plan::FEW {
            let goodput = |sample: &Sample| Some(sample.down_mbits.max(sample.up_mbits));
            let each = |side| figure(data.spread(&Cell::new(workload, windows, 8, rtt_ms, side), goodput));
            let [endpoint, client, both] = [Side::Endpoint, Side::Client, Side::Both].map(each);
            rows.push([format!("{workload}, {rtt_ms} ms, {}", windows.label()), endpoint, client, both]);
        }
    }
    // One side alone is in other sections, too.
    rows.retain(|row| row[1..].iter().filter(|cell| *cell != "-").count() > 1);
    if rows.is_empty() {
        return String::new();
    }
    "The proxy's windows bound what is sent to it: downloads where its endpoint is far, uploads where its client is. What it \
     sends\nis bounded by the receiver's own windows, and those of the clients and the endpoint here never bind. Mbit/s of 8 \
     streams, by\nwhere the link is:\n\n"
        .to_owned()
        + &table(["workload", "before the endpoint", "before the client", "before each"], rows)
}

fn latency(data: &Data) -> String {
    let p99 = |sample: &Sample| Some(sample.latency_us?.p99 as f64 / 1e3);
    let mut text = String::new();
    let mut rows = Vec::new();
    for windows in plan::windows() {
        let each = |workload| {
            let cell = Cell::new(workload, windows, 8, 20, plan::telling_side(workload));
            figure(data.spread(&cell, p99))
        };
        rows.push([
            windows.label(),
            each(Workload::ServerStreaming),
            each(Workload::ClientStreaming),
            each(Workload::Bidi),
        ]);
    }
    rows.retain(|row| row[1..].iter().any(|cell| cell != "-"));
    if !rows.is_empty() {
        text += "A message that does not fit the window waits for a round trip, and the tail is the sum of such waits. P99 in \
                 milliseconds\nof 8 gRPC streams, each of 64 messages of 4 KiB, over 20 ms:\n\n";
        text += &table(["windows", "server streaming", "client streaming", "bidirectional"], rows);
    }
    let mut rows = Vec::new();
    for (workload, name) in [(Workload::Unary, "GET"), (Workload::GrpcUnary, "gRPC")] {
        for rtt_ms in [0, 20] {
            for streams in plan::STREAMS {
                let cell = |windows| Cell::new(workload, windows, streams, rtt_ms, Side::Endpoint);
                let Some(default) = data.get(&cell(Windows::DEFAULT)) else { continue };
                let p99 = |windows| figure(data.spread(&cell(windows), p99));
                rows.push([
                    format!("{name}, {rtt_ms} ms, {streams} streams"),
                    short(default.median(|sample| sample.rps)),
                    p99(Windows::DEFAULT),
                    p99(Windows::LARGEST),
                    p99(Windows::Adaptive),
                    figure(default.spread(|sample| sample.cpu_us_per_request)),
                ]);
            }
        }
    }
    if !rows.is_empty() {
        text += "Small requests never fill a window, so it hardly matters to them; what grows with streams is the queue for the CPU:\n\n";
        let head = ["requests", "RPS", "P99 ms, 64K / 1M", "1M / 16M", "adaptive", "proxy CPU us per request"];
        text += &table(head, rows);
    }
    let mut rows = Vec::new();
    for (workload, name) in [(Workload::Unary, "GET"), (Workload::GrpcUnary, "gRPC")] {
        for rtt_ms in [0, 20] {
            let each = |windows| {
                let cell = Cell { rate: Some(plan::RATE), ..Cell::new(workload, windows, 64, rtt_ms, Side::Endpoint) };
                figure(data.spread(&cell, p99))
            };
            let [default, largest, adaptive] = plan::FEW.map(each);
            rows.push([format!("{name}, {rtt_ms} ms"), default, largest, adaptive]);
        }
    }
    rows.retain(|row| row[1..].iter().any(|cell| cell != "-"));
    if !rows.is_empty() {
        text += &format!(
            "At a fixed rate, whatever became of those before, latency counts from when a request was to be sent. P99 in \
             milliseconds\nat {} requests a second, far below what the proxy can do:\n\n",
            plan::RATE
        );
        text += &table(["requests", "64K / 1M", "1M / 16M", "adaptive"], rows);
    }
    text
}

fn varying(data: &Data) -> String {
    let mut rows = Vec::new();
    for windows in CHOICE {
        let [steady, step, sine, dip] = PROFILES.map(|profile| figure(data.spread(&varied(windows, profile), down)));
        rows.push([windows.label(), steady, step, sine, dip]);
    }
    rows.retain(|row| row[1..].iter().any(|cell| cell != "-"));
    if rows.is_empty() {
        return String::new();
    }
    let median = |windows, profile| Some(data.spread(&varied(windows, profile), down)?.median);
    let against = |other: Windows| {
        let mut faster = Vec::new();
        let mut slower = Vec::new();
        for profile in PROFILES {
            let (Some(adaptive), Some(fixed)) = (median(Windows::Adaptive, profile), median(other, profile)) else {
                continue;
            };
            let says = format!("{profile} ({} against {})", short(adaptive), short(fixed));
            if adaptive > fixed * 1.05 {
                faster.push(says);
            } else if adaptive < fixed * 0.95 {
                slower.push(says);
            }
        }
        let list = |names: Vec<String>| if names.is_empty() { "nowhere".to_owned() } else { names.join(", ") };
        format!("against {}, adaptive is faster: {}; slower: {}", other.label(), list(faster), list(slower))
    };
    let mut text = String::new();
    if PROFILES.into_iter().any(|profile| median(Windows::Adaptive, profile).is_some()) {
        text += &format!("- {}.\n- {}.\n\n", against(Windows::DEFAULT), against(Windows::LARGEST));
    }
    text += "Mbit/s of 8 downloads over a link of 20 ms and 1 Gbit/s, and over ones that vary from there:\n\n";
    text + &table(["windows", "steady", "step", "sine", "dip"], rows)
}

fn starvation(data: &Data) -> String {
    let mut rows = Vec::new();
    for windows in plan::windows() {
        let each = |streams| {
            let got = data.spread(&slow_readers(windows, streams), |sample| Some(sample.rps))?;
            let mark = if fills(windows, streams) { " *" } else { "" };
            Some(format!("{}{mark}", short(got.median)))
        };
        let each = |streams| each(streams).unwrap_or_else(|| "-".to_owned());
        rows.push([windows.label(), each(1), each(8), each(64), each(256)]);
    }
    rows.retain(|row| row[1..].iter().any(|cell| cell != "-"));
    if rows.is_empty() {
        return String::new();
    }
    let rps = |windows, streams| Some(data.get(&slow_readers(windows, streams))?.median(|sample| sample.rps));
    let alone = rps(Windows::DEFAULT, 1).unwrap_or_default();
    let held_up = |(windows, streams)| rps(windows, streams).is_some_and(|rps| rps < alone * HELD_UP);
    let all = || plan::windows().flat_map(|windows| plan::STREAMS.map(|streams| (windows, streams)));
    let (may_starve, others): (Vec<_>, Vec<_>) = all().partition(|(windows, streams)| fills(*windows, *streams));
    let mut text = "Streams of one connection share its window, and what a client does not read stays in it. `*` marks where slow \
                    readers x\nstream window reach the connection window, so that nothing would be left for the fast one if that \
                    were all. Answers of\n64 KiB a second on the fast stream:\n\n"
        .to_owned();
    text += &table(["windows", "1 slow reader", "8", "64", "256"], rows);
    let starved = may_starve.iter().filter(|cell| held_up(**cell)).count();
    text += &format!(
        "Of the {} cells that are marked, the fast stream gets less than half of {} (64K / 1M, one slow reader) in {starved}; of the \
         {} others in {}.\n",
        may_starve.len(),
        short(alone),
        others.len(),
        others.iter().filter(|cell| held_up(**cell)).count(),
    );
    if starved * 2 < may_starve.len() {
        text += "The proxy gives a connection as much window more as its readers that stopped hold, at most `D_MAX_BUFFERED_BYTES` for \
                 all\nconnections: 256 MiB unless set, which 256 readers with windows of 1 MiB use up.\n";
    }
    text
}

/// Whether slow readers can hold all of their connection's window.
fn fills(windows: Windows, streams: usize) -> bool {
    match windows {
        Windows::Fixed { stream, connection } => streams as u64 * u64::from(stream) >= u64::from(connection),
        // 16 MiB of 24, while windows are full.
        Windows::Adaptive => streams > 1,
    }
}

fn memory(data: &Data) -> String {
    let mib = |sample: &Sample| Some(sample.peak_rss_kib as f64 / 1024.0);
    let mut rows = Vec::new();
    for windows in plan::windows() {
        let slow = |streams| figure(data.spread(&slow_readers(windows, streams), mib));
        let fast = figure(data.spread(&download(windows, 64, 20), mib));
        let loopback = figure(data.spread(&download(windows, 64, 0), mib));
        rows.push([windows.label(), slow(1), slow(8), slow(64), slow(256), fast, loopback]);
    }
    rows.retain(|row| row[1..].iter().any(|cell| cell != "-"));
    if rows.is_empty() {
        return String::new();
    }
    let head = ["windows", "1 slow reader", "8", "64", "256", "64 fast, 20 ms", "64 fast, loopback"];
    "Windows bound what the proxy may hold, and it holds what came but was not read: where clients are slower than the endpoint. \
     Over\na link they seldom are, on loopback 64 downloads together are. The most resident memory of the proxy, in MiB:\n\n"
        .to_owned()
        + &table(head, rows)
}

fn failures(data: &Data) -> String {
    let mut streams = 0;
    let mut kinds = BTreeMap::<&str, (u64, Vec<String>)>::new();
    for measured in data.cells() {
        for (end, count) in measured.samples.iter().flat_map(|sample| &sample.ends) {
            streams += count;
            if end != "ok" {
                let (sum, cells) = kinds.entry(end).or_default();
                *sum += count;
                let cell = format!("`{}`", measured.cell);
                if !cells.contains(&cell) {
                    cells.push(cell);
                }
            }
        }
    }
    if streams == 0 {
        return String::new();
    }
    if kinds.is_empty() {
        return format!("None of {streams}.\n");
    }
    let rows = kinds.iter().map(|(end, (sum, cells))| [(*end).to_owned(), sum.to_string(), cells.join(", ")]);
    format!("Of {streams} that ended:\n\n{}", table(["end", "streams", "in"], rows))
}
