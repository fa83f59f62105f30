//! The `benches` binary: the matrix and what surrounds it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
