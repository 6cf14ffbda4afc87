//! The state of the embedded store: every registered user and every open session.
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

use lonja_journal::{Row, State};
use lonja_proto::{Reason, SessionId};

use crate::model::{Endpoint, Only, Registered, Session};

/// The number of changes that the log may hold besides two for each user and each session.
const SLACK: u64 = 1024;

/// A registered user. The struct is as small as possible, because there may be a million users.
#[derive(Debug)]
pub(super) struct User {
    /// The row of the log that has the user's registration.
    row: Row,
    pub(super) session: Option<Box<Online>>,
}

/// A session that is open, and the row of the log that has its opening.
#[derive(Debug)]
pub(super) struct Online {
    row: Row,
    /// Larger than the order of every session that was opened before.
    pub(super) order: u64,
    pub(super) session: Arc<Session>,
    /// Empty if none was noted.
    pub(super) dialect: Box<str>,
}

impl Online {
    pub(super) fn at(&self) -> (SessionId, Ipv4Addr) {
        (self.session.id, self.session.endpoint.address)
    }
}

impl User {
    pub(super) fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|online| online.session.id)
    }
}

/// The state: every registered user, and every open session.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(super) users: HashMap<Box<str>, User>,
    /// The addresses to which users belong. Most indexes have none, and a user without takes no room here.
    owners: HashMap<Box<str>, Ipv4Addr>,
    /// The sessions by the order in which they were opened.
    pub(super) online: BTreeMap<u64, Arc<Session>>,
    next_order: u64,
    /// The first part of every revision, fresh for each run so that no revision comes twice.
    run: SessionId,
    session_changes: u64,
}

/// What a caller asks for, and for which user.
#[derive(Debug)]
pub(crate) struct Command {
    pub(super) username: Box<str>,
    pub(super) action: Action,
}

#[derive(Debug)]
pub(super) enum Action {
    Register(Option<Ipv4Addr>),
    Unregister(Only),
    Open(Opening, Only),
    Close(Only),
    Note(Box<str>, Only),
    Free,
}

/// A session to open.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) session: Session,
    /// Empty if none was noted.
    pub(super) dialect: Box<str>,
    /// The session's order if no session before has the same or a larger one.
    pub(super) least_order: u64,
}

/// A registered user as earlier commands left the user.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    /// The user's session, and the address in it.
    session: Option<(SessionId, Ipv4Addr)>,
    owner: Option<Ipv4Addr>,
}

/// The users as the earlier commands of a commit leave them, and the order behind the sessions that these
/// commands open.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// `None` is a user who is not registered.
    users: HashMap<Box<str>, Option<View>>,
    next_order: u64,
}

/// A change as the log has it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistryChange {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    /// A user who belongs to no address, or belongs to none any more.
    #[prost(string, tag = "1")]
    Registered(String),
    #[prost(string, tag = "2")]
    Unregistered(String),
    #[prost(message, tag = "3")]
    Opened(Opened),
    #[prost(string, tag = "4")]
    Closed(String),
    #[prost(message, tag = "5")]
    Owned(Owned),
}

/// A user who belongs to an address, or belongs to it from now on.
#[derive(Clone, PartialEq, prost::Message)]
struct Owned {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(fixed32, tag = "2")]
    owner: u32,
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

impl From<Kind> for RegistryChange {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

/// The change that registers a user, or says to which address a registered user belongs.
fn registered(username: String, owner: Option<Ipv4Addr>) -> Kind {
    match owner {
        Some(owner) => Kind::Owned(Owned { username, owner: owner.to_bits() }),
        None => Kind::Registered(username),
    }
}

impl Opened {
    /// The change that opens a session, or notes a dialect in one that is open.
    fn of(session: &Session, order: u64, dialect: Box<str>) -> Self {
        Self {
            username: session.username.to_string(),
            id: session.id.to_bytes().to_vec(),
            order,
            ipv4: session.endpoint.address.to_bits(),
            port: session.endpoint.port.into(),
            opened_at_ms: session.opened_at_ms,
            dialect: dialect.into(),
        }
    }

