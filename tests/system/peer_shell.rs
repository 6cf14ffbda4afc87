//! The shell and the commands of `lonja peer`, against a real `lonja up`.

use std::{
    fs,
    io::Write as _,
    process::{Output, Stdio},
};

use lonja_wire::{Command, Encoding};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    lonja_peer::{LonjaPeer, peer, say},
    peer::{Peer, Shell as _, is_datetime},
    process::Index,
    rows::{copy_a_file, each_row},
    wire,
};

#[test]
fn each_row_as_a_person_sees_it() {
    let index = Index::start();
    each_row::<LonjaPeer>(index.peers, index.datetime);
}

#[test]
fn lonja_peers_copy_from_each_other_and_with_python_peers() {
    for copy in
        [copy_a_file::<LonjaPeer, LonjaPeer>, copy_a_file::<LonjaPeer, Peer>, copy_a_file::<Peer, LonjaPeer>]
    {
        let index = Index::start();
        copy(index.peers, index.datetime);
    }
}

/// Types lines into the shell, and gives its output and exit status.
fn type_in(index: &Index, directory: &TempDir, lines: &str) -> Output {
    let mut command = peer(index.peers, index.datetime, directory.path());
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_script_gets_the_bytes_of_the_original_and_an_exit_status() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("hello.txt"), "hello").unwrap();
    let script = "REGISTER alice\nCONNECT alice\nPUBLISH hello.txt a greeting, with \"quotes\"\n\
        LIST_CONTENT alice\nLIST_USERS\nGET_FILE alice hello.txt copy.txt\nQUIT\n";
    let output = type_in(&index, &directory, script);
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    let port = lines[11].strip_prefix("alice 127.0.0.1 ").unwrap();
    let expected = format!(
        "@\nREGISTER OK\n@\nCONNECT OK\n@\nPUBLISH OK\n@\nLIST_CONTENT OK\n\
         hello.txt \"a greeting, with \"quotes\"\"\n@\nLIST_USERS OK\nalice 127.0.0.1 {port}\n\
         GET_FILE OK\n+++ FINISHED +++\n"
    );
    let masked: String = lines
        .iter()
        .map(|line| if is_datetime(line) { "@\n".to_owned() } else { format!("{line}\n") })
        .collect();
    assert_eq!(masked, expected);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read(directory.path().join("copy.txt")).unwrap(), b"hello");
    let listed = fs::read_to_string(directory.path().join("listusers-alice.json")).unwrap();
    assert_eq!(
        listed,
        format!(
            "[\n    {{\n        \"Username\": \"alice\",\n        \"IP address\": \"127.0.0.1\",\n        \
             \"Port\": \"{port}\"\n    }}\n]"
        )
    );
    // QUIT has ended the session.
    assert_eq!(wire::ask(index.peers, "alice", Command::ListUsers), 2);

    let output = type_in(&index, &directory, "REGISTER alice\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.ends_with(b"USERNAME IN USE\n+++ FINISHED +++\n"));
}

#[test]
fn a_peer_without_its_index_or_clock_says_so_and_goes_on() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    let mut command = peer("127.0.0.1:1".parse().unwrap(), "127.0.0.1:1".parse().unwrap(), directory.path());
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"REGISTER alice\nLIST_USERS\nQUIT\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert!(is_datetime(lines[0]) && is_datetime(lines[2]), "{printed}");
    assert_eq!((lines[1], lines[3], lines[4]), ("REGISTER FAIL", "LIST_USERS FAIL", "+++ FINISHED +++"));
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(complaints.matches("using this machine's clock").count(), 1, "{complaints}");
    assert_eq!(complaints.matches("no answer from the index at 127.0.0.1:1").count(), 2, "{complaints}");
    drop(index);
}

#[test]
fn a_session_that_was_left_behind_is_replaced_with_what_it_published() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("año 1.txt"), "hello").unwrap();
    let mut alice = LonjaPeer::start(index.peers, index.datetime, directory.path());
    for (command, reply) in [
        ("REGISTER alice", "REGISTER OK"),
        ("CONNECT alice", "CONNECT OK"),
        ("PUBLISH \"año 1.txt\" a greeting", "PUBLISH OK"),
        ("PUBLISH gone.txt not there", "PUBLISH OK"),
    ] {
        assert_eq!(alice.run(command), [reply]);
    }
    let port = || wire::list_users(index.peers, "alice", Encoding::Padded).unwrap()[0].port;
    let first = port();

    // A second peer of the same name is refused, in the same directory and in another.
    let elsewhere = TempDir::new().unwrap();
    for place in [&directory, &elsewhere] {
        let mut other = LonjaPeer::start(index.peers, index.datetime, place.path());
        assert_eq!(other.run("CONNECT alice"), ["CONNECT FAIL, USER ALREADY CONNECTED"]);
        assert_eq!(port(), first);
    }
    alice.signal("KILL");
    drop(alice);
    let mut other = LonjaPeer::start(index.peers, index.datetime, elsewhere.path());
    assert_eq!(other.run("CONNECT alice"), ["CONNECT FAIL, USER ALREADY CONNECTED"]);

    let mut alice = LonjaPeer::start(index.peers, index.datetime, directory.path());
    assert_eq!(alice.run("CONNECT alice"), ["CONNECT OK"]);
    assert_ne!(port(), first);
    let listed = alice.run("LIST_CONTENT alice");
    assert_eq!(listed, ["LIST_CONTENT OK", "año 1.txt \"a greeting\"", "gone.txt \"not there\""]);
    assert_eq!(alice.run("GET_FILE --refresh alice \"año 1.txt\" copy.txt"), ["GET_FILE OK"]);
    alice.quit();
    assert_eq!(wire::ask(index.peers, "alice", Command::ListUsers), 2);

    // A clean end leaves nothing behind: the next session begins empty.
    let mut alice = LonjaPeer::start(index.peers, index.datetime, directory.path());
    assert_eq!(alice.run("CONNECT alice"), ["CONNECT OK"]);
    assert_eq!(alice.run("LIST_CONTENT alice"), ["LIST_CONTENT OK"]);
}

