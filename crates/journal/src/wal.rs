//! The write-ahead log: a segment is written while the other one is folded.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;

use crate::{
    commit::{Commit, LogRow, Participant},
    segment::Segment,
    table_file::Span,
};

/// How many bytes a segment takes before the other segment is used.
pub(crate) const SEGMENT: u64 = 4 << 20;
/// How many times its size a segment takes at most, while the other one is being folded.
const LIMIT: u64 = 16;
/// How long a commit waits for the other segment once its own has [`LIMIT`] times its size.
const PATIENCE: Duration = Duration::from_secs(1);

/// A segment that takes no more frames, with the rows that the table file is to hold once the
/// segment is folded.
#[derive(Debug)]
pub(crate) struct Full {
    pub(crate) segment: Segment,
    pub(crate) spans: Vec<Span>,
    /// Whether the journal is being closed, so that no segment comes after this one.
    pub(crate) last: bool,
}

/// The write-ahead log: a segment that is written while the other is folded.
#[derive(Debug)]
pub(crate) struct WriteAhead {
    current: Segment,
    generation: u64,
    /// How many bytes a segment takes before the other one is used.
    size: u64,
    spare: Receiver<Segment>,
    full: SyncSender<Full>,
}

impl WriteAhead {
    pub(crate) fn new(
        mut current: Segment,
        generation: u64,
        size: u64,
        spare: Receiver<Segment>,
        full: SyncSender<Full>,
    ) -> Self {
        current.restart(generation);
        Self { current, generation, size, spare, full }
    }

    /// Writes the rows of a commit durably.
    pub(crate) fn append(
        &mut self,
        participants: &[Box<dyn Participant>],
        rows: Vec<LogRow>,
    ) -> io::Result<()> {
        if self.current.len() >= self.size && !self.current.must_go_on() {
            // Below the limit a commit does not wait: the segment grows while the other is folded.
            let limit = LIMIT * self.size;
            let patience = if self.current.len() >= limit { PATIENCE } else { Duration::ZERO };
            match self.spare.recv_timeout(patience) {
                Ok(spare) => {
                    self.generation += 1;
                    let full = std::mem::replace(&mut self.current, spare);
                    self.current.restart(self.generation);
                    hand_over(&self.full, full, participants, false);
                }
                Err(_) if self.current.len() < limit => {}
                Err(_) => return Err(io::Error::other("the table file does not keep up")),
            }
        }
        let is_first = self.current.len() == 0;
        let before = participants.iter().filter(|_| is_first).map(|log| newest(&log.span())).collect();
        self.current.append(&Commit { rows, before }.encode_to_vec())
    }

    /// Has the current segment folded, as the last one.
    pub(crate) fn finish(self, participants: &[Box<dyn Participant>]) {
        hand_over(&self.full, self.current, participants, true);
    }
}

/// The newest row of a log, without its bytes.
fn newest(span: &Span) -> LogRow {
    LogRow { log: span.log().to_owned(), row: span.last, bytes: Bytes::new() }
}

fn hand_over(full: &SyncSender<Full>, segment: Segment, participants: &[Box<dyn Participant>], last: bool) {
    let spans = participants.iter().map(|participant| participant.span()).collect();
    // The queue has room for both segments. If the thread that folds has gone, the segments are
    // read at the next start.
    let _ = full.try_send(Full { segment, spans, last });
}
