//! The catalog: what each session has published.

pub mod search;
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
    catalog::{
        CatalogClient, CatalogUnary, SERVICE_NAME, catalog_service_server::CatalogServiceServer, methods,
    },
};
use lonja_redis::StoreUrl;
use lonja_rpc::Callers;
use tokio_util::sync::CancellationToken;

use search::{Follower, Search};
use service::CatalogGrpc;
use store::{EmbeddedStore, RedisStore, Store};

/// Settings of the catalog itself, wherever it runs.
#[derive(Debug, Clone, clap::Args)]
pub struct CatalogConfig {
    /// Largest number of files that one session may publish; original peers are shown at most 9,999
    #[arg(long, env = "LONJA_MAX_FILES_PER_SESSION", value_name = "N", default_value_t = 10_000)]
    pub max_files_per_session: usize,
}

/// The methods that each caller may call, where callers have certificates. Only the gateway and the
/// console call other services (docs/architecture.md).
const CALLERS: Callers = &[
    (
        "lonja-gateway",
        &[
            methods::PUBLISH_FILE,
            methods::DELETE_FILE,
            methods::LIST_FILES,
            methods::HAS_FILE,
            methods::END_SESSION,
            methods::LIST_SESSIONS,
            methods::GET_STATISTICS,
        ],
    ),
    (
        "lonja-console",
        &[
            methods::LIST_FILES,
            methods::SEARCH_FILES,
            methods::GET_STATISTICS,
            // What an operator has done (lonja.admin.v1).
            methods::END_SESSION,
        ],
    ),
];

/// Settings of a catalog that runs alone.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Settings that the catalog shares with the other services.
    #[command(flatten)]
    pub service: ServiceConfig,
    /// Settings of the catalog itself.
    #[command(flatten)]
    pub catalog: CatalogConfig,
}

/// Makes a client of a catalog in this process, and the task that keeps the catalog's search current.
#[must_use]
pub fn client<S: Store>(store: S) -> (CatalogClient, Follower<S>) {
    let (search, follower) = Search::new(store.clone());
    (CatalogClient::local(CatalogGrpc::new(store, search)), follower)
}

/// Runs a catalog until shutdown.
///
/// # Errors
/// When the data directory or an address cannot be used, or a server breaks down.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    if let StoreUrl::Embedded(directory) = &config.service.store {
        let mut journal = Journal::open(directory, "catalog")?;
        let store = EmbeddedStore::open(&mut journal, &config.catalog)?;
        let journal = journal.start()?;
        let result = serve_store(&config, store, shutdown).await;
        tokio::task::spawn_blocking(move || journal.close()).await?;
        result
    } else {
        let (store, driver) = RedisStore::new(config.service.redis("catalog")?, &config.catalog);
        Box::pin(driver.run_while(serve_store(&config, store, shutdown))).await
    }
}

async fn serve_store(
    config: &Config,
    store: impl Store,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let (service, follower) = service(store.clone())?;
    let serving = serve(&config.service, service, || store.is_ready(), shutdown.clone());
    let (served, ()) = tokio::join!(serving, follower.run(shutdown));
    served
}

/// Makes the gRPC service of a catalog, and the task that keeps the catalog's search current.
///
/// # Errors
/// When the descriptors cannot be read.
pub fn service<S: Store>(store: S) -> Result<(Service, Follower<S>), ServeError> {
    let (search, follower) = Search::new(store.clone());
    let catalog = Arc::new(CatalogGrpc::new(store.clone(), search));
    let server = CatalogServiceServer::from_arc(Arc::clone(&catalog));
    let service = Service::new(SERVICE_NAME, DESCRIPTORS, CALLERS, server, CatalogUnary(catalog))?;
    Ok((service.holding(move || store.is_restarting()), follower))
}
