//! One log of a journal: submitting commands, reading the state, and the writer's part.

use std::{collections::VecDeque, fmt, sync::Arc};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, ReadableTable, StorageError, TableDefinition, WriteTransaction};
use tokio::sync::{oneshot, watch};

use super::{
    JournalError, Row, State,
    writer::{Participant, Signal},
};

/// Commands that may wait for the writer, for each log.
const QUEUE: usize = 16_384;
/// Weight of old changes that is looked at with each commit, beyond twice the new.
const CLEANING_STEP: u64 = 64;
/// Bytes of the checksum before the changes of a row.
const CHECKSUM: usize = 4;

/// A row and the changes in it.
type ReadRow<S> = (Row, Vec<<S as State>::Change>);

type Table = TableDefinition<'static, Row, &'static [u8]>;

pub(super) fn table<S: State>() -> Table {
    TableDefinition::new(S::LOG)
}

/// A service's way to its log. Clones share one log.
pub struct Log<S: State> {
    shared: Arc<Shared<S>>,
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

struct Shared<S: State> {
    queue: Mutex<Queue<S>>,
    state: RwLock<S>,
    newest: watch::Sender<Row>,
    signal: Arc<Signal>,
    database: Arc<Database>,
}

struct Queue<S: State> {
    pending: VecDeque<Pending<S>>,
    closed: bool,
}

struct Pending<S: State> {
    command: S::Command,
    answer: oneshot::Sender<Result<S::Outcome, JournalError>>,
}

impl<S: State> Log<S> {
    /// Has a command decided, its changes made durable and applied.
    ///
    /// # Errors
    /// When the file cannot be written (what of it is on disk is not known then), or too
    /// many commands wait (nothing is changed then).
    pub async fn submit(&self, command: S::Command) -> Result<S::Outcome, JournalError> {
        let (answer, outcome) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return Err(JournalError::Closed);
            }
            if queue.pending.len() >= QUEUE {
                return Err(JournalError::Overloaded);
            }
            queue.pending.push_back(Pending { command, answer });
        }
        self.shared.signal.raise();
        outcome.await.unwrap_or(Err(JournalError::Closed))
    }

    /// The state as of the last commit. Hold it briefly and not across an await: the
    /// writer waits for it.
    pub fn state(&self) -> RwLockReadGuard<'_, S> {
        self.shared.state.read()
    }

    /// Whether the last attempt to write succeeded. After a failure the file has to be
    /// opened anew, that is the process started again: what of it is on disk is not known.
    ///
    /// # Errors
    /// When it did not, or the journal is closed.
    pub fn check_writable(&self) -> Result<(), JournalError> {
        self.shared.signal.check_writable()
    }

    /// Says the number of the newest row whenever there is one.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<Row> {
        self.shared.newest.subscribe()
    }

    /// The changes of up to `rows` rows from row `from` on, oldest first. Blocks while
    /// it reads the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, from: Row, rows: usize) -> Result<Vec<ReadRow<S>>, JournalError> {
        self.read_rows(from, rows).map_err(|error| JournalError::Read(error.to_string()))
    }

    fn read_rows(&self, from: Row, rows: usize) -> Result<Vec<ReadRow<S>>, redb::Error> {
        let transaction = self.shared.database.begin_read()?;
        let table = match transaction.open_table(table::<S>()) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for entry in table.range(from..)?.take(rows) {
            let (row, bytes) = entry?;
            let changes = decode_row::<S>(bytes.value()).map_err(redb::Error::Corrupted)?;
            found.push((row.value(), changes));
        }
        Ok(found)
    }
}

fn weight<S: State>(changes: &[S::Change]) -> u64 {
    changes.iter().map(S::weight).sum()
}

