//! The store of a registry that keeps its own files, as in `lonja up`: the state is in memory, the
//! changes are in the journal. `state` says how.

mod state;

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use lonja_chassis::{clock::unix_ms, unit_of_work::submit};
use lonja_journal::{JournalBuilder, Log, OpenError};
use lonja_proto::{Failure, Reason, SessionId, registry::CheckResult};
use parking_lot::Mutex;

use super::{Listing, RemoteSession, Statistics, Store};
use crate::{
    check::Check,
    model::{Endpoint, Only, OpenSession, Registered, Session},
};
use state::{Action, Command, Online, Opening, Registry, User};

/// The number of checks that may be kept besides two for each session, until those of ended sessions go.
const CHECKS_SLACK: usize = 1024;

/// Users and sessions in a journal. All clones are the same store.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    log: Log<Registry>,
    /// What is known of the peers of sessions. A restart forgets it.
    checks: Arc<Mutex<HashMap<SessionId, Check>>>,
}

impl EmbeddedStore {
    /// Adds the registry's log to a journal.
    ///
    /// # Errors
    /// When the log is damaged.
    pub fn open(journal: &mut JournalBuilder) -> Result<Self, OpenError> {
        Ok(Self { log: journal.add(Registry::new())?, checks: Arc::default() })
    }

    async fn submit(&self, username: &str, action: Action) -> Result<Option<SessionId>, Failure> {
        submit(&self.log, Command { username: username.into(), action }).await
    }
}

impl Store for EmbeddedStore {
    async fn register(&self, username: &str, owner: Option<Ipv4Addr>) -> Result<(), Failure> {
        self.submit(username, Action::Register(owner)).await.map(|_| ())
    }

    async fn unregister(&self, username: &str, only: Only) -> Result<Option<SessionId>, Failure> {
        self.submit(username, Action::Unregister(only)).await
    }

    async fn open_session(
        &self,
        username: &str,
        endpoint: Endpoint,
        only: Only,
    ) -> Result<SessionId, Failure> {
        let id = SessionId::fresh();
        let session = Session { id, username: username.into(), endpoint, opened_at_ms: unix_ms() };
        let opening = Opening { session, dialect: Box::default(), least_order: 0 };
        self.submit(username, Action::Open(opening, only)).await.map(|_| id)
    }

    async fn close_session(&self, username: &str, only: Only) -> Result<SessionId, Failure> {
        let ended = self.submit(username, Action::Close(only)).await?;
        ended.ok_or(Failure::Refused(Reason::SessionNotFound))
    }

    async fn session(&self, username: &str, only: Only) -> Result<OpenSession, Failure> {
        let state = self.log.state();
        let online = state.connected(username)?;
        only.check(Some(online.at()), state.owner(username))?;
        let Online { session, dialect, .. } = online;
        Ok(OpenSession { id: session.id, endpoint: session.endpoint, dialect: dialect.clone() })
    }

    async fn note_dialect(&self, username: &str, dialect: &str, only: Only) -> Result<(), Failure> {
        self.submit(username, Action::Note(dialect.into(), only)).await.map(|_| ())
    }

