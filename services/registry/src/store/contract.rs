//! What every store must do, as tests. Each store runs these tests with `suite!`.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use lonja_proto::{Failure, Reason, SessionId, registry::CheckResult};

use super::{RemoteSession, Statistics, Store};
use crate::{
    check::Check,
    model::{Endpoint, Only, Session},
};

/// Makes a test of each rule. `$open` gives a fresh store and whatever keeps it alive.
macro_rules! suite {
    ($open:expr) => {
        lonja_chassis::contract_suite!($open;
            registration_is_exclusive,
            unregistering_ends_the_session,
            a_user_has_one_session_at_a_time,
            only_the_session_that_is_meant_ends,
            a_connected_user_is_one_of_the_sessions_address,
            an_owned_user_is_the_owners_until_freed,
            a_session_is_found_until_it_ends,
            a_noted_dialect_is_of_the_session,
            remote_sessions_are_for_connected_users,
            sessions_are_listed_in_order_of_opening,
            any_change_makes_another_revision,
            every_user_is_given_with_the_users_session,
            a_restored_session_is_as_it_was,
            checks_are_taken_once_in_an_interval,
            checks_are_of_the_session,
            ended_sessions_are_told_apart,
            one_of_many_racing_registrations_wins,
            nothing_is_lost_when_many_write,
        );
    };
}
pub(crate) use suite;

const ENDPOINT: Endpoint = Endpoint { address: Ipv4Addr::new(10, 0, 0, 7), port: 50085 };

fn refused<T>(reason: Reason) -> Result<T, Failure> {
    Err(Failure::Refused(reason))
}

async fn names(store: &impl Store) -> Vec<String> {
    let sessions = store.list(None, "").await.unwrap().sessions.unwrap();
    sessions.iter().map(|session| session.username.to_string()).collect()
}

async fn connect(store: &impl Store, username: &str) -> SessionId {
    store.register(username, None).await.unwrap();
    store.open_session(username, ENDPOINT, Only::Any).await.unwrap()
}

pub(crate) async fn registration_is_exclusive(store: impl Store) {
    assert_eq!(store.register("alice", None).await, Ok(()));
    assert_eq!(store.register("alice", None).await, refused(Reason::UserExists));
    assert_eq!(store.unregister("alice", Only::Any).await, Ok(None));
    assert_eq!(store.unregister("alice", Only::Any).await, refused(Reason::UserNotFound));
    assert_eq!(store.register("alice", None).await, Ok(()));
    assert_eq!(store.statistics().await, Ok(Statistics { users: 1, sessions: 0 }));
}

pub(crate) async fn unregistering_ends_the_session(store: impl Store) {
    let session = connect(&store, "alice").await;
    assert_eq!(store.unregister("alice", Only::Any).await, Ok(Some(session)));
    assert!(names(&store).await.is_empty());
    store.register("alice", None).await.unwrap();
    assert_eq!(store.session("alice", Only::Any).await, refused(Reason::SessionNotFound));
}

pub(crate) async fn a_user_has_one_session_at_a_time(store: impl Store) {
    assert_eq!(store.open_session("alice", ENDPOINT, Only::Any).await, refused(Reason::UserNotFound));
    let first = connect(&store, "alice").await;
    assert_eq!(store.open_session("alice", ENDPOINT, Only::Any).await, refused(Reason::SessionExists));
    assert_eq!(store.close_session("alice", Only::Any).await, Ok(first));
    assert_eq!(store.close_session("alice", Only::Any).await, refused(Reason::SessionNotFound));
    assert_eq!(store.close_session("bob", Only::Any).await, refused(Reason::UserNotFound));
    assert_ne!(store.open_session("alice", ENDPOINT, Only::Any).await, Ok(first));
}

