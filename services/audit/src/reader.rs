//! Reading records in order, from a place on or the newest.

use std::collections::VecDeque;

use lonja_proto::audit::{OperationFilter, OperationRecord};
use tonic::Status;

use crate::{
    filter::matches,
    store::{Position, Store},
};

/// Records in a page, where the caller does not say.
const PAGE: usize = 512;
/// Records in a page at most.
const MAX_PAGE: usize = 4096;
/// How many rows before the newest one looks at first, and how many times more whenever
/// that was not enough.
const FIRST_LOOK: u64 = 64;
const LOOK_FURTHER: u64 = 8;
/// Records that are looked at, at most, before one does not look further back,
const LOOKED_AT: usize = 20_000;
/// and before one gives a page with what was found until then.
const LOOKED_AT_FOR_A_PAGE: usize = 5000;

/// What was found behind a place.
pub(crate) struct Page {
    pub(crate) records: Vec<OperationRecord>,
    /// Whether nothing was left to look at.
    pub(crate) is_end: bool,
}

/// A reader's place among the records.
pub(crate) struct Reader<S> {
    store: S,
    filter: OperationFilter,
    size: usize,
    position: Position,
    /// Read, but not given out yet.
    ahead: std::vec::IntoIter<(Position, OperationRecord)>,
}

impl<S: Store> Reader<S> {
    /// Reads pages of so many records that match; 0 leaves the choice to the reader.
    pub(crate) fn new(store: S, filter: Option<OperationFilter>, size: u32, position: Position) -> Self {
        let size = match size as usize {
            0 => PAGE,
            size => size.min(MAX_PAGE),
        };
        Self { store, filter: filter.unwrap_or_default(), size, position, ahead: Vec::new().into_iter() }
    }

    /// The place behind the last page.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Waits until there may be another page, or for a while.
    pub(crate) async fn wait(&self) {
        self.store.wait_beyond(self.position).await;
    }

    /// The next records that match: at most a page of them, none if it had to look at many.
    pub(crate) async fn page(&mut self) -> Result<Page, Status> {
        let (mut records, mut looked_at) = (Vec::new(), 0);
        while records.len() < self.size && looked_at < LOOKED_AT_FOR_A_PAGE {
            match self.ahead.next() {
                Some((behind, record)) => {
                    self.position = behind;
                    looked_at += 1;
                    if matches(&self.filter, &record) {
                        records.push(record);
                    }
                }
                None if self.read_ahead().await? => {}
                None => return Ok(Page { records, is_end: true }),
            }
        }
        Ok(Page { records, is_end: false })
    }

    /// Says whether there was more to read.
    async fn read_ahead(&mut self) -> Result<bool, Status> {
        let mut read = self.store.read(self.position).await?;
        if read.is_empty() {
            let end = self.store.end().await?;
            read = self.store.read(self.position).await?;
            if read.is_empty() {
                // Nothing lies between: waiting must not begin inside a row.
                self.position = self.position.max(end);
            }
        }
        let is_more = !read.is_empty();
        self.ahead = read.into_iter();
        Ok(is_more)
    }
}

/// What was found by looking back.
pub(crate) struct Newest {
    /// Oldest first.
    pub(crate) records: Vec<OperationRecord>,
    /// The place behind them.
    pub(crate) behind: Position,
    /// Whether it looked back as far as was wanted, or to the oldest record.
    pub(crate) is_enough: bool,
}

/// The newest records that are wanted, at most `count`. It looks back until it has so many
/// or `is_enough` says so of the oldest that it looked at, and not without end.
pub(crate) async fn newest<S: Store>(
    store: &S,
    count: usize,
    is_wanted: impl Fn(&OperationRecord) -> bool,
    is_enough: impl Fn(&OperationRecord) -> bool,
) -> Result<Newest, Status> {
    let end = store.end().await?;
    if count == 0 {
        return Ok(Newest { records: Vec::new(), behind: end, is_enough: true });
    }
    let mut rows = FIRST_LOOK;
    loop {
        let start = Position { row: end.row.saturating_sub(rows), index: 0 };
        let (mut position, mut looked_at, mut enough) = (start, 0, start.row == 0);
        let mut found = VecDeque::new();
        while position < end {
            let read = store.read(position).await?;
            let Some((last, _)) = read.last() else { break };
            position = *last;
            enough |= looked_at == 0 && is_enough(&read[0].1);
            looked_at += read.len();
            found.extend(read.into_iter().map(|(_, record)| record).filter(&is_wanted));
            let surplus = found.len().saturating_sub(count);
            found.drain(..surplus);
        }
        enough |= found.len() == count;
        if enough || looked_at > LOOKED_AT {
            let behind = position.max(end);
            return Ok(Newest { records: found.into(), behind, is_enough: enough });
        }
        rows *= LOOK_FURTHER;
    }
}
