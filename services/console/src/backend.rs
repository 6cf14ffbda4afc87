//! How the console calls services: with a deadline, and with the service's name in a failure.

use std::time::Duration;

use lonja_proto::registry::{IdentifiedSession, LookUpSessionsRequest, RegistryClient};
use tokio::time;
use tonic::Status;

/// How long a service may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// Asks the registry for the sessions of those `usernames` that are online.
pub(crate) async fn look_up(
    registry: &RegistryClient,
    usernames: Vec<String>,
) -> Result<Vec<IdentifiedSession>, Status> {
    let found = in_time("registry", registry.look_up_sessions(LookUpSessionsRequest { usernames })).await?;
    Ok(found.sessions)
}

/// Waits for the answer of a service, for [`DEADLINE`] at most. The message of a failure begins
/// with the service's name.
pub(crate) async fn in_time<T>(
    service: &str,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match time::timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(said_by(service, &status)),
        Err(_) => Err(Status::deadline_exceeded(format!("{service}: no answer in time"))),
    }
}

/// Makes a failure whose message begins with the name of the service that failed.
pub(crate) fn said_by(service: &str, status: &Status) -> Status {
    Status::new(status.code(), format!("{service}: {}", status.message()))
}
