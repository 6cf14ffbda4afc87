//! The types that the registry's service and stores share.

use std::{net::Ipv4Addr, sync::Arc};

use lonja_proto::{Reason, SessionId};

/// Where others dial a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address that others can reach.
    pub address: Ipv4Addr,
    /// The port that the user listens on.
    pub port: u16,
}

/// What must be so for a request to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// Nothing: the request is carried out for anyone.
    Any,
    /// The user has the session with this id.
    Session(SessionId),
    /// The user's session has this address, if there is a session.
    At(Ipv4Addr),
    /// The user belongs to this address. A user who belongs to none is looked at as [`Self::At`] does.
    Owner(Ipv4Addr),
}

impl Only {
    /// Whether the request may be carried out for a user who has this session, with this address in it,
    /// and belongs to `owner`.
    ///
    /// # Errors
    /// The reason why not: `SessionEnded`, `NotOwner`.
    pub fn check(
        self,
        session: Option<(SessionId, Ipv4Addr)>,
        owner: Option<Ipv4Addr>,
    ) -> Result<(), Reason> {
        let address = session.map(|(_, address)| address);
        let (asker, owner) = match self {
            Self::Any => return Ok(()),
            Self::Session(only) if session.is_some_and(|(id, _)| id == only) => return Ok(()),
            Self::Session(_) => return Err(Reason::SessionEnded),
            Self::At(asker) => (asker, address),
            Self::Owner(asker) => (asker, owner.or(address)),
        };
        if owner.is_none_or(|owner| owner == asker) { Ok(()) } else { Err(Reason::NotOwner) }
    }

    /// The address to which a user who belonged to none belongs, once the request is carried out.
    #[must_use]
    pub fn claim(self) -> Option<Ipv4Addr> {
        match self {
            Self::Owner(owner) => Some(owner),
            _ => None,
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
    /// The address to which the user belongs; `None` if the user belongs to none.
    pub owner: Option<Ipv4Addr>,
}

impl Registered {
    /// A user who is not connected.
    pub(crate) fn offline(username: Box<str>, owner: Option<Ipv4Addr>) -> Self {
        Self { username, session: None, dialect: Box::default(), owner }
    }

    /// The user of a session.
    pub(crate) fn online(session: Arc<Session>, dialect: &str, owner: Option<Ipv4Addr>) -> Self {
        Self { username: session.username.clone(), session: Some(session), dialect: dialect.into(), owner }
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
