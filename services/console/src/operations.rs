//! Operations as they are recorded, and those of the past.

use futures_util::{StreamExt as _, stream};
use lonja_proto::{
    audit,
    console::{
        ListOperationsRequest, ListOperationsResponse, WatchOperationsRequest, WatchOperationsResponse,
    },
};
use tokio::{sync::OwnedSemaphorePermit, time};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    backend::{Backend, in_time},
    watch::{Answers, BEAT},
};

/// Follows the audit, until shutdown or a failure.
pub(crate) async fn watch(
    mut backend: Backend,
    request: WatchOperationsRequest,
    place: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) -> Result<Answers<WatchOperationsResponse>, Status> {
    let WatchOperationsRequest { filter, newest, sample_size, page_token } = request;
    let request = audit::TailOperationsRequest { filter, page_token, newest, sample_size };
    let pages = in_time("audit", backend.audit.tail_operations(request)).await?;
    // That the first answer is on its way at once: there may be nothing to tell.
    let hello = stream::iter([Ok(beat())]);
    let following = stream::try_unfold((pages, place, shutdown), async |(mut pages, place, shutdown)| {
        let page = shutdown.run_until_cancelled(next(&mut pages)).await;
        Ok(page.transpose()?.flatten().map(|answer| (answer, (pages, place, shutdown))))
    });
    Ok(Box::pin(hello.chain(following)))
}

async fn next(
    pages: &mut Streaming<audit::TailOperationsResponse>,
) -> Result<Option<WatchOperationsResponse>, Status> {
    let Ok(page) = time::timeout(BEAT, pages.message()).await else { return Ok(Some(beat())) };
    Ok(page?.map(|page| WatchOperationsResponse {
        beat: false,
        records: page.records,
        skipped: page.skipped,
        next_page_token: page.next_page_token,
    }))
}

fn beat() -> WatchOperationsResponse {
    WatchOperationsResponse { beat: true, ..WatchOperationsResponse::default() }
}

/// Gives what is recorded already, oldest first.
pub(crate) async fn list(
    mut backend: Backend,
    request: ListOperationsRequest,
    place: OwnedSemaphorePermit,
) -> Result<Answers<ListOperationsResponse>, Status> {
    let request =
        audit::ListOperationsRequest { filter: request.filter, ..audit::ListOperationsRequest::default() };
    let pages = in_time("audit", backend.audit.list_operations(request)).await?;
    Ok(Box::pin(pages.map(move |page| {
        let _held_until_the_end = &place;
        page.map(|page| ListOperationsResponse { records: page.records })
    })))
}
