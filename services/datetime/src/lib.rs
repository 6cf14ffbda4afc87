//! The datetime service: the local time over SOAP 1.1, as the peers' client expects it.

mod http;
mod soap;
mod wsdl;

use std::net::SocketAddr;

use lonja_chassis::{
    health::Health,
    http as server,
    net::listen,
    service::{RunError, Running, announce, serve_admin, upkeep},
};
use tokio_util::sync::CancellationToken;

pub use http::router;

/// The name under which the datetime service reports its health.
pub const SERVICE_NAME: &str = "lonja.datetime";

/// Settings of a datetime service that runs alone. The time zone is the one that `TZ` names, or
/// else the system's.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address for SOAP; existing peers ask at port 8000
    #[arg(long, env = "LONJA_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8000")]
    pub listen: SocketAddr,
    /// Address for /livez, /readyz and /metrics; none if not given
    #[arg(long, env = "LONJA_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
}

/// Runs a datetime service until shutdown, and prints the addresses on which it listens.
///
/// # Errors
/// When an address cannot be listened on.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let listener = listen(config.listen)?;
    let admin = config.admin_listen.map(listen).transpose()?;
    announce(SERVICE_NAME, &listener, admin.as_ref())?;
    let health = Health::new();
    health.set(SERVICE_NAME, true).await;
    tokio::join!(
        server::serve(listener, router(), shutdown.clone()),
        serve_admin(admin, &health, &shutdown),
        upkeep(&shutdown),
    );
    Ok(())
}
