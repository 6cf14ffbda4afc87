//! The registry: who is registered and who is connected.

mod check;
mod model;
mod service;
pub mod store;

use std::sync::Arc;

use lonja_chassis::{
    grpc::{ServeError, Service},
    service::{RunError, Running, ServiceConfig, serve},
};
use lonja_journal::Journal;
use lonja_proto::{
    DESCRIPTORS,
    registry::{
        RegistryClient, RegistryUnary, SERVICE_NAME, methods, registry_service_server::RegistryServiceServer,
    },
};
use lonja_redis::StoreUrl;
use lonja_rpc::Callers;
use tokio_util::sync::CancellationToken;

pub use check::Check;
pub use model::{Endpoint, Only, OpenSession, Registered, Session};
use service::RegistryGrpc;
use store::{EmbeddedStore, RedisStore, Store};

/// The methods that each caller may call, where callers have certificates: the star of
/// docs/architecture.md.
const CALLERS: Callers = &[
    (
        "lonja-gateway",
        &[
            methods::REGISTER_USER,
            methods::UNREGISTER_USER,
            methods::OPEN_SESSION,
            methods::CLOSE_SESSION,
            methods::GET_SESSION,
            methods::NOTE_DIALECT,
            methods::GET_REMOTE_SESSION,
            methods::LIST_SESSIONS,
            methods::FIND_ENDED_SESSIONS,
            methods::TAKE_CHECKS,
            methods::NOTE_CHECK,
            methods::GET_STATISTICS,
        ],
    ),
    (
        "lonja-console",
        &[
            methods::LOOK_UP_SESSIONS,
            methods::FIND_SESSIONS,
            methods::FIND_ENDED_SESSIONS,
            methods::LIST_USERS,
            methods::LOOK_UP_CHECKS,
            methods::GET_STATISTICS,
            // What an operator has done (lonja.admin.v1).
            methods::CLOSE_SESSION,
            methods::FREE_USER,
            methods::UNREGISTER_USER,
        ],
    ),
];

/// Settings of a registry that runs alone.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Settings that the registry shares with the other services.
    #[command(flatten)]
    pub service: ServiceConfig,
}

/// Makes a client of a registry in this process.
#[must_use]
pub fn client(store: impl Store) -> RegistryClient {
    RegistryClient::local(RegistryGrpc::new(store))
}

/// Runs a registry until shutdown.
///
/// # Errors
/// When the data directory or an address cannot be used, or a server breaks down.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    if let StoreUrl::Embedded(directory) = &config.service.store {
        let mut journal = Journal::open(directory, "registry")?;
        let store = EmbeddedStore::open(&mut journal)?;
        let journal = journal.start()?;
        let result = serve_store(&config, store, shutdown).await;
        tokio::task::spawn_blocking(move || journal.close()).await?;
        result
    } else {
        let (store, driver) = RedisStore::new(config.service.redis("registry")?);
        Box::pin(driver.run_while(serve_store(&config, store, shutdown))).await
    }
}

async fn serve_store(
    config: &Config,
    store: impl Store + Clone,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    serve(&config.service, service(store.clone())?, || store.is_ready(), shutdown).await
}

/// Makes the gRPC service of a registry.
///
/// # Errors
/// When the descriptors cannot be read.
pub fn service(store: impl Store + Clone) -> Result<Service, ServeError> {
    let registry = Arc::new(RegistryGrpc::new(store.clone()));
    let server = RegistryServiceServer::from_arc(Arc::clone(&registry));
    let service = Service::new(SERVICE_NAME, DESCRIPTORS, CALLERS, server, RegistryUnary(registry))?;
    Ok(service.holding(move || store.is_restarting()))
}
