//! The redb file that holds the logs, one table each. Rows come from the write-ahead log, those of
//! many commits in one transaction of redb.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, TableError, WriteTransaction,
};

use crate::{
    disk::Disk,
    error::{OpenError, without_panic},
    state::Row,
};

/// How many bytes of the file redb may keep in memory. The state itself is in memory already.
const CACHE: usize = 32 << 20;
/// The largest size of a file that redb has begun to make and has not finished, in bytes.
const UNFINISHED: u64 = 256 << 10;

/// The table with the least size of the files of the write-ahead log, in bytes, under the key [`SIZE`]. The size is
/// there while these files may hold changes that the table file does not have.
const LOG: TableDefinition<'_, &str, u64> = TableDefinition::new("write-ahead log");
const SIZE: &str = "size";

pub(crate) fn table(log: &str) -> TableDefinition<'_, Row, &'static [u8]> {
    TableDefinition::new(log)
}

/// The rows of a log that are durable but not in the table file yet, in order and without a gap.
#[derive(Debug)]
pub(crate) struct Tail {
    log: &'static str,
    rows: Mutex<VecDeque<(Row, Bytes)>>,
}

impl Tail {
    pub(crate) fn new(log: &'static str) -> Self {
        Self { log, rows: Mutex::default() }
    }

    pub(crate) fn push(&self, row: Row, bytes: Bytes) {
        self.rows.lock().push_back((row, bytes));
    }

    pub(crate) fn get(&self, row: Row) -> Option<Bytes> {
        let rows = self.rows.lock();
        let (front, _) = rows.front()?;
        let index = row.checked_sub(*front)?;
        rows.get(usize::try_from(index).ok()?).map(|(_, bytes)| bytes.clone())
    }

    pub(crate) fn range(&self, from: Row, through: Row) -> Vec<(Row, Bytes)> {
        let rows = self.rows.lock();
        rows.iter().filter(|(row, _)| (from..=through).contains(row)).cloned().collect()
    }

    fn forget(&self, through: Row) {
        self.rows.lock().retain(|(row, _)| *row > through);
    }
}

/// What the table file is to hold of a log: every row from `first` through `last`.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) tail: Arc<Tail>,
    pub(crate) first: Row,
    pub(crate) last: Row,
}

impl Span {
    /// The name of the log.
    pub(crate) fn log(&self) -> &'static str {
        self.tail.log
    }
}

/// The open table file. After an error, redb refuses everything until the file is opened again.
pub(crate) struct TableFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl Drop for TableFile {
    fn drop(&mut self) {
        close(self.database.get_mut().take());
    }
}

/// Closes a database. If redb panicked over damage before, redb panics here again; the damage is known then.
fn close(database: Option<Database>) {
    if without_panic(|| drop(database)).is_err() {
        tracing::error!("the table file could not be closed in order: the next start checks it");
    }
}

impl TableFile {
    /// Opens the file, and makes it if it is not there.
    pub(crate) fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, OpenError> {
        let database = RwLock::new(Some(open(&**disk, path)?));
        Ok(Self { disk: Arc::clone(disk), path: path.to_owned(), database })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is read from memory: no thread has to wait for that.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.disk.is_in_memory()
    }

