//! The matrix: cells of windows, streams, links and workloads, and how they are measured.

mod cell;
mod measure;
pub mod plan;
mod results;
mod run;

pub use self::{
    cell::{Cell, Side, Windows, settings, size_name},
    measure::{Latency, Sample, measure},
    results::{Machine, Record, Results},
    run::{Options, run},
};

#[cfg(test)]
mod tests;
