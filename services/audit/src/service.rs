//! The audit's gRPC service: it checks requests, asks the store and makes responses.

use futures_util::{StreamExt as _, stream};
use lonja_chassis::{clock::unix_ms, operation_log::OperationLog};
use lonja_proto::audit::{
    CountOperationsRequest, CountOperationsResponse, ListOperationsRequest, ListOperationsResponse,
    OperationRecord, RecordOperationsRequest, RecordOperationsResponse, TailOperationsRequest,
    TailOperationsResponse, audit_service_server::AuditService,
};
use lonja_rpc::Pages;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    counts::{self, Counter},
    filter::matches,
    line::line,
    reader::{self, Page, Reader},
    sample::Sampler,
    store::{Batch, Position, Store},
};

/// The largest number of records that one call may store.
const MAX_BATCH: usize = 4096;
/// The largest number of newest records that a tail may begin with.
const MAX_NEWEST: u32 = 1000;
/// The largest number of records in a sample.
const MAX_SAMPLE: u32 = 4096;
/// The largest number of seconds of the past that may be counted.
const MAX_PAST: u32 = 600;

/// Answers `lonja.audit.v1` from a store.
#[derive(Debug)]
pub(crate) struct AuditGrpc<S> {
    store: S,
    lines: OperationLog,
    shutdown: CancellationToken,
}

impl<S: Store + Clone> AuditGrpc<S> {
    /// Makes a service on this store, which prints a line for each operation and ends tails and
    /// counts at shutdown.
    pub(crate) fn new(store: S, lines: OperationLog, shutdown: CancellationToken) -> Self {
        Self { store, lines, shutdown }
    }
}

fn position(token: &str) -> Result<Position, Status> {
    token.parse().map_err(|_| Status::invalid_argument("page_token: this service gave no such token"))
}

#[tonic::async_trait]
impl<S: Store + Clone> AuditService for AuditGrpc<S> {
    type ListOperationsStream = Pages<ListOperationsResponse>;
    type TailOperationsStream = Pages<TailOperationsResponse>;
    type CountOperationsStream = Pages<CountOperationsResponse>;

    async fn record_operations(
        &self,
        request: Request<RecordOperationsRequest>,
    ) -> Result<Response<RecordOperationsResponse>, Status> {
        let RecordOperationsRequest { writer_id, first_sequence, records } = request.into_inner();
        if writer_id.is_empty() || writer_id.len() > 64 || first_sequence == 0 || records.len() > MAX_BATCH {
            return Err(Status::invalid_argument(
                "writer_id: 1 to 64 bytes; first_sequence: from 1; records: at most 4096",
            ));
        }
        let batch = Batch { writer_id, first_sequence, records };
        let last_sequence = batch.last_sequence();
        let lines: Vec<_> =
            if self.lines.is_on() { batch.records.iter().map(line).collect() } else { Vec::new() };
        let known = self.store.record(batch).await?;
        lines.iter().skip(known).for_each(|line| self.lines.line(|lines| lines.push_str(line)));
        Ok(Response::new(RecordOperationsResponse { last_sequence }))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<Self::ListOperationsStream>, Status> {
        let request = request.into_inner();
        let from = match request.page_token.as_str() {
            "" => Position::default(),
            token => position(token)?,
        };
        let reader = Reader::new(self.store.clone(), request.filter, request.page_size, from);
        let pages = match request.max_pages {
            0 => u32::MAX,
            pages => pages,
        };
        let next = |(mut reader, left): (Reader<S>, u32)| async move {
            if left == 0 {
                return Ok(None);
            }
            let Page { records, is_end } = reader.page().await?;
            if records.is_empty() && is_end {
                return Ok(None);
            }
            let page = ListOperationsResponse { records, next_page_token: reader.position().to_string() };
            Ok(Some((page, (reader, left - 1))))
        };
        Ok(Response::new(Box::pin(stream::try_unfold((reader, pages), next))))
    }

    async fn tail_operations(
        &self,
        request: Request<TailOperationsRequest>,
    ) -> Result<Response<Self::TailOperationsStream>, Status> {
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let (first, from) = match request.page_token.as_str() {
            "" => {
                let count = request.newest.min(MAX_NEWEST) as usize;
                let is_wanted = |record: &OperationRecord| matches(&filter, record);
                let newest = reader::newest(&self.store, count, is_wanted, |_| false).await?;
                (newest.records, newest.behind)
            }
            token => (Vec::new(), position(token)?),
        };
        let reader = Reader::new(self.store.clone(), Some(filter), 0, from);
        let sample = request.sample_size.min(MAX_SAMPLE) as usize;
        let sampler = Sampler::new(reader, sample, self.shutdown.clone());
        // The first page is sent even if it is empty, so that a caller that is cut off knows where
        // to go on.
        let first = TailOperationsResponse { records: first, next_page_token: from.to_string(), skipped: 0 };
        let next = async |mut sampler: Sampler<S>| {
            let page = sampler.page().await?;
            Ok(page.map(|page| (page, sampler)))
        };
        let pages = stream::try_unfold(sampler, next);
        Ok(Response::new(Box::pin(stream::iter([Ok(first)]).chain(pages))))
    }

    async fn count_operations(
        &self,
        request: Request<CountOperationsRequest>,
    ) -> Result<Response<Self::CountOperationsStream>, Status> {
        let past = request.get_ref().past_seconds.min(MAX_PAST);
        let now = unix_ms() / 1000;
        let wanted = now - i64::from(past);
        let is_past = |oldest: &OperationRecord| counts::second(oldest) < wanted;
        let newest = if past == 0 { 0 } else { usize::MAX };
        let newest = reader::newest(&self.store, newest, |_| true, is_past).await?;
        let since = match newest.records.first() {
            // Only a part of the oldest record's second may have been looked at.
            Some(oldest) if !newest.is_enough => counts::second(oldest) + 1,
            _ => wanted,
        };
        let reader = Reader::new(self.store.clone(), None, 0, newest.behind);
        let counter = Counter::new(reader, &newest.records, since, self.shutdown.clone());
        let next = async |mut counter: Counter<S>| {
            let page = counter.page().await?;
            Ok(page.map(|page| (page, counter)))
        };
        Ok(Response::new(Box::pin(stream::try_unfold(counter, next))))
    }
}
