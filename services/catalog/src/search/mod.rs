//! Search over what all sessions have published.
//!
//! Each catalog has an index of its own in memory: made of the store when it starts, and
//! then kept current with the store's changes, whichever catalog made them.

mod follower;
mod index;
mod words;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use lonja_proto::SessionId;
use tantivy::TantivyError;
use tokio::sync::Semaphore;
use ulid::Ulid;

use crate::store::File;
pub use follower::Follower;

/// Searches at one time; more would take the processors from the peers.
const AT_ONCE: usize = 2;

/// What to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchQuery {
    /// Words, each of which must begin a word of the filename, the description or the
    /// username.
    pub text: String,
    /// Only files of this session.
    pub session: Option<SessionId>,
    /// How many of those that match to leave out before the first.
    pub offset: usize,
    /// Files to give at most.
    pub limit: usize,
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whose list it is on.
    pub session: String,
    /// The user whose session it is.
    pub username: String,
    /// The file.
    pub file: File,
}

/// Some of the files that match, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    generation: u64,
    /// Files that match in all.
    pub(crate) total: u64,
    pub(crate) found: Vec<Found>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The service has just started.
    #[error("the index for search is being made: ask again in a moment")]
    NotReady,
    /// The index is at fault.
    #[error("search: {0}")]
    Index(#[from] TantivyError),
    /// The service is stopping.
    #[error("search has stopped")]
    Stopped,
}

/// Answers searches. Clones share one index.
#[derive(Clone)]
pub struct Search {
    shared: Arc<Shared>,
}

struct Shared {
    reader: index::Reader,
    /// Whether everything that the store had is in it.
    ready: AtomicBool,
    /// Tells revisions of different indexes apart.
    run: Ulid,
    places: Semaphore,
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").field("ready", &self.shared.ready).finish_non_exhaustive()
    }
}

impl Search {
    /// An index of what this store has, and what has to run to keep it current.
    ///
    /// # Errors
    /// When there is no memory or thread for it.
    pub fn new<S>(store: S) -> Result<(Self, Follower<S>), SearchError> {
        let (writer, reader) = index::create()?;
        let shared = Arc::new(Shared {
            reader,
            ready: AtomicBool::new(false),
            run: Ulid::generate(),
            places: Semaphore::new(AT_ONCE),
        });
        let search = Self { shared };
        Ok((search.clone(), Follower::new(store, writer, search)))
    }

    /// Names the state of the index; any change makes another.
    ///
    /// # Errors
    /// When the index is not made yet.
    pub(crate) fn revision(&self) -> Result<String, SearchError> {
        if !self.shared.ready.load(Ordering::Acquire) {
            return Err(SearchError::NotReady);
        }
        Ok(self.name(self.shared.reader.generation()))
    }

    /// What matches, and the revision of the index that it was found in.
    ///
    /// # Errors
    /// When the index is not made yet, or is at fault.
    pub(crate) async fn search(&self, query: SearchQuery) -> Result<(String, Page), SearchError> {
        self.revision()?;
        let _place = self.shared.places.acquire().await.map_err(|_| SearchError::Stopped)?;
        let shared = Arc::clone(&self.shared);
        let page = tokio::task::spawn_blocking(move || shared.reader.search(&query)).await;
        let page = page.map_err(|_| SearchError::Stopped)??;
        Ok((self.name(page.generation), page))
    }

    fn name(&self, generation: u64) -> String {
        format!("{}-{generation}", self.shared.run)
    }

    fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::Release);
    }
}