#[test]
fn only_a_replacement_that_was_cut_short_publishes_again() {
    let address = {
        // The gateway needs a fixed port, so that the peer finds it again after the restart.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().to_string()
    };
    let mut index = Index::start_with(&["--gateway-listen", &address]);
    let directory = TempDir::new().unwrap();
    let mut alice = LonjaPeer::start(index.peers, index.datetime, directory.path());
    for command in ["REGISTER alice", "CONNECT alice", "PUBLISH a.txt a", "DISCONNECT alice"] {
        let reply = format!("{} OK", command.split(' ').next().unwrap());
        assert_eq!(alice.run(command), [reply]);
    }
    // Attempts that did not reach the index leave no session behind whose files would be published
    // again.
    index.process.kill();
    for _ in 0..2 {
        assert_eq!(alice.run("CONNECT alice"), ["CONNECT FAIL"]);
    }
    let index = index.restart();
    assert_eq!(alice.run("CONNECT alice"), ["CONNECT OK"]);
    assert_eq!(alice.run("LIST_CONTENT alice"), ["LIST_CONTENT OK"]);
    alice.quit();

    // A kill between the end of the old session and the start of the new one leaves these files.
    let marker = format!("{{\"index\":\"{}\",\"ports\":[1,2],\"replacing\":true}}", index.peers);
    fs::write(directory.path().join(".lonja-session-alice.json"), marker).unwrap();
    let published = "[{\"Filename\": \"a.txt\", \"Description\": \"a\"}]";
    fs::write(directory.path().join("published-alice.json"), published).unwrap();
    let mut alice = LonjaPeer::start(index.peers, index.datetime, directory.path());
    assert_eq!(alice.run("CONNECT alice"), ["CONNECT OK"]);
    assert_eq!(alice.run("LIST_CONTENT alice"), ["LIST_CONTENT OK", "a.txt \"a\""]);
}

#[test]
fn a_signal_disconnects() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    for (signal, code) in [("INT", 1), ("TERM", 143), ("HUP", 129)] {
        let mut alice = LonjaPeer::start(index.peers, index.datetime, directory.path());
        alice.run("REGISTER alice");
        assert_eq!(alice.run("CONNECT alice"), ["CONNECT OK"]);
        alice.signal(signal);
        let (status, _) = {
            crate::eventually("the session ends", || {
                (wire::ask(index.peers, "alice", Command::ListUsers) == 2).then_some(())
            });
            alice.end()
        };
        assert_eq!(status.code(), Some(code), "{signal}");
    }
}

#[test]
fn commands_for_scripts_print_results_and_exit_with_a_status() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    let say = |arguments: &[&str]| say(&index, directory.path(), arguments);
    let port = index.peers.port().to_string();
    for (arguments, code, stdout) in [
        (&["register", "--as", "alice"][..], 0, "REGISTER OK\n"),
        (&["--as", "alice", "register"], 1, ""),
        (&["connect", "50085", "--as", "alice"], 0, "CONNECT OK\n"),
        (&["publish", "a b.txt", "two words", "--as", "alice", "-p", &port], 0, "PUBLISH OK\n"),
        (&["users", "--as", "alice"], 0, "alice 127.0.0.1 50085\n"),
        (&["--as", "alice", "content", "alice"], 0, "a b.txt \"two words\"\n"),
        (&["content", "nobody", "--as", "alice"], 1, ""),
        (&["delete", "a b.txt", "--as", "alice"], 0, "DELETE OK\n"),
        (&["disconnect", "--as", "alice"], 0, "DISCONNECT OK\n"),
        (&["unregister", "--as", "alice"], 0, "UNREGISTER OK\n"),
        (&["users", "--as", "alice"], 1, ""),
        (&["users"], 2, ""),
        (&["fly"], 2, ""),
        (&["get", "file", "--as", "alice"], 2, ""),
        (&["register", "--as", ""], 1, ""),
    ] {
        let said = say(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(code), stdout), "{arguments:?} {said:?}");
        assert_eq!(said.stderr.is_empty(), code == 0, "{arguments:?} {said:?}");
    }
    let refused = say(&["users", "--as", "alice"]).stderr;
    assert_eq!(refused, "lonja: LIST_USERS FAIL, USER DOES NOT EXIST; lonja peer register USER adds it\n");

    // A user who is not connected gets a session for as long as the command takes.
    assert_eq!(say(&["register", "--as", "bob"]).code, Some(0));
    let users = say(&["users", "--as", "bob", "--json"]).json();
    assert_eq!((&users["operation"], &users["status"]), (&json!("LIST_USERS"), &json!(0)));
    assert_eq!(users["users"][0]["username"], "bob");
    assert_eq!(wire::ask(index.peers, "bob", Command::ListUsers), 2);
    let refused = say(&["--json", "content", "nobody", "--as", "bob"]);
    assert_eq!(
        refused.json(),
        json!({
            "operation": "LIST_CONTENT",
            "status": 3,
            "reply": "LIST_CONTENT FAIL, REMOTE USER DOES NOT EXIST",
        })
    );
    assert_eq!(refused.code, Some(1));
}
