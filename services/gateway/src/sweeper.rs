//! Removes what a crash left in the catalog: lists of sessions that are over.
//!
//! Peers cannot see such a list, since a list is found through a live session only, but the list
//! takes room. The gateway removes these lists because it alone may ask the registry and change the
//! catalog.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use lonja_chassis::service::Backends;
use lonja_proto::{
    catalog::{EndSessionRequest, ListSessionsRequest},
    registry::{FindEndedSessionsRequest, SessionKey},
};
use lonja_rpc::HELD_AT_MOST;
use metrics::counter;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The number of sessions that one call to the registry asks about: as many as the registry allows.
const PAGE: u32 = 1000;

/// Sweeps the catalog once in each `interval` until shutdown.
pub(crate) async fn sweep_until(shutdown: CancellationToken, interval: Duration, backend: Backends) {
    let swept = counter!("lonja_gateway_swept_sessions_total");
    while time::timeout(interval, shutdown.cancelled()).await.is_err() {
        match shutdown.run_until_cancelled(sweep(&backend)).await {
            Some(Ok(0)) | None => {}
            Some(Ok(sessions)) => {
                swept.increment(sessions);
                tracing::info!(sessions, "removed what ended sessions had published");
            }
            Some(Err(status)) => tracing::warn!(
                error = status.message(),
                "cannot remove the files of ended sessions from the catalog"
            ),
        }
    }
}

/// Ends those sessions in the catalog that are over in the registry, and returns their number.
async fn sweep(backend: &Backends) -> Result<u64, Status> {
    let mut pages = backend.catalog.list_sessions(ListSessionsRequest { page_size: PAGE }).await?;
    let mut swept = 0;
    let late = || Status::deadline_exceeded("catalog: a page of sessions does not come");
    while let Some(page) = time::timeout(HELD_AT_MOST, pages.try_next()).await.map_err(|_| late())?? {
        let key = |session: lonja_proto::catalog::PublishingSession| SessionKey {
            username: session.username,
            session_id: session.session_id,
        };
        let sessions = page.sessions.into_iter().map(key).collect();
        let ended = backend.registry.find_ended_sessions(FindEndedSessionsRequest { sessions }).await?;
        for session_id in ended.ended_session_ids {
            backend.catalog.end_session(EndSessionRequest { session_id }).await?;
            swept += 1;
        }
    }
    Ok(swept)
}
