//! `lonja export` and `lonja import`: out of one store and into another, and nothing else on the way.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use lonja_testing::RedisServer;
use lonja_wire::{self as protocol, Encoding};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cluster::on_each_store,
    console::console_of,
    eventually,
    process::{Index, Process, lonja},
    repository, wire,
};

fn run(arguments: &[&str]) -> Output {
    lonja().args(arguments).output().unwrap()
}

/// What a command prints. It must succeed.
fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command says on standard error. It must fail, with one line.
fn complaint(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// The lines of an export behind the first, which says when it was made.
fn lines(export: &str) -> Vec<Value> {
    export.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn export_of(directory: &Path) -> String {
    printed(&["export", "--data-dir", directory.to_str().unwrap()])
}

/// An export with as many users, and operations, in the form that is documented.
fn export_with(users: usize, operations: usize) -> String {
    let mut lines = vec![json!({"lonja_export": {"version": 1, "made_at": "2026-01-31T12:00:00Z"}})];
    lines.extend((0..users).map(|number| json!({"user": {"name": format!("user{number}")}})));
    lines.extend((0..operations).map(|number| {
        json!({"operation": {
            "handled_at": "2026-01-31T12:00:00.123456789Z", "operation": "PUBLISH", "username": "user0",
            "subject": format!("file {number}"), "status": number % 5, "peer_address": "10.0.0.7:50085",
            "claimed_datetime": "31/01/2026 12:00:00", "trace_id": "", "dialect": "char",
        }})
    }));
    let counts = json!({"users": users, "sessions": 0, "files": 0, "operations": operations});
    lines.push(json!({"end": counts}));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_an_index_keeps_is_the_same_after_every_store() {
    let index = Index::start_with(&["--own-names", "registered"]);
    let names = ["zoe", "alice", "mia", "=1+1;\"x\"", "ünï\u{202e}"];
    for (port, name) in (7001..).zip(names) {
        assert_eq!(wire::register(index.peers, name), 0);
        assert_eq!(wire::connect_as(index.peers, name, port), 0);
        assert_eq!(wire::publish(index.peers, name, &format!("{name} 1;2")), 0);
        assert_eq!(wire::publish(index.peers, name, "a second"), 0);
    }
    assert_eq!(wire::register(index.peers, "offline"), 0);
    assert_eq!(wire::ask(index.peers, "mia", protocol::Command::Disconnect), 0);
    // The list is remembered, so that it can be compared after the last import.
    let listed = wire::list_users(index.peers, "zoe", Encoding::Padded).unwrap();
    let console = format!("http://{}", index.console);
    let hot = eventually("every operation is recorded", || {
        let export = printed(&["export", "--console", &console]);
        (lines(&export).last().unwrap()["end"]["operations"] == 23).then_some(export)
    });
    let mut index = index;
    index.process.signal("TERM");
    assert!(index.process.end().success());
    let first = export_of(index.data());
    assert_eq!(lines(&first), lines(&hot));
    assert_eq!(lines(&first).iter().filter(|line| line["user"]["owner"] == "127.0.0.1").count(), 6);

    let passwords = ["REGISTRY", "CATALOG", "AUDIT", "OPERATOR"];
    let passwords = passwords.map(|user| (format!("LONJA_REDIS_{user}_PASSWORD"), "secret"));
    let passwords = passwords.each_ref().map(|(name, value)| (name.as_str(), *value));
    let redis = RedisServer::start_by(&repository("deploy/redis-start.sh"), &passwords);
    let url = format!("redis://operator:secret@127.0.0.1:{}", redis.port());
    let (directory, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = directory.path().join("export");
    fs::write(&file, &first).unwrap();
    let said = printed(&["import", file.to_str().unwrap(), "--store", &url]);
    assert!(said.starts_with("imported 6 users, 4 sessions, 8 files and 23 operations into "), "{said}");
    let second = printed(&["export", "--store", &url]);
    assert_eq!(lines(&second), lines(&first));
    fs::write(&file, &second).unwrap();
    printed(&["import", file.to_str().unwrap(), "--data-dir", data.path().to_str().unwrap()]);
    assert_eq!(lines(&export_of(data.path())), lines(&first));

    // Peers go on with the sessions that they had.
    let index = Index::start_in(data, Vec::new(), Vec::new());
    assert_eq!(wire::list_users(index.peers, "alice", Encoding::Padded).unwrap(), listed);
    let files = wire::list_content(index.peers, "alice", "zoe", Encoding::Padded).unwrap();
    let files: Vec<_> = files.iter().map(|file| file.filename.as_str()).collect();
    assert_eq!(files, ["zoe 1;2", "a second"]);
    assert_eq!(wire::publish(index.peers, "zoe", "a third"), 0);
    assert_eq!(wire::connect_as(index.peers, "mia", 7009), 0);
}

/// A user as the only peer of the user knows the user: files in order while connected.
type State = Option<Option<Vec<String>>>;

/// What the peer of one user does, over and over, with every state that it brings about.
fn use_index(peers: SocketAddr, name: &str, is_over: &AtomicBool, states: &Mutex<Vec<State>>) {
    let reach = |state: State| states.lock().unwrap().push(state);
    let ask = |command| assert_eq!(wire::ask(peers, name, command), 0, "{name}");
    while !is_over.load(Ordering::Relaxed) {
        // A state is written down before the request: the request may be carried out from then on.
        reach(Some(None));
        ask(protocol::Command::Register);
        let mut files = Vec::new();
        reach(Some(Some(files.clone())));
        ask(protocol::Command::Connect(std::num::NonZeroU16::new(7001).unwrap().into()));
        for number in 0..5 {
            files.push(format!("file {number}"));
            reach(Some(Some(files.clone())));
            ask(wire::publish_command(files.last().unwrap()));
        }
        reach(None);
        ask(protocol::Command::Unregister);
    }
}

/// What an export says of a user.
fn state_in(export: &[Value], name: &str) -> State {
    let at = export.iter().position(|line| line["user"]["name"] == name)?;
    if export[at]["user"]["session"].is_null() {
        return Some(None);
    }
    let files = export[at + 1..].iter().map_while(|line| line.get("file"));
    Some(Some(files.map(|file| file["name"].as_str().unwrap().to_owned()).collect()))
}

#[test]
fn each_user_of_an_index_in_use_is_exported_as_at_one_moment() {
    let index = Index::start();
    let console = format!("http://{}", index.console);
    let names: Vec<_> = (0..8).map(|number| format!("user{number}")).collect();
    let histories: Vec<_> = names.iter().map(|_| Mutex::new(vec![None])).collect();
    let is_over = AtomicBool::new(false);
    let reached = || -> Vec<_> { histories.iter().map(|states| states.lock().unwrap().len()).collect() };
    thread::scope(|scope| {
        for (name, states) in names.iter().zip(&histories) {
            scope.spawn(|| use_index(index.peers, name, &is_over, states));
        }
        eventually("all peers are busy", || reached().iter().all(|count| *count > 10).then_some(()));
        for _ in 0..20 {
            let before = reached();
            let export = lines(&printed(&["export", "--console", &console]));
            for ((name, states), before) in names.iter().zip(&histories).zip(before) {
                let states = states.lock().unwrap();
                // The request for the last state may not be carried out yet when the export begins.
                let possible = &states[before.saturating_sub(2)..];
                let state = state_in(&export, name);
                assert!(possible.contains(&state), "{name} was {state:?}, and not one of {possible:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn services_are_exported_through_their_console() {
    on_each_store(|cluster| {
        let console = console_of(&cluster);
        for (name, port) in [("alice", 7001), ("bob", 7002)] {
            assert_eq!(wire::register(cluster.peers, name), 0);
            assert_eq!(wire::connect_as(cluster.peers, name, port), 0);
            assert_eq!(wire::publish(cluster.peers, name, "notes"), 0);
        }
        let url = console.url();
        let export = eventually("every operation is recorded", || {
            let export = lines(&printed(&["export", "--console", &url]));
            (export.last().unwrap()["end"]["operations"] == 6).then_some(export)
        });
        let counts = json!({"users": 2, "sessions": 2, "files": 2, "operations": 6});
        assert_eq!(export.last().unwrap()["end"], counts);
        assert_eq!(state_in(&export, "bob"), Some(Some(vec!["notes".to_owned()])));
    });
}

/// Each export of every user takes memory, so there are two at one time and no more.
#[test]
fn a_third_export_at_one_time_is_refused_until_another_ends() {
    let (directory, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = directory.path().join("export");
    // More users than fit the pipes and windows on the way to a reader who does not read.
    fs::write(&file, export_with(100_000, 0)).unwrap();
    printed(&["import", file.to_str().unwrap(), "--data-dir", data.path().to_str().unwrap()]);
    let index = Index::start_in(data, Vec::new(), Vec::new());
    let export = ["export", "--console", &format!("http://{}", index.console)];
    let suspended = || {
        let mut export = lonja().args(export).stdout(Stdio::piped()).spawn().unwrap();
        // What has begun to print has its place.
        export.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        export
    };
    let mut suspended = [suspended(), suspended()];
    assert!(complaint(&export).contains("others read every user just now"));
    suspended[0].kill().unwrap();
    eventually("another export is made", || run(&export).status.success().then_some(()));
    for one in &mut suspended {
        let _ = one.kill();
        one.wait().unwrap();
    }
}

#[test]
fn an_import_that_is_killed_changes_nothing_and_the_next_begins_anew() {
    let (redis, directory) = (RedisServer::start(), TempDir::new().unwrap());
    let (file, data) = (directory.path().join("export"), directory.path().join("data"));
    fs::write(&file, export_with(5000, 40_000)).unwrap();
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let url = redis.url();

    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Half of the export comes through a pipe, which then stays open.
    let import_half = |target: &[&str]| {
        let arguments = [&["import", pipe.to_str().unwrap()], target].concat();
        let import = Process::spawn(lonja().args(arguments));
        let export = fs::read(file).unwrap();
        let mut pipe = fs::File::options().write(true).open(&pipe).unwrap();
        pipe.write_all(&export[..export.len() / 2]).unwrap();
        (import, pipe)
    };
    let begun = directory.path().join("data.import/lonja.wal0");
    let (mut import, _half) = import_half(&["--data-dir", data]);
    eventually("the import writes", || begun.exists().then_some(()));
    let said = complaint(&["import", file, "--data-dir", data]);
    assert!(said.contains("another import into"), "{said}");
    import.kill();
    assert!(!Path::new(data).exists());
    printed(&["import", file, "--data-dir", data]);
    assert_eq!(lines(&export_of(Path::new(data))).last().unwrap()["end"]["operations"], 40_000);
    assert!(!begun.exists());

    let (mut import, _half) = import_half(&["--store", &url]);
    let staged = || redis.command("EXISTS lonja.import:registry:{0}:users").contains('1');
    eventually("the import writes", || staged().then_some(()));
    import.kill();
    assert_eq!(lines(&printed(&["export", "--store", &url])).len(), 1, "nothing but the end");
    printed(&["import", file, "--store", &url]);
    assert!(!staged());
    let end = lines(&printed(&["export", "--store", &url])).pop().unwrap();
    assert_eq!((&end["end"]["users"], &end["end"]["operations"]), (&json!(5000), &json!(40_000)));
}

/// The later of two imports into one Redis is made; the earlier says so, and changes nothing.
#[test]
fn an_import_beside_another_one_changes_nothing() {
    let (redis, directory) = (RedisServer::start(), TempDir::new().unwrap());
    let file = directory.path().join("export");
    fs::write(&file, export_with(5000, 5000)).unwrap();
    let url = redis.url();
    let mut earlier = lonja();
    earlier.args(["import", "-", "--store", &url]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut earlier = earlier.spawn().unwrap();
    let mut pipe = earlier.stdin.take().unwrap();
    let export = fs::read(&file).unwrap();
    let (half, rest) = export.split_at(export.len() / 2);
    pipe.write_all(half).unwrap();
    let staged = || redis.command("EXISTS lonja.import:registry:{0}:users").contains('1');
    eventually("the earlier import writes", || staged().then_some(()));
    printed(&["import", file.to_str().unwrap(), "--store", &url]);
    pipe.write_all(rest).unwrap();
    drop(pipe);
    let earlier = earlier.wait_with_output().unwrap();
    let said = String::from_utf8(earlier.stderr).unwrap();
    assert!(!earlier.status.success() && said.contains("another import was made at the same time"), "{said}");
    let end = lines(&printed(&["export", "--store", &url])).pop().unwrap();
    assert_eq!((&end["end"]["users"], &end["end"]["operations"]), (&json!(5000), &json!(5000)));
}

/// Bug: as the first process of a container, which a signal without a handler does not end, an import that waits
/// for a pipe could only be killed.
#[test]
fn an_import_that_waits_for_a_pipe_ends_by_a_handler() {
    let data = TempDir::new().unwrap();
    let data = data.path().join("data");
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let mut import = lonja();
        import.args(["import", "-", "--data-dir"]).arg(&data).stdin(Stdio::piped());
        let mut import = import.spawn().unwrap();
        let caught = format!("/proc/{}/status", import.id());
        let is_caught = || {
            let status = fs::read_to_string(&caught).unwrap();
            let signals = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let signals = u64::from_str_radix(signals.unwrap().trim(), 16).unwrap();
            (signals & (1 << 14) != 0).then_some(())
        };
        eventually("the import has handlers", is_caught);
        assert!(
            Command::new("kill").args(["-s", name, &import.id().to_string()]).status().unwrap().success()
        );
        let ended = eventually("the import ends", || import.try_wait().unwrap());
        assert_eq!(ended.code(), Some(code), "by a handler, not by the signal");
        assert!(!data.exists());
    }
}

#[test]
fn an_import_that_was_killed_at_its_very_end_is_completed() {
    let (redis, directory) = (RedisServer::start(), TempDir::new().unwrap());
    let file = directory.path().join("export");
    fs::write(&file, export_with(100, 100)).unwrap();
    let (file, url) = (file.to_str().unwrap(), redis.url());
    printed(&["import", file, "--store", &url, "--redis-prefix", "lonja.import"]);
    assert!(redis.command("SET lonja.import:registry:{0}:complete 1").contains("OK"));
    let said = printed(&["import", "no file", "--store", &url]);
    assert!(said.contains("cut short at its very end"), "{said}");
    let end = lines(&printed(&["export", "--store", &url])).pop().unwrap();
    assert_eq!(end["end"], json!({"users": 100, "sessions": 0, "files": 0, "operations": 100}));
    let said = complaint(&["import", file, "--store", &url]);
    assert!(said.contains("holds an index already, or is in use: stop its gateways"), "{said}");
}

#[test]
fn what_cannot_be_imported_is_named_with_its_line() {
    let directory = TempDir::new().unwrap();
    let (file, data) = (directory.path().join("export"), directory.path().join("data"));
    let good = export_with(2, 1);
    let replaced = |before: &str, after: &str| {
        assert!(good.contains(before), "{before}");
        good.replacen(before, after, 1)
    };
    let session = r#"{"user":{"name":"user1","session":{"id":"01J0000000000000000000000Z","address":"10.0.0.7:0","opened_at":"2026-01-31T12:00:00Z"}}}"#;
    let bad = [
        (String::new(), "is no export of lonja"),
        ("alice;10.0.0.7\n".to_owned(), "is no export of lonja"),
        ("alice\n".to_owned(), "of the original server's files, give the directory"),
        (replaced("\"version\":1", "\"version\":2"), "version 2 of the format"),
        (good.lines().take(3).map(|line| format!("{line}\n")).collect(), "was cut short"),
        (good[..good.len() - 20].to_owned(), "line 5: the export was cut short here"),
        (format!("{good}{{}}\n"), "line 6"),
        (replaced("\"users\":2", "\"users\":3"), "line 5: there were 2 users"),
        (replaced("user1", "user0"), "line 3: the user user0: the user is already registered"),
        (replaced("user1", &"x".repeat(256)), "line 3: the name of the user"),
        (replaced("user1", ""), "line 3: the name of the user"),
        (replaced(r#"{"user":{"name":"user1"}}"#, session), "line 3: the address: port 0"),
        (
            replaced(r#"{"user":{"name":"user1"}}"#, r#"{"file":{"name":"a","description":""}}"#),
            "line 3: a file",
        ),
        (replaced("\"PUBLISH\"", "\"STEAL\""), "line 4: unknown operation"),
        (replaced("\"trace_id\"", "\"trace\""), "line 4, column 209: unknown field"),
        (replaced("\"status\":0", "\"status\":5"), "line 4: no operation has the status 5"),
        (
            format!("{}\n{}", &good.lines().next().unwrap(), "x".repeat(1 << 17)),
            "line 2: the line is too long",
        ),
    ];
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    for (export, complains) in bad {
        fs::write(file, export).unwrap();
        let said = complaint(&["import", file, "--data-dir", data]);
        assert!(said.contains(complains), "{complains}: {said}");
        assert!(fs::read_dir(directory.path()).unwrap().count() == 1, "nothing is left behind: {said}");
    }
    fs::write(file, good).unwrap();
    let said = complaint(&["import", file, "--data-dir", directory.path().to_str().unwrap()]);
    assert!(said.contains("is not empty: choose another --data-dir"), "{said}");
    assert!(complaint(&["import", file]).contains("Give --data-dir DIR or --store URL"));
    let away = "redis://user:secret@127.0.0.1:1";
    for arguments in [&["import", file, "--store", away][..], &["export", "--store", away]] {
        let said = complaint(arguments);
        assert!(said.contains("cannot use redis://127.0.0.1:1: start it, or check the address"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let misplaced = String::from_utf8(run(&["export", away]).stderr).unwrap();
    assert!(misplaced.contains("unexpected argument") && !misplaced.contains("secret"), "{misplaced}");
    let mistyped = run(&["import", file, "--store", "rediss://user:secret@127.0.0.1:1"]);
    let said = String::from_utf8(mistyped.stderr).unwrap();
    assert!(said.contains("unknown kind of store; give embedded:DIR") && !said.contains("secret"), "{said}");
    assert!(complaint(&["export", "--data-dir", data]).contains("has no lonja.redb"));
}

#[test]
fn the_files_of_the_original_server_are_imported() {
    let directory = TempDir::new().unwrap();
    let original = directory.path().join("original");
    fs::create_dir_all(original.join("files")).unwrap();
    let write = |name: &str, text: &str| fs::write(original.join(name), text).unwrap();
    write("users.csv", "alice\nbob\ncarol\n");
    write("connected.csv", "alice;10.0.0.7;50085\ncarol;127.0.0.1;7001\n");
    write("files/alice.csv", "notes.txt;what I noted; and more\nsecond;\"quoted\"\n");
    write("files/bob.csv", "left behind;by a session that is over\n");
    let data = TempDir::new().unwrap();
    let import = |data: &str| {
        let output = run(&["import", original.to_str().unwrap(), "--data-dir", data]);
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let said = import(data.path().to_str().unwrap());
    assert!(said.starts_with("imported 3 users, 2 sessions, 2 files and 0 operations"), "{said}");

    let index = Index::start_in(data, Vec::new(), Vec::new());
    let users = wire::list_users(index.peers, "carol", Encoding::Padded).unwrap();
    let users: Vec<_> = users.iter().map(|user| (user.username.as_str(), user.port.get())).collect();
    assert_eq!(users, [("alice", 50_085), ("carol", 7001)]);
    let files = wire::list_content(index.peers, "carol", "alice", Encoding::Padded).unwrap();
    let files: Vec<_> =
        files.iter().map(|file| (file.filename.as_str(), file.description.as_str())).collect();
    assert_eq!(files, [("notes.txt", "what I noted; and more"), ("second", "\"quoted\"")]);
    assert_eq!(wire::connect_as(index.peers, "bob", 7002), 0);

    let data = directory.path().join("data");
    for (connected, complains) in [
        ("dave;10.0.0.7;50085\n", "connected.csv has \"dave\", who is not in users.csv"),
        ("alice;10.0.0.7\n", "connected.csv, line 1: not USER;ADDRESS;PORT"),
        ("alice;a.host;50085\n", "connected.csv, line 1: \"a.host:50085\" is not an IPv4 address and a port"),
        ("alice;10.0.0.7;50085\nalice;10.0.0.8;50085\n", "line 2: \"alice\" is connected twice"),
    ] {
        write("connected.csv", connected);
        let said = import(data.to_str().unwrap());
        assert!(said.contains(complains), "{said}");
    }
    // Bug: a line with further fields was taken for a user, without a word about the fields.
    write("connected.csv", "");
    write("users.csv", "alice\nbob;x\n");
    let said = import(data.to_str().unwrap());
    assert!(said.contains("users.csv, line 2: not USER"), "{said}");
    assert!(!data.exists());
}
