//! Who may speak, for whom, and how much: `--allow`, `--own-names`, and the rates of an address.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use lonja_wire::{Command, Encoding, Outcome};
use tempfile::TempDir;

use crate::{
    eventually,
    process::{Index, Process, lonja},
    wire::{self, bytes, connect_from},
};

/// Where the user of each test is, and where somebody else is.
const OWNER: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

fn ask_from(address: [u8; 4], peers: SocketAddr, username: &str, command: Command) -> u8 {
    let mut stream = connect_from(address, peers);
    stream.write_all(&bytes(username, command, Encoding::Terminated)).unwrap();
    let mut status = [0];
    stream.read_exact(&mut status).unwrap();
    status[0] - b'0'
}

fn connect() -> Command {
    Command::Connect(std::num::NonZeroU16::new(50_085).unwrap().into())
}

/// Registers and connects a user, who publishes a file.
fn arrive(peers: SocketAddr, username: &str) {
    for command in [Command::Register, connect(), wire::publish_command("old")] {
        assert_eq!(ask_from(OWNER, peers, username, command), 0);
    }
}

/// What only the owner of a name may do, if names have owners.
fn changes() -> [Command; 4] {
    let delete = Command::Delete("old".parse().unwrap());
    [wire::publish_command("new"), delete, Command::Disconnect, Command::Unregister]
}

/// Each change, by the owner and by somebody else, to a user who is connected; and what the index says of
/// the user afterwards.
fn matrix(index: &Index, other_may: bool) {
    for (number, command) in changes().into_iter().enumerate() {
        for (address, may) in [(OTHER, other_may), (OWNER, true)] {
            let username = format!("user{number}-{}", address[3]);
            arrive(index.peers, &username);
            let failure = command.operation().status(Outcome::Failed);
            let status = ask_from(address, index.peers, &username, command.clone());
            assert_eq!(status, if may { 0 } else { failure }, "{command:?} from {address:?}");
            if !may {
                let files = wire::list_content(index.peers, &username, &username, Encoding::Padded).unwrap();
                let files: Vec<_> = files.iter().map(|file| file.filename.to_string()).collect();
                assert_eq!(files, ["old"], "{command:?} changed nothing");
            }
        }
    }
}

#[test]
fn names_belong_to_nobody_unless_asked() {
    matrix(&Index::start(), true);
}

#[test]
fn a_connected_user_belongs_to_the_users_address() {
    let index = Index::start_with(&["--own-names", "connected", "--operators", "127.0.0.9"]);
    matrix(&index, false);
    assert_eq!(index.metric("lonja_gateway_requests_not_owned_total"), 4.0);
    let console = format!("http://{}", index.console);
    eventually("the refusal is recorded, with the address that asked", || {
        let list =
            lonja().args(["audit", "list", "--user", "user2-3", "--console", &console]).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        list.lines().any(|line| line.contains(" 127.0.0.3:") && line.contains(" 3 DISCONNECT ")).then_some(())
    });
    arrive(index.peers, "moved");
    assert_eq!(ask_from([127, 0, 0, 9], index.peers, "moved", Command::Disconnect), 0, "an operator");
    // Reading is for all, and so is the name of a user who is not connected.
    arrive(index.peers, "alice");
    assert_eq!(ask_from(OTHER, index.peers, "alice", Command::ListUsers), 0);
    assert_eq!(ask_from(OWNER, index.peers, "alice", Command::Disconnect), 0);
    assert_eq!(ask_from(OTHER, index.peers, "alice", Command::Disconnect), 2, "not connected");
    assert_eq!(ask_from(OTHER, index.peers, "alice", Command::Unregister), 0);
    assert_eq!(ask_from(OTHER, index.peers, "alice", Command::Unregister), 1, "not registered");
}

