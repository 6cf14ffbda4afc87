//! `lonja`: every service of the index, and all of them in one process.

use std::process::ExitCode;

use clap::Parser as _;

/// Many small messages are made and dropped on other threads: docs/adr/0004.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lonja::run(lonja::Cli::parse())
}
