//! The console: who is online, what they share, what just happened.
//!
//! It joins what registry, catalog and audit know and changes nothing (`service`): each
//! `Watch` of `lonja.console.v1` is a file here. Browsers get a page (`page`) that calls it
//! over gRPC-web; on the same port it speaks gRPC to everyone else.

mod backend;
mod files;
mod host;
mod operations;
mod overview;
mod page;
mod probe;
mod service;
mod token;
mod users;
mod watch;

use std::net::SocketAddr;

use axum::{Router, middleware::from_fn_with_state};
use lonja_chassis::{
    health::Health,
    http,
    net::listen,
    rpc,
    service::{BackendChannels, BackendConfig, RunError, Running, announce, serve_admin, upkeep},
};
use lonja_proto::{DESCRIPTORS, console::SERVICE_NAME};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use backend::Backend;
pub use host::Hosts;
use overview::Overview;
pub use probe::{BadProbe, Probe, Probes};
use service::ConsoleGrpc;
pub use token::{BadToken, Token};

/// Settings of the console itself, wherever it runs.
#[derive(Debug, Clone, clap::Args)]
pub struct ConsoleConfig {
    /// What callers of the console must show (Authorization: Bearer TOKEN); everyone who
    /// reaches it may look if empty
    #[arg(
        long,
        env = "LONJA_CONSOLE_TOKEN",
        value_name = "TOKEN",
        default_value = "",
        hide_env_values = true
    )]
    pub console_token: Token,
    /// Names under which browsers may call it, besides addresses and localhost; with a token any
    #[arg(long, env = "LONJA_CONSOLE_HOSTS", value_name = "NAME,...", default_value = "")]
    pub console_hosts: Hosts,
    /// Where traces can be looked at, such as http://127.0.0.1:16686
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
    /// Where the other services are.
    #[command(flatten)]
    pub backend: BackendConfig,
    /// Pages that say whether other services are well, shown beside those that it calls
    #[arg(long, env = "LONJA_CONSOLE_PROBES", value_name = "NAME=URL,...", default_value = "")]
    pub probes: Probes,
    /// What is its own.
    #[command(flatten)]
    pub console: ConsoleConfig,
}

/// Empty, or where a page is: it becomes a link for people to click.
fn page_url(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err("use http://HOST:PORT or https://HOST".to_owned())
}

/// Runs a console until shutdown. Prints where it listens.
///
/// # Errors
/// When an address cannot be used.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let channels = config.backend.channels()?;
    let listener = listen(config.listen)?;
    let admin = config.admin_listen.map(listen).transpose()?;
    announce(SERVICE_NAME, &listener, admin.as_ref())?;
    let health = Health::new();
    let console = Console::new(config.console, channels, config.probes, shutdown.clone());
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
    backend: Backend,
    probes: Probes,
    shutdown: CancellationToken,
}

impl Console {
    /// A console for what these services know.
    #[must_use]
    pub fn new(
        config: ConsoleConfig,
        channels: BackendChannels,
        probes: Probes,
        shutdown: CancellationToken,
    ) -> Self {
        Self { config, backend: Backend::new(channels), probes, shutdown }
    }

    /// Serves page and calls, and other pages beside them, until shutdown.
    ///
    /// # Errors
    /// When the descriptors for reflection make no sense.
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
        let service = ConsoleGrpc::new(self.backend, overview, self.config.jaeger_url, self.shutdown.clone());
        let reflection = rpc::reflection(DESCRIPTORS, SERVICE_NAME)?;
        let has_token = self.config.console_token.is_set();
        let calls = service::router(service, rpc::health(&health), reflection, self.config.console_token);
        let mut router = calls.fallback(page::serve);
        if !has_token {
            router = router.layer(from_fn_with_state(self.config.console_hosts, host::check));
        }
        let router = beside.merge(router);
        let shutdown = self.shutdown;
        tokio::join!(
            http::serve_streams(listener, router, shutdown.clone()),
            follower.run(shutdown.clone()),
            // It shows what it can reach, and what it cannot.
            health.watch(SERVICE_NAME, shutdown, async || true),
        );
        Ok(())
    }
}
