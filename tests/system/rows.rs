//! Commands of peers and the replies that they must get, for every kind of peer and index.

use std::{fs, net::SocketAddr};

use tempfile::TempDir;

use crate::peer::Shell;

/// Types a command for every row of the tables in sections 3 and 7 of docs/protocol.md, and checks
/// the reply. Expects that nobody is registered, and leaves nobody registered.
pub(crate) fn each_row<S: Shell>(peers: SocketAddr, datetime: SocketAddr) {
    let directory = TempDir::new().unwrap();
    let mut peer = S::start(peers, datetime, directory.path());
    for (command, reply) in [
        ("UNREGISTER alice", "USER DOES NOT EXIST"),
        ("CONNECT alice", "CONNECT FAIL, USER DOES NOT EXIST"),
        ("DISCONNECT alice", "DISCONNECT FAIL, USER DOES NOT EXIST"),
        ("PUBLISH hello.txt a greeting", "PUBLISH FAIL, USER DOES NOT EXIST"),
        ("DELETE hello.txt", "DELETE FAIL, USER DOES NOT EXIST"),
        ("LIST_USERS", "LIST_USERS FAIL, USER DOES NOT EXIST"),
        ("LIST_CONTENT alice", "LIST_CONTENT FAIL, USER DOES NOT EXIST"),
        ("REGISTER alice", "REGISTER OK"),
        ("REGISTER alice", "USERNAME IN USE"),
        ("DISCONNECT alice", "DISCONNECT FAIL, USER NOT CONNECTED"),
        ("PUBLISH hello.txt a greeting", "PUBLISH FAIL, USER NOT CONNECTED"),
        ("DELETE hello.txt", "DELETE FAIL, USER NOT CONNECTED"),
        ("LIST_USERS", "LIST_USERS FAIL, USER NOT CONNECTED"),
        ("LIST_CONTENT alice", "LIST_CONTENT FAIL, USER NOT CONNECTED"),
        ("CONNECT alice", "CONNECT OK"),
        ("CONNECT alice", "CONNECT FAIL, USER ALREADY CONNECTED"),
        ("PUBLISH hello.txt a greeting", "PUBLISH OK"),
        ("PUBLISH hello.txt another", "PUBLISH FAIL, CONTENT ALREADY PUBLISHED"),
        ("DELETE other.txt", "DELETE FAIL, CONTENT NOT PUBLISHED"),
        ("LIST_CONTENT bob", "LIST_CONTENT FAIL, REMOTE USER DOES NOT EXIST"),
        ("GET_FILE bob hello.txt copy.txt", "GET_FILE FAIL"),
        ("DELETE hello.txt", "DELETE OK"),
        ("LIST_CONTENT alice", "LIST_CONTENT OK"),
        ("DISCONNECT alice", "DISCONNECT OK"),
        ("UNREGISTER alice", "UNREGISTER OK"),
        ("UNREGISTER alice", "USER DOES NOT EXIST"),
        // A name that is too long for its field gets the "any other failure" of the operation.
        (&format!("REGISTER {}", "x".repeat(256)), "REGISTER FAIL"),
        (&format!("UNREGISTER {}", "x".repeat(256)), "UNREGISTER FAIL"),
        (&format!("CONNECT {}", "x".repeat(256)), "CONNECT FAIL"),
        (&format!("DISCONNECT {}", "x".repeat(256)), "DISCONNECT FAIL"),
        (&format!("PUBLISH {} d", "x".repeat(256)), "PUBLISH FAIL"),
        (&format!("DELETE {}", "x".repeat(256)), "DELETE FAIL"),
        (&format!("LIST_CONTENT {}", "x".repeat(256)), "LIST_CONTENT FAIL"),
    ] {
        assert_eq!(peer.run(command), [reply], "{command}");
    }
    peer.quit();
}

/// Alice publishes a file, and Bob finds and copies it. Both stay registered.
pub(crate) fn copy_a_file<A: Shell, B: Shell>(peers: SocketAddr, datetime: SocketAddr) {
    let (alices, bobs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(alices.path().join("numbers.bin"), &content).unwrap();
    let mut alice = online::<A>(peers, datetime, &alices, "alice");
    let mut bob = online::<B>(peers, datetime, &bobs, "bob");
    assert_eq!(alice.run("PUBLISH numbers.bin a lot of numbers"), ["PUBLISH OK"]);
    assert_eq!(alice.run("PUBLISH año.txt not there"), ["PUBLISH OK"]);

    let users = bob.run("LIST_USERS");
    assert_eq!(users.len(), 3);
    assert!(users[1].starts_with("alice 127.0.0.1 ") && users[2].starts_with("bob 127.0.0.1 "), "{users:?}");
    let listed = bob.run("LIST_CONTENT alice");
    assert_eq!(listed, ["LIST_CONTENT OK", "numbers.bin \"a lot of numbers\"", "año.txt \"not there\""]);
    assert_eq!(bob.run("GET_FILE alice numbers.bin copy.bin"), ["GET_FILE OK"]);
    assert_eq!(fs::read(bobs.path().join("copy.bin")).unwrap(), content);
    assert_eq!(bob.run("GET_FILE alice año.txt copy.txt"), ["GET_FILE FAIL, FILE DOES NOT EXIST"]);
    assert_eq!(bob.run("GET_FILE carol numbers.bin copy.bin"), ["GET_FILE FAIL"]);

    assert_eq!(alice.run("DISCONNECT alice"), ["DISCONNECT OK"]);
    assert_eq!(bob.run("LIST_CONTENT alice"), ["LIST_CONTENT OK"]);
    assert_eq!(bob.run("LIST_USERS").len(), 2);
    assert_eq!(bob.run("GET_FILE alice numbers.bin copy.bin"), ["GET_FILE FAIL"]);
}

fn online<S: Shell>(peers: SocketAddr, datetime: SocketAddr, directory: &TempDir, name: &str) -> S {
    let mut peer = S::start(peers, datetime, directory.path());
    assert_eq!(peer.run(&format!("REGISTER {name}")), ["REGISTER OK"]);
    assert_eq!(peer.run(&format!("CONNECT {name}")), ["CONNECT OK"]);
    peer
}
