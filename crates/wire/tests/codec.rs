//! Tests the request codec in four layers: golden bytes, round trips, every split and perturbed
//! input.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use lonja_wire::{
    BadRequest, Command, Encoding, FieldError, MAX_REQUEST, Operation, Progress, Request, Username, decode,
    decode_final, encoding_of, is_original,
};
use proptest::prelude::*;

const BOTH: [Encoding; 2] = [Encoding::Terminated, Encoding::Padded];

fn request(username: &str, command: Command) -> Request {
    Request {
        datetime: "12/05/2024 10:00:00".parse().unwrap(),
        username: (!username.is_empty()).then(|| username.parse().unwrap()),
        command,
    }
}

fn every_operation(username: &str) -> Vec<Request> {
    let long = "x".repeat(255);
    let commands = vec![
        Command::Register,
        Command::Unregister,
        Command::Connect("50085".parse::<u16>().map(port).unwrap()),
        Command::Disconnect,
        Command::Publish("hello.txt".parse().unwrap(), "a description".parse().unwrap()),
        Command::Publish("hello.txt".parse().unwrap(), "".parse().unwrap()),
        Command::Publish(long.parse().unwrap(), long.parse().unwrap()),
        Command::Delete("año 1.txt".parse().unwrap()),
        Command::ListUsers,
        Command::ListContent(Some("bob".parse().unwrap())),
        Command::ListContent(Some(long.parse().unwrap())),
        Command::GetFile(Some("bob".parse().unwrap())),
    ];
    let keep = |command: &Command| !username.is_empty() || *command != Command::Register;
    commands.into_iter().filter(keep).map(|command| request(username, command)).collect()
}

fn port(number: u16) -> lonja_wire::Port {
    std::num::NonZeroU16::new(number).unwrap().into()
}

fn get_file(second: &str) -> Command {
    Command::GetFile(Some(second.parse().unwrap()))
}

fn encoded(request: &Request, encoding: Encoding) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(encoding, &mut bytes);
    bytes
}

/// What a gateway concludes when the bytes arrive in pieces that end at `splits`, and the gateway
/// looks at the bytes after each piece.
fn arrive(bytes: &[u8], splits: &[usize]) -> Result<Request, BadRequest> {
    for end in splits {
        match decode(&bytes[..*end]) {
            Progress::Complete(request) => return Ok(request),
            Progress::Bad(bad) => return Err(bad),
            Progress::Incomplete | Progress::Tentative => {}
        }
    }
    decode_final(bytes)
}

// --- golden bytes -------------------------------------------------------------------

#[test]
fn golden_register_terminated() {
    let bytes = b"\x52\x45\x47\x49\x53\x54\x45\x52\x00\
        \x31\x32\x2f\x30\x35\x2f\x32\x30\x32\x34\x20\x31\x30\x3a\x30\x30\x3a\x30\x30\x00\
        \x61\x6c\x69\x63\x65\x00";
    assert_eq!(bytes.len(), 35);
    let alice = request("alice", Command::Register);
    assert_eq!(decode(bytes), Progress::Complete(alice.clone()));
    assert_eq!(encoding_of(bytes), Encoding::Terminated);
    assert_eq!(encoded(&alice, Encoding::Terminated), bytes);
}

#[test]
fn golden_register_padded() {
    let mut bytes = b"REGISTER\x0012/05/2024 10:00:00\0alice".to_vec();
    bytes.resize(285, 0);
    let alice = request("alice", Command::Register);
    assert_eq!(decode(&bytes), Progress::Complete(alice.clone()));
    assert_eq!(encoding_of(&bytes), Encoding::Padded);
    assert_eq!(encoded(&alice, Encoding::Padded), bytes);
}

#[test]
fn golden_publish_terminated() {
    let bytes = b"PUBLISH\x0012/05/2024 10:00:00\0alice\0hello.txt\0d e\0";
    let publish = Command::Publish("hello.txt".parse().unwrap(), "d e".parse().unwrap());
    assert_eq!(decode(bytes), Progress::Complete(request("alice", publish)));
}

