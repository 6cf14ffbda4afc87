//! `--check-peers`: who is gone is ended, and nobody else is, nor hurt.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use lonja_wire::{Command, Encoding};
use tempfile::TempDir;

use crate::{
    PATIENCE,
    cluster::{Cluster, on_each_store},
    eventually,
    peer::{Peer, Shell as _},
    process::{Index, lonja},
    wire,
};

/// The time between two checks of a peer, in seconds.
const INTERVAL: &str = "0.1";

fn index() -> Index {
    Index::start_with(&["--check-peers", INTERVAL])
}

/// Registers and connects a user who is listed at this port.
fn arrive(peers: SocketAddr, name: &str, port: u16) {
    assert_eq!(wire::register(peers, name), 0);
    assert_eq!(wire::connect_as(peers, name, port), 0);
}

fn listed(peers: SocketAddr, asker: &str) -> Vec<String> {
    let users = wire::list_users(peers, asker, Encoding::Padded).unwrap();
    users.iter().map(|user| user.username.to_string()).collect()
}

/// How many checks had this result.
fn checks(index: &Index, result: &str) -> u32 {
    index.metric(&format!("lonja_gateway_peer_checks_total{{result=\"{result}\"}}")) as u32
}

/// A peer that answers whoever asks for a file that it has not, as an original peer does.
struct Peerlike {
    address: SocketAddr,
    /// When somebody asked, and for which name.
    asked: mpsc::Receiver<(Instant, String)>,
    serving: thread::JoinHandle<()>,
}

impl Peerlike {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asks, asked) = mpsc::channel();
        let serving = thread::spawn(move || {
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let mut operation = [0; 9];
                if stream.read_exact(&mut operation).is_err() {
                    return;
                }
                assert_eq!(&operation, b"GET_FILE\0");
                let mut name = [0; 256];
                let length = stream.read(&mut name).unwrap();
                let name = String::from_utf8(name[..length].to_vec()).unwrap();
                asks.send((Instant::now(), name)).unwrap();
                stream.write_all(b"1").unwrap();
            }
        });
        Self { address, asked, serving }
    }

    /// Ends the peer. Gives what was asked that nobody has taken yet.
    fn end(self) -> Vec<(Instant, String)> {
        drop(TcpStream::connect(self.address).unwrap());
        self.serving.join().unwrap();
        self.asked.iter().collect()
    }
}

#[test]
fn who_was_there_and_is_gone_is_ended_on_the_record() {
    let index = index();
    let alive = Peerlike::start();
    arrive(index.peers, "observer", alive.address.port());
    let gone: Vec<_> = (0..50).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for (number, listener) in gone.iter().enumerate() {
        arrive(index.peers, &format!("gone{number}"), listener.local_addr().unwrap().port());
    }
    arrive(index.peers, "never-there", 1);
    assert_eq!(wire::publish(index.peers, "gone0", "notes"), 0);
    eventually("everybody was reached", || (checks(&index, "reached") >= 60).then_some(()));
    drop(gone);
    let left = ["observer", "never-there"];
    eventually("who is gone is not listed", || (listed(index.peers, "observer") == left).then_some(()));
    assert_eq!(index.metric("lonja_gateway_expired_sessions_total"), 50.0);
    let console = format!("http://{}", index.console);
    eventually("each is in the audit", || {
        let list = lonja().args(["audit", "list", "--operation", "expire", "--console", &console]).output();
        let list = String::from_utf8(list.unwrap().stdout).unwrap();
        (list.lines().count() == 50 && list.contains(" 0 EXPIRE       gone49")).then_some(())
    });
    // It is as if the peer had disconnected: the user may come back, and shares nothing.
    assert_eq!(wire::connect_as(index.peers, "gone0", alive.address.port()), 0);
    assert_eq!(wire::list_content(index.peers, "observer", "gone0", Encoding::Padded).unwrap(), Vec::new());
    // A peer that never could be reached proves nothing, however often it is refused.
    let refused = checks(&index, "refused");
    eventually("many more checks", || (checks(&index, "refused") >= refused + 20).then_some(()));
    assert!(listed(index.peers, "observer").contains(&"never-there".to_owned()));
    drop(index);
    let asked = alive.end();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|(_, name)| name == "/nonexistent/lonja-check\0"), "{asked:?}");
}

