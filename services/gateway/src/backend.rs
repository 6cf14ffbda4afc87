//! What the answers of the other services mean to the gateway.

use std::time::Duration;

use lonja_chassis::service::Backends;
use lonja_proto::{Reason, catalog, registry};
use lonja_telemetry::throttle::Throttle;
use lonja_wire::Outcome;
use tokio::time;
use tonic::Status;

/// How long the services together may take for one request of a peer, unless a service holds the
/// request. When a service does not answer in this time, the peer gets the status "any other failure"
/// (docs/protocol.md 3).
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// Whether the registry or the catalog holds calls, because its store is being restarted.
pub(crate) fn is_held(services: &Backends) -> bool {
    services.registry.is_held() || services.catalog.is_held()
}

/// Whether peers can be served: registry and catalog answer within two seconds.
pub async fn is_ready(services: &Backends) -> bool {
    let both = async {
        tokio::try_join!(
            services.registry.get_statistics(registry::GetStatisticsRequest {}),
            services.catalog.get_statistics(catalog::GetStatisticsRequest {}),
        )
    };
    matches!(time::timeout(DEADLINE, both).await, Ok(Ok(_)))
}

/// Bounds the log of failed calls: while a service is down, every request fails.
static FAILURES: Throttle = Throttle::events();

/// The outcome of an operation that is not done: a refusal, or a failure that has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDone(pub(crate) Outcome);

impl From<Status> for NotDone {
    fn from(status: Status) -> Self {
        match Reason::try_from(&status) {
            Ok(reason) => Self(outcome(reason)),
            Err(_) => {
                if let Some(suppressed) = FAILURES.admit() {
                    tracing::warn!(code = ?status.code(), error = status.message(), suppressed, "a service failed");
                }
                Self(Outcome::Failed)
            }
        }
    }
}

/// The outcome that a refusal has for the peer. Which status stands for an outcome depends on the
/// operation (docs/protocol.md 3).
pub(crate) fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::UserExists => Outcome::AlreadyRegistered,
        Reason::UserNotFound => Outcome::NotRegistered,
        Reason::SessionExists => Outcome::AlreadyConnected,
        Reason::SessionNotFound | Reason::SessionEnded => Outcome::NotConnected,
        Reason::RemoteUserNotFound => Outcome::RemoteNotRegistered,
        Reason::FileExists => Outcome::AlreadyPublished,
        Reason::FileNotFound => Outcome::NotPublished,
        Reason::TooManyFiles | Reason::NotOwner => Outcome::Failed,
    }
}
