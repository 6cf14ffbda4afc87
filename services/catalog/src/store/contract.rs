//! What every store must do, as tests. Each store runs these tests with `suite!`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lonja_proto::{Failure, Reason, SessionId};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{Cursor, File, FileChange, Listed, Statistics, Store};
use crate::search::{Search, SearchQuery};

/// The largest number of files of a session in the stores under test.
pub(crate) const MAX_FILES: usize = 1000;

/// Makes a test of each rule. `$open` gives a fresh store and whatever keeps it alive.
macro_rules! suite {
    ($open:expr) => {
        lonja_chassis::contract_suite!($open;
            a_file_is_published_once,
            files_are_listed_in_order_of_publishing,
            sessions_do_not_see_each_other,
            an_ended_session_is_empty_and_stays_so,
            ending_is_repeatable_and_needs_no_files,
            publishing_sessions_are_listed,
            a_session_cannot_grow_without_bound,
            one_of_many_racing_publishers_wins,
            nothing_is_lost_when_many_write,
            changes_are_told_in_order,
            search_sees_what_comes_and_goes,
            search_sees_each_change_in_time,
            search_sees_what_was_there_before_and_came_meanwhile,
            search_is_whole_after_the_store_failed,
        );
    };
}
pub(crate) use suite;

pub(crate) fn file(name: &str) -> File {
    File { filename: name.to_owned(), description: format!("about {name}") }
}

fn refused<T>(reason: Reason) -> Result<T, Failure> {
    Err(Failure::Refused(reason))
}

/// The session's files, without the order of each.
pub(crate) async fn files(store: &impl Store, session: SessionId) -> Vec<File> {
    store.list(session).await.unwrap().into_iter().map(|listed| listed.file).collect()
}

async fn names(store: &impl Store, session: SessionId) -> Vec<String> {
    files(store, session).await.into_iter().map(|file| file.filename).collect()
}

pub(crate) async fn a_file_is_published_once(store: impl Store) {
    let session = SessionId::fresh();
    assert_eq!(store.publish(session, "alice", file("a")).await, Ok(()));
    let other = File { description: "another".to_owned(), ..file("a") };
    assert_eq!(store.publish(session, "alice", other).await, refused(Reason::FileExists));
    assert_eq!(files(&store, session).await, [file("a")]);
    assert_eq!(store.has(session, "a").await, Ok(true));
    assert_eq!(store.has(session, "b").await, Ok(false));
    assert_eq!(store.has(SessionId::fresh(), "a").await, Ok(false));
    assert_eq!(store.delete(session, "a").await, Ok(()));
    assert_eq!(store.has(session, "a").await, Ok(false));
    assert_eq!(store.delete(session, "a").await, refused(Reason::FileNotFound));
    assert_eq!(store.publish(session, "alice", file("a")).await, Ok(()));
    assert_eq!(store.statistics().await, Ok(Statistics { sessions: 1, files: 1 }));
}

pub(crate) async fn files_are_listed_in_order_of_publishing(store: impl Store) {
    let session = SessionId::fresh();
    for name in ["z", "a", "m"] {
        store.publish(session, "alice", file(name)).await.unwrap();
    }
    store.delete(session, "z").await.unwrap();
    store.publish(session, "alice", file("z")).await.unwrap();
    assert_eq!(names(&store, session).await, ["a", "m", "z"]);
}

pub(crate) async fn sessions_do_not_see_each_other(store: impl Store) {
    let (first, second) = (SessionId::fresh(), SessionId::fresh());
    store.publish(first, "alice", file("a")).await.unwrap();
    assert!(names(&store, second).await.is_empty());
    assert_eq!(store.publish(second, "alice", file("a")).await, Ok(()));
    store.end_session(first).await.unwrap();
    assert_eq!(names(&store, second).await, ["a"]);
}