pub(crate) async fn only_the_session_that_is_meant_ends(store: impl Store) {
    let first = connect(&store, "alice").await;
    store.close_session("alice", Only::Session(first)).await.unwrap();
    let second = store.open_session("alice", ENDPOINT, Only::Any).await.unwrap();
    assert_eq!(store.close_session("alice", Only::Session(first)).await, refused(Reason::SessionEnded));
    assert_eq!(store.unregister("alice", Only::Session(first)).await, refused(Reason::SessionEnded));
    assert_eq!(names(&store).await, ["alice"]);
    assert_eq!(store.close_session("alice", Only::Session(second)).await, Ok(second));
    assert_eq!(store.close_session("alice", Only::Session(second)).await, refused(Reason::SessionNotFound));
    assert_eq!(store.unregister("alice", Only::Session(second)).await, refused(Reason::SessionEnded));
}

const HERE: Ipv4Addr = ENDPOINT.address;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);

/// Every request that changes something for a connected user, for somebody who is refused.
async fn all_are_refused(store: &impl Store, username: &str, only: Only) {
    let not_owner = Reason::NotOwner;
    assert_eq!(store.session(username, only).await, refused(not_owner));
    assert_eq!(store.note_dialect(username, "text", only).await, refused(not_owner));
    assert_eq!(store.open_session(username, ENDPOINT, only).await, refused(not_owner));
    assert_eq!(store.close_session(username, only).await, refused(not_owner));
    assert_eq!(store.unregister(username, only).await, refused(not_owner));
}

pub(crate) async fn a_connected_user_is_one_of_the_sessions_address(store: impl Store) {
    let session = connect(&store, "alice").await;
    for only in [Only::At(ELSEWHERE), Only::Owner(ELSEWHERE)] {
        all_are_refused(&store, "alice", only).await;
    }
    for only in [Only::At(HERE), Only::Owner(HERE)] {
        assert_eq!(store.session("alice", only).await.map(|open| open.id), Ok(session));
        assert_eq!(store.note_dialect("alice", "text", only).await, Ok(()));
        assert_eq!(store.open_session("alice", ENDPOINT, only).await, refused(Reason::SessionExists));
    }
    assert_eq!(store.close_session("alice", Only::At(HERE)).await, Ok(session));
    // A user who is not connected, and belongs to nobody, is anyone's.
    assert_eq!(store.close_session("alice", Only::At(ELSEWHERE)).await, refused(Reason::SessionNotFound));
    assert_eq!(store.users().await.unwrap()[0].owner, None);
    let elsewhere = Endpoint { address: ELSEWHERE, ..ENDPOINT };
    let session = store.open_session("alice", elsewhere, Only::At(ELSEWHERE)).await.unwrap();
    assert_eq!(store.unregister("alice", Only::At(HERE)).await, refused(Reason::NotOwner));
    assert_eq!(store.unregister("alice", Only::At(ELSEWHERE)).await, Ok(Some(session)));
}

pub(crate) async fn an_owned_user_is_the_owners_until_freed(store: impl Store) {
    store.register("alice", Some(HERE)).await.unwrap();
    let (owner, stranger) = (Only::Owner(HERE), Only::Owner(ELSEWHERE));
    let owned_by = async || store.users().await.unwrap()[0].owner;
    // The owner stays, connected or not.
    assert_eq!(store.open_session("alice", ENDPOINT, stranger).await, refused(Reason::NotOwner));
    assert_eq!(store.unregister("alice", stranger).await, refused(Reason::NotOwner));
    let session = store.open_session("alice", ENDPOINT, owner).await.unwrap();
    all_are_refused(&store, "alice", stranger).await;
    assert_eq!(store.close_session("alice", owner).await, Ok(session));
    assert_eq!(owned_by().await, Some(HERE));
    // Who is freed belongs to whoever connects the user next.
    assert_eq!(store.free("alice").await, Ok(()));
    assert_eq!(owned_by().await, None);
    let session = store.open_session("alice", ENDPOINT, stranger).await.unwrap();
    assert_eq!(owned_by().await, Some(ELSEWHERE));
    all_are_refused(&store, "alice", owner).await;
    // A session of another address than the owner's does not count.
    assert_eq!(store.session("alice", stranger).await.map(|open| open.id), Ok(session));
    assert_eq!(store.unregister("alice", stranger).await, Ok(Some(session)));
    assert_eq!(store.free("alice").await, refused(Reason::UserNotFound));
    store.register("alice", None).await.unwrap();
    assert_eq!(owned_by().await, None);
}

