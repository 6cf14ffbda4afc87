//! Replicas of a service behind one DNS name whose addresses change.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use lonja_testing::{NameServer, RedisServer};

use crate::{
    cluster::Service,
    eventually,
    process::{Process, http_get, lonja},
    wire,
};

/// The longest time that a replica may take to get 100 calls.
const SOON: Duration = Duration::from_secs(25);
/// How long the gateway waits for a service before it answers a peer with a failure.
const DEADLINE: Duration = Duration::from_secs(2);
const PEERS: u64 = 8;

/// A registry at an address of its own.
struct Replica {
    process: Process,
    admin: SocketAddr,
}

impl Replica {
    fn start(address: Ipv4Addr, port: u16, redis: &RedisServer) -> Self {
        let mut process = Process::spawn(
            lonja()
                .args(["registry", "--listen", &format!("{address}:{port}"), "--store", &redis.url()])
                .args(["--admin-listen", "127.0.0.1:0"]),
        );
        process.address("lonja.registry");
        let admin = process.address("admin listens on");
        Self { process, admin }
    }

    /// The number of `RegisterUser` calls that this replica has answered.
    fn calls(&self) -> u64 {
        let metrics = http_get(self.admin, "/metrics").1;
        let count = "lonja_rpc_server_duration_seconds_count{method=\"lonja.registry.v1.RegistryService/RegisterUser\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(count)?.parse().ok()).unwrap_or(0)
    }

    fn gets_calls(&self, what: &str) {
        let (before, begin) = (self.calls(), Instant::now());
        eventually(what, || (self.calls() > before + 100).then_some(()));
        assert!(begin.elapsed() < SOON, "{what} took {:?}", begin.elapsed());
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 77, number)
}

/// Finds a port that is free at each address of a replica.
fn port() -> u16 {
    eventually("a port is free", || {
        let listener = TcpListener::bind((address(1), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (2..=4).all(|number| TcpListener::bind((address(number), port)).is_ok()).then_some(port)
    })
}

#[test]
fn new_replicas_get_calls_and_those_that_are_gone_get_none() {
    let redis = RedisServer::start();
    let port = port();
    let start = |number| Replica::start(address(number), port, &redis);
    let mut first = start(1);
    let mut second = start(2);
    // Declared here, because these replicas must outlive the peers.
    let (mut third, mut fourth) = (None, None);
    let names = NameServer::start(&[address(1), address(2)]);
    let catalog = Service::start_at("127.0.0.1:0", "catalog", &["--store", &redis.url()], &[]);
    let audit = Service::start_at("127.0.0.1:0", "audit", &["--store", &redis.url()], &[]);
    let registry = format!("http://registry.lonja.test:{port}");
    let server = names.address.to_string();
    let arguments = [
        "--registry",
        &registry,
        "--catalog",
        &catalog.url(),
        "--audit",
        &audit.url(),
        "--dns-server",
        &server,
    ];
    let gateway = Service::start_at("127.0.0.1:0", "gateway", &arguments, &[]);

    let (over, asked, late) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for peer in 0..PEERS {
            let (over, asked, late) = (&over, &asked, &late);
            scope.spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let started = Instant::now();
                    match wire::register(gateway.address, &format!("peer-{peer}-{number}")) {
                        0 => asked.fetch_add(1, Ordering::Relaxed),
                        // A machine that stands still this long fails one request of each peer.
                        2 if started.elapsed() >= DEADLINE => late.fetch_add(1, Ordering::Relaxed),
                        status => panic!("{status} after {:?}", started.elapsed()),
                    };
                }
            });
        }
        let over = Over(&over);
        first.gets_calls("the first of two");
        second.gets_calls("the second of two");

        let third = third.insert(start(3));
        names.change(&[address(1), address(2), address(3)]);
        third.gets_calls("a replica that is new");

        // The first replica leaves the name, and is ended when it gets no more calls.
        names.change(&[address(2), address(3)]);
        eventually("the replica that left the name gets no calls", || {
            let before = first.calls();
            thread::sleep(Duration::from_secs(1));
            (first.calls() == before).then_some(())
        });
        first.process.signal("TERM");
        assert!(first.process.end().success());
        second.gets_calls("a replica that is still named");

        // The second replica ends while the name still has its address, and the fourth is named
        // before it runs. Meanwhile the third is called.
        second.process.signal("TERM");
        assert!(second.process.end().success());
        third.gets_calls("the only one that is left");
        names.change(&[address(3), address(4)]);
        fourth.insert(start(4)).gets_calls("a replica that was named before it was there");
        drop(over);
    });
    assert!(asked.load(Ordering::Relaxed) > 500);
    let late = late.load(Ordering::Relaxed);
    assert!(late <= PEERS, "{late} requests failed");
}

/// Ends the peers when it is dropped, so that they also end when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
