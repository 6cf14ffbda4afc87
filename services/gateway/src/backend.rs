//! The gateway's clients of the other services.

use std::time::Duration;

use lonja_chassis::{rpc::Channel, service::BackendChannels, throttle::Throttle};
use lonja_proto::{
    Reason,
    audit::audit_service_client::AuditServiceClient,
    catalog::{self, catalog_service_client::CatalogServiceClient},
    registry::{self, registry_service_client::RegistryServiceClient},
};
use lonja_wire::Outcome;
use tokio::time;
use tonic::Status;

/// What the services may take for one request of a peer. A service that is down costs
/// the peer its failure status after this long, never a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// What peers ask for most; what waits at the same moment travels together.
const REGISTRY_BATCHED: [&str; 6] = [
    "lonja.registry.v1.RegistryService/RegisterUser",
    "lonja.registry.v1.RegistryService/UnregisterUser",
    "lonja.registry.v1.RegistryService/OpenSession",
    "lonja.registry.v1.RegistryService/CloseSession",
    "lonja.registry.v1.RegistryService/GetSession",
    "lonja.registry.v1.RegistryService/GetRemoteSession",
];
const CATALOG_BATCHED: [&str; 3] = [
    "lonja.catalog.v1.CatalogService/PublishFile",
    "lonja.catalog.v1.CatalogService/DeleteFile",
    "lonja.catalog.v1.CatalogService/EndSession",
];

/// Clients of the three services. Clones share connections.
#[derive(Debug, Clone)]
pub struct Backend {
    pub(crate) registry: RegistryServiceClient<Channel>,
    pub(crate) catalog: CatalogServiceClient<Channel>,
    pub(crate) audit: AuditServiceClient<Channel>,
}

impl Backend {
    /// Clients on these channels.
    #[must_use]
    pub fn new(channels: BackendChannels) -> Self {
        Self {
            registry: RegistryServiceClient::new(channels.registry.batched(&REGISTRY_BATCHED)),
            catalog: CatalogServiceClient::new(channels.catalog.batched(&CATALOG_BATCHED)),
            audit: AuditServiceClient::new(channels.audit),
        }
    }

    /// Whether peers can be served: registry and catalog answer.
    pub async fn is_ready(&self) -> bool {
        let (mut registry, mut catalog) = (self.registry.clone(), self.catalog.clone());
        let both = async {
            tokio::try_join!(
                registry.get_statistics(registry::GetStatisticsRequest {}),
                catalog.get_statistics(catalog::GetStatisticsRequest {}),
            )
        };
        matches!(time::timeout(DEADLINE, both).await, Ok(Ok(_)))
    }
}

/// While a service is down every request fails; not every one has to say so.
static FAILURES: Throttle = Throttle::new();

/// Why an operation is not done: a refusal, or a failure that has been logged.
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

/// What a refusal means for the peer. Which status says so depends on the operation.
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