/// Each operation that changes something, by the owner and by somebody else, in each state of the user.
#[test]
fn a_registered_user_belongs_to_the_address_that_registered() {
    let index = Index::start_with(&["--own-names", "registered", "--operators", "127.0.0.9"]);
    matrix(&index, false);
    let operator = [127, 0, 0, 9];
    let ask = |from, command| ask_from(from, index.peers, "alice", command);
    assert_eq!(ask(OWNER, Command::Register), 0);
    // Whether connected or not, nobody else has the name.
    assert_eq!(ask(OTHER, connect()), 3);
    assert_eq!(ask(OTHER, Command::Unregister), 2);
    assert_eq!(ask(OTHER, Command::Register), 1, "taken, as ever");
    assert_eq!(ask(OTHER, Command::Disconnect), 2, "not connected, as ever");
    assert_eq!(ask(OWNER, connect()), 0);
    assert_eq!(ask(OTHER, connect()), 3);
    assert_eq!(ask(OTHER, Command::ListUsers), 0, "reading is for all");
    assert_eq!(ask(OWNER, Command::Disconnect), 0);
    // An operator may connect the user, and does not become the owner.
    assert_eq!(ask(operator, connect()), 0);
    assert_eq!(ask(operator, wire::publish_command("new")), 0);
    assert_eq!(ask(OTHER, Command::Disconnect), 3);
    assert_eq!(ask(OWNER, Command::Disconnect), 0);
    // The owner is still the owner after a restart.
    let index = index.restart();
    let ask = |from, command| ask_from(from, index.peers, "alice", command);
    assert_eq!(ask(OTHER, connect()), 3);
    assert_eq!(ask(OWNER, Command::Unregister), 0);
    assert_eq!(ask(OTHER, Command::Register), 0, "the name is free");
    assert_eq!(ask(OWNER, connect()), 3);
}

/// Users who registered before the rule belong to whoever connects them first.
#[test]
fn who_belonged_to_nobody_belongs_to_who_connects_first() {
    let index = Index::start();
    for command in [Command::Register, connect()] {
        assert_eq!(ask_from(OWNER, index.peers, "alice", command), 0);
    }
    assert_eq!(ask_from(OWNER, index.peers, "bob", Command::Register), 0);
    let index = index.restart_with(&["--own-names", "registered"]);
    assert_eq!(ask_from(OTHER, index.peers, "alice", Command::Disconnect), 3, "connected from elsewhere");
    assert_eq!(ask_from(OWNER, index.peers, "alice", Command::Disconnect), 0);
    for name in ["alice", "bob"] {
        assert_eq!(ask_from(OTHER, index.peers, name, connect()), 0);
        assert_eq!(ask_from(OWNER, index.peers, name, Command::Disconnect), 3);
        assert_eq!(ask_from(OTHER, index.peers, name, Command::Disconnect), 0);
        assert_eq!(ask_from(OWNER, index.peers, name, connect()), 3);
    }
}

/// Peers that are listed at one address cannot be told apart.
#[test]
fn the_address_is_the_one_that_is_listed() {
    let rule = "127.0.0.0/8=192.168.1.9";
    matrix(&Index::start_with(&["--own-names", "connected", "--advertise", rule]), true);
}

#[test]
fn behind_a_proxy_the_address_is_the_peers() {
    let proxied = ["--own-names", "connected", "--trusted-proxies", "127.0.0.1"];
    let index = Index::start_with(&proxied);
    let ask = |from: &str, command: Command| {
        let mut request = format!("PROXY TCP4 {from} 10.0.0.9 4000 5050\r\n").into_bytes();
        request.extend(bytes("alice", command, Encoding::Terminated));
        wire::exchange(index.peers, &request)
    };
    for command in [Command::Register, connect()] {
        assert_eq!(ask("10.0.0.1", command), b"0");
    }
    assert_eq!(ask("10.0.0.2", Command::Disconnect), b"3");
    assert_eq!(ask("10.0.0.1", Command::Disconnect), b"0");
}

