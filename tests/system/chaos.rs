//! The services and Redis are killed and paused in turn while peers load them. Nothing that was
//! acknowledged is lost or doubled, nothing hangs, and everything recovers without a restart of
//! anything else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lonja_testing::RedisServer;
use lonja_wire::Command;
use tempfile::TempDir;

use crate::{
    cluster::Cluster,
    eventually,
    load::{Load, until_recorded, verify},
    process, wire,
};

const FAULTS: usize = 50;
const WRITERS: usize = 8;
/// The longest that a peer may wait for an answer or the end of its connection: the 2 s that the
/// gateway waits for the services, and 2 s that a busy machine may add.
const DEADLINE: Duration = Duration::from_secs(4);
/// The longest that a peer may wait for a Redis that is being restarted: the 10 s that the gateway
/// holds a request, and 2 s that a busy machine may add.
const HELD: Duration = Duration::from_secs(12);
/// The largest number of answers that may come later than `DEADLINE`. A machine that stands still
/// for a moment delays one answer of each writer. A service that hangs does so at each fault of
/// its kind, which delays more answers.
const LATE: usize = 2 * WRITERS;

/// Kills or pauses one part for a moment, and waits until peers are served again.
fn fault(cluster: &mut Cluster, number: usize) {
    let pause = Duration::from_millis(100 + 53 * (number as u64 % 11));
    let kill = (number / 5).is_multiple_of(2);
    let services = [&mut cluster.registry, &mut cluster.catalog, &mut cluster.audit, &mut cluster.gateway];
    match (services.into_iter().nth(number % 5), kill) {
        (Some(service), true) => {
            service.process.kill();
            thread::sleep(pause);
            service.restart();
        }
        (Some(service), false) => {
            service.process.signal("STOP");
            thread::sleep(pause);
            service.process.signal("CONT");
        }
        (None, true) => {
            let redis = cluster.redis.as_mut().unwrap();
            redis.kill();
            thread::sleep(pause);
            redis.restart();
        }
        (None, false) => {
            let redis = cluster.redis.as_ref().unwrap();
            redis.signal("STOP");
            thread::sleep(pause);
            redis.signal("CONT");
        }
    }
    let probe = format!("probe{number}");
    eventually("peers are served again", || {
        matches!(wire::try_ask(cluster.peers, &probe, Command::Register), Some(0 | 1)).then_some(())
    });
    let session = std::num::NonZeroU16::new(50_085).unwrap().into();
    eventually("the catalog takes a PUBLISH", || {
        let _ = wire::try_ask(cluster.peers, &probe, Command::Connect(session));
        matches!(wire::try_ask(cluster.peers, &probe, wire::publish_command("x")), Some(0 | 3)).then_some(())
    });
    until_recorded(cluster.peers, &cluster.audit.url(), &probe);
}

#[test]
fn fifty_kills_and_pauses_lose_and_double_nothing() {
    let mut cluster = Cluster::on_redis();
    let peers = cluster.peers;
    let load = Load::start(&[peers], WRITERS, Duration::ZERO);
    for number in 0..FAULTS {
        fault(&mut cluster, number);
    }
    let done = load.stop();
    let late = done.later_than(DEADLINE);
    assert!(late.len() <= LATE, "peers waited {late:?}");
    assert!(late.iter().all(|time| *time < 4 * DEADLINE), "a peer waited {late:?}");
    verify(cluster.peers, &cluster.audit.url(), &done);
}

/// A Redis that is away for longer than services usually wait, as at a planned restart.
#[test]
fn a_restart_of_redis_costs_nobody_an_answer() {
    let redis = RedisServer::start();
    let store = redis.url();
    let admin = [("LONJA_ADMIN_LISTEN", "127.0.0.1:0")];
    let mut cluster = Cluster::on(&store, Some(redis), TempDir::new().unwrap(), &admin);
    let admin = cluster.gateway.process.address("admin listens on");
    let peers = cluster.peers;
    let load = Load::start(&[peers], WRITERS, Duration::ZERO);
    assert_eq!(wire::register(peers, "watcher"), 0);
    assert_eq!(wire::connect_as(peers, "watcher", 50_085), 0);
    let stop = Arc::new(AtomicBool::new(false));
    let lister = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(wire::ask(peers, "watcher", Command::ListUsers), 0);
            }
        }
    });
    for _ in 0..3 {
        let before = load.done.sent();
        eventually("peers are served", || (load.done.sent() > before + 500).then_some(()));
        // An outage that comes back at once would be the same outage.
        thread::sleep(Duration::from_secs(2));
        let redis = cluster.redis.as_mut().unwrap();
        redis.kill();
        thread::sleep(Duration::from_secs(3));
        redis.restart();
    }
    let before = load.done.sent();
    eventually("peers are served again", || (load.done.sent() > before + 500).then_some(()));
    stop.store(true, Ordering::Relaxed);
    lister.join().unwrap();
    let done = load.stop();
    let failed = done.failed();
    assert!(failed.is_empty(), "of {}: {failed:#?}", done.sent());
    assert!(done.later_than(HELD).is_empty());
    assert!(!done.later_than(Duration::from_millis(2500)).is_empty(), "some waited for Redis");
    let metrics = process::http_get(admin, "/metrics").1;
    let held = metrics.lines().find_map(|line| line.strip_prefix("lonja_gateway_requests_held_total "));
    assert!(held.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");
    verify(peers, &cluster.audit.url(), &done);
}

/// Bug: a Redis that takes connections and says nothing was held for a restart when several calls
/// waited for a connection.
#[test]
fn a_redis_that_hangs_is_not_waited_for() {
    let cluster = Cluster::on_redis();
    let peers = cluster.peers;
    let load = Load::start(&[peers], WRITERS, Duration::ZERO);
    eventually("peers are served", || (load.done.sent() > 500).then_some(()));
    let redis = cluster.redis.as_ref().unwrap();
    redis.signal("STOP");
    thread::sleep(Duration::from_secs(6));
    redis.signal("CONT");
    let done = load.stop();
    assert!(!done.failed().is_empty(), "a Redis that hangs costs answers");
    let late = done.later_than(DEADLINE);
    assert!(late.is_empty(), "peers waited {late:?}");
}

/// Where nobody else asks, a list alone is held too.
#[test]
fn a_restart_of_redis_holds_a_list() {
    let mut cluster = Cluster::on_redis();
    let peers = cluster.peers;
    assert_eq!(wire::register(peers, "watcher"), 0);
    assert_eq!(wire::connect_as(peers, "watcher", 50_085), 0);
    cluster.redis.as_mut().unwrap().kill();
    let asking = thread::spawn(move || wire::ask(peers, "watcher", Command::ListUsers));
    thread::sleep(Duration::from_secs(4));
    assert!(!asking.is_finished(), "the list is held");
    cluster.redis.as_mut().unwrap().restart();
    assert_eq!(asking.join().unwrap(), 0);
}

/// A Redis that does not come back: peers get their failure status, and after a while they get that
/// status within the usual time again.
#[test]
fn a_redis_that_stays_away_is_not_waited_for() {
    let mut cluster = Cluster::on_redis();
    let peers = cluster.peers;
    cluster.redis.as_mut().unwrap().kill();
    for (name, limit) in [("early", HELD), ("late", DEADLINE)] {
        let started = Instant::now();
        assert_eq!(wire::register(peers, name), 2, "{name}");
        assert!(started.elapsed() < limit, "{name}: {:?}", started.elapsed());
    }
    cluster.redis.as_mut().unwrap().restart();
    assert_eq!(wire::register_again(peers, "late"), 0);
}
