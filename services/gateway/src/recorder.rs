//! Delivery of audit records, in order and once each. While the audit can be reached, a record is
//! stored before its peer gets an answer. Otherwise the peer is answered at once, and the record is
//! stored later.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lonja_proto::audit::{
    OperationRecord, RECORD_OPERATIONS, RecordOperationsRequest, RecordOperationsResponse,
};
use lonja_rpc::Channel;
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
pub(crate) struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
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
}

#[derive(Debug)]
struct Waiting {
    record: OperationRecord,
    /// The trace that the record belongs to.
    parent: Option<Parent>,
    stored: Option<oneshot::Sender<()>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), reachable: true }),
            filled: Notify::new(),
            dropped: counter!("lonja_gateway_audit_dropped_total"),
            depth: gauge!("lonja_gateway_audit_queue_records"),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Queues a record and waits until it is stored, for one second at most. Returns at once while
    /// the audit cannot be reached. A record that finds the queue full is dropped and counted.
    pub(crate) async fn record(&self, record: OperationRecord) {
        let (stored, wait) = oneshot::channel();
        let reachable = {
            let mut queue = self.shared.queue.lock();
            if queue.waiting.len() >= QUEUE {
                drop(queue);
                self.shared.dropped.increment(1);
                return;
            }
            let reachable = queue.reachable;
            let stored = reachable.then_some(stored);
            queue.waiting.push_back(Waiting { record, parent: Parent::current(), stored });
            reachable
        };
        self.shared.filled.notify_one();
        if reachable {
            // An error means that the audit went out of reach or is late: the record stays in the
            // queue.
            let _ = time::timeout(DEADLINE, wait).await;
        }
    }

    /// Delivers records until `finished` is cancelled, and then for [`FAREWELL`] at most those that
    /// are left. Records that are left after that are lost.
    pub(crate) async fn deliver(&self, audit: Channel, finished: CancellationToken) {
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
        if time::timeout(FAREWELL, left).await.is_err() {
            let records = self.shared.queue.lock().waiting.len() as u64;
            self.shared.dropped.increment(records);
            tracing::error!(records, "audit records are lost: the audit could not be reached before the end");
        }
    }
}

struct Delivery<'a> {
    shared: &'a Shared,
    audit: Channel,
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
            return time::timeout(DEADLINE, self.audit.call_unary(&RECORD_OPERATIONS, request)).await;
        };
        let began = SystemTime::now();
        let call = self.audit.call_unary(&RECORD_OPERATIONS, request).with_context(first.context());
        let answer = time::timeout(DEADLINE, call).await;
        let method = RECORD_OPERATIONS.path().trim_start_matches('/');
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
