//! The store of an audit that keeps its own files, as in `lonja up`: the records are in the journal
//! only.

use std::{collections::HashMap, time::Duration};

use lonja_chassis::{clock::unix_ms, unit_of_work::NotStored};
use lonja_journal::{JournalBuilder, JournalError, Log, OpenError, Row, State};
use lonja_proto::{Failure, audit::OperationRecord};

use super::{Batch, Position, Store};
use crate::AuditConfig;

/// The largest number of rows of the log that are read at once.
const ROWS: usize = 256;
/// How long a writer that has gone is remembered, in seconds: longer than any gateway goes on
/// trying to deliver records.
const WRITER_MEMORY: i64 = 24 * 3600;
/// The number of writers beyond which writers that are long gone are forgotten.
const WRITERS: usize = 256;
/// The longest time that a reader waits before it looks again.
const WAIT: Duration = Duration::from_secs(10);

/// Records in a journal. All clones are the same store.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    log: Log<Audit>,
}

impl EmbeddedStore {
    /// Adds the audit's log to a journal.
    ///
    /// # Errors
    /// When the log is damaged.
    pub fn open(journal: &mut JournalBuilder, config: &AuditConfig) -> Result<Self, OpenError> {
        let audit = Audit { max_records: config.max_audit_records, writers: HashMap::new() };
        Ok(Self { log: journal.add(audit)? })
    }
}

impl EmbeddedStore {
    /// Stores one record with the commit that is being decided or, if none is, with the next. Whoever
    /// enters a record does so once: nothing tells the record from one that was stored before. `stored` is
    /// called once, as [`Ledger::enter`](lonja_chassis::unit_of_work::Ledger::enter) says.
    pub(crate) fn enter(
        &self,
        record: OperationRecord,
        stored: impl FnOnce(Result<(), NotStored>) + Send + 'static,
    ) {
        self.log.enter(Command::Record(record), |result| {
            stored(result.map(drop).map_err(|error| match error {
                JournalError::Overloaded => NotStored::Refused,
                _ => NotStored::Failed,
            }));
        });
    }
}

impl Store for EmbeddedStore {
    async fn record(&self, batch: Batch) -> Result<usize, Failure> {
        self.log.submit(Command::Batch(batch)).await.map_err(Failure::unavailable)
    }

    async fn read(&self, from: Position) -> Result<Vec<(Position, OperationRecord)>, Failure> {
        read_records(&self.log, from).await.map_err(Failure::unavailable)
    }

    async fn end(&self) -> Result<Position, Failure> {
        Ok(Position { row: *self.log.newest().borrow() + 1, index: 0 })
    }

    async fn wait_beyond(&self, position: Position) {
        let mut newest = self.log.newest();
        // Both errors mean that the wait is over: time is up, or the journal is closed.
        let _ = tokio::time::timeout(WAIT, newest.wait_for(|row| *row >= position.row)).await;
    }

    async fn is_ready(&self) -> bool {
        self.log.check_writable().is_ok()
    }
}

async fn read_records(
    log: &Log<Audit>,
    from: Position,
) -> Result<Vec<(Position, OperationRecord)>, JournalError> {
    let mut position = from;
    loop {
        let rows = log.read(position.row, ROWS).await?;
        let Some((last, _)) = rows.last() else { return Ok(Vec::new()) };
        position = Position { row: *last + 1, index: 0 };
        let mut found = Vec::new();
        for (row, changes) in rows {
            let skip = if row == from.row { from.index } else { 0 };
            let records = changes.into_iter().filter_map(|change| match change.kind {
                Some(Kind::Record(record)) => Some(record),
                Some(Kind::Writer(_)) | None => None,
            });
            let placed = records.zip(1..).map(|(record, index)| (Position { row, index }, record));
            found.extend(placed.filter(|(behind, _)| behind.index > skip));
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
}

/// The number of a writer's last record, and the row of the log that says this number.
#[derive(Debug, Clone, Copy)]
struct Mark {
    row: Row,
    last_sequence: u64,
    at: i64,
}

/// What is stored: records that their writer may send again, or a record that comes once.
#[derive(Debug)]
pub(crate) enum Command {
    Batch(Batch),
    Record(OperationRecord),
}

/// The state: what each writer has stored last. The records themselves are in the log alone.
#[derive(Debug)]
pub(crate) struct Audit {
    max_records: u64,
    writers: HashMap<String, Mark>,
}

/// A change as the log has it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AuditChange {
    #[prost(oneof = "Kind", tags = "1, 2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Record(OperationRecord),
    #[prost(message, tag = "2")]
    Writer(Writer),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Writer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint64, tag = "2")]
    last_sequence: u64,
    /// When the last record was stored, in seconds of the Unix epoch.
    #[prost(int64, tag = "3")]
    at: i64,
}

fn is_remembered(at: i64) -> bool {
    unix_ms() / 1000 - at < WRITER_MEMORY
}

