//! The embedded store's journal: state in memory, every change in a log on disk.
//!
//! A service keeps its state in memory (a [`State`]) and writes each change to a log
//! before anyone is told of it. One writer thread commits the commands of all logs that
//! wait at the same moment as one frame of a write-ahead log (group commit), then applies
//! them, then answers. So readers see only what is durable, and what was answered survives
//! the kill of the process and the loss of power.
//!
//! The write-ahead log is two segments: while one is written, a second thread folds the other into
//! a redb file, which holds the logs as tables. At a start, the rows that only the segments hold
//! are folded first; then the state is read from the tables.
//!
//! A command that is decided may enter a command in another log, which is then part of the same commit
//! ([`Log::submit_with`]). docs/adr/0018 says what for.
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
//! use lonja_journal::{Journal, Row, State};
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
mod commit;
mod disk;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod log;
mod open;
mod recovery;
mod segment;
mod signal;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod state;
mod table_file;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

pub use error::{Damage, JournalError, OpenError};
pub use log::Log;
pub use open::{Journal, JournalBuilder};
pub use state::{Row, State};
