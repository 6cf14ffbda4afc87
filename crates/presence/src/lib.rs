//! Whether listed peers are still there (docs/operations.md, `--check-peers`).
//!
//! The protocol has no heartbeat, so a peer that was killed stays listed. The gateway dials the address of
//! each session now and then, as a peer does that wants a file. Only one thing proves that a peer is gone:
//! its machine refuses connections, after the peer was reached there before. No answer proves nothing: a
//! firewall may stand between, and a peer may be listed at an address that only others can reach.

mod dial;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use lonja_chassis::{clock, service::Backends};
use lonja_proto::{
    Reason,
    audit::{Operation, OperationRecord},
    catalog::EndSessionRequest,
    registry::{CheckResult, CloseSessionRequest, IdentifiedSession, NoteCheckRequest, TakeChecksRequest},
};
use lonja_telemetry::throttle::Throttle;
use lonja_wire::Printable;
use metrics::{Counter, counter};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use dial::{Dialled, dial};

/// The largest number of peers that are dialled at one time.
const DIALS: usize = 256;
/// The largest number of peers whose answers are waited for.
const WAITS: usize = 1000;
/// How many refusals in a row prove that a peer is gone.
const REFUSALS: u32 = 3;
/// How many times in an interval the registry is asked which sessions are due.
const PARTS: u32 = 16;
/// The longest time between two questions to the registry.
const LOOK: Duration = Duration::from_secs(10);
/// The time until the next question if more sessions may be due than there were places.
const SOON: Duration = Duration::from_millis(100);
/// How long a service may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// Bounds the log lines about questions that the registry does not answer.
static FAILURES: Throttle = Throttle::condition();
/// Bounds the log lines about checks that were not kept.
static UNKEPT: Throttle = Throttle::condition();

/// Checks the peers of an index.
#[derive(Debug)]
pub struct Presence {
    backend: Backends,
    interval: Duration,
}

impl Presence {
    /// Checks the peer of each session once in `interval`; never, if `interval` is zero. Several gateways
    /// of an index share the work.
    #[must_use]
    pub fn new(backend: Backends, interval: Duration) -> Self {
        Self { backend, interval }
    }

