//! The types that the registry's service and stores share.

use std::{net::Ipv4Addr, sync::Arc};

use lonja_proto::SessionId;

/// Where others dial a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address that others can reach.
    pub address: Ipv4Addr,
    /// The port that the user listens on.
    pub port: u16,
}

/// The session that a change may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// Whichever session the user has; the user may also have none.
    Any,
    /// No session: the change is refused while the user is connected.
    None,
    /// The session with this id: the change is refused if the user has another one, or none.
    Session(SessionId),
}

impl Only {
    /// Whether the change may be made while the user has this session.
    #[must_use]
    pub fn allows(self, session: Option<SessionId>) -> bool {
        match self {
            Self::Any => true,
            Self::None => session.is_none(),
            Self::Session(id) => session == Some(id),
        }
    }
}

/// A user's time online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The session's id. No other session ever has the same id.
    pub id: SessionId,
    /// The user to whom the session belongs.
    pub username: Box<str>,
    /// Where others dial the user.
    pub endpoint: Endpoint,
    /// When the session was opened, in milliseconds of the Unix epoch.
    pub opened_at_ms: i64,
}

/// A user with everything that the registry keeps of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The user's name.
    pub username: Box<str>,
    /// The user's session; `None` for a user who is not connected.
    pub session: Option<Arc<Session>>,
    /// The dialect that was noted for the session; empty if none was.
    pub dialect: Box<str>,
}

impl Registered {
    /// A user who is not connected.
    pub(crate) fn offline(username: Box<str>) -> Self {
        Self { username, session: None, dialect: Box::default() }
    }

    /// The user of a session.
    pub(crate) fn online(session: Arc<Session>, dialect: &str) -> Self {
        Self { username: session.username.clone(), session: Some(session), dialect: dialect.into() }
    }
}

/// What a user's session is to the user's own peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// The id of the user's session, as in [`Session::id`].
    pub id: SessionId,
    /// Where others dial the user.
    pub endpoint: Endpoint,
    /// The dialect in which the peer reads replies, as it was noted; empty if none was noted.
    pub dialect: Box<str>,
}
