//! What the catalog needs of a store.

#[cfg(test)]
mod contract;
mod embedded;
mod redis;

use std::{future::Future, time::Duration};

use lonja_proto::{Failure, SessionId};

pub use embedded::EmbeddedStore;
pub use redis::RedisStore;

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The name to ask the owner for.
    pub filename: String,
    /// What the owner says of it.
    pub description: String,
}

/// A file that is published, and when relative to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// More than that of any file published before.
    pub order: u64,
    /// The file.
    pub file: File,
}

/// What has changed, for search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file came.
    Published(SessionId, Box<str>, Listed),
    /// A file went.
    Deleted(SessionId, String),
    /// All files of a session went.
    Ended(SessionId),
}

/// A place between two changes: a number for each sequence of changes that a store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(crate) Vec<u64>);

impl Cursor {
    /// Whether there may be changes between this place and another.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(own, other)| own < other)
    }
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Sessions that have something published.
    pub sessions: u64,
    /// Published files.
    pub files: u64,
}

/// Published lists by session, durably. Each change is atomic, and what was answered
/// with success is there after any crash. Refusals are [`Failure::Refused`].
pub trait Store: Clone + Send + Sync + 'static {
    /// How old what search knows of the changes may be: the price of asking for them.
    const MAX_LAG: Duration;

    /// Adds a file to the session's list. Refused: `SessionEnded`, `FileExists`,
    /// `TooManyFiles`.
    fn publish(
        &self,
        session: SessionId,
        username: &str,
        file: File,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes a file off the session's list. Refused: `SessionEnded`, `FileNotFound`.
    fn delete(&self, session: SessionId, filename: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The session's list in the order of publishing.
    fn list(&self, session: SessionId) -> impl Future<Output = Result<Vec<Listed>, Failure>> + Send;

    /// Drops the session's list and leaves a tombstone for a few minutes, longer than
    /// any request can be on its way, which refuses what still comes for it.
    fn end_session(&self, session: SessionId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The sessions that have something published, each with its user.
    fn sessions(&self) -> impl Future<Output = Result<Vec<(SessionId, String)>, Failure>> + Send;

    /// The place behind the newest change.
    fn newest(&self) -> impl Future<Output = Result<Cursor, Failure>> + Send;

    /// Some of the changes behind a place, those of each session in the order in which they
    /// were made, and the place behind them; `None` when some are not known any more.
    fn changes(
        &self,
        from: &Cursor,
    ) -> impl Future<Output = Result<Option<(Vec<Change>, Cursor)>, Failure>> + Send;

    /// How many sessions and files there are. Fails while the store cannot be written.
    fn statistics(&self) -> impl Future<Output = Result<Statistics, Failure>> + Send;

    /// Whether the store can be read and written.
    fn is_ready(&self) -> impl Future<Output = bool> + Send;
}