#[test]
fn the_operation_code_may_be_padded_too() {
    let mut bytes = b"LIST_USERS".to_vec();
    bytes.resize(256, 0);
    bytes.extend_from_slice(b"12/05/2024 10:00:00\0alice");
    bytes.resize(256 + 20 + 256, 0);
    assert_eq!(decode(&bytes), Progress::Complete(request("alice", Command::ListUsers)));
    assert_eq!(encoding_of(&bytes), Encoding::Padded);
    for end in 0..bytes.len() {
        assert!(
            !matches!(decode(&bytes[..end]), Progress::Complete(other) if other.username.is_none()),
            "taken for a request without a username after {end} bytes"
        );
    }
}

// --- what docs/protocol.md 2 says to watch ------------------------------------------

#[test]
fn an_empty_username_in_the_middle_is_no_padding() {
    let bytes = b"PUBLISH\x0012/05/2024 10:00:00\0\0hello.txt\0d\0";
    let publish = Command::Publish("hello.txt".parse().unwrap(), "d".parse().unwrap());
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]), Progress::Incomplete, "{end}");
    }
    assert_eq!(decode(bytes), Progress::Complete(request("", publish)));
    assert_eq!(encoding_of(bytes), Encoding::Terminated);
}

#[test]
fn an_empty_username_at_the_end_is_answered_at_once() {
    let bytes = b"LIST_USERS\x0012/05/2024 10:00:00\0\0";
    assert_eq!(decode(bytes), Progress::Complete(request("", Command::ListUsers)));
}

#[test]
fn an_empty_description_is_answered_at_once() {
    let bytes = b"PUBLISH\x0012/05/2024 10:00:00\0alice\0hello.txt\0\0";
    let publish = Command::Publish("hello.txt".parse().unwrap(), "".parse().unwrap());
    assert_eq!(decode(bytes), Progress::Complete(request("alice", publish)));
}

#[test]
fn nuls_behind_a_complete_terminated_reading_are_padding() {
    let padded = encoded(&request("alice", Command::ListUsers), Encoding::Padded);
    let terminated = b"LIST_USERS\x0012/05/2024 10:00:00\0alice\0".len();
    assert_eq!(encoding_of(&padded[..terminated]), Encoding::Terminated);
    for end in terminated + 1..padded.len() {
        assert_eq!(decode(&padded[..end]), Progress::Incomplete, "{end}");
        assert_eq!(encoding_of(&padded[..end]), Encoding::Padded, "{end}");
    }
}

#[test]
fn what_follows_a_terminated_request_does_not_matter() {
    let bytes = b"REGISTER\x0012/05/2024 10:00:00\0alice\0and more";
    assert_eq!(decode(bytes), Progress::Complete(request("alice", Command::Register)));
    assert_eq!(encoding_of(bytes), Encoding::Terminated);
}

#[test]
fn a_peer_that_stops_after_some_padding_meant_what_it_said() {
    let bytes = b"REGISTER\x0012/05/2024 10:00:00\0alice\0\0\0";
    assert_eq!(decode(bytes), Progress::Incomplete);
    assert_eq!(decode_final(bytes), Ok(request("alice", Command::Register)));
}

#[test]
fn an_empty_last_name_waits_for_the_padding_that_would_explain_it() {
    let bytes = b"DELETE\x0012/05/2024 10:00:00\0alice\0\0";
    assert_eq!(decode(bytes), Progress::Tentative);
    let empty =
        BadRequest::Field { operation: Operation::Delete, field: "filename", error: FieldError::Empty };
    assert_eq!(decode_final(bytes), Err(empty));
    let bytes = b"LIST_CONTENT\x0012/05/2024 10:00:00\0alice\0\0";
    assert_eq!(decode(bytes), Progress::Tentative);
    assert_eq!(decode_final(bytes), Ok(request("alice", Command::ListContent(None))));
}

#[test]
fn names_of_255_bytes_fill_their_fields() {
    let long = "y".repeat(255);
    for request in every_operation(&long) {
        for encoding in BOTH {
            assert_eq!(decode_final(&encoded(&request, encoding)), Ok(request.clone()));
        }
    }
}

// --- the orders in which other authors' peers write their fields ----------------------

const DATE: &str = "12/05/2024 10:00:00";

