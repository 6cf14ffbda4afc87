//! The gateway's clients of the other services.

use std::time::Duration;

use lonja_chassis::{rpc::Channel, service::BackendChannels, throttle::Throttle};
use lonja_proto::{
    Reason,
    catalog::{self, catalog_service_client::CatalogServiceClient},
    registry::{self, registry_service_client::RegistryServiceClient},
};
use lonja_wire::Outcome;
use tokio::time;
use tonic::Status;

/// What the services may take for one request of a peer. A service that is down costs
/// the peer its failure status after this long, never a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// The three services. Clones share connections.
#[derive(Debug, Clone)]
pub struct Backend {
    pub(crate) registry: Channel,
    pub(crate) catalog: Channel,
    pub(crate) audit: Channel,
}

impl Backend {
    /// The services behind these channels.
    #[must_use]
    pub fn new(channels: BackendChannels) -> Self {
        let BackendChannels { registry, catalog, audit } = channels;
        Self { registry, catalog, audit }
    }

    /// The registry, for methods that [`Channel::call_unary`] does not know.
    pub(crate) fn registry_client(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.registry.clone())
    }

    /// The catalog, likewise.
    pub(crate) fn catalog_client(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.catalog.clone())
    }

    /// Whether peers can be served: registry and catalog answer.
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

/// While a service is down every request fails; not every one has to say so.
static FAILURES: Throttle = Throttle::events();

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
