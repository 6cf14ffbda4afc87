//! The thread that commits: all commands that wait become one frame of the write-ahead log.

use std::{sync::Arc, time::Instant};

use crate::{
    commit::{Commit, Participant},
    error::JournalError,
    signal::Signal,
    wal::WriteAhead,
};

/// Closes the signal and the logs when the writer ends, even if it ends by a panic.
struct Closing {
    signal: Arc<Signal>,
    participants: Vec<Box<dyn Participant>>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.signal.mark_closed();
        self.participants.iter_mut().for_each(|participant| participant.close());
    }
}

/// Commits until the journal is closed and nothing waits, and then has the last segment folded.
pub(crate) fn write_until_closed(
    mut log: WriteAhead,
    signal: Arc<Signal>,
    participants: Vec<Box<dyn Participant>>,
) {
    let mut closing = Closing { signal, participants };
    let commands = metrics::counter!("lonja_journal_commands_total");
    let commits = metrics::histogram!("lonja_journal_commit_duration_seconds");
    loop {
        closing.signal.wait();
        // This is read before the queues: a command that was submitted before closing is still
        // taken.
        let closed = closing.signal.is_closed();
        let participants = &mut closing.participants;
        let taken: usize = participants.iter_mut().map(|participant| participant.take()).sum();
        commands.increment(taken as u64);
        let started = Instant::now();
        match commit(&mut log, participants) {
            Ok(written) => {
                if written {
                    commits.record(started.elapsed());
                    closing.signal.set_writable(true);
                }
                participants.iter_mut().for_each(|participant| participant.publish());
            }
            Err(error) => {
                closing.signal.set_writable(false);
                tracing::error!("{error}");
                participants.iter_mut().for_each(|participant| participant.fail(&error));
            }
        }
        if closed {
            break;
        }
    }
    log.finish(&closing.participants);
}

fn commit(log: &mut WriteAhead, participants: &mut [Box<dyn Participant>]) -> Result<bool, JournalError> {
    let mut rows = Vec::new();
    for participant in &mut *participants {
        rows.extend(participant.decide());
    }
    if rows.is_empty() {
        return Ok(false);
    }
    log.append(participants, &Commit { rows }).map_err(|error| JournalError::Write(error.to_string()))?;
    Ok(true)
}