    async fn free(&self, username: &str) -> Result<(), Failure> {
        self.submit(username, Action::Free).await.map(|_| ())
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
            let registered = state.registered(username, user);
            match &user.session {
                Some(one) => online.push((one.order, registered)),
                None => offline.push(registered),
            }
        }
        // Others may change the state again while this takes its time.
        drop(state);
        offline.sort_unstable_by(|one, other| one.username.cmp(&other.username));
        online.sort_unstable_by_key(|(order, _)| *order);
        Ok(offline.into_iter().chain(online.into_iter().map(|(_, user)| user)).collect())
    }

    async fn user(&self, username: &str) -> Result<Option<Registered>, Failure> {
        let state = self.log.state();
        Ok(state.users.get(username).map(|user| state.registered(username, user)))
    }

    async fn restore_session(&self, session: &Session, order: u64, dialect: &str) -> Result<(), Failure> {
        let opening = Opening { session: session.clone(), dialect: dialect.into(), least_order: order };
        self.submit(&session.username, Action::Open(opening, Only::Any)).await.map(|_| ())
    }

    async fn take_checks(&self, interval_ms: u64, limit: usize) -> Result<Vec<Arc<Session>>, Failure> {
        let state = self.log.state();
        let (mut checks, now) = (self.checks.lock(), unix_ms());
        if checks.len() > 2 * state.online.len() + CHECKS_SLACK {
            let open: HashSet<_> = state.online.values().map(|session| session.id).collect();
            checks.retain(|id, _| open.contains(id));
        }
        let known = |session: &Session| checks.get(&session.id).copied().unwrap_or_default();
        let due = state.online.values().filter(|one| known(one).is_due(one, now, interval_ms));
        let due: Vec<_> = due.take(limit).cloned().collect();
        due.iter().for_each(|session| checks.entry(session.id).or_default().at_ms = now);
        Ok(due)
    }

    async fn note_check(
        &self,
        username: &str,
        session: SessionId,
        result: CheckResult,
    ) -> Result<Check, Failure> {
        if self.log.state().users.get(username).and_then(User::session_id) != Some(session) {
            return Ok(Check::default());
        }
        let mut checks = self.checks.lock();
        let check = checks.entry(session).or_default();
        *check = check.after(result, unix_ms());
        Ok(*check)
    }

    async fn checks(&self, sessions: &[(String, SessionId)]) -> Result<Vec<Check>, Failure> {
        let checks = self.checks.lock();
        Ok(sessions.iter().map(|(_, id)| checks.get(id).copied().unwrap_or_default()).collect())
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
            store.register(name, None).await.unwrap();
            store.open_session(name, endpoint, Only::Any).await.unwrap();
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
        store.register("alice", None).await.unwrap();
        store.register("bob", None).await.unwrap();
        let mut alice = None;
        for round in 0..900 {
            store.open_session("bob", endpoint, Only::Any).await.unwrap();
            store.close_session("bob", Only::Any).await.unwrap();
            if round == 300 {
                alice = Some(store.open_session("alice", endpoint, Only::Any).await.unwrap());
            }
            if round % 50 == 49 {
                drop((store, journal));
                (store, journal) = open(&directory);
            }
            if let Some(alice) = alice {
                assert_eq!(
                    store.session("alice", Only::Any).await.map(|open| open.id),
                    Ok(alice),
                    "round {round}"
                );
                assert_eq!(
                    store.session("bob", Only::Any).await,
                    Err(Failure::Refused(Reason::SessionNotFound))
                );
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
        let mut owners: HashMap<String, Ipv4Addr> = HashMap::new();
        let mut random = 1_u64;
        for step in 0..6000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let name = format!("user{}", (random >> 33) % 40);
            match (random >> 60) % 8 {
                0 | 1 => {
                    let owner = (step % 2 == 0).then_some(Ipv4Addr::LOCALHOST);
                    if store.register(&name, owner).await.is_ok() {
                        owners.extend(owner.map(|owner| (name.clone(), owner)));
                        assert!(model.insert(name, None).is_none());
                    }
                }
                2 if step % 3 == 0 => {
                    owners.remove(&name);
                    assert_eq!(store.free(&name).await.is_ok(), model.contains_key(&name));
                }
                2 => {
                    owners.remove(&name);
                    let was_there = model.remove(&name).is_some();
                    assert_eq!(store.unregister(&name, Only::Any).await.is_ok(), was_there);
                }
                3 | 4 => {
                    let claim = [Only::Any, Only::Owner(Ipv4Addr::LOCALHOST)][step % 2];
                    if let Ok(id) = store.open_session(&name, endpoint, claim).await {
                        owners.extend(claim.claim().map(|owner| (name.clone(), owner)));
                        assert_eq!(model.insert(name, Some((id, Box::default()))), Some(None));
                    }
                }
                5 | 6 => {
                    let dialect = ["", "text", "byte"][step % 3];
                    let session = model.get_mut(&name).and_then(Option::as_mut);
                    assert_eq!(
                        store.note_dialect(&name, dialect, Only::Any).await.is_ok(),
                        session.is_some()
                    );
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
                    let found = store.session(name, Only::Any).await.map(|open| (open.id, open.dialect));
                    assert_eq!(found, expected, "{name} at step {step}");
                }
                let users = store.users().await.unwrap();
                let owned = users.into_iter().filter_map(|user| Some((user.username.into(), user.owner?)));
                assert_eq!(owned.collect::<HashMap<String, _>>(), owners, "step {step}");
                assert_eq!(store.statistics().await.unwrap().users, model.len() as u64);
            }
        }
    }

    #[tokio::test]
    async fn the_log_is_cleaned_and_loses_nothing() {
        let directory = TempDir::new().unwrap();
        let (store, journal) = open(&directory);
        let endpoint = Endpoint { address: Ipv4Addr::LOCALHOST, port: 5000 };
        store.register("first", None).await.unwrap();
        let first = store.open_session("first", endpoint, Only::Any).await.unwrap();
        for round in 0..1500 {
            let name = format!("user{}", round % 7);
            store.register(&name, None).await.unwrap();
            store.open_session(&name, endpoint, Only::Any).await.unwrap();
            store.unregister(&name, Only::Any).await.unwrap();
        }
        let (oldest, _) = store.log.read(0, 1).await.unwrap().remove(0);
        assert!(oldest > 2000, "the oldest row is {oldest} of 4502");
        drop((store, journal));

        let (store, _journal) = open(&directory);
        assert_eq!(store.session("first", Only::Any).await.map(|open| open.id), Ok(first));
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
