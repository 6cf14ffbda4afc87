//! What the audit needs of a store.

#[cfg(test)]
mod contract;
mod embedded;
mod redis;

use std::{fmt, future::Future, str::FromStr};

use lonja_proto::{Failure, audit::OperationRecord};

pub use embedded::EmbeddedStore;
pub use redis::RedisStore;

/// A place between two records; the least of all is before the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The row, or what the store has in its place.
    pub row: u64,
    /// How many records of the row lie before it.
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

/// Records of one gateway, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The gateway's run.
    pub writer_id: String,
    /// Number of the first record among those of the writer, from 1.
    pub first_sequence: u64,
    /// The records, without gaps.
    pub records: Vec<OperationRecord>,
}

impl Batch {
    /// The number of the last record; that of the record before for an empty batch.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        (self.first_sequence + self.records.len() as u64).saturating_sub(1)
    }
}

/// Records in order, durably.
pub trait Store: Send + Sync + 'static {
    /// Stores what of the batch is not stored yet; gives how many records at its
    /// beginning were.
    fn record(&self, batch: Batch) -> impl Future<Output = Result<usize, Failure>> + Send;

    /// Some records from a position on, each with the position behind it; none when
    /// there are no more.
    fn read(
        &self,
        from: Position,
    ) -> impl Future<Output = Result<Vec<(Position, OperationRecord)>, Failure>> + Send;

    /// The position behind the newest record.
    fn end(&self) -> impl Future<Output = Result<Position, Failure>> + Send;

    /// Waits until there is something behind a position, or for a while at most.
    fn wait_beyond(&self, position: Position) -> impl Future<Output = ()> + Send;

    /// Whether the store can be read and written.
    fn is_ready(&self) -> impl Future<Output = bool> + Send;
}