/// A terminated request in each order that peers write it in: what the order is, and the bytes. The
/// request has a username.
fn in_each_order(request: &Request) -> Vec<(&'static str, Vec<u8>)> {
    let operation = request.command.operation().name();
    let lower = operation.to_ascii_lowercase();
    let date = request.datetime.as_str();
    let user = request.username.as_ref().unwrap().as_str();
    let orders = [
        ("lower case", date, lower.as_str(), '\0', ""),
        ("line feed", date, operation, '\n', ""),
        ("datetime last", "", operation, '\0', date),
        ("no datetime", "", operation, '\0', ""),
    ];
    let fields: Vec<Vec<String>> = match &request.command {
        Command::Connect(port) => vec![
            vec![port.to_string()],
            vec!["192.168.1.5".to_owned(), port.to_string()],
            vec![port.to_string(), "0.0.0.0".to_owned()],
        ],
        Command::Publish(filename, description) => vec![vec![filename.to_string(), description.to_string()]],
        Command::Delete(filename) => vec![vec![filename.to_string()]],
        Command::ListContent(second) => vec![vec![second.as_ref().unwrap().to_string()]],
        Command::GetFile(second) => {
            let second = second.as_ref().unwrap().to_string();
            vec![vec![second.clone()], vec![second, "copy.txt".to_owned()]]
        }
        _ => vec![vec![]],
    };
    let mut all = Vec::new();
    for (name, first, operation, end, last) in orders {
        for fields in &fields {
            // A GET_FILE with the datetime first has no third name.
            if operation.eq_ignore_ascii_case("GET_FILE") && fields.len() == 2 && !first.is_empty() {
                continue;
            }
            let mut text = format!("{operation}{end}");
            for field in [first, user].into_iter().skip(usize::from(first.is_empty())) {
                text += &format!("{field}\0");
            }
            for field in fields.iter().map(String::as_str).chain((!last.is_empty()).then_some(last)) {
                text += &format!("{field}\0");
            }
            all.push((name, text.into_bytes()));
        }
    }
    all
}

/// What a request written in an order is read as.
fn read_from(order: &str, request: &Request) -> Request {
    let datetime = if order == "no datetime" { "".parse().unwrap() } else { request.datetime.clone() };
    Request { datetime, ..request.clone() }
}

fn every_command() -> Vec<Command> {
    let named = |request: Request| (request.username.is_some()).then_some(request.command);
    every_operation("alice").into_iter().filter_map(named).collect()
}

#[test]
fn golden_orders() {
    let alice = |datetime: &str, command| Request {
        datetime: datetime.parse().unwrap(),
        ..request("alice", command)
    };
    let cases: Vec<(&[u8], Request)> = vec![
        (b"register\x0012/05/2024 10:00:00\0alice\0", alice(DATE, Command::Register)),
        (b"LIST_USERS\n12/05/2024 10:00:00\0alice\0", alice(DATE, Command::ListUsers)),
        (b"LIST_USERS\x0012/05/2024 10:00:00\0alice\n", alice(DATE, Command::ListUsers)),
        (
            b"LIST_CONTENT\x0012/05/2024 10:00:00\0alice\0bob\n",
            alice(DATE, Command::ListContent(Some("bob".parse().unwrap()))),
        ),
        (
            b"CONNECT\x0012/05/2024 10:00:00\0alice\x0050085\x0010.0.0.7\0",
            alice(DATE, Command::Connect(port(50_085))),
        ),
        (
            b"CONNECT\x0012/05/2024 10:00:00\0alice\x0010.0.0.7\x0050085\0",
            alice(DATE, Command::Connect(port(50_085))),
        ),
        (b"CONNECT\0alice\x0050085\x0012/05/2024 10:00:00\0", alice(DATE, Command::Connect(port(50_085)))),
        (
            b"CONNECT\0alice\x0050085\x000.0.0.0\x0012/05/2024 10:00:00\0",
            alice(DATE, Command::Connect(port(50_085))),
        ),
        (b"REGISTER\0alice\x0012/05/2024 10:00:00\0", alice(DATE, Command::Register)),
        (b"DELETE\0alice\0a.txt\0", alice("", Command::Delete("a.txt".parse().unwrap()))),
        (b"CONNECT\0alice\x0010.0.0.7\x0050085\0", alice("", Command::Connect(port(50_085)))),
        // The five requests of peers that ask the gateway where a file is.
        (b"GET_FILE\0alice\0bob\0", alice("", get_file("bob"))),
        (b"GET_FILE\0alice\0a.txt\0", alice("", get_file("a.txt"))),
        (b"get_file\x0012/05/2024 10:00:00\0alice\0a.txt\0", alice(DATE, get_file("a.txt"))),
        (b"GET_FILE\0alice\0a.txt\0copy.txt\x0012/05/2024 10:00:00\0", alice(DATE, get_file("a.txt"))),
        (b"GET_FILE\0alice\0bob\0a.txt\x0012/05/2024 10:00:00\0", alice(DATE, get_file("bob"))),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode_final(bytes), Ok(expected), "{}", String::from_utf8_lossy(bytes));
        assert_eq!(encoding_of(bytes), Encoding::Terminated);
        for split in 0..bytes.len() {
            assert_eq!(arrive(bytes, &[split, bytes.len()]), decode_final(bytes), "split at {split}");
        }
    }
}

