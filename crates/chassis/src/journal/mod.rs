//! The embedded store's journal: state in memory, every change in a log on disk.
//!
//! A service keeps its state in memory (a [`State`]) and writes each change to a log
//! before anyone is told of it. One writer thread commits the operations of all logs that
//! wait at the same moment as one frame of a write-ahead log (group commit), then applies
//! them, then answers. So readers see only what is durable, and what was answered survives
//! the kill of the process and the loss of power.
//!
//! The write-ahead log is two segments: while one is written, a second thread folds the
//! other into a redb file, which holds the logs as tables. At a start what the segments
//! hold and the tables do not is folded first; then the state is read from the tables.
//!
//! A row of a log holds the changes of one commit. Old rows are cleaned a little with each
//! commit: what still matters in the oldest rows moves to the newest, the rest is
//! forgotten, so the file stays within a small multiple of what is alive.
//! docs/adr/0002 says why this is a log and not one table for each kind of thing,
//! docs/adr/0005 why it is written ahead.

mod checkpoint;
mod log;
mod open;
mod recovery;
mod segment;
mod table_file;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    hash::Hash,
    panic::{self, AssertUnwindSafe},
};

pub use log::Log;
pub use open::{Journal, JournalBuilder, OpenError};

/// Number of a row in a log. A later row has a higher number.
pub type Row = u64;

/// What a service keeps, and the rules by which it changes.
pub trait State: Send + Sync + 'static {
    /// The log's table in the file. One file may hold several logs.
    const LOG: &'static str;
    /// One durable change.
    type Change: prost::Message + Default + Clone;
    /// What is asked of the service.
    type Command: Send + 'static;
    /// What becomes of it.
    type Outcome: Send + 'static;
    /// What the commands before this one, in the same transaction, have changed.
    type Staged: Default + Send;

    /// Decides a command against the state and what is staged upon it, and appends the
    /// changes that it makes. Nothing is changed yet.
    fn decide(
        &self,
        staged: &mut Self::Staged,
        command: Self::Command,
        changes: &mut Vec<Self::Change>,
    ) -> Self::Outcome;

    /// Applies a change that is durable in this row. Applying one again that was moved
    /// from an older row changes nothing but the row.
    fn apply(&mut self, change: Self::Change, row: Row);

    /// Whether a change in this row still matters.
    fn is_live(&self, change: &Self::Change, row: Row) -> bool;

    /// What a change counts towards [`Self::capacity`].
    fn weight(_change: &Self::Change) -> u64 {
        1
    }

    /// The weight of changes that the log may hold before its oldest rows are cleaned.
    fn capacity(&self) -> u64;
}

/// An operation that could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum JournalError {
    /// It could not be written; should the process end now, the next start finds the
    /// change or not.
    Write(String),
    /// The file could not be read.
    Read(String),
    /// More operations wait than there is room for.
    Overloaded,
    /// The journal has been closed.
    Closed,
}

impl std::error::Error for JournalError {}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(error) => {
                write!(f, "the data directory cannot be written: {error}: look after its disk")
            }
            Self::Read(error) => write!(f, "the data file cannot be read: {error}"),
            Self::Overloaded => f.write_str("too many operations wait for the data file"),
            Self::Closed => f.write_str("the data file is closed"),
        }
    }
}

/// redb may panic on a damaged file; a person is to get one line all the same.
fn without_panic<T>(open: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(open));
    panic::set_hook(hook);
    result.map_err(|_| "its structure cannot be read".to_owned())
}
