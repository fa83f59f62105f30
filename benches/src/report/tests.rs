//! Reports of made-up results.

use super::*;
use crate::{
    fresh::{self, Transferred},
    load::Workload,
    matrix::{Cell, Machine, Record, Sample, Side, Windows, plan},
    starvation::{Beside, Rss, Scene, Stop, Traffic},
};

/// A run in which one window arrives per round trip, up to the link, and a sample for each round.
fn made_up(cells: Vec<Cell>) -> Data {
    let machine = Machine { cpu: "2 x Test".to_owned(), commit: "abc".to_owned(), rounds: 3, ..Machine::default() };
    let sample = |cell: &Cell, round: usize| {
        let window = match cell.windows {
            Windows::Fixed { stream, connection } => (cell.streams as f64 * f64::from(stream)).min(connection.into()),
            Windows::Adaptive => 16e6,
        };
        let link = window * 8.0 / 1e3 / cell.rtt_ms.max(1) as f64;
        Sample { down_mbits: link.min(1_000.0) * (1.0 + round as f64 / 100.0), rps: 100.0, ..Sample::default() }
    };
    let samples = cells.into_iter().flat_map(|cell| {
        (0..3).map(move |round| Record::Sample { sample: Ok(sample(&cell, round)), round, cell: cell.clone() })
    });
    Data::new([Record::Machine(machine)].into_iter().chain(samples))
}

#[test]
fn machine_and_commit_are_named() {
    let text = markdown(&made_up(plan::full()));
    for word in ["2 x Test", "commit: abc", "3 interleaved rounds"] {
        assert!(text.contains(word), "{word}");
    }
}

#[test]
fn advice_is_the_smallest_that_is_fast() {
    let data = made_up(plan::full());
    let all = Advice::all(&data);
    assert_eq!(all.len(), plan::RTTS.len() * plan::STREAMS.len());
    let of = |rtt_ms, streams| *all.iter().find(|advice| (advice.rtt_ms, advice.streams) == (rtt_ms, streams)).unwrap();
    assert_eq!((of(20, 1).stream, of(20, 1).connection), (1 << 20, 1 << 20));
    // 64 of the smallest are 4 MiB, more than 2.5 MB that are on the way.
    assert_eq!((of(20, 64).stream, of(20, 64).connection), (65_535, 4 << 20));
    assert_eq!((of(20, 64).memory(), of(20, 64).slow_readers()), (64 * 65_535, 63));
}

#[test]
fn every_section_and_chart_has_its_results() {
    let data = made_up(plan::full());
    let charts = charts::all(&data);
    assert_eq!(charts.len(), 6, "all but the two of latencies, which are not made up");
    let text = markdown(&data);
    for chart in charts {
        assert!(text.contains(&format!("({}.svg)", chart.name)), "{} is not in the text", chart.name);
    }
}

#[test]
fn nothing_is_said_of_what_was_not_measured() {
    let text = markdown(&made_up(Vec::new()));
    assert!(!text.contains("##"), "{text}");
    // A part of the plan makes a report, too.
    assert!(markdown(&made_up(plan::quick())).contains("## "));
}

#[test]
fn report_is_written_as_files() {
    let dir = std::env::temp_dir().join(format!("benches-report-{}", std::process::id()));
    write(&made_up(plan::full()), &dir).unwrap();
    assert!(dir.join("README.md").exists() && dir.join("starvation.svg").exists());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Transfers, of which all but one have nearly their rate without a proxy, and a scene in two rounds.
fn transfers_and_a_scene() -> Data {
    let run = |command: &str| {
        Record::Machine(Machine {
            command: command.to_owned(),
            commit: "def".to_owned(),
            rounds: 2,
            ..Machine::default()
        })
    };
    let plan = fresh::plan(&[Windows::Adaptive], Side::Endpoint, &[]);
    let transfers = plan.into_iter().enumerate().map(|(n, transfer)| {
        let megabytes_per_second = match transfer.windows {
            None => 100.0,
            Some(_) if n == 1 => 80.0,
            Some(_) => 98.0,
        };
        let sample = Ok(Transferred { megabytes_per_second, ..Transferred::default() });
        Record::Transfer { transfer, round: 0, sample }
    });
    let mut data = Data::new([run("first")].into_iter().chain(transfers));
    let scene = Scene {
        workload: Workload::Download,
        windows: Windows::Adaptive,
        readers: 64,
        streams_each: 1,
        stop: Stop::Window,
        rtt_ms: 20,
        mbits: 1_000,
        cold: false,
        env: Vec::new(),
    };
    let traffic = |megabytes_per_second, ok| Traffic {
        megabytes_per_second,
        requests: 10,
        ends: [("ok".to_owned(), ok)].into(),
        ..Traffic::default()
    };
    let sample = |share, ok| {
        let rss = Rss { start: 6 << 10, peak: 40 << 10, after: 9 << 10, ..Rss::default() };
        Ok(Beside { without: traffic(100.0, 10), with: traffic(share, ok), rss, ..Beside::default() })
    };
    data.add_run([
        run("second"),
        Record::Starvation { scene: scene.clone(), round: 0, sample: sample(95.0, 10) },
        Record::Starvation { scene, round: 1, sample: sample(93.0, 9) },
    ]);
    data
}

#[test]
fn flow_control_is_told_at_its_worst() {
    let text = flow_control::markdown(&transfers_and_a_scene());
    for words in [
        "- adaptive, link before the endpoint: at least 0.95 of the rate without a proxy in 27 of 28; the least is 0.80",
        "- adaptive, 64 stopped readers, at worst: transfers at 0.93 of their rate without",
        "1 of them not answered, 40 MiB at most, 3 MiB more than",
        "- `first`: 2 rounds, commit def",
        "- `second`: 2 rounds",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn pages_of_which_nothing_was_measured_are_left_alone() {
    let dir = std::env::temp_dir().join(format!("benches-pages-{}", std::process::id()));
    assert_eq!(write(&transfers_and_a_scene(), &dir).unwrap(), [dir.join("flow-control.md")]);
    assert_eq!(write(&made_up(plan::quick()), &dir).unwrap(), [dir.join("README.md")]);
    assert!(write(&Data::default(), &dir).unwrap().is_empty());
    std::fs::remove_dir_all(&dir).unwrap();
}