/// A request as one kind of peer writes it.
struct Written {
    form: &'static str,
    request: Request,
    bytes: Vec<u8>,
}

/// Every request in every form: the original's two encodings, and the orders of other authors.
fn every_form() -> Vec<Written> {
    let mut all = Vec::new();
    for command in every_command() {
        let request = request("alice", command);
        for (form, encoding) in [("original", Encoding::Terminated), ("padded", Encoding::Padded)] {
            all.push(Written { form, request: request.clone(), bytes: encoded(&request, encoding) });
        }
        for (form, bytes) in in_each_order(&request) {
            all.push(Written { form, request: read_from(form, &request), bytes });
        }
    }
    all
}

/// The bytes of a request decide what it is answered in, whatever other form they might have been in.
#[test]
fn no_request_of_one_form_is_taken_for_one_of_another() {
    let all = every_form();
    for one in &all {
        let text = String::from_utf8_lossy(&one.bytes);
        assert_eq!(decode_final(&one.bytes).as_ref(), Ok(&one.request), "{} {text}", one.form);
        let expected = if one.form == "padded" { Encoding::Padded } else { Encoding::Terminated };
        assert_eq!(encoding_of(&one.bytes), expected, "{} {text}", one.form);
        // A CONNECT with an address is told by the address alone, which decides nothing.
        let original = matches!(one.form, "original" | "padded");
        assert_eq!(is_original(&one.bytes), original, "{} {text}", one.form);
        for other in &all {
            // Nobody is answered while the bytes may still become another request.
            if other.bytes.len() > one.bytes.len() && other.bytes.starts_with(&one.bytes) {
                let answered = matches!(decode(&one.bytes), Progress::Complete(_));
                assert!(!answered || one.request == other.request, "{} {text} and {}", one.form, other.form);
            }
            // Who writes the same bytes is told by what it does, or by a setting.
            if one.bytes == other.bytes {
                assert_eq!((one.form, &one.request), (other.form, &other.request));
            }
        }
    }
}

#[test]
fn every_split_of_every_order_is_the_same_request() {
    for command in every_command() {
        let request = request("alice", command);
        for (order, bytes) in in_each_order(&request) {
            let expected = read_from(order, &request);
            for split in 0..=bytes.len() {
                assert_eq!(
                    arrive(&bytes, &[split, bytes.len()]).as_ref(),
                    Ok(&expected),
                    "{order} split at {split}"
                );
            }
            let each: Vec<usize> = (1..=bytes.len()).collect();
            assert_eq!(arrive(&bytes, &each).as_ref(), Ok(&expected), "{order} byte by byte");
        }
    }
}

#[test]
fn only_a_request_without_a_datetime_waits_for_one() {
    for command in every_command() {
        for (order, bytes) in in_each_order(&request("alice", command.clone())) {
            let progress = decode(&bytes);
            if order == "no datetime" {
                assert_eq!(progress, Progress::Tentative, "{}", String::from_utf8_lossy(&bytes));
            } else {
                assert!(matches!(progress, Progress::Complete(_)), "{order} of {command:?}: {progress:?}");
            }
        }
    }
}

