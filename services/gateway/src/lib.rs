//! The gateway: the peer protocol outside, gRPC inside.
//!
//! One task serves one connection (`connection`): it collects a request, has the
//! operation carried out (`operations`), has it recorded (`lonja_recorder`), answers, learns
//! what the peer reads (`learning`) and closes. Limits and the accept loop are in `server`.

mod backend;
mod companion;
mod connection;
mod dialects;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod learning;
mod lists;
mod metrics;
mod operations;
mod ownership;
mod proxy;
mod server;
mod stream;
mod sweeper;

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use lonja_chassis::{
    health::Health,
    net::listen,
    networks::Networks,
    operation_log::{OperationLog, OperationLogWriter},
    service::{BackendConfig, RunError, Running, announce, serve_admin, upkeep},
};
use tokio_util::sync::CancellationToken;

pub use backend::is_ready;
pub use dialects::{BadDialectRule, BadPeerAddress, Dialects, PeerAddress};
pub use ownership::OwnNames;
pub use server::{Gateway, PeerListener};
pub use stream::{PeerSocket, PeerStream};

/// The name under which the gateway reports its health.
pub const SERVICE_NAME: &str = "lonja.gateway";

/// Settings that every gateway has, in a process of its own and in `lonja up`.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewayConfig {
    /// Rules CIDR=IPV4: peers seen from CIDR are listed at IPV4. CIDR may be the word gateway, for
    /// the default gateway of this machine: a container sees peers on its own host at that address
    #[arg(long, env = "LONJA_ADVERTISE", value_name = "CIDR=IPV4,...", default_value = "")]
    pub advertise: lonja_origin::Rules,
    /// Rules CIDR=DIALECT: peers seen from CIDR read replies in DIALECT, which is char, text, rows, byte,
    /// int32 or names (docs/compatibility.md). Without a rule, a peer shows by what it does whether it
    /// reads char or text
    #[arg(long, env = "LONJA_DIALECT", value_name = "CIDR=DIALECT,...", default_value = "")]
    pub dialect: Dialects,
    /// Networks of load balancers that begin each connection with a PROXY header, version 1 or 2;
    /// from any other address such a header is a bad request
    #[arg(long, env = "LONJA_TRUSTED_PROXIES", value_name = "CIDR,...", default_value = "")]
    pub trusted_proxies: Networks,
    /// Connections that are served at one time; further connections wait to be accepted
    #[arg(long, env = "LONJA_MAX_CONNECTIONS", value_name = "N", default_value = "16384")]
    pub max_connections: NonZeroUsize,
    /// Connections at one time from one address; further connections are closed
    #[arg(long, env = "LONJA_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N", default_value = "2048")]
    pub max_connections_per_address: NonZeroUsize,
    /// Networks whose peers may connect; all may if none is given
    #[arg(long, env = "LONJA_ALLOW", value_name = "CIDR,...", default_value = "")]
    pub allow: Networks,
    /// Who may unregister and disconnect a user, and publish and delete for the user
    #[arg(long, env = "LONJA_OWN_NAMES", value_name = "RULE", default_value = "off")]
    pub own_names: OwnNames,
    /// Networks whose peers may act for any user, whatever --own-names says
    #[arg(long, env = "LONJA_OPERATORS", value_name = "CIDR,...", default_value = "")]
    pub operators: Networks,
    /// Registrations that one address may make at once, and then in each minute; more are answered with a
    /// failure; 0 is no limit
    #[arg(long, env = "LONJA_MAX_REGISTRATIONS_PER_ADDRESS", value_name = "N", default_value_t = 1200)]
    pub max_registrations_per_address: u32,
    /// Requests of any kind that one address may make at once, and then in each minute; more are answered
    /// with a failure; 0 is no limit
    #[arg(long, env = "LONJA_MAX_REQUESTS_PER_ADDRESS", value_name = "N", default_value_t = 60_000)]
    pub max_requests_per_address: u32,
    /// Seconds that a peer may take to send its request
    #[arg(long, env = "LONJA_REQUEST_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub request_timeout: Duration,
    /// Seconds between two sweeps, which remove lists of ended sessions that a crash left in the
    /// catalog
    #[arg(long, env = "LONJA_SWEEP_INTERVAL", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub sweep_interval: Duration,
    /// Seconds between two looks at whether a connected user's peer is still there; the session of a peer
    /// that was reached once, and then refuses three times in a row, is ended; 0 is never
    #[arg(long, env = "LONJA_CHECK_PEERS", value_name = "SECONDS", default_value = "0", value_parser = seconds_or_never)]
    pub check_peers: Duration,
    /// Do not print a line for each operation
    #[arg(long, env = "LONJA_NO_OPERATION_LOG")]
    pub no_operation_log: bool,
}

/// Settings of a gateway that runs alone.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address for peers; may be given several times, and as DIALECT=ADDR for peers that all read
    /// replies in DIALECT (as in --dialect)
    #[arg(
        long,
        env = "LONJA_LISTEN",
        value_name = "[DIALECT=]ADDR",
        value_delimiter = ',',
        default_value = "0.0.0.0:5050"
    )]
    pub listen: Vec<PeerAddress>,
    /// Address for /livez, /readyz and /metrics; none if not given
    #[arg(long, env = "LONJA_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Where the gateway calls the other services.
    #[command(flatten)]
    pub backend: BackendConfig,
    /// Settings that a gateway in `lonja up` has as well.
    #[command(flatten)]
    pub gateway: GatewayConfig,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || "a number of seconds greater than 0".to_owned();
    let seconds: f64 = text.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero()).ok_or_else(bad)
}

fn seconds_or_never(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

/// Runs a gateway until shutdown, and prints the addresses on which it listens.
///
/// # Errors
/// When an address or the certificates cannot be used, or when a task panicked.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let backend = config.backend.clients()?;
    let listeners = config.listen.into_iter().map(PeerListener::new).collect::<Result<Vec<_>, _>>()?;
    let admin = config.admin_listen.map(listen).transpose()?;
    announce(SERVICE_NAME, &listeners, admin.as_ref())?;
    let (lines, writer) = if config.gateway.no_operation_log {
        (OperationLog::off(), OperationLogWriter::off())
    } else {
        OperationLog::to_stdout()?
    };
    let health = Health::new();
    let gateway = Gateway::new(config.gateway, backend.clone(), None, lines);
    let (served, ..) = tokio::join!(
        gateway.serve(listeners, shutdown.clone()),
        health.watch(SERVICE_NAME, shutdown.clone(), || is_ready(&backend)),
        serve_admin(admin, &health, &shutdown),
        upkeep(&shutdown),
    );
    tokio::task::spawn_blocking(move || writer.finish()).await?;
    served
}
