//! `kill -9` under load, again and again: everything that was answered with success is still there.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use lonja_audit::{
    AuditConfig,
    store::{EmbeddedStore as AuditStore, Position, Store as _},
};
use lonja_catalog::{
    CatalogConfig,
    store::{EmbeddedStore as CatalogStore, Store as _},
};
use lonja_journal::Journal;
use lonja_proto::audit::Operation;
use lonja_registry::store::{EmbeddedStore as RegistryStore, Store as _};
use lonja_wire::{Command, Encoding};

use crate::{eventually, process::Index, wire};

const ROUNDS: usize = 10;
const WRITERS: usize = 16;

/// What the index has answered with success.
#[derive(Debug, Default, Clone)]
struct Acknowledged {
    registered: Vec<String>,
    connected: Vec<String>,
    /// The files that each user has published, in order.
    published: HashMap<String, Vec<String>>,
}

/// What the writers of a round share.
#[derive(Default)]
struct Round {
    stop: AtomicBool,
    /// How many sessions have begun.
    connected: AtomicUsize,
}

/// Registers, connects and publishes until the index is gone.
fn write(peers: SocketAddr, prefix: &str, round: &Round) -> Acknowledged {
    let mut done = Acknowledged::default();
    for user in 0.. {
        let name = format!("{prefix}-{user}");
        let port = std::num::NonZeroU16::new(50_085).unwrap().into();
        let mut steps = vec![(Command::Register, 0), (Command::Connect(port), 1)];
        steps.extend((0..5).map(|file| (wire::publish_command(&format!("file{file}")), 2 + file)));
        for (command, step) in steps {
            if round.stop.load(Ordering::Relaxed) || wire::try_ask(peers, &name, command) != Some(0) {
                return done;
            }
            match step {
                0 => done.registered.push(name.clone()),
                1 => {
                    done.connected.push(name.clone());
                    round.connected.fetch_add(1, Ordering::Relaxed);
                }
                file => done.published.entry(name.clone()).or_default().push(format!("file{}", file - 2)),
            }
        }
    }
    done
}

/// Connects and disconnects one user until the index is gone. Most of what this writes is soon out
/// of date, so that the index is also killed while it cleans its log.
fn churn(peers: SocketAddr, name: &str, round: &Round) -> Acknowledged {
    let mut done = Acknowledged::default();
    if wire::try_ask(peers, name, Command::Register) == Some(0) {
        done.registered.push(name.to_owned());
    }
    let port = std::num::NonZeroU16::new(50_085).unwrap().into();
    let turn = || {
        wire::try_ask(peers, name, Command::Connect(port)) == Some(0)
            && wire::try_ask(peers, name, Command::Disconnect) == Some(0)
    };
    let mut served = true;
    while served && !round.stop.load(Ordering::Relaxed) {
        served = turn();
    }
    done
}

fn verify(index: &Index, done: &Acknowledged) {
    for name in &done.registered {
        assert_eq!(wire::register_again(index.peers, name), 1, "{name} is lost");
    }
    let watcher = &done.connected[0];
    let users = wire::list_users(index.peers, watcher, Encoding::Padded).unwrap();
    let online: std::collections::HashSet<_> = users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(online.len(), users.len(), "nobody twice");
    for name in &done.connected {
        assert!(online.contains(name.as_str()), "the session of {name} is lost");
    }
    for (name, files) in &done.published {
        let listed = wire::list_content(index.peers, watcher, name, Encoding::Padded).unwrap();
        let listed: Vec<_> = listed.iter().map(|file| file.filename.to_string()).collect();
        // The file that was being published at the kill may be there or not.
        assert!(listed.starts_with(files), "{name}: {listed:?} lacks some of {files:?}");
        assert!(listed.len() <= files.len() + 1);
    }
}

