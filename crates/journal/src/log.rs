//! One log of a journal: submitting commands, reading the state, and the writer's part.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use lonja_telemetry::throttle::Throttle;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use prost::Message as _;
use redb::ReadableTable;
use tokio::{
    sync::{oneshot, watch},
    task,
};

use crate::{
    commit::{LogRow, Participant},
    error::{Damage, JournalError},
    signal::Signal,
    state::{Row, State},
    table_file::{Span, TableFile, Tail, table},
};

/// The largest number of commands that may wait for the writer, for each log.
const QUEUE: usize = 16_384;
/// The weight of old changes that a commit may look at, beyond twice the weight of its new changes.
const CLEANING_STEP: u64 = 64;
/// The length of the checksum that stands before the changes of a row, in bytes.
const CHECKSUM: usize = 4;

/// The number of a row, and the changes in the row.
type ReadRow<S> = (Row, Vec<<S as State>::Change>);

static UNREADABLE: Throttle = Throttle::events();

/// A service's access to its log. Clones share one log.
pub struct Log<S: State> {
    shared: Arc<SharedLog<S>>,
}

impl<S: State> Clone for Log<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: State> fmt::Debug for Log<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&S::LOG).finish()
    }
}

struct SharedLog<S: State> {
    queue: Mutex<Queue<S>>,
    state: RwLock<S>,
    newest: watch::Sender<Row>,
    signal: Arc<Signal>,
    file: Arc<TableFile>,
    tail: Arc<Tail>,
    /// The oldest row that matters. Older rows stay in the files for a while.
    first: AtomicU64,
}

struct Queue<S: State> {
    pending: VecDeque<Pending<S>>,
    closed: bool,
}

struct Pending<S: State> {
    command: S::Command,
    /// What is called with the outcome while the commit is still open.
    decided: Option<Decided<S>>,
    answer: Answer<S>,
}

/// Is told how a command was decided.
type Decided<S> = Box<dyn FnOnce(&<S as State>::Outcome) + Send>;
/// Takes the answer to a command.
type Answer<S> = Box<dyn FnOnce(Result<<S as State>::Outcome, JournalError>) + Send>;

impl<S: State> Log<S> {
    /// Has a command decided. Returns when the changes of the command are durable and applied.
    ///
    /// # Errors
    /// When the changes cannot be written (it is not known then which are on disk), when too many
    /// commands wait (nothing is changed then), or when the journal is closed.
    pub async fn submit(&self, command: S::Command) -> Result<S::Outcome, JournalError> {
        self.wait_for(command, None).await
    }

    /// Does what [`Self::submit`] does, and calls `decided` with the outcome while the commit is still
    /// open. What `decided` then enters in a log that was added later is in the same commit: either both
    /// are durable or neither is. All commands wait while `decided` runs on the writer's thread.
    ///
    /// # Errors
    /// Those of [`Self::submit`].
    pub async fn submit_with(
        &self,
        command: S::Command,
        decided: impl FnOnce(&S::Outcome) + Send + 'static,
    ) -> Result<S::Outcome, JournalError> {
        self.wait_for(command, Some(Box::new(decided))).await
    }

    /// Has a command decided without waiting. `answer` is called once, and must not wait: by the writer,
    /// when the changes of the command are durable and applied or could not be written; or at once, when
    /// too many commands wait or the journal is closed.
    pub fn enter(
        &self,
        command: S::Command,
        answer: impl FnOnce(Result<S::Outcome, JournalError>) + Send + 'static,
    ) {
        self.push(Pending { command, decided: None, answer: Box::new(answer) });
    }

    async fn wait_for(
        &self,
        command: S::Command,
        decided: Option<Decided<S>>,
    ) -> Result<S::Outcome, JournalError> {
        let (answer, outcome) = oneshot::channel();
        // Whoever asked may have given up waiting.
        let answer = Box::new(|result| drop(answer.send(result)));
        self.push(Pending { command, decided, answer });
        outcome.await.unwrap_or(Err(JournalError::Closed))
    }

