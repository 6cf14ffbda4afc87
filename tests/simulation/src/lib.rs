//! Worlds by seed: an index on a simulated network, with simulated time and disks, asked by peers that speak
//! the real protocol. The index is two gateways, a registry, a catalog and an audit, or all in one process. Faults of
//! all kinds happen meanwhile, and judges look at what was answered. docs/testing.md says what is promised and how a
//! seed is played again.

#![cfg(test)]

mod history;
mod hosts;
mod judge;
mod linear;
mod network;
mod peer;
mod same;
mod scripts;
mod shape;
mod world;

use std::{
    env,
    panic::{catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use shape::Shape;
use world::{Faults, play};

/// How many worlds of services the tests have if nobody asks for another number.
const WORLDS_OF_SERVICES: u64 = 400;
/// How many worlds of one process the tests have if nobody asks for another number.
const WORLDS_OF_ONE_PROCESS: u64 = 200;
/// How many worlds are played at one time.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn every_world_of_services_keeps_its_promises() {
    play_all(Shape::Services, WORLDS_OF_SERVICES);
}

#[test]
fn every_world_of_one_process_keeps_its_promises() {
    play_all(Shape::OneProcess, WORLDS_OF_ONE_PROCESS);
}

/// Plays the world of a seed that is asked for, or else as many worlds as are asked for, or else `usual` worlds.
/// Three of four worlds are the same each time, the others are new.
fn play_all(shape: Shape, usual: u64) {
    if let Some(seed) = number("LONJA_SEED") {
        println!("{:?}", play(shape, seed));
        return;
    }
    let worlds = number("LONJA_WORLDS").unwrap_or(usual);
    let has_failed = AtomicBool::new(false);
    let of_thread = |thread| {
        let mut faults = Faults::default();
        for world in (thread..worlds).step_by(THREADS) {
            if has_failed.load(Ordering::Relaxed) {
                break;
            }
            let seed = if world < worlds / 4 * 3 { world } else { fastrand::u64(..) };
            match catch_unwind(|| play(shape, seed)) {
                Ok(broken) => faults += broken,
                Err(panic) => {
                    has_failed.store(true, Ordering::Relaxed);
                    resume_unwind(panic);
                }
            }
        }
        faults
    };
    let mut faults = Faults::default();
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS as u64).map(|number| scope.spawn(move || of_thread(number))).collect();
        for thread in threads {
            faults += thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    println!("{worlds} worlds, {shape:?}: {faults:?}");
    assert!(faults.has_each_kind() || worlds < usual, "not all that can break did");
}
