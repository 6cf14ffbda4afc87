//! Delivery of audit records, in order and once each. While the audit can be reached, a record is
//! stored before its peer gets an answer. Otherwise the peer is answered at once, and the record is
//! stored later.
//!
//! Where the audit shares a journal with the other services, a record is entered in the audit's ledger, and
//! only a record that could not be stored there is delivered as across a network, in batches. The gateway's
//! `companion` enters a record in the commit of the change that the record tells of.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lonja_chassis::unit_of_work::{Ledger, NotStored};
use lonja_proto::audit::{
    AuditClient, OperationRecord, RecordOperationsRequest, RecordOperationsResponse, methods,
};
use lonja_telemetry::traces::{Parent, Part, names};
use metrics::{Counter, Gauge, counter, gauge};
use opentelemetry::{KeyValue, context::FutureExt as _};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{self, error::Elapsed},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use ulid::Ulid;

/// The largest number of records that wait for the audit.
const QUEUE: usize = 65_536;
/// The largest number of records that are sent in one batch.
const BATCH: usize = 1024;
/// How long the audit may take to store a batch.
const DEADLINE: Duration = Duration::from_secs(1);
/// The shortest and the longest pause between two attempts while the audit cannot be reached.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long delivery goes on after the last connection has been served.
const FAREWELL: Duration = Duration::from_secs(2);

/// Takes the records of connections for delivery. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<SharedQueue>,
    /// The audit's ledger, if the audit shares a journal with the other services.
    ledger: Option<Arc<dyn Ledger>>,
}

#[derive(Debug)]
struct SharedQueue {
    queue: Mutex<Queue>,
    filled: Notify,
    dropped: Counter,
    depth: Gauge,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether the last attempt to deliver succeeded.
    reachable: bool,
    /// Whether nobody delivers any more.
    ended: bool,
}

#[derive(Debug)]
struct Waiting {
    record: OperationRecord,
    /// The trace that the record belongs to.
    parent: Option<Parent>,
    stored: Option<oneshot::Sender<()>>,
}

