//! What the registry needs of a store.

#[cfg(test)]
mod contract;
mod embedded;
mod redis;

use std::{future::Future, sync::Arc};

use lonja_proto::{Failure, SessionId};

use crate::model::{Endpoint, Session};

pub use embedded::EmbeddedStore;
pub use redis::RedisStore;

/// All sessions as they were at one moment, in the order in which they were opened.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Names this state of the list; any change makes another.
    pub revision: String,
    /// `None` when the caller holds this revision already.
    pub sessions: Option<Vec<Arc<Session>>>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Registered users.
    pub users: u64,
    /// Open sessions.
    pub sessions: u64,
}

/// Users and sessions, durably. Each change is atomic, and what was answered with
/// success is there after any crash. Refusals are [`Failure::Refused`].
pub trait Store: Send + Sync + 'static {
    /// Adds a user. Refused: `UserExists`.
    fn register(&self, username: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes a user and gives the session that ended with it. Refused: `UserNotFound`.
    fn unregister(&self, username: &str) -> impl Future<Output = Result<Option<SessionId>, Failure>> + Send;

    /// Opens a session. Refused: `UserNotFound`, `SessionExists`.
    fn open_session(
        &self,
        username: &str,
        endpoint: Endpoint,
    ) -> impl Future<Output = Result<SessionId, Failure>> + Send;

    /// Ends the user's session. Refused: `UserNotFound`, `SessionNotFound`.
    fn close_session(&self, username: &str) -> impl Future<Output = Result<SessionId, Failure>> + Send;

    /// The user's session. Refused: `UserNotFound`, `SessionNotFound`.
    fn session(&self, username: &str) -> impl Future<Output = Result<SessionId, Failure>> + Send;

    /// The session of `remote`, if it has one, for a connected user. Refused:
    /// `UserNotFound`, `SessionNotFound`, `RemoteUserNotFound`.
    fn remote_session(
        &self,
        username: &str,
        remote: &str,
    ) -> impl Future<Output = Result<Option<SessionId>, Failure>> + Send;

    /// All sessions, for a connected user or (`None`) the index itself. Refused:
    /// `UserNotFound`, `SessionNotFound`.
    fn list(
        &self,
        username: Option<&str>,
        known_revision: &str,
    ) -> impl Future<Output = Result<Listing, Failure>> + Send;

    /// The sessions of those of these users who have one.
    fn look_up(
        &self,
        usernames: &[String],
    ) -> impl Future<Output = Result<Vec<Arc<Session>>, Failure>> + Send;

    /// Which of these sessions, each with its user, are over.
    fn ended(
        &self,
        sessions: &[(String, SessionId)],
    ) -> impl Future<Output = Result<Vec<SessionId>, Failure>> + Send;

    /// How many users and sessions there are. Fails while the store cannot be written.
    fn statistics(&self) -> impl Future<Output = Result<Statistics, Failure>> + Send;

    /// Whether the store can be read and written.
    fn is_ready(&self) -> impl Future<Output = bool> + Send;
}