pub(crate) async fn a_session_is_found_until_it_ends(store: impl Store) {
    assert_eq!(store.session("alice", Only::Any).await, refused(Reason::UserNotFound));
    let session = connect(&store, "alice").await;
    let found = store.session("alice", Only::Any).await.unwrap();
    assert_eq!((found.id, found.endpoint, &*found.dialect), (session, ENDPOINT, ""));
    store.close_session("alice", Only::Any).await.unwrap();
    assert_eq!(store.session("alice", Only::Any).await, refused(Reason::SessionNotFound));
}

pub(crate) async fn remote_sessions_are_for_connected_users(store: impl Store) {
    assert_eq!(store.remote_session("alice", "bob").await, refused(Reason::UserNotFound));
    store.register("alice", None).await.unwrap();
    assert_eq!(store.remote_session("alice", "bob").await, refused(Reason::SessionNotFound));
    store.open_session("alice", ENDPOINT, Only::Any).await.unwrap();
    assert_eq!(store.remote_session("alice", "bob").await, refused(Reason::RemoteUserNotFound));
    store.register("bob", None).await.unwrap();
    let found = |session| Ok(RemoteSession { session, dialect: Box::default() });
    assert_eq!(store.remote_session("alice", "bob").await, found(None));
    let bob = store.open_session("bob", ENDPOINT, Only::Any).await.unwrap();
    assert_eq!(store.remote_session("alice", "bob").await, found(Some(bob)));
}

pub(crate) async fn a_noted_dialect_is_of_the_session(store: impl Store) {
    assert_eq!(store.note_dialect("alice", "text", Only::Any).await, refused(Reason::UserNotFound));
    store.register("alice", None).await.unwrap();
    assert_eq!(store.note_dialect("alice", "text", Only::Any).await, refused(Reason::SessionNotFound));
    store.open_session("alice", ENDPOINT, Only::Any).await.unwrap();
    connect(&store, "bob").await;
    let before = store.list(None, "").await.unwrap();
    let dialects = async || {
        let own = store.session("alice", Only::Any).await.unwrap().dialect;
        let with_a_remote = store.remote_session("alice", "bob").await.unwrap().dialect;
        let with_the_list = store.list(Some("alice"), &before.revision).await.unwrap();
        // Nothing in the list has changed.
        assert_eq!((with_the_list.sessions, &with_the_list.revision), (None, &before.revision));
        assert!(own == with_a_remote && own == with_the_list.dialect);
        own
    };
    for dialect in ["", "text", "text", "byte", ""] {
        assert_eq!(store.note_dialect("alice", dialect, Only::Any).await, Ok(()));
        assert_eq!(&*dialects().await, dialect);
    }
    store.note_dialect("alice", "text", Only::Any).await.unwrap();
    assert_eq!(&*store.session("bob", Only::Any).await.unwrap().dialect, "");
    let found = store.look_up(&["alice".to_owned()]).await.unwrap();
    assert_eq!((found.len(), found[0].endpoint), (1, ENDPOINT));
    // The next session begins anew.
    store.close_session("alice", Only::Any).await.unwrap();
    store.open_session("alice", ENDPOINT, Only::Any).await.unwrap();
    assert_eq!(&*store.session("alice", Only::Any).await.unwrap().dialect, "");
}

pub(crate) async fn sessions_are_listed_in_order_of_opening(store: impl Store) {
    assert_eq!(store.list(Some("zoe"), "").await.unwrap_err(), Failure::Refused(Reason::UserNotFound));
    for name in ["zoe", "alice", "mia"] {
        connect(&store, name).await;
    }
    store.close_session("zoe", Only::Any).await.unwrap();
    assert_eq!(store.list(Some("zoe"), "").await.unwrap_err(), Failure::Refused(Reason::SessionNotFound));
    store.open_session("zoe", ENDPOINT, Only::Any).await.unwrap();
    assert_eq!(names(&store).await, ["alice", "mia", "zoe"]);
    let listed = store.list(Some("zoe"), "").await.unwrap().sessions.unwrap();
    assert_eq!(listed[0].endpoint, ENDPOINT);
}