#[test]
fn what_is_meant_as_a_datetime_is_no_username() {
    for first in
        ["2024-05-12 10:00:00", "12/05/24 10:00:00", "12/05/2024 10:00", "now", "12/05/2024 10:00:00 "]
    {
        for (behind, operation) in [
            ("alice\0", Operation::Register),
            ("alice\x0050085\0", Operation::Connect),
            ("alice\0a.txt\0a description\0", Operation::Publish),
            ("alice\0a.txt\0", Operation::Delete),
            ("alice\0", Operation::ListUsers),
        ] {
            let bytes = format!("{}\0{first}\0{behind}", operation.name()).into_bytes();
            let bad = BadRequest::Field { operation, field: "datetime", error: FieldError::NotDatetime };
            assert_eq!(decode_final(&bytes), Err(bad), "{}", String::from_utf8_lossy(&bytes));
        }
    }
    let clock = format!("REGISTER\0bob\0{DATE}\0");
    assert_eq!(decode_final(clock.as_bytes()).unwrap().username.unwrap().as_str(), "bob");
    let clock = format!("REGISTER\0{DATE}\0{DATE}\0");
    assert!(decode_final(clock.as_bytes()).is_err());
}

/// Bug: in a padded request with an empty datetime, the second name of a LIST_CONTENT could be a datetime.
#[test]
fn a_name_with_the_form_of_a_datetime_is_bad_in_either_place() {
    let datetime = "12/05/2024 10:00:00";
    let second = Command::ListContent(Some(datetime.parse().unwrap()));
    for (request, field) in
        [(request(datetime, Command::ListUsers), "username"), (request("alice", second), "remote username")]
    {
        let operation = request.command.operation();
        let undated = Request { datetime: "".parse().unwrap(), ..request };
        let bad = BadRequest::Field { operation, field, error: FieldError::MisplacedDatetime };
        assert_eq!(decode_final(&encoded(&undated, Encoding::Padded)), Err(bad));
    }
}

/// Bug: in a padded request, any text was taken for a datetime.
#[test]
fn a_datetime_of_another_form_is_bad_in_both_encodings() {
    let request =
        Request { datetime: "12/05/:024 10:00:00".parse().unwrap(), ..request("alice", Command::ListUsers) };
    for encoding in BOTH {
        let bad = BadRequest::Field {
            operation: Operation::ListUsers,
            field: "datetime",
            error: FieldError::NotDatetime,
        };
        assert_eq!(decode_final(&encoded(&request, encoding)), Err(bad));
    }
}

#[test]
fn a_peer_that_writes_the_datetime_last_may_have_no_username() {
    for (bytes, command) in [
        (&b"LIST_USERS\0\x0012/05/2024 10:00:00\0"[..], Command::ListUsers),
        (b"DISCONNECT\0\x0012/05/2024 10:00:00\0", Command::Disconnect),
        (b"CONNECT\0\x0050085\x0012/05/2024 10:00:00\0", Command::Connect(port(50_085))),
        (b"LIST_CONTENT\0\0bob\x0012/05/2024 10:00:00\0", Command::ListContent(Some("bob".parse().unwrap()))),
        (
            b"PUBLISH\0\0a.txt\0d\x0012/05/2024 10:00:00\0",
            Command::Publish("a.txt".parse().unwrap(), "d".parse().unwrap()),
        ),
    ] {
        let expected = Request { datetime: DATE.parse().unwrap(), ..request("", command) };
        for split in 0..bytes.len() {
            assert_eq!(arrive(bytes, &[split, bytes.len()]).as_ref(), Ok(&expected), "split at {split}");
        }
    }
}

#[test]
fn a_peer_that_writes_no_datetime_may_have_no_username() {
    let bytes = b"PUBLISH\0\0hello.txt\0d\0";
    let publish = Command::Publish("hello.txt".parse().unwrap(), "d".parse().unwrap());
    assert_eq!(decode(bytes), Progress::Tentative);
    assert_eq!(decode_final(bytes), Ok(Request { datetime: "".parse().unwrap(), ..request("", publish) }));
}

// --- bad requests -------------------------------------------------------------------

