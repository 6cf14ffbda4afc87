//! Peers that open too many connections, take too long or send too much, and load balancers.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lonja_wire::{Command, Encoding};

use crate::{
    eventually,
    process::Index,
    wire::{self, bytes},
};

#[test]
fn thousands_of_slow_connections_are_held_and_cut_while_others_are_served() {
    const SLOW: usize = 5000;
    const TIMEOUT: Duration = Duration::from_secs(15);
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let index = Index::start_with(&["--request-timeout", "15", "--max-connections-per-address", "6000"]);
    assert_eq!(wire::register(index.peers, "warm-up"), 0);
    let before = index.process.resident_kib();

    let request = bytes("slow", Command::Register, Encoding::Terminated);
    let mut slow: Vec<_> = (0..SLOW)
        .map(|_| {
            let mut stream = wire::connect(index.peers);
            stream.write_all(&request[..1]).unwrap();
            (stream, Instant::now())
        })
        .collect();
    eventually("all are held", || {
        (index.metric("lonja_gateway_connections_open") >= SLOW as f64).then_some(())
    });
    let each = (index.process.resident_kib().saturating_sub(before)) as f64 / SLOW as f64;
    assert!(each <= 16.0, "{each} KiB for each held connection");

    let cut = Arc::new(AtomicBool::new(false));
    let honest = thread::spawn({
        let (cut, peers) = (Arc::clone(&cut), index.peers);
        move || {
            let mut served = 0;
            while !cut.load(Ordering::Relaxed) {
                assert_eq!(wire::register(peers, &format!("honest{served}")), 0);
                served += 1;
            }
            served
        }
    });
    // A byte a second: no request is complete before the deadline.
    for byte in &request[1..6] {
        for (stream, _) in &mut slow {
            let _ = stream.write_all(&[*byte]);
        }
        thread::sleep(Duration::from_secs(1));
    }
    for (mut stream, opened) in slow {
        let mut reply = Vec::new();
        // If a byte comes while the gateway closes, the connection ends with a reset.
        let ended = stream
            .read_to_end(&mut reply)
            .map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true);
        assert!(ended && reply.is_empty(), "no operation was named, so there is no answer");
        assert!(opened.elapsed() < TIMEOUT + Duration::from_secs(20));
    }
    cut.store(true, Ordering::Relaxed);
    assert!(honest.join().unwrap() > 100, "others were served");
    assert_eq!(index.metric("lonja_gateway_connections_timed_out_total"), SLOW as f64);
}

#[test]
fn a_slow_request_that_has_named_its_operation_is_answered_at_the_deadline() {
    let index = Index::start_with(&["--request-timeout", "0.5"]);
    let mut stream = wire::connect(index.peers);
    stream.write_all(b"PUBLISH\x0012/05").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"4");
}

#[test]
fn no_answer_is_lost_when_input_follows_the_request() {
    let index = Index::start();
    for round in 0..500 {
        let mut request = bytes(&format!("user{round}"), Command::Register, Encoding::Terminated);
        request.extend(vec![b'x'; 1 + 397 * round]);
        let reply = wire::exchange(index.peers, &request);
        assert_eq!(reply, b"0", "round {round}");
    }
}

#[test]
fn one_address_cannot_take_every_place() {
    let index = Index::start_with(&["--max-connections-per-address", "3"]);
    let held: Vec<_> = (0..3).map(|_| wire::connect(index.peers)).collect();
    eventually("the gateway holds the connections", || {
        (index.metric("lonja_gateway_connections_open") == 3.0).then_some(())
    });
    let mut refused = wire::connect(index.peers);
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0, "closed at once");
    assert_eq!(index.metric("lonja_gateway_connections_refused_total"), 1.0);
    let mut other = wire::connect_from([127, 0, 0, 2], index.peers);
    other.write_all(&bytes("alice", Command::Register, Encoding::Terminated)).unwrap();
    let mut status = [0];
    other.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"0", "another address still has a place");
    drop(held);
    let served = || (wire::try_ask(index.peers, "alice", Command::ListUsers) == Some(2)).then_some(());
    eventually("places come back", served);
}

#[test]
fn further_connections_wait_for_a_place() {
    let index = Index::start_with(&["--max-connections", "2"]);
    let held: Vec<_> = (0..2).map(|_| wire::connect(index.peers)).collect();
    eventually("the gateway holds the connections", || {
        (index.metric("lonja_gateway_connections_open") == 2.0).then_some(())
    });
    let mut waiting = wire::connect(index.peers);
    waiting.write_all(&bytes("alice", Command::Register, Encoding::Terminated)).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut status = [0];
    assert!(waiting.read_exact(&mut status).is_err(), "answered although there is no place");
    waiting.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    drop(held);
    waiting.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"0");
}

