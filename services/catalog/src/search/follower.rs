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

use super::{
    Current, Search,
    index::{self, Writer},
};
use crate::store::{Cursor, Store};

/// How often changes are looked for. Each time costs a commit if there are any.
const INTERVAL: Duration = Duration::from_millis(400);
/// Lists that are asked for at one time.
const LISTS: usize = 32;
/// How long to wait before the next attempt when something fails.
const PAUSE: Duration = Duration::from_secs(1);

/// Why it has to begin anew. After a failure of the store too: it may have gone back to
/// what it was some changes before.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("changes were missed")]
    Missed,
    #[error("the store fails: {0}")]
    Store(#[from] Failure),
    #[error(transparent)]
    Index(#[from] TantivyError),
    #[error(transparent)]
    Task(#[from] JoinError),
}

/// Brings the changes of a store into the index.
#[derive(Debug)]
pub struct Follower<S> {
    store: S,
    search: Search,
}

/// An index that follows its store.
struct Following {
    writer: Arc<Mutex<Writer>>,
    current: Current,
    /// Up to where the store's changes are in it.
    cursor: Cursor,
    /// Changes up to here may have been in what was read at first, and come once more.
    repeated: Option<Cursor>,
}

impl<S> Follower<S> {
    pub(super) fn new(store: S, search: Search) -> Self {
        Self { store, search }
    }
}

impl<S: Store> Follower<S> {
    /// Follows the store until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut failing = false;
        while let Some(Err(broken)) = shutdown.run_until_cancelled(self.follow(&mut failing)).await {
            // What is not current any more is not shown.
            self.search.show(None);
            match &broken {
                Broken::Missed => tracing::info!("search: {broken}: the index is made anew"),
                Broken::Store(_) if failing => tracing::debug!("search: {broken}"),
                Broken::Store(_) => tracing::warn!("search: {broken}"),
                Broken::Index(_) | Broken::Task(_) => tracing::error!("search: {broken}: it is made anew"),
            }
            failing = matches!(broken, Broken::Store(_));
            let _ = time::timeout(PAUSE, shutdown.cancelled()).await;
        }
    }

    /// Makes an index and follows until something breaks.
    async fn follow(&self, failing: &mut bool) -> Result<Infallible, Broken> {
        let mut following = self.read_all().await?;
        loop {
            let next = Instant::now() + INTERVAL;
            let mut changed = false;
            while Instant::now() < next && self.apply_some(&mut following).await? {
                changed = true;
            }
            let Following { writer, cursor, repeated, current } = &mut following;
            let caught_up = repeated.take_if(|until| !cursor.is_before(until)).is_some();
            if changed || caught_up {
                write(writer, Writer::commit).await?;
            }
            if caught_up {
                self.search.show(Some(current));
                *failing = false;
            }
            time::sleep_until(next).await;
        }
    }

    /// An index with everything that the store has.
    async fn read_all(&self) -> Result<Following, Broken> {
        let cursor = self.store.newest().await?;
        let (writer, reader) = index::create()?;
        let writer = Arc::new(Mutex::new(writer));
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
            write(&writer, add).await?;
        }
        let repeated = Some(self.store.newest().await?);
        Ok(Following { writer, current: Current::new(reader), cursor, repeated })
    }

    /// Applies some of the changes behind the place up to which they are known, and moves
    /// that on; says whether there were any.
    async fn apply_some(&self, following: &mut Following) -> Result<bool, Broken> {
        let Following { writer, cursor, repeated, .. } = following;
        let (changes, behind) = self.store.changes(cursor).await?.ok_or(Broken::Missed)?;
        if behind == *cursor {
            return Ok(false);
        }
        let repeated = repeated.as_ref().is_some_and(|until| cursor.is_before(until));
        let apply = move |writer: &mut Writer| changes.iter().try_for_each(|one| writer.apply(one, repeated));
        write(writer, apply).await?;
        *cursor = behind;
        Ok(true)
    }
}

/// Works with an index in a thread that may block.
async fn write(
    writer: &Arc<Mutex<Writer>>,
    work: impl FnOnce(&mut Writer) -> Result<(), TantivyError> + Send + 'static,
) -> Result<(), Broken> {
    let writer = Arc::clone(writer);
    Ok(tokio::task::spawn_blocking(move || work(&mut writer.lock())).await??)
}
