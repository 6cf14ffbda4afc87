//! Everything that the index keeps, while the index goes on.
//!
//! Registry, catalog and audit are asked one after the other, and users come and go meanwhile. What is
//! given of a user is nevertheless as the user was at one moment: a list of files counts only if its
//! session was still open afterwards. The audit is asked last, because operations are recorded a moment after
//! they are carried out.

use std::{collections::HashSet, iter, mem, net::Ipv4Addr, slice, sync::Arc, vec};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lonja_chassis::service::Backends;
use lonja_proto::{
    audit,
    catalog::{File, ListFilesRequest},
    console::{
        ExportIndexResponse, ExportedEntry, ExportedFile, ExportedSession, ExportedUser,
        exported_entry::Entry,
    },
    registry::{
        self, FindEndedSessionsRequest, IdentifiedSession, ListUsersRequest, RegisteredUser, SessionKey,
    },
};
use parking_lot::Mutex;
use tonic::Status;

use crate::{
    backend::{in_time, pages_in_time},
    users::address,
    watch::Answers,
};

/// The number of sessions whose files are read before it is asked whether the sessions are still open.
const SESSIONS: usize = 64;
/// The number of lists of files that are read at one time.
const LISTS: usize = 8;
/// How often a user whose sessions keep ending is looked at.
const ATTEMPTS: usize = 100;
/// The largest number of entries in a page, which stays far below the 4 MiB of a message.
const ENTRIES: usize = 1024;

/// Gives every user with the user's files, then every recorded operation. `held`, such as a permit, is dropped
/// when all users have been given.
pub fn export(backend: Backends, held: impl Send + 'static) -> Answers<ExportIndexResponse> {
    let users = stream::once(users(backend.clone())).try_flatten().map(move |page| {
        let _until_the_last_user = &held;
        page
    });
    let operations = stream::once(operations(backend)).try_flatten();
    Box::pin(users.chain(operations))
}

async fn users(backend: Backends) -> Result<Answers<ExportIndexResponse>, Status> {
    let request = ListUsersRequest::default();
    let pages = in_time("registry", backend.registry.list_users(request)).await?;
    let pages = pages_in_time("registry", pages);
    let parts =
        pages.map_ok(|page| stream::iter(page.users.into_iter().map(Ok))).try_flatten().try_chunks(SESSIONS);
    let parts = parts.map_err(|error| error.1);
    // Users who have connected again meanwhile come last, where the list of users has them by now.
    let later = Arc::new(Mutex::new(Vec::new()));
    let noted = (backend.clone(), Arc::clone(&later));
    let parts = parts.and_then(move |users| described(noted.0.clone(), users, Arc::clone(&noted.1)));
    let pages = parts.map_ok(|entries| stream::iter(pages_of(entries.into_iter()))).try_flatten();
    let last =
        stream::once(async move { Ok::<_, Status>(Again::pages(backend, mem::take(&mut *later.lock()))) });
    Ok(Box::pin(pages.chain(last.try_flatten())))
}

/// Users who are looked at again, to be given in the order in which they have connected.
struct Again {
    backend: Backends,
    left: vec::IntoIter<String>,
    /// When the users connected who were looked at, and their names.
    found: Vec<(Option<i64>, String)>,
    /// The users who are still to be given with their files, once all were looked at.
    sorted: Option<vec::IntoIter<String>>,
}

type Page = Result<ExportIndexResponse, Status>;

impl Again {
    /// The pages of these users. Empty pages come first, which show the caller that the export goes on.
    fn pages(backend: Backends, usernames: Vec<String>) -> Answers<ExportIndexResponse> {
        let again = Self { backend, left: usernames.into_iter(), found: Vec::new(), sorted: None };
        Box::pin(stream::try_unfold(again, Self::next).map_ok(stream::iter).try_flatten())
    }

    async fn next(mut self) -> Result<Option<(Vec<Page>, Self)>, Status> {
        let Some(sorted) = &mut self.sorted else { return self.look().await.map(Some) };
        let part: Vec<_> = sorted.take(SESSIONS).collect();
        if part.is_empty() {
            return Ok(None);
        }
        let users = stream::iter(part).map(|username| as_of_now(&self.backend, username)).buffered(LISTS);
        let users: Vec<_> = users.try_collect().await?;
        let entries = users.into_iter().flatten().flat_map(Described::entries);
        Ok(Some((pages_of(entries).collect(), self)))
    }

    /// Looks at some users, or sorts the users when all were looked at.
    async fn look(mut self) -> Result<(Vec<Page>, Self), Status> {
        let part: Vec<_> = self.left.by_ref().take(SESSIONS).collect();
        if part.is_empty() {
            self.found.sort();
            let sorted: Vec<_> =
                mem::take(&mut self.found).into_iter().map(|(_, username)| username).collect();
            self.sorted = Some(sorted.into_iter());
        }
        let users = stream::iter(part).map(|username| registered(&self.backend, username)).buffered(LISTS);
        let users: Vec<_> = users.try_collect().await?;
        self.found.extend(users.into_iter().flatten().map(|user| (opened_at_ms(&user), user.username)));
        Ok((vec![Ok(ExportIndexResponse::default())], self))
    }
}

