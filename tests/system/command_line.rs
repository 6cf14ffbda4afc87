//! A person who makes a mistake gets one clear line and the right exit code.

use std::{fs, net::TcpListener, path::Path};

use tempfile::TempDir;

use crate::{
    process::{Index, Process, lonja},
    wire,
};

/// Runs a `lonja up` that must fail, and gives the lines of its standard error.
fn fails(arguments: &[&str], data: &Path) -> Vec<String> {
    let mut process = Process::spawn(
        lonja()
            .args(["up", "--gateway-listen", "127.0.0.1:0", "--datetime-listen", "127.0.0.1:0"])
            .args(["--console-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(arguments),
    );
    assert_eq!(process.end().code(), Some(1));
    crate::eventually("a line", || (!process.stderr().is_empty()).then_some(()));
    assert_eq!(process.stdout(), [""; 0]);
    process.stderr()
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = TempDir::new().unwrap();
    let mut process =
        Process::spawn(lonja().args(["up", "--gateway-listen", &address, "--data-dir"]).arg(data.path()));
    assert_eq!(process.end().code(), Some(1));
    let expected = format!(
        "lonja: cannot listen on {address}: the port is in use: stop what listens there or choose another port"
    );
    crate::eventually("the line", || (process.stderr() == [expected.clone()]).then_some(()));
}

#[test]
fn a_second_up_on_the_same_directory_is_refused() {
    let index = Index::start();
    let lines = fails(&[], index.data());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("in use by another lonja"), "{lines:?}");
    assert_eq!(wire::register(index.peers, "alice"), 0, "the first goes on");
}

#[test]
fn a_directory_that_cannot_be_used_is_said_in_one_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = fails(&[], &file.path().join("data"));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("cannot be used"), "{lines:?}");
}

#[test]
fn a_damaged_file_is_said_in_one_line_and_left_as_it_is() {
    let mut index = Index::start();
    for number in 0..200 {
        assert_eq!(wire::register(index.peers, &format!("user{number}")), 0);
    }
    index.process.signal("TERM");
    assert!(index.process.end().success());
    let path = index.data().join("lonja.redb");
    let sound = fs::read(&path).unwrap();
    let garbage = vec![0x5a; sound.len()];
    let cut = sound[..sound.len() / 2].to_vec();
    let mut holes = sound.clone();
    for page in holes.chunks_mut(4096).skip(1) {
        page[100..200].fill(0xff);
    }
    for damaged in [garbage, cut, holes, b"short".to_vec()] {
        fs::write(&path, &damaged).unwrap();
        let lines = fails(&[], index.data());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("is damaged"), "{lines:?}");
    }
    fs::write(&path, &sound).unwrap();
    let index = index.restart();
    assert_eq!(wire::register(index.peers, "user0"), 1);
}

#[test]
fn bad_usage_exits_with_2() {
    for arguments in [
        vec!["up", "--gateway-listen", "nowhere"],
        vec!["up", "--advertise", "nonsense"],
        vec!["up", "--request-timeout", "0"],
        // Bug: the first was taken for 1, and the second refused everybody.
        vec!["up", "--max-connections", "0"],
        vec!["up", "--max-connections-per-address", "0"],
        vec!["gateway"],
        vec!["nonsense"],
        vec![],
    ] {
        let output = lonja().args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    assert!(lonja().arg("--version").output().unwrap().status.success());
}

#[test]
fn it_says_where_peers_connect_in_three_lines() {
    let index = Index::start();
    assert_eq!(index.process.stdout().len(), 3, "{:?}", index.process.stdout());
    assert_eq!(index.process.stderr(), Vec::<String>::new());
}

#[test]
fn the_operation_log_can_be_turned_off() {
    let index = Index::start_with(&["--no-operation-log"]);
    assert_eq!(wire::register(index.peers, "alice"), 0);
    index.process.signal("TERM");
    let mut index = index;
    assert!(index.process.end().success());
    assert_eq!(index.process.stdout().len(), 3);
}

#[test]
fn health_and_metrics_are_served() {
    use crate::process::http_get;
    let index = Index::start();
    assert_eq!(http_get(index.console, "/livez"), (200, "ok\n".to_owned()));
    crate::eventually("readiness", || (http_get(index.console, "/readyz").0 == 200).then_some(()));
    assert_eq!(wire::register(index.peers, "alice"), 0);
    let counted = "lonja_gateway_requests_total{operation=\"REGISTER\",dialect=\"char\",status=\"0\"}";
    crate::eventually("the count", || (index.metric(counted) == 1.0).then_some(()));
    assert_eq!(index.metric("lonja_gateway_audit_queue_records"), 0.0, "nothing waits");
}