    fn session_id(&self) -> SessionId {
        SessionId::from_bytes(self.id.as_slice().try_into().unwrap_or_default())
    }
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            users: HashMap::new(),
            owners: HashMap::new(),
            online: BTreeMap::new(),
            next_order: 0,
            run: SessionId::fresh(),
            session_changes: 0,
        }
    }

    pub(super) fn connected(&self, username: &str) -> Result<&Online, Reason> {
        let user = self.users.get(username).ok_or(Reason::UserNotFound)?;
        user.session.as_deref().ok_or(Reason::SessionNotFound)
    }

    pub(super) fn revision(&self) -> String {
        format!("{}-{}", self.run, self.session_changes)
    }

    fn end_session(&mut self, online: Option<Box<Online>>) {
        if let Some(online) = online {
            self.online.remove(&online.order);
            self.session_changes += 1;
        }
    }

    pub(super) fn owner(&self, username: &str) -> Option<Ipv4Addr> {
        self.owners.get(username).copied()
    }

    fn view(&self, username: &str) -> Option<View> {
        let session = self.users.get(username)?.session.as_ref().map(|online| online.at());
        Some(View { session, owner: self.owner(username) })
    }

    pub(super) fn registered(&self, username: &str, user: &User) -> Registered {
        let owner = self.owner(username);
        match &user.session {
            Some(one) => Registered::online(Arc::clone(&one.session), &one.dialect, owner),
            None => Registered::offline(username.into(), owner),
        }
    }

    fn register(&mut self, username: Box<str>, owner: Option<Ipv4Addr>, row: Row) {
        match owner {
            Some(owner) => self.owners.insert(username.clone(), owner),
            None => self.owners.remove(&username),
        };
        self.users.entry(username).and_modify(|user| user.row = row).or_insert(User { row, session: None });
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
        let known = match staged.users.get(&username) {
            Some(view) => *view,
            None => self.view(&username),
        };
        let name = username.to_string();
        let (after, kind, outcome) = match (action, known) {
            (Action::Register(owner), None) => {
                (Some(View { session: None, owner }), registered(name, owner), None)
            }
            (Action::Register(_), Some(_)) => return Err(Reason::UserExists),
            (_, None) => return Err(Reason::UserNotFound),
            (Action::Unregister(only), Some(view)) => {
                only.check(view.session, view.owner)?;
                (None, Kind::Unregistered(name), view.session)
            }
            (Action::Free, Some(view)) => {
                (Some(View { owner: None, ..view }), Kind::Registered(name), view.session)
            }
            (Action::Open(opening, only), Some(view)) => {
                only.check(view.session, view.owner)?;
                if view.session.is_some() {
                    return Err(Reason::SessionExists);
                }
                if let (None, Some(owner)) = (view.owner, only.claim()) {
                    changes.push(registered(name, Some(owner)).into());
                }
                let order = self.next_order.max(staged.next_order).max(opening.least_order);
                staged.next_order = order + 1;
                let Opening { session: opened, dialect, .. } = opening;
                let session = Some((opened.id, opened.endpoint.address));
                let after = View { session, owner: view.owner.or(only.claim()) };
                (Some(after), Kind::Opened(Opened::of(&opened, order, dialect)), session)
            }
            (Action::Close(_) | Action::Note(..), Some(View { session: None, .. })) => {
                return Err(Reason::SessionNotFound);
            }
            // A session that an earlier command of this commit opens counts as opened later: its
            // opening has not been answered yet.
            (Action::Note(dialect, only), Some(view @ View { session: Some((id, _)), .. })) => {
                only.check(view.session, view.owner)?;
                let online = self.connected(&username).ok().filter(|online| online.session.id == id);
                let online = online.ok_or(Reason::SessionNotFound)?;
                if online.dialect == dialect {
                    return Ok(None);
                }
                (Some(view), Kind::Opened(Opened::of(&online.session, online.order, dialect)), None)
            }
            (Action::Close(only), Some(view)) => {
                only.check(view.session, view.owner)?;
                (Some(View { session: None, ..view }), Kind::Closed(name), view.session)
            }
        };
        changes.push(kind.into());
        staged.users.insert(username, after);
        Ok(outcome.map(|(id, _)| id))
    }

    fn apply(&mut self, change: RegistryChange, row: Row) {
        match change.kind {
            Some(Kind::Registered(username)) => self.register(username.into(), None, row),
            Some(Kind::Owned(Owned { username, owner })) => {
                self.register(username.into(), Some(Ipv4Addr::from_bits(owner)), row);
            }
            Some(Kind::Unregistered(username)) => {
                self.owners.remove(username.as_str());
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
            Some(Kind::Registered(username) | Kind::Owned(Owned { username, .. })) => {
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
