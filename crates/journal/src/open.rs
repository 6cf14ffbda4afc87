//! Opening a journal's files, and closing them.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use redb::{ReadTransaction, TableError};

use crate::{
    checkpoint::Checkpoint,
    commit::Participant,
    disk::{Disk, FileSystem},
    error::{Damage, OpenError, without_panic},
    log::{self, Log, Replay},
    recovery::recover,
    segment::Segment,
    signal::Signal,
    state::State,
    table_file::{TableFile, table},
    wal::{SEGMENT, WriteAhead},
    writer::Writer,
};

/// The open files of a journal that has no writer yet: each service adds its log.
pub struct JournalBuilder {
    disk: Arc<dyn Disk>,
    file: Arc<TableFile>,
    segments: [(PathBuf, Segment); 2],
    /// How many bytes a segment takes before the other one is used.
    size: u64,
    generation: u64,
    signal: Arc<Signal>,
    participants: Vec<Box<dyn Participant>>,
}

impl fmt::Debug for JournalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalBuilder").field("path", &self.file.path()).finish_non_exhaustive()
    }
}

/// The threads of an open journal.
#[derive(Debug)]
pub struct Journal {
    signal: Arc<Signal>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Journal {
    /// Opens `NAME.redb`, `NAME.wal0` and `NAME.wal1` in a directory, and makes those that are
    /// missing.
    ///
    /// # Errors
    /// When the files cannot be used. The error says in one line why.
    pub fn open(directory: &Path, name: &str) -> Result<JournalBuilder, OpenError> {
        JournalBuilder::open(Arc::new(FileSystem), directory, name, SEGMENT)
    }

    /// Commits the commands that wait, refuses later ones, and ends the threads. Blocks for as long
    /// as a commit and a fold take.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.signal.close();
        for thread in self.threads.drain(..) {
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
    /// Opens the files of a journal on a disk, with segments of `size` bytes.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        name: &str,
        size: u64,
    ) -> Result<Self, OpenError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Unusable(path, error)
        };
        disk.create_directory(directory).map_err(unusable(directory))?;
        let tables = directory.join(format!("{name}.redb"));
        // The table file is opened first: the process that has it open owns the segments too.
        let file = TableFile::open(&disk, &tables)?;
        let damaged = |what: redb::Error| OpenError::of(&tables, what.into());
        let needed = file.log_size().map_err(damaged)?;
        let open = |number| {
            let path = directory.join(format!("{name}.wal{number}"));
            let file = disk.open(&path).map_err(unusable(&path))?;
            if file.len().map_err(unusable(&path))? < needed.unwrap_or_default() {
                return Err(OpenError::of(&tables, Damage::Lost(path)));
            }
            let (segment, found) = Segment::open(file, size).map_err(unusable(&path))?;
            if found.is_foreign {
                return Err(OpenError::of(&path, Damage::Foreign));
            }
            Ok(((path, segment), found))
        };
        let ((first, in_first), (second, in_second)) = (open(0)?, open(1)?);
        let generation = in_first.generation.max(in_second.generation) + 1;
        disk.sync_directory(directory).map_err(unusable(directory))?;
        without_panic(|| recover(&file, vec![in_first, in_second]))
            .and_then(|recovered| Ok(recovered?))
            .map_err(|what| OpenError::of(&tables, what))?;
        // Both files are on disk, and nothing that matters was written to them yet.
        if needed != Some(size) {
            file.needs_log(size).map_err(damaged)?;
        }
        Ok(Self {
            disk,
            file: Arc::new(file),
            segments: [first, second],
            size,
            generation,
            signal: Arc::default(),
            participants: Vec::new(),
        })
    }

    /// Adds the log of `state`, and brings `state` up to date with the log.
    ///
    /// # Errors
    /// When the log is damaged.
    pub fn add<S: State>(&mut self, state: S) -> Result<Log<S>, OpenError> {
        let replayed = without_panic(|| self.file.read(|transaction| Ok(replay(transaction, state))))
            .and_then(|replayed| replayed?)
            .map_err(|what| OpenError::of(self.file.path(), what))?;
        let (log, participant) = log::attach(Arc::clone(&self.file), Arc::clone(&self.signal), replayed);
        self.participants.push(participant);
        Ok(log)
    }

    /// Starts the writer and the thread that folds what it has written.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self) -> Result<Journal, OpenError> {
        let mut journal = Journal { signal: Arc::clone(&self.signal), threads: Vec::new() };
        let (writer, checkpoint) = self.parts();
        journal.spawn("checkpoint", move || checkpoint.run())?;
        journal.spawn("journal", move || writer.run())?;
        Ok(journal)
    }

    /// What the two threads of the journal run.
    pub(crate) fn parts(self) -> (Writer, Checkpoint) {
        let Self { disk, file, segments, size, generation, signal, participants } = self;
        let [(first_path, first), (second_path, second)] = segments;
        let (full, filled) = mpsc::sync_channel(2);
        let (spare, spares) = mpsc::channel();
        // This function holds the receiver, so sending cannot fail.
        let _ = spare.send(second);
        let log = WriteAhead::new(first, generation, size, spares, full);
        let writer = Writer::new(log, Arc::clone(&signal), participants);
        let segments = [first_path, second_path];
        (writer, Checkpoint { disk, file, segments, signal, full: filled, spare })
    }
}

impl Journal {
    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(OpenError::Thread)?);
        Ok(())
    }
}

fn replay<S: State>(transaction: &ReadTransaction, state: S) -> Result<Replay<S>, Damage> {
    let mut replay = Replay::new(state);
    match transaction.open_table(table(S::LOG)) {
        Ok(table) => replay.read(&table)?,
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(redb::Error::from(error).into()),
    }
    Ok(replay)
}
