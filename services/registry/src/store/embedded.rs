//! The store of a registry that keeps its own files, as in `lonja up`: the state is in memory, the
//! changes are in the journal.
//!
//! How a state of the journal works: a [`Command`] is decided against the state and what earlier commands
//! of the same commit have [`Staged`]; the [`RegistryChange`]s that it makes are written to a row of the
//! log; then they are applied to the state. The log forgets its oldest rows, and moves what still matters
//! of them to the newest row (`lonja_journal::State`).

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use lonja_chassis::clock::unix_ms;
use lonja_journal::{JournalBuilder, Log, OpenError, Row, State};
use lonja_proto::{Failure, Reason, SessionId};

use super::{Listing, RemoteSession, Statistics, Store};
use crate::model::{Endpoint, Only, OpenSession, Registered, Session};

/// The number of changes that the log may hold besides two for each user and each session.
const SLACK: u64 = 1024;

/// Users and sessions in a journal. All clones are the same store.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    log: Log<Registry>,
}

impl EmbeddedStore {
    /// Adds the registry's log to a journal.
    ///
    /// # Errors
    /// When the log is damaged.
    pub fn open(journal: &mut JournalBuilder) -> Result<Self, OpenError> {
        Ok(Self { log: journal.add(Registry::new())? })
    }

    async fn submit(&self, username: &str, action: Action) -> Result<Option<SessionId>, Failure> {
        let command = Command { username: username.into(), action };
        let outcome = self.log.submit(command).await;
        Ok(outcome.map_err(Failure::unavailable)??)
    }
}

impl Store for EmbeddedStore {
    async fn register(&self, username: &str) -> Result<(), Failure> {
        self.submit(username, Action::Register).await.map(|_| ())
    }

    async fn unregister(&self, username: &str, only: Only) -> Result<Option<SessionId>, Failure> {
        self.submit(username, Action::Unregister(only)).await
    }

    async fn open_session(&self, username: &str, endpoint: Endpoint) -> Result<SessionId, Failure> {
        let id = SessionId::fresh();
        let opening =
            Opening { id, endpoint, opened_at_ms: unix_ms(), dialect: Box::default(), least_order: 0 };
        self.submit(username, Action::Open(opening)).await.map(|_| id)
    }

    async fn close_session(&self, username: &str, only: Only) -> Result<SessionId, Failure> {
        let ended = self.submit(username, Action::Close(only)).await?;
        ended.ok_or(Failure::Refused(Reason::SessionNotFound))
    }

    async fn session(&self, username: &str) -> Result<OpenSession, Failure> {
        let state = self.log.state();
        let Online { session, dialect, .. } = state.connected(username)?;
        Ok(OpenSession { id: session.id, endpoint: session.endpoint, dialect: dialect.clone() })
    }

    async fn note_dialect(&self, username: &str, dialect: &str) -> Result<(), Failure> {
        self.submit(username, Action::Note(dialect.into())).await.map(|_| ())
    }

    async fn remote_session(&self, username: &str, remote: &str) -> Result<RemoteSession, Failure> {
        let state = self.log.state();
        let dialect = state.connected(username)?.dialect.clone();
        let remote = state.users.get(remote).ok_or(Reason::RemoteUserNotFound)?;
        Ok(RemoteSession { session: remote.session_id(), dialect })
    }

    async fn list(&self, username: Option<&str>, known_revision: &str) -> Result<Listing, Failure> {
        let state = self.log.state();
        let dialect = match username {
            Some(username) => state.connected(username)?.dialect.clone(),
            None => Box::default(),
        };
        let revision = state.revision();
        let current = revision == known_revision;
        let sessions = (!current).then(|| state.online.values().cloned().collect());
        Ok(Listing { revision, sessions, dialect })
    }

    async fn look_up(&self, usernames: &[String]) -> Result<Vec<Arc<Session>>, Failure> {
        let state = self.log.state();
        let users = usernames.iter().filter_map(|username| state.users.get(username.as_str()));
        let online = users.filter_map(|user| user.session.as_ref());
        Ok(online.map(|online| Arc::clone(&online.session)).collect())
    }

