//! What the audit needs from a store.

#[cfg(test)]
mod contract;
mod embedded;
mod redis;

use std::{fmt, future::Future, str::FromStr};

use lonja_proto::{Failure, audit::OperationRecord};

pub use embedded::EmbeddedStore;
pub use redis::RedisStore;

/// A place between two records. The smallest position is before the oldest record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The row of the log, or the number of the stream entry in Redis.
    pub row: u64,
    /// The number of records of the row that are before this place.
    pub index: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.row, self.index)
    }
}

impl FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (row, index) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { row: row.parse()?, index: index.parse()? })
    }
}

/// Records of one run of a gateway, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Names the run of the gateway.
    pub writer_id: String,
    /// The number of the first record. A writer counts its records from 1.
    pub first_sequence: u64,
    /// The records, without gaps.
    pub records: Vec<OperationRecord>,
}

impl Batch {
    /// The number of the last record. For an empty batch it is the number of the record before.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        (self.first_sequence + self.records.len() as u64).saturating_sub(1)
    }
}

/// Keeps records in order, durably.
pub trait Store: Send + Sync + 'static {
    /// Stores the records of the batch that are not stored yet. Gives the number of records at the
    /// beginning of the batch that were stored already.
    fn record(&self, batch: Batch) -> impl Future<Output = Result<usize, Failure>> + Send;

    /// Gives some records from a position on, each with the position behind that record. The list
    /// is empty when there are no more records.
    fn read(
        &self,
        from: Position,
    ) -> impl Future<Output = Result<Vec<(Position, OperationRecord)>, Failure>> + Send;

    /// Gives the position behind the newest record.
    fn end(&self) -> impl Future<Output = Result<Position, Failure>> + Send;

    /// Waits until there is a record behind a position, or for a while at most.
    fn wait_beyond(&self, position: Position) -> impl Future<Output = ()> + Send;

    /// Whether the store can be read and written.
    fn is_ready(&self) -> impl Future<Output = bool> + Send;
}
