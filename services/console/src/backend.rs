//! The console's clients of the services that it asks.

use std::time::Duration;

use lonja_chassis::service::BackendChannels;
use lonja_proto::{
    audit::audit_service_client::AuditServiceClient,
    catalog::catalog_service_client::CatalogServiceClient,
    registry::{self, registry_service_client::RegistryServiceClient},
};
use lonja_rpc::Channel;
use tokio::time;
use tonic::{Response, Status};

/// How long a service may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// Clients of the three services. Clones share connections.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) registry: RegistryServiceClient<Channel>,
    pub(crate) catalog: CatalogServiceClient<Channel>,
    pub(crate) audit: AuditServiceClient<Channel>,
}

impl Backend {
    pub(crate) fn new(channels: BackendChannels) -> Self {
        Self {
            registry: RegistryServiceClient::new(channels.registry),
            catalog: CatalogServiceClient::new(channels.catalog),
            audit: AuditServiceClient::new(channels.audit),
        }
    }

    /// Asks the registry for the sessions of those `usernames` that are online.
    pub(crate) async fn look_up(
        &mut self,
        usernames: Vec<String>,
    ) -> Result<Vec<registry::IdentifiedSession>, Status> {
        let request = registry::LookUpSessionsRequest { usernames };
        let found = in_time("registry", self.registry.look_up_sessions(request)).await?;
        Ok(found.sessions)
    }
}

/// Waits for the answer of a service, for [`DEADLINE`] at most. The message of a failure begins
/// with the service's name.
pub(crate) async fn in_time<T>(
    service: &str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match time::timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(said_by(service, &status)),
        Err(_) => Err(Status::deadline_exceeded(format!("{service}: no answer in time"))),
    }
}

/// Makes a failure whose message begins with the name of the service that failed.
pub(crate) fn said_by(service: &str, status: &Status) -> Status {
    Status::new(status.code(), format!("{service}: {}", status.message()))
}
