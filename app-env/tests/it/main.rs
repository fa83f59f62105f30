//! The crate's promises, from outside. No test sets a variable of the process.

mod bounds;
mod flow_control;
mod linkerd;
mod pairs;
mod problems;
mod settings;
mod support;
mod tables;
mod tls;
mod warnings;