/// Opens the three stores of a data directory that no index has open, and waits for a look at them.
fn look<T>(data: &Path, look: impl AsyncFnOnce(Stores) -> T) -> T {
    let mut journal = Journal::open(data, "lonja").unwrap();
    let max_audit_records = u64::MAX;
    let stores = Stores {
        registry: RegistryStore::open(&mut journal).unwrap(),
        catalog: CatalogStore::open(&mut journal, &CatalogConfig { max_files_per_session: 1000 }).unwrap(),
        audit: AuditStore::open(&mut journal, &AuditConfig { max_audit_records }).unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(look(stores))
}

struct Stores {
    registry: RegistryStore,
    catalog: CatalogStore,
    audit: AuditStore,
}

/// An operation that the audit has: whose, which, and of what file.
type Audited = (String, Operation, String);

/// The operations that succeeded, in the audit's order.
async fn audited(audit: &AuditStore) -> Vec<Audited> {
    let (mut found, mut position) = (Vec::new(), Position::default());
    loop {
        let records = audit.read(position).await.unwrap();
        let Some((behind, _)) = records.last() else { return found };
        position = *behind;
        let succeeded = records.into_iter().map(|(_, record)| record).filter(|record| record.status == 0);
        found.extend(succeeded.map(|record| {
            let operation = record.operation();
            (record.username, operation, record.subject)
        }));
    }
}

/// Users, each with what the user's session has published, or `None` without a session.
type State = BTreeMap<String, Option<Vec<String>>>;

async fn state(stores: &Stores) -> State {
    let mut state = State::new();
    for user in stores.registry.users().await.unwrap() {
        let mut published = None;
        if let Some(session) = &user.session {
            let listed = stores.catalog.list(session.id).await.unwrap();
            published = Some(listed.into_iter().map(|listed| listed.file.filename).collect());
        }
        state.insert(user.username.to_string(), published);
    }
    state
}

/// What the operations that the audit has make of an empty index.
fn replayed(operations: &[Audited]) -> State {
    let mut state = State::new();
    for (username, operation, subject) in operations {
        match operation {
            Operation::Register => {
                assert!(state.insert(username.clone(), None).is_none(), "{username} twice")
            }
            Operation::Connect => *state.get_mut(username).unwrap() = Some(Vec::new()),
            Operation::Disconnect => *state.get_mut(username).unwrap() = None,
            Operation::Publish => {
                state.get_mut(username).unwrap().as_mut().unwrap().push(subject.clone());
            }
            _ => {}
        }
    }
    state
}

#[test]
fn nothing_acknowledged_is_lost_in_ten_kills_under_load() {
    let mut index = Index::start();
    let mut all = Acknowledged::default();
    for number in 0..ROUNDS {
        let round = Arc::new(Round::default());
        let peers = index.peers;
        let writers: Vec<_> = (0..2 * WRITERS)
            .map(|writer| {
                let round = Arc::clone(&round);
                let name = format!("r{number}w{writer}");
                // Of three threads, one writes and two churn.
                let work = if writer % 3 == 0 { write } else { churn };
                thread::spawn(move || work(peers, &name, &round))
            })
            .collect();
        eventually("the load gets somewhere", || {
            (round.connected.load(Ordering::Relaxed) > WRITERS / 2).then_some(())
        });
        // A kill may come at any moment. These moments are spread over the time of a commit.
        thread::sleep(Duration::from_micros(37_137 * number as u64));
        index.process.kill();
        round.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let done = writer.join().unwrap();
            all.registered.extend(done.registered);
            all.connected.extend(done.connected);
            all.published.extend(done.published);
        }
        index = index.restart();
        verify(&index, &all);
    }
    index.process.kill();

    let (audited, found) =
        look(index.data(), async |stores| (audited(&stores.audit).await, state(&stores).await));
    let mut counts = HashMap::new();
    audited.iter().for_each(|operation| *counts.entry(operation).or_insert(0) += 1);
    let once = |name: &String, operation, subject: &str| {
        let count = counts.get(&(name.clone(), operation, subject.to_owned()));
        assert_eq!(count, Some(&1), "{name} {operation:?} {subject}");
    };
    all.registered.iter().for_each(|name| once(name, Operation::Register, ""));
    all.connected.iter().for_each(|name| once(name, Operation::Connect, ""));
    for (name, files) in &all.published {
        files.iter().for_each(|file| once(name, Operation::Publish, file));
    }
    // A change and its record are one commit: what the audit has is what the index knows, also of the
    // requests that nobody has an answer of.
    assert!(replayed(&audited) == found, "the audit and the index differ");
}
