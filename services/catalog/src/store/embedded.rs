//! The store of a catalog that keeps its own files, as in `lonja up`: the state is in memory, the
//! changes are in the journal.
//!
//! How a state of the journal works: a [`Command`] is decided against the state and what earlier commands
//! of the same commit have [`Staged`]; the [`CatalogChange`]s that it makes are written to a row of the
//! log; then they are applied to the state. The log forgets its oldest rows, and moves what still matters
//! of them to the newest row (`lonja_journal::State`).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use lonja_chassis::{clock::unix_ms, unit_of_work::submit};
use lonja_journal::{JournalBuilder, Log, OpenError, Row, State};
use lonja_proto::{Failure, Reason, SessionId};

use super::{Cursor, File, FileChange, Listed, Statistics, Store};
use crate::CatalogConfig;

/// The number of changes that the log may hold besides two for each file and each tombstone.
const SLACK: u64 = 1024;
/// The largest number of rows of the log that are read at once.
const ROWS: usize = 256;
/// How long a tombstone stays. A request is over after seconds, which is much sooner.
const TOMBSTONE: Duration = Duration::from_secs(300);

/// Published lists in a journal. All clones are the same store.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    log: Log<Catalog>,
}

impl EmbeddedStore {
    /// Adds the catalog's log to a journal.
    ///
    /// # Errors
    /// When the log is damaged.
    pub fn open(journal: &mut JournalBuilder, config: &CatalogConfig) -> Result<Self, OpenError> {
        let catalog = Catalog { max_files: config.max_files_per_session, ..Catalog::default() };
        Ok(Self { log: journal.add(catalog)? })
    }

    async fn submit(&self, session: SessionId, action: Action) -> Result<(), Failure> {
        submit(&self.log, Command { session, action }).await
    }
}

impl Store for EmbeddedStore {
    const MAX_LAG: Duration = Duration::ZERO;

    async fn publish(&self, session: SessionId, username: &str, file: File) -> Result<(), Failure> {
        self.submit(session, Action::Publish(username.to_owned(), file)).await
    }

    async fn delete(&self, session: SessionId, filename: &str) -> Result<(), Failure> {
        self.submit(session, Action::Delete(filename.to_owned())).await
    }

    async fn list(&self, session: SessionId) -> Result<Vec<Listed>, Failure> {
        let state = self.log.state();
        let Some(list) = state.sessions.get(&session) else { return Ok(Vec::new()) };
        let mut files: Vec<_> = list.files.iter().collect();
        files.sort_unstable_by_key(|(_, entry)| entry.order);
        let files = files.into_iter().map(|(filename, entry)| Listed {
            order: entry.order,
            file: File { filename: filename.to_string(), description: entry.description.to_string() },
        });
        Ok(files.collect())
    }

    async fn has(&self, session: SessionId, filename: &str) -> Result<bool, Failure> {
        let state = self.log.state();
        Ok(state.sessions.get(&session).is_some_and(|list| list.files.contains_key(filename)))
    }

    async fn end_session(&self, session: SessionId) -> Result<(), Failure> {
        self.submit(session, Action::End(unix_ms())).await
    }

    async fn sessions(&self) -> Result<Vec<(SessionId, String)>, Failure> {
        let state = self.log.state();
        Ok(state.sessions.iter().map(|(id, list)| (*id, list.username.to_string())).collect())
    }

    /// Gives the row behind the newest row, and the order of the next file. A file with a smaller
    /// order in a later row was published before, and cleaning has only moved the file.
    async fn newest(&self) -> Result<Cursor, Failure> {
        // The order is read first: a file of a row between the two comes once more, and is not taken for moved.
        let next_order = self.log.state().next_order;
        let row = *self.log.newest().borrow() + 1;
        Ok(Cursor(vec![row, next_order]))
    }

