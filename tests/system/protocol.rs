//! Sections 2 and 3 of docs/protocol.md over a real socket: both encodings, any segmentation, and
//! every kind of bad request.

use std::io::{Read as _, Write as _};

use lonja_wire::{Command, Encoding, Operation};

use crate::{
    process::Index,
    wire::{self, DATETIME, bytes, exchange, exchange_all, exchange_in},
};

const BOTH: [Encoding; 2] = [Encoding::Terminated, Encoding::Padded];

/// An index that waits for the rest of a request for longer than `exchange` waits for a reply.
fn patient() -> Index {
    Index::start_with(&["--request-timeout", "60"])
}

/// An index where alice is connected and has published a file.
fn with_alice() -> Index {
    let index = patient();
    assert_eq!(wire::register(index.peers, "alice"), 0);
    assert_eq!(wire::connect_as(index.peers, "alice", 50_085), 0);
    assert_eq!(wire::publish(index.peers, "alice", "hello.txt"), 0);
    index
}

#[test]
fn both_encodings_get_the_counts_they_expect() {
    let index = with_alice();
    let terminated = exchange(index.peers, &bytes("alice", Command::ListUsers, Encoding::Terminated));
    let padded = exchange(index.peers, &bytes("alice", Command::ListUsers, Encoding::Padded));
    assert_eq!(&terminated[..5], b"00001");
    assert_eq!(&padded[..5], b"0\0\0\0\x01");
    assert_eq!(terminated[5..], padded[5..]);
    assert_eq!(&terminated[5..11], b"alice\0");
    assert_eq!(&terminated[5 + 256..], b"127.0.0.1\0\0\0\0\0\0\x0050085\0");
}

#[test]
fn any_split_of_a_request_gets_the_same_reply() {
    let index = with_alice();
    let commands = [Command::ListUsers, Command::ListContent(Some("alice".parse().unwrap()))];
    for command in commands {
        for encoding in BOTH {
            let request = bytes("alice", command.clone(), encoding);
            let whole = exchange(index.peers, &request);
            for split in 1..request.len() {
                let in_two = || exchange_in(index.peers, &[&request[..split], &request[split..]]);
                // If the machine stands still between the two segments, the gateway may answer
                // before the second has come (docs/protocol.md 2).
                let same = (0..3).any(|_| in_two() == whole);
                assert!(same, "{command:?} {encoding:?} split at {split}");
            }
        }
    }
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let index = with_alice();
    let request = bytes("alice", wire::publish_command("slow.txt"), Encoding::Terminated);
    let pieces: Vec<_> = request.chunks(1).collect();
    assert_eq!(exchange_in(index.peers, &pieces), b"0");
}

#[test]
fn an_empty_username_is_answered_at_once_with_not_registered() {
    let index = patient();
    for request in [
        format!("PUBLISH\0{DATETIME}\0\0hello.txt\0d\0"),
        format!("CONNECT\0{DATETIME}\0\x005000\0"),
        format!("LIST_CONTENT\0{DATETIME}\0\0bob\0"),
        format!("LIST_USERS\0{DATETIME}\0\0"),
        format!("UNREGISTER\0{DATETIME}\0\0"),
    ] {
        assert_eq!(exchange(index.peers, request.as_bytes()), b"1", "{request:?}");
    }
}

#[test]
fn names_of_255_bytes_and_of_any_script_are_kept() {
    let index = Index::start();
    let long = "x".repeat(255);
    for name in [long.as_str(), "josé", "名前", "a b", "../../etc/passwd", "<img src=x>"] {
        assert_eq!(exchange(index.peers, &bytes(name, Command::Register, Encoding::Padded)), b"0", "{name}");
        assert_eq!(
            exchange(index.peers, &bytes(name, Command::Register, Encoding::Terminated)),
            b"1",
            "{name}"
        );
        assert_eq!(wire::connect_as(index.peers, name, 50_085), 0, "{name}");
    }
    let users = wire::list_users(index.peers, &long, Encoding::Terminated).unwrap();
    let names: Vec<_> = users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(names, [long.as_str(), "josé", "名前", "a b", "../../etc/passwd", "<img src=x>"]);
}

