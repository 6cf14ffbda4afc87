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

/// The same error, which does not repeat the value of `--store`: a mistyped URL may have a password in it.
fn without_password(mut error: clap::Error) -> clap::Error {
    let of_store = |argument: &ContextValue| argument.to_string().starts_with("--store ");
    if error.get(ContextKind::InvalidArg).is_some_and(of_store) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("...".to_owned()));
    }
    error
}