pub(crate) async fn any_change_makes_another_revision(store: impl Store) {
    let mut seen = BTreeSet::new();
    seen.insert(store.list(None, "").await.unwrap().revision);
    connect(&store, "alice").await;
    seen.insert(store.list(None, "").await.unwrap().revision);
    connect(&store, "bob").await;
    seen.insert(store.list(None, "").await.unwrap().revision);
    store.close_session("bob", Only::Any).await.unwrap();
    seen.insert(store.list(None, "").await.unwrap().revision);
    store.unregister("alice", Only::Any).await.unwrap();
    let last = store.list(None, "").await.unwrap().revision;
    seen.insert(last.clone());
    assert_eq!(seen.len(), 5);
    let again = store.list(None, &last).await.unwrap();
    assert!(again.sessions.is_none() && again.revision == last);
}

pub(crate) async fn every_user_is_given_with_the_users_session(store: impl Store) {
    assert_eq!(store.users().await, Ok(Vec::new()));
    store.register("mia", None).await.unwrap();
    for name in ["zoe", "alice", "bob"] {
        connect(&store, name).await;
    }
    store.note_dialect("alice", "text", Only::Any).await.unwrap();
    store.close_session("bob", Only::Any).await.unwrap();
    let users = store.users().await.unwrap();
    let listed = store.list(None, "").await.unwrap().sessions.unwrap();
    let names: Vec<_> = users.iter().map(|user| (&*user.username, &*user.dialect)).collect();
    assert_eq!(names, [("bob", ""), ("mia", ""), ("zoe", ""), ("alice", "text")]);
    let sessions: Vec<_> = users.iter().filter_map(|user| user.session.clone()).collect();
    assert_eq!(sessions, listed);
    for user in users {
        assert_eq!(store.user(&user.username).await, Ok(Some(user)));
    }
    assert_eq!(store.user("nobody").await, Ok(None));
}

pub(crate) async fn a_restored_session_is_as_it_was(store: impl Store) {
    let session = |username: &str, second: i64| Session {
        id: SessionId::fresh(),
        username: username.into(),
        endpoint: ENDPOINT,
        opened_at_ms: second * 1000,
    };
    let old = [session("zoe", 1_700_000_000), session("alice", 1_700_000_001)];
    assert_eq!(store.restore_session(&old[0], 1, "").await, refused(Reason::UserNotFound));
    for (one, dialect) in old.iter().zip(["text", ""]) {
        store.register(&one.username, None).await.unwrap();
        let order = one.opened_at_ms as u64 * 1000;
        assert_eq!(store.restore_session(one, order, dialect).await, Ok(()));
    }
    assert_eq!(store.restore_session(&old[0], u64::MAX, "").await, refused(Reason::SessionExists));
    connect(&store, "bob").await;
    let users = store.users().await.unwrap();
    let sessions: Vec<_> = users.iter().filter_map(|user| user.session.as_deref()).collect();
    assert_eq!(sessions[..2], [&old[0], &old[1]]);
    let dialects: Vec<_> = users.iter().map(|user| &*user.dialect).collect();
    assert_eq!(
        (names(&store).await, dialects),
        (["zoe", "alice", "bob"].map(str::to_owned).to_vec(), vec!["text", "", ""])
    );
    assert_eq!(store.close_session("zoe", Only::Session(old[0].id)).await, Ok(old[0].id));
}

/// An interval that is not over in the time of a test.
const LONG: u64 = 3_600_000;

