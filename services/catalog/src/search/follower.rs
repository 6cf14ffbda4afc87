//! Keeps the index current: reads the whole store, then its changes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use lonja_proto::Failure;
use tokio::{
    task::{JoinError, spawn_blocking},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{Current, Search};
use crate::store::{Cursor, Store};

/// How often changes are looked for while nobody searches.
const INTERVAL: Duration = Duration::from_millis(400);
/// The largest number of sessions whose lists are asked for at one time.
const LISTS: usize = 32;
/// How long to wait before the next attempt when the index could not be made or kept current.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the index has to be made anew. A store that failed may have gone back to an earlier state,
/// without the last changes.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("some changes are not known any more")]
    Missed,
    #[error("the store fails: {0}")]
    Store(#[from] Failure),
    #[error(transparent)]
    Task(#[from] JoinError),
}

/// What is known of the store.
#[derive(Default)]
pub(super) struct Followed {
    /// `None` until the index has been read from the store, and after a failure.
    following: Option<Following>,
    /// Whether the last attempt failed because of the store.
    failing: bool,
}

/// An index, and how far the store's changes are in it.
struct Following {
    current: Arc<Current>,
    cursor: Cursor,
    /// The last moment before which every change is in the index; `None` until the index has been
    /// current once.
    caught_up: Option<Instant>,
}

/// Makes the index, and keeps it current while nobody searches.
#[derive(Debug)]
pub struct Follower<S> {
    search: Search<S>,
}

impl<S: Store> Follower<S> {
    pub(super) fn new(search: Search<S>) -> Self {
        Self { search }
    }

    /// Follows the store until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        while let Some(followed) = shutdown.run_until_cancelled(self.search.follow()).await {
            let pause = if followed { INTERVAL } else { PAUSE };
            let _ = time::timeout(pause, shutdown.cancelled()).await;
        }
    }
}

impl<S: Store> Search<S> {
    /// Makes the index if there is none, and brings the changes that the store has by now into it.
    /// Says whether the index is current then; an index that is not current is not shown.
    ///
    /// A call that is dropped goes on to its end, so that no later call brings newer changes first.
    pub(super) async fn follow(&self) -> bool {
        let search = self.clone();
        tokio::spawn(async move { search.follow_to_the_end().await }).await.unwrap_or(false)
    }

    async fn follow_to_the_end(&self) -> bool {
        let mut followed = self.shared.followed.lock().await;
        match self.try_to_follow(&mut followed.following).await {
            Ok(()) => {
                followed.failing = false;
                true
            }
            Err(broken) => {
                *self.shared.current.write() = None;
                followed.following = None;
                match &broken {
                    Broken::Missed => tracing::warn!("search: {broken}: the index is made anew"),
                    Broken::Store(_) if followed.failing => tracing::debug!("search: {broken}"),
                    Broken::Store(_) => tracing::warn!("search: {broken}"),
                    Broken::Task(_) => tracing::error!("search: {broken}: the index is made anew"),
                }
                followed.failing = matches!(broken, Broken::Store(_));
                false
            }
        }
    }

    async fn try_to_follow(&self, following: &mut Option<Following>) -> Result<(), Broken> {
        let following = match following {
            Some(following) => following,
            None => following.insert(self.read_all().await?),
        };
        if following.caught_up.is_some_and(|at| at.elapsed() < S::MAX_LAG) {
            return Ok(());
        }
        let asked = Instant::now();
        let newest = self.shared.store.newest().await?;
        if following.cursor != newest {
            while self.apply_some(following).await? && following.cursor.is_before(&newest) {}
        }
        if following.caught_up.replace(asked).is_none() {
            *self.shared.current.write() = Some(Arc::clone(&following.current));
        }
        Ok(())
    }

    /// Makes an index of everything that the store has. Changes that are made meanwhile may be in
    /// the index already, and come again behind the cursor.
    async fn read_all(&self) -> Result<Following, Broken> {
        let store = &self.shared.store;
        let cursor = store.newest().await?;
        let current = Arc::new(Current::new());
        let list = |(session, username)| async move {
            Ok::<_, Failure>((session, username, store.list(session).await?))
        };
        let mut lists = stream::iter(store.sessions().await?).map(list).buffered(LISTS);
        while let Some(list) = lists.next().await {
            let (session, username, files) = list?;
            let mut index = current.index.write();
            files.iter().for_each(|listed| index.add(session, &username, listed));
        }
        Ok(Following { current, cursor, caught_up: None })
    }

    /// Brings some of the changes behind the cursor into the index and moves the cursor on; says
    /// whether there were any.
    async fn apply_some(&self, following: &mut Following) -> Result<bool, Broken> {
        let changes = self.shared.store.changes(&following.cursor).await?;
        let (changes, behind) = changes.ok_or(Broken::Missed)?;
        if behind == following.cursor {
            return Ok(false);
        }
        let current = Arc::clone(&following.current);
        // In a thread that may block: a search holds the index for some milliseconds.
        spawn_blocking(move || {
            let mut index = current.index.write();
            changes.iter().for_each(|change| index.apply(change));
        })
        .await?;
        following.cursor = behind;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use lonja_journal::Journal;
    use lonja_proto::SessionId;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        CatalogConfig,
        store::{EmbeddedStore, File},
    };

    /// Bug: while a search that was given up brought changes into the index, another could bring later ones sooner, so
    /// that a file that was deleted was found again.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_search_that_is_given_up_is_not_overtaken() {
        let directory = TempDir::new().unwrap();
        let mut journal = Journal::open(directory.path(), "catalog").unwrap();
        let store = EmbeddedStore::open(&mut journal, &CatalogConfig { max_files_per_session: 9 }).unwrap();
        let _journal = journal.start().unwrap();
        let (search, _follower) = Search::new(store.clone());
        assert!(search.follow().await);
        let file = File { filename: "first".to_owned(), description: String::new() };
        store.publish(SessionId::fresh(), "alice", file).await.unwrap();
        let current = search.shared.current.read().clone().unwrap();
        let held = spawn_blocking({
            let (search, current) = (search.clone(), Arc::clone(&current));
            move || {
                // A long search.
                let _index = current.index.read();
                let runtime = tokio::runtime::Handle::current();
                let given_up = runtime.block_on(time::timeout(Duration::from_millis(50), search.follow()));
                given_up.is_err() && search.shared.followed.try_lock().is_err()
            }
        });
        assert!(held.await.unwrap(), "whoever comes next waits for the one that was given up");
        assert!(search.follow().await);
    }
}
