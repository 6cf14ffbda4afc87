//! The thread that commits: all commands that wait become one frame of the write-ahead log.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use prost::Message as _;

use super::{
    JournalError,
    checkpoint::Full,
    recovery::{Commit, LogRow},
    segment::{SEGMENT, Segment},
    table_file::Span,
};

/// The size in bytes at which a segment takes nothing more, while the other one is being folded.
const LIMIT: u64 = 16 * SEGMENT;
/// How long a commit waits for the other segment once its own has reached [`LIMIT`].
const PATIENCE: Duration = Duration::from_secs(1);

/// A log's part in a commit: `take`, `decide`, and then `publish` or `fail`.
pub(super) trait Participant: Send {
    /// Takes the commands that wait, and gives their number.
    fn take(&mut self) -> usize;
    /// Decides the commands that were taken, and gives the row to write if anything changes.
    fn decide(&mut self) -> Option<LogRow>;
    /// Applies the changes and answers the commands, once the row is durable.
    fn publish(&mut self);
    /// Forgets the changes and answers the commands with an error, if the row could not be written.
    fn fail(&mut self, error: &JournalError);
    /// The rows that the table file is to hold once the current segment is folded.
    fn span(&self) -> Span;
    /// Refuses the commands that wait and those that still come: nothing is committed any more.
    fn close(&mut self);
}

/// What submitters and the writer tell each other: commands wait, the journal closes, or its files
/// cannot be written.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
    closed: AtomicBool,
    unwritable: AtomicBool,
}

impl Signal {
    /// Wakes the writer, because a command waits or the journal closes.
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
            return Err(JournalError::Write("the last attempt failed".to_owned()));
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

/// The write-ahead log: a segment that is written while the other is folded.
#[derive(Debug)]
pub(super) struct WriteAhead {
    current: Segment,
    generation: u64,
    spare: Receiver<Segment>,
    full: SyncSender<Full>,
}

impl WriteAhead {
    pub(super) fn new(
        mut current: Segment,
        generation: u64,
        spare: Receiver<Segment>,
        full: SyncSender<Full>,
    ) -> Self {
        current.restart(generation);
        Self { current, generation, spare, full }
    }

    fn append(&mut self, participants: &[Box<dyn Participant>], commit: &Commit) -> io::Result<()> {
        if self.current.len() >= SEGMENT {
            // Below the limit a commit does not wait: the segment grows while the other is folded.
            let patience = if self.current.len() >= LIMIT { PATIENCE } else { Duration::ZERO };
            match self.spare.recv_timeout(patience) {
                Ok(spare) => {
                    self.generation += 1;
                    let full = std::mem::replace(&mut self.current, spare);
                    self.current.restart(self.generation);
                    hand_over(&self.full, full, participants, false);
                }
                Err(_) if self.current.len() < LIMIT => {}
                Err(_) => return Err(io::Error::other("the table file does not keep up")),
            }
        }
        self.current.append(&commit.encode_to_vec())
    }

    /// Has the current segment folded, as the last one.
    fn finish(self, participants: &[Box<dyn Participant>]) {
        hand_over(&self.full, self.current, participants, true);
    }
}

fn hand_over(full: &SyncSender<Full>, segment: Segment, participants: &[Box<dyn Participant>], last: bool) {
    let spans = participants.iter().map(|participant| participant.span()).collect();
    // The queue has room for both segments. If the thread that folds has gone, the segments are
    // read at the next start.
    let _ = full.try_send(Full { segment, spans, last });
}

/// Closes the signal and the logs when the writer ends, even if it ends by a panic.
struct Closing {
    signal: Arc<Signal>,
    participants: Vec<Box<dyn Participant>>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.signal.closed.store(true, Ordering::Release);
        self.participants.iter_mut().for_each(|participant| participant.close());
    }
}

/// Commits until the journal is closed and nothing waits, and then has the last segment folded.
pub(super) fn write_until_closed(
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
                    closing.signal.unwritable.store(false, Ordering::Release);
                }
                participants.iter_mut().for_each(|participant| participant.publish());
            }
            Err(error) => {
                closing.signal.unwritable.store(true, Ordering::Release);
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
