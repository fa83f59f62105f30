//! Running the matrix.

use super::{Cell, Machine, Record, Results, measure};
use crate::load::Endpoint;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

/// How to run the matrix.
#[derive(Clone, Debug)]
pub struct Options {
    /// The proxy's binary.
    pub app: PathBuf,
    /// The cells to measure.
    pub cells: Vec<Cell>,
    /// How often, one round after the other.
    pub rounds: usize,
    /// How long to measure in each cell.
    pub time: Duration,
    /// Where results go; if a part of them is there, the rest is measured.
    pub out: PathBuf,
}

/// The time of a cell beside warm-up and measured time: relays, a proxy's start and end.
const SET_UP: Duration = Duration::from_millis(120);
/// A cell that takes so much longer has failed.
const GRACE: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

impl Options {
    /// How long the whole run should take.
    pub fn estimate(&self) -> Duration {
        self.cells.iter().map(|cell| self.estimate_of(cell)).sum::<Duration>() * self.rounds as u32
    }

    fn estimate_of(&self, cell: &Cell) -> Duration {
        SET_UP + cell.warm_up() + cell.time(self.time)
    }
}

/// Measures the cells that are missing, in rounds over all cells, each in another order. Returns how many measurements
/// failed.
///
/// # Errors
///
/// When results cannot be read or written, or the run is interrupted.
pub async fn run(options: &Options) -> io::Result<usize> {
    let planned = (0..options.rounds).flat_map(|round| options.cells.iter().map(move |cell| (cell.to_string(), round)));
    let machine = Machine::here(&options.app, options.time.as_secs_f64(), options.rounds);
    let mut results = Results::open(&options.out, &machine, planned)?;
    let endpoint = Endpoint::spawn().await?;

    let mut left: Vec<(usize, &Cell)> = Vec::new();
    for round in 0..options.rounds {
        let mut cells: Vec<_> = options.cells.iter().filter(|cell| !results.has(&cell.to_string(), round)).collect();
        // Another order each time, the same in each run: the cell before a cell is left to chance.
        fastrand::Rng::with_seed(round as u64).shuffle(&mut cells);
        left.extend(cells.into_iter().map(|cell| (round, cell)));
    }
    let mut estimate: Duration = left.iter().map(|(_, cell)| options.estimate_of(cell)).sum();
    let progress = progress(left.len());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut failed = 0;
    let mut pace = Pace::default();
    let mut spoken = Instant::now();
    for (round, cell) in left {
        let message = format!("round {}: {cell}; {} left", round + 1, minutes(pace.correct(estimate)));
        // Where there is no terminal, a line a minute is enough.
        if progress.is_hidden() && spoken.elapsed() >= MINUTE {
            println!("{} of {}, {message}", progress.position(), progress.length().unwrap_or_default());
            spoken = Instant::now();
        }
        progress.set_message(message);
        let expected = options.estimate_of(cell);
        let start = Instant::now();
        let measured = tokio::select! {
            measured = timeout(expected + GRACE, measure(cell, &options.app, &endpoint, options.time)) => measured,
            _ = interrupt.recv() => return Err(stopped()),
            _ = terminate.recv() => return Err(stopped()),
        };
        let sample = match measured {
            Ok(Ok(sample)) => Ok(sample),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("took too long".to_owned()),
        };
        if let Err(error) = &sample {
            progress.suspend(|| eprintln!("{cell}: {error}"));
            failed += 1;
        }
        results.add(&Record::Sample { cell: cell.clone(), round, sample })?;
        pace.add(expected, start.elapsed());
        estimate = estimate.saturating_sub(expected);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(failed)
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "stopped; the same call goes on from here")
}

/// How much longer cells take than they should.
#[derive(Debug, Default)]
struct Pace {
    expected: Duration,
    taken: Duration,
}

impl Pace {
    fn add(&mut self, expected: Duration, taken: Duration) {
        self.expected += expected;
        self.taken += taken;
    }

    fn correct(&self, estimate: Duration) -> Duration {
        if self.expected.is_zero() { estimate } else { estimate.mul_f64(self.taken.div_duration_f64(self.expected)) }
    }
}

/// `4:05`, as minutes and seconds.
pub(crate) fn minutes(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

fn progress(cells: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}\n{msg}");
    ProgressBar::new(cells as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