/// A listener with the shortest backlog. Unless somebody accepts, the system soon drops what comes, as a firewall
/// does.
fn with_short_backlog() -> TcpListener {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap().into_std().unwrap();
    listener.set_nonblocking(false).unwrap();
    listener
}

#[test]
fn no_answer_proves_nothing() {
    let index = index();
    let listener = with_short_backlog();
    let address = listener.local_addr().unwrap();
    for number in 0..50 {
        arrive(index.peers, &format!("behind{number}"), address.port());
    }
    // All are reached once, and then nobody accepts any more.
    let mut reached = Vec::new();
    for _ in 0..50 {
        reached.push(listener.accept().unwrap().0);
    }
    let timeout = Duration::from_millis(200);
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, timeout) {
        waiting.push(stream);
    }
    drop(reached);
    eventually("many checks without an answer", || (checks(&index, "silent") >= 50).then_some(()));
    assert_eq!(listed(index.peers, "behind0").len(), 50);
    assert_eq!(index.metric("lonja_gateway_expired_sessions_total"), 0.0);
}

/// An original peer is copied from, slowly, while it is checked.
#[test]
fn an_original_peer_that_is_busy_is_neither_ended_nor_hurt() {
    let index = index();
    let directory = TempDir::new().unwrap();
    let content: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(directory.path().join("long.bin"), &content).unwrap();
    let mut peer = Peer::start(index.peers, index.datetime, directory.path());
    for command in ["REGISTER alice", "CONNECT alice", "PUBLISH long.bin d"] {
        assert!(peer.run(command)[0].ends_with(" OK"), "{command}");
    }
    let users = wire::list_users(index.peers, "alice", Encoding::Padded).unwrap();
    let address = SocketAddr::from((users[0].address, users[0].port.get()));
    eventually("the peer was reached", || (checks(&index, "reached") >= 3).then_some(()));
    let mut copy = TcpStream::connect(address).unwrap();
    copy.write_all(b"GET_FILE\0long.bin\0").unwrap();
    let mut status = [0];
    copy.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"0");
    // While the peer is busy, what else it was asked waits in its backlog.
    let mut copied = Vec::new();
    let mut piece = vec![0; content.len() / 100 + 1];
    while let Ok(length @ 1..) = copy.read(&mut piece) {
        copied.extend_from_slice(&piece[..length]);
        if copied.len() < content.len() / 2 {
            thread::sleep(Duration::from_millis(40));
        }
    }
    assert!(copied == content, "{} of {} bytes", copied.len(), content.len());
    let reached = checks(&index, "reached");
    eventually("the peer is reached again", || (checks(&index, "reached") >= reached + 3).then_some(()));
    assert_eq!(listed(index.peers, "alice"), ["alice"]);
    assert_eq!(peer.run("LIST_CONTENT alice").len(), 2, "the peer works");
}

#[test]
fn several_gateways_share_the_checks() {
    on_each_store(|cluster: Cluster| {
        let urls = [&cluster.registry, &cluster.catalog, &cluster.audit].map(|service| service.url());
        let services = ["--registry", &urls[0], "--catalog", &urls[1], "--audit", &urls[2]];
        let arguments = [&services[..], &["--check-peers", "1"]].concat();
        let gateways =
            [(); 2].map(|()| crate::cluster::Service::start_at("127.0.0.1:0", "gateway", &arguments, &[]));
        let alice = Peerlike::start();
        arrive(cluster.peers, "alice", alice.address.port());
        let moments: Vec<_> = (0..5).map(|_| alice.asked.recv_timeout(PATIENCE).unwrap().0).collect();
        // Each gateway alone would ask once in a second, and both together five times in two seconds.
        let time = moments[4] - moments[0];
        assert!(time > Duration::from_secs(3), "asked five times in {time:?}");
        drop(gateways);
        assert_eq!(wire::ask(cluster.peers, "alice", Command::Disconnect), 0);
        alice.end();
    });
}