impl Recorder {
    /// Makes a recorder whose records wait until [`Self::deliver`] runs, unless they are entered in the
    /// audit's ledger.
    #[must_use]
    pub fn new(ledger: Option<Arc<dyn Ledger>>) -> Self {
        let shared = SharedQueue {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), reachable: true, ended: false }),
            filled: Notify::new(),
            dropped: counter!("lonja_gateway_audit_dropped_total"),
            depth: gauge!("lonja_gateway_audit_queue_records"),
        };
        Self { shared: Arc::new(shared), ledger }
    }

    /// Whether records are to be entered in the ledger now: there is one, and no earlier record waits for
    /// delivery, which a later record would overtake.
    #[must_use]
    pub fn is_entering(&self) -> bool {
        self.ledger.is_some() && self.shared.queue.lock().waiting.is_empty()
    }

    /// Has a record stored, and waits until that is done, for one second at most. Returns at once while
    /// the audit cannot be reached. A record that finds the queue full is dropped and counted.
    pub async fn record(&self, record: OperationRecord) {
        let (stored, wait) = oneshot::channel();
        let is_worth_waiting = if self.is_entering() {
            let status = record.status;
            self.enter(record, status, Parent::current(), Some(stored));
            true
        } else {
            self.queue(record, Some(stored))
        };
        if is_worth_waiting {
            // An error means that the audit went out of reach or is late: the record waits for delivery, or
            // for its commit.
            let _ = time::timeout(DEADLINE, wait).await;
        }
    }

    /// Enters a record in the ledger without waiting, and sends to `stored` when that is done. The trace of
    /// `parent` gets a span for the time until then. A record that the ledger refuses is queued for delivery.
    /// A record whose commit fails is queued with the status `if_failed`. Without a ledger, the record is
    /// queued.
    pub fn enter(
        &self,
        record: OperationRecord,
        if_failed: u32,
        parent: Option<Parent>,
        stored: Option<oneshot::Sender<()>>,
    ) {
        let Some(ledger) = &self.ledger else {
            self.queue(record, stored);
            return;
        };
        let (recorder, mut kept, began) = (self.clone(), record.clone(), SystemTime::now());
        let done = move |result: Result<(), NotStored>| {
            if let Some(parent) = parent {
                let error = result.err().map(|why| why.to_string());
                let name = methods::RECORD_OPERATIONS.name().into();
                parent.record(Part { name, began, attributes: Vec::new(), error }, None);
            }
            if let Err(why) = result {
                if why == NotStored::Failed {
                    kept.status = if_failed;
                }
                recorder.queue(kept, None);
            }
            if let Some(stored) = stored {
                let _ = stored.send(());
            }
        };
        ledger.enter(record, Box::new(done));
    }

    /// Queues a record for delivery without waiting, and gives whether the audit can be reached, so that
    /// `stored` is worth waiting for. A record that finds the queue full is dropped and counted.
    fn queue(&self, record: OperationRecord, stored: Option<oneshot::Sender<()>>) -> bool {
        let reachable = {
            let mut queue = self.shared.queue.lock();
            if queue.ended || queue.waiting.len() >= QUEUE {
                drop(queue);
                self.shared.dropped.increment(1);
                return false;
            }
            let reachable = queue.reachable;
            let stored = stored.filter(|_| reachable);
            queue.waiting.push_back(Waiting { record, parent: Parent::current(), stored });
            reachable
        };
        self.shared.filled.notify_one();
        reachable
    }

    /// Delivers records until `finished` is cancelled, and then for two seconds at most those that
    /// are left. Records that are left after that are lost.
    pub async fn deliver(&self, audit: AuditClient, finished: CancellationToken) {
        let mut delivery =
            Delivery { shared: &self.shared, audit, writer_id: Ulid::generate().to_string(), stored: 0 };
        let _ = finished.run_until_cancelled(delivery.run()).await;
        let left = async {
            while delivery.has_some() {
                if !delivery.run_once().await {
                    time::sleep(PAUSE.0).await;
                }
            }
        };
        let _ = time::timeout(FAREWELL, left).await;
        let records = {
            let mut queue = self.shared.queue.lock();
            queue.ended = true;
            queue.waiting.len() as u64
        };
        if records > 0 {
            self.shared.dropped.increment(records);
            tracing::error!(records, "audit records are lost: the audit could not be reached before the end");
        }
    }
}

struct Delivery<'a> {
    shared: &'a SharedQueue,
    audit: AuditClient,
    writer_id: String,
    /// The number of records of this writer that the audit has stored.
    stored: u64,
}