fn encode_row<S: State>(changes: &[S::Change]) -> Vec<u8> {
    let mut bytes = vec![0; CHECKSUM];
    for change in changes {
        // Encoding fails only where a buffer has no room left; a vector grows.
        let _ = change.encode_length_delimited(&mut bytes);
    }
    let checksum = crc32fast::hash(&bytes[CHECKSUM..]);
    bytes[..CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode_row<S: State>(row: &[u8]) -> Result<Vec<S::Change>, String> {
    let (checksum, mut bytes) = row.split_first_chunk::<CHECKSUM>().ok_or("a row is too short")?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) {
        return Err("a checksum does not match".to_owned());
    }
    let mut changes = Vec::new();
    while !bytes.is_empty() {
        changes.push(S::Change::decode_length_delimited(&mut bytes).map_err(|error| error.to_string())?);
    }
    Ok(changes)
}

/// A state brought up to date with its log.
pub(super) struct Replay<S> {
    state: S,
    next: Row,
    weight: u64,
}

impl<S: State> Replay<S> {
    pub(super) fn new(state: S) -> Self {
        Self { state, next: 1, weight: 0 }
    }

    pub(super) fn read(&mut self, table: &impl ReadableTable<Row, &'static [u8]>) -> Result<(), String> {
        let mut first = true;
        for entry in table.iter().map_err(|error| error.to_string())? {
            let (row, bytes) = entry.map_err(|error| error.to_string())?;
            let row = row.value();
            if !std::mem::take(&mut first) && row != self.next {
                return Err(format!("row {} is missing", self.next));
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

pub(super) fn attach<S: State>(
    database: Arc<Database>,
    signal: Arc<Signal>,
    replay: Replay<S>,
) -> (Log<S>, Box<dyn Participant>) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue { pending: VecDeque::new(), closed: false }),
        state: RwLock::new(replay.state),
        newest: watch::Sender::new(replay.next - 1),
        signal,
        database,
    });
    let writer = LogWriter {
        shared: Arc::clone(&shared),
        next: replay.next,
        total: replay.weight,
        taken: VecDeque::new(),
        changes: Vec::new(),
        outcomes: Vec::new(),
        cleaned: 0,
    };
    (Log { shared }, Box::new(writer))
}

type Answer<S> = (oneshot::Sender<Result<<S as State>::Outcome, JournalError>>, <S as State>::Outcome);

/// The writer's side of a log.
struct LogWriter<S: State> {
    shared: Arc<Shared<S>>,
    /// The row that the next commit writes.
    next: Row,
    /// Weight of the changes in the log, dead ones included.
    total: u64,
    taken: VecDeque<Pending<S>>,
    changes: Vec<S::Change>,
    outcomes: Vec<Answer<S>>,
    /// Weight that left the oldest rows in this transaction.
    cleaned: u64,
}

impl<S: State> LogWriter<S> {
    /// Empties the oldest rows, within this commit's share, and gives what of them still
    /// matters.
    fn clean(
        &self,
        table: &mut redb::Table<'_, Row, &'static [u8]>,
    ) -> Result<(Vec<S::Change>, u64), StorageError> {
        let state = self.shared.state.read();
        let fresh = weight::<S>(&self.changes);
        let share = CLEANING_STEP + 2 * fresh;
        let mut live = Vec::new();
        let mut cleaned = 0;
        while cleaned < share && self.total + fresh - cleaned > state.capacity() {
            let Some((row, bytes)) = table.pop_first()? else { break };
            let changes = decode_row::<S>(bytes.value()).map_err(StorageError::Corrupted)?;
            cleaned += weight::<S>(&changes);
            let row = row.value();
            live.extend(changes.into_iter().filter(|change| state.is_live(change, row)));
        }
        Ok((live, cleaned))
    }
}

impl<S: State> Participant for LogWriter<S> {
    fn take(&mut self) -> usize {
        std::mem::swap(&mut self.shared.queue.lock().pending, &mut self.taken);
        self.taken.len()
    }

    fn decide(&mut self) -> bool {
        let state = self.shared.state.read();
        let mut staged = S::Staged::default();
        for Pending { command, answer } in self.taken.drain(..) {
            let outcome = state.decide(&mut staged, command, &mut self.changes);
            self.outcomes.push((answer, outcome));
        }
        !self.changes.is_empty()
    }

    fn write(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let mut table = transaction.open_table(table::<S>())?;
        let (mut changes, cleaned) = self.clean(&mut table)?;
        // What moves comes first: a change of this transaction may end it.
        changes.append(&mut self.changes);
        self.changes = changes;
        self.cleaned = cleaned;
        table.insert(self.next, encode_row::<S>(&self.changes).as_slice())?;
        Ok(())
    }

    fn publish(&mut self) {
        if !self.changes.is_empty() {
            self.total = self.total + weight::<S>(&self.changes) - self.cleaned;
            let mut state = self.shared.state.write();
            for change in self.changes.drain(..) {
                state.apply(change, self.next);
            }
            drop(state);
            self.shared.newest.send_replace(self.next);
            self.next += 1;
        }
        self.cleaned = 0;
        for (answer, outcome) in self.outcomes.drain(..) {
            // Whoever asked may have given up waiting.
            let _ = answer.send(Ok(outcome));
        }
    }

    fn fail(&mut self, error: &JournalError) {
        self.changes.clear();
        self.cleaned = 0;
        for (answer, _) in self.outcomes.drain(..) {
            let _ = answer.send(Err(error.clone()));
        }
    }

    fn close(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        for Pending { answer, .. } in queue.pending.drain(..) {
            let _ = answer.send(Err(JournalError::Closed));
        }
    }
}
