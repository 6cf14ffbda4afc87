//! Whether each service of this process can do its work.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How often a service is asked whether it is ready.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// No services yet.
    #[must_use]
    pub fn new() -> Self {
        Self { table: Arc::default(), reporter: HealthReporter::new() }
    }

    /// The gRPC health reporter behind it.
    #[must_use]
    pub fn reporter(&self) -> HealthReporter {
        self.reporter.clone()
    }

    /// Notes whether a service is ready.
    pub async fn set(&self, service: &'static str, ready: bool) {
        {
            let mut table = self.table.write();
            match table.iter_mut().find(|row| row.0 == service) {
                Some(row) => row.1 = ready,
                None => table.push((service, ready)),
            }
        }
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(service, status).await;
        // The empty name stands for the whole process; tonic reports it ready from birth.
        let all = if self.ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status("", all).await;
    }

    /// Whether every service is ready, and there is one.
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

    /// Asks `probe` every second and notes what it says, until shutdown.
    pub async fn watch<F>(&self, service: &'static str, shutdown: CancellationToken, probe: impl Fn() -> F)
    where
        F: Future<Output = bool>,
    {
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
