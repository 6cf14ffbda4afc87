//! Names that people type: commands as the shell has them, and letters with accents in whichever
//! spelling a system writes them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use lonja_wire::{Command, Encoding, reply::FILE_ENTRY};
use tempfile::TempDir;

use crate::{
    lonja_peer::{LonjaPeer, peer, say, share},
    peer::Shell,
    process::{Index, Process},
    wire,
};

/// `café`, `ñu` and `josé` with each accent in one character with its letter, as most systems write
/// them, and behind its letter, as macOS does.
const CAFE: [&str; 2] = ["caf\u{e9}.txt", "cafe\u{301}.txt"];
const NU: [&str; 2] = ["\u{f1}u", "n\u{303}u"];
const JOSE: [&str; 2] = ["jos\u{e9}", "jose\u{301}"];

#[test]
fn commands_are_typed_as_in_the_shell() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    fs::write(directory.path().join("hello.txt"), "hello").unwrap();
    let say_all = |all: &[(&[&str], i32, &str)]| {
        for (arguments, code, stdout) in all {
            let said = say(&index, directory.path(), arguments);
            assert_eq!((said.code, said.stdout.as_str()), (Some(*code), *stdout), "{arguments:?} {said:?}");
        }
    };
    say_all(&[
        (&["register", "alice"], 0, "REGISTER OK\n"),
        (&["REGISTER", "alice"], 1, ""),
        (&["register"], 2, ""),
        (&["connect"], 2, ""),
        (&["connect", "alice", "x"], 2, ""),
        (&["connect", "0", "--as", "alice"], 2, ""),
        (&["connect", "70000", "--as", "alice"], 2, ""),
        (&["connect", "alice", "50085"], 0, "CONNECT OK\n"),
        (&["disconnect", "alice"], 0, "DISCONNECT OK\n"),
        (&["register", "bob"], 0, "REGISTER OK\n"),
    ]);
    // Without a port the command serves what others publish, until it is told to end.
    let mut command = peer(index.peers, index.datetime, directory.path());
    let mut alice = Process::spawn(command.args(["connect", "alice", "--bind", "127.0.0.1"]));
    crate::eventually("alice is online", || (alice.stdout() == ["CONNECT OK"]).then_some(()));
    let said = crate::eventually("the command says how it ends", || alice.stderr().first().cloned());
    assert!(said.contains("Ctrl-C ends it"), "{said:?}");
    say_all(&[
        (&["publish", "hello.txt", "a", "greeting", "--as", "alice"], 0, "PUBLISH OK\n"),
        (&["list_content", "alice", "--as", "bob"], 0, "hello.txt \"a greeting\"\n"),
    ]);
    let got = say(&index, elsewhere.path(), &["get_file", "alice", "hello.txt", "copy.txt", "--as", "bob"]);
    assert_eq!((got.code, got.stdout.as_str()), (Some(0), "copy.txt\n"), "{got:?}");
    assert_eq!(fs::read_to_string(elsewhere.path().join("copy.txt")).unwrap(), "hello");
    say_all(&[
        (&["delete", "hello.txt", "--as", "alice"], 0, "DELETE OK\n"),
        (&["get", "alice", "hello.txt", "again.txt", "--as", "bob"], 1, ""),
    ]);
    alice.signal("INT");
    assert_eq!(alice.end().code(), Some(0));
    assert_eq!(wire::ask(index.peers, "alice", Command::ListUsers), 2, "the session has ended");
    say_all(&[(&["unregister", "alice"], 0, "UNREGISTER OK\n")]);
}

#[test]
fn canonically_equal_names_find_each_other() {
    let index = Index::start();
    let (data, shared, bob) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir(shared.path().join(NU[1])).unwrap();
    fs::write(shared.path().join(NU[1]).join(CAFE[1]), "served").unwrap();
    let _carol = share(&index, data.path(), shared.path(), "carol", 1);
    let name = |spelling: usize| format!("{}/{}", NU[spelling], CAFE[spelling]);

    // An original peer sees the composed name.
    assert_eq!(wire::register(index.peers, "dora"), 0);
    assert_eq!(wire::connect_as(index.peers, "dora", 50_085), 0);
    let list = Command::ListContent(Some("carol".parse().unwrap()));
    let reply = wire::exchange(index.peers, &wire::bytes("dora", list, Encoding::Terminated));
    assert_eq!(reply.len(), 5 + FILE_ENTRY);
    assert!(reply[5..].starts_with(name(0).as_bytes()), "{reply:?}");

    assert_eq!(say(&index, bob.path(), &["register", JOSE[1]]).code, Some(0));
    for (spelling, copy) in [(0, "first"), (1, "second")] {
        let arguments = ["get", "carol", &name(spelling), "-o", copy, "--as", JOSE[spelling]];
        let said = say(&index, bob.path(), &arguments);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(fs::read_to_string(bob.path().join(copy)).unwrap(), "served");
    }
    let mut shell = LonjaPeer::start(index.peers, index.datetime, bob.path());
    assert_eq!(shell.run(&format!("CONNECT {}", JOSE[0])), ["CONNECT OK"]);
    shell.run("LIST_USERS");
    assert_eq!(shell.run(&format!("GET_FILE carol {} third", name(1))), ["GET_FILE OK"]);
    fs::write(bob.path().join(CAFE[1]), "").unwrap();
    assert_eq!(shell.run(&format!("PUBLISH {} d", CAFE[0])), ["PUBLISH OK"]);
    assert_eq!(shell.run(&format!("DELETE {}", CAFE[1])), ["DELETE OK"]);
}

#[test]
fn names_that_an_original_peer_has_decomposed_are_found() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(wire::register(index.peers, JOSE[1]), 0);
    assert_eq!(wire::connect_as(index.peers, JOSE[1], port), 0);
    assert_eq!(wire::publish(index.peers, JOSE[1], CAFE[1]), 0);
    // It knows its file by these bytes alone, and no other operation than GET_FILE.
    let original = thread::spawn(move || {
        let expected = format!("GET_FILE\0{}\0", CAFE[1]).into_bytes();
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; expected.len()];
            let asked = stream.read_exact(&mut request).is_ok() && request == expected;
            let answer: &[u8] = if asked { b"0served" } else { b"2" };
            stream.write_all(answer).unwrap();
            if asked {
                return;
            }
        }
    });
    assert_eq!(say(&index, directory.path(), &["register", "bob"]).code, Some(0));
    let listed = say(&index, directory.path(), &["content", JOSE[0], "--as", "bob"]);
    assert_eq!(listed.stdout, format!("{} \"a description\"\n", CAFE[1]), "{listed:?}");
    let said = say(&index, directory.path(), &["get", JOSE[0], CAFE[0], "copy", "--as", "bob"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(fs::read_to_string(directory.path().join("copy")).unwrap(), "served");
    original.join().unwrap();
}
