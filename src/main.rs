//! The program `lonja`, which runs any service of the index, or all services in one process.

use std::process::ExitCode;

use clap::{
    Parser as _,
    error::{ContextKind, ContextValue},
};

/// mimalloc, because many small messages are made on one thread and dropped on another
/// (docs/adr/0004).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lonja::run(lonja::Cli::try_parse().unwrap_or_else(|error| without_password(error).exit()))
}

/// The same error without what may be a password: the value of `--store`, or a URL where none is expected.
fn without_password(mut error: clap::Error) -> clap::Error {
    let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let hidden = || ContextValue::String("...".to_owned());
    if argument.starts_with("--store ") {
        error.insert(ContextKind::InvalidValue, hidden());
    } else if argument.contains("://") && argument.contains('@') {
        error.insert(ContextKind::InvalidArg, hidden());
    }
    error
}
