//! The services and Redis are killed and paused in turn while peers load them. Nothing that was
//! acknowledged is lost or doubled, nothing hangs, and everything recovers without a restart of
//! anything else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use lonja_wire::Command;

use crate::{
    cluster::Cluster,
    eventually,
    load::{Acknowledged, until_recorded, verify, write},
    wire,
};

const FAULTS: usize = 50;
const WRITERS: usize = 8;
/// The longest that a peer may wait for an answer or the end of its connection: the 2 s that the
/// gateway waits for the services, and 2 s that a busy machine may add.
const DEADLINE: Duration = Duration::from_secs(4);
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
    let done = Arc::new(Acknowledged::default());
    let stop = Arc::new(AtomicBool::new(false));
    let peers = cluster.peers;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            thread::spawn(move || write(peers, &format!("w{writer}"), &stop, &done))
        })
        .collect();
    for number in 0..FAULTS {
        fault(&mut cluster, number);
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let late = done.later_than(DEADLINE);
    assert!(late.len() <= LATE, "peers waited {late:?}");
    assert!(late.iter().all(|time| *time < 4 * DEADLINE), "a peer waited {late:?}");
    verify(cluster.peers, &cluster.audit.url(), &done);
}
