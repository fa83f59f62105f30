//! The page on flow control: transfers on fresh connections, and traffic beside stopped readers.

use super::Data;
use crate::{
    fresh::Transfer,
    load::Workload,
    matrix::{Machine, Side, Windows},
    starvation::{Beside, Scene},
};

/// A transfer is as good as without a proxy from this share of its rate on.
const WHOLE: f64 = 0.95;

/// The page's text.
pub(super) fn markdown(data: &Data) -> String {
    let sections = [
        ("How much of a long path does a transfer get?", transfers(data)),
        ("What do readers that stop do to others?", stopped_readers(data)),
    ];
    let mut text = "# Flow control: long paths, and readers that stop\n\n\
                    One worker of the proxy; links emulated on loopback (delays and queues, no loss). A window of `64K / 1M` is \
                    one of 64 KiB\nfor each stream and of 1 MiB for the connection, the proxy's default; each setting is that of \
                    both sides, toward clients and\ntoward the endpoint.\n\n\
                    Adaptive windows are 16 MiB for a stream and 24 MiB for a connection to an endpoint from the start: a window \
                    costs nothing\nas long as readers read. A connection from a client has up to that, as far as half of `D_MAX_BUFFERED_BYTES` \
                    can be reserved: each gets a\nquarter of what is left, and the default windows at least. Where PING finds a longer \
                    path, windows are up to 64 MiB. While readers\nthat stopped hold more than a thirty-second of \
                    `D_MAX_BUFFERED_BYTES`, the streams of their connections have smaller windows, down\nto 65,535 bytes.\n\n"
        .to_owned();
    for (title, section) in sections {
        if !section.is_empty() {
            text += &format!("## {title}\n\n{}\n\n", section.trim());
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn transfers(data: &Data) -> String {
    if data.transfers.is_empty() {
        return String::new();
    }
    let mut text = "Each transfer is the first one on a new connection, through a new proxy, so windows are as they start. Time runs \
                    from before the\nconnection opens until the last byte. The link of 1 Gbit/s is before the endpoint, unless it is \
                    said to be before the client.\nThe proxy's windows bound what is sent to it: downloads over a link before the \
                    endpoint, uploads over one before the client.\nMB/s (10^6 bytes), medians; in brackets the share of the same \
                    transfer without a proxy:\n\n"
        .to_owned();
    text += &data.transfers.markdown();
    text.push('\n');
    for windows in data.transfers.windows() {
        for side in [Side::Endpoint, Side::Client] {
            let mut shares = data.transfers.shares(windows);
            shares.retain(|(transfer, _)| transfer.side == side);
            text += &summary(windows, side, &shares);
        }
    }
    text + &origin(&data.transfer_runs)
}

/// One line: how many transfers are as good as without a proxy, and which is the worst.
fn summary(windows: Windows, side: Side, shares: &[(&Transfer, f64)]) -> String {
    let Some((worst, least)) = shares.iter().min_by(|(_, a), (_, b)| a.total_cmp(b)) else { return String::new() };
    let whole = shares.iter().filter(|(_, share)| *share >= WHOLE).count();
    format!(
        "- {}, link before the {side}: at least {WHOLE} of the rate without a proxy in {whole} of {}; the least is {least:.2} \
         (`{worst}`).\n",
        windows.label(),
        shares.len(),
    )
}

fn stopped_readers(data: &Data) -> String {
    if data.scenes.is_empty() {
        return String::new();
    }
    let mut text = "Each stopped reader is a client that asks for 8 MB and grants no window, on a connection of its own. In the mirror \
                    of this,\neach uploads 8 MB to an endpoint that does not read. Beside them one client transfers 16 MB again and \
                    again, down or up as they\ndo, and four others send small requests at an even rate, over a link of 1 Gbit/s. \
                    *Without* is the same traffic before the readers\ncome. Memory is the proxy's, *after* when all clients have \
                    gone for as long as the command says, a minute by default.\n\n"
        .to_owned();
    text += &data.scenes.markdown();
    text.push('\n');
    data.scenes.rows().for_each(|(scene, samples)| text += &beside(scene, samples));
    text + &origin(&data.scene_runs)
}

/// One line: traffic and memory beside these readers, at worst.
fn beside(scene: &Scene, samples: &[Beside]) -> String {
    let kind = if scene.workload == Workload::Upload { "uploads" } else { "readers" };
    let least = samples.iter().map(Beside::share).fold(f64::INFINITY, f64::min);
    let lost: u64 = samples.iter().map(|sample| sample.with.requests - sample.with.ok()).sum();
    let slower = |sample: &Beside| {
        let (with, without) = (sample.with.latency_us?, sample.without.latency_us?);
        Some(with.p99 as f64 / without.p99.max(1) as f64)
    };
    let slower = samples.iter().filter_map(slower).reduce(f64::max);
    let mib = |kib: u64| kib as f64 / 1024.0;
    let peak = samples.iter().map(|sample| mib(sample.rss.peak)).fold(0.0, f64::max);
    let kept =
        samples.iter().map(|sample| mib(sample.rss.after) - mib(sample.rss.start)).fold(f64::NEG_INFINITY, f64::max);
    format!(
        "- {}, {} stopped {kind}, at worst: transfers at {least:.2} of their rate without, P99 of small requests {}, {lost} of \
         them not answered, {peak:.0} MiB at most, {kept:.0} MiB more than at the start when all have gone.\n",
        scene.windows.label(),
        scene.readers,
        slower.map_or("none".to_owned(), |slower| format!("{slower:.2} times that without")),
    )
}

/// Where and how runs were made.
fn origin(runs: &[Machine]) -> String {
    let mut text = String::new();
    let mut lines: Vec<String> = Vec::new();
    for Machine { cpu, memory_gib, kernel, commit, command, rounds, .. } in runs {
        let line =
            format!("- `{command}`: {rounds} rounds, commit {commit}, {cpu}, {memory_gib} GiB, Linux {kernel}\n");
        if !lines.contains(&line) {
            text += &line;
            lines.push(line);
        }
    }
    if text.is_empty() { text } else { format!("\nMeasured by\n\n{text}") }
}
