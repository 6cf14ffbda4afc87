//! `lonja audit`, which lists, exports and follows the records of the audit.

use std::process::Output;

use serde_json::Value;

use crate::{
    eventually,
    process::{Index, Process, lonja},
    wire,
};

fn audit(index: &Index, arguments: &[&str]) -> Output {
    let url = format!("http://{}", index.console);
    lonja().arg("audit").args(arguments).args(["--console", &url]).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn it_lists_and_exports_what_happened_and_only_what_is_asked() {
    let index = Index::start();
    let formula = "=HYPERLINK(\"http://evil\")";
    assert_eq!(wire::register(index.peers, "alice"), 0);
    assert_eq!(wire::register(index.peers, formula), 0);
    assert_eq!(wire::connect_as(index.peers, "alice", 7001), 0);
    assert_eq!(wire::publish(index.peers, "alice", "a\u{202e}b"), 0);

    let all = eventually("four records", || {
        let all = lines(&audit(&index, &["list"]));
        (all.len() >= 4).then_some(all)
    });
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all[0].ends_with(" 0 REGISTER     alice"), "{all:?}");
    assert!(!all[3].contains('\u{202e}') && all[3].contains("PUBLISH      alice a"), "{all:?}");
    assert_eq!(lines(&audit(&index, &["list", "--user", "alice"])).len(), 3);
    assert_eq!(lines(&audit(&index, &["list", "--operation", "publish"])).len(), 1);
    assert_eq!(lines(&audit(&index, &["list", "--operation", "REGISTER"])).len(), 2);
    assert_eq!(lines(&audit(&index, &["list", "--since", "1h"])).len(), 4);
    assert_eq!(lines(&audit(&index, &["list", "--until", "1h"])).len(), 0);

    let json = lines(&audit(&index, &["list", "--json", "--operation", "publish"]));
    let record: Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(record["subject"], "a\u{202e}b");
    assert_eq!((&record["status"], &record["claimed_datetime"]), (&Value::from(0), &wire::DATETIME.into()));

    let csv = lines(&audit(&index, &["export"]));
    assert!(csv[0].starts_with("handled_at,operation,username,subject,status,"), "{csv:?}");
    assert!(csv[2].contains(",REGISTER,\"'=HYPERLINK(\"\"http://evil\"\")\",,0,"), "{csv:?}");
    assert_eq!(csv.len(), 5);
    assert_eq!(audit(&index, &["list", "--since", "yesterday"]).status.code(), Some(2));

    assert_eq!(lines(&audit(&index, &["list", "--failures"])).len(), 0);
    assert_eq!(wire::register(index.peers, "alice"), 1);
    let failures = eventually("the failure is recorded", || {
        let failures = lines(&audit(&index, &["list", "--failures"]));
        (!failures.is_empty()).then_some(failures)
    });
    assert!(failures.len() == 1 && failures[0].ends_with(" 1 REGISTER     alice"), "{failures:?}");
}

#[test]
fn a_tail_goes_on_when_the_index_comes_back() {
    let address = {
        // The console needs a fixed port, so that the tail finds it again after the restart.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().to_string()
    };
    let index = Index::start_with(&["--console-listen", &address]);
    assert_eq!(wire::register(index.peers, "alice"), 0);
    let url = format!("http://{address}");
    let tail = Process::spawn(lonja().args(["audit", "tail", "--console", &url]));
    let sees = |user: &str| {
        eventually(user, || tail.stdout().iter().any(|line| line.ends_with(user)).then_some(()));
    };
    sees("alice");
    assert_eq!(wire::register(index.peers, "bob"), 0);
    sees("bob");
    let index = index.restart();
    assert_eq!(wire::register(index.peers, "carol"), 0);
    sees("carol");
    let registered: Vec<_> =
        tail.stdout().iter().map(|line| line.split(' ').next_back().unwrap().to_owned()).collect();
    assert_eq!(registered, ["alice", "bob", "carol"], "each once");
    assert!(tail.stderr().iter().all(|line| line.contains("trying again")), "{:?}", tail.stderr());
}

#[test]
fn without_a_console_it_says_what_to_do() {
    let output = lonja().args(["audit", "tail", "--console", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().count() == 1 && said.contains("lonja up"), "{said}");
}
