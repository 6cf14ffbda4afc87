//! Committing: all commands that wait become one frame of the write-ahead log.

use std::{sync::Arc, time::Instant};

use metrics::{Counter, Histogram};

use crate::{commit::Participant, error::JournalError, signal::Signal, wal::WriteAhead};

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

/// What commits the commands of all logs.
pub(crate) struct Writer {
    log: WriteAhead,
    closing: Closing,
    commands: Counter,
    commits: Histogram,
}

impl Writer {
    pub(crate) fn new(log: WriteAhead, signal: Arc<Signal>, participants: Vec<Box<dyn Participant>>) -> Self {
        Self {
            log,
            closing: Closing { signal, participants },
            commands: metrics::counter!("lonja_journal_commands_total"),
            commits: metrics::histogram!("lonja_journal_commit_duration_seconds"),
        }
    }

    /// Commits until the journal is closed and nothing waits, and then has the last segment folded.
    pub(crate) fn run(mut self) {
        loop {
            self.closing.signal.wait();
            // This is read before the queues: a command that was submitted before closing is still
            // taken.
            let closed = self.closing.signal.is_closed();
            self.commit_waiting();
            if closed {
                return self.finish();
            }
        }
    }

    /// Commits the commands that wait, and answers them.
    pub(crate) fn commit_waiting(&mut self) {
        let Closing { signal, participants } = &mut self.closing;
        let taken: usize = participants.iter_mut().map(|participant| participant.take()).sum();
        self.commands.increment(taken as u64);
        let started = Instant::now();
        match commit(&mut self.log, participants) {
            Ok(written) => {
                if written {
                    self.commits.record(started.elapsed());
                    signal.set_writable(true);
                }
                participants.iter_mut().for_each(|participant| participant.publish());
            }
            Err(error) => {
                signal.set_writable(false);
                tracing::error!("{error}");
                participants.iter_mut().for_each(|participant| participant.fail(&error));
            }
        }
    }

    /// Has the last segment folded.
    pub(crate) fn finish(self) {
        self.log.finish(&self.closing.participants);
    }
}

fn commit(log: &mut WriteAhead, participants: &mut [Box<dyn Participant>]) -> Result<bool, JournalError> {
    let mut rows = Vec::new();
    for participant in &mut *participants {
        rows.extend(participant.decide());
    }
    if rows.is_empty() {
        return Ok(false);
    }
    log.append(participants, rows).map_err(|error| JournalError::Write(error.to_string()))?;
    Ok(true)
}
