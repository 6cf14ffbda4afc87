//! Opening a journal's files, and closing them.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use redb::{ReadTransaction, TableError};

use crate::{
    checkpoint::fold_until_closed,
    commit::Participant,
    error::{Damage, OpenError, without_panic},
    log::{self, Log, Replay},
    recovery::recover,
    segment::Segment,
    signal::Signal,
    state::State,
    table_file::{TableFile, table},
    wal::WriteAhead,
    writer::write_until_closed,
};

/// The open files of a journal that has no writer yet: each service adds its log.
pub struct JournalBuilder {
    file: Arc<TableFile>,
    segments: [(PathBuf, Segment); 2],
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
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Unusable(path, error)
        };
        fs::create_dir_all(directory).map_err(unusable(directory))?;
        let path = directory.join(format!("{name}.redb"));
        // The table file is opened first: the process that has it open owns the segments too.
        let file = TableFile::open(&path)?;
        let open = |number| {
            let path = directory.join(format!("{name}.wal{number}"));
            let (segment, found) = Segment::open(&path).map_err(unusable(&path))?;
            Ok(((path, segment), found))
        };
        let ((first, in_first), (second, in_second)) = (open(0)?, open(1)?);
        let generation = in_first.generation.max(in_second.generation) + 1;
        fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable(directory))?;
        without_panic(|| recover(&file, vec![in_first, in_second]))
            .and_then(|recovered| Ok(recovered?))
            .map_err(|what| OpenError::of(&path, what))?;
        Ok(JournalBuilder {
            file: Arc::new(file),
            segments: [first, second],
            generation,
            signal: Arc::default(),
            participants: Vec::new(),
        })
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
        let Self { file, segments, generation, signal, participants } = self;
        let [(first_path, first), (second_path, second)] = segments;
        let (full, filled) = mpsc::sync_channel(2);
        let (spare, spares) = mpsc::channel();
        // This function holds the receiver, so sending cannot fail.
        let _ = spare.send(second);
        let mut journal = Journal { signal: Arc::clone(&signal), threads: Vec::new() };
        journal.spawn("checkpoint", {
            let signal = Arc::clone(&signal);
            move || fold_until_closed(&file, &[first_path, second_path], &signal, &filled, &spare)
        })?;
        let log = WriteAhead::new(first, generation, spares, full);
        journal.spawn("journal", move || write_until_closed(log, signal, participants))?;
        Ok(journal)
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
