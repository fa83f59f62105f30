//! The `app` binary; the library does the work.

use std::process::ExitCode;

// On small requests mimalloc takes some 8 % less CPU a request than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    app::cli::main(collect)
}

/// Returns the memory that this thread has freed to the system. By itself mimalloc keeps much of it until the thread
/// allocates again.
#[allow(unsafe_code)]
fn collect() {
    unsafe extern "C" {
        /// As mimalloc.h declares it; the crate does so in a feature that has dependencies of its own.
        safe fn mi_collect(force: bool);
    }
    mi_collect(true);
}