pub(crate) async fn an_ended_session_is_empty_and_stays_so(store: impl Store) {
    let session = SessionId::fresh();
    store.publish(session, "alice", file("a")).await.unwrap();
    assert_eq!(store.end_session(session).await, Ok(()));
    assert!(names(&store, session).await.is_empty());
    assert_eq!(store.publish(session, "alice", file("b")).await, refused(Reason::SessionEnded));
    assert_eq!(store.delete(session, "a").await, refused(Reason::SessionEnded));
    assert!(names(&store, session).await.is_empty());
    assert_eq!(store.statistics().await, Ok(Statistics { sessions: 0, files: 0 }));
}

pub(crate) async fn ending_is_repeatable_and_needs_no_files(store: impl Store) {
    let session = SessionId::fresh();
    assert_eq!(store.end_session(session).await, Ok(()));
    assert_eq!(store.end_session(session).await, Ok(()));
    assert_eq!(store.publish(session, "alice", file("a")).await, refused(Reason::SessionEnded));
}

pub(crate) async fn publishing_sessions_are_listed(store: impl Store) {
    let (first, second, ended) = (SessionId::fresh(), SessionId::fresh(), SessionId::fresh());
    for (session, username) in [(first, "alice"), (second, "bob"), (ended, "carol")] {
        store.publish(session, username, file("a")).await.unwrap();
    }
    store.end_session(ended).await.unwrap();
    let mut sessions = store.sessions().await.unwrap();
    sessions.sort();
    let mut expected = [(first, "alice".to_owned()), (second, "bob".to_owned())];
    expected.sort();
    assert_eq!(sessions, expected);
}

pub(crate) async fn a_session_cannot_grow_without_bound(store: impl Store) {
    let store = Arc::new(store);
    let session = SessionId::fresh();
    let publishers: Vec<_> = (0..MAX_FILES + 20)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.publish(session, "alice", file(&number.to_string())).await })
        })
        .collect();
    let mut refusals = 0;
    for publisher in publishers {
        match publisher.await.unwrap() {
            Ok(()) => {}
            other => {
                assert_eq!(other, refused(Reason::TooManyFiles));
                refusals += 1;
            }
        }
    }
    assert_eq!(refusals, 20);
}

pub(crate) async fn one_of_many_racing_publishers_wins(store: impl Store) {
    let store = Arc::new(store);
    let session = SessionId::fresh();
    let racers: Vec<_> = (0..32)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.publish(session, "alice", file("a")).await })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(()) => winners += 1,
            other => assert_eq!(other, refused(Reason::FileExists)),
        }
    }
    assert_eq!(winners, 1);
}

