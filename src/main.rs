//! The program `lonja`, which runs any service of the index, or all services in one process.

use std::process::ExitCode;

use clap::Parser as _;

/// mimalloc, because many small messages are made on one thread and dropped on another
/// (docs/adr/0004).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lonja::run(lonja::Cli::parse())
}
