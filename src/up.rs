//! `lonja up`: every service in one process. The services call each other through the clients that
//! they use across a network; here a client calls its service directly.

use std::{
    io::{self, Write as _},
    iter,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use lonja_audit::AuditConfig;
use lonja_catalog::{CatalogConfig, search::Follower};
use lonja_chassis::{
    admin,
    health::Health,
    net::listen,
    operation_log::{OperationLog, OperationLogWriter},
    service::{Backends, RunError, upkeep},
    unit_of_work::Ledger,
};
use lonja_console::{Console, ConsoleConfig, Probe, Probes};
use lonja_gateway::{Gateway, GatewayConfig, PeerAddress, PeerListener};
use lonja_journal::{Journal, OpenError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Settings of `lonja up`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Config {
    /// Address for peers; may be given several times, and as DIALECT=ADDR for peers that all read
    /// replies in DIALECT (as in --dialect)
    #[arg(
        long,
        env = "LONJA_GATEWAY_LISTEN",
        value_name = "[DIALECT=]ADDR",
        value_delimiter = ',',
        default_value = "0.0.0.0:5050"
    )]
    gateway_listen: Vec<PeerAddress>,
    /// Address for the datetime service (SOAP); existing peers ask at port 8000. May be given several
    /// times
    #[arg(
        long,
        env = "LONJA_DATETIME_LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "0.0.0.0:8000"
    )]
    datetime_listen: Vec<SocketAddr>,
    /// Address for the console, and for /livez, /readyz and /metrics
    #[arg(long, env = "LONJA_CONSOLE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    console_listen: SocketAddr,
    /// Directory that keeps the state
    #[arg(long, env = "LONJA_DATA_DIR", value_name = "DIR", default_value = "./lonja-data")]
    data_dir: PathBuf,
    #[command(flatten)]
    gateway: GatewayConfig,
    #[command(flatten)]
    catalog: CatalogConfig,
    #[command(flatten)]
    audit: AuditConfig,
    #[command(flatten)]
    console: ConsoleConfig,
}

/// Runs every service until shutdown, and prints the addresses on which they listen.
pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let peers: Vec<_> =
        config.gateway_listen.iter().map(|address| PeerListener::new(*address)).collect::<Result<_, _>>()?;
    let datetime: Vec<_> =
        config.datetime_listen.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?;
    let datetime_at: Vec<_> = datetime.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let console = listen(config.console_listen)?;
    let (lines, writer) = if config.gateway.no_operation_log {
        (OperationLog::off(), OperationLogWriter::off())
    } else {
        OperationLog::to_stdout()?
    };
    let Opened { services, ledger, search, journal } =
        open(&config.data_dir, &config.catalog, &config.audit, &lines, &shutdown)?;
    announce(&peers, &datetime_at, &console)?;

    let health = Health::new();
    let proxies = config.gateway.trusted_proxies.clone();
    let gateway = Gateway::new(config.gateway, services.clone(), Some(ledger), lines);
    let probes = probes(&health, datetime_at.first().copied());
    let page = Console::new(config.console, services.clone(), probes, shutdown.clone());
    let (served, shown, ..) = tokio::join!(
        gateway.serve(peers, shutdown.clone()),
        page.serve(console, admin::router(health.clone()), health.clone()),
        search.run(shutdown.clone()),
        lonja_datetime::serve(datetime, proxies, shutdown.clone()),
        health.watch("lonja", shutdown.clone(), || lonja_gateway::is_ready(&services)),
        upkeep(&shutdown),
    );
    tokio::task::spawn_blocking(move || {
        journal.close();
        writer.finish();
    })
    .await?;
    served.and(shown)
}

/// What [`open`] opens: clients of the services that keep state, and what runs behind them.
pub(crate) struct Opened {
    pub(crate) services: Backends,
    /// Takes records of the audit into the commits of other services.
    ledger: Arc<dyn Ledger>,
    /// Keeps the catalog's search up to date while it runs.
    search: Follower<lonja_catalog::store::EmbeddedStore>,
    pub(crate) journal: Journal,
}