pub(crate) async fn nothing_is_lost_when_many_write(store: impl Store) {
    let store = Arc::new(store);
    let session = SessionId::fresh();
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0..10 {
                    store.publish(session, "alice", file(&format!("{writer}-{round}"))).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let names = names(&*store, session).await;
    assert_eq!(names.len(), 640);
    for writer in 0..64 {
        let prefix = format!("{writer}-");
        let own: Vec<_> = names.iter().filter_map(|name| name.strip_prefix(&prefix)).collect();
        assert_eq!(own, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    }
}

pub(crate) async fn changes_are_told_in_order(store: impl Store) {
    let (session, ended) = (SessionId::fresh(), SessionId::fresh());
    store.publish(session, "alice", file("before")).await.unwrap();
    let start = store.newest().await.unwrap();
    store.publish(session, "alice", file("a")).await.unwrap();
    store.delete(session, "a").await.unwrap();
    store.publish(session, "alice", file("a")).await.unwrap();
    store.publish(ended, "bob", file("b")).await.unwrap();
    store.end_session(ended).await.unwrap();

    let (mut seen, mut cursor) = (Vec::new(), start.clone());
    loop {
        let (changes, behind) = store.changes(&cursor).await.unwrap().expect("all are known");
        if behind == cursor {
            break;
        }
        seen.extend(changes);
        cursor = behind;
    }
    assert!(start.is_before(&cursor) && !cursor.is_before(&start));
    let tell = |of: SessionId| {
        let told = seen.iter().filter_map(move |change| match change {
            FileChange::Published(session, user, listed) if *session == of => {
                Some(format!("{user} +{}", listed.file.filename))
            }
            FileChange::Deleted(session, filename) if *session == of => Some(format!("-{filename}")),
            FileChange::Ended(session) if *session == of => Some("ended".to_owned()),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(tell(session), ["alice +a", "-a", "alice +a"]);
    assert_eq!(tell(ended), ["bob +b", "ended"]);
    let orders = seen.iter().filter_map(|change| match change {
        FileChange::Published(of, _, listed) if *of == session => Some(listed.order),
        _ => None,
    });
    assert!(orders.collect::<Vec<_>>().is_sorted(), "{seen:?}");
}

/// Searches until `count` files match, and gives the filenames, newest first.
async fn found(
    search: &Search<impl Store>,
    text: &str,
    session: Option<SessionId>,
    count: usize,
) -> Vec<String> {
    let query = SearchQuery { text: text.to_owned(), session, offset: 0, limit: 1000 };
    let search = async {
        loop {
            if let Ok((_, page)) = search.search(query.clone()).await
                && page.total == count as u64
            {
                return page.found.into_iter().map(|found| found.file.filename).collect();
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = time::timeout(Duration::from_secs(20), search).await;
    found.unwrap_or_else(|_| panic!("{text:?} does not find {count} files"))
}

pub(crate) async fn search_sees_what_comes_and_goes(store: impl Store) {
    let (search, follower) = Search::new(store.clone());
    let following = tokio::spawn(follower.run(CancellationToken::new()));
    let (first, second) = (SessionId::fresh(), SessionId::fresh());
    found(&search, "", None, 0).await;
    for name in ["Holiday_photos.zip", "holiday plans.txt", "notes.txt"] {
        store.publish(first, "alice", file(name)).await.unwrap();
    }
    // Some systems write a letter with an accent as the letter and then its accent.
    store.publish(second, "A\u{301}lvaro", file("holiday music.mp3")).await.unwrap();
    assert_eq!(
        found(&search, "holi", None, 3).await,
        ["holiday music.mp3", "holiday plans.txt", "Holiday_photos.zip"]
    );
    assert_eq!(found(&search, "HOLIDAY txt", None, 1).await, ["holiday plans.txt"]);
    assert_eq!(found(&search, "alvaro", None, 1).await, ["holiday music.mp3"]);
    assert_eq!(found(&search, "holiday", Some(first), 2).await.len(), 2);
    assert_eq!(found(&search, "ÓLIDAY_p", None, 1).await, ["Holiday_photos.zip"]);

    let revision = search.revision().await.unwrap();
    store.delete(first, "notes.txt").await.unwrap();
    store.end_session(second).await.unwrap();
    assert_eq!(found(&search, "", None, 2).await, ["holiday plans.txt", "Holiday_photos.zip"]);
    assert_ne!(search.revision().await.unwrap(), revision);
    following.abort();
}

pub(crate) async fn search_sees_each_change_in_time(store: impl Store) {
    async fn in_time<S: Store>(search: &Search<S>, _: &S, text: &str) -> u64 {
        time::sleep(S::MAX_LAG).await;
        let query = SearchQuery { text: text.to_owned(), session: None, offset: 0, limit: 1 };
        search.search(query).await.unwrap().1.total
    }
    let (search, follower) = Search::new(store.clone());
    let following = tokio::spawn(follower.run(CancellationToken::new()));
    found(&search, "", None, 0).await;
    let session = SessionId::fresh();
    for round in 0..10 {
        let name = format!("report {round}.pdf");
        store.publish(session, "alice", file(&name)).await.unwrap();
        assert_eq!(in_time(&search, &store, "EPORT").await, 1);
        store.delete(session, &name).await.unwrap();
        assert_eq!(in_time(&search, &store, "EPORT").await, 0);
    }
    following.abort();
}

pub(crate) async fn search_sees_what_was_there_before_and_came_meanwhile(store: impl Store) {
    let sessions: Vec<_> = (0..50).map(|_| SessionId::fresh()).collect();
    for session in &sessions {
        store.publish(*session, "alice", file("kept")).await.unwrap();
        store.publish(*session, "alice", file("gone")).await.unwrap();
    }
    let (search, follower) = Search::new(store.clone());
    let following = tokio::spawn(follower.run(CancellationToken::new()));
    for session in &sessions {
        store.delete(*session, "gone").await.unwrap();
        store.publish(*session, "alice", file("new")).await.unwrap();
    }
    found(&search, "kept", None, 50).await;
    found(&search, "gone", None, 0).await;
    found(&search, "new", None, 50).await;
    found(&search, "", None, 100).await;
    following.abort();
}

/// A store that answers some calls with failures.
#[derive(Clone)]
struct Failing<S> {
    store: S,
    calls: Arc<AtomicU32>,
}

impl<S> Failing<S> {
    /// Fails one of every so many calls.
    fn one_of(&self, calls: u32) -> Result<(), Failure> {
        match self.calls.fetch_add(1, Ordering::Relaxed) % calls {
            0 => Err(Failure::unavailable("a failure of the test")),
            _ => Ok(()),
        }
    }
}

impl<S: Store> Store for Failing<S> {
    const MAX_LAG: Duration = S::MAX_LAG;

    async fn publish(&self, session: SessionId, username: &str, file: File) -> Result<(), Failure> {
        self.store.publish(session, username, file).await
    }

    async fn delete(&self, session: SessionId, filename: &str) -> Result<(), Failure> {
        self.store.delete(session, filename).await
    }

    async fn list(&self, session: SessionId) -> Result<Vec<Listed>, Failure> {
        self.one_of(13)?;
        self.store.list(session).await
    }

    async fn has(&self, session: SessionId, filename: &str) -> Result<bool, Failure> {
        self.store.has(session, filename).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), Failure> {
        self.store.end_session(session).await
    }

    async fn sessions(&self) -> Result<Vec<(SessionId, String)>, Failure> {
        self.store.sessions().await
    }

    async fn newest(&self) -> Result<Cursor, Failure> {
        self.store.newest().await
    }

    async fn changes(&self, from: &Cursor) -> Result<Option<(Vec<FileChange>, Cursor)>, Failure> {
        self.one_of(3)?;
        self.store.changes(from).await
    }

    async fn statistics(&self) -> Result<Statistics, Failure> {
        self.store.statistics().await
    }

    async fn is_ready(&self) -> bool {
        self.store.is_ready().await
    }

    fn is_restarting(&self) -> bool {
        self.store.is_restarting()
    }
}

pub(crate) async fn search_is_whole_after_the_store_failed(store: impl Store) {
    let sessions: Vec<_> = (0..4).map(|_| SessionId::fresh()).collect();
    for session in &sessions {
        store.publish(*session, "alice", file("kept")).await.unwrap();
    }
    let failing = Failing { store: store.clone(), calls: Arc::default() };
    let (search, follower) = Search::new(failing);
    let following = tokio::spawn(follower.run(CancellationToken::new()));
    // After each failure the index is made anew: nothing may be in the index twice.
    for name in ["first", "second"] {
        for session in &sessions {
            store.publish(*session, "alice", file(name)).await.unwrap();
            store.delete(*session, "kept").await.unwrap();
            store.publish(*session, "alice", file("kept")).await.unwrap();
        }
        found(&search, name, None, 4).await;
        found(&search, "kept", None, 4).await;
    }
    found(&search, "", None, 12).await;
    following.abort();
}
