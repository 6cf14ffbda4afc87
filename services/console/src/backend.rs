//! How the console calls services: with a deadline, and with the service's name in a failure.

use std::time::Duration;

use futures_util::{Stream, TryStreamExt as _, stream};
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

/// Gives the pages of a service, each of which must come in time, as [`in_time`] has it.
pub(crate) fn pages_in_time<T>(
    service: &'static str,
    pages: impl Stream<Item = Result<T, Status>> + Unpin,
) -> impl Stream<Item = Result<T, Status>> {
    stream::try_unfold(pages, move |mut pages| async move {
        let page = in_time(service, pages.try_next()).await?;
        Ok(page.map(|page| (page, pages)))
    })
}

/// Makes a failure whose message begins with the name of the service that failed.
pub(crate) fn said_by(service: &str, status: &Status) -> Status {
    Status::new(status.code(), format!("{service}: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_page_that_does_not_come_ends_the_pages() {
        let first = stream::iter([Ok(1)]);
        let pages: Vec<_> = pages_in_time("registry", first.chain(stream::pending())).collect().await;
        assert_eq!(pages[0].as_ref().unwrap(), &1);
        let late = pages[1].as_ref().unwrap_err();
        assert_eq!((late.code(), late.message()), (Code::DeadlineExceeded, "registry: no answer in time"));
        assert_eq!(pages.len(), 2);
    }
}
