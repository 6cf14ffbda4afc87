//! Peers under whom parts of the index are killed and paused, and what they were told.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lonja_chassis::rpc::{Channel, Names};
use lonja_proto::audit::{ListOperationsRequest, Operation, audit_service_client::AuditServiceClient};
use lonja_wire::{Command, Dialect};

use crate::{eventually, wire};

pub(crate) type Key = (String, Operation, String);

/// What was answered with success, in order.
#[derive(Default)]
pub(crate) struct Acknowledged {
    operations: Mutex<Vec<Key>>,
    /// How long each answer took, successes or not.
    times: Mutex<Vec<Duration>>,
}

impl Acknowledged {
    /// Asks, notes a success, and says whether it was one.
    fn ask(&self, peers: SocketAddr, name: &str, operation: Operation, command: Command, file: &str) -> bool {
        let started = Instant::now();
        let status = wire::try_ask(peers, name, command);
        self.times.lock().unwrap().push(started.elapsed());
        if status == Some(0) {
            self.operations.lock().unwrap().push((name.to_owned(), operation, file.to_owned()));
        }
        status == Some(0)
    }

    /// The times of answers that took at least so long.
    pub(crate) fn later_than(&self, limit: Duration) -> Vec<Duration> {
        self.times.lock().unwrap().iter().filter(|time| **time >= limit).copied().collect()
    }

    fn of(&self, wanted: Operation) -> Vec<(String, String)> {
        let operations = self.operations.lock().unwrap();
        let chosen = operations.iter().filter(|(_, operation, _)| *operation == wanted);
        chosen.map(|(name, _, file)| (name.clone(), file.clone())).collect()
    }
}

/// One user after the other registers, connects and publishes; every third disconnects.
pub(crate) fn write(peers: SocketAddr, prefix: &str, stop: &AtomicBool, done: &Acknowledged) {
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

/// Records of successful operations, from the audit at this address; `None` if it did not
/// give them all.
pub(crate) fn audited(audit: &str) -> Option<HashMap<Key, usize>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client =
            AuditServiceClient::new(Channel::remote(audit, &Names::new(None).unwrap(), None).unwrap());
        let mut found = HashMap::new();
        let pages = client.list_operations(ListOperationsRequest::default()).await;
        let mut pages = pages.ok()?.into_inner();
        while let Some(page) = pages.message().await.ok()? {
            for record in page.records.into_iter().filter(|record| record.status == 0) {
                let operation = record.operation();
                *found.entry((record.username, operation, record.subject)).or_default() += 1;
            }
        }
        Some(found)
    })
}

/// Waits until this gateway's peers get their answers after their records are stored: until
/// then, what it has recorded would end with it.
pub(crate) fn until_recorded(peers: SocketAddr, audit: &str, name: &str) {
    // The first may be stored before the gateway knows of it. The second is asked after that,
    // and goes with the next batch, like all that was answered in between.
    for turn in ["first", "second"] {
        let mut names = (0..).map(|attempt| format!("{name}-{turn}{attempt}"));
        let name = eventually("a peer is registered", || {
            names.next().filter(|name| wire::try_ask(peers, name, Command::Register) == Some(0))
        });
        let key = (name, Operation::Register, String::new());
        eventually("the audit is up to date", || audited(audit)?.contains_key(&key).then_some(()));
    }
}

/// Whether everything that was answered with success is there.
pub(crate) fn verify(peers: SocketAddr, audit: &str, done: &Acknowledged) {
    let registered = done.of(Operation::Register);
    assert!(registered.len() > 50, "the load got somewhere: {}", registered.len());
    for (name, _) in &registered {
        assert_eq!(wire::register_again(peers, name), 1, "{name} is lost");
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
    let users = wire::list_users(peers, watcher, Dialect::Padded).unwrap();
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
        let listed = wire::list_content(peers, watcher, name, Dialect::Padded).unwrap();
        let times = listed.iter().filter(|listed| listed.filename.to_string() == *file).count();
        assert_eq!(times, 1, "{file} of {name}");
    }

    until_recorded(peers, audit, "verified");
    let audited = eventually("the audit gives its records", || audited(audit));
    let operations = done.operations.lock().unwrap();
    let is_wrong = |(_, key): &(usize, &Key)| audited.get(*key) != Some(&1);
    let wrong: Vec<_> = operations.iter().enumerate().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "of {} these are not there once: {wrong:?}", operations.len());
}
