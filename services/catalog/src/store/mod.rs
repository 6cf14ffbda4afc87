//! What the catalog needs from a store.

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
    /// The name by which others ask the owner for the file.
    pub filename: String,
    /// What the owner says about the file.
    pub description: String,
}

/// A published file, with its place in the order of publishing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// A number that is larger than the order of every file that the session published before.
    pub order: u64,
    /// The published file.
    pub file: File,
}

/// A change of the published files, for search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// A user published a file in a session.
    Published(SessionId, Box<str>, Listed),
    /// A file of a session was deleted.
    Deleted(SessionId, String),
    /// A session ended, and all its files went.
    Ended(SessionId),
}

/// A place between two of a store's changes. The numbers of a place only grow from change to
/// change, and each kind of store has numbers of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(crate) Vec<u64>);

impl Cursor {
    /// Whether there may be changes behind this place and before the place `other`.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(own, other)| own < other)
    }
}

/// The numbers of sessions and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// The number of sessions that have something published.
    pub sessions: u64,
    /// The number of published files.
    pub files: u64,
}

/// Keeps published lists by session, durably. Each change is atomic, and a change that was answered
/// with success is there after any crash. Behind "Refused", a method lists the reasons that the
/// method gives with [`Failure::Refused`].
pub trait Store: Clone + Send + Sync + 'static {
    /// How long search may go without asking for changes: zero where asking is cheap.
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

    /// Gives the session's list in the order of publishing.
    fn list(&self, session: SessionId) -> impl Future<Output = Result<Vec<Listed>, Failure>> + Send;

    /// Says whether the session has published a file of this name.
    fn has(&self, session: SessionId, filename: &str) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Drops the session's list, and leaves a tombstone so that changes that still come for the
    /// session are refused. The tombstone stays for a few minutes, longer than any request can be
    /// on its way.
    fn end_session(&self, session: SessionId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Gives the sessions that have something published, each with its user.
    fn sessions(&self) -> impl Future<Output = Result<Vec<(SessionId, String)>, Failure>> + Send;

    /// Gives the place behind the newest change.
    fn newest(&self) -> impl Future<Output = Result<Cursor, Failure>> + Send;

    /// Gives some of the changes behind a place, and the place behind these changes. The changes of
    /// each session are in the order in which they were made. `None` means that some changes are
    /// not known any more.
    fn changes(
        &self,
        from: &Cursor,
    ) -> impl Future<Output = Result<Option<(Vec<FileChange>, Cursor)>, Failure>> + Send;

    /// Counts sessions and files. Fails while the store cannot be written.
    fn statistics(&self) -> impl Future<Output = Result<Statistics, Failure>> + Send;

    /// Whether the store can be read and written.
    fn is_ready(&self) -> impl Future<Output = bool> + Send;

    /// Whether the store is being restarted, and calls wait until it is back.
    fn is_restarting(&self) -> bool {
        false
    }
}
