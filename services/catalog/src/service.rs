//! The catalog's gRPC service: it checks requests, asks the store and makes responses.

use lonja_proto::{
    SessionId,
    catalog::{self as proto, catalog_service_server::CatalogService},
};
use lonja_rpc::{Pages, page_size};
use metrics::gauge;
use tonic::{Request, Response, Status};

use crate::{
    search::{Found, Search, SearchError, SearchQuery},
    store::{File, Listed, Store},
};

/// The largest size of a filename or a description, in bytes.
const MAX_NAME: usize = 255;
/// The number of files in a page of a session's list, when the caller does not say.
const PAGE: usize = 512;
/// The largest number of files in a page of a session's list.
const MAX_PAGE: usize = 4096;
/// The largest number of sessions in a page.
const MAX_SESSIONS_PAGE: usize = 1000;

/// The number of files in a page of found files, when the caller does not say.
const FOUND_PAGE: usize = 50;
/// The largest number of files in a page of found files.
const MAX_FOUND_PAGE: usize = 1000;
/// The largest number of found files that a caller may leave out before a page. A page costs what
/// all pages before that page cost.
const MAX_OFFSET: usize = 10_000;
/// The largest size of a query, in bytes.
const MAX_QUERY: usize = 1024;

/// Answers `lonja.catalog.v1` from a store, and searches in an index of that store.
#[derive(Debug)]
pub(crate) struct CatalogGrpc<S> {
    store: S,
    search: Search<S>,
}

impl<S: Store> CatalogGrpc<S> {
    /// Makes a service on this store and an index of the store.
    pub(crate) fn new(store: S, search: Search<S>) -> Self {
        Self { store, search }
    }
}

fn session_id(text: &str) -> Result<SessionId, Status> {
    text.parse().map_err(|_| Status::invalid_argument("session_id: not a ULID"))
}

fn file(file: Option<proto::File>) -> Result<File, Status> {
    let proto::File { filename, description } =
        file.ok_or_else(|| Status::invalid_argument("file: missing"))?;
    if filename.is_empty() || filename.len() > MAX_NAME || description.len() > MAX_NAME {
        return Err(Status::invalid_argument("filename: 1 to 255 bytes; description: at most 255 bytes"));
    }
    Ok(File { filename, description })
}

impl From<SearchError> for Status {
    fn from(error: SearchError) -> Self {
        Self::unavailable(error.to_string())
    }
}

fn search_query(request: proto::SearchFilesRequest) -> Result<SearchQuery, Status> {
    let offset = request.offset as usize;
    if offset > MAX_OFFSET || request.query.len() > MAX_QUERY {
        return Err(Status::invalid_argument("offset: at most 10000; query: at most 1024 bytes"));
    }
    let session = (!request.session_id.is_empty()).then(|| session_id(&request.session_id)).transpose()?;
    let limit = page_size(request.page_size, FOUND_PAGE, MAX_FOUND_PAGE);
    Ok(SearchQuery { text: request.query, session, offset, limit })
}

fn found(found: Found) -> proto::FoundFile {
    let Found { session, username, file: File { filename, description } } = found;
    proto::FoundFile { session_id: session, username, file: Some(proto::File { filename, description }) }
}

/// Splits a list into pages. An empty list gives one empty page.
fn pages<I: Send + 'static, T: 'static>(
    items: Vec<I>,
    size: usize,
    page: impl Fn(Vec<I>) -> T + Send + 'static,
) -> Response<Pages<T>> {
    let count = items.len().div_ceil(size).max(1);
    let mut items = items.into_iter();
    let pages = (0..count).map(move |_| Ok(page(items.by_ref().take(size).collect())));
    Response::new(Box::pin(tokio_stream::iter(pages)))
}

#[tonic::async_trait]
impl<S: Store> CatalogService for CatalogGrpc<S> {
    type ListFilesStream = Pages<proto::ListFilesResponse>;
    type ListSessionsStream = Pages<proto::ListSessionsResponse>;

    async fn publish_file(
        &self,
        request: Request<proto::PublishFileRequest>,
    ) -> Result<Response<proto::PublishFileResponse>, Status> {
        let request = request.into_inner();
        let session = session_id(&request.session_id)?;
        self.store.publish(session, &request.username, file(request.file)?).await?;
        Ok(Response::new(proto::PublishFileResponse {}))
    }

    async fn delete_file(
        &self,
        request: Request<proto::DeleteFileRequest>,
    ) -> Result<Response<proto::DeleteFileResponse>, Status> {
        let request = request.get_ref();
        self.store.delete(session_id(&request.session_id)?, &request.filename).await?;
        Ok(Response::new(proto::DeleteFileResponse {}))
    }

    async fn list_files(
        &self,
        request: Request<proto::ListFilesRequest>,
    ) -> Result<Response<Self::ListFilesStream>, Status> {
        let request = request.get_ref();
        let files = self.store.list(session_id(&request.session_id)?).await?;
        let total = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let size = page_size(request.page_size, PAGE, MAX_PAGE);
        Ok(pages(files, size, move |files| {
            let file =
                |Listed { file: File { filename, description }, .. }| proto::File { filename, description };
            proto::ListFilesResponse { total, files: files.into_iter().map(file).collect() }
        }))
    }

    async fn has_file(
        &self,
        request: Request<proto::HasFileRequest>,
    ) -> Result<Response<proto::HasFileResponse>, Status> {
        let request = request.get_ref();
        let published = self.store.has(session_id(&request.session_id)?, &request.filename).await?;
        Ok(Response::new(proto::HasFileResponse { published }))
    }

    async fn end_session(
        &self,
        request: Request<proto::EndSessionRequest>,
    ) -> Result<Response<proto::EndSessionResponse>, Status> {
        self.store.end_session(session_id(&request.get_ref().session_id)?).await?;
        Ok(Response::new(proto::EndSessionResponse {}))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        let sessions = self.store.sessions().await?;
        let size = page_size(request.get_ref().page_size, MAX_SESSIONS_PAGE, MAX_SESSIONS_PAGE);
        Ok(pages(sessions, size, |sessions| {
            let session = |(id, username): (SessionId, String)| proto::PublishingSession {
                session_id: id.to_string(),
                username,
            };
            proto::ListSessionsResponse { sessions: sessions.into_iter().map(session).collect() }
        }))
    }

    async fn search_files(
        &self,
        request: Request<proto::SearchFilesRequest>,
    ) -> Result<Response<proto::SearchFilesResponse>, Status> {
        let request = request.into_inner();
        let revision = self.search.revision().await?;
        if revision == request.known_revision {
            let response = proto::SearchFilesResponse { revision, not_modified: true, ..Default::default() };
            return Ok(Response::new(response));
        }
        let (revision, page) = self.search.search(search_query(request)?).await?;
        Ok(Response::new(proto::SearchFilesResponse {
            revision,
            not_modified: false,
            total: page.total,
            files: page.found.into_iter().map(found).collect(),
        }))
    }

    async fn get_statistics(
        &self,
        _: Request<proto::GetStatisticsRequest>,
    ) -> Result<Response<proto::GetStatisticsResponse>, Status> {
        let statistics = self.store.statistics().await?;
        gauge!("lonja_catalog_sessions").set(statistics.sessions as f64);
        gauge!("lonja_catalog_files").set(statistics.files as f64);
        Ok(Response::new(proto::GetStatisticsResponse {
            sessions: statistics.sessions,
            files: statistics.files,
        }))
    }
}