    async fn changes(&self, from: &Cursor) -> Result<Option<(Vec<FileChange>, Cursor)>, Failure> {
        let Cursor(place) = from;
        let (row, next_order) = (place[0], place[1]);
        let rows = self.log.read(row, ROWS).await.map_err(Failure::unavailable)?;
        let Some((last, _)) = rows.last() else { return Ok(Some((Vec::new(), from.clone()))) };
        if rows[0].0 != row {
            return Ok(None);
        }
        let (behind, mut next) = (last + 1, next_order);
        let mut changes = Vec::new();
        for change in rows.into_iter().flat_map(|(_, changes)| changes) {
            let session = change.session_id();
            match change.kind {
                Some(Kind::Published(file)) if file.order >= next => {
                    next = file.order + 1;
                    let Published { username, filename, description, order } = file;
                    let listed = Listed { order, file: File { filename, description } };
                    changes.push(FileChange::Published(session, username.into(), listed));
                }
                Some(Kind::Deleted(filename)) => changes.push(FileChange::Deleted(session, filename)),
                Some(Kind::EndedAtMs(_)) => changes.push(FileChange::Ended(session)),
                Some(Kind::Published(_)) | None => {}
            }
        }
        Ok(Some((changes, Cursor(vec![behind, next]))))
    }

    async fn statistics(&self) -> Result<Statistics, Failure> {
        self.log.check_writable().map_err(Failure::unavailable)?;
        let state = self.log.state();
        Ok(Statistics { sessions: state.sessions.len() as u64, files: state.files })
    }

    async fn is_ready(&self) -> bool {
        self.log.check_writable().is_ok()
    }
}

#[derive(Debug)]
struct Entry {
    order: u64,
    row: Row,
    description: Box<str>,
}

/// What a session has published, by filename.
#[derive(Debug)]
struct List {
    username: Box<str>,
    files: HashMap<Box<str>, Entry>,
}

/// The state: what each session has published, and which sessions have ended lately.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    sessions: HashMap<SessionId, List>,
    files: u64,
    next_order: u64,
    tombstones: HashSet<SessionId>,
    /// The tombstones with the times at which the sessions ended, in milliseconds of the Unix
    /// epoch, oldest first.
    ended: VecDeque<(i64, SessionId)>,
    max_files: usize,
}

/// What a caller asks for, and for which session.
#[derive(Debug)]
pub(crate) struct Command {
    session: SessionId,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Publish(String, File),
    Delete(String),
    End(i64),
}

/// What earlier commands of the same commit have done to a session.
#[derive(Debug, Default)]
struct StagedSession {
    /// The files that were published (`true`) or deleted (`false`).
    files: HashMap<String, bool>,
    /// How many more files there are than in the state.
    grown: isize,
    ended: bool,
}

/// The sessions as the earlier commands of a commit leave them, and how many files these publish.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    sessions: HashMap<SessionId, StagedSession>,
    published: u64,
}

/// A change as the log has it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CatalogChange {
    #[prost(bytes = "vec", tag = "1")]
    session: Vec<u8>,
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "2")]
    Published(Published),
    #[prost(string, tag = "3")]
    Deleted(String),
    #[prost(int64, tag = "4")]
    EndedAtMs(i64),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Published {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    filename: String,
    #[prost(string, tag = "3")]
    description: String,
    #[prost(uint64, tag = "4")]
    order: u64,
}

impl CatalogChange {
    fn session_id(&self) -> SessionId {
        SessionId::from_bytes(self.session.as_slice().try_into().unwrap_or_default())
    }
}

impl Catalog {
    fn publish(&mut self, session: SessionId, published: Published, row: Row) {
        let Published { username, filename, description, order } = published;
        let list = self
            .sessions
            .entry(session)
            .or_insert_with(|| List { username: username.into(), files: HashMap::new() });
        let entry = Entry { order, row, description: description.into() };
        if list.files.insert(filename.into(), entry).is_none() {
            self.files += 1;
        }
        self.next_order = self.next_order.max(order + 1);
    }

    fn delete(&mut self, session: SessionId, filename: &str) {
        let Some(list) = self.sessions.get_mut(&session) else { return };
        if list.files.remove(filename).is_some() {
            self.files -= 1;
        }
        if list.files.is_empty() {
            self.sessions.remove(&session);
        }
    }