impl Delivery<'_> {
    fn has_some(&self) -> bool {
        !self.shared.queue.lock().waiting.is_empty()
    }

    async fn run(&mut self) {
        let mut pause = PAUSE.0;
        loop {
            if !self.has_some() {
                self.shared.filled.notified().await;
            } else if self.run_once().await {
                pause = PAUSE.0;
            } else {
                time::sleep(pause).await;
                pause = (2 * pause).min(PAUSE.1);
            }
        }
    }

    /// Sends a batch from the head of the queue, and returns whether it was stored. A batch that
    /// was not is sent again with the same sequence numbers, so that the audit stores each record
    /// once.
    async fn run_once(&mut self) -> bool {
        let (records, parents): (Vec<_>, Vec<_>) = {
            let queue = self.shared.queue.lock();
            self.shared.depth.set(queue.waiting.len() as f64);
            let batch = queue.waiting.iter().take(BATCH);
            batch.map(|waiting| (waiting.record.clone(), waiting.parent.clone())).unzip()
        };
        let count = records.len();
        let request = RecordOperationsRequest {
            writer_id: self.writer_id.clone(),
            first_sequence: self.stored + 1,
            records,
        };
        match self.send(request, parents).await {
            Ok(Ok(_)) => {
                self.delivered(count);
                true
            }
            Ok(Err(status)) => self.out_of_reach(status.message()),
            Err(_) => self.out_of_reach("the service does not answer"),
        }
    }

    /// Removes the first `count` records from the queue, and lets their peers have their answers.
    fn delivered(&mut self, count: usize) {
        self.stored += count as u64;
        let mut queue = self.shared.queue.lock();
        let delivered: Vec<_> = queue.waiting.drain(..count).collect();
        let again = !std::mem::replace(&mut queue.reachable, true);
        self.shared.depth.set(queue.waiting.len() as f64);
        drop(queue);
        if again {
            tracing::info!("the audit can be reached again");
        }
        for stored in delivered.into_iter().filter_map(|waiting| waiting.stored) {
            let _ = stored.send(());
        }
    }

    /// Sends a batch as a part of the first trace in it. Each other trace gets a part of its own,
    /// with a link to the first trace.
    async fn send(
        &mut self,
        request: RecordOperationsRequest,
        parents: Vec<Option<Parent>>,
    ) -> Result<Result<RecordOperationsResponse, Status>, Elapsed> {
        let mut parents = parents.into_iter().flatten();
        let Some(first) = parents.next() else {
            return time::timeout(DEADLINE, self.audit.record_operations(request)).await;
        };
        let began = SystemTime::now();
        let call = self.audit.record_operations(request).with_context(first.context());
        let answer = time::timeout(DEADLINE, call).await;
        let method = methods::RECORD_OPERATIONS.name();
        let attributes =
            vec![KeyValue::new(names::RPC_SYSTEM_NAME, "grpc"), KeyValue::new(names::RPC_METHOD, method)];
        let error = (!matches!(answer, Ok(Ok(_)))).then(|| "UNAVAILABLE".to_owned());
        let part = Part { name: method.into(), began, attributes, error };
        parents.for_each(|parent| parent.record(part.clone(), Some(&first)));
        answer
    }

    /// Notes that the audit cannot be reached, and lets the peers that wait have their answers.
    /// Returns `false`, for [`Self::run_once`].
    fn out_of_reach(&self, why: &str) -> bool {
        let mut queue = self.shared.queue.lock();
        queue.waiting.iter_mut().for_each(|waiting| waiting.stored = None);
        let newly = std::mem::replace(&mut queue.reachable, false);
        drop(queue);
        if newly {
            tracing::warn!(why, "the audit cannot be reached: records wait in memory");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use lonja_chassis::unit_of_work::Stored;
    use lonja_proto::audit::{
        CountOperationsRequest, CountOperationsResponse, ListOperationsRequest, ListOperationsResponse,
        TailOperationsRequest, TailOperationsResponse, audit_service_server::AuditService,
    };
    use lonja_rpc::Pages;
    use tokio::{
        task::JoinHandle,
        time::{Instant, sleep},
    };
    use tonic::{Request, Response};

    use super::*;

    /// What an audit does with the next batches.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    enum Mood {
        #[default]
        Stores,
        Refuses,
        /// The audit stores the batch, but its answer is lost.
        LosesItsAnswer,
        /// The audit takes this long to store.
        Takes(Duration),
    }

    /// An audit that stores the records of one writer once each, as the real one does.
    #[derive(Debug, Clone, Default)]
    struct Audit {
        mood: Arc<Mutex<Mood>>,
        stored: Arc<Mutex<Vec<String>>>,
        calls: Arc<Mutex<Vec<Instant>>>,
    }

    #[tonic::async_trait]
    impl AuditService for Audit {
        type ListOperationsStream = Pages<ListOperationsResponse>;
        type TailOperationsStream = Pages<TailOperationsResponse>;
        type CountOperationsStream = Pages<CountOperationsResponse>;

        async fn record_operations(
            &self,
            request: Request<RecordOperationsRequest>,
        ) -> Result<Response<RecordOperationsResponse>, Status> {
            let mood = *self.mood.lock();
            self.calls.lock().push(Instant::now());
            if let Mood::Takes(time) = mood {
                sleep(time).await;
            }
            let RecordOperationsRequest { first_sequence, records, .. } = request.into_inner();
            if mood == Mood::Refuses {
                return Err(Status::unavailable("no"));
            }
            let mut stored = self.stored.lock();
            let known = stored.len() as u64;
            assert!(first_sequence <= known + 1, "no gap");
            let last_sequence = first_sequence - 1 + records.len() as u64;
            let new = records.into_iter().skip((known + 1 - first_sequence) as usize);
            stored.extend(new.map(|record| record.username));
            if mood == Mood::LosesItsAnswer {
                return Err(Status::unavailable("lost"));
            }
            Ok(Response::new(RecordOperationsResponse { last_sequence }))
        }

        async fn list_operations(
            &self,
            _: Request<ListOperationsRequest>,
        ) -> Result<Response<Self::ListOperationsStream>, Status> {
            unreachable!("a gateway records only")
        }

        async fn tail_operations(
            &self,
            _: Request<TailOperationsRequest>,
        ) -> Result<Response<Self::TailOperationsStream>, Status> {
            unreachable!("a gateway records only")
        }

        async fn count_operations(
            &self,
            _: Request<CountOperationsRequest>,
        ) -> Result<Response<Self::CountOperationsStream>, Status> {
            unreachable!("a gateway records only")
        }
    }

    /// A recorder whose records are delivered to an audit.
    struct Delivered {
        recorder: Recorder,
        audit: Audit,
        finished: CancellationToken,
        delivery: JoinHandle<()>,
    }

    impl Delivered {
        fn start(mood: Mood) -> Self {
            let audit = Audit { mood: Arc::new(Mutex::new(mood)), ..Audit::default() };
            let client = AuditClient::local(audit.clone());
            let (recorder, finished) = (Recorder::new(None), CancellationToken::new());
            let delivery = tokio::spawn({
                let (recorder, finished) = (recorder.clone(), finished.clone());
                async move { recorder.deliver(client, finished).await }
            });
            Self { recorder, audit, finished, delivery }
        }

        /// Records an operation of a user, and gives how long that took.
        async fn record(&self, user: impl Into<String>) -> Duration {
            let began = Instant::now();
            self.recorder.record(OperationRecord { username: user.into(), ..Default::default() }).await;
            began.elapsed()
        }

        fn stored(&self) -> Vec<String> {
            self.audit.stored.lock().clone()
        }

        /// Ends the gateway, and gives what is stored then.
        async fn end(self) -> Vec<String> {
            self.finished.cancel();
            let stored = Arc::clone(&self.audit.stored);
            self.delivery.await.unwrap();
            stored.lock().clone()
        }
    }

    fn users(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| number.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_is_stored_before_its_peer_is_answered() {
        let gateway = Delivered::start(Mood::Takes(Duration::from_millis(300)));
        for number in 0..3 {
            assert!(gateway.record(number.to_string()).await >= Duration::from_millis(300));
            assert_eq!(gateway.stored().len(), number + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_come_together_travel_together_in_order() {
        let gateway = Delivered::start(Mood::Takes(Duration::from_millis(10)));
        let records = (0..3000).map(|number| gateway.record(number.to_string()));
        futures_util::future::join_all(records).await;
        assert_eq!(gateway.stored(), users(0..3000));
        assert!(gateway.audit.calls.lock().len() <= 4, "1,024 records in a batch");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_audit_that_is_away_and_nothing_is_lost() {
        let gateway = Delivered::start(Mood::Refuses);
        for user in users(0..500) {
            assert!(gateway.record(user).await < Duration::from_millis(1));
        }
        assert!(gateway.stored().is_empty());
        *gateway.audit.mood.lock() = Mood::Stores;
        sleep(PAUSE.1).await;
        assert_eq!(gateway.stored(), users(0..500));
        // Peers wait for their records again.
        gateway.record("500").await;
        assert_eq!(gateway.stored(), users(0..501));
    }

    #[tokio::test(start_paused = true)]
    async fn an_audit_that_is_away_is_asked_less_and_less_often() {
        let gateway = Delivered::start(Mood::Refuses);
        gateway.record("0").await;
        sleep(Duration::from_secs(20)).await;
        let calls = gateway.audit.calls.lock().clone();
        let pauses: Vec<_> = calls.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{pauses:?}");
        assert!(pauses[0] < 2 * PAUSE.0 && pauses[pauses.len() - 1] <= PAUSE.1 + PAUSE.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_whose_answer_was_lost_is_stored_once() {
        let gateway = Delivered::start(Mood::LosesItsAnswer);
        for user in users(0..10) {
            gateway.record(user).await;
        }
        sleep(Duration::from_secs(1)).await;
        *gateway.audit.mood.lock() = Mood::Stores;
        for user in users(10..20) {
            gateway.record(user).await;
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(gateway.end().await, users(0..20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_audit_holds_a_peer_for_a_second_once() {
        let gateway = Delivered::start(Mood::Takes(Duration::from_secs(60)));
        let first = gateway.record("0").await;
        assert!((DEADLINE..DEADLINE + PAUSE.0).contains(&first), "{first:?}");
        for user in users(1..10) {
            assert!(gateway.record(user).await < Duration::from_millis(1));
        }
        *gateway.audit.mood.lock() = Mood::Stores;
        sleep(DEADLINE + 2 * PAUSE.1).await;
        assert_eq!(gateway.stored(), users(0..10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_the_queue_is_dropped_and_the_rest_keeps_its_order() {
        let gateway = Delivered::start(Mood::Refuses);
        for user in users(0..QUEUE + 100) {
            gateway.record(user).await;
        }
        assert_eq!(gateway.recorder.shared.queue.lock().waiting.len(), QUEUE);
        *gateway.audit.mood.lock() = Mood::Stores;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(gateway.end().await, users(0..QUEUE));
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_are_left_are_delivered_at_the_end_for_two_seconds() {
        let gateway = Delivered::start(Mood::Refuses);
        gateway.record("0").await;
        let mood = Arc::clone(&gateway.audit.mood);
        tokio::spawn(async move {
            sleep(FAREWELL / 2).await;
            *mood.lock() = Mood::Stores;
        });
        assert_eq!(gateway.end().await, users(0..1));

        let gateway = Delivered::start(Mood::Refuses);
        gateway.record("0").await;
        let began = Instant::now();
        assert!(gateway.end().await.is_empty());
        assert!((FAREWELL..FAREWELL + PAUSE.1).contains(&began.elapsed()));
    }

    /// A ledger whose commits succeed, or why they do not.
    #[derive(Debug, Default)]
    struct Book(Mutex<Option<NotStored>>);

    impl Ledger for Book {
        fn enter(&self, _: OperationRecord, stored: Stored) {
            let fails = *self.0.lock();
            stored(fails.map_or(Ok(()), Err));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_ledger_does_not_store_is_delivered_in_order() {
        let book = Arc::new(Book::default());
        let recorder = Recorder::new(Some(Arc::clone(&book) as _));
        let record = |user: &str| OperationRecord { username: user.to_owned(), ..Default::default() };
        let enter = |user| recorder.enter(record(user), 2, None, None);
        enter("stored");
        *book.0.lock() = Some(NotStored::Refused);
        enter("done");
        *book.0.lock() = Some(NotStored::Failed);
        enter("failed");
        *book.0.lock() = None;
        assert!(!recorder.is_entering(), "earlier records wait");
        recorder.record(record("asked")).await;
        let waiting = |recorder: &Recorder| {
            let queue = recorder.shared.queue.lock();
            let record = |waiting: &Waiting| (waiting.record.username.clone(), waiting.record.status);
            queue.waiting.iter().map(record).collect::<Vec<_>>()
        };
        let expected = [("done", 0), ("failed", 2), ("asked", 0)];
        assert_eq!(waiting(&recorder), expected.map(|(user, status)| (user.to_owned(), status)));

        let (audit, finished) = (Audit::default(), CancellationToken::new());
        finished.cancel();
        recorder.deliver(AuditClient::local(audit.clone()), finished).await;
        assert_eq!(*audit.stored.lock(), ["done", "failed", "asked"]);
        assert!(recorder.is_entering(), "nothing waits any more");
    }
}