/// Opens the three stores in one journal, and makes a client of the service of each store.
pub(crate) fn open(
    data_dir: &Path,
    catalog: &CatalogConfig,
    audit: &AuditConfig,
    lines: &OperationLog,
    shutdown: &CancellationToken,
) -> Result<Opened, RunError> {
    let (Stores { registry, catalog, audit }, journal) = open_stores(data_dir, catalog, audit)?;
    let (catalog, search) = lonja_catalog::client(catalog);
    let ledger = lonja_audit::ledger(audit.clone(), lines.clone());
    let services = Backends {
        registry: lonja_registry::client(registry),
        catalog,
        audit: lonja_audit::client(audit, lines.clone(), shutdown.clone()),
    };
    Ok(Opened { services, ledger, search, journal })
}

/// The stores of the services that keep state.
pub(crate) struct Stores<R, C, A> {
    pub(crate) registry: R,
    pub(crate) catalog: C,
    pub(crate) audit: A,
}

/// The stores of `lonja up`.
type EmbeddedStores = Stores<
    lonja_registry::store::EmbeddedStore,
    lonja_catalog::store::EmbeddedStore,
    lonja_audit::store::EmbeddedStore,
>;

/// The name of the files in the data directory of `lonja up`.
pub(crate) const JOURNAL: &str = "lonja";

/// Opens the three stores in one journal. The audit's log is the last, so that its records can be in the
/// commits of the others.
pub(crate) fn open_stores(
    data_dir: &Path,
    catalog: &CatalogConfig,
    audit: &AuditConfig,
) -> Result<(EmbeddedStores, Journal), OpenError> {
    let mut journal = Journal::open(data_dir, JOURNAL)?;
    let registry = lonja_registry::store::EmbeddedStore::open(&mut journal)?;
    let catalog = lonja_catalog::store::EmbeddedStore::open(&mut journal, catalog)?;
    let audit = lonja_audit::store::EmbeddedStore::open(&mut journal, audit)?;
    Ok((Stores { registry, catalog, audit }, journal.start()?))
}

/// The probes by which the console learns whether the gateway and the datetime service, which it
/// does not call, are ready.
fn probes(health: &Health, datetime: Option<SocketAddr>) -> Probes {
    let datetime = datetime.map(|mut address| {
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        ("datetime".to_owned(), Probe::Page(format!("http://{address}/?wsdl")))
    });
    let gateway = ("gateway".to_owned(), Probe::Here(health.clone()));
    Probes(iter::once(gateway).chain(datetime).collect())
}

fn announce(peers: &[PeerListener], datetime: &[SocketAddr], console: &TcpListener) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for peers in peers {
        writeln!(stdout, "peers connect to  {peers}")?;
    }
    for datetime in datetime {
        writeln!(stdout, "time over SOAP    http://{datetime}/?wsdl")?;
    }
    writeln!(stdout, "console           http://{}/", console.local_addr()?)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use lonja_chassis::unit_of_work::Witness;
    use lonja_proto::{
        SessionId, audit::OperationRecord, catalog::EndSessionRequest, registry::RegisterUserRequest,
    };
    use tempfile::TempDir;

    use super::*;

    /// The audit's log is behind the others, so what is entered with a change is durable when the change is
    /// answered. A record in the commit behind would not be.
    #[tokio::test]
    async fn a_record_is_durable_with_the_change_that_it_goes_with() {
        let directory = TempDir::new().unwrap();
        let audit = AuditConfig { max_audit_records: 100 };
        let catalog = CatalogConfig { max_files_per_session: 100 };
        let (lines, shutdown) = (OperationLog::off(), CancellationToken::new());
        let opened = open(directory.path(), &catalog, &audit, &lines, &shutdown).unwrap();
        let Opened { services, ledger, .. } = &opened;
        let watch = || {
            let is_durable = Arc::new(AtomicBool::new(false));
            let (ledger, durable) = (Arc::clone(ledger), Arc::clone(&is_durable));
            let witness = Witness::new(move |_| {
                let durable = Arc::clone(&durable);
                let stored = move |result: Result<(), _>| durable.store(result.is_ok(), Ordering::Release);
                ledger.enter(OperationRecord::default(), Box::new(stored));
            });
            (witness, is_durable)
        };
        let (witness, is_durable) = watch();
        let request = RegisterUserRequest { username: "alice".to_owned(), owner: 0 };
        witness.watch(services.registry.register_user(request)).await.unwrap();
        assert!(is_durable.load(Ordering::Acquire), "with a change of the registry");
        let (witness, is_durable) = watch();
        let request = EndSessionRequest { session_id: SessionId::fresh().to_string() };
        witness.watch(services.catalog.end_session(request)).await.unwrap();
        assert!(is_durable.load(Ordering::Acquire), "with a change of the catalog");
    }
}
