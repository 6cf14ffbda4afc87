//! Search over what all sessions have published.
//!
//! Each catalog has an index of its own in memory: made of the store when it starts, and
//! then kept current with the store's changes, whichever catalog made them.

mod follower;
mod index;
mod words;

use std::{sync::Arc, time::Duration};

use lonja_proto::SessionId;
use parking_lot::RwLock;
use tantivy::TantivyError;
use tokio::{sync::Semaphore, time};
use ulid::Ulid;

use crate::store::File;
pub use follower::Follower;

/// Searches at one time; more would take the processors from the peers.
const AT_ONCE: usize = 2;
/// How long a search waits for others. The console gives up on the catalog after 2 s.
const WAIT: Duration = Duration::from_secs(1);

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
    /// The service has just started, or cannot follow its store.
    #[error("the index for search is being made: ask again in a moment")]
    NotReady,
    /// Others search.
    #[error("too many searches wait: ask again in a moment")]
    Busy,
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
    /// `None` unless everything that the store has is in it.
    current: RwLock<Option<Current>>,
    places: Arc<Semaphore>,
}

/// An index that is shown.
#[derive(Clone)]
struct Current {
    /// Tells revisions of different indexes apart.
    run: Ulid,
    reader: index::Reader,
}

impl Current {
    fn new(reader: index::Reader) -> Self {
        Self { run: Ulid::generate(), reader }
    }

    fn name(&self, generation: u64) -> String {
        format!("{}-{generation}", self.run)
    }
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").field("ready", &self.shared.current.read().is_some()).finish_non_exhaustive()
    }
}

impl Search {
    /// An index of what this store has, and what has to run to make it and keep it current.
    pub fn new<S>(store: S) -> (Self, Follower<S>) {
        let shared = Shared { current: RwLock::default(), places: Arc::new(Semaphore::new(AT_ONCE)) };
        let search = Self { shared: Arc::new(shared) };
        (search.clone(), Follower::new(store, search))
    }

    fn current(&self) -> Result<Current, SearchError> {
        self.shared.current.read().clone().ok_or(SearchError::NotReady)
    }

    /// Names the state of the index; any change makes another.
    ///
    /// # Errors
    /// When there is no index that is current.
    pub(crate) fn revision(&self) -> Result<String, SearchError> {
        let current = self.current()?;
        Ok(current.name(current.reader.generation()))
    }

    /// What matches, and the revision of the index that it was found in.
    ///
    /// # Errors
    /// When there is no index that is current, it is at fault, or too many search.
    pub(crate) async fn search(&self, query: SearchQuery) -> Result<(String, Page), SearchError> {
        let place = time::timeout(WAIT, Arc::clone(&self.shared.places).acquire_owned()).await;
        let place = place.map_err(|_| SearchError::Busy)?.map_err(|_| SearchError::Stopped)?;
        let current = self.current()?;
        let search = move || {
            // Held to the end of the search, whether or not anyone still waits for it.
            let _place = place;
            let page = current.reader.search(&query)?;
            Ok((current.name(page.generation), page))
        };
        tokio::task::spawn_blocking(search).await.map_err(|_| SearchError::Stopped)?
    }

    /// Searches see this index from now on, or none.
    fn show(&self, current: Option<&Current>) {
        *self.shared.current.write() = current.cloned();
    }
}
