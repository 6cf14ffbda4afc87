//! Keeps the index current: reads the whole store, then its changes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use lonja_proto::Failure;
use parking_lot::Mutex;
use tantivy::TantivyError;
use tokio::{
    task::JoinError,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{Search, index::Writer};
use crate::store::{Cursor, Store};

/// How often changes are looked for. Each time costs a commit if there are any.
const INTERVAL: Duration = Duration::from_millis(400);
/// Lists that are asked for at one time.
const LISTS: usize = 32;
/// How long to wait before the next attempt when the store fails.
const PAUSE: Duration = Duration::from_secs(1);

/// Why it has to begin anew.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("changes were missed")]
    Missed,
    #[error(transparent)]
    Store(#[from] Failure),
    #[error(transparent)]
    Index(#[from] TantivyError),
    #[error(transparent)]
    Task(#[from] JoinError),
}

/// Brings the changes of a store into the index.
pub struct Follower<S> {
    store: S,
    writer: Arc<Mutex<Writer>>,
    search: Search,
}

impl<S> std::fmt::Debug for Follower<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("search", &self.search).finish_non_exhaustive()
    }
}

impl<S> Follower<S> {
    pub(super) fn new(store: S, writer: Writer, search: Search) -> Self {
        Self { store, writer: Arc::new(Mutex::new(writer)), search }
    }
}

impl<S: Store> Follower<S> {
    /// Follows the store until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        while let Some(Err(broken)) = shutdown.run_until_cancelled(self.follow()).await {
            match broken {
                Broken::Missed => tracing::info!("search: {broken}: the index is made anew"),
                // Others say that the store fails.
                Broken::Store(_) => tracing::debug!("search: {broken}"),
                Broken::Index(_) | Broken::Task(_) => tracing::error!("search: {broken}: it is made anew"),
            }
            let _ = time::timeout(PAUSE, shutdown.cancelled()).await;
        }
    }

    /// Follows until something breaks.
    async fn follow(&self) -> Result<Infallible, Broken> {
        let mut cursor = self.read_all().await?;
        // What was read may hold changes up to here, which then come once more.
        let mut repeated = Some(self.store.newest().await?);
        loop {
            let next = Instant::now() + INTERVAL;
            let mut changed = false;
            while Instant::now() < next && self.apply_some(&mut cursor, repeated.as_ref()).await? {
                changed = true;
            }
            let caught_up = repeated.take_if(|until| !cursor.is_before(until)).is_some();
            if changed || caught_up {
                self.write(Writer::commit).await?;
            }
            if caught_up {
                self.search.set_ready(true);
            }
            time::sleep_until(next).await;
        }
    }

    /// Adds everything that the store has to an empty index. The changes behind the place
    /// that it gives are to be applied upon it.
    async fn read_all(&self) -> Result<Cursor, Broken> {
        let cursor = self.store.newest().await?;
        self.write(|writer| writer.clear()).await?;
        let sessions = self.store.sessions().await?;
        let list = |(session, username)| async move {
            Ok::<_, Failure>((session, username, self.store.list(session).await?))
        };
        let mut lists = stream::iter(sessions).map(list).buffered(LISTS);
        while let Some(list) = lists.next().await {
            let (session, username, files) = list?;
            let add = move |writer: &mut Writer| {
                files.iter().try_for_each(|listed| writer.add(session, &username, listed))
            };
            self.write(add).await?;
        }
        Ok(cursor)
    }

    /// Applies some of the changes behind a place and moves it on; says whether there were
    /// any. Those up to `repeated` may have been applied before.
    async fn apply_some(&self, cursor: &mut Cursor, repeated: Option<&Cursor>) -> Result<bool, Broken> {
        let (changes, behind) = self.store.changes(cursor).await?.ok_or(Broken::Missed)?;
        if behind == *cursor {
            return Ok(false);
        }
        let repeated = repeated.is_some_and(|until| cursor.is_before(until));
        let apply = move |writer: &mut Writer| changes.iter().try_for_each(|one| writer.apply(one, repeated));
        self.write(apply).await?;
        *cursor = behind;
        Ok(true)
    }

    /// Works with the index in a thread that may block.
    async fn write(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<(), TantivyError> + Send + 'static,
    ) -> Result<(), Broken> {
        let writer = Arc::clone(&self.writer);
        Ok(tokio::task::spawn_blocking(move || work(&mut writer.lock())).await??)
    }
}