    /// Checks peers until shutdown. `record` records each session that is ended.
    pub async fn check_until<R, F>(self, shutdown: CancellationToken, record: R)
    where
        R: Fn(OperationRecord) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        if self.interval.is_zero() {
            return;
        }
        let look = (self.interval / PARTS).min(LOOK);
        let checks = Arc::new(Checks::new(self.backend, self.interval, record));
        let tasks = TaskTracker::new();
        let mut pause = look;
        while time::timeout(pause, shutdown.cancelled()).await.is_err() {
            pause = look;
            match shutdown.run_until_cancelled(checks.take()).await {
                Some(Ok(Taken { sessions, may_be_more })) => {
                    if may_be_more {
                        pause = SOON.min(look);
                    }
                    for (session, place) in sessions {
                        let (checks, shutdown) = (Arc::clone(&checks), shutdown.clone());
                        tasks.spawn(async move { checks.check(session, place, shutdown).await });
                    }
                }
                Some(Err(status)) => {
                    if let Some(suppressed) = FAILURES.admit() {
                        let error = status.message();
                        tracing::warn!(error, suppressed, "cannot check whether peers are still there");
                    }
                }
                None => {}
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// The sessions whose peers are to be dialled now, each with a place to dial.
struct Taken {
    sessions: Vec<(IdentifiedSession, OwnedSemaphorePermit)>,
    /// Whether more sessions may be due than there were places.
    may_be_more: bool,
}

/// What all checks share.
struct Checks<R> {
    backend: Backends,
    interval: Duration,
    record: R,
    /// Places of those who dial.
    places: Arc<Semaphore>,
    /// Places of those who wait for an answer.
    waits: Semaphore,
    /// The sessions whose peers have not answered yet. A peer that is busy for long is not dialled twice.
    under_way: Mutex<HashSet<String>>,
    reached: Counter,
    refused: Counter,
    silent: Counter,
    expired: Counter,
}

impl<R, F> Checks<R>
where
    R: Fn(OperationRecord) -> F,
    F: Future<Output = ()>,
{
    fn new(backend: Backends, interval: Duration, record: R) -> Self {
        let checks = |result: &'static str| counter!("lonja_gateway_peer_checks_total", "result" => result);
        Self {
            backend,
            interval,
            record,
            places: Arc::new(Semaphore::new(DIALS)),
            waits: Semaphore::new(WAITS),
            under_way: Mutex::default(),
            reached: checks("reached"),
            refused: checks("refused"),
            silent: checks("silent"),
            expired: counter!("lonja_gateway_expired_sessions_total"),
        }
    }

    /// Takes the sessions whose turn it is, as many as there are places.
    async fn take(&self) -> Result<Taken, Status> {
        let free = self.places.available_permits();
        if free == 0 {
            return Ok(Taken { sessions: Vec::new(), may_be_more: true });
        }
        let interval_ms = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let request = TakeChecksRequest { interval_ms, limit: u32::try_from(free).unwrap_or(u32::MAX) };
        let taken = in_time(self.backend.registry.take_checks(request)).await?.sessions;
        let may_be_more = taken.len() >= free;
        let with_place = |session| Some((session, Arc::clone(&self.places).try_acquire_owned().ok()?));
        Ok(Taken { sessions: taken.into_iter().filter_map(with_place).collect(), may_be_more })
    }

    /// Dials the peer of a session, keeps what came of that, and ends the session of a peer that is gone. At
    /// shutdown only the waits for a peer are cut short.
    async fn check(
        &self,
        session: IdentifiedSession,
        place: OwnedSemaphorePermit,
        shutdown: CancellationToken,
    ) {
        if !self.under_way.lock().insert(session.session_id.clone()) {
            return;
        }
        if let Some(dialled) = shutdown.run_until_cancelled(dial(address(&session))).await {
            drop(place);
            self.conclude(&session, dialled, &shutdown).await;
        }
        self.under_way.lock().remove(&session.session_id);
    }

    async fn conclude(&self, session: &IdentifiedSession, dialled: Dialled, shutdown: &CancellationToken) {
        let (result, conversation) = match dialled {
            Dialled::Reached(conversation) => (CheckResult::Reached, Some(conversation)),
            Dialled::Refused => (CheckResult::Refused, None),
            Dialled::Silent => (CheckResult::Silent, None),
        };
        match result {
            CheckResult::Reached => self.reached.increment(1),
            CheckResult::Refused => self.refused.increment(1),
            _ => self.silent.increment(1),
        }
        if let Err(status) = self.note(session, result).await
            && let Some(suppressed) = UNKEPT.admit()
        {
            tracing::warn!(
                error = status.message(),
                suppressed,
                "a check of a peer was not kept, or its session was not ended"
            );
        }
        // If too many peers are waited for, this one is not. An original peer does not notice that: it sends
        // one byte, which its system takes even if nobody listens.
        if let (Some(conversation), Ok(_place)) = (conversation, self.waits.try_acquire()) {
            shutdown.run_until_cancelled(conversation.finish()).await;
        }
    }

    async fn note(&self, session: &IdentifiedSession, result: CheckResult) -> Result<(), Status> {
        let (username, session_id) = (username(session).to_owned(), session.session_id.clone());
        let request = NoteCheckRequest { username, session_id, result: result.into() };
        let noted = in_time(self.backend.registry.note_check(request)).await?;
        if noted.refusals >= REFUSALS { self.expire(session).await } else { Ok(()) }
    }

    /// Ends a session, unless it is over or the user has another one by now.
    async fn expire(&self, session: &IdentifiedSession) -> Result<(), Status> {
        let username = username(session).to_owned();
        let only_session = Some(session.session_id.clone());
        let close = CloseSessionRequest { username: username.clone(), only_session, only_for: None };
        match in_time(self.backend.registry.close_session(close)).await {
            Ok(_) => {}
            Err(status) if Reason::try_from(&status).is_ok() => return Ok(()),
            Err(status) => return Err(status),
        }
        self.expired.increment(1);
        let address = address(session);
        tracing::info!(username = %Printable(&username), %address, "ended the session of a peer that is gone");
        // If the catalog does not answer, the sweeper tells the catalog again.
        let ended = EndSessionRequest { session_id: session.session_id.clone() };
        let _ = in_time(self.backend.catalog.end_session(ended)).await;
        let record = OperationRecord {
            operation: Operation::Expire.into(),
            username,
            handled_at: Some(clock::now().into()),
            peer_address: address.to_string(),
            ..OperationRecord::default()
        };
        (self.record)(record).await;
        Ok(())
    }
}

fn username(session: &IdentifiedSession) -> &str {
    session.session.as_ref().map(|session| session.username.as_str()).unwrap_or_default()
}

fn address(session: &IdentifiedSession) -> SocketAddrV4 {
    let endpoint = session.session.as_ref().and_then(|session| session.endpoint).unwrap_or_default();
    SocketAddrV4::new(Ipv4Addr::from_bits(endpoint.ipv4), u16::try_from(endpoint.port).unwrap_or_default())
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = || Status::deadline_exceeded("a service does not answer in time");
    time::timeout(DEADLINE, answer).await.unwrap_or_else(|_| Err(late()))
}