#[test]
fn bad_fields_are_answered_with_the_failure_of_the_operation() {
    let date = "12/05/2024 10:00:00";
    let long = "z".repeat(256);
    let cases: Vec<(Vec<u8>, &str, u8)> = vec![
        (format!("REGISTER\0{date}\0{long}").into(), "too_long", 2),
        (format!("REGISTER\0{date}\0\0").into(), "empty_name", 2),
        (format!("REGISTER\0{date}\0a\x1bb\0").into(), "control_character", 2),
        (format!("REGISTER\0{date} and more\0a\0").into(), "not_datetime", 2),
        (format!("REGISTER\0{date}\0{date}\0").into(), "misplaced_datetime", 2),
        (format!("REGISTER\0{long}").into(), "too_long", 2),
        ([format!("UNREGISTER\0{date}\0").as_bytes(), b"\xff\0"].concat(), "not_utf8", 2),
        (format!("CONNECT\0{date}\0a\x000\0").into(), "impossible_port", 3),
        (format!("CONNECT\0{date}\0a\x0065536\0").into(), "impossible_port", 3),
        (format!("CONNECT\0{date}\0a\0http\0").into(), "impossible_port", 3),
        (format!("DISCONNECT\0{date}\0a\nb\0").into(), "control_character", 3),
        (format!("PUBLISH\0{date}\0a\0f\0{long}").into(), "too_long", 4),
        (format!("PUBLISH\0{date}\0a\0\0d\0").into(), "empty_name", 4),
        (format!("DELETE\0{date}\0a\0{long}").into(), "too_long", 4),
        (format!("LIST_USERS\0{date}\0{long}").into(), "too_long", 3),
        (format!("LIST_CONTENT\0{date}\0a\0b\tc\0").into(), "control_character", 4),
    ];
    for (bytes, reason, status) in cases {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Progress::Bad(bad) = decode(&bytes) else { panic!("accepted {text:?}") };
        assert_eq!(bad.reason(), reason, "{text:?}");
        assert_eq!(bad.answer().map(|answer| answer.1), Some(status), "{text:?}");
        assert!(BadRequest::REASONS.contains(&bad.reason()));
    }
}

#[test]
fn unknown_operations_have_no_answer() {
    for bytes in [
        b"HELLO\0".as_slice(),
        b"\0",
        b"regist\0",
        b"GET_PART\0a\0",
        b"GET / HTTP/1.1\r\n\r\n\0",
        &[b'R'; 256],
    ] {
        let Progress::Bad(bad) = decode(bytes) else { panic!("accepted {bytes:?}") };
        assert_eq!(bad, BadRequest::UnknownOperation);
        assert_eq!(bad.answer(), None);
    }
    assert_eq!(decode(&[b'R'; 255]), Progress::Incomplete);
    assert_eq!(decode_final(b"REGIS"), Err(BadRequest::NoOperation));
}

#[test]
fn a_known_operation_that_stops_early_still_has_an_answer() {
    let bytes =
        encoded(&request("alice", Command::ListContent(Some("bob".parse().unwrap()))), Encoding::Terminated);
    for end in b"LIST_CONTENT\0".len()..bytes.len() {
        let bad = decode_final(&bytes[..end]);
        if end == bytes.len() - "bob\0".len() + 1 {
            continue;
        }
        assert_eq!(bad, Err(BadRequest::Incomplete { operation: Operation::ListContent }), "{end}");
        assert_eq!(bad.unwrap_err().answer(), Some((Operation::ListContent, 4)));
    }
}

// --- every split --------------------------------------------------------------------

#[test]
fn every_split_of_every_message_is_the_same_request() {
    for username in ["alice", "", &"u".repeat(255)] {
        for request in every_operation(username) {
            for encoding in BOTH {
                let bytes = encoded(&request, encoding);
                for split in 0..=bytes.len() {
                    let arrived = arrive(&bytes, &[split, bytes.len()]);
                    assert_eq!(arrived.as_ref(), Ok(&request), "{encoding:?} split at {split}");
                }
                // Once all bytes are there, the encoding is certain, even if the answer came before.
                let same = encoded(&request, Encoding::Terminated) == encoded(&request, Encoding::Padded);
                let expected = if same { Encoding::Terminated } else { encoding };
                assert_eq!(encoding_of(&bytes), expected, "{request:?}");
            }
        }
    }
}

#[test]
fn byte_by_byte_is_the_same_request() {
    for request in every_operation("alice") {
        for encoding in BOTH {
            let bytes = encoded(&request, encoding);
            let each: Vec<usize> = (1..=bytes.len()).collect();
            assert_eq!(arrive(&bytes, &each).as_ref(), Ok(&request), "{encoding:?}");
        }
    }
}