    fn end(&mut self, session: SessionId, at_ms: i64) {
        if let Some(list) = self.sessions.remove(&session) {
            self.files -= list.files.len() as u64;
        }
        if self.tombstones.insert(session) {
            self.ended.push_back((at_ms, session));
        }
        while let Some((at_ms, session)) = self.ended.front()
            && !is_fresh(*at_ms)
        {
            self.tombstones.remove(session);
            self.ended.pop_front();
        }
    }
}

/// Whether a session ended lately. If the clock was set back since, that moment is in the future.
fn is_fresh(ended_at_ms: i64) -> bool {
    i128::from(unix_ms() - ended_at_ms) < TOMBSTONE.as_millis().cast_signed()
}

impl State for Catalog {
    const LOG: &'static str = "catalog";
    type Change = CatalogChange;
    type Command = Command;
    type Outcome = Result<(), Reason>;
    type Staged = Staged;

    fn decide(
        &self,
        staged: &mut Staged,
        command: Command,
        changes: &mut Vec<CatalogChange>,
    ) -> Self::Outcome {
        let Command { session, action } = command;
        let before = staged.sessions.entry(session).or_default();
        let ended = before.ended || self.tombstones.contains(&session);
        let list = self.sessions.get(&session);
        let has = |filename: &str| match before.files.get(filename) {
            Some(present) => *present,
            None => list.is_some_and(|list| list.files.contains_key(filename)),
        };
        let kind = match action {
            Action::End(_) if ended => return Ok(()),
            _ if ended => return Err(Reason::SessionEnded),
            Action::Publish(_, file) if has(&file.filename) => {
                return Err(Reason::FileExists);
            }
            Action::Publish(username, File { filename, description }) => {
                let count = list.map_or(0, |list| list.files.len());
                if count.saturating_add_signed(before.grown) >= self.max_files {
                    return Err(Reason::TooManyFiles);
                }
                before.files.insert(filename.clone(), true);
                before.grown += 1;
                let order = self.next_order + staged.published;
                staged.published += 1;
                Kind::Published(Published { username, filename, description, order })
            }
            Action::Delete(filename) if !has(&filename) => return Err(Reason::FileNotFound),
            Action::Delete(filename) => {
                before.files.insert(filename.clone(), false);
                before.grown -= 1;
                Kind::Deleted(filename)
            }
            Action::End(at_ms) => {
                before.ended = true;
                Kind::EndedAtMs(at_ms)
            }
        };
        changes.push(CatalogChange { session: session.to_bytes().to_vec(), kind: Some(kind) });
        Ok(())
    }

    fn apply(&mut self, change: CatalogChange, row: Row) {
        let session = change.session_id();
        match change.kind {
            Some(Kind::Published(published)) => self.publish(session, published, row),
            Some(Kind::Deleted(filename)) => self.delete(session, &filename),
            Some(Kind::EndedAtMs(at_ms)) => self.end(session, at_ms),
            None => {}
        }
    }

    fn is_live(&self, change: &CatalogChange, row: Row) -> bool {
        match &change.kind {
            Some(Kind::Published(published)) => {
                let list = self.sessions.get(&change.session_id());
                let entry = list.and_then(|list| list.files.get(published.filename.as_str()));
                entry.is_some_and(|entry| entry.row == row && entry.order == published.order)
            }
            Some(Kind::EndedAtMs(at_ms)) => is_fresh(*at_ms),
            // Rows are cleaned oldest first: the file that was deleted is gone already.
            Some(Kind::Deleted(_)) | None => false,
        }
    }

    fn capacity(&self) -> u64 {
        2 * (self.files + self.tombstones.len() as u64) + SLACK
    }
}

#[cfg(test)]
mod tests {
    use lonja_journal::Journal;
    use tempfile::TempDir;

    use super::*;
    use crate::store::contract;

