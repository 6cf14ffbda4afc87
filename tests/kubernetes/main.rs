//! The chart on a real cluster, from its first install to its second, used by peers all the while.
//!
//! `make test-kubernetes` runs this against the cluster of the current kubeconfig, by the commands
//! `helm` and `kubectl` alone, in a namespace of its own. tests/kubernetes/README.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod faults;
mod install;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/jaeger.rs"]
mod jaeger;
mod kubectl;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/load.rs"]
mod load;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/peer.rs"]
mod peer;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/process.rs"]
mod process;
#[path = "../system/rows.rs"]
mod rows;
mod shapes;
mod use_cases;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/wire.rs"]
mod wire;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{install::Release, kubectl::Namespace};

/// How long the test waits for a condition before it fails, such as for a pod to be ready.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The number of operations that the load must have sent by the end.
const OPERATIONS: usize = 20_000;

/// Waits until `condition` gives a value, for `PATIENCE` at most.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A path below the root of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// All checks are one test, because they follow one release from its install to its end.
#[test]
fn the_chart_from_its_first_install_to_its_second() {
    let namespace = Namespace::create("lonja-test");
    shapes::are_accepted(&namespace);

    let mut release = Release::new(&namespace);
    release.install();
    release.test();
    use_cases::peers_through_each_way_in(&release);
    use_cases::the_console(&release);
    use_cases::one_trace_for_each_request(&release);

    let load = faults::start_load(&release);
    faults::each_pod_is_deleted(&release, &load);
    faults::every_service_gets_another_value(&mut release, &load);
    faults::another_version_of_the_chart(&mut release, &load);
    faults::another_configuration_of_redis(&mut release, &load);
    faults::back_to_the_first_revision(&mut release, &load);
    let done = faults::stop_after(load, OPERATIONS);
    use_cases::nothing_is_lost(&release, &done);

    release.uninstall();
    release.install();
    use_cases::nothing_is_lost(&release, &done);
    println!("{} operations, 0 failed, 0 lost", done.sent());
}
