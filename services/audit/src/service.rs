//! The audit over gRPC: messages in, messages out.

use std::{fmt::Write as _, pin::Pin};

use futures_util::{Stream, stream};
use lonja_chassis::{operation_log::OperationLog, text::Printable};
use lonja_proto::audit::{
    ListOperationsRequest, ListOperationsResponse, Operation, OperationFilter, OperationRecord,
    RecordOperationsRequest, RecordOperationsResponse, TailOperationsRequest, TailOperationsResponse,
    audit_service_server::AuditService,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    filter::matches,
    store::{Batch, Position, Store},
};

/// Records that may be stored at once.
const MAX_BATCH: usize = 4096;
/// Records in a page, where the caller does not say.
const PAGE: usize = 512;
/// Records in a page at most.
const MAX_PAGE: usize = 4096;

/// Answers `lonja.audit.v1` from a store.
#[derive(Debug, Clone)]
pub struct AuditGrpc<S> {
    store: S,
    lines: OperationLog,
    shutdown: CancellationToken,
}

impl<S: Store + Clone> AuditGrpc<S> {
    /// A service on this store, which prints a line for each operation and ends its
    /// tails at shutdown.
    pub fn new(store: S, lines: OperationLog, shutdown: CancellationToken) -> Self {
        Self { store, lines, shutdown }
    }

    /// The record's line, as docs/protocol.md 4 has it.
    fn line(record: &OperationRecord) -> String {
        let mut line = String::new();
        let operation = record.operation();
        let name = operation.as_str_name().trim_start_matches("OPERATION_");
        let user = Printable(&record.username);
        let datetime = Printable(&record.claimed_datetime);
        let file = Printable(&record.subject);
        // Writing to a string cannot fail.
        let _ = match operation {
            Operation::Publish | Operation::Delete => write!(line, "{user}\t{name}\t{file}\t{datetime}"),
            _ => write!(line, "{user}\t{name}\t{datetime}"),
        };
        line
    }
}

fn position(token: &str) -> Result<Position, Status> {
    token.parse().map_err(|_| Status::invalid_argument("page_token: not one that this service gave"))
}

/// A reader's place among the records.
struct Reader<S> {
    store: S,
    filter: OperationFilter,
    size: usize,
    position: Position,
    /// Read, but not given out yet.
    ahead: std::vec::IntoIter<(Position, OperationRecord)>,
}

impl<S: Store> Reader<S> {
    fn new(store: S, filter: Option<OperationFilter>, size: u32, position: Position) -> Self {
        let size = match size as usize {
            0 => PAGE,
            size => size.min(MAX_PAGE),
        };
        Self { store, filter: filter.unwrap_or_default(), size, position, ahead: Vec::new().into_iter() }
    }

    /// The next records that match, at most a page of them; none at the end.
    async fn page(&mut self) -> Result<Vec<OperationRecord>, Status> {
        let mut page = Vec::new();
        while page.len() < self.size {
            match self.ahead.next() {
                Some((behind, record)) => {
                    self.position = behind;
                    if matches(&self.filter, &record) {
                        page.push(record);
                    }
                }
                None => {
                    let end = self.store.end().await?;
                    let read = self.store.read(self.position).await?;
                    if read.is_empty() {
                        // Nothing lies between: waiting must not begin inside a row.
                        self.position = self.position.max(end);
                        break;
                    }
                    self.ahead = read.into_iter();
                }
            }
        }
        Ok(page)
    }
}

type Pages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Store + Clone> AuditService for AuditGrpc<S> {
    type ListOperationsStream = Pages<ListOperationsResponse>;
    type TailOperationsStream = Pages<TailOperationsResponse>;

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
        let lines: Vec<_> = match self.lines.is_on() {
            true => batch.records.iter().map(Self::line).collect(),
            false => Vec::new(),
        };
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
            let records = reader.page().await?;
            if records.is_empty() {
                return Ok(None);
            }
            let page = ListOperationsResponse { records, next_page_token: reader.position.to_string() };
            Ok(Some((page, (reader, left - 1))))
        };
        Ok(Response::new(Box::pin(stream::try_unfold((reader, pages), next))))
    }

    async fn tail_operations(
        &self,
        request: Request<TailOperationsRequest>,
    ) -> Result<Response<Self::TailOperationsStream>, Status> {
        let request = request.into_inner();
        let from = match request.page_token.as_str() {
            "" => self.store.end().await?,
            token => position(token)?,
        };
        let reader = Reader::new(self.store.clone(), request.filter, 0, from);
        let next = |(mut reader, shutdown): (Reader<S>, CancellationToken)| async move {
            loop {
                let records = reader.page().await?;
                if !records.is_empty() {
                    let page =
                        TailOperationsResponse { records, next_page_token: reader.position.to_string() };
                    return Ok(Some((page, (reader, shutdown))));
                }
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(None),
                    () = reader.store.wait_beyond(reader.position) => {}
                }
            }
        };
        Ok(Response::new(Box::pin(stream::try_unfold((reader, self.shutdown.clone()), next))))
    }
}
