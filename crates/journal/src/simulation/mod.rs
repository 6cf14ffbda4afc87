//! A journal on a simulated disk, which loses, tears and refuses what a test says.

mod disk;
#[cfg(test)]
mod worlds;

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::{self, MissedTickBehavior};

pub use disk::{Counts, Faults, LyingDisk};

use crate::{JournalBuilder, OpenError};

/// The size of a segment in bytes. It is small, so that few commits have many folds.
const SEGMENT: u64 = 4096;

impl JournalBuilder {
    /// Opens the files of a journal on a simulated disk.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn open_simulated(disk: &LyingDisk) -> Result<Self, OpenError> {
        Self::open(Arc::new(disk.clone()), Path::new("data"), "journal", SEGMENT)
    }

    /// Commits what waits, and folds, every `interval` in the task that calls, instead of on threads of
    /// their own: a simulation must not depend on threads. While the disk hangs, nothing is committed. Never
    /// returns.
    pub async fn commit_every(self, interval: Duration, disk: &LyingDisk) {
        let (mut writer, checkpoint) = self.parts();
        let mut ticks = time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = None;
        loop {
            ticks.tick().await;
            if disk.hangs() {
                continue;
            }
            writer.commit_waiting();
            waiting = waiting.or_else(|| checkpoint.full.try_recv().ok());
            if let Some(full) = waiting.take() {
                match checkpoint.fold(&full) {
                    Ok(()) => checkpoint.release(full),
                    Err(_) => waiting = Some(full),
                }
            }
        }
    }
}