    fn reopen(&self) -> Result<(), OpenError> {
        let mut database = self.database.write();
        // A process may have the file open only once, so the file is closed first.
        close(database.take());
        *database = Some(open(&*self.disk, &self.path)?);
        Ok(())
    }

    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(redb::Error::PreviousIo)?;
        without_panic(|| read(&database.begin_read()?))?
    }

    pub(crate) fn write(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(redb::Error::PreviousIo)?;
        without_panic(|| {
            let mut transaction = database.begin_write()?;
            // Peers choose much of what is written, so a checksum alone must not decide which
            // of two half-written commits counts.
            transaction.set_two_phase_commit(true);
            write(&transaction)?;
            transaction.commit()?;
            Ok(())
        })?
    }

    /// The least size of the files of the write-ahead log, in bytes; `None` if the table file alone holds all
    /// rows.
    pub(crate) fn log_size(&self) -> Result<Option<u64>, redb::Error> {
        self.read(|transaction| match transaction.open_table(LOG) {
            Ok(table) => Ok(table.get(SIZE)?.map(|size| size.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// Writes down that the files of the write-ahead log, which have at least `size` bytes, may hold changes.
    pub(crate) fn needs_log(&self, size: u64) -> Result<(), redb::Error> {
        self.write(|transaction| {
            transaction.open_table(LOG)?.insert(SIZE, size)?;
            Ok(())
        })
    }

    /// Moves the rows of each span from its tail into the file, and deletes the rows before the
    /// span from the file. `is_last` says that the file then holds all rows.
    pub(crate) fn fold(&self, spans: &[Span], is_last: bool) -> Result<(), OpenError> {
        let folded = self.write(|transaction| {
            for Span { tail, first, last } in spans {
                let mut table = transaction.open_table(table(tail.log))?;
                let from = table.last()?.map_or(0, |(row, _)| row.value() + 1);
                for (row, bytes) in tail.range(from.max(*first), *last) {
                    table.insert(row, bytes.as_ref())?;
                }
                table.retain_in::<Row, _>(..first, |_, _| false)?;
            }
            if is_last {
                transaction.open_table(LOG)?.remove(SIZE)?;
            }
            Ok(())
        });
        if let Err(error) = folded {
            let error = OpenError::Unusable(self.path.clone(), io::Error::other(error));
            return Err(match self.reopen() {
                Ok(()) => error,
                Err(not_opened) => {
                    tracing::error!("{error}");
                    not_opened
                }
            });
        }
        spans.iter().for_each(|span| span.tail.forget(span.last));
        Ok(())
    }
}

/// Whether redb had not finished making a file when the process ended: there is no magic number yet, and
/// nothing but a header.
fn is_unfinished(bytes: &[u8]) -> bool {
    const MAGIC: usize = 9;
    const HEADER: usize = 4096;
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    bytes.get(..MAGIC).is_some_and(is_zero) && bytes.get(HEADER..).is_none_or(is_zero)
}

fn open(disk: &dyn Disk, path: &Path) -> Result<Database, OpenError> {
    let open = || match disk.open_tables(Builder::new().set_cache_size(CACHE), path) {
        Err(error)
            if !matches!(error, DatabaseError::DatabaseAlreadyOpen)
                && disk.empty(path, UNFINISHED, is_unfinished).unwrap_or(false) =>
        {
            tracing::warn!("{} was never finished, by a start that was cut short: made anew", path.display());
            disk.open_tables(Builder::new().set_cache_size(CACHE), path)
        }
        opened => opened,
    };
    let database = without_panic(open).map_err(|panic| OpenError::of(path, panic))?;
    database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
        other => OpenError::of(path, redb::Error::from(other).into()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::{StorageBackend, backends::InMemoryBackend};

    use super::*;
    use crate::disk::FileSystem;

    /// A file over which redb panics, as redb does over some wrong bits.
    #[derive(Debug)]
    struct Damaged(InMemoryBackend, Arc<AtomicBool>);

    impl StorageBackend for Damaged {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            assert!(!self.1.load(Ordering::Relaxed), "damage");
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            assert!(!self.1.load(Ordering::Relaxed), "damage");
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    /// A table file of one row, over which redb panics once that is said.
    fn damaged() -> (TableFile, Arc<AtomicBool>) {
        let is_damaged = Arc::new(AtomicBool::new(false));
        let damaged = Damaged(InMemoryBackend::new(), Arc::clone(&is_damaged));
        let database = Builder::new().set_cache_size(0).create_with_backend(damaged).unwrap();
        let path = PathBuf::from("test.redb");
        let file = TableFile { disk: Arc::new(FileSystem), path, database: RwLock::new(Some(database)) };
        insert(&file, &[1]).unwrap();
        (file, is_damaged)
    }

    fn insert(file: &TableFile, bytes: &[u8]) -> Result<(), redb::Error> {
        file.write(|transaction| {
            transaction.open_table(table("log"))?.insert(1, bytes)?;
            Ok(())
        })
    }

    /// Bug: over a wrong bit that redb met while a process ran, the thread that writes or folds ended.
    #[test]
    fn redb_that_panics_while_it_reads_or_writes_is_an_error() {
        let (file, is_damaged) = damaged();
        let first = || file.read(|transaction| Ok(transaction.open_table(table("log"))?.first()?.is_some()));
        assert!(first().unwrap());
        is_damaged.store(true, Ordering::Relaxed);
        assert!(matches!(first(), Err(redb::Error::Corrupted(_))));
        assert!(matches!(insert(&file, &vec![1; 32 << 20]), Err(redb::Error::Corrupted(_))));
    }

    /// Bug: redb panicked over a wrong bit while a start folded rows, and once more
    /// while the file was closed. The second panic was not turned into an error.
    #[test]
    fn closing_after_redb_has_panicked_is_no_panic() {
        let (file, is_damaged) = damaged();
        is_damaged.store(true, Ordering::Relaxed);
        assert!(insert(&file, &vec![1; 32 << 20]).is_err());
        drop(file);
    }
}
