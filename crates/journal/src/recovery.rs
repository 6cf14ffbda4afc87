//! How the table file catches up with the write-ahead log at a start.

use std::collections::{HashMap, hash_map::Entry};

use prost::Message as _;
use redb::{ReadableTable as _, WriteTransaction};

use crate::{
    commit::{Commit, LogRow},
    segment::Found,
    state::Row,
    table_file::{TableFile, table},
};

/// Moves the rows that only the segments hold into the table file.
///
/// # Errors
/// When a row is missing between the rows of the file and the rows of the segments, or the file
/// cannot be written.
pub(crate) fn recover(file: &TableFile, mut segments: Vec<Found>) -> Result<(), redb::Error> {
    segments.sort_by_key(|found| found.generation);
    if segments.iter().all(|found| found.payloads.is_empty() && found.beyond.is_empty()) {
        return Ok(());
    }
    file.write(|transaction| {
        let mut known = Newest { transaction, rows: HashMap::new() };
        for payload in segments.iter().flat_map(|found| &found.payloads) {
            let Commit { rows, before } = decode(payload)?;
            for LogRow { log, row, .. } in before {
                if row > known.newest(&log)? {
                    return Err(missing(&log, row + 1));
                }
            }
            for row in rows {
                known.insert(row)?;
            }
        }
        for payload in segments.iter().flat_map(|found| &found.beyond) {
            for LogRow { log, row, .. } in decode(payload)?.rows {
                if row > known.newest(&log)? {
                    return Err(missing(&log, row));
                }
            }
        }
        Ok(())
    })
}

fn decode(payload: &[u8]) -> Result<Commit, redb::Error> {
    Commit::decode(payload).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

fn missing(log: &str, row: Row) -> redb::Error {
    redb::Error::Corrupted(format!("what comes before row {row} of the {log} log is missing"))
}

/// The newest row of each log in the table file, read when it is first asked for.
struct Newest<'a> {
    transaction: &'a WriteTransaction,
    rows: HashMap<String, Row>,
}

impl Newest<'_> {
    fn newest(&mut self, log: &str) -> Result<Row, redb::Error> {
        Ok(match self.rows.entry(log.to_owned()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let table = self.transaction.open_table(table(log))?;
                *unknown.insert(table.last()?.map_or(0, |(row, _)| row.value()))
            }
        })
    }

    /// Inserts a row, unless the table file has the row already. A gap before the row is an error.
    fn insert(&mut self, LogRow { log, row, bytes }: LogRow) -> Result<(), redb::Error> {
        let newest = self.newest(&log)?;
        if row > newest + 1 {
            return Err(missing(&log, row));
        }
        if row == newest + 1 {
            self.transaction.open_table(table(&log))?.insert(row, bytes.as_ref())?;
            self.rows.insert(log, row);
        }
        Ok(())
    }
}
