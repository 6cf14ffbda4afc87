//! Worlds by seed: a journal of two logs on a [`LyingDisk`], whose steps are taken in any order, with
//! cuts of the power, kills, failing writes and rot. A [`model`] says what must be there afterwards.
//! docs/testing.md says how to have many worlds, and how to play one again.

mod model;
mod world;

use std::{env, path::Path};

use model::Put;
use world::{Process, World};

use super::{Counts, Faults, LyingDisk, SEGMENT};
use crate::OpenError;

/// How many cuts the worlds have if nobody asks for more.
const CUTS: u64 = 400;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Plays a world, and says how to play a failing one again.
fn play(seed: u64) -> World {
    struct Again(u64);
    impl Drop for Again {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("again: LONJA_SEED={} cargo test --package lonja-journal simulation", self.0);
            }
        }
    }
    let again = Again(seed);
    let mut world = World::new(seed);
    world.run();
    std::mem::forget(again);
    world
}

/// Three of four worlds are the same each time, the others are new.
#[test]
fn what_was_answered_is_there_after_any_cut() {
    if let Some(seed) = number("LONJA_SEED") {
        play(seed);
        return;
    }
    let cuts = number("LONJA_CUTS").unwrap_or(CUTS);
    let mut counts = Counts::default();
    let mut worlds = 0;
    while counts.cuts < cuts {
        let seed = if counts.cuts < cuts / 4 * 3 { worlds } else { fastrand::u64(..) };
        counts += play(seed).counts();
        worlds += 1;
    }
    println!("{worlds} worlds: {counts:?}");
    let Counts { cuts: _, sectors_lost, sectors_kept, short_writes, failed_syncs, full, rotten_bits } =
        counts;
    let kinds = [sectors_lost, sectors_kept, short_writes, failed_syncs, full, rotten_bits];
    assert!(kinds.iter().all(|kind| *kind > 0) || cuts < CUTS, "not all that a disk can do was done");
}

#[test]
fn a_seed_is_the_same_world_each_time() {
    for seed in 0..5 {
        let (one, other) = (play(seed), play(seed));
        assert_eq!(one.counts(), other.counts());
        assert_eq!(one.history(), other.history());
    }
}

fn put(process: &mut Process, log: usize, value: u64, length: usize) -> bool {
    process.submit(log, Put { keys: vec![value], value, length });
    process.commit().is_some_and(|(_, succeeded)| succeeded)
}

/// Bug: a frame that could not be synced, at the end of a full segment, was found after a kill in place of
/// the next commit, which was answered and had gone to the other segment.
#[test]
fn a_frame_that_failed_is_never_found_in_place_of_the_next() {
    let disk = LyingDisk::new(0);
    let mut process = Process::open(&disk).unwrap();
    let commit = |process: &mut Process, value, length| put(process, 0, value, length);
    // Both segments are full, and neither is folded.
    for value in 0..2 {
        assert!(commit(&mut process, value, SEGMENT as usize));
    }
    disk.set_faults(Faults { failed_syncs: 100, ..Faults::default() });
    assert!(!commit(&mut process, 2, 1));
    disk.set_faults(Faults::default());
    assert_eq!(process.fold(), Some(true));
    assert!(commit(&mut process, 3, 1));
    let answered = process.values();
    disk.kill();
    drop(process);
    assert_eq!(Process::open(&disk).unwrap().values(), answered);
}

/// Bug: after a commit that failed, a journal said that its files could not be written until another commit succeeded;
/// a service that is not ready may be sent nothing to commit.
#[test]
fn a_disk_that_can_be_written_again_is_found_out_without_a_command() {
    let disk = LyingDisk::new(0);
    let mut process = Process::open(&disk).unwrap();
    assert!(put(&mut process, 0, 1, 1));
    disk.set_faults(Faults { failed_syncs: 100, ..Faults::default() });
    assert!(!put(&mut process, 0, 2, 1));
    assert!(!process.is_writable());
    assert!(process.commit().is_none());
    assert!(!process.is_writable());
    disk.set_faults(Faults::default());
    assert!(process.commit().is_none());
    assert!(process.is_writable());
    let answered = process.values();
    disk.restart();
    drop(process);
    assert_eq!(Process::open(&disk).unwrap().values(), answered);
}

/// Bug: the last commit of a segment was lost without a word when its frame was damaged, if the commits in
/// the other segment were those of other logs.
#[test]
fn a_damaged_frame_at_the_end_of_a_segment_is_noticed() {
    let disk = LyingDisk::new(0);
    let mut process = Process::open(&disk).unwrap();
    assert!(put(&mut process, 1, 1, SEGMENT as usize));
    assert!(put(&mut process, 0, 2, 1));
    disk.kill();
    drop(process);
    let damaged = disk.with_rot(Path::new("data/journal.wal0"), 100);
    assert!(matches!(Process::open(&damaged), Err(OpenError::Damaged(..))));
}

/// Bug (world 606): a start read a frame whose sync had failed from the system's memory, and folded the
/// frame's rows. After a cut, the disk had an older frame in that place, whose rows came in front of those
/// of a later commit that was answered.
#[test]
fn what_a_start_reads_is_what_the_disk_has() {
    for seed in 0..200 {
        let disk = LyingDisk::new(seed);
        let mut process = Process::open(&disk).unwrap();
        assert!(put(&mut process, 0, 0, SEGMENT as usize));
        disk.set_faults(Faults { failed_syncs: 100, ..Faults::default() });
        // Of each frame that fails the disk may have anything; the second takes the place of the first.
        assert!(!put(&mut process, 0, 1, 900));
        assert!(!put(&mut process, 1, 2, 1));
        disk.set_faults(Faults::default());
        disk.kill();
        drop(process);

        let mut process = Process::open(&disk).unwrap();
        assert!(put(&mut process, 0, 3, 1));
        let answered = process.values();
        drop(process);
        disk.restart();
        assert_eq!(Process::open(&disk).unwrap().values(), answered, "disk {seed}");
    }
}
