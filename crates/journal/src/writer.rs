//! Committing: all commands that wait become one frame of the write-ahead log.

use std::{sync::Arc, time::Instant};

use lonja_telemetry::throttle::Throttle;
use metrics::{Counter, Histogram};

use crate::{
    commit::{LogRow, Participant},
    error::JournalError,
    signal::Signal,
    wal::WriteAhead,
};

/// Where the disk refuses at once, as a full one does, commits fail as fast as peers ask.
static UNWRITABLE: Throttle = Throttle::events();

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
        let started = Instant::now();
        let rows = decide(participants, &self.commands);
        // After a failure, a commit without a row finds out whether the files can be written again.
        let is_written = !rows.is_empty() || signal.is_unwritable();
        let written = if is_written { self.log.append(participants, rows) } else { Ok(()) };
        // What was entered with a command is answered before the command.
        match written {
            Ok(()) => {
                if is_written {
                    self.commits.record(started.elapsed());
                    signal.set_writable(true);
                }
                participants.iter_mut().for_each(|participant| participant.publish());
                participants.iter_mut().rev().for_each(|participant| participant.answer());
            }
            Err(error) => {
                let error = JournalError::Write(error.to_string());
                signal.set_writable(false);
                if let Some(suppressed) = UNWRITABLE.admit() {
                    tracing::error!(suppressed, "{error}");
                }
                participants.iter_mut().rev().for_each(|participant| participant.fail(&error));
            }
        }
    }

    /// Has the last segment folded.
    pub(crate) fn finish(self) {
        self.log.finish(&self.closing.participants);
    }
}

/// Decides the commands that wait, and gives the rows to write. A log takes its commands when the logs
/// before it have decided theirs, and so takes what was entered with these.
fn decide(participants: &mut [Box<dyn Participant>], commands: &Counter) -> Vec<LogRow> {
    let mut rows = Vec::new();
    for participant in participants {
        commands.increment(participant.take() as u64);
        rows.extend(participant.decide());
    }
    rows
}
