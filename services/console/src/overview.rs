//! The overview: how many users and files there are, which operations happen, and whether the
//! services are ready.
//!
//! The services are asked once a second, however many callers look, and not at all while nobody
//! looks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, TryStreamExt as _, future::join_all, stream};
use lonja_chassis::{clock::unix_ms, service::Backends};
use lonja_proto::{
    audit::{CountOperationsRequest, CountOperationsResponse, OperationCount, SecondOfOperations},
    catalog,
    console::{ServiceHealth, WatchOverviewResponse},
    registry,
};
use lonja_rpc::Pages;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{backend::in_time, probe::Probes, watch::Answers};

/// How often the services are asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the audit may take to send its counts, which it sends every second.
const COUNTS: Duration = Duration::from_secs(3);
/// The number of past seconds whose counts are kept.
const PAST: u32 = 600;

/// The overview that all callers share. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Overview {
    shared: Arc<SharedOverview>,
}

#[derive(Debug)]
struct SharedOverview {
    /// The last answer, without the history. `None` while nobody looks.
    latest: watch::Sender<Option<Arc<WatchOverviewResponse>>>,
    history: Mutex<History>,
    somebody_looks: Notify,
}

/// The counts of past seconds, each with the edition in which it changed last. Each [`Self::add`]
/// makes a new edition.
#[derive(Debug, Default)]
struct History {
    edition: u64,
    counted_since: i64,
    counted_until: i64,
    seconds: BTreeMap<i64, (u64, Vec<OperationCount>)>,
}

impl History {
    /// Adds counts that the audit sent in the second `now`. Seconds up to `now - 2` are then
    /// complete: `now` is not over, and counts of the second before may still be on the way.
    fn add(&mut self, counts: CountOperationsResponse, now: i64) {
        self.edition += 1;
        self.counted_since = counts.counted_since;
        self.counted_until = now - 2;
        for SecondOfOperations { unix_seconds, counts } in counts.seconds {
            let (edition, known) = self.seconds.entry(unix_seconds).or_default();
            *edition = self.edition;
            for new in counts {
                let same =
                    |one: &&mut OperationCount| one.operation == new.operation && one.status == new.status;
                match known.iter_mut().find(same) {
                    Some(known) => known.count += new.count,
                    None => known.push(new),
                }
            }
        }
        while self.seconds.len() > PAST as usize {
            self.seconds.pop_first();
        }
    }

    /// The counts of those seconds that changed after `edition`, among the newest `seconds`.
    fn since(&self, edition: u64, seconds: usize) -> Vec<SecondOfOperations> {
        let skip = self.seconds.len().saturating_sub(seconds);
        let newest = self.seconds.iter().skip(skip);
        let changed = newest.filter(|(_, (changed, _))| *changed > edition);
        let second = |(unix_seconds, (_, counts)): (&i64, &(u64, Vec<OperationCount>))| SecondOfOperations {
            unix_seconds: *unix_seconds,
            counts: counts.clone(),
        };
        changed.map(second).collect()
    }
}

impl Overview {
    /// An overview, and the follower that has to run for it.
    pub(crate) fn new(backend: Backends, probes: Probes) -> (Self, Follower) {
        let shared = SharedOverview {
            latest: watch::Sender::new(None),
            history: Mutex::default(),
            somebody_looks: Notify::new(),
        };
        let overview = Self { shared: Arc::new(shared) };
        let follower = Follower { overview: overview.clone(), backend, probes };
        (overview, follower)
    }

    /// A stream of answers from now on, until shutdown.
    pub(crate) fn watch(
        &self,
        past_seconds: u32,
        jaeger_url: String,
        place: OwnedSemaphorePermit,
        shutdown: CancellationToken,
    ) -> Answers<WatchOverviewResponse> {
        let mut looks = self.shared.latest.subscribe();
        looks.mark_changed();
        self.shared.somebody_looks.notify_one();
        let shared = Arc::clone(&self.shared);
        let state = (looks, 0, place);
        Box::pin(stream::try_unfold(state, move |(mut looks, known, place)| {
            let (shared, jaeger_url, shutdown) = (Arc::clone(&shared), jaeger_url.clone(), shutdown.clone());
            async move {
                let look = async {
                    loop {
                        // The sender lives as long as the service.
                        looks.changed().await.ok()?;
                        if let Some(look) = looks.borrow_and_update().clone() {
                            return Some(look);
                        }
                    }
                };
                let Some(Some(look)) = shutdown.run_until_cancelled(look).await else { return Ok(None) };
                let history = shared.history.lock();
                let answer = WatchOverviewResponse {
                    seconds: history.since(known, past_seconds as usize),
                    counted_since: history.counted_since,
                    jaeger_url,
                    ..(*look).clone()
                };
                let edition = history.edition;
                drop(history);
                Ok(Some((answer, (looks, edition, place))))
            }
        }))
    }
}

