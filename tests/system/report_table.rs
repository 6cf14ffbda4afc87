//! Every row of the tables in sections 3 and 7 of docs/protocol.md, through zeep and the
//! Python peer, against a real `lonja up`.

use crate::{
    peer::{Peer, is_datetime, python},
    process::Index,
    rows::{copy_a_file, each_row},
    wire,
};
use lonja_wire::{Command, Encoding};

#[test]
fn each_row_as_a_person_sees_it() {
    let index = Index::start();
    each_row::<Peer>(index.peers, index.datetime);
}

#[test]
fn two_peers_find_each_other_and_copy_a_file() {
    let index = Index::start();
    copy_a_file::<Peer, Peer>(index.peers, index.datetime);
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
    let users = wire::list_users(index.peers, "alice", Encoding::Padded).unwrap();
    let names: Vec<_> = users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(names, ["alice", "bob"]);
    let files = wire::list_content(index.peers, "bob", "alice", Encoding::Padded).unwrap();
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
        print(operation.soapaction, operation.style, operation.input.signature(), operation.output.signature())\n\
        for name in sorted(port.binding._operations):\n    \
            print(name, getattr(client.service, name)())\n";
    let wsdl = format!("http://localhost:{}/?WSDL", index.datetime.port());
    let output = python().args(["-c", script, &wsdl]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3 + 11, "{printed} {}", String::from_utf8_lossy(&output.stderr));
    assert!(is_datetime(lines[0]), "{printed}");
    assert_eq!(lines[1], format!("Application http://localhost:{}/", index.datetime.port()));
    assert_eq!(lines[2], "datetime document  datetimeResult: xsd:string");
    // Peers of other authors call the same by other names.
    for line in &lines[3..] {
        assert!(line.split_once(' ').is_some_and(|(_, time)| is_datetime(time)), "{line}");
    }
    assert!(lines[3..].iter().any(|line| line.starts_with("obtener_fecha_hora ")), "{printed}");
}
