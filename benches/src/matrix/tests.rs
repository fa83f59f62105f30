//! The plan's shape, names, and results that are stopped and resumed.

use super::*;
use crate::{link::Profile, load::Workload};
use std::{collections::HashSet, path::Path, time::Duration};

fn estimate(cells: Vec<Cell>, rounds: usize, seconds: f64) -> Duration {
    let time = Duration::from_secs_f64(seconds);
    Options { app: "app".into(), cells, rounds, time, out: "out".into() }.estimate()
}

#[test]
fn no_cell_is_planned_twice() {
    for cells in [plan::quick(), plan::full(), plan::cross()] {
        let names: HashSet<_> = cells.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), cells.len());
    }
}

#[test]
fn full_plan_has_all_values_and_each_once_adaptive() {
    let cells = plan::full();
    for workload in Workload::ALL {
        assert!(cells.iter().any(|cell| cell.workload == workload), "{workload}");
    }
    for streams in plan::STREAMS {
        for rtt_ms in plan::RTTS {
            let same = |cell: &&Cell| {
                cell.workload == Workload::Download
                    && (cell.streams, cell.rtt_ms, cell.profile) == (streams, rtt_ms, Profile::Steady)
                    && matches!(cell.side, Side::Endpoint | Side::Direct)
            };
            assert_eq!(cells.iter().filter(same).count(), 10, "{streams} streams, {rtt_ms} ms");
            let adaptive = |cell: &&Cell| same(cell) && cell.windows == Windows::Adaptive;
            assert_eq!(cells.iter().filter(adaptive).count(), 1);
        }
    }
}

#[test]
fn full_plan_has_all_sides_and_fixed_rates() {
    let cells = plan::full();
    for workload in Workload::ALL.into_iter().filter(|workload| *workload != Workload::SlowReaders) {
        for side in [Side::Endpoint, Side::Client, Side::Both] {
            let there = cells.iter().any(|cell| (cell.workload, cell.side) == (workload, side));
            // A small gRPC call covers a GET.
            assert!(there || workload == Workload::Unary, "{workload} {side}");
        }
    }
    assert!(
        [Workload::Unary, Workload::GrpcUnary]
            .iter()
            .all(|workload| { cells.iter().any(|cell| cell.workload == *workload && cell.rate.is_some()) })
    );
}

#[test]
fn plans_fit_their_times() {
    assert!(estimate(plan::quick(), 1, 0.5) < Duration::from_secs(45));
    assert!(estimate(plan::full(), 3, 1.0) < Duration::from_secs(85 * 60));
}

#[test]
fn filters_pick_by_words() {
    let cell = Cell::new(Workload::Download, Windows::DEFAULT, 8, 20, Side::Endpoint);
    assert_eq!(cell.to_string(), "download w64K c1M x8 20ms endpoint steady");
    for (words, expected) in
        [("download x8", true), ("", true), ("x8 80ms", false), ("down", false), ("c1M w64K", true)]
    {
        assert_eq!(cell.matches(words), expected, "{words:?}");
    }
    let rate = Cell { rate: Some(100), connections: 2, mbits: 50, ..cell };
    assert!(rate.matches("100/s on2 50mbit"));
}

#[test]
fn without_a_round_trip_there_is_no_link() {
    let cell = Cell::new(Workload::Unary, Windows::Adaptive, 1, 0, Side::Both);
    assert_eq!(cell.side, Side::Direct);
}

#[test]
fn settings_are_what_the_proxy_knows() {
    for windows in plan::windows() {
        let cell = Cell::new(Workload::Unary, windows, 1, 0, Side::Direct);
        let mut env: std::collections::HashMap<_, _> =
            cell.settings().into_iter().map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), value)).collect();
        env.insert("LINKERD2_PROXY_OUTBOUND_ENDPOINTS".to_owned(), "127.0.0.1:1".to_owned());
        let env: std::collections::HashMap<_, _> =
            env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        app_env::load(&env).unwrap();
    }
}

#[test]
fn results_go_on_where_they_stopped() {
    let dir = std::env::temp_dir().join(format!("benches-results-{}", std::process::id()));
    let path = dir.join("out.jsonl");
    let cells = plan::quick();
    let planned = || cells.iter().map(|cell| (cell.to_string(), 0));
    let sample = |n: usize, sample| Record::Sample { cell: cells[n].clone(), round: 0, sample };

    let machine = Machine { commit: "a".to_owned(), ..Machine::here(Path::new("app"), 1.0, 1) };
    let mut results = Results::open(&path, &machine, planned()).unwrap();
    results.add(&sample(0, Ok(Sample::default()))).unwrap();
    results.add(&sample(1, Err("no".to_owned()))).unwrap();
    drop(results);
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"sample\":{\"cell\":").unwrap();

    let mut results = Results::open(&path, &machine, planned()).unwrap();
    assert!(results.has(&cells[0].to_string(), 0));
    assert!(
        !results.has(&cells[0].to_string(), 1)
            && !results.has(&cells[1].to_string(), 0)
            && !results.has(&cells[2].to_string(), 0)
    );
    for n in 1..cells.len() {
        results.add(&sample(n, Ok(Sample::default()))).unwrap();
    }
    assert_eq!(Results::read(&path).unwrap().len(), cells.len() + 3);

    // All is there: the next run is a new one.
    let results = Results::open(&path, &machine, planned()).unwrap();
    assert!(!results.has(&cells[0].to_string(), 0));
    assert!(dir.join("out.jsonl.old").exists());

    // Nor is a run of another commit gone on with.
    let mut results = Results::open(&path, &machine, planned()).unwrap();
    results.add(&sample(0, Ok(Sample::default()))).unwrap();
    assert!(Results::open(&path, &machine, planned()).unwrap().has(&cells[0].to_string(), 0));
    let other = Machine { commit: "b".to_owned(), ..machine };
    assert!(!Results::open(&path, &other, planned()).unwrap().has(&cells[0].to_string(), 0));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn windows_are_read_as_they_are_named() {
    for (text, expected) in [
        ("default", Some(Windows::DEFAULT)),
        ("adaptive", Some(Windows::Adaptive)),
        ("fixed", Some(Windows::Fixed { stream: 16 << 20, connection: 24 << 20 })),
        ("256K/4M", Some(Windows::Fixed { stream: 256 << 10, connection: 4 << 20 })),
        ("65535/1048576", Some(Windows::DEFAULT)),
        ("", None),
        ("4M", None),
        ("0/1M", None),
        ("2048M/1M", None),
        ("9999999M/1M", None),
    ] {
        assert_eq!(text.parse::<Windows>().ok(), expected, "{text:?}");
    }
}
