//! What a run measured, by cell.

use crate::matrix::{Cell, Machine, Record, Sample};
use std::collections::HashMap;

/// All that a run measured.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// Where and how; the last, if the run was resumed.
    pub machine: Machine,
    cells: Vec<Measured>,
    by_name: HashMap<String, usize>,
}

/// One cell's samples, of all rounds.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The cell.
    pub cell: Cell,
    /// At least one.
    pub samples: Vec<Sample>,
}

/// A median, and between what it lies.
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
    /// Sorts records by cell.
    pub fn new(records: impl IntoIterator<Item = Record>) -> Self {
        let mut data = Self::default();
        for record in records {
            match record {
                Record::Machine(machine) => data.resume(machine),
                Record::Sample { cell, sample: Ok(sample), .. } => data.add(cell, sample),
                Record::Sample { sample: Err(_), .. } => {}
            }
        }
        data
    }

    /// The run goes on, maybe with another commit: then both are told.
    fn resume(&mut self, mut machine: Machine) {
        let before = std::mem::take(&mut self.machine.commit);
        if before.split(", ").any(|commit| commit == machine.commit) {
            machine.commit = before;
        } else if !before.is_empty() {
            machine.commit = format!("{before}, {}", machine.commit);
        }
        self.machine = machine;
    }

    fn add(&mut self, cell: Cell, sample: Sample) {
        let at = *self.by_name.entry(cell.to_string()).or_insert(self.cells.len());
        match self.cells.get_mut(at) {
            Some(measured) => measured.samples.push(sample),
            None => self.cells.push(Measured { cell, samples: vec![sample] }),
        }
    }

    /// All cells, as they were first measured.
    pub fn cells(&self) -> &[Measured] {
        &self.cells
    }

    /// What was measured of a cell.
    pub fn get(&self, cell: &Cell) -> Option<&Measured> {
        self.by_name.get(&cell.to_string()).map(|at| &self.cells[*at])
    }

    /// One figure of a cell.
    pub fn spread(&self, cell: &Cell, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        self.get(cell)?.spread(figure)
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
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Self { min: *values.first()?, median, max: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_commits_of_a_run_are_told() {
        let machine = |commit: &str| Record::Machine(Machine { commit: commit.to_owned(), ..Machine::default() });
        assert_eq!(Data::new([machine("a"), machine("a")]).machine.commit, "a");
        assert_eq!(Data::new([machine("a"), machine("b"), machine("b")]).machine.commit, "a, b");
    }

    #[test]
    fn median_is_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[2.0]), Some(Spread { min: 2.0, median: 2.0, max: 2.0 }));
        assert_eq!(spread(&[9.0, 1.0, 3.0]), Some(Spread { min: 1.0, median: 3.0, max: 9.0 }));
    }
}