    fn open(directory: &TempDir) -> (EmbeddedStore, Journal) {
        let mut journal = Journal::open(directory.path(), "catalog").unwrap();
        let config = CatalogConfig { max_files_per_session: contract::MAX_FILES };
        let store = EmbeddedStore::open(&mut journal, &config).unwrap();
        (store, journal.start().unwrap())
    }

    contract::suite!(|| {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory);
        (store, (journal, directory))
    });

    #[tokio::test]
    async fn everything_is_there_after_a_restart_tombstones_too() {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory);
        let (alive, dead) = (SessionId::fresh(), SessionId::fresh());
        for name in ["z", "a", "m", "gone"] {
            store.publish(alive, "alice", contract::file(name)).await.unwrap();
            store.publish(dead, "bob", contract::file(name)).await.unwrap();
        }
        store.delete(alive, "gone").await.unwrap();
        store.end_session(dead).await.unwrap();
        drop((store, journal));

        let (store, _journal) = open(&directory);
        assert_eq!(contract::files(&store, alive).await, ["z", "a", "m"].map(contract::file));
        assert_eq!(store.sessions().await.unwrap(), [(alive, "alice".to_owned())]);
        let late = store.publish(dead, "bob", contract::file("late")).await;
        assert_eq!(late, Err(Failure::Refused(Reason::SessionEnded)));
    }

    /// Bug: when the clock was set back, the tombstones of the time between were dropped with the next end of a session.
    #[test]
    fn a_tombstone_outlives_a_clock_that_is_set_back() {
        let mut state = Catalog::default();
        let (one, other) = (SessionId::fresh(), SessionId::fresh());
        state.end(one, unix_ms() + 3_600_000);
        state.end(other, unix_ms());
        assert!(state.tombstones.contains(&one) && state.tombstones.contains(&other));
    }

    #[tokio::test]
    async fn the_log_is_cleaned_and_loses_nothing() {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory);
        let session = SessionId::fresh();
        store.publish(session, "alice", contract::file("first")).await.unwrap();
        for round in 0..2500 {
            let name = format!("file{}", round % 7);
            store.publish(session, "alice", contract::file(&name)).await.unwrap();
            store.delete(session, &name).await.unwrap();
        }
        let (oldest, _) = store.log.read(0, 1).await.unwrap().remove(0);
        assert!(oldest > 2000, "the oldest row is {oldest} of 5001");
        drop((store, journal));

        let (store, _journal) = open(&directory);
        assert_eq!(contract::files(&store, session).await, [contract::file("first")]);
        assert_eq!(store.statistics().await, Ok(Statistics { sessions: 1, files: 1 }));
    }

    #[tokio::test]
    async fn a_file_that_moves_in_the_log_is_no_change_and_what_is_cleaned_is_missed() {
        let directory = TempDir::new().unwrap();
        let (store, _journal) = open(&directory);
        let session = SessionId::fresh();
        store.publish(session, "alice", contract::file("first")).await.unwrap();
        let start = store.newest().await.unwrap();
        let mut cursor = start.clone();
        for round in 0..1500 {
            let name = format!("file{}", round % 7);
            store.publish(session, "alice", contract::file(&name)).await.unwrap();
            store.delete(session, &name).await.unwrap();
            if round % 100 == 99 {
                let (changes, behind) = store.changes(&cursor).await.unwrap().expect("all are known");
                assert_eq!(changes.len(), 200);
                assert!(!format!("{changes:?}").contains("first"));
                cursor = behind;
            }
        }
        assert_eq!(store.changes(&start).await, Ok(None));
    }
}

/// The store of a simulated world (tests/simulation).
#[cfg(test)]
mod simulated {
    use lonja_journal::simulation::LyingDisk;

    use super::*;
    use crate::store::contract;

    contract::suite!(|| {
        let mut journal = JournalBuilder::open_simulated(&LyingDisk::new(0)).unwrap();
        let config = CatalogConfig { max_files_per_session: contract::MAX_FILES };
        let store = EmbeddedStore::open(&mut journal, &config).unwrap();
        (store, journal.start().unwrap())
    });
}