#[test]
fn each_kind_of_bad_request_gets_its_status_a_line_and_a_count() {
    let index = with_alice();
    let long = "z".repeat(256);
    let failed = |operation: Operation| [b'0' + operation.status(lonja_wire::Outcome::Failed)];
    let mut cases: Vec<(Vec<u8>, Operation, &str)> = vec![
        (format!("REGISTER\0{DATETIME}\0\0").into(), Operation::Register, "empty_name"),
        (format!("PUBLISH\0{DATETIME}\0alice\0\0d\0").into(), Operation::Publish, "empty_name"),
        (format!("CONNECT\0{DATETIME}\0alice\x000\0").into(), Operation::Connect, "impossible_port"),
        (format!("CONNECT\0{DATETIME}\0alice\x0065536\0").into(), Operation::Connect, "impossible_port"),
        (format!("CONNECT\0{DATETIME}\0alice\0http\0").into(), Operation::Connect, "impossible_port"),
        (
            format!("LIST_CONTENT\0{DATETIME}\0alice\0b\x1b[2J\0").into(),
            Operation::ListContent,
            "control_character",
        ),
        (format!("PUBLISH\0{DATETIME}\0alice\0f\0d\ne\0").into(), Operation::Publish, "control_character"),
        (format!("REGISTER\0{DATETIME} and more\0a\0").into(), Operation::Register, "not_datetime"),
        (
            [format!("DELETE\0{DATETIME}\0alice\0").as_bytes(), b"\xff\xfe\0"].concat(),
            Operation::Delete,
            "not_utf8",
        ),
    ];
    for operation in Operation::ALL {
        let name = operation.name();
        cases.push((format!("{name}\0{DATETIME}\0{long}").into(), operation, "too_long"));
        cases.push((format!("{name}\0{DATETIME}\0a\tb\0f\0d\0").into(), operation, "control_character"));
    }
    // The CONNECT with a bad username is left out, because its port is bad too.
    cases.retain(|(bytes, operation, _)| *operation != Operation::Connect || !bytes.ends_with(b"d\0"));
    for (request, operation, reason) in cases {
        let text = String::from_utf8_lossy(&request).into_owned();
        let metric = format!("lonja_gateway_bad_requests_total{{reason=\"{reason}\"}}");
        let before = index.metric(&metric);
        let lines = bad_lines(&index);
        assert_eq!(exchange(index.peers, &request), failed(operation), "{text:?}");
        assert_eq!(index.metric(&metric), before + 1.0, "{text:?}");
        crate::eventually("a log line", || (bad_lines(&index) > lines).then_some(()));
    }
}

fn bad_lines(index: &Index) -> usize {
    index.process.stderr().iter().filter(|line| line.contains("bad request")).count()
}

/// A peer of another author that reads its status as a string, and one that reads a byte.
#[test]
fn a_status_is_a_byte_for_who_closes_and_a_string_for_who_waits() {
    let index = Index::start();
    for (number, waits) in [false, true, false, true].into_iter().enumerate() {
        let mut stream = wire::connect(index.peers);
        let request = bytes(&format!("user{number}"), Command::Register, Encoding::Terminated);
        stream.write_all(&request).unwrap();
        let mut status = [0];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"0");
        if waits {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"\0");
        }
    }
    // The last peer waited for as long as a NUL to one of those that had closed would have taken.
    assert_eq!(index.metric("lonja_gateway_statuses_as_strings_total"), 2.0);
    // A padded request has its status and the end of the stream at once, as the report says.
    let padded = bytes("padded", Command::Register, Encoding::Padded);
    let mut stream = wire::connect(index.peers);
    stream.write_all(&padded).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"0");
}

/// A network whose peers are known to read another form of replies.
#[test]
fn peers_of_a_network_get_the_form_that_a_rule_says() {
    for (form, ok, taken, users, files, nothing) in [
        (
            "text",
            "0\0",
            "1\0",
            "0\x001\0alice\x00127.0.0.1\x0050085\0",
            "0\x001\0a.txt\0text\0",
            "0\x000\0\0",
        ),
        ("byte", "\0", "\x01", "\x001\0alice\x00127.0.0.1\x0050085\0", "\x001\0a.txt\0", "\x000\0"),
        ("names", "0", "1", "01\0alice\0", "01\0a.txt\0", "00\0"),
        ("char", "0", "1", "", "", ""),
    ] {
        let index = Index::start_with(&["--dialect", &format!("10.0.0.0/8=byte,127.0.0.1={form}")]);
        // What the gateway sends, to the end of the stream, which comes at once.
        let raw = |command: Command| {
            let mut stream = wire::connect(index.peers);
            stream.write_all(&bytes("alice", command, Encoding::Terminated)).unwrap();
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).unwrap();
            reply
        };
        let alices = || Command::ListContent(Some("alice".parse().unwrap()));
        assert_eq!(raw(Command::Register), ok.as_bytes(), "{form}");
        assert_eq!(raw(Command::Register), taken.as_bytes(), "{form}");
        let port = std::num::NonZeroU16::new(50_085).unwrap().into();
        assert_eq!(raw(Command::Connect(port)), ok.as_bytes(), "{form}");
        if form == "char" {
            assert_eq!(raw(alices()), b"00000");
            continue;
        }
        assert_eq!(raw(alices()), nothing.as_bytes(), "{form}");
        let publish = Command::Publish("a.txt".parse().unwrap(), "text".parse().unwrap());
        assert_eq!(raw(publish), ok.as_bytes(), "{form}");
        assert_eq!(raw(alices()), files.as_bytes(), "{form}");
        assert_eq!(raw(Command::ListUsers), users.as_bytes(), "{form}");
    }
}

