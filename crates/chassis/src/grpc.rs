//! Serving a gRPC service on a port, with health and reflection beside it.

use std::{convert::Infallible, fmt, io, sync::Arc, time::Duration};

use futures_util::{Stream, future::BoxFuture};
use http::{Request, Response};
use lonja_rpc::{
    Allowed, BatchServer, BatchServiceServer, Callers, Holds, Measured, SERVER_DURATION, Tls, Traced, Unary,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::{
        Server,
        server::{Connected, TcpIncoming},
    },
};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::{health::Health, shutdown};

/// The largest number of calls that one connection may have open.
const STREAMS: u32 = 1024;
/// How long a connection lasts. Callers who look a name up only when they connect find new replicas
/// because connections end.
const CONNECTION_AGE: Duration = Duration::from_secs(300);
/// How often the connection of a caller is pinged, and how long the caller may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why a server could not be set up or broke down.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors for reflection cannot be read.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport of gRPC failed.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Makes the service that answers `grpc.health.v1` from the table `health`.
#[must_use]
pub fn health(health: &Health) -> HealthServer<impl tonic_health::pb::health_server::Health + use<>> {
    HealthServer::new(tonic_health::server::HealthService::from_health_reporter(health.reporter()))
}

/// Makes the service that tells callers which methods and messages a service has.
///
/// # Errors
/// When the descriptors cannot be read.
pub fn reflection(
    descriptors: &'static [u8],
    service: &'static str,
) -> Result<ServerReflectionServer<impl ServerReflection>, ServeError> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(descriptors)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(service)
        .build_v1()?)
}

/// A gRPC service that is ready to be served.
pub struct Service {
    /// The name under which callers ask for the health of the service.
    pub name: &'static str,
    /// Whether the service is ready.
    pub health: Health,
    routes: Routes,
    unary: Arc<dyn Unary>,
    holds: Holds,
    callers: Callers,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Service {
    /// Makes a service that answers over HTTP (by `server`) and in batches (by `unary`), with
    /// health and reflection beside it. `callers` counts only if callers show certificates.
    ///
    /// # Errors
    /// When the descriptors cannot be read.
    pub fn new<S>(
        name: &'static str,
        descriptors: &'static [u8],
        callers: Callers,
        server: S,
        unary: impl Unary,
    ) -> Result<Self, ServeError>
    where
        S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let of = Health::new();
        let mut routes = RoutesBuilder::default();
        routes.add_service(health(&of)).add_service(reflection(descriptors, name)?).add_service(server);
        let (unary, holds) = (Arc::new(unary), Arc::new(|| false));
        Ok(Self { name, health: of, routes: routes.routes(), unary, holds, callers })
    }

    /// Has callers wait for longer while `holds` says that calls are held.
    #[must_use]
    pub fn holding(self, holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { holds: Arc::new(holds), ..self }
    }
}

/// Serves a service until shutdown; calls in flight then get [`shutdown::DRAIN`] to finish. With
/// `secure`, only callers with a certificate of the same authority are served, and each may call
/// only its methods of [`Callers`].
///
/// The future is boxed, so that the server is compiled here and not once more in each service's
/// crate.
///
/// # Errors
/// When the transport of gRPC fails.
pub fn serve(
    listener: TcpListener,
    service: Service,
    secure: Option<Tls>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), ServeError>> {
    Box::pin(serve_until(listener, service, secure, shutdown))
}

async fn serve_until(
    listener: TcpListener,
    service: Service,
    secure: Option<Tls>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let callers = secure.is_some().then_some(service.callers);
    match secure {
        Some(tls) => serve_connections(tls.accept(listener), service, callers, shutdown).await,
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            serve_connections(incoming, service, callers, shutdown).await
        }
    }
}

/// Serves a service on connections of any kind, as [`serve`] does. If `callers` is given, each caller may
/// call only its own methods.
///
/// # Errors
/// When the transport of gRPC fails.
pub async fn serve_connections<C>(
    connections: impl Stream<Item = io::Result<C>> + Send,
    service: Service,
    callers: Option<Callers>,
    shutdown: CancellationToken,
) -> Result<(), ServeError>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let allowed = Allowed(callers);
    let batch =
        BatchServiceServer::new(BatchServer::new(service.unary, service.holds, allowed, shutdown.clone()));
    let router = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS)
        .max_connection_age(CONNECTION_AGE)
        .layer(Measured(SERVER_DURATION))
        .layer(Traced)
        .layer(allowed)
        .add_routes(service.routes.add_service(batch));
    let end = shutdown.clone().cancelled_owned();
    let server = Box::pin(router.serve_with_incoming_shutdown(connections, end));
    shutdown::within_drain(&shutdown, server).await.transpose()?;
    Ok(())
}