    async fn ended(&self, sessions: &[(String, SessionId)]) -> Result<Vec<SessionId>, Failure> {
        let state = self.log.state();
        let live = |(username, id): &&(String, SessionId)| {
            state.users.get(username.as_str()).and_then(User::session_id) != Some(*id)
        };
        Ok(sessions.iter().filter(live).map(|(_, id)| *id).collect())
    }

    async fn users(&self) -> Result<Vec<Registered>, Failure> {
        let (mut offline, mut online) = (Vec::new(), Vec::new());
        let state = self.log.state();
        for (username, user) in &state.users {
            match &user.session {
                Some(one) => online.push(&**one),
                None => offline.push(username.clone()),
            }
        }
        offline.sort_unstable();
        online.sort_unstable_by_key(|one: &&Online| one.order);
        let online = online.into_iter().map(|one| Registered::online(Arc::clone(&one.session), &one.dialect));
        Ok(offline.into_iter().map(Registered::offline).chain(online).collect())
    }

    async fn restore_session(&self, session: &Session, order: u64, dialect: &str) -> Result<(), Failure> {
        let Session { id, username, endpoint, opened_at_ms } = session;
        let (id, endpoint, opened_at_ms) = (*id, *endpoint, *opened_at_ms);
        let opening = Opening { id, endpoint, opened_at_ms, dialect: dialect.into(), least_order: order };
        self.submit(username, Action::Open(opening)).await.map(|_| ())
    }

    async fn statistics(&self) -> Result<Statistics, Failure> {
        self.log.check_writable().map_err(Failure::unavailable)?;
        let state = self.log.state();
        Ok(Statistics { users: state.users.len() as u64, sessions: state.online.len() as u64 })
    }

    async fn is_ready(&self) -> bool {
        self.log.check_writable().is_ok()
    }
}

/// A registered user. The struct is as small as possible, because there may be a million users.
#[derive(Debug)]
struct User {
    /// The row of the log that has the user's registration.
    row: Row,
    session: Option<Box<Online>>,
}

/// A session that is open, and the row of the log that has its opening.
#[derive(Debug)]
struct Online {
    row: Row,
    /// Larger than the order of every session that was opened before.
    order: u64,
    session: Arc<Session>,
    /// Empty if none was noted.
    dialect: Box<str>,
}

impl Online {
    /// The change that opens this session once more, with a dialect.
    fn noted(&self, username: String, dialect: Box<str>) -> Opened {
        Opened {
            username,
            id: self.session.id.to_bytes().to_vec(),
            order: self.order,
            ipv4: self.session.endpoint.address.to_bits(),
            port: self.session.endpoint.port.into(),
            opened_at_ms: self.session.opened_at_ms,
            dialect: dialect.into(),
        }
    }
}

impl User {
    fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|online| online.session.id)
    }
}

/// The state: every registered user, and every open session.
#[derive(Debug)]
pub(crate) struct Registry {
    users: HashMap<Box<str>, User>,
    /// The sessions by the order in which they were opened.
    online: BTreeMap<u64, Arc<Session>>,
    next_order: u64,
    /// The first part of every revision, fresh for each run so that no revision comes twice.
    run: SessionId,
    session_changes: u64,
}

/// What a caller asks for, and for which user.
#[derive(Debug)]
pub(crate) struct Command {
    username: Box<str>,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Register,
    Unregister(Only),
    Open(Opening),
    Close(Only),
    Note(Box<str>),
}

/// A session to open.
#[derive(Debug)]
struct Opening {
    id: SessionId,
    endpoint: Endpoint,
    opened_at_ms: i64,
    dialect: Box<str>,
    /// The session's order if no session before has the same or a larger one.
    least_order: u64,
}

/// A user as earlier commands left the user: `None` is not registered, `Some(None)` is registered
/// but not connected.
type View = Option<Option<SessionId>>;

/// The users as the earlier commands of a commit leave them, and the order behind the sessions that these
/// commands open.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    users: HashMap<Box<str>, View>,
    next_order: u64,
}

