//! Follows records as they are stored: all records, or as many as a person can look at.

use std::time::Duration;

use lonja_proto::audit::TailOperationsResponse;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    reader::{Page, Reader},
    store::Store,
};

/// The least time between two samples.
const INTERVAL: Duration = Duration::from_millis(250);

/// Gives records as they are stored.
pub(crate) struct Sampler<S> {
    reader: Reader<S>,
    /// The largest number of records in a sample; 0 gives all records.
    size: usize,
    /// When the next sample may be taken.
    next: Instant,
    shutdown: CancellationToken,
}

impl<S: Store> Sampler<S> {
    pub(crate) fn new(reader: Reader<S>, size: usize, shutdown: CancellationToken) -> Self {
        Self { reader, size, next: Instant::now(), shutdown }
    }

    /// Gives the next page that is not empty; `None` at shutdown.
    pub(crate) async fn page(&mut self) -> Result<Option<TailOperationsResponse>, Status> {
        loop {
            if self.size > 0 && self.stopped_during(time::sleep_until(self.next)).await {
                return Ok(None);
            }
            let Page { mut records, is_end } = self.reader.page().await?;
            if records.is_empty() {
                if is_end && self.stopped_during(self.reader.wait()).await {
                    return Ok(None);
                }
                continue;
            }
            let mut skipped = 0;
            if self.size > 0 {
                // Everything that is there is read, so that the sample has the newest records.
                let until = Instant::now() + INTERVAL;
                while Instant::now() < until {
                    let more = self.reader.page().await?;
                    records.extend(more.records);
                    let surplus = records.len().saturating_sub(self.size);
                    skipped += surplus as u64;
                    records.drain(..surplus);
                    if more.is_end {
                        break;
                    }
                }
                self.next = Instant::now() + INTERVAL;
            }
            let next_page_token = self.reader.position().to_string();
            return Ok(Some(TailOperationsResponse { records, next_page_token, skipped }));
        }
    }

    async fn stopped_during(&self, wait: impl Future<Output = ()>) -> bool {
        self.shutdown.run_until_cancelled(wait).await.is_none()
    }
}
