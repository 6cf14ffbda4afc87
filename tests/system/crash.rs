//! `kill -9` under load, again and again: everything that was answered with success is still there.

use std::{
    collections::HashMap,
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
    store::{EmbeddedStore, Position, Store as _},
};
use lonja_journal::Journal;
use lonja_proto::audit::Operation;
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

/// Counts the records of successful operations in a data directory, by user, operation and file.
fn audited(data: &Path) -> HashMap<(String, Operation, String), usize> {
    let mut journal = Journal::open(data, "lonja").unwrap();
    let store = EmbeddedStore::open(&mut journal, &AuditConfig { max_audit_records: u64::MAX }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut found = HashMap::new();
    let mut position = Position::default();
    loop {
        let records = runtime.block_on(store.read(position)).unwrap();
        let Some((behind, _)) = records.last() else { return found };
        position = *behind;
        for (_, record) in records {
            if record.status == 0 {
                let key = (record.username.clone(), record.operation(), record.subject.clone());
                *found.entry(key).or_default() += 1;
            }
        }
    }
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

    let audited = audited(index.data());
    let once = |name: &String, operation, subject: &str| {
        let count = audited.get(&(name.clone(), operation, subject.to_owned()));
        assert_eq!(count, Some(&1), "{name} {operation:?} {subject}");
    };
    all.registered.iter().for_each(|name| once(name, Operation::Register, ""));
    all.connected.iter().for_each(|name| once(name, Operation::Connect, ""));
    for (name, files) in &all.published {
        files.iter().for_each(|file| once(name, Operation::Publish, file));
    }
}
