//! The thread that commits: one transaction for all that waits.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use redb::{Database, WriteTransaction};

use super::JournalError;

/// A log's part in a transaction, in this order.
pub(super) trait Participant: Send {
    /// Takes the commands that wait; says how many.
    fn take(&mut self) -> usize;
    /// Decides them; says whether anything is to be written.
    fn decide(&mut self) -> bool;
    /// Writes the changes.
    fn write(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error>;
    /// The transaction is durable: applies the changes and answers.
    fn publish(&mut self);
    /// There is no transaction: forgets the changes and answers.
    fn fail(&mut self, error: &JournalError);
    /// Nothing will be committed any more: refuses what waits and what still comes.
    fn close(&mut self);
}

/// How submitters and the writer speak to each other.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
    closed: AtomicBool,
    unwritable: AtomicBool,
}

impl Signal {
    /// Something waits.
    pub(super) fn raise(&self) {
        let was = std::mem::replace(&mut *self.raised.lock(), true);
        if !was {
            self.changed.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.raise();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn check_writable(&self) -> Result<(), JournalError> {
        if self.is_closed() {
            return Err(JournalError::Closed);
        }
        if self.unwritable.load(Ordering::Acquire) {
            return Err(JournalError::Write("an earlier attempt failed".to_owned()));
        }
        Ok(())
    }

    fn wait(&self) {
        let mut raised = self.raised.lock();
        while !*raised {
            self.changed.wait(&mut raised);
        }
        *raised = false;
    }
}

/// Refuses what waits and what still comes when the writer ends, by a panic too.
struct Closing<'a> {
    signal: &'a Signal,
    participants: Vec<Box<dyn Participant>>,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.signal.closed.store(true, Ordering::Release);
        self.participants.iter_mut().for_each(|participant| participant.close());
    }
}

/// Commits until the journal is closed and nothing waits.
pub(super) fn write_until_closed(
    database: &Database,
    signal: &Signal,
    participants: Vec<Box<dyn Participant>>,
) {
    let mut closing = Closing { signal, participants };
    let participants = &mut closing.participants;
    let commands = metrics::counter!("lonja_journal_commands_total");
    let commits = metrics::histogram!("lonja_journal_commit_duration_seconds");
    loop {
        signal.wait();
        // Read before the queues: what was submitted before closing is still taken.
        let closed = signal.is_closed();
        let taken: usize = participants.iter_mut().map(|participant| participant.take()).sum();
        commands.increment(taken as u64);
        let mut dirty = false;
        for participant in participants.iter_mut() {
            dirty |= participant.decide();
        }
        let started = Instant::now();
        match if dirty { commit(database, participants) } else { Ok(()) } {
            Ok(()) => {
                if dirty {
                    commits.record(started.elapsed());
                    signal.unwritable.store(false, Ordering::Release);
                }
                participants.iter_mut().for_each(|participant| participant.publish());
            }
            Err(error) => {
                signal.unwritable.store(true, Ordering::Release);
                let error = JournalError::Write(error.to_string());
                tracing::error!("{error}");
                participants.iter_mut().for_each(|participant| participant.fail(&error));
            }
        }
        if closed {
            return;
        }
    }
}

fn commit(database: &Database, participants: &mut [Box<dyn Participant>]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // Peers choose much of what is written, so a checksum alone must not decide which
    // of two half-written commits counts.
    transaction.set_two_phase_commit(true);
    for participant in participants {
        participant.write(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}