/// A change as the log has it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistryChange {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(string, tag = "1")]
    Registered(String),
    #[prost(string, tag = "2")]
    Unregistered(String),
    #[prost(message, tag = "3")]
    Opened(Opened),
    #[prost(string, tag = "4")]
    Closed(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Opened {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    order: u64,
    #[prost(fixed32, tag = "4")]
    ipv4: u32,
    #[prost(uint32, tag = "5")]
    port: u32,
    #[prost(int64, tag = "6")]
    opened_at_ms: i64,
    /// Empty if no dialect was noted. To note one, the change is written once more.
    #[prost(string, tag = "7")]
    dialect: String,
}

impl Opening {
    /// The change that opens the session.
    fn opened(self, username: String, order: u64) -> Opened {
        Opened {
            username,
            id: self.id.to_bytes().to_vec(),
            order,
            ipv4: self.endpoint.address.to_bits(),
            port: self.endpoint.port.into(),
            opened_at_ms: self.opened_at_ms,
            dialect: self.dialect.into(),
        }
    }
}

impl Opened {
    fn session_id(&self) -> SessionId {
        SessionId::from_bytes(self.id.as_slice().try_into().unwrap_or_default())
    }
}

impl Registry {
    fn new() -> Self {
        Self {
            users: HashMap::new(),
            online: BTreeMap::new(),
            next_order: 0,
            run: SessionId::fresh(),
            session_changes: 0,
        }
    }

    fn connected(&self, username: &str) -> Result<&Online, Reason> {
        let user = self.users.get(username).ok_or(Reason::UserNotFound)?;
        user.session.as_deref().ok_or(Reason::SessionNotFound)
    }

    fn revision(&self) -> String {
        format!("{}-{}", self.run, self.session_changes)
    }

    fn end_session(&mut self, online: Option<Box<Online>>) {
        if let Some(online) = online {
            self.online.remove(&online.order);
            self.session_changes += 1;
        }
    }

    fn start_session(&mut self, opened: &Opened, row: Row) {
        let id = opened.session_id();
        // Cleaning moves changes to later rows. So the user's registration may stand behind this
        // change in the log; the user gets the right row when the registration is applied. If the
        // session has ended, the change that ended the session stands behind this change too.
        let user = self.users.entry(opened.username.as_str().into()).or_insert(User { row, session: None });
        if let Some(online) = user.session.as_mut().filter(|online| online.session.id == id) {
            online.row = row;
            online.dialect = opened.dialect.as_str().into();
            return;
        }
        let session = Arc::new(Session {
            id,
            username: opened.username.as_str().into(),
            endpoint: Endpoint {
                address: Ipv4Addr::from_bits(opened.ipv4),
                port: u16::try_from(opened.port).unwrap_or_default(),
            },
            opened_at_ms: opened.opened_at_ms,
        });
        let dialect = opened.dialect.as_str().into();
        let online = Box::new(Online { row, order: opened.order, session: Arc::clone(&session), dialect });
        let before = user.session.replace(online);
        self.end_session(before);
        self.online.insert(opened.order, session);
        self.next_order = self.next_order.max(opened.order + 1);
        self.session_changes += 1;
    }
}

impl State for Registry {
    const LOG: &'static str = "registry";
    type Change = RegistryChange;
    type Command = Command;
    type Outcome = Result<Option<SessionId>, Reason>;
    type Staged = Staged;

    fn decide(
        &self,
        staged: &mut Staged,
        command: Command,
        changes: &mut Vec<RegistryChange>,
    ) -> Self::Outcome {
        let Command { username, action } = command;
        let view = match staged.users.get(&username) {
            Some(view) => *view,
            None => self.users.get(&username).map(User::session_id),
        };
        let name = username.to_string();
        let (after, kind, outcome) = match (action, view) {
            (Action::Register, None) => (Some(None), Kind::Registered(name), None),
            (Action::Register, Some(_)) => return Err(Reason::UserExists),
            (_, None) => return Err(Reason::UserNotFound),
            (Action::Unregister(only), Some(session)) | (Action::Close(only), Some(session @ Some(_)))
                if !only.allows(session) =>
            {
                return Err(Reason::SessionEnded);
            }
            (Action::Unregister(_), Some(session)) => (None, Kind::Unregistered(name), session),
            (Action::Open(..), Some(Some(_))) => return Err(Reason::SessionExists),
            (Action::Open(opening), Some(None)) => {
                let (id, order) =
                    (opening.id, self.next_order.max(staged.next_order).max(opening.least_order));
                staged.next_order = order + 1;
                (Some(Some(id)), Kind::Opened(opening.opened(name, order)), Some(id))
            }
            (Action::Close(_) | Action::Note(_), Some(None)) => return Err(Reason::SessionNotFound),
            // A session that an earlier command of this commit opens counts as opened later: its
            // opening has not been answered yet.
            (Action::Note(dialect), Some(Some(id))) => {
                let online = self.connected(&username).ok().filter(|online| online.session.id == id);
                let online = online.ok_or(Reason::SessionNotFound)?;
                if online.dialect == dialect {
                    return Ok(None);
                }
                (Some(Some(id)), Kind::Opened(online.noted(name, dialect)), None)
            }
            (Action::Close(_), Some(Some(id))) => (Some(None), Kind::Closed(name), Some(id)),
        };
        changes.push(RegistryChange { kind: Some(kind) });
        staged.users.insert(username, after);
        Ok(outcome)
    }

    fn apply(&mut self, change: RegistryChange, row: Row) {
        match change.kind {
            Some(Kind::Registered(username)) => {
                self.users
                    .entry(username.into_boxed_str())
                    .and_modify(|user| user.row = row)
                    .or_insert(User { row, session: None });
            }
            Some(Kind::Unregistered(username)) => {
                let session = self.users.remove(username.as_str()).and_then(|user| user.session);
                self.end_session(session);
            }
            Some(Kind::Opened(opened)) => self.start_session(&opened, row),
            Some(Kind::Closed(username)) => {
                let session = self.users.get_mut(username.as_str()).and_then(|user| user.session.take());
                self.end_session(session);
            }
            None => {}
        }
    }

    fn is_live(&self, change: &RegistryChange, row: Row) -> bool {
        match &change.kind {
            Some(Kind::Registered(username)) => {
                self.users.get(username.as_str()).is_some_and(|user| user.row == row)
            }
            Some(Kind::Opened(opened)) => {
                let user = self.users.get(opened.username.as_str());
                let online = user.and_then(|user| user.session.as_ref());
                online.is_some_and(|online| online.row == row && online.session.id == opened.session_id())
            }
            // Rows are cleaned oldest first, so the registration or the session that such a change
            // ended is gone from the log already.
            Some(Kind::Unregistered(_) | Kind::Closed(_)) | None => false,
        }
    }

    fn capacity(&self) -> u64 {
        2 * (self.users.len() + self.online.len()) as u64 + SLACK
    }
}

#[cfg(test)]
mod tests {
    use lonja_journal::Journal;
    use tempfile::TempDir;

    use super::*;
    use crate::store::contract;

    fn open(directory: &TempDir) -> (EmbeddedStore, Journal) {
        let mut journal = Journal::open(directory.path(), "registry").unwrap();
        let store = EmbeddedStore::open(&mut journal).unwrap();
        (store, journal.start().unwrap())
    }

    contract::suite!(|| {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory);
        (store, (journal, directory))
    });

    #[tokio::test]
    async fn everything_is_there_after_a_restart() {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory);
        let endpoint = Endpoint { address: Ipv4Addr::LOCALHOST, port: 5000 };
        for name in ["carol", "alice", "bob", "gone"] {
            store.register(name).await.unwrap();
            store.open_session(name, endpoint).await.unwrap();
        }
        store.close_session("alice", Only::Any).await.unwrap();
        store.unregister("gone", Only::Any).await.unwrap();
        let before = store.list(None, "").await.unwrap();
        drop((store, journal));

        let (store, _journal) = open(&directory);
        let after = store.list(None, "").await.unwrap();
        assert_eq!(after.sessions, before.sessions);
        assert_ne!(after.revision, before.revision);
        assert_eq!(store.statistics().await.unwrap(), Statistics { users: 3, sessions: 2 });
    }

    /// Bug: a session was lost at restart while its user's registration, moved by cleaning, stood
    /// behind the session in the log.
    #[tokio::test]
    async fn a_session_whose_registration_was_moved_behind_it_is_there_after_a_restart() {
        let directory = TempDir::new().unwrap();
        let (mut store, mut journal) = open(&directory);
        let endpoint = Endpoint { address: Ipv4Addr::LOCALHOST, port: 5000 };
        store.register("alice").await.unwrap();
        store.register("bob").await.unwrap();
        let mut alice = None;
        for round in 0..900 {
            store.open_session("bob", endpoint).await.unwrap();
            store.close_session("bob", Only::Any).await.unwrap();
            if round == 300 {
                alice = Some(store.open_session("alice", endpoint).await.unwrap());
            }
            if round % 50 == 49 {
                drop((store, journal));
                (store, journal) = open(&directory);
            }
            if let Some(alice) = alice {
                assert_eq!(store.session("alice").await.map(|open| open.id), Ok(alice), "round {round}");
                assert_eq!(store.session("bob").await, Err(Failure::Refused(Reason::SessionNotFound)));
            }
        }
    }

    /// Compares the store with a model over a random mixture of changes, cleaning and restarts.
    #[tokio::test]
    async fn restarts_change_nothing_whatever_was_cleaned_before() {
        let directory = TempDir::new().unwrap();
        let (mut store, mut journal) = open(&directory);
        let endpoint = Endpoint { address: Ipv4Addr::LOCALHOST, port: 5000 };
        let mut model: HashMap<String, Option<(SessionId, Box<str>)>> = HashMap::new();
        let mut random = 1_u64;
        for step in 0..6000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let name = format!("user{}", (random >> 33) % 40);
            match (random >> 60) % 8 {
                0 | 1 => {
                    if store.register(&name).await.is_ok() {
                        assert!(model.insert(name, None).is_none());
                    }
                }
                2 => assert_eq!(
                    store.unregister(&name, Only::Any).await.is_ok(),
                    model.remove(&name).is_some()
                ),
                3 | 4 => {
                    if let Ok(id) = store.open_session(&name, endpoint).await {
                        assert_eq!(model.insert(name, Some((id, Box::default()))), Some(None));
                    }
                }
                5 | 6 => {
                    let dialect = ["", "text", "byte"][step % 3];
                    let session = model.get_mut(&name).and_then(Option::as_mut);
                    assert_eq!(store.note_dialect(&name, dialect).await.is_ok(), session.is_some());
                    if let Some((_, noted)) = session {
                        *noted = dialect.into();
                    }
                }
                _ => {
                    if let Ok(id) = store.close_session(&name, Only::Any).await {
                        let session = model.insert(name, None).flatten();
                        assert_eq!(session.map(|(id, _)| id), Some(id));
                    }
                }
            }
            if step % 97 == 0 {
                let order = store.list(None, "").await.unwrap().sessions;
                drop((store, journal));
                (store, journal) = open(&directory);
                assert_eq!(store.list(None, "").await.unwrap().sessions, order, "step {step}");
                for (name, session) in &model {
                    let expected = session.clone().ok_or(Failure::Refused(Reason::SessionNotFound));
                    let found = store.session(name).await.map(|open| (open.id, open.dialect));
                    assert_eq!(found, expected, "{name} at step {step}");
                }
                assert_eq!(store.statistics().await.unwrap().users, model.len() as u64);
            }
        }
    }

    #[tokio::test]
    async fn the_log_is_cleaned_and_loses_nothing() {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory);
        let endpoint = Endpoint { address: Ipv4Addr::LOCALHOST, port: 5000 };
        store.register("first").await.unwrap();
        let first = store.open_session("first", endpoint).await.unwrap();
        for round in 0..1500 {
            let name = format!("user{}", round % 7);
            store.register(&name).await.unwrap();
            store.open_session(&name, endpoint).await.unwrap();
            store.unregister(&name, Only::Any).await.unwrap();
        }
        let (oldest, _) = store.log.read(0, 1).await.unwrap().remove(0);
        assert!(oldest > 2000, "the oldest row is {oldest} of 4502");
        drop((store, journal));

        let (store, _journal) = open(&directory);
        assert_eq!(store.session("first").await.map(|open| open.id), Ok(first));
        assert_eq!(store.statistics().await.unwrap(), Statistics { users: 1, sessions: 1 });
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
        let store = EmbeddedStore::open(&mut journal).unwrap();
        (store, journal.start().unwrap())
    });
}
