//! The embedded store's journal: state in memory, every change in a log on disk.
//!
//! A service keeps its state in memory (a [`State`]) and writes each change to a log
//! before anyone is told of it. One writer thread commits the operations of all logs that
//! wait at the same moment as one frame of a write-ahead log (group commit), then applies
//! them, then answers. So readers see only what is durable, and what was answered survives
//! the kill of the process and the loss of power.
//!
//! The write-ahead log is two segments: while one is written, a second thread folds the other into
//! a redb file, which holds the logs as tables. At a start, the rows that only the segments hold
//! are folded first; then the state is read from the tables.
//!
//! A row of a log holds the changes of one commit. Old rows are cleaned a little with each commit:
//! the changes in the oldest rows that still matter move to the newest row, and the others are
//! forgotten, so the file stays within a small multiple of what is alive. docs/adr/0002 says why
//! the store is a log and not one table for each kind of thing, docs/adr/0005 why the log is
//! written ahead.
//!
//! A state that adds numbers up, for which only the newest change matters:
//!
//! ```
//! use lonja_chassis::journal::{Journal, Row, State};
//!
//! #[derive(Default)]
//! struct Sum(u64);
//!
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct NewSum {
//!     #[prost(uint64, tag = "1")]
//!     sum: u64,
//! }
//!
//! impl State for Sum {
//!     const LOG: &'static str = "sum";
//!     type Change = NewSum;
//!     type Command = u64;
//!     type Outcome = u64;
//!     type Staged = u64;
//!
//!     fn decide(&self, staged: &mut u64, number: u64, changes: &mut Vec<NewSum>) -> u64 {
//!         *staged += number;
//!         changes.push(NewSum { sum: self.0 + *staged });
//!         self.0 + *staged
//!     }
//!     fn apply(&mut self, NewSum { sum }: NewSum, _: Row) {
//!         self.0 = sum;
//!     }
//!     fn is_live(&self, NewSum { sum }: &NewSum, _: Row) -> bool {
//!         *sum == self.0
//!     }
//!     fn capacity(&self) -> u64 {
//!         1000
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! for expected in [5, 10] {
//!     let mut journal = Journal::open(directory.path(), "example")?;
//!     let sum = journal.add(Sum::default())?;
//!     let _journal = journal.start()?;
//!     assert_eq!(sum.submit(5).await?, expected, "what was answered is there after a restart");
//! }
//! # Ok(())
//! # }
//! ```

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
    /// The name of the log, and of its table in the file. One file may hold several logs.
    const LOG: &'static str;
    /// One durable change.
    type Change: prost::Message + Default + Clone;
    /// What callers ask of the service.
    type Command: Send + 'static;
    /// What the caller is told about a command.
    type Outcome: Send + 'static;
    /// What the earlier commands of the same commit will change.
    type Staged: Default + Send;

    /// Decides a command against the state and what earlier commands have `staged`, and appends the
    /// changes of the command to `changes`. The state does not change yet.
    fn decide(
        &self,
        staged: &mut Self::Staged,
        command: Self::Command,
        changes: &mut Vec<Self::Change>,
    ) -> Self::Outcome;

    /// Applies a change that is durable in `row`. A change that has moved from an older row is
    /// applied once more, and then changes nothing but the row that holds it.
    fn apply(&mut self, change: Self::Change, row: Row);

    /// Whether a change in `row` still matters, and so must not be forgotten when the row is
    /// cleaned.
    fn is_live(&self, change: &Self::Change, row: Row) -> bool;

    /// What a change counts towards [`Self::capacity`].
    fn weight(_change: &Self::Change) -> u64 {
        1
    }

    /// The weight of changes that the log may hold before its oldest rows are cleaned.
    fn capacity(&self) -> u64;
}

/// Why an operation could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum JournalError {
    /// The change could not be written. If the process ends now, the next start may find the change
    /// or may not.
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
                write!(
                    f,
                    "the data directory cannot be written: {error}: check its disk for space and errors"
                )
            }
            Self::Read(error) => write!(f, "the data file cannot be read: {error}"),
            Self::Overloaded => f.write_str("too many operations wait for the data file: try again later"),
            Self::Closed => f.write_str("the data file is closed: the service is ending"),
        }
    }
}

/// Runs `open` and turns a panic into a text: redb may panic on a damaged file, and a person should
/// see one line all the same.
fn without_panic<T>(open: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(open));
    panic::set_hook(hook);
    result.map_err(|_| "the structure of the file cannot be read".to_owned())
}
