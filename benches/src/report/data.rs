//! The measurements of a run, by cell.

use crate::{
    fresh,
    matrix::{Cell, Machine, Record, Sample},
    starvation,
};
use std::collections::{HashMap, HashSet};

/// All that was measured.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// Where and how cells were measured, last.
    pub machine: Machine,
    /// The commands of the runs that measured cells, first to last.
    pub commands: Vec<String>,
    /// Transfers on fresh connections.
    pub transfers: fresh::Table,
    /// Where and how they were measured, run by run.
    pub transfer_runs: Vec<Machine>,
    /// Stopped readers beside traffic.
    pub scenes: starvation::Table,
    /// Where and how they were measured, run by run.
    pub scene_runs: Vec<Machine>,
    cells: Vec<Measured>,
    by_name: HashMap<String, usize>,
}

/// One cell's samples, of all rounds.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The cell.
    pub cell: Cell,
    /// The commit that was measured.
    pub commit: String,
    /// At least one.
    pub samples: Vec<Sample>,
}

/// A median with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// In the middle; of an even number, the lower one.
    pub median: f64,
    /// The most.
    pub max: f64,
}

// === impl Data ===

impl Data {
    /// Sorts the records of one run by cell.
    pub fn new(records: impl IntoIterator<Item = Record>) -> Self {
        let mut data = Self::default();
        data.add_run(records);
        data
    }

    /// Adds another run, which replaces earlier measurements of its cells, transfers and scenes.
    pub fn add_run(&mut self, records: impl IntoIterator<Item = Record>) {
        let mut new = HashSet::new();
        let mut run = Machine::default();
        let (mut transfers, mut scenes) = (Vec::new(), Vec::new());
        for record in records {
            match record {
                Record::Machine(machine) => run = machine,
                Record::Sample { cell, sample: Ok(sample), .. } => {
                    if !self.commands.contains(&run.command) {
                        self.commands.push(run.command.clone());
                    }
                    self.machine.clone_from(&run);
                    self.add(cell, sample, &mut new);
                }
                Record::Sample { sample: Err(_), .. } => {}
                Record::Transfer { .. } => {
                    add_machine(&mut self.transfer_runs, &run);
                    transfers.push(record);
                }
                Record::Starvation { .. } => {
                    add_machine(&mut self.scene_runs, &run);
                    scenes.push(record);
                }
            }
        }
        self.transfers.add_run(transfers);
        self.scenes.add_run(scenes);
    }

    /// `new`: the cells that this run has added already.
    fn add(&mut self, cell: Cell, sample: Sample, new: &mut HashSet<String>) {
        let name = cell.to_string();
        let at = *self.by_name.entry(name.clone()).or_insert(self.cells.len());
        if at == self.cells.len() {
            self.cells.push(Measured { cell, commit: String::new(), samples: Vec::new() });
        }
        let measured = &mut self.cells[at];
        if new.insert(name) {
            measured.samples.clear();
            measured.commit.clone_from(&self.machine.commit);
        }
        measured.samples.push(sample);
    }

    /// The commits that were measured, with how many cells if there are several.
    pub fn commits(&self) -> Vec<String> {
        let mut commits = Vec::<(&str, usize)>::new();
        for Measured { commit, .. } in &self.cells {
            match commits.iter_mut().find(|(other, _)| other == commit) {
                Some((_, cells)) => *cells += 1,
                None => commits.push((commit, 1)),
            }
        }
        match commits[..] {
            [(commit, _)] => vec![commit.to_owned()],
            _ => commits.iter().map(|(commit, cells)| format!("{commit} ({cells} cells)")).collect(),
        }
    }

    /// All cells, as they were first measured.
    pub fn cells(&self) -> &[Measured] {
        &self.cells
    }

    /// The measurements of a cell.
    pub fn get(&self, cell: &Cell) -> Option<&Measured> {
        self.by_name.get(&cell.to_string()).map(|at| &self.cells[*at])
    }

    /// One figure of a cell.
    pub fn spread(&self, cell: &Cell, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        self.get(cell)?.spread(figure)
    }
}

/// Adds a run, unless it is there: one that was stopped and resumed has two lines.
fn add_machine(runs: &mut Vec<Machine>, run: &Machine) {
    if !runs.contains(run) {
        runs.push(run.clone());
    }
}

// === impl Measured ===

impl Measured {
    /// One figure over all rounds. `None`: it is in none.
    pub fn spread(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(figure).collect())
    }

    /// The median of a figure; 0 if it is nowhere.
    pub fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        self.spread(|sample| Some(figure(sample))).map_or(0.0, |spread| spread.median)
    }
}

// === impl Spread ===

impl Spread {
    /// The value in the middle; of an even number, the lower one.
    pub(crate) fn median_of(values: impl IntoIterator<Item = f64>) -> Option<f64> {
        Some(Self::of(values.into_iter().collect())?.median)
    }

    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Self { min: *values.first()?, median, max: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        load::Workload,
        matrix::{Side, Windows},
    };

    fn run(commit: &str, command: &str, cells: &[(Workload, f64)]) -> Vec<Record> {
        let machine = Machine { commit: commit.to_owned(), command: command.to_owned(), ..Machine::default() };
        let sample = |(workload, rps): &(Workload, f64)| Record::Sample {
            cell: Cell::new(*workload, Windows::DEFAULT, 1, 0, Side::Direct),
            round: 0,
            sample: Ok(Sample { rps: *rps, ..Sample::default() }),
        };
        [Record::Machine(machine)].into_iter().chain(cells.iter().map(sample)).collect()
    }

    #[test]
    fn later_runs_replace_cells_and_are_told() {
        let mut data = Data::new(run("a", "first", &[(Workload::Unary, 1.0), (Workload::Bidi, 2.0)]));
        assert_eq!(data.commits(), ["a"]);
        data.add_run(run("b", "second", &[(Workload::Bidi, 3.0), (Workload::Bidi, 4.0)]));
        assert_eq!(data.commits(), ["a (1 cells)", "b (1 cells)"]);
        assert_eq!(data.commands, ["first", "second"]);
        let rps: Vec<Vec<_>> =
            data.cells().iter().map(|cell| cell.samples.iter().map(|sample| sample.rps).collect()).collect();
        assert_eq!(rps, [vec![1.0], vec![3.0, 4.0]]);
    }

    #[test]
    fn median_is_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[2.0]), Some(Spread { min: 2.0, median: 2.0, max: 2.0 }));
        assert_eq!(spread(&[9.0, 1.0, 3.0]), Some(Spread { min: 1.0, median: 3.0, max: 9.0 }));
    }
}
