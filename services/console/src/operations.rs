//! Operations as they are recorded, and operations that are recorded already.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lonja_chassis::service::Backends;
use lonja_proto::{
    audit,
    console::{
        ListOperationsRequest, ListOperationsResponse, WatchOperationsRequest, WatchOperationsResponse,
    },
};
use lonja_rpc::Pages;
use tokio::{sync::OwnedSemaphorePermit, time};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    backend::{in_time, said_by},
    watch::{Answers, BEAT},
};

/// Follows the audit, until shutdown or a failure.
pub(crate) async fn watch(
    backend: Backends,
    request: WatchOperationsRequest,
    jaeger_url: String,
    place: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) -> Result<Answers<WatchOperationsResponse>, Status> {
    let WatchOperationsRequest { filter, newest, sample_size, page_token } = request;
    let request = audit::TailOperationsRequest { filter, page_token, newest, sample_size };
    let pages = in_time("audit", backend.audit.tail_operations(request)).await?;
    let following = Following { pages, page_token: String::new(), jaeger_url, _place: place };
    Ok(Box::pin(stream::try_unfold((following, shutdown), async |(mut following, shutdown)| {
        let answer = shutdown.run_until_cancelled(following.next()).await;
        Ok(answer.transpose()?.flatten().map(|answer| (answer, (following, shutdown))))
    })))
}

struct Following {
    pages: Pages<audit::TailOperationsResponse>,
    /// Where the last page stopped: a caller can go on from there.
    page_token: String,
    jaeger_url: String,
    _place: OwnedSemaphorePermit,
}

impl Following {
    async fn next(&mut self) -> Result<Option<WatchOperationsResponse>, Status> {
        let page = match time::timeout(BEAT, self.pages.try_next()).await {
            Ok(page) => page.map_err(|status| said_by("audit", &status))?,
            Err(_) => Some(audit::TailOperationsResponse::default()),
        };
        let Some(page) = page else { return Ok(None) };
        if !page.next_page_token.is_empty() {
            self.page_token = page.next_page_token;
        }
        Ok(Some(WatchOperationsResponse {
            beat: page.records.is_empty(),
            records: page.records,
            skipped: page.skipped,
            next_page_token: self.page_token.clone(),
            jaeger_url: self.jaeger_url.clone(),
        }))
    }
}

/// Lists the operations that are recorded already, oldest first.
pub(crate) async fn list(
    backend: Backends,
    request: ListOperationsRequest,
    place: OwnedSemaphorePermit,
) -> Result<Answers<ListOperationsResponse>, Status> {
    let request =
        audit::ListOperationsRequest { filter: request.filter, ..audit::ListOperationsRequest::default() };
    let pages = in_time("audit", backend.audit.list_operations(request)).await?;
    Ok(Box::pin(pages.map(move |page| {
        let _held_until_the_end = &place;
        let page = page.map_err(|status| said_by("audit", &status))?;
        Ok(ListOperationsResponse { records: page.records })
    })))
}
