//! The gateway's clients of the other services.

use std::time::Duration;

use lonja_chassis::service::BackendChannels;
use lonja_proto::{
    Reason,
    catalog::{self, catalog_service_client::CatalogServiceClient},
    registry::{self, registry_service_client::RegistryServiceClient},
};
use lonja_rpc::Channel;
use lonja_telemetry::throttle::Throttle;
use lonja_wire::Outcome;
use tokio::time;
use tonic::Status;

/// How long the services together may take for one request of a peer, unless a service holds the
/// request. When a service does not answer in this time, the peer gets the status "any other failure"
/// (docs/protocol.md 3).
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// Channels to the three services that the gateway calls. Clones share connections.
#[derive(Debug, Clone)]
pub struct Backend {
    pub(crate) registry: Channel,
    pub(crate) catalog: Channel,
    pub(crate) audit: Channel,
}

impl Backend {
    /// A backend of the services behind `channels`.
    #[must_use]
    pub fn new(channels: BackendChannels) -> Self {
        let BackendChannels { registry, catalog, audit } = channels;
        Self { registry, catalog, audit }
    }

    /// A client for the registry's methods that [`Channel::call_unary`] does not know.
    pub(crate) fn registry_client(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.registry.clone())
    }

    /// A client for the catalog's methods that [`Channel::call_unary`] does not know.
    pub(crate) fn catalog_client(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.catalog.clone())
    }

    /// Whether registry or catalog hold calls, because their store is being restarted.
    pub(crate) fn is_held(&self) -> bool {
        self.registry.is_held() || self.catalog.is_held()
    }

    /// Whether peers can be served: registry and catalog answer within two seconds.
    pub async fn is_ready(&self) -> bool {
        let (mut registry, mut catalog) = (self.registry_client(), self.catalog_client());
        let both = async {
            tokio::try_join!(
                registry.get_statistics(registry::GetStatisticsRequest {}),
                catalog.get_statistics(catalog::GetStatisticsRequest {}),
            )
        };
        matches!(time::timeout(DEADLINE, both).await, Ok(Ok(_)))
    }
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
fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::UserExists => Outcome::AlreadyRegistered,
        Reason::UserNotFound => Outcome::NotRegistered,
        Reason::SessionExists => Outcome::AlreadyConnected,
        Reason::SessionNotFound | Reason::SessionEnded => Outcome::NotConnected,
        Reason::RemoteUserNotFound => Outcome::RemoteNotRegistered,
        Reason::FileExists => Outcome::AlreadyPublished,
        Reason::FileNotFound => Outcome::NotPublished,
        Reason::TooManyFiles => Outcome::Failed,
    }
}