    fn push(&self, pending: Pending<S>) {
        let refused = {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                JournalError::Closed
            } else if queue.pending.len() >= QUEUE {
                JournalError::Overloaded
            } else {
                queue.pending.push_back(pending);
                drop(queue);
                return self.shared.signal.raise();
            }
        };
        (pending.answer)(Err(refused));
    }

    /// The state as of the last commit. Hold the guard briefly and not across an await: the writer
    /// waits for it.
    pub fn state(&self) -> RwLockReadGuard<'_, S> {
        self.shared.state.read()
    }

    /// Checks that the last attempt to write succeeded. After a failure, the call also has the writer make another
    /// attempt, whose result a later call gives.
    ///
    /// # Errors
    /// When the last attempt failed, or the journal is closed.
    pub fn check_writable(&self) -> Result<(), JournalError> {
        self.shared.signal.check_writable()
    }

    /// Gives a receiver that is told the number of the newest row after each commit that writes
    /// one.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<Row> {
        self.shared.newest.subscribe()
    }

    /// Gives the changes of up to `rows` rows from row `from` on, oldest first. The file is read on a
    /// thread that may block.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(&self, from: Row, rows: usize) -> Result<Vec<ReadRow<S>>, JournalError> {
        let log = self.clone();
        let read = move || log.read_rows(from, rows).map_err(|error| JournalError::Read(error.to_string()));
        if self.shared.file.is_in_memory() {
            return read();
        }
        let read = task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| Err(JournalError::Read(error.to_string())))
    }

    pub(crate) fn read_rows(&self, from: Row, rows: usize) -> Result<Vec<ReadRow<S>>, redb::Error> {
        let from = from.max(self.shared.first.load(Ordering::Acquire));
        // The tail is read before the file: a row leaves the tail once it is in the file, so none
        // is missed.
        let tail = self.shared.tail.range(from, Row::MAX);
        let mut found = Vec::new();
        self.shared.file.read(|transaction| {
            let table = match transaction.open_table(table(S::LOG)) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            for entry in table.range(from..)?.take(rows) {
                let (row, bytes) = entry?;
                let changes = decode_row::<S>(bytes.value())?;
                found.push((row.value(), changes));
            }
            Ok(())
        })?;
        let behind = found.last().map_or(from, |(row, _)| row + 1);
        let room = rows - found.len();
        for (row, bytes) in tail.into_iter().filter(|(row, _)| *row >= behind).take(room) {
            found.push((row, decode_row::<S>(&bytes)?));
        }
        Ok(found)
    }
}

fn weight<S: State>(changes: &[S::Change]) -> u64 {
    changes.iter().map(S::weight).sum()
}

