//! The five processes and Redis under load, while each in turn is killed or paused:
//! nothing acknowledged is lost or doubled, nothing hangs, and everything recovers without
//! a restart of anything else.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lonja_proto::audit::{ListOperationsRequest, Operation, audit_service_client::AuditServiceClient};
use lonja_wire::{Command, Dialect};

use crate::{cluster::Cluster, eventually, wire};

const FAULTS: usize = 50;
const WRITERS: usize = 8;
/// A peer's answer or the end of its connection comes within this, whatever happens:
/// 2 s for the services, and what a machine that is busy with the rest adds.
const DEADLINE: Duration = Duration::from_secs(4);

type Key = (String, Operation, String);

/// What was answered with success, in order.
#[derive(Default)]
struct Acknowledged {
    operations: Mutex<Vec<Key>>,
    slowest: Mutex<Duration>,
}

impl Acknowledged {
    /// Asks, notes a success, and says whether it was one.
    fn ask(&self, peers: SocketAddr, name: &str, operation: Operation, command: Command, file: &str) -> bool {
        let started = Instant::now();
        let status = wire::try_ask(peers, name, command);
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = slowest.max(started.elapsed());
        drop(slowest);
        if status == Some(0) {
            self.operations.lock().unwrap().push((name.to_owned(), operation, file.to_owned()));
        }
        status == Some(0)
    }

    fn of(&self, wanted: Operation) -> Vec<(String, String)> {
        let operations = self.operations.lock().unwrap();
        let chosen = operations.iter().filter(|(_, operation, _)| *operation == wanted);
        chosen.map(|(name, _, file)| (name.clone(), file.clone())).collect()
    }
}

/// One user after the other registers, connects and publishes; every third disconnects.
fn write(peers: SocketAddr, prefix: &str, stop: &AtomicBool, done: &Acknowledged) {
    let port = std::num::NonZeroU16::new(50_085).unwrap().into();
    for user in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("{prefix}-{user}");
        if !done.ask(peers, &name, Operation::Register, Command::Register, "")
            || !done.ask(peers, &name, Operation::Connect, Command::Connect(port), "")
        {
            // While nothing listens, a refusal comes at once.
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        for file in ["a", "b", "c"] {
            done.ask(peers, &name, Operation::Publish, wire::publish_command(file), file);
        }
        if user % 3 == 0 {
            done.ask(peers, &name, Operation::Disconnect, Command::Disconnect, "");
        }
    }
}

/// Breaks one part for a moment, and waits until peers are served again.
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
    eventually("all of them", || {
        let _ = wire::try_ask(cluster.peers, &probe, Command::Connect(session));
        matches!(wire::try_ask(cluster.peers, &probe, wire::publish_command("x")), Some(0 | 3)).then_some(())
    });
    // What waited for the audit has been delivered: the records of peers who were served
    // without it would end with their gateway.
    eventually("the audit is up to date", || {
        audited(cluster).contains_key(&(probe.clone(), Operation::Publish, "x".to_owned())).then_some(())
    });
}

/// Records of successful operations.
fn audited(cluster: &Cluster) -> HashMap<Key, usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = AuditServiceClient::new(cluster.audit.channel());
        let mut found = HashMap::new();
        let Ok(pages) = client.list_operations(ListOperationsRequest::default()).await else { return found };
        let mut pages = pages.into_inner();
        while let Ok(Some(page)) = pages.message().await {
            for record in page.records.into_iter().filter(|record| record.status == 0) {
                let operation = record.operation();
                *found.entry((record.username, operation, record.subject)).or_default() += 1;
            }
        }
        found
    })
}

fn verify(cluster: &Cluster, done: &Acknowledged) {
    let registered = done.of(Operation::Register);
    assert!(registered.len() > FAULTS, "the load got somewhere: {}", registered.len());
    for (name, _) in &registered {
        assert_eq!(wire::register(cluster.peers, name), 1, "{name} is lost");
    }
    let ended: Vec<_> = done.of(Operation::Disconnect).into_iter().map(|(name, _)| name).collect();
    let connected: Vec<_> = done
        .of(Operation::Connect)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !ended.contains(name))
        .collect();
    // A disconnect whose answer was lost has ended a session all the same.
    let doubtful = |name: &String| name.rsplit('-').next().unwrap().parse::<usize>().unwrap() % 3 == 0;
    let watcher = connected.iter().find(|name| !doubtful(name)).unwrap();
    let users = wire::list_users(cluster.peers, watcher, Dialect::Padded).unwrap();
    let mut online: Vec<_> = users.iter().map(|user| user.username.to_string()).collect();
    online.sort();
    assert!(online.windows(2).all(|pair| pair[0] != pair[1]), "nobody twice");
    for name in connected.iter().filter(|name| !doubtful(name)) {
        assert!(online.binary_search(name).is_ok(), "the session of {name} is lost");
    }
    assert!(ended.iter().all(|name| online.binary_search(name).is_err()), "a session that ended is back");
    for (name, file) in
        done.of(Operation::Publish).iter().filter(|(name, _)| connected.contains(name) && !doubtful(name))
    {
        let listed = wire::list_content(cluster.peers, watcher, name, Dialect::Padded).unwrap();
        let times = listed.iter().filter(|listed| listed.filename.to_string() == *file).count();
        assert_eq!(times, 1, "{file} of {name}");
    }
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
    let slowest = *done.slowest.lock().unwrap();
    assert!(slowest < DEADLINE, "a peer waited {slowest:?}");
    verify(&cluster, &done);

    let audited = audited(&cluster);
    for key in done.operations.lock().unwrap().iter() {
        assert_eq!(audited.get(key), Some(&1), "{key:?}");
    }
}