fn opened_at_ms(user: &RegisteredUser) -> Option<i64> {
    Some(user.session.as_ref()?.session.as_ref()?.opened_at_ms)
}

/// A user with the files of the user's session.
struct Described {
    user: RegisteredUser,
    files: Vec<ExportedFile>,
}

impl Described {
    fn session(&self) -> Option<&str> {
        self.user.session.as_ref().map(|session| session.session_id.as_str())
    }

    fn entries(self) -> impl Iterator<Item = Entry> {
        iter::once(Entry::User(exported(self.user))).chain(self.files.into_iter().map(Entry::File))
    }
}

/// The entries of some users. Users whose sessions have ended meanwhile are left for `later`.
async fn described(
    backend: Backends,
    users: Vec<RegisteredUser>,
    later: Arc<Mutex<Vec<String>>>,
) -> Result<Vec<Entry>, Status> {
    let with_files = stream::iter(users).map(|user| with_files(&backend, user)).buffered(LISTS);
    let users: Vec<Described> = with_files.try_collect().await?;
    let ended = ended(&backend, &users).await?;
    let is_over = |one: &Described| one.session().is_some_and(|session| ended.contains(session));
    let (over, open): (Vec<_>, Vec<_>) = users.into_iter().partition(is_over);
    later.lock().extend(over.into_iter().map(|one| one.user.username));
    Ok(open.into_iter().flat_map(Described::entries).collect())
}

async fn with_files(backend: &Backends, user: RegisteredUser) -> Result<Described, Status> {
    let Some(session) = &user.session else { return Ok(Described { user, files: Vec::new() }) };
    let request = ListFilesRequest { session_id: session.session_id.clone(), page_size: 0 };
    let mut pages = in_time("catalog", backend.catalog.list_files(request)).await?;
    let mut files = Vec::new();
    while let Some(page) = in_time("catalog", pages.try_next()).await? {
        let exported = |File { filename, description }| ExportedFile { filename, description };
        files.extend(page.files.into_iter().map(exported));
    }
    Ok(Described { user, files })
}

/// Which of the users' sessions are over.
async fn ended(backend: &Backends, users: &[Described]) -> Result<HashSet<String>, Status> {
    let key = |one: &Described| {
        let session_id = one.session()?.to_owned();
        Some(SessionKey { username: one.user.username.clone(), session_id })
    };
    let sessions: Vec<_> = users.iter().filter_map(key).collect();
    if sessions.is_empty() {
        return Ok(HashSet::new());
    }
    let ended = backend.registry.find_ended_sessions(FindEndedSessionsRequest { sessions });
    Ok(in_time("registry", ended).await?.ended_session_ids.into_iter().collect())
}

/// A user whose session has ended meanwhile, as the user is now; `None` if the user has gone.
async fn as_of_now(backend: &Backends, username: String) -> Result<Option<Described>, Status> {
    for _ in 0..ATTEMPTS {
        let Some(user) = registered(backend, username.clone()).await? else { return Ok(None) };
        let now = with_files(backend, user).await?;
        if ended(backend, slice::from_ref(&now)).await?.is_empty() {
            return Ok(Some(now));
        }
    }
    Err(Status::aborted(format!("registry: a user's sessions change too fast: {}", username.escape_debug())))
}

/// A user as the registry has the user now; `None` if the user has gone.
async fn registered(backend: &Backends, username: String) -> Result<Option<RegisteredUser>, Status> {
    let request = ListUsersRequest { username: username.clone() };
    let mut pages = in_time("registry", backend.registry.list_users(request)).await?;
    // An older registry gives every user, in several pages.
    while let Some(page) = in_time("registry", pages.try_next()).await? {
        if let Some(user) = page.users.into_iter().find(|user| user.username == username) {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

fn exported(user: RegisteredUser) -> ExportedUser {
    let owner = if user.owner == 0 { String::new() } else { Ipv4Addr::from_bits(user.owner).to_string() };
    let dialect = user.dialect;
    let session = user.session.map(|IdentifiedSession { session_id, session }| {
        let registry::Session { endpoint, opened_at_ms, .. } = session.unwrap_or_default();
        ExportedSession { session_id, address: address(endpoint), opened_at_ms, dialect }
    });
    ExportedUser { username: user.username, session, owner }
}

async fn operations(backend: Backends) -> Result<Answers<ExportIndexResponse>, Status> {
    let request = audit::ListOperationsRequest::default();
    let pages = in_time("audit", backend.audit.list_operations(request)).await?;
    let pages = pages_in_time("audit", pages).map_ok(|page| {
        let entries = page.records.into_iter().map(|record| entry(Entry::Operation(record)));
        ExportIndexResponse { entries: entries.collect() }
    });
    Ok(Box::pin(pages))
}

fn pages_of(entries: impl Iterator<Item = Entry>) -> impl Iterator<Item = Page> {
    let mut entries = entries.map(entry);
    iter::from_fn(move || {
        let entries: Vec<_> = entries.by_ref().take(ENTRIES).collect();
        (!entries.is_empty()).then_some(Ok(ExportIndexResponse { entries }))
    })
}

fn entry(entry: Entry) -> ExportedEntry {
    ExportedEntry { entry: Some(entry) }
}