/// Asks the services for the overview while somebody looks.
pub(crate) struct Follower {
    overview: Overview,
    backend: Backends,
    probes: Probes,
}

impl Follower {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let shared = Arc::clone(&self.overview.shared);
        let follow = async {
            loop {
                shared.somebody_looks.notified().await;
                self.follow().await;
                shared.latest.send_replace(None);
            }
        };
        shutdown.run_until_cancelled(Box::pin(follow)).await;
    }

    /// Asks once a second until nobody looks.
    async fn follow(&mut self) {
        let shared = Arc::clone(&self.overview.shared);
        let mut counts = Counts::default();
        let mut next = Instant::now();
        while shared.latest.receiver_count() > 0 {
            next = (next + INTERVAL).max(Instant::now());
            let (mut statistics, ()) = tokio::join!(
                statistics(&self.backend, &self.probes),
                counts.read(&self.backend, &shared.history),
            );
            statistics.counted_until = counts.problem.is_none().then(|| shared.history.lock().counted_until);
            let audit = health("audit", counts.problem.clone());
            statistics.services.push(audit);
            statistics.services.sort_by(|one, other| one.name.cmp(&other.name));
            shared.latest.send_replace(Some(Arc::new(statistics)));
            time::sleep_until(next).await;
        }
    }
}

/// Reads the audit's counts as they come.
#[derive(Default)]
struct Counts {
    stream: Option<Pages<CountOperationsResponse>>,
    /// Why the counts could not be read, if they could not.
    problem: Option<Status>,
}

impl Counts {
    async fn read(&mut self, backend: &Backends, history: &Mutex<History>) {
        self.problem = match time::timeout(COUNTS, self.try_read(backend, history)).await {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(status),
            Err(_) => Some(Status::deadline_exceeded("audit: no answer in time")),
        };
        if self.problem.is_some() {
            self.stream = None;
        }
    }

    async fn try_read(&mut self, backend: &Backends, history: &Mutex<History>) -> Result<(), Status> {
        if self.stream.is_none() {
            let request = CountOperationsRequest { past_seconds: PAST };
            self.stream = Some(in_time("audit", backend.audit.count_operations(request)).await?);
            // A new stream begins with the past again.
            history.lock().seconds.clear();
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut next = Some(stream.try_next().await);
        // All counts that have come are read: a round may take longer than the audit's second.
        while let Some(counts) = next {
            let counts = counts?.ok_or_else(|| Status::unavailable("audit: it is stopping"))?;
            history.lock().add(counts, unix_ms() / 1000);
            next = stream.try_next().now_or_never();
        }
        Ok(())
    }
}

async fn statistics(backend: &Backends, probes: &Probes) -> WatchOverviewResponse {
    let Backends { registry, catalog, .. } = backend;
    let asked = join_all(probes.0.iter().map(|(name, probe)| probe.ask(name)));
    let (users, files, mut services) = tokio::join!(
        in_time("registry", registry.get_statistics(registry::GetStatisticsRequest {})),
        in_time("catalog", catalog.get_statistics(catalog::GetStatisticsRequest {})),
        asked,
    );
    services.push(health("registry", users.as_ref().err().cloned()));
    services.push(health("catalog", files.as_ref().err().cloned()));
    WatchOverviewResponse {
        registered_users: users.as_ref().ok().map(|users| users.users),
        online_users: users.as_ref().ok().map(|users| users.sessions),
        published_files: files.as_ref().ok().map(|files| files.files),
        services,
        ..WatchOverviewResponse::default()
    }
}

fn health(name: &str, problem: Option<Status>) -> ServiceHealth {
    let problem = problem.map(|status| status.message().to_owned());
    ServiceHealth { name: name.to_owned(), ready: problem.is_none(), problem: problem.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(unix_seconds: i64, count: u64) -> CountOperationsResponse {
        let counts = vec![OperationCount { operation: 1, status: 0, count }];
        CountOperationsResponse {
            seconds: vec![SecondOfOperations { unix_seconds, counts }],
            counted_since: 0,
        }
    }

    #[test]
    fn a_caller_gets_each_second_that_changed() {
        let mut history = History::default();
        (100..700).for_each(|second| history.add(counts(second, 1), second + 1));
        let first = history.since(0, 300);
        assert_eq!((first.len(), first[0].unix_seconds), (300, 400));
        let known = history.edition;
        assert!(history.since(known, 300).is_empty());
        // A record that came late belongs to its second.
        history.add(counts(698, 4), 700);
        let changed = history.since(known, 300);
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].unix_seconds, changed[0].counts[0].count), (698, 5));
        history.add(counts(700, 1), 701);
        assert_eq!(history.seconds.len(), PAST as usize);
        assert_eq!(history.seconds.first_key_value().unwrap().0, &101);
    }
}