#[test]
fn a_terminated_request_is_complete_at_its_last_byte_and_not_before() {
    for request in every_operation("alice") {
        let bytes = encoded(&request, Encoding::Terminated);
        for end in 0..bytes.len() {
            assert!(!matches!(decode(&bytes[..end]), Progress::Complete(_)), "{request:?} at {end}");
        }
        assert!(matches!(decode(&bytes), Progress::Complete(_)), "{request:?}");
    }
}

// --- properties ---------------------------------------------------------------------

fn name() -> impl Strategy<Value = String> {
    "[^\\x00-\\x1f\\x7f-\\x9f]{1,60}".prop_filter("fits", |name| name.len() < 256)
}

prop_compose! {
    fn any_request()(
        which in 0..9,
        datetime in "[0-9]{2}/[0-9]{2}/[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}",
        username in name(),
        nobody in any::<bool>(),
        third in name(),
        fourth in prop_oneof![Just(String::new()), name()],
        number in 1..=u16::MAX,
    ) -> Request {
        let command = match which {
            0 => Command::Register,
            1 => Command::Unregister,
            2 => Command::Connect(port(number)),
            3 => Command::Disconnect,
            4 => Command::Publish(third.parse().unwrap(), fourth.parse().unwrap()),
            5 => Command::Delete(third.parse().unwrap()),
            6 => Command::ListUsers,
            7 => get_file(&third),
            _ => Command::ListContent(Some(third.parse().unwrap())),
        };
        let username = (command == Command::Register || !nobody).then(|| username.parse::<Username>().unwrap());
        Request { datetime: datetime.parse().unwrap(), username, command }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(request in any_request()) {
        for encoding in BOTH {
            let bytes = encoded(&request, encoding);
            prop_assert!(bytes.len() <= MAX_REQUEST);
            prop_assert_eq!(decode_final(&bytes), Ok(request.clone()));
        }
    }

    #[test]
    fn any_segmentation_is_the_same_request(
        request in any_request(),
        cuts in proptest::collection::btree_set(0_usize..MAX_REQUEST, 0..12),
    ) {
        for encoding in BOTH {
            let bytes = encoded(&request, encoding);
            let splits: BTreeSet<usize> = cuts.iter().copied().filter(|cut| *cut < bytes.len()).collect();
            let splits: Vec<usize> = splits.into_iter().chain([bytes.len()]).collect();
            prop_assert_eq!(arrive(&bytes, &splits), Ok(request.clone()));
        }
    }

    #[test]
    fn any_segmentation_of_any_order_is_the_same_request(
        request in any_request(),
        cuts in proptest::collection::btree_set(0_usize..MAX_REQUEST, 0..12),
    ) {
        prop_assume!(request.username.is_some());
        for (order, bytes) in in_each_order(&request) {
            let splits: BTreeSet<usize> = cuts.iter().copied().filter(|cut| *cut < bytes.len()).collect();
            let splits: Vec<usize> = splits.into_iter().chain([bytes.len()]).collect();
            prop_assert_eq!(arrive(&bytes, &splits), Ok(read_from(order, &request)), "{}", order);
        }
    }

    #[test]
    fn perturbed_input_never_panics_and_is_decided_within_the_bound(
        request in any_request(),
        form in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        tail in proptest::collection::vec(any::<u8>(), 0..1500),
    ) {
        let mut forms: Vec<_> = BOTH.into_iter().map(|encoding| encoded(&request, encoding)).collect();
        if request.username.is_some() {
            forms.extend(in_each_order(&request).into_iter().map(|(_, bytes)| bytes));
        }
        let mut bytes = form.get(&forms).clone();
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend_from_slice(&tail);
        check_any_bytes(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        check_any_bytes(&bytes);
    }
}

/// Checks what holds for any bytes. The fuzz target checks the same.
fn check_any_bytes(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MAX_REQUEST)];
    if bytes.len() == MAX_REQUEST {
        assert!(!matches!(decode(bytes), Progress::Incomplete), "a full buffer must be decided");
    }
    if let Ok(request) = decode_final(bytes) {
        let _ = (encoding_of(bytes), is_original(bytes));
        for encoding in BOTH {
            assert_eq!(decode_final(&encoded(&request, encoding)), Ok(request.clone()));
        }
    }
}
