//! Counts operations, second by second.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use lonja_proto::audit::{
    CountOperationsResponse, Operation, OperationCount, OperationRecord, SecondOfOperations,
};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{reader::Reader, store::Store};

/// How often new counts are sent.
const INTERVAL: Duration = Duration::from_secs(1);

/// The moment at which a record was handled, in whole seconds of the Unix epoch.
pub(crate) fn second(record: &OperationRecord) -> i64 {
    record.handled_at.as_ref().map_or(0, |moment| moment.seconds)
}

/// Counts by second, operation and status.
#[derive(Debug)]
struct Counts {
    seconds: BTreeMap<i64, HashMap<(Operation, u32), u64>>,
    /// The first second whose records are counted.
    since: i64,
}

impl Counts {
    fn add(&mut self, records: &[OperationRecord]) {
        for record in records.iter().filter(|record| second(record) >= self.since) {
            let counts = self.seconds.entry(second(record)).or_default();
            *counts.entry((record.operation(), record.status)).or_default() += 1;
        }
    }

    fn take(&mut self) -> CountOperationsResponse {
        let count = |((operation, status), count): ((Operation, u32), u64)| OperationCount {
            operation: operation.into(),
            status,
            count,
        };
        let seconds = std::mem::take(&mut self.seconds).into_iter().map(|(unix_seconds, counts)| {
            SecondOfOperations { unix_seconds, counts: counts.into_iter().map(count).collect() }
        });
        CountOperationsResponse { seconds: seconds.collect(), counted_since: self.since }
    }
}

/// Counts records as they are stored.
pub(crate) struct Counter<S> {
    reader: Reader<S>,
    counts: Counts,
    /// When the next counts are sent.
    next: Instant,
    shutdown: CancellationToken,
}

impl<S: Store> Counter<S> {
    /// Makes a counter that counts the records of `first` and then the records of the reader.
    /// Records from before the second `since` are not counted.
    pub(crate) fn new(
        reader: Reader<S>,
        first: &[OperationRecord],
        since: i64,
        shutdown: CancellationToken,
    ) -> Self {
        let mut counts = Counts { seconds: BTreeMap::new(), since };
        counts.add(first);
        Self { reader, counts, next: Instant::now(), shutdown }
    }

    /// Waits until the next counts are due, and gives the counts since the last call; `None` at
    /// shutdown.
    pub(crate) async fn page(&mut self) -> Result<Option<CountOperationsResponse>, Status> {
        if self.shutdown.run_until_cancelled(time::sleep_until(self.next)).await.is_none() {
            return Ok(None);
        }
        self.next = Instant::now() + INTERVAL;
        // Reads for one interval at most: what comes faster than it can be read is sent next time.
        while Instant::now() < self.next {
            let page = self.reader.page().await?;
            self.counts.add(&page.records);
            if page.is_end {
                break;
            }
        }
        Ok(Some(self.counts.take()))
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn records_are_counted_by_second_operation_and_status() {
        let record = |seconds, operation: Operation, status| OperationRecord {
            operation: operation.into(),
            status,
            handled_at: Some(Timestamp { seconds, nanos: 5 }),
            ..OperationRecord::default()
        };
        let mut counts = Counts { seconds: BTreeMap::new(), since: 7 };
        counts.add(&[
            record(6, Operation::Publish, 0),
            record(7, Operation::Publish, 0),
            record(8, Operation::Publish, 0),
            record(7, Operation::Publish, 0),
            record(7, Operation::Publish, 1),
        ]);
        let mut told = counts.take().seconds;
        told.iter_mut().for_each(|second| second.counts.sort_by_key(|count| count.status));
        let count = |status, count| OperationCount { operation: Operation::Publish.into(), status, count };
        assert_eq!(
            told,
            [
                SecondOfOperations { unix_seconds: 7, counts: vec![count(0, 2), count(1, 1)] },
                SecondOfOperations { unix_seconds: 8, counts: vec![count(0, 1)] },
            ]
        );
        assert!(counts.take().seconds.is_empty());
    }
}
