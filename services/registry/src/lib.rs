//! The registry: who is registered and who is connected.

mod model;
mod service;
pub mod store;

use lonja_chassis::{
    grpc::Service,
    service::{RunError, Running, ServiceConfig, serve},
};
use lonja_journal::Journal;
use lonja_proto::{
    DESCRIPTORS,
    registry::{SERVICE_NAME, registry_service_server::RegistryServiceServer},
};
use lonja_redis::StoreUrl;
use lonja_rpc::{Callers, Channel};
use tokio_util::sync::CancellationToken;

pub use model::{Endpoint, OpenSession, Session};
use service::RegistryGrpc;
use store::{EmbeddedStore, RedisStore, Store};

/// The methods that each caller may call, where callers have certificates: the star of
/// docs/architecture.md.
const CALLERS: Callers = &[
    (
        "lonja-gateway",
        &[
            "lonja.registry.v1.RegistryService/RegisterUser",
            "lonja.registry.v1.RegistryService/UnregisterUser",
            "lonja.registry.v1.RegistryService/OpenSession",
            "lonja.registry.v1.RegistryService/CloseSession",
            "lonja.registry.v1.RegistryService/GetSession",
            "lonja.registry.v1.RegistryService/NoteDialect",
            "lonja.registry.v1.RegistryService/GetRemoteSession",
            "lonja.registry.v1.RegistryService/ListSessions",
            "lonja.registry.v1.RegistryService/FindEndedSessions",
            "lonja.registry.v1.RegistryService/GetStatistics",
        ],
    ),
    (
        "lonja-console",
        &[
            "lonja.registry.v1.RegistryService/LookUpSessions",
            "lonja.registry.v1.RegistryService/FindSessions",
            "lonja.registry.v1.RegistryService/GetStatistics",
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

/// Makes a channel to a registry in this process.
#[must_use]
pub fn channel(store: EmbeddedStore) -> Channel {
    let registry = RegistryGrpc::new(store);
    Channel::local(RegistryServiceServer::new(registry.clone()), registry)
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
    let registry = RegistryGrpc::new(store.clone());
    let server = RegistryServiceServer::new(registry.clone());
    let service = Service::new(SERVICE_NAME, DESCRIPTORS, CALLERS, server, registry)?;
    serve(&config.service, service, || store.is_ready(), shutdown).await
}
