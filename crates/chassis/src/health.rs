//! Whether each service of this process can do its work.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use metrics::gauge;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How often a service is asked whether it is ready.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a service may take to answer; a service that takes longer is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// A function that asks a service whether it is ready.
type Probe<'a> = Box<dyn Fn() -> BoxFuture<'a, bool> + Send + Sync + 'a>;

/// The services of this process and whether each is ready. Clones share one table.
#[derive(Clone)]
pub struct Health {
    table: Arc<RwLock<Vec<(&'static str, bool)>>>,
    reporter: HealthReporter,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Makes a table without services, which is not ready.
    #[must_use]
    pub fn new() -> Self {
        Self { table: Arc::default(), reporter: HealthReporter::new() }
    }

    /// The reporter that tells callers of `grpc.health.v1` what this table holds.
    #[must_use]
    pub fn reporter(&self) -> HealthReporter {
        self.reporter.clone()
    }

    /// Notes whether a service is ready: in this table, for callers of `grpc.health.v1`, and in the metric
    /// `lonja_ready`.
    pub async fn set(&self, service: &'static str, ready: bool) {
        {
            let mut table = self.table.write();
            match table.iter_mut().find(|row| row.0 == service) {
                Some(row) => row.1 = ready,
                None => table.push((service, ready)),
            }
        }
        gauge!("lonja_ready", "service" => service).set(f64::from(u8::from(ready)));
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(service, status).await;
        // The empty name stands for the whole process, which tonic reports as ready from the start.
        let all = if self.ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status("", all).await;
    }

    /// Whether there is a service, and every service is ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        let table = self.table.read();
        !table.is_empty() && table.iter().all(|row| row.1)
    }

    /// A line for each service: its name and `ready` or `not ready`.
    #[must_use]
    pub fn describe(&self) -> String {
        let table = self.table.read();
        let line =
            |(name, ready): &(&str, bool)| format!("{name} {}\n", if *ready { "ready" } else { "not ready" });
        table.iter().map(line).collect()
    }

    /// Asks `probe` every second whether a service is ready and notes the answer, until shutdown.
    /// From then on the service is not ready.
    pub fn watch<'a, F>(
        &'a self,
        service: &'static str,
        shutdown: CancellationToken,
        probe: impl Fn() -> F + Send + Sync + 'a,
    ) -> BoxFuture<'a, ()>
    where
        F: Future<Output = bool> + Send + 'a,
    {
        self.ask_boxed(service, shutdown, Box::new(move || Box::pin(probe())))
    }

    /// Does the work of [`Health::watch`]. This function is not generic, so that the loop is
    /// compiled here and not once more for each probe.
    fn ask_boxed<'a>(
        &'a self,
        service: &'static str,
        shutdown: CancellationToken,
        probe: Probe<'a>,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.ask_until(service, shutdown, probe))
    }

    async fn ask_until(&self, service: &'static str, shutdown: CancellationToken, probe: Probe<'_>) {
        let mut was = None;
        while !shutdown.is_cancelled() {
            let ready = tokio::time::timeout(PATIENCE, probe()).await.unwrap_or(false);
            if was.replace(ready) != Some(ready) {
                if !ready {
                    tracing::warn!(service, "not ready");
                }
                self.set(service, ready).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
        self.set(service, false).await;
    }
}
