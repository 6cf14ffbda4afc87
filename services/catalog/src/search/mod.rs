//! Search over what all sessions have published.
//!
//! Each catalog has an index of its own in memory: it is read from the store when the catalog
//! starts, and then follows the store's changes, whichever catalog made them (ADR 0009).

mod block;
mod follower;
mod index;
mod text;

use std::{fmt, sync::Arc, time::Duration};

use lonja_proto::SessionId;
use parking_lot::RwLock;
use tokio::{
    sync::{Mutex, Semaphore},
    time,
};
use ulid::Ulid;

use crate::store::{File, Store};
use follower::Followed;
pub use follower::Follower;
use index::Index;

/// The largest number of searches at one time, each on two threads at most; more would take the
/// processors from the peers.
const AT_ONCE: usize = 1;
/// How long a search waits for other searches, and for the newest changes. The console gives up
/// on the catalog after 2 s.
const WAIT: Duration = Duration::from_secs(1);

/// What to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchQuery {
    /// The words to look for. Each word must occur in the filename, the description or the
    /// username, in any case and with or without accents.
    pub text: String,
    /// Only files of this session are found; `None` finds files of every session.
    pub session: Option<SessionId>,
    /// The number of matching files to leave out, from the newest on.
    pub offset: usize,
    /// The largest number of files to give.
    pub limit: usize,
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The session that published the file.
    pub session: String,
    /// The user whose session that is.
    pub username: String,
    /// The file.
    pub file: File,
}

/// Some of the files that match, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    generation: u64,
    /// The number of all files that match.
    pub(crate) total: u64,
    pub(crate) found: Vec<Found>,
}

/// Why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The service has just started, or cannot follow its store.
    #[error("the index for search is being made: ask again in a moment")]
    NotReady,
    /// Other searches or changes have taken the time that a search may wait.
    #[error("too many searches wait: ask again in a moment")]
    Busy,
    /// A bug ended the search; the catalog's log has the panic.
    #[error("the search broke down: search for something else, and look at the catalog's log")]
    Panicked,
    /// The service is stopping.
    #[error("search has stopped: the service is shutting down")]
    Stopped,
}

/// Answers searches in a store. Clones share one index.
pub struct Search<S> {
    shared: Arc<SharedIndex<S>>,
}

struct SharedIndex<S> {
    store: S,
    /// `None` until everything that the store has is in the index.
    current: RwLock<Option<Arc<Current>>>,
    /// The lock of whoever makes the index or brings changes into the index.
    followed: Mutex<Followed>,
    searches: Arc<Semaphore>,
}

/// An index, and the name that tells its revisions from those of other indexes.
struct Current {
    run: Ulid,
    index: RwLock<Index>,
}

impl Current {
    fn new() -> Self {
        Self { run: Ulid::generate(), index: RwLock::default() }
    }

    fn revision(&self, generation: u64) -> String {
        format!("{}-{generation}", self.run)
    }
}

impl<S> Clone for Search<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Search<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").field("ready", &self.shared.current.read().is_some()).finish_non_exhaustive()
    }
}

impl<S: Store> Search<S> {
    /// Makes a search over this store, and the task that makes the index and keeps it current.
    pub fn new(store: S) -> (Self, Follower<S>) {
        let shared = SharedIndex {
            store,
            current: RwLock::default(),
            followed: Mutex::default(),
            searches: Arc::new(Semaphore::new(AT_ONCE)),
        };
        let search = Self { shared: Arc::new(shared) };
        (search.clone(), Follower::new(search))
    }

    /// Gives the index with every change that was made up to [`Store::MAX_LAG`] before this call.
    async fn current(&self) -> Result<Arc<Current>, SearchError> {
        let shown = || self.shared.current.read().clone().ok_or(SearchError::NotReady);
        // Nobody waits while the index is being made.
        shown()?;
        time::timeout(WAIT, self.follow()).await.map_err(|_| SearchError::Busy)?;
        shown()
    }

    /// Names the state of the index; any change makes another name.
    ///
    /// # Errors
    /// When there is no index that is current.
    pub(crate) async fn revision(&self) -> Result<String, SearchError> {
        let current = self.current().await?;
        let generation = current.index.read().generation();
        Ok(current.revision(generation))
    }

    /// Gives the revision of the index, and the files that match in that revision.
    ///
    /// # Errors
    /// When there is no index that is current, or too many searches wait.
    pub(crate) async fn search(&self, query: SearchQuery) -> Result<(String, Page), SearchError> {
        let place = time::timeout(WAIT, Arc::clone(&self.shared.searches).acquire_owned()).await;
        let place = place.map_err(|_| SearchError::Busy)?.map_err(|_| SearchError::Stopped)?;
        let current = self.current().await?;
        let search = move || {
            // Held to the end of the search, whether or not anyone still waits for it.
            let _place = place;
            let page = current.index.read().search(&query);
            (current.revision(page.generation), page)
        };
        let searched = tokio::task::spawn_blocking(search).await;
        searched.map_err(|error| if error.is_panic() { SearchError::Panicked } else { SearchError::Stopped })
    }
}
