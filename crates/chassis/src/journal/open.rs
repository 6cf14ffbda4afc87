//! Opening a journal's file, and closing it.

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use redb::{Database, DatabaseError, ReadableDatabase as _, StorageError, TableError};

use super::{
    State,
    log::{self, Log, Replay},
    writer::{Participant, Signal, write_until_closed},
};

/// Bytes of the file that redb may keep in memory. The state is in memory already.
const CACHE: usize = 32 << 20;

/// A data directory that cannot be used: one line that says why and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {} is in use by another lonja: stop it or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    /// It cannot be created or written.
    #[error("the data directory {} cannot be used: {}: make it writable or choose another --data-dir", .0.display(), .1)]
    Unusable(PathBuf, io::Error),
    /// Its content is damaged.
    #[error("the data file {} is damaged ({}): restore it from a backup, or move it away to start empty", .0.display(), .1)]
    Damaged(PathBuf, String),
    /// The writer thread cannot be started.
    #[error("the writer thread cannot be started: {0}")]
    Thread(io::Error),
}

/// A file that is open but has no writer yet: each service adds its log.
pub struct JournalBuilder {
    path: PathBuf,
    database: Arc<Database>,
    signal: Arc<Signal>,
    participants: Vec<Box<dyn Participant>>,
}

impl std::fmt::Debug for JournalBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalBuilder").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The writer of an open file.
#[derive(Debug)]
pub struct Journal {
    signal: Arc<Signal>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Journal {
    /// Opens `NAME.redb` in a directory, both made if they are not there.
    ///
    /// # Errors
    /// Says in one line why it cannot be used.
    pub fn open(directory: &Path, name: &str) -> Result<JournalBuilder, OpenError> {
        let unusable = |error| OpenError::Unusable(directory.to_owned(), error);
        fs::create_dir_all(directory).map_err(unusable)?;
        let path = directory.join(format!("{name}.redb"));
        let open = || Database::builder().set_cache_size(CACHE).create(&path);
        let database = without_panic(open).map_err(|panic| OpenError::Damaged(path.clone(), panic))?;
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(directory.to_owned()),
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                OpenError::Damaged(path.clone(), error.to_string())
            }
            DatabaseError::Storage(StorageError::Io(error)) => unusable(error),
            other => OpenError::Damaged(path.clone(), other.to_string()),
        })?;
        Ok(JournalBuilder {
            path,
            database: Arc::new(database),
            signal: Arc::default(),
            participants: Vec::new(),
        })
    }

    /// Commits what waits, refuses what comes later, and ends the writer. Blocks for as
    /// long as a commit takes.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.signal.close();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already said so on standard error.
            let _ = thread.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.end();
    }
}

impl JournalBuilder {
    /// Adds a log and brings the state up to date with it.
    ///
    /// # Errors
    /// When the log is damaged.
    pub fn add<S: State>(&mut self, state: S) -> Result<Log<S>, OpenError> {
        let damaged = |what: String| OpenError::Damaged(self.path.clone(), what);
        let replayed = without_panic(|| replay(&self.database, state)).map_err(damaged)?.map_err(damaged)?;
        let (log, participant) = log::attach(Arc::clone(&self.database), Arc::clone(&self.signal), replayed);
        self.participants.push(participant);
        Ok(log)
    }

    /// Starts the writer.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn start(self) -> Result<Journal, OpenError> {
        let Self { database, signal, participants, .. } = self;
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn({
                let signal = Arc::clone(&signal);
                move || write_until_closed(&database, &signal, participants)
            })
            .map_err(OpenError::Thread)?;
        Ok(Journal { signal, thread: Some(thread) })
    }
}

fn replay<S: State>(database: &Database, state: S) -> Result<Replay<S>, String> {
    let mut replay = Replay::new(state);
    let transaction = database.begin_read().map_err(|error| error.to_string())?;
    match transaction.open_table(log::table::<S>()) {
        Ok(table) => replay.read(&table)?,
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(replay)
}

/// redb may panic on a damaged file; a person is to get one line all the same.
fn without_panic<T>(open: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(open));
    panic::set_hook(hook);
    result.map_err(|_| "its structure cannot be read".to_owned())
}
