//! Lists as peers get them: rendered once, within a bound on memory.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use lonja_proto::{
    catalog::{ListFilesRequest, ListFilesResponse},
    registry::{ListSessionsRequest, ListSessionsResponse},
};
use lonja_rpc::Pages;
use lonja_telemetry::throttle::Throttle;
use lonja_wire::{
    Dialect, Encoding, Operation, Outcome,
    reply::{FILE_ENTRY, LIST_HEADER, USER_ENTRY, list_header, push_file, push_user},
};
use parking_lot::Mutex;
use tokio::sync::{self, OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::backend::NotDone;

/// A peer may ask for a list that is too large again and again; not each time has to be logged.
static TOO_LARGE: Throttle = Throttle::events();

/// The largest number of bytes of rendered lists that are held at one time. Peers that read slowly
/// keep their lists in memory.
const BUDGET: usize = 256 << 20;
/// The largest number of lists of files that are fetched at one time. A list is in memory once before its size is
/// known and counted.
const FETCHED: usize = 32;
/// The unit in which the budget is counted, in bytes.
const UNIT: usize = 4096;

/// A list as a whole reply for the terminated encoding, with header and entries in one buffer. When
/// they are sent from two buffers, a long list takes the processor three times as long to copy,
/// because source and target are never aligned to one another.
#[derive(Debug)]
pub(crate) struct Rendered {
    count: u32,
    reply: Bytes,
    _budget: Option<OwnedSemaphorePermit>,
}

impl Rendered {
    fn new(count: u32, mut reply: Vec<u8>, budget: Option<OwnedSemaphorePermit>) -> Self {
        let (header, _) = list_header(count, Encoding::Terminated);
        reply[..LIST_HEADER].copy_from_slice(&header);
        Self { count, reply: reply.into(), _budget: budget }
    }

    /// How many entries the list has.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The entries, each with fields of fixed width.
    fn entries(&self) -> &[u8] {
        &self.reply[LIST_HEADER..]
    }

    /// The reply in two pieces, and how many entries of the list the reply has.
    pub(crate) fn reply(&self, encoding: Encoding) -> (Bytes, Bytes, u32) {
        let (header, sent) = list_header(self.count, encoding);
        let entry = (self.reply.len() - LIST_HEADER) / (self.count as usize).max(1);
        let end = LIST_HEADER + sent as usize * entry;
        match encoding {
            Encoding::Terminated => (self.reply.slice(..end), Bytes::new(), sent),
            Encoding::Padded => (Bytes::copy_from_slice(&header), self.reply.slice(LIST_HEADER..end), sent),
        }
    }
}

/// A list as a whole reply in a dialect that has its lists as strings.
#[derive(Debug)]
pub(crate) struct Strings {
    pub(crate) reply: Bytes,
    _budget: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct UserList {
    revision: String,
    rendered: Arc<Rendered>,
}

/// Renders lists, and keeps the last list of users. While nobody comes or goes, the registry only
/// confirms that this list is current, and sends no entries.
#[derive(Debug)]
pub(crate) struct Lists {
    budget: Arc<Semaphore>,
    /// The places of those that fetch a list of files.
    fetching: Semaphore,
    users: Mutex<Arc<UserList>>,
    /// The place of the request that fetches a list of users of several pages.
    making: sync::Mutex<()>,
}

impl Default for Lists {
    fn default() -> Self {
        let users = UserList { revision: String::new(), rendered: Self::empty() };
        Self {
            budget: Arc::new(Semaphore::new(BUDGET / UNIT)),
            fetching: Semaphore::new(FETCHED),
            users: Mutex::new(Arc::new(users)),
            making: sync::Mutex::default(),
        }
    }
}

impl Lists {
    /// The list of the connected users, as the user `username` asks for it, and the dialect that was
    /// noted for that user. `ask` asks the registry.
    ///
    /// One request at a time fetches a new list of several pages. The others ask again afterwards, because the list
    /// has to be as new as their requests, and mostly hear that the new list is current. A request that must wait drops
    /// its pages first: all pages come through one connection, whose window unread pages would fill.
    pub(crate) async fn users<F>(
        &self,
        ask: impl Fn(ListSessionsRequest) -> F,
        username: String,
    ) -> Result<(Arc<Rendered>, Option<Dialect>), NotDone>
    where
        F: Future<Output = Result<Pages<ListSessionsResponse>, Status>>,
    {
        let (mut making, mut reserved) = (None, None);
        let (mut pages, first, dialect, budget) = loop {
            let known = Arc::clone(&self.users.lock());
            let (username, known_revision) = (username.clone(), known.revision.clone());
            let mut pages = ask(ListSessionsRequest { username, known_revision, page_size: 0 }).await?;
            let first = pages.try_next().await?.ok_or_else(cut_short)?;
            let dialect = Dialect::from_name(&first.dialect);
            if first.not_modified {
                return Ok((Arc::clone(&known.rendered), dialect));
            }
            if making.is_none() && (first.sessions.len() as u64) < u64::from(first.total) {
                making = self.making.try_lock().ok();
                if making.is_none() {
                    drop(pages);
                    making = Some(self.making.lock().await);
                    continue;
                }
            }
            if let Some((pages, budget)) = self.room(pages, first.total, USER_ENTRY, &mut reserved).await? {
                break (pages, first, dialect, budget);
            }
        };
        let (total, revision) = (first.total, first.revision);
        let mut entries = buffer(total, USER_ENTRY);
        let mut page = first.sessions;
        loop {
            for session in page {
                let endpoint = session.endpoint.unwrap_or_default();
                let port = u16::try_from(endpoint.port).unwrap_or_default();
                push_user(&session.username, Ipv4Addr::from_bits(endpoint.ipv4), port, &mut entries);
            }
            match pages.try_next().await? {
                Some(next) => page = next.sessions,
                None => break,
            }
        }
        let rendered = Arc::new(finish(total, USER_ENTRY, entries, budget)?);
        *self.users.lock() = Arc::new(UserList { revision, rendered: Arc::clone(&rendered) });
        Ok((rendered, dialect))
    }

    /// The list of the files that a session has published. `ask` asks the catalog. As in [`Self::users`], a request
    /// that must wait drops its pages first.
    pub(crate) async fn files<F>(
        &self,
        ask: impl Fn(ListFilesRequest) -> F,
        session_id: String,
    ) -> Result<Arc<Rendered>, NotDone>
    where
        F: Future<Output = Result<Pages<ListFilesResponse>, Status>>,
    {
        // The semaphore is never closed.
        let _place = self.fetching.acquire().await.map_err(|_| NotDone(Outcome::Failed))?;
        let mut reserved = None;
        let (mut pages, first, budget) = loop {
            let session_id = session_id.clone();
            let mut pages = ask(ListFilesRequest { session_id, page_size: 0 }).await?;
            let first = pages.try_next().await?.ok_or_else(cut_short)?;
            if let Some((pages, budget)) = self.room(pages, first.total, FILE_ENTRY, &mut reserved).await? {
                break (pages, first, budget);
            }
        };
        let total = first.total;
        let mut entries = buffer(total, FILE_ENTRY);
        let mut page = first.files;
        loop {
            for file in page {
                push_file(&file.filename, &file.description, &mut entries);
            }
            match pages.try_next().await? {
                Some(next) => page = next.files,
                None => break,
            }
        }
        Ok(Arc::new(finish(total, FILE_ENTRY, entries, budget)?))
    }

    /// A list in a dialect that has its lists as strings; `None` for any other dialect.
    pub(crate) async fn strings(
        &self,
        dialect: Dialect,
        operation: Operation,
        list: &Rendered,
    ) -> Result<Option<Strings>, NotDone> {
        if dialect.fixed().is_some() {
            return Ok(None);
        }
        // Strings are never longer than the fields of fixed width that hold them.
        let budget = self.reserve(list.count, list.reply.len()).await?;
        Ok(dialect
            .list(operation, list.entries())
            .map(|reply| Strings { reply: reply.into(), _budget: budget }))
    }

    /// The list without entries.
    pub(crate) fn empty() -> Arc<Rendered> {
        Arc::new(Rendered::new(0, vec![0; LIST_HEADER], None))
    }

    /// Takes the budget for a list of `total` entries, whose first page has come, and gives the pages back. If so much
    /// is not left, drops the pages, waits until the budget is `reserved`, and gives `None`: the list has to be asked
    /// for again, and may be longer by then.
    async fn room<P>(
        &self,
        pages: P,
        total: u32,
        entry: usize,
        reserved: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Option<(P, OwnedSemaphorePermit)>, NotDone> {
        let bytes = size(total, entry);
        let units = units(total, bytes)?;
        let enough = reserved.take().filter(|reserved| reserved.num_permits() >= units as usize);
        let now = || Arc::clone(&self.budget).try_acquire_many_owned(units).ok();
        if let Some(budget) = enough.or_else(now) {
            return Ok(Some((pages, budget)));
        }
        drop(pages);
        *reserved = Some(self.reserve(total, bytes).await?);
        Ok(None)
    }

    /// Takes `bytes` of the budget for a list of `total` entries. Waits until that much is left.
    async fn reserve(&self, total: u32, bytes: usize) -> Result<OwnedSemaphorePermit, NotDone> {
        let permit = Arc::clone(&self.budget).acquire_many_owned(units(total, bytes)?).await;
        // The semaphore is never closed.
        permit.map_err(|_| NotDone(Outcome::Failed))
    }
}

/// The size of the reply with a list of `total` entries, in bytes.
fn size(total: u32, entry: usize) -> usize {
    LIST_HEADER + total as usize * entry
}

/// A buffer for a list of `total` entries, with room for the header at its beginning.
fn buffer(total: u32, entry: usize) -> Vec<u8> {
    let mut reply = Vec::with_capacity(size(total, entry));
    reply.resize(LIST_HEADER, 0);
    reply
}

/// How much of the budget a list of `total` entries and `bytes` bytes takes. Refuses a list that never fits.
fn units(total: u32, bytes: usize) -> Result<u32, NotDone> {
    if bytes > BUDGET {
        if let Some(suppressed) = TOO_LARGE.admit() {
            tracing::warn!(entries = total, suppressed, "a list is larger than the memory for lists");
        }
        return Err(NotDone(Outcome::Failed));
    }
    Ok(u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX))
}

fn cut_short() -> Status {
    Status::data_loss("a list ended before all its entries came")
}

fn finish(
    total: u32,
    entry: usize,
    entries: Vec<u8>,
    budget: OwnedSemaphorePermit,
) -> Result<Rendered, Status> {
    if entries.len() != size(total, entry) {
        return Err(cut_short());
    }
    Ok(Rendered::new(total, entries, Some(budget)))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::{StreamExt as _, stream};
    use lonja_proto::{
        catalog::File,
        registry::{Endpoint, Session},
    };

    use super::*;

    /// A registry that answers every ListSessions with these pages, unless the caller knows the
    /// revision, and counts the answers with sessions.
    #[derive(Debug, Clone, Default)]
    struct Registry {
        pages: Arc<Mutex<Vec<ListSessionsResponse>>>,
        full_answers: Arc<Mutex<usize>>,
    }

    impl Registry {
        fn set(&self, revision: &str, pages: &[&[&str]]) {
            let total = pages.iter().map(|page| page.len()).sum::<usize>() as u32;
            let session = |username: &&str| Session {
                username: (*username).to_owned(),
                endpoint: Some(Endpoint { ipv4: 0x7f00_0001, port: 50_085 }),
                opened_at_ms: 0,
            };
            let page = |page: &&[&str]| ListSessionsResponse {
                revision: revision.to_owned(),
                total,
                sessions: page.iter().map(session).collect(),
                dialect: "text".to_owned(),
                ..Default::default()
            };
            *self.pages.lock() = pages.iter().map(page).collect();
        }

        /// Answers as the registry does.
        async fn list_sessions(
            &self,
            asked: ListSessionsRequest,
        ) -> Result<Pages<ListSessionsResponse>, Status> {
            let mut pages = self.pages.lock().clone();
            if pages[0].revision == asked.known_revision {
                pages.truncate(1);
                pages[0].sessions.clear();
                pages[0].not_modified = true;
            } else {
                *self.full_answers.lock() += 1;
            }
            Ok(Box::pin(stream::iter(pages.into_iter().map(Ok))))
        }
    }

    async fn users(lists: &Lists, registry: &Registry) -> Result<Arc<Rendered>, NotDone> {
        lists.users(|asked| registry.list_sessions(asked), "alice".to_owned()).await.map(|(list, _)| list)
    }

    #[tokio::test]
    async fn a_list_of_several_pages_is_one_reply() {
        let registry = Registry::default();
        registry.set("1", &[&["alice", "bob"], &["carol"]]);
        let lists = Lists::default();
        let (list, dialect) =
            lists.users(|asked| registry.list_sessions(asked), "alice".to_owned()).await.unwrap();
        assert_eq!((list.count(), dialect), (3, Some(Dialect::Text)));
        let (head, body, sent) = list.reply(Encoding::Terminated);
        assert_eq!((&head[..5], head.len(), body.len(), sent), (&b"00003"[..], 5 + 3 * USER_ENTRY, 0, 3));
        let (head, body, sent) = list.reply(Encoding::Padded);
        assert_eq!((&head[..], body.len(), sent), (&b"0\0\0\0\x03"[..], 3 * USER_ENTRY, 3));
        let strings = lists.strings(Dialect::Names, Operation::ListUsers, &list).await.unwrap().unwrap();
        assert_eq!(strings.reply, "03\0alice\0bob\0carol\0");
        assert!(lists.strings(Dialect::Char, Operation::ListUsers, &list).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_list_that_is_current_is_not_sent_again() {
        let registry = Registry::default();
        let lists = Lists::default();
        registry.set("1", &[&["alice"]]);
        let first = users(&lists, &registry).await.unwrap();
        for _ in 0..3 {
            assert!(Arc::ptr_eq(&first, &users(&lists, &registry).await.unwrap()));
        }
        assert_eq!(*registry.full_answers.lock(), 1);
        registry.set("2", &[&["alice", "bob"]]);
        assert_eq!(users(&lists, &registry).await.unwrap().count(), 2);
        assert_eq!(*registry.full_answers.lock(), 2);
    }

    #[tokio::test]
    async fn a_list_that_ends_early_is_no_list() {
        let registry = Registry::default();
        registry.set("1", &[&["alice", "bob"]]);
        registry.pages.lock()[0].total = 3;
        let lists = Lists::default();
        assert_eq!(users(&lists, &registry).await.unwrap_err(), NotDone(Outcome::Failed));
        // The half list was not kept.
        registry.set("1", &[&["alice", "bob"]]);
        assert_eq!(users(&lists, &registry).await.unwrap().count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_are_held_are_bounded_and_the_next_one_waits() {
        let lists = Lists::default();
        let first = lists.reserve(1, BUDGET / 2).await.unwrap();
        let _second = lists.reserve(1, BUDGET / 2).await.unwrap();
        let soon = Duration::from_secs(1);
        assert!(tokio::time::timeout(soon, lists.reserve(1, BUDGET / 2)).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(soon, lists.reserve(1, BUDGET / 2)).await.is_ok());
    }

    /// Bug: lists that waited for memory left their pages unread. These filled the window of the connection through
    /// which the pages of those had to come that had the memory, so that nobody got a list.
    #[tokio::test(start_paused = true)]
    async fn a_list_that_waits_for_memory_has_no_pages_open() {
        let lists = Lists::default();
        let open = Arc::new(());
        let ask = |_| {
            let open = Arc::clone(&open);
            let page = ListFilesResponse { total: 1, files: vec![File::default()] };
            let pages = stream::iter([Ok(page)]).inspect(move |_| assert!(Arc::strong_count(&open) > 1));
            async move { Ok(Box::pin(pages) as Pages<ListFilesResponse>) }
        };
        let all = lists.reserve(1, BUDGET).await.unwrap();
        let list = lists.files(ask, String::new());
        tokio::pin!(list);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut list).await.is_err());
        assert_eq!(Arc::strong_count(&open), 1);
        drop(all);
        assert_eq!(list.await.unwrap().count(), 1);
    }

    /// Bug: when a long list had changed, each request that waited fetched the whole list, and where that took longer
    /// than the requests had time, nobody ever kept a list.
    #[tokio::test(start_paused = true)]
    async fn one_request_fetches_a_long_list_for_all() {
        let registry = Registry::default();
        registry.set("1", &[&["alice"], &["bob"], &["carol"]]);
        let (registry, lists, whole) = (&registry, &Lists::default(), &Arc::new(AtomicUsize::new(0)));
        let ask = |asked| async move {
            let whole = Arc::clone(whole);
            let pages = registry.list_sessions(asked).await?.then(move |page| {
                let is_last =
                    page.as_ref().is_ok_and(|page| page.sessions.iter().any(|one| one.username == "carol"));
                whole.fetch_add(usize::from(is_last), Ordering::Relaxed);
                async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    page
                }
            });
            Ok(Box::pin(pages) as Pages<ListSessionsResponse>)
        };
        let asked = (0..50).map(|_| lists.users(ask, "alice".to_owned()));
        for list in futures_util::future::join_all(asked).await {
            assert_eq!(list.unwrap().0.count(), 3);
        }
        assert_eq!(whole.load(Ordering::Relaxed), 1);
    }

    /// Bug: each request for a long list of files had the list in memory while it waited for the budget.
    #[tokio::test(start_paused = true)]
    async fn a_bounded_number_of_lists_of_files_is_fetched_at_one_time() {
        let lists = Lists::default();
        let (now, most) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
        let catalog = |_| async move {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            let pages: Pages<ListFilesResponse> =
                Box::pin(stream::iter([Ok(ListFilesResponse { total: 0, files: Vec::new() })]));
            Ok(pages)
        };
        let fetched = (0..3 * FETCHED).map(|_| lists.files(catalog, String::new()));
        let fetched = futures_util::future::join_all(fetched).await;
        assert!(fetched.iter().all(Result::is_ok));
        assert_eq!(most.load(Ordering::Relaxed), FETCHED);
    }

    #[tokio::test]
    async fn a_list_that_never_fits_is_refused_at_once() {
        let lists = Lists::default();
        assert_eq!(lists.reserve(1, BUDGET + 1).await.err(), Some(NotDone(Outcome::Failed)));
        let entries = u32::try_from(BUDGET / FILE_ENTRY + 1).unwrap();
        let room = lists.room((), entries, FILE_ENTRY, &mut None).await;
        assert_eq!(room.err(), Some(NotDone(Outcome::Failed)));
    }
}
