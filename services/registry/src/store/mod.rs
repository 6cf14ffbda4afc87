//! What the registry needs from a store.

#[cfg(test)]
mod contract;
mod embedded;
mod redis;

use std::{future::Future, net::Ipv4Addr, sync::Arc};

use lonja_proto::{Failure, SessionId, registry::CheckResult};

use crate::{
    check::Check,
    model::{Endpoint, Only, OpenSession, Registered, Session},
};

pub use embedded::EmbeddedStore;
pub use redis::RedisStore;

/// All sessions as they were at one moment, in the order in which they were opened.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Names this state of the list. Any change makes another revision.
    pub revision: String,
    /// `None` when the caller holds this revision already.
    pub sessions: Option<Vec<Arc<Session>>>,
    /// The dialect that was noted for the session of the user who asks; empty if none was.
    pub dialect: Box<str>,
}

/// What a connected user is told of a remote user's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSession {
    /// The remote user's session; `None` if that user is not connected.
    pub session: Option<SessionId>,
    /// The dialect that was noted for the session of the user who asks; empty if none was.
    pub dialect: Box<str>,
}

/// The numbers of users and sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// The number of registered users.
    pub users: u64,
    /// The number of open sessions.
    pub sessions: u64,
}

/// Keeps users and sessions durably. Each change is atomic, and a change that was answered with
/// success is there after any crash. Behind "Refused", a method lists the reasons that the method
/// gives with [`Failure::Refused`].
pub trait Store: Send + Sync + 'static {
    /// Adds a user, who belongs to the address `owner`, if any. Refused: `UserExists`.
    fn register(
        &self,
        username: &str,
        owner: Option<Ipv4Addr>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes a user and gives the session that ended with the user, if any. Refused:
    /// `UserNotFound`, and what `only` refuses.
    fn unregister(
        &self,
        username: &str,
        only: Only,
    ) -> impl Future<Output = Result<Option<SessionId>, Failure>> + Send;

    /// Opens a session and gives its id. A user who belonged to no address belongs to the one of
    /// [`Only::Owner`] from then on. Refused: `UserNotFound`, what `only` refuses, `SessionExists`.
    fn open_session(
        &self,
        username: &str,
        endpoint: Endpoint,
        only: Only,
    ) -> impl Future<Output = Result<SessionId, Failure>> + Send;

    /// Ends the user's session and gives its id. Refused: `UserNotFound`, `SessionNotFound`, and what
    /// `only` refuses.
    fn close_session(
        &self,
        username: &str,
        only: Only,
    ) -> impl Future<Output = Result<SessionId, Failure>> + Send;

    /// Gives the user's session. Refused: `UserNotFound`, `SessionNotFound`, and what `only` refuses.
    fn session(
        &self,
        username: &str,
        only: Only,
    ) -> impl Future<Output = Result<OpenSession, Failure>> + Send;

    /// Keeps a dialect in the user's session; an empty dialect forgets what was kept. The list of
    /// sessions stays at its revision. Refused: `UserNotFound`, `SessionNotFound`, and what `only` refuses.
    fn note_dialect(
        &self,
        username: &str,
        dialect: &str,
        only: Only,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes a user from the address to which the user belongs, if any. Refused: `UserNotFound`.
    fn free(&self, username: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Gives the session of the user `remote`, if any, on behalf of the connected user `username`.
    /// Refused: `UserNotFound`, `SessionNotFound`, `RemoteUserNotFound`.
    fn remote_session(
        &self,
        username: &str,
        remote: &str,
    ) -> impl Future<Output = Result<RemoteSession, Failure>> + Send;

    /// Lists all sessions for a connected user, or for the index itself if `username` is `None`.
    /// Refused: `UserNotFound`, `SessionNotFound`.
    fn list(
        &self,
        username: Option<&str>,
        known_revision: &str,
    ) -> impl Future<Output = Result<Listing, Failure>> + Send;

    /// Gives the sessions of these users. Users without a session are left out.
    fn look_up(
        &self,
        usernames: &[String],
    ) -> impl Future<Output = Result<Vec<Arc<Session>>, Failure>> + Send;

    /// Says which of these sessions are over. Each session is asked about with its user.
    fn ended(
        &self,
        sessions: &[(String, SessionId)],
    ) -> impl Future<Output = Result<Vec<SessionId>, Failure>> + Send;

    /// Gives every user, each as the user was at one moment during the call: first the users who are not
    /// connected, by name, then the connected ones in the order in which their sessions were opened.
    fn users(&self) -> impl Future<Output = Result<Vec<Registered>, Failure>> + Send;

    /// Gives a user, as the user is at one moment; `None` if nobody of this name is registered.
    fn user(&self, username: &str) -> impl Future<Output = Result<Option<Registered>, Failure>> + Send;

    /// Opens a session that another store had, with the session's id, time and dialect. `order` is the
    /// session's place in the list: larger than the one of every session before, and about the
    /// microseconds of the Unix epoch at which the session was opened. Refused: `UserNotFound`,
    /// `SessionExists`.
    fn restore_session(
        &self,
        session: &Session,
        order: u64,
        dialect: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Gives sessions whose peers are to be dialled now, at most `limit` of them, and counts these as being
    /// checked. No other call gives them in the same
    /// interval; one whose peer was reached, and then refused, comes again after a quarter of it.
    fn take_checks(
        &self,
        interval_ms: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Arc<Session>>, Failure>> + Send;

    /// Keeps what came of a check, and gives what is known then. Nothing is known of a session that is over.
    fn note_check(
        &self,
        username: &str,
        session: SessionId,
        result: CheckResult,
    ) -> impl Future<Output = Result<Check, Failure>> + Send;

    /// Gives what is known of the peers of these sessions, each of which is asked about with its user.
    fn checks(
        &self,
        sessions: &[(String, SessionId)],
    ) -> impl Future<Output = Result<Vec<Check>, Failure>> + Send;

    /// Counts users and sessions. Fails while the store cannot be written.
    fn statistics(&self) -> impl Future<Output = Result<Statistics, Failure>> + Send;

    /// Whether the store can be read and written.
    fn is_ready(&self) -> impl Future<Output = bool> + Send;

    /// Whether the store is being restarted, and calls wait until it is back.
    fn is_restarting(&self) -> bool {
        false
    }
}
