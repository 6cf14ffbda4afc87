//! What every store must do, as tests. Each store runs these tests with `suite!`.

use std::{sync::Arc, time::Duration};

use lonja_proto::audit::{OperationFilter, OperationRecord};

use super::{Batch, Position, Store};
use crate::reader::{Reader, newest};

/// Makes a test of each rule. `$open` gives a fresh store, which keeps 10,000 records, and whatever
/// keeps the store alive.
macro_rules! suite {
    ($open:expr) => {
        lonja_chassis::contract_suite!($open;
            records_are_read_in_order_of_storing,
            a_batch_is_stored_once,
            what_is_new_of_a_batch_is_stored,
            reading_goes_on_where_it_stopped,
            the_newest_are_found_from_behind,
            a_rare_record_is_found_behind_many_others,
            waiting_ends_with_the_next_record,
            nothing_is_lost_or_doubled_when_many_write,
        );
    };
}
pub(crate) use suite;

/// Makes a batch of records whose users are named `WRITER-SEQUENCE`.
pub(crate) fn batch(writer: &str, first_sequence: u64, count: u64) -> Batch {
    let record = |sequence: u64| OperationRecord {
        username: format!("{writer}-{sequence}"),
        ..OperationRecord::default()
    };
    Batch {
        writer_id: writer.to_owned(),
        first_sequence,
        records: (first_sequence..first_sequence + count).map(record).collect(),
    }
}

/// The users of all records from a position on.
pub(crate) async fn users(store: &impl Store, from: Position) -> Vec<String> {
    let mut position = from;
    let mut users = Vec::new();
    loop {
        let found = store.read(position).await.unwrap();
        let Some((behind, _)) = found.last() else { return users };
        position = *behind;
        users.extend(found.into_iter().map(|(_, record)| record.username));
    }
}

pub(crate) async fn records_are_read_in_order_of_storing(store: impl Store) {
    assert!(users(&store, Position::default()).await.is_empty());
    store.record(batch("a", 1, 2)).await.unwrap();
    store.record(batch("b", 1, 1)).await.unwrap();
    store.record(batch("a", 3, 1)).await.unwrap();
    assert_eq!(users(&store, Position::default()).await, ["a-1", "a-2", "b-1", "a-3"]);
}

pub(crate) async fn a_batch_is_stored_once(store: impl Store) {
    assert_eq!(store.record(batch("a", 1, 3)).await, Ok(0));
    assert_eq!(store.record(batch("a", 1, 3)).await, Ok(3));
    assert_eq!(store.record(batch("a", 2, 1)).await, Ok(1));
    assert_eq!(store.record(batch("a", 4, 0)).await, Ok(0));
    assert_eq!(users(&store, Position::default()).await, ["a-1", "a-2", "a-3"]);
}

pub(crate) async fn what_is_new_of_a_batch_is_stored(store: impl Store) {
    store.record(batch("a", 1, 3)).await.unwrap();
    assert_eq!(store.record(batch("a", 2, 4)).await, Ok(2));
    assert_eq!(users(&store, Position::default()).await, ["a-1", "a-2", "a-3", "a-4", "a-5"]);
}

pub(crate) async fn reading_goes_on_where_it_stopped(store: impl Store) {
    store.record(batch("a", 1, 5)).await.unwrap();
    let found = store.read(Position::default()).await.unwrap();
    let (behind_third, _) = found[2];
    assert_eq!(users(&store, behind_third).await, ["a-4", "a-5"]);
    let end = store.end().await.unwrap();
    assert!(users(&store, end).await.is_empty());
    store.record(batch("a", 6, 1)).await.unwrap();
    assert_eq!(users(&store, end).await, ["a-6"]);
    assert_eq!(behind_third.to_string().parse(), Ok(behind_third));
}

pub(crate) async fn the_newest_are_found_from_behind(store: impl Store) {
    let users = async |count| {
        let newest = newest(&store, count, |record| record.username != "a-1", |_| false).await.unwrap();
        assert!(store.read(newest.behind).await.unwrap().is_empty());
        newest.records.into_iter().map(|record| record.username).collect::<Vec<_>>()
    };
    assert!(users(5).await.is_empty());
    store.record(batch("a", 1, 700)).await.unwrap();
    for round in 0..100 {
        store.record(batch("b", 1 + round, 1)).await.unwrap();
    }
    assert_eq!(users(2).await, ["b-99", "b-100"]);
    assert_eq!(users(101).await[..2], ["a-700", "b-1"]);
    assert_eq!(users(5000).await.len(), 799);
}

pub(crate) async fn a_rare_record_is_found_behind_many_others(store: impl Store) {
    for round in 0..7 {
        store.record(batch("a", 1 + 1000 * round, 1000)).await.unwrap();
    }
    store.record(batch("b", 1, 1)).await.unwrap();
    let filter = OperationFilter { username: "b-1".to_owned(), ..OperationFilter::default() };
    let mut reader = Reader::new(store, Some(filter), 0, Position::default());
    let first = reader.page().await.unwrap();
    assert!(first.records.is_empty() && !first.is_end, "it says something before it has looked at all");
    let second = reader.page().await.unwrap();
    assert_eq!(second.records.len(), 1);
    assert!(second.is_end || reader.page().await.unwrap().is_end);
}

pub(crate) async fn waiting_ends_with_the_next_record(store: impl Store) {
    let store = Arc::new(store);
    store.record(batch("a", 1, 1)).await.unwrap();
    let end = store.end().await.unwrap();
    let waiter = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            while store.read(end).await.unwrap().is_empty() {
                store.wait_beyond(end).await;
            }
        }
    });
    store.record(batch("a", 2, 1)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(9), waiter).await.unwrap().unwrap();
}

pub(crate) async fn nothing_is_lost_or_doubled_when_many_write(store: impl Store) {
    let store = Arc::new(store);
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let name = format!("w{writer}");
                for round in 0..10 {
                    let batch = batch(&name, 1 + 5 * round, 5);
                    store.record(batch.clone()).await.unwrap();
                    store.record(batch).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let users = users(&*store, Position::default()).await;
    assert_eq!(users.len(), 800);
    for writer in 0..16 {
        let prefix = format!("w{writer}-");
        let own: Vec<u32> =
            users.iter().filter_map(|user| user.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(own, (1..=50).collect::<Vec<_>>());
    }
}