#[test]
fn peers_that_do_not_read_hold_up_nobody_and_are_cut() {
    const FILES: usize = 9000;
    let index = Index::start();
    for name in ["alice", "bob"] {
        assert_eq!(wire::register(index.peers, name), 0);
        assert_eq!(wire::connect_as(index.peers, name, 50_085), 0);
    }
    let peers = index.peers;
    let publishers: Vec<_> = (0..16)
        .map(|part| {
            thread::spawn(move || {
                for file in (part..FILES).step_by(16) {
                    assert_eq!(wire::publish(peers, "alice", &format!("file{file}")), 0);
                }
            })
        })
        .collect();
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    assert_eq!(wire::publish(peers, "bob", "one.txt"), 0);

    // Each reply has 4.6 MB, far more than the operating system holds for a socket.
    let everything = Command::ListContent(Some("alice".parse().unwrap()));
    let request = bytes("bob", everything, Encoding::Terminated);
    let deaf: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = wire::connect(peers);
            stream.write_all(&request).unwrap();
            stream
        })
        .collect();
    eventually("the gateway holds the connections", || {
        (index.metric("lonja_gateway_connections_open") >= 20.0).then_some(())
    });
    assert_eq!(wire::list_content(peers, "alice", "bob", Encoding::Terminated).unwrap().len(), 1);
    assert_eq!(wire::list_content(peers, "bob", "alice", Encoding::Terminated).unwrap().len(), FILES);
    eventually("the gateway has cut the connections", || {
        (index.metric("lonja_gateway_connections_open") == 0.0).then_some(())
    });
    assert_eq!(index.metric("lonja_gateway_replies_not_taken_total"), 20.0);
    drop(deaf);
}

#[test]
fn a_rule_says_under_which_address_a_peer_is_listed() {
    let index = Index::start_with(&["--advertise", "127.0.0.0/8=192.0.2.7"]);
    assert_eq!(wire::register(index.peers, "alice"), 0);
    assert_eq!(wire::connect_as(index.peers, "alice", 50_085), 0);
    let users = wire::list_users(index.peers, "alice", Encoding::Padded).unwrap();
    assert_eq!(users[0].address.to_string(), "192.0.2.7");
}

#[test]
fn a_flood_of_bad_requests_does_not_flood_the_log() {
    let index = Index::start();
    let started = Instant::now();
    for _ in 0..2000 {
        assert_eq!(wire::exchange(index.peers, b"HELLO\0"), b"");
    }
    assert_eq!(index.metric("lonja_gateway_bad_requests_total{reason=\"unknown_operation\"}"), 2000.0);
    let lines = index.process.stderr().len();
    let seconds = started.elapsed().as_secs() as usize + 1;
    assert!(lines <= 100 * (seconds + 1), "{lines} lines in {seconds} s");
}

#[test]
fn a_trusted_proxy_says_whom_it_speaks_for() {
    let index = Index::start_with(&["--trusted-proxies", "127.0.0.0/8"]);
    let through = |header: &[u8], command: Command| {
        let request = bytes("alice", command, Encoding::Terminated);
        wire::exchange_in(index.peers, &[header, &request])
    };
    let port = std::num::NonZeroU16::new(50_085).unwrap().into();
    let header = b"PROXY TCP4 203.0.113.9 127.0.0.1 51000 5050\r\n";
    assert_eq!(through(header, Command::Register), b"0");
    assert_eq!(through(header, Command::Connect(port)), b"0");
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend([203, 0, 113, 9, 127, 0, 0, 1, 0xc7, 0x38, 0x13, 0xba]);
    let list = through(&second, Command::ListUsers);
    assert!(list.starts_with(b"00001") && String::from_utf8_lossy(&list).contains("203.0.113.9"));
    // A request without a header is not carried out.
    assert_eq!(through(b"", Command::Unregister), b"");
    assert_eq!(index.metric("lonja_gateway_bad_requests_total{reason=\"proxy_header\"}"), 1.0);
}

#[test]
fn from_anyone_else_a_proxy_header_is_a_bad_request() {
    let index = Index::start_with(&["--trusted-proxies", "192.0.2.0/24"]);
    let mut request = b"PROXY TCP4 203.0.113.9 127.0.0.1 51000 5050\r\n".to_vec();
    request.extend(bytes("alice", Command::Register, Encoding::Terminated));
    assert_eq!(wire::exchange(index.peers, &request), b"");
    assert_eq!(index.metric("lonja_gateway_bad_requests_total{reason=\"unknown_operation\"}"), 1.0);
    assert_eq!(wire::register(index.peers, "alice"), 0);
}
