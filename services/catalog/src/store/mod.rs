//! What the catalog needs of a store.

#[cfg(test)]
mod contract;
mod embedded;
mod redis;

use std::future::Future;

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
pub trait Store: Send + Sync + 'static {
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
    fn list(&self, session: SessionId) -> impl Future<Output = Result<Vec<File>, Failure>> + Send;

    /// Drops the session's list and leaves a tombstone for a few minutes, longer than
    /// any request can be on its way, which refuses what still comes for it.
    fn end_session(&self, session: SessionId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The sessions that have something published, each with its user.
    fn sessions(&self) -> impl Future<Output = Result<Vec<(SessionId, String)>, Failure>> + Send;

    /// How many sessions and files there are. Fails while the store cannot be written.
    fn statistics(&self) -> impl Future<Output = Result<Statistics, Failure>> + Send;

    /// Whether the store can be read and written.
    fn is_ready(&self) -> impl Future<Output = bool> + Send;
}
