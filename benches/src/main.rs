//! The `benches` binary: the matrix, its report and the tools around it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
