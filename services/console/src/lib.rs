//! The console: who is online, what they share, what just happened.
//!
//! The console joins what registry, catalog and audit know, and changes nothing (`service`). Beside it is
//! the service for operators, who may change something (`admin`). Each
//! `Watch...` method of `lonja.console.v1` has a file here. Browsers get a page (`page`) that calls
//! the console over gRPC-web; other callers use gRPC on the same port.

mod admin;
mod backend;
mod export;
mod files;
mod host;
mod operations;
mod overview;
mod page;
mod probe;
mod service;
mod taken;
mod token;
mod users;
mod watch;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, middleware::from_fn_with_state};
use lonja_chassis::{
    grpc,
    health::Health,
    http,
    net::listen,
    service::{BackendConfig, Backends, RunError, Running, announce, serve_admin, upkeep},
};
use lonja_proto::{DESCRIPTORS, console::SERVICE_NAME};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

pub use export::export;
pub use host::Hosts;
use overview::Overview;
pub use probe::{BadProbe, Probe, Probes};
use service::ConsoleGrpc;
pub use token::{BadToken, Token};

/// Settings that every console has, in a process of its own and in `lonja up`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConsoleConfig {
    /// Token that callers of the console must send (Authorization: Bearer TOKEN); if empty,
    /// everyone who reaches the console may look
    #[arg(
        long,
        env = "LONJA_CONSOLE_TOKEN",
        value_name = "TOKEN",
        default_value = "",
        hide_env_values = true
    )]
    pub console_token: Token,
    /// Token that operators must send, for `lonja admin`; if empty, nobody can change anything here
    #[arg(long, env = "LONJA_ADMIN_TOKEN", value_name = "TOKEN", default_value = "", hide_env_values = true)]
    pub admin_token: Token,
    /// Names under which browsers may call the console, besides addresses and localhost; with a
    /// token every name is allowed
    #[arg(long, env = "LONJA_CONSOLE_HOSTS", value_name = "NAME,...", default_value = "")]
    pub console_hosts: Hosts,
    /// URL of the Jaeger that shows traces, such as http://127.0.0.1:16686
    #[arg(long, env = "LONJA_JAEGER_URL", value_name = "URL", default_value = "", value_parser = page_url)]
    pub jaeger_url: String,
}

/// Settings of a console that runs alone.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address for browsers and gRPC; port 0 lets the system choose
    #[arg(long, env = "LONJA_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Address for /livez, /readyz and /metrics; none if not given
    #[arg(long, env = "LONJA_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Where the console calls the other services.
    #[command(flatten)]
    pub backend: BackendConfig,
    /// Further services to show, each with a page that answers 200 while the service is ready
    #[arg(long, env = "LONJA_CONSOLE_PROBES", value_name = "NAME=URL,...", default_value = "")]
    pub probes: Probes,
    /// Settings that a console in `lonja up` has as well.
    #[command(flatten)]
    pub console: ConsoleConfig,
}

/// Parses the URL of a page, or an empty text. Only http and https are allowed, because people get
/// the URL as a link.
fn page_url(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err("use http://HOST:PORT or https://HOST".to_owned())
}

/// Runs a console until shutdown, and prints the addresses on which it listens.
///
/// # Errors
/// When an address or the certificates cannot be used.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let services = config.backend.clients()?;
    let listener = listen(config.listen)?;
    let admin = config.admin_listen.map(listen).transpose()?;
    announce(SERVICE_NAME, &[listener.local_addr()?], admin.as_ref())?;
    let health = Health::new();
    let console = Console::new(config.console, services, config.probes, shutdown.clone());
    tokio::join!(
        console.serve(listener, Router::new(), health.clone()),
        serve_admin(admin, &health, &shutdown),
        upkeep(&shutdown),
    )
    .0
}

/// The console of an index.
#[derive(Debug)]
pub struct Console {
    config: ConsoleConfig,
    backend: Backends,
    probes: Probes,
    shutdown: CancellationToken,
}

impl Console {
    /// A console that asks `services`, and finds out with `probes` whether
    /// other services are ready.
    #[must_use]
    pub fn new(
        config: ConsoleConfig,
        services: Backends,
        probes: Probes,
        shutdown: CancellationToken,
    ) -> Self {
        Self { config, backend: services, probes, shutdown }
    }

    /// Serves the page and the calls of the console, and the routes of `beside`, until shutdown.
    ///
    /// # Errors
    /// When the descriptors for gRPC reflection cannot be read.
    pub fn serve(self, listener: TcpListener, beside: Router, health: Health) -> Running {
        Box::pin(self.serve_until(listener, beside, health))
    }

    async fn serve_until(
        self,
        listener: TcpListener,
        beside: Router,
        health: Health,
    ) -> Result<(), RunError> {
        let (overview, follower) = Overview::new(self.backend.clone(), self.probes);
        let all = Arc::new(Semaphore::new(service::ALL));
        let admin = admin::router(self.backend.clone(), self.config.admin_token, Arc::clone(&all));
        let (jaeger_url, stop) = (self.config.jaeger_url, self.shutdown.clone());
        let service = ConsoleGrpc::new(self.backend, overview, jaeger_url, all, stop);
        let reflection = grpc::reflection(DESCRIPTORS, SERVICE_NAME)?;
        let has_token = self.config.console_token.is_set();
        let calls = service::router(service, grpc::health(&health), reflection, self.config.console_token);
        let mut router = calls.merge(admin).fallback(page::serve);
        if !has_token {
            router = router.layer(from_fn_with_state(self.config.console_hosts, host::check));
        }
        let router = beside.merge(router);
        let shutdown = self.shutdown;
        tokio::join!(
            http::serve_streams(listener, router, shutdown.clone()),
            follower.run(shutdown.clone()),
            // The console is always ready: it shows which services can be reached, and which
            // cannot.
            health.watch(SERVICE_NAME, shutdown, async || true),
        );
        Ok(())
    }
}
