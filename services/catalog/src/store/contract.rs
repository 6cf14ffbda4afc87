//! What every store must do, written once. A store's tests run it with `suite!`.

use std::sync::Arc;

use lonja_proto::{Failure, Reason, SessionId};

use super::{File, Statistics, Store};

/// The limit that the stores under test are to have.
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

async fn names(store: &impl Store, session: SessionId) -> Vec<String> {
    store.list(session).await.unwrap().into_iter().map(|file| file.filename).collect()
}

pub(crate) async fn a_file_is_published_once(store: impl Store) {
    let session = SessionId::fresh();
    assert_eq!(store.publish(session, "alice", file("a")).await, Ok(()));
    let other = File { description: "another".to_owned(), ..file("a") };
    assert_eq!(store.publish(session, "alice", other).await, refused(Reason::FileExists));
    assert_eq!(store.list(session).await, Ok(vec![file("a")]));
    assert_eq!(store.delete(session, "a").await, Ok(()));
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