fn encode_row<S: State>(changes: &[S::Change]) -> Bytes {
    let mut bytes = vec![0; CHECKSUM];
    for change in changes {
        // Encoding fails only where a buffer has no room left; a vector grows.
        let _ = change.encode_length_delimited(&mut bytes);
    }
    let checksum = crc32fast::hash(&bytes[CHECKSUM..]);
    bytes[..CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    bytes.into()
}

fn decode_row<S: State>(row: &[u8]) -> Result<Vec<S::Change>, Damage> {
    let (checksum, mut bytes) = row.split_first_chunk::<CHECKSUM>().ok_or(Damage::Short)?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    let mut changes = Vec::new();
    while !bytes.is_empty() {
        changes.push(S::Change::decode_length_delimited(&mut bytes)?);
    }
    Ok(changes)
}

/// A state brought up to date with its log.
pub(crate) struct Replay<S> {
    state: S,
    first: Row,
    next: Row,
    weight: u64,
}

impl<S: State> Replay<S> {
    pub(crate) fn new(state: S) -> Self {
        Self { state, first: 1, next: 1, weight: 0 }
    }

    pub(crate) fn read(&mut self, table: &impl ReadableTable<Row, &'static [u8]>) -> Result<(), Damage> {
        let mut first = true;
        for entry in table.iter().map_err(redb::Error::from)? {
            let (row, bytes) = entry.map_err(redb::Error::from)?;
            let row = row.value();
            if std::mem::take(&mut first) {
                self.first = row;
            } else if row != self.next {
                return Err(Damage::Missing(self.next));
            }
            for change in decode_row::<S>(bytes.value())? {
                self.weight += S::weight(&change);
                self.state.apply(change, row);
            }
            self.next = row + 1;
        }
        Ok(())
    }
}

pub(crate) fn attach<S: State>(
    file: Arc<TableFile>,
    signal: Arc<Signal>,
    replay: Replay<S>,
) -> (Log<S>, Box<dyn Participant>) {
    let shared = Arc::new(SharedLog {
        queue: Mutex::new(Queue { pending: VecDeque::new(), closed: false }),
        state: RwLock::new(replay.state),
        newest: watch::Sender::new(replay.next - 1),
        signal,
        file,
        tail: Arc::new(Tail::new(S::LOG)),
        first: AtomicU64::new(replay.first),
    });
    let writer = LogWriter {
        shared: Arc::clone(&shared),
        next: replay.next,
        total: replay.weight,
        taken: VecDeque::new(),
        changes: Vec::new(),
        bytes: Bytes::new(),
        outcomes: Vec::new(),
        cleaned: Cleaned::default(),
    };
    (Log { shared }, Box::new(writer))
}

/// The writer's side of a log.
struct LogWriter<S: State> {
    shared: Arc<SharedLog<S>>,
    /// The row that the next commit writes.
    next: Row,
    /// The weight of all changes from the first row on, including those that no longer matter.
    total: u64,
    taken: VecDeque<Pending<S>>,
    /// The changes of the current commit.
    changes: Vec<S::Change>,
    /// The row that holds `changes`, encoded.
    bytes: Bytes,
    outcomes: Vec<(Answer<S>, S::Outcome)>,
    cleaned: Cleaned,
}

/// The oldest rows that the current commit cleans: their number and the weight of their changes.
#[derive(Default)]
struct Cleaned {
    rows: u64,
    weight: u64,
}

impl<S: State> LogWriter<S> {
    fn first(&self) -> Row {
        self.shared.first.load(Ordering::Acquire)
    }

    /// Reads the oldest rows, up to this commit's share of weight, and gives their changes that
    /// still matter. These changes become a part of the row that is written, so the old rows need
    /// not be read again.
    fn clean(&self) -> Result<(Vec<S::Change>, Cleaned), redb::Error> {
        let fresh = weight::<S>(&self.changes);
        let share = CLEANING_STEP + 2 * fresh;
        let mut live = Vec::new();
        let mut cleaned = Cleaned::default();
        let state = self.shared.state.read();
        let is_due = |cleaned: &Cleaned| {
            cleaned.weight < share && self.total + fresh - cleaned.weight > state.capacity()
        };
        if !is_due(&cleaned) {
            return Ok((live, cleaned));
        }
        self.shared.file.read(|transaction| {
            let folded = match transaction.open_table(table(S::LOG)) {
                Ok(table) => Some(table),
                Err(redb::TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(error.into()),
            };
            for row in self.first()..self.next {
                if !is_due(&cleaned) {
                    break;
                }
                let changes = match (self.shared.tail.get(row), &folded) {
                    (Some(bytes), _) => decode_row::<S>(&bytes),
                    (None, Some(table)) => match table.get(row)? {
                        Some(bytes) => decode_row::<S>(bytes.value()),
                        // The row was folded a moment ago: the next commit sees it in the file.
                        None => break,
                    },
                    (None, None) => break,
                };
                let changes = changes?;
                cleaned.rows += 1;
                cleaned.weight += weight::<S>(&changes);
                live.extend(changes.into_iter().filter(|change| state.is_live(change, row)));
            }
            Ok(())
        })?;
        Ok((live, cleaned))
    }
}

impl<S: State> Participant for LogWriter<S> {
    fn take(&mut self) -> usize {
        std::mem::swap(&mut self.shared.queue.lock().pending, &mut self.taken);
        self.taken.len()
    }

    fn decide(&mut self) -> Option<LogRow> {
        let state = self.shared.state.read();
        let mut staged = S::Staged::default();
        for Pending { command, decided, answer } in self.taken.drain(..) {
            let outcome = state.decide(&mut staged, command, &mut self.changes);
            if let Some(decided) = decided {
                decided(&outcome);
            }
            self.outcomes.push((answer, outcome));
        }
        drop(state);
        if self.changes.is_empty() {
            return None;
        }
        match self.clean() {
            Ok((mut changes, cleaned)) => {
                // Changes that move come first, because a new change of this commit may supersede
                // them.
                changes.append(&mut self.changes);
                self.changes = changes;
                self.cleaned = cleaned;
            }
            // Without cleaning, the log grows until its old rows can be read again.
            Err(error) => {
                if let Some(suppressed) = UNREADABLE.admit() {
                    tracing::error!(suppressed, "the {} log cannot be cleaned: {error}", S::LOG);
                }
            }
        }
        self.bytes = encode_row::<S>(&self.changes);
        Some(LogRow { log: S::LOG.to_owned(), row: self.next, bytes: self.bytes.clone() })
    }

    fn publish(&mut self) {
        if !self.changes.is_empty() {
            self.total = self.total + weight::<S>(&self.changes) - self.cleaned.weight;
            self.shared.first.fetch_add(self.cleaned.rows, Ordering::Release);
            self.shared.tail.push(self.next, std::mem::take(&mut self.bytes));
            let mut state = self.shared.state.write();
            for change in self.changes.drain(..) {
                state.apply(change, self.next);
            }
            drop(state);
            self.shared.newest.send_replace(self.next);
            self.next += 1;
        }
        self.cleaned = Cleaned::default();
    }

    fn answer(&mut self) {
        self.outcomes.drain(..).for_each(|(answer, outcome)| answer(Ok(outcome)));
    }

    fn fail(&mut self, error: &JournalError) {
        self.changes.clear();
        self.cleaned = Cleaned::default();
        self.outcomes.drain(..).for_each(|(answer, _)| answer(Err(error.clone())));
    }

    fn span(&self) -> Span {
        Span { tail: Arc::clone(&self.shared.tail), first: self.first(), last: self.next - 1 }
    }

    fn close(&mut self) {
        let refused = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.pending)
        };
        refused.into_iter().for_each(|pending| (pending.answer)(Err(JournalError::Closed)));
    }
}