pub(crate) async fn checks_are_taken_once_in_an_interval(store: impl Store) {
    for number in 0..20 {
        connect(&store, &format!("user{number}")).await;
    }
    // With an interval of 0 everybody is due, whenever the sessions were opened.
    let some = store.take_checks(0, 15).await.unwrap();
    assert_eq!(some.len(), 15);
    let rest = store.take_checks(1, 100).await.unwrap();
    assert!(rest.len() >= 5, "{rest:?}");
    let names: BTreeSet<_> = some.iter().chain(&rest).map(|session| session.username.clone()).collect();
    assert_eq!(names.len(), 20);
    assert_eq!(store.take_checks(LONG, 100).await, Ok(Vec::new()));
    // Of many that ask at one moment, one gets the session of which it is the turn.
    store.register("late", None).await.unwrap();
    let late = Session {
        id: SessionId::fresh(),
        username: "late".into(),
        endpoint: ENDPOINT,
        opened_at_ms: 1_700_000_000_000,
    };
    store.restore_session(&late, 1_700_000_000_000_000, "").await.unwrap();
    let store = Arc::new(store);
    let race = |_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.take_checks(LONG, 100).await.unwrap() })
    };
    let mut taken = Vec::new();
    for racer in (0..8).map(race).collect::<Vec<_>>() {
        taken.extend(racer.await.unwrap());
    }
    assert_eq!(taken, [Arc::new(late)]);
}

pub(crate) async fn checks_are_of_the_session(store: impl Store) {
    let first = connect(&store, "alice").await;
    let note = async |session, result| store.note_check("alice", session, result).await.unwrap();
    let reached_at_ms = async |session| {
        store.checks(&[("alice".to_owned(), session), ("bob".to_owned(), first)]).await.unwrap()[0]
            .reached_at_ms
    };
    assert_eq!(note(first, CheckResult::Refused).await.refusals, 0, "never reached");
    assert_eq!(reached_at_ms(first).await, 0);
    let reached = note(first, CheckResult::Reached).await.reached_at_ms;
    assert!(reached > 1_700_000_000_000);
    assert_eq!(reached_at_ms(first).await, reached);
    for refusals in 1..4 {
        assert_eq!(note(first, CheckResult::Refused).await.refusals, refusals);
    }
    assert_eq!(reached_at_ms(first).await, reached);
    // The list of sessions is as it was.
    let revision = store.list(None, "").await.unwrap().revision;
    note(first, CheckResult::Reached).await;
    assert!(store.list(None, &revision).await.unwrap().sessions.is_none());
    // Nothing is known of the next session, nor of one that is over.
    store.close_session("alice", Only::Any).await.unwrap();
    assert_eq!(note(first, CheckResult::Reached).await, Check::default());
    let second = store.open_session("alice", ENDPOINT, Only::Any).await.unwrap();
    assert_eq!(note(second, CheckResult::Refused).await.refusals, 0);
    assert_eq!((note(first, CheckResult::Reached).await, reached_at_ms(second).await), (Check::default(), 0));
    store.unregister("alice", Only::Any).await.unwrap();
    assert_eq!(note(second, CheckResult::Reached).await, Check::default());
}

pub(crate) async fn ended_sessions_are_told_apart(store: impl Store) {
    let alice = connect(&store, "alice").await;
    let bob = connect(&store, "bob").await;
    store.close_session("alice", Only::Any).await.unwrap();
    store.open_session("alice", ENDPOINT, Only::Any).await.unwrap();
    let never = SessionId::fresh();
    let asked = [("alice".to_owned(), alice), ("bob".to_owned(), bob), ("nobody".to_owned(), never)];
    assert_eq!(store.ended(&asked).await, Ok(vec![alice, never]));
}

pub(crate) async fn one_of_many_racing_registrations_wins(store: impl Store) {
    let store = Arc::new(store);
    let race = |name: &'static str| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.register(name, None).await })
    };
    for name in ["a", "b", "c", "d"] {
        let racers: Vec<_> = (0..32).map(|_| race(name)).collect();
        let mut winners = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Ok(()) => winners += 1,
                other => assert_eq!(other, refused(Reason::UserExists)),
            }
        }
        assert_eq!(winners, 1, "{name}");
    }
}

pub(crate) async fn nothing_is_lost_when_many_write(store: impl Store) {
    let store = Arc::new(store);
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0..10 {
                    connect(&*store, &format!("{writer}-{round}")).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.statistics().await, Ok(Statistics { users: 640, sessions: 640 }));
    let names = names(&*store).await;
    for writer in 0..64 {
        let prefix = format!("{writer}-");
        let own: Vec<_> = names.iter().filter_map(|name| name.strip_prefix(&prefix)).collect();
        assert_eq!(own, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    }
}
