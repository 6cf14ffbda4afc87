//! Reads records in order, from a position on, and finds the newest records.

use std::collections::VecDeque;

use lonja_proto::audit::{OperationFilter, OperationRecord};
use lonja_rpc::page_size;
use tonic::Status;

use crate::{
    filter::matches,
    store::{Position, Store},
};

/// The number of records in a page, when the caller does not say.
const PAGE: usize = 512;
/// The largest number of records in a page.
const MAX_PAGE: usize = 4096;
/// The number of rows that [`newest`] looks at first.
const FIRST_LOOK: u64 = 64;
/// How many times more rows [`newest`] looks at whenever the rows before were not enough.
const LOOK_FURTHER: u64 = 8;
/// The number of looked-at records beyond which [`newest`] looks no further back.
const LOOKED_AT: usize = 20_000;
/// The number of looked-at records after which [`Reader::page`] gives what it has found so far.
const LOOKED_AT_FOR_A_PAGE: usize = 5000;

/// What was found behind a position.
pub(crate) struct Page {
    pub(crate) records: Vec<OperationRecord>,
    /// Whether there are no more records to look at.
    pub(crate) is_end: bool,
}

/// Reads matching records, page after page.
pub(crate) struct Reader<S> {
    store: S,
    filter: OperationFilter,
    size: usize,
    position: Position,
    /// Records that were read from the store, but not looked at yet.
    ahead: std::vec::IntoIter<(Position, OperationRecord)>,
}

impl<S: Store> Reader<S> {
    /// Makes a reader that begins at a position. `size` is the largest number of records in a page;
    /// 0 leaves the choice to the reader.
    pub(crate) fn new(store: S, filter: Option<OperationFilter>, size: u32, position: Position) -> Self {
        let size = page_size(size, PAGE, MAX_PAGE);
        Self { store, filter: filter.unwrap_or_default(), size, position, ahead: Vec::new().into_iter() }
    }

    /// The position behind the last page.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Waits until there may be another page, or for a while.
    pub(crate) async fn wait(&self) {
        self.store.wait_beyond(self.position).await;
    }

    /// Gives the next page of records that match. A page may be empty, when many records were
    /// looked at and none matches.
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

    /// Reads more records from the store, and says whether there were any.
    async fn read_ahead(&mut self) -> Result<bool, Status> {
        let mut read = self.store.read(self.position).await?;
        if read.is_empty() {
            let end = self.store.end().await?;
            read = self.store.read(self.position).await?;
            if read.is_empty() {
                // There are no records up to `end`. A wait that begins inside a row would end at
                // once.
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
    /// The records, oldest first.
    pub(crate) records: Vec<OperationRecord>,
    /// The position behind the records.
    pub(crate) behind: Position,
    /// Whether `newest` looked back as far as was wanted, or to the oldest record.
    pub(crate) is_enough: bool,
}

/// Gives the newest wanted records, at most `count`. Looking back ends when `count` records are
/// found, when `is_enough` holds for the oldest record that was looked at, or after
/// [`LOOKED_AT`] records.
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