impl State for Audit {
    const LOG: &'static str = "audit";
    type Change = AuditChange;
    type Command = Command;
    type Outcome = usize;
    type Staged = HashMap<String, u64>;

    /// Gives the number of records that were stored before.
    fn decide(&self, staged: &mut Self::Staged, command: Command, changes: &mut Vec<AuditChange>) -> usize {
        let batch = match command {
            Command::Batch(batch) => batch,
            Command::Record(record) => {
                changes.push(AuditChange { kind: Some(Kind::Record(record)) });
                return 0;
            }
        };
        let last = batch.last_sequence();
        let stored = match staged.get(&batch.writer_id) {
            Some(last) => *last,
            None => self.writers.get(&batch.writer_id).map_or(0, |mark| mark.last_sequence),
        };
        let known =
            (stored + 1).saturating_sub(batch.first_sequence).min(batch.records.len() as u64) as usize;
        if known == batch.records.len() {
            return known;
        }
        let fresh = batch.records.into_iter().skip(known);
        changes.extend(fresh.map(|record| AuditChange { kind: Some(Kind::Record(record)) }));
        let writer = Writer { id: batch.writer_id.clone(), last_sequence: last, at: unix_ms() / 1000 };
        changes.push(AuditChange { kind: Some(Kind::Writer(writer)) });
        staged.insert(batch.writer_id, last);
        known
    }

    fn apply(&mut self, change: AuditChange, row: Row) {
        if let Some(Kind::Writer(Writer { id, last_sequence, at })) = change.kind {
            // A mark that cleaning has moved may stand before a newer mark of the same writer.
            let mark = self.writers.entry(id).or_insert(Mark { row, last_sequence, at });
            if last_sequence >= mark.last_sequence {
                *mark = Mark { row, last_sequence, at };
            }
            if self.writers.len() > WRITERS {
                self.writers.retain(|_, mark| is_remembered(mark.at));
            }
        }
    }

    fn is_live(&self, change: &AuditChange, row: Row) -> bool {
        match &change.kind {
            Some(Kind::Writer(writer)) => {
                let current = self.writers.get(&writer.id);
                is_remembered(writer.at)
                    && current
                        .is_some_and(|mark| mark.row == row && mark.last_sequence == writer.last_sequence)
            }
            // The oldest records make room for the newest.
            Some(Kind::Record(_)) | None => false,
        }
    }

    fn weight(change: &AuditChange) -> u64 {
        u64::from(matches!(change.kind, Some(Kind::Record(_))))
    }

    fn capacity(&self) -> u64 {
        self.max_records
    }
}

#[cfg(test)]
mod tests {
    use lonja_journal::Journal;
    use tempfile::TempDir;

    use super::*;
    use crate::store::contract;

    fn open(directory: &TempDir, max_audit_records: u64) -> (EmbeddedStore, Journal) {
        let mut journal = Journal::open(directory.path(), "audit").unwrap();
        let store = EmbeddedStore::open(&mut journal, &AuditConfig { max_audit_records }).unwrap();
        (store, journal.start().unwrap())
    }

    contract::suite!(|| {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory, 10_000);
        (store, (journal, directory))
    });

    #[tokio::test]
    async fn a_batch_sent_again_after_a_restart_is_known() {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory, 1000);
        assert_eq!(store.record(contract::batch("w", 1, 3)).await, Ok(0));
        drop((store, journal));

        let (store, _journal) = open(&directory, 1000);
        assert_eq!(store.record(contract::batch("w", 1, 5)).await, Ok(3));
        assert_eq!(contract::users(&store, Position::default()).await.len(), 5);
    }

    #[tokio::test]
    async fn the_oldest_records_make_room_and_the_writer_is_remembered() {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory, 100);
        store.record(contract::batch("quiet", 1, 2)).await.unwrap();
        for round in 0..60 {
            store.record(contract::batch("busy", 1 + 10 * round, 10)).await.unwrap();
        }
        let users = contract::users(&store, Position::default()).await;
        assert!((90..=100).contains(&users.len()), "{} records", users.len());
        assert_eq!(users.last().unwrap(), "busy-600");
        drop((store, journal));

        let (store, _journal) = open(&directory, 100);
        assert_eq!(store.record(contract::batch("quiet", 1, 2)).await, Ok(2));
        assert_eq!(store.record(contract::batch("busy", 591, 10)).await, Ok(10));
    }
}

/// The store of a simulated world (tests/simulation).
#[cfg(test)]
mod simulated {
    use lonja_journal::simulation::LyingDisk;

    use super::*;
    use crate::store::contract;

    contract::suite!(|| {
        let mut journal = JournalBuilder::open_simulated(&LyingDisk::new(0)).unwrap();
        let store = EmbeddedStore::open(&mut journal, &AuditConfig { max_audit_records: 10_000 }).unwrap();
        (store, journal.start().unwrap())
    });
}
