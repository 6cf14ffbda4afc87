//! Tests of the whole system: real processes on ports that the operating system chose, driven
//! over real sockets. All tests are one program, so that only one has to be linked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod admin;
mod audit_command;
mod balancing;
mod chaos;
mod cluster;
mod command_line;
mod concurrency;
mod console;
mod crash;
mod datetime;
mod family;
mod first_build;
mod front_door;
mod helm_test;
mod jaeger;
mod load;
mod lonja_peer;
mod peer;
mod peer_copies;
mod peer_names;
mod peer_serves;
mod peer_shell;
mod peer_terminal;
mod presence;
mod process;
mod protocol;
mod report_table;
mod rows;
mod services;
mod soak;
mod tls;
mod traces;
mod transfer;
mod walls;
mod wire;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long a test waits for a condition before it fails, unless the time is what it measures.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives a value, for `PATIENCE` at most.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A path below the root of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
