//! What it takes to run one service alone: settings, ports, health, shutdown.

use std::{
    fmt,
    future::Future,
    io::{self, Write as _},
    net::SocketAddr,
    pin::Pin,
};

use tokio::{net::TcpListener, task::JoinError};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    grpc::{self, ServeError},
    health::Health,
    net::{ListenError, listen},
};
use lonja_journal::OpenError;
use lonja_proto::{audit::AuditClient, catalog::CatalogClient, registry::RegistryClient};
use lonja_redis::{Redis, RedisError, StoreUrl};
use lonja_rpc::{Channel, ChannelError, Dial, NameServer, Names, TlsConfig, TlsError};

/// Settings of a service that keeps state.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceConfig {
    /// Address for gRPC; port 0 lets the system choose
    #[arg(long, env = "LONJA_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Address for /livez, /readyz and /metrics; none if not given
    #[arg(long, env = "LONJA_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Where the state is kept.
    #[arg(
        help = "Where the state is kept: embedded:DIR, redis://[USER:PASSWORD@]HOST[:PORT] or \
                redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]",
        long,
        env = "LONJA_STORE",
        value_name = "URL",
        default_value = "embedded:./lonja-data",
        hide_env_values = true
    )]
    pub store: StoreUrl,
    /// What every key in Redis begins with; give each index that shares a Redis its own
    #[arg(long, env = "LONJA_REDIS_PREFIX", value_name = "PREFIX", default_value = "lonja")]
    pub redis_prefix: String,
    /// The certificate with which this service shows other services who it is.
    #[command(flatten)]
    pub tls: TlsConfig,
}

impl ServiceConfig {
    /// Gives access to the keys of a service in the Redis that is the store. Nothing is sent yet.
    ///
    /// # Errors
    /// When the store is not a Redis.
    pub fn redis(&self, service: &'static str) -> Result<Redis, RedisError> {
        Redis::new(&self.store, &self.redis_prefix, service)
    }
}

/// Addresses of the services that keep state, for a service that calls them.
#[derive(Debug, Clone, clap::Args)]
pub struct BackendConfig {
    /// Address of the registry: http://HOST:PORT
    #[arg(long, env = "LONJA_REGISTRY", value_name = "URL")]
    pub registry: String,
    /// Address of the catalog: http://HOST:PORT
    #[arg(long, env = "LONJA_CATALOG", value_name = "URL")]
    pub catalog: String,
    /// Address of the audit: http://HOST:PORT
    #[arg(long, env = "LONJA_AUDIT", value_name = "URL")]
    pub audit: String,
    /// Ask this name server for the replicas of a service, instead of the system's
    #[arg(long, env = "LONJA_DNS_SERVER", value_name = "IP[:PORT]")]
    pub dns_server: Option<NameServer>,
    /// The certificate with which this service shows other services who it is.
    #[command(flatten)]
    pub tls: TlsConfig,
}

/// Clients of the services that keep state. Clones share connections.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The registry, which has users and sessions.
    pub registry: RegistryClient,
    /// The catalog, which has what each session published.
    pub catalog: CatalogClient,
    /// The audit, which has every operation, in order.
    pub audit: AuditClient,
}

impl BackendConfig {
    /// Makes the clients of these services, across the network.
    ///
    /// # Errors
    /// When an address is not `http://HOST:PORT`, or the name server or the certificates cannot be
    /// used.
    pub fn clients(&self) -> Result<Backends, RunError> {
        let names = Names::new(self.dns_server)?;
        let tls = self.tls.load()?;
        let dial = |name| tls.clone().map_or(Dial::Plain, |tls| Dial::Secure(tls, name));
        let channel = |address: &str, name| Channel::remote(address, &names, dial(name));
        Ok(Backends {
            registry: RegistryClient::remote(channel(&self.registry, "lonja-registry")?),
            catalog: CatalogClient::remote(channel(&self.catalog, "lonja-catalog")?),
            audit: AuditClient::remote(channel(&self.audit, "lonja-audit")?),
        })
    }
}

/// Why a service could not start or broke down, as one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The Redis cannot be used.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address that is given for another service is not an address.
    #[error(transparent)]
    Address(#[from] ChannelError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The gRPC server broke down.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A socket, a thread or standard output broke down.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A task panicked.
    #[error("a part of the service stopped: {0}")]
    Task(#[from] JoinError),
}

/// The future of a service that runs until shutdown. The future is boxed, so that each service is
/// compiled in its own crate and not in the binary's.
pub type Running = Pin<Box<dyn Future<Output = Result<(), RunError>> + Send>>;

/// Serves a gRPC service and its admin endpoints until shutdown, and prints where they listen.
/// `probe` says whether the service is ready.
///
/// # Errors
/// When the certificates cannot be used, an address cannot be listened on, or a server breaks down.
pub async fn serve<F>(
    config: &ServiceConfig,
    service: grpc::Service,
    probe: impl Fn() -> F + Send + Sync,
    shutdown: CancellationToken,
) -> Result<(), RunError>
where
    F: Future<Output = bool> + Send,
{
    let secure = config.tls.load()?;
    let listener = listen(config.listen)?;
    let admin = config.admin_listen.map(listen).transpose()?;
    let (name, health) = (service.name, service.health.clone());
    announce(name, &[listener.local_addr()?], admin.as_ref())?;
    let ((), grpc, (), ()) = tokio::join!(
        health.watch(name, shutdown.clone(), probe),
        ending(&shutdown, grpc::serve(listener, service, secure, shutdown.clone())),
        serve_admin(admin, &health, &shutdown),
        upkeep(&shutdown),
    );
    Ok(grpc?)
}

/// Prints where a service listens, a line for each port.
///
/// # Errors
/// When a socket does not know its address, or standard output cannot be written.
pub fn announce(name: &str, listeners: &[impl fmt::Display], admin: Option<&TcpListener>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for listener in listeners {
        writeln!(stdout, "{name} listens on {listener}")?;
    }
    if let Some(admin) = admin {
        writeln!(stdout, "admin listens on {}", admin.local_addr()?)?;
    }
    stdout.flush()
}

/// Begins the shutdown when `part` ends, so that a part that broke down does not leave
/// the others running without it.
async fn ending<T>(shutdown: &CancellationToken, part: impl Future<Output = T>) -> T {
    let result = part.await;
    shutdown.cancel();
    result
}

/// Serves the admin endpoints until shutdown, if there is a listener.
pub async fn serve_admin(listener: Option<TcpListener>, health: &Health, shutdown: &CancellationToken) {
    if let Some(listener) = listener {
        admin::serve(listener, health.clone(), shutdown.clone()).await;
    }
}

/// Keeps the memory of the metrics bounded until shutdown, by
/// [`lonja_telemetry::metrics::upkeep`] every 5 s.
pub async fn upkeep(shutdown: &CancellationToken) {
    const INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);
    while tokio::time::timeout(INTERVAL, shutdown.cancelled()).await.is_err() {
        lonja_telemetry::metrics::upkeep();
    }
}
