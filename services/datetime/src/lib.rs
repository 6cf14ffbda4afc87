//! The datetime service: the local time over SOAP 1.1, as the peers' client expects it.

mod address;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod soap;
mod wsdl;

use std::net::SocketAddr;

use futures_util::future::join_all;
use lonja_chassis::{
    health::Health,
    http as server,
    net::listen,
    networks::Networks,
    service::{RunError, Running, announce, serve_admin, upkeep},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::http::router;

/// The name under which the datetime service reports its health.
pub const SERVICE_NAME: &str = "lonja.datetime";

/// Settings of a datetime service that runs alone. The time zone is the one that `TZ` names, or
/// else the system's.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address for SOAP; existing peers ask at port 8000. May be given several times
    #[arg(
        long,
        env = "LONJA_LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "0.0.0.0:8000"
    )]
    pub listen: Vec<SocketAddr>,
    /// Address for /livez, /readyz and /metrics; none if not given
    #[arg(long, env = "LONJA_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Networks of HTTP proxies that say in Forwarded or X-Forwarded-* headers at which address their
    /// callers ask; from any other address such headers are not read
    #[arg(long, env = "LONJA_TRUSTED_PROXIES", value_name = "CIDR,...", default_value = "")]
    pub trusted_proxies: Networks,
}

/// Serves the callers that connect to `listeners` until shutdown. `proxies` are trusted to say at
/// which address their own callers ask.
pub async fn serve(listeners: Vec<TcpListener>, proxies: Networks, shutdown: CancellationToken) {
    let router = router(proxies);
    let serve = |listener| server::serve(listener, router.clone(), shutdown.clone());
    join_all(listeners.into_iter().map(serve)).await;
}

/// Runs a datetime service until shutdown, and prints the addresses on which it listens.
///
/// # Errors
/// When an address cannot be listened on.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let listeners = config.listen.into_iter().map(listen).collect::<Result<Vec<_>, _>>()?;
    let admin = config.admin_listen.map(listen).transpose()?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    announce(SERVICE_NAME, &addresses, admin.as_ref())?;
    let health = Health::new();
    health.set(SERVICE_NAME, true).await;
    tokio::join!(
        serve(listeners, config.trusted_proxies, shutdown.clone()),
        serve_admin(admin, &health, &shutdown),
        upkeep(&shutdown),
    );
    Ok(())
}
