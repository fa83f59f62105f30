//! Reports of made-up results.

use super::*;
use crate::matrix::{Cell, Machine, Record, Sample, Windows, plan};

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