#[test]
fn only_networks_that_are_allowed_may_speak() {
    let index = Index::start_with(&["--allow", "10.0.0.0/8,127.0.0.2"]);
    assert_eq!(ask_from(OWNER, index.peers, "alice", Command::Register), 0);
    let mut refused = connect_from(OTHER, index.peers);
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0, "closed at once");
    assert_eq!(index.metric("lonja_gateway_connections_not_allowed_total"), 1.0);
}

#[test]
fn a_flood_of_registrations_adds_what_the_rate_allows() {
    let index = Index::start_with(&["--max-registrations-per-address", "60"]);
    let flood = |number| ask_from(OTHER, index.peers, &format!("flood{number}"), Command::Register);
    let statuses: Vec<_> = (0..1000).map(flood).collect();
    let added = statuses.iter().filter(|status| **status == 0).count();
    // One more is allowed in each second of the flood.
    assert!((60..90).contains(&added), "{added}");
    assert!(statuses.iter().all(|status| matches!(status, 0 | 2)), "the others failed");
    let refused = index.metric("lonja_gateway_requests_beyond_rate_total{rate=\"registrations\"}");
    assert_eq!(refused, (1000 - added) as f64);
    // Each request has its line, and only what was not refused is recorded.
    eventually("all lines", || {
        let lines = index.process.stdout();
        let asked = lines.iter().filter(|line| line.starts_with("s> OPERATION FROM flood")).count();
        let recorded = lines.iter().filter(|line| line.starts_with("flood")).count();
        ((asked, recorded) == (1000, added)).then_some(())
    });
    assert_eq!(ask_from(OWNER, index.peers, "alice", Command::Register), 0, "another address is served");
}

/// 200 peers behind one address, each of which registers six times within a minute.
#[test]
fn a_class_does_not_meet_the_rates_that_nobody_has_set() {
    let data = TempDir::new().unwrap();
    let mut up = lonja();
    up.env_remove("LONJA_MAX_REGISTRATIONS_PER_ADDRESS").env_remove("LONJA_MAX_REQUESTS_PER_ADDRESS");
    up.args(["up", "--data-dir"]).arg(data.path());
    up.args(["--gateway-listen", "127.0.0.1:0", "--datetime-listen", "127.0.0.1:0"]);
    let mut up = Process::spawn(up.args(["--console-listen", "127.0.0.1:0"]));
    let peers = up.address("peers connect to");
    let register = |peer: usize| ask_from(OTHER, peers, &format!("peer{peer}"), Command::Register);
    let statuses: Vec<_> = (0..1200).map(|number| register(number % 200)).collect();
    assert!(statuses.iter().all(|status| matches!(status, 0 | 1)), "{statuses:?}");
    let flood: Vec<_> = (200..700).map(register).collect();
    assert!(flood.contains(&2), "a flood is refused: {flood:?}");
}

/// Bug: a peer at another address was refused, kept its connection, and changed how the user's own peer was
/// answered from then on.
#[test]
fn a_peer_that_is_refused_changes_nothing_of_the_user() {
    let index = Index::start_with(&["--own-names", "connected"]);
    arrive(index.peers, "alice");
    let mut stranger = connect_from(OTHER, index.peers);
    stranger.write_all(&bytes("alice", wire::publish_command("new"), Encoding::Terminated)).unwrap();
    let mut reply = Vec::new();
    stranger.read_to_end(&mut reply).unwrap();
    assert_eq!(reply[0], b'4');
    // Nor does a stranger whose request is one that everybody may make.
    for command in [connect(), Command::ListContent(Some("nobody".parse().unwrap()))] {
        let mut stranger = connect_from(OTHER, index.peers);
        stranger.write_all(&bytes("alice", command.clone(), Encoding::Terminated)).unwrap();
        let mut reply = Vec::new();
        stranger.read_to_end(&mut reply).unwrap();
        // Already connected, and no such remote user: as without the rule.
        assert_eq!(reply[0], if matches!(command, Command::Connect(_)) { b'2' } else { b'3' });
    }
    let users = wire::list_users(index.peers, "alice", Encoding::Terminated).unwrap();
    assert_eq!(users.len(), 1, "the list still has the form that an original peer reads");
}