/// Peers of other authors, each with the table's first rows in the order in which it writes fields.
#[test]
fn other_orders_of_the_fields_are_served() {
    let index = patient();
    type Write = fn(&str, &str, &[&str]) -> Vec<Vec<u8>>;
    let orders: [(&str, Write); 5] = [
        ("lower", |operation, user, rest| segments(&[&operation.to_lowercase(), DATETIME, user], rest, None)),
        ("last", |operation, user, rest| segments(&[operation, user], rest, Some(DATETIME))),
        ("none", |operation, user, rest| segments(&[operation, user], rest, None)),
        ("address", |operation, user, rest| {
            let address: &[&str] = if operation == "CONNECT" { &["0.0.0.0"] } else { &[] };
            segments(&[operation, DATETIME, user], &[rest, address].concat(), None)
        }),
        ("before", |operation, user, rest| {
            let address: &[&str] = if operation == "CONNECT" { &["192.168.1.5"] } else { &[] };
            segments(&[operation, user], &[address, rest].concat(), Some(DATETIME))
        }),
    ];
    for (user, write) in orders {
        for (operation, rest, status) in [
            ("CONNECT", &["50085"][..], b"1"),
            ("REGISTER", &[], b"0"),
            ("REGISTER", &[], b"1"),
            ("PUBLISH", &["a.txt", "a description"], b"2"),
            ("CONNECT", &["50085"], b"0"),
            ("CONNECT", &["50085"], b"2"),
            ("PUBLISH", &["a.txt", "a description"], b"0"),
            ("DELETE", &["a.txt"], b"0"),
            ("DELETE", &["a.txt"], b"3"),
            ("LIST_CONTENT", &["nobody"], b"3"),
            ("DISCONNECT", &[], b"0"),
            ("UNREGISTER", &[], b"0"),
        ] {
            let segments = write(operation, user, rest);
            let segments: Vec<_> = segments.iter().map(Vec::as_slice).collect();
            assert_eq!(exchange_in(index.peers, &segments), status, "{user}: {operation}");
        }
    }
}

/// The fields of a request, each in a segment of its own.
fn segments(first: &[&str], rest: &[&str], last: Option<&str>) -> Vec<Vec<u8>> {
    let fields = first.iter().chain(rest).copied().chain(last);
    fields.map(|field| [field.as_bytes(), b"\0"].concat()).collect()
}

#[test]
fn an_unknown_operation_is_logged_counted_and_closed_without_an_answer() {
    let index = Index::start();
    for request in [b"HELLO\0".as_slice(), b"GET_PART\0hello.txt\0", b"\0\0\0", &[b'A'; 300]] {
        assert_eq!(exchange(index.peers, request), b"", "{request:?}");
    }
    assert_eq!(index.metric("lonja_gateway_bad_requests_total{reason=\"unknown_operation\"}"), 4.0);
    crate::eventually("four log lines", || (bad_lines(&index) == 4).then_some(()));
}

#[test]
fn a_peer_that_stops_in_the_middle_still_gets_an_answer() {
    let index = Index::start();
    for (request, reply) in [
        (format!("PUBLISH\0{DATETIME}\0alice\0hel"), b"4".as_slice()),
        (format!("LIST_USERS\0{DATETIME}"), b"3"),
        ("REGISTER\0".to_owned(), b"2"),
        ("REGIST".to_owned(), b""),
    ] {
        assert_eq!(exchange_all(index.peers, request.as_bytes()), reply, "{request:?}");
    }
}

#[test]
fn hostile_names_reach_the_terminal_escaped() {
    let index = Index::start();
    let name = "evil\u{202e}gpj.exe";
    assert_eq!(wire::register(index.peers, name), 0);
    crate::eventually("both lines", || {
        let lines = index.process.stdout();
        let escaped = lines.iter().filter(|line| line.contains("evil\\u{202e}gpj.exe")).count();
        assert!(!lines.iter().any(|line| line.contains('\u{202e}')));
        (escaped == 2).then_some(())
    });
}

#[test]
fn each_operation_leaves_its_lines_on_standard_output() {
    let index = with_alice();
    assert_eq!(wire::ask(index.peers, "bob", Command::ListUsers), 1);
    let expected = [
        "s> OPERATION FROM alice".to_owned(),
        format!("alice\tREGISTER\t{DATETIME}"),
        format!("alice\tCONNECT\t{DATETIME}"),
        format!("alice\tPUBLISH\thello.txt\t{DATETIME}"),
        "s> OPERATION FROM bob".to_owned(),
        format!("bob\tLIST_USERS\t{DATETIME}"),
    ];
    crate::eventually("all lines", || {
        let lines = index.process.stdout();
        expected.iter().all(|line| lines.contains(line)).then_some(())
    });
}

#[test]
fn a_reply_waits_for_no_other_byte() {
    let index = Index::start();
    // The connection stays open for writing, so only the bytes of the request show its end.
    let mut stream = wire::connect(index.peers);
    stream.write_all(&bytes("alice", Command::Register, Encoding::Terminated)).unwrap();
    let mut status = [0];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"0");
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"\0", "the end of a string for a peer that waits");
    assert_eq!(stream.read(&mut status).unwrap(), 0, "the gateway closes after its reply");
}
