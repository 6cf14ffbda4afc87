//! The console over gRPC and gRPC-web: messages in, messages out.

use std::{convert::Infallible, sync::Arc};

use axum::Router;
use futures_util::StreamExt as _;
use lonja_chassis::service::Backends;
use lonja_proto::console::{
    ExportIndexRequest, ExportIndexResponse, ListOperationsRequest, ListOperationsResponse,
    WatchFilesRequest, WatchFilesResponse, WatchOperationsRequest, WatchOperationsResponse,
    WatchOverviewRequest, WatchOverviewResponse, WatchUsersRequest, WatchUsersResponse,
    console_service_server::{ConsoleService, ConsoleServiceServer},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::NamedService,
    service::{Routes, interceptor::InterceptorLayer},
};
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service};

use crate::{
    export::export,
    files::Files,
    operations,
    overview::Overview,
    taken::taken_in_time,
    token::{Guard, Token},
    users::Users,
    watch::{Answers, watch},
};

/// The largest number of streams at one time, for all callers together.
const WATCHERS: usize = 256;

/// The largest number of calls that read every user, at one time: each holds all of them in memory.
pub(crate) const ALL: usize = 2;

/// Takes a place of those who read every user.
pub(crate) fn place_for_all(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    let place = Arc::clone(places).try_acquire_owned();
    place.map_err(|_| Status::resource_exhausted("others read every user just now: try again in a moment"))
}

/// Answers `lonja.console.v1`.
#[derive(Debug, Clone)]
pub(crate) struct ConsoleGrpc {
    backend: Backends,
    overview: Overview,
    jaeger_url: Arc<str>,
    places: Arc<Semaphore>,
    /// Places of those who read every user.
    all: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl ConsoleGrpc {
    pub(crate) fn new(
        backend: Backends,
        overview: Overview,
        jaeger_url: String,
        all: Arc<Semaphore>,
        shutdown: CancellationToken,
    ) -> Self {
        let places = Arc::new(Semaphore::new(WATCHERS));
        Self { backend, overview, jaeger_url: jaeger_url.into(), places, all, shutdown }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| Status::resource_exhausted("too many pages follow this console: close some"))
    }
}

#[tonic::async_trait]
impl ConsoleService for ConsoleGrpc {
    type WatchOverviewStream = Answers<WatchOverviewResponse>;
    type WatchUsersStream = Answers<WatchUsersResponse>;
    type WatchFilesStream = Answers<WatchFilesResponse>;
    type WatchOperationsStream = Answers<WatchOperationsResponse>;
    type ListOperationsStream = Answers<ListOperationsResponse>;
    type ExportIndexStream = Answers<ExportIndexResponse>;

    async fn watch_overview(
        &self,
        request: Request<WatchOverviewRequest>,
    ) -> Result<Response<Self::WatchOverviewStream>, Status> {
        let past_seconds = request.get_ref().past_seconds;
        let jaeger_url = self.jaeger_url.to_string();
        let answers = self.overview.watch(past_seconds, jaeger_url, self.place()?, self.shutdown.clone());
        Ok(Response::new(answers))
    }

    async fn watch_users(
        &self,
        request: Request<WatchUsersRequest>,
    ) -> Result<Response<Self::WatchUsersStream>, Status> {
        let users = Users::new(self.backend.clone(), request.into_inner());
        Ok(Response::new(watch(users, self.place()?, self.shutdown.clone())))
    }

    async fn watch_files(
        &self,
        request: Request<WatchFilesRequest>,
    ) -> Result<Response<Self::WatchFilesStream>, Status> {
        let files = Files::new(self.backend.clone(), request.into_inner());
        Ok(Response::new(watch(files, self.place()?, self.shutdown.clone())))
    }

    async fn watch_operations(
        &self,
        request: Request<WatchOperationsRequest>,
    ) -> Result<Response<Self::WatchOperationsStream>, Status> {
        let (backend, request) = (self.backend.clone(), request.into_inner());
        let (jaeger_url, shutdown) = (self.jaeger_url.to_string(), self.shutdown.clone());
        operations::watch(backend, request, jaeger_url, self.place()?, shutdown).await.map(Response::new)
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<Self::ListOperationsStream>, Status> {
        let (backend, request) = (self.backend.clone(), request.into_inner());
        let answers = operations::list(backend, request, self.place()?).await?;
        Ok(Response::new(taken_in_time(answers)))
    }

    async fn export_index(
        &self,
        _: Request<ExportIndexRequest>,
    ) -> Result<Response<Self::ExportIndexStream>, Status> {
        let (place, for_all) = (self.place()?, place_for_all(&self.all)?);
        let pages = export(self.backend.clone(), for_all).map(move |page| {
            let _held_until_the_end = &place;
            page
        });
        Ok(Response::new(taken_in_time(Box::pin(pages))))
    }
}

/// The routes of all calls, over gRPC and gRPC-web. Calls of the health service need no token,
/// since the check of a container has none.
pub(crate) fn router<H, R>(console: ConsoleGrpc, health: H, reflection: R, token: Token) -> Router
where
    H: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    H::Future: Send + 'static,
    R: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    R::Future: Send + 'static,
{
    let console = ConsoleServiceServer::new(console);
    let guarded = Routes::new(console).add_service(reflection).prepare();
    let guarded =
        GrpcWebLayer::new().layer(InterceptorLayer::new(Guard::of_the_console(token)).layer(guarded));
    let open = GrpcWebLayer::new().layer(Routes::new(health).prepare());
    Router::new()
        .route_service(&methods::<ConsoleServiceServer<ConsoleGrpc>>(), guarded.clone())
        .route_service(&methods::<R>(), guarded)
        .route_service(&methods::<H>(), open)
}

pub(crate) fn methods<S: NamedService>() -> String {
    format!("/{}/{{method}}", S::NAME)
}
