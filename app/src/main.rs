//! The `app` binary; the library does the work.

use std::process::ExitCode;

// On small requests mimalloc takes some 8 % less CPU a request than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    app::cli::main()
}
