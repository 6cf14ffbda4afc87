//! Many peers at once: statuses and lists stay consistent.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier},
    thread,
};

use lonja_wire::{Command, Encoding};

use crate::{process::Index, wire};

const PEERS: usize = 64;

/// Runs `work` in `PEERS` threads that start together, and gives the results.
fn in_parallel<T: Send + 'static>(work: impl Fn(usize) -> T + Send + Sync + 'static) -> Vec<T> {
    let work = Arc::new(work);
    let barrier = Arc::new(Barrier::new(PEERS));
    let threads: Vec<_> = (0..PEERS)
        .map(|number| {
            let (work, barrier) = (Arc::clone(&work), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                work(number)
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn count(statuses: &[u8], status: u8) -> usize {
    statuses.iter().filter(|is| **is == status).count()
}

#[test]
fn one_of_64_wins_whatever_they_race_for() {
    let index = Index::start();
    let peers = index.peers;
    for round in 0..5 {
        let name = format!("alice{round}");
        type Race = (fn() -> Command, u8);
        let port = || Command::Connect(std::num::NonZeroU16::new(50_085).unwrap().into());
        let races: [Race; 6] = [
            (|| Command::Register, 1),
            (port, 2),
            (|| wire::publish_command("a.txt"), 3),
            (|| Command::Delete("a.txt".parse().unwrap()), 3),
            (|| Command::Disconnect, 2),
            (|| Command::Unregister, 1),
        ];
        for (command, refusal) in races {
            let name = name.clone();
            let statuses = in_parallel(move |_| wire::ask(peers, &name, command()));
            assert_eq!(count(&statuses, 0), 1, "{:?} {statuses:?}", command());
            assert_eq!(count(&statuses, refusal), PEERS - 1, "{:?} {statuses:?}", command());
        }
    }
}

#[test]
fn sixty_four_peers_each_do_everything_and_nothing_is_lost() {
    const FILES: usize = 20;
    let index = Index::start();
    let peers = index.peers;
    in_parallel(move |number| {
        let name = format!("peer{number}");
        assert_eq!(wire::register(peers, &name), 0);
        assert_eq!(wire::connect_as(peers, &name, 40_000 + number as u16), 0);
        for file in 0..FILES {
            assert_eq!(wire::publish(peers, &name, &format!("file{file}")), 0);
            assert!(wire::list_users(peers, &name, Encoding::Terminated).is_ok());
        }
    });
    let users = wire::list_users(peers, "peer0", Encoding::Padded).unwrap();
    let names: BTreeSet<_> = users.iter().map(|user| user.username.to_string()).collect();
    assert_eq!((users.len(), names.len()), (PEERS, PEERS));
    for user in &users {
        let number: u16 = user.username.as_str().strip_prefix("peer").unwrap().parse().unwrap();
        assert_eq!(user.port.get(), 40_000 + number);
        let files = wire::list_content(peers, "peer0", user.username.as_str(), Encoding::Terminated).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.filename.to_string()).collect();
        let expected: Vec<_> = (0..FILES).map(|file| format!("file{file}")).collect();
        assert_eq!(names, expected, "in the order of publishing");
    }
}

#[test]
fn a_list_is_of_one_moment_while_users_come_and_go() {
    let index = Index::start();
    let peers = index.peers;
    assert_eq!(wire::register(peers, "watcher"), 0);
    assert_eq!(wire::connect_as(peers, "watcher", 50_085), 0);
    in_parallel(move |number| {
        let name = format!("peer{number}");
        assert_eq!(wire::register(peers, &name), 0);
        for _ in 0..5 {
            assert_eq!(wire::connect_as(peers, &name, 50_085), 0);
            let users = wire::list_users(peers, "watcher", Encoding::Terminated).unwrap();
            let names: BTreeSet<_> = users.iter().map(|user| user.username.to_string()).collect();
            assert_eq!(names.len(), users.len(), "nobody twice");
            assert!(names.contains(&name) && names.contains("watcher"));
            assert_eq!(wire::ask(peers, &name, Command::Disconnect), 0);
        }
    });
    assert_eq!(wire::list_users(peers, "watcher", Encoding::Terminated).unwrap().len(), 1);
}
