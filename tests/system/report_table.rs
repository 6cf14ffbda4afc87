//! Every row of the tables of docs/protocol.md 3 and 7, through zeep and the Python
//! peer, against a real `lonja up`.

use std::fs;

use crate::{
    peer::{Peer, is_datetime, python},
    process::Index,
    wire,
};
use lonja_wire::{Command, Dialect};
use tempfile::TempDir;

#[test]
fn each_row_as_a_person_sees_it() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    let mut peer = Peer::start(index.peers, index.datetime, directory.path());
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
        // Names past their field are the "any other failure" of each operation.
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

#[test]
fn two_peers_find_each_other_and_copy_a_file() {
    let index = Index::start();
    let (alices, bobs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(alices.path().join("numbers.bin"), &content).unwrap();
    let mut alice = Peer::start(index.peers, index.datetime, alices.path());
    let mut bob = Peer::start(index.peers, index.datetime, bobs.path());
    for (peer, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
        assert_eq!(peer.run(&format!("REGISTER {name}")), ["REGISTER OK"]);
        assert_eq!(peer.run(&format!("CONNECT {name}")), ["CONNECT OK"]);
    }
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

#[test]
fn state_is_kept_across_a_restart() {
    let index = Index::start();
    for name in ["alice", "bob"] {
        assert_eq!(wire::register(index.peers, name), 0);
        assert_eq!(wire::connect_as(index.peers, name, 50_085), 0);
    }
    assert_eq!(wire::register(index.peers, "carol"), 0);
    for file in ["z.txt", "a.txt"] {
        assert_eq!(wire::publish(index.peers, "alice", file), 0);
    }
    index.process.signal("TERM");
    let mut index = index;
    assert!(index.process.end().success(), "a clean end");
    let index = index.restart();

    assert_eq!(wire::register(index.peers, "carol"), 1);
    assert_eq!(wire::ask(index.peers, "carol", Command::ListUsers), 2);
    let users = wire::list_users(index.peers, "alice", Dialect::Padded).unwrap();
    let names: Vec<_> = users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(names, ["alice", "bob"]);
    let files = wire::list_content(index.peers, "bob", "alice", Dialect::Padded).unwrap();
    let names: Vec<_> = files.iter().map(|file| file.filename.as_str()).collect();
    assert_eq!(names, ["z.txt", "a.txt"]);
}

#[test]
fn zeep_reads_the_wsdl_and_gets_the_time() {
    let index = Index::start();
    let script = "import sys, zeep\n\
        client = zeep.Client(sys.argv[1])\n\
        print(client.service.datetime())\n\
        service = client.wsdl.services['DateTimeService']\n\
        port = service.ports['Application']\n\
        print(port.binding.name.localname, port.binding_options['address'])\n\
        operation = port.binding.get('datetime')\n\
        print(operation.soapaction, operation.style, operation.input.signature(), operation.output.signature())\n";
    let wsdl = format!("http://localhost:{}/?WSDL", index.datetime.port());
    let output = python().args(["-c", script, &wsdl]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed} {}", String::from_utf8_lossy(&output.stderr));
    assert!(is_datetime(lines[0]), "{printed}");
    assert_eq!(lines[1], format!("Application http://localhost:{}/", index.datetime.port()));
    assert_eq!(lines[2], "datetime document  datetimeResult: xsd:string");
}
