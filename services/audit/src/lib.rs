//! The audit: every operation that peers asked for, in order, each exactly once.

mod counts;
mod filter;
mod ledger;
mod line;
mod reader;
mod sample;
mod service;
pub mod store;

use std::sync::Arc;

use lonja_chassis::{
    grpc::{ServeError, Service},
    operation_log::{OperationLog, OperationLogWriter},
    service::{RunError, Running, ServiceConfig, serve},
    unit_of_work::Ledger,
};
use lonja_journal::Journal;
use lonja_proto::{
    DESCRIPTORS,
    audit::{AuditClient, AuditUnary, SERVICE_NAME, audit_service_server::AuditServiceServer, methods},
};
use lonja_redis::StoreUrl;
use lonja_rpc::Callers;
use tokio_util::sync::CancellationToken;

use ledger::JournalLedger;
use service::AuditGrpc;
use store::{EmbeddedStore, RedisStore, Store};

/// Settings of the audit itself, wherever it runs.
#[derive(Debug, Clone, clap::Args)]
pub struct AuditConfig {
    /// Largest number of records that are kept; older records are dropped
    #[arg(long, env = "LONJA_MAX_AUDIT_RECORDS", value_name = "N", default_value_t = 1_000_000)]
    pub max_audit_records: u64,
}

/// The methods that each caller may call, where callers have certificates. Only the gateway and the
/// console call other services (docs/architecture.md).
const CALLERS: Callers = &[
    ("lonja-gateway", &[methods::RECORD_OPERATIONS]),
    (
        "lonja-console",
        &[
            methods::LIST_OPERATIONS,
            methods::TAIL_OPERATIONS,
            methods::COUNT_OPERATIONS,
            // What an operator has done (lonja.admin.v1).
            methods::RECORD_OPERATIONS,
        ],
    ),
];

/// Settings of an audit that runs alone.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Settings that the audit shares with the other services.
    #[command(flatten)]
    pub service: ServiceConfig,
    /// Settings of the audit itself.
    #[command(flatten)]
    pub audit: AuditConfig,
    /// Do not print a line for each operation
    #[arg(long, env = "LONJA_NO_OPERATION_LOG")]
    pub no_operation_log: bool,
}

/// Makes a client of an audit in this process, which prints a line for each operation.
#[must_use]
pub fn client(store: impl Store + Clone, lines: OperationLog, shutdown: CancellationToken) -> AuditClient {
    AuditClient::local(AuditGrpc::new(store, lines, shutdown))
}

/// Makes a ledger of an audit in this process: records that are entered there are committed with the
/// changes that they tell of. The journal must have the audit's log behind the logs of those changes.
#[must_use]
pub fn ledger(store: EmbeddedStore, lines: OperationLog) -> Arc<dyn Ledger> {
    Arc::new(JournalLedger { store, lines })
}

/// Runs an audit until shutdown.
///
/// # Errors
/// When the data directory or an address cannot be used, or a server breaks down.
pub fn run(config: Config, shutdown: CancellationToken) -> Running {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let (lines, writer) = if config.no_operation_log {
        (OperationLog::off(), OperationLogWriter::off())
    } else {
        OperationLog::to_stdout()?
    };
    let result = if let StoreUrl::Embedded(directory) = &config.service.store {
        let mut journal = Journal::open(directory, "audit")?;
        let store = EmbeddedStore::open(&mut journal, &config.audit)?;
        let journal = journal.start()?;
        let result = serve_store(&config, store, lines, shutdown).await;
        tokio::task::spawn_blocking(move || journal.close()).await?;
        result
    } else {
        let store = RedisStore::new(config.service.redis("audit")?, &config.audit);
        serve_store(&config, store, lines, shutdown).await
    };
    tokio::task::spawn_blocking(move || writer.finish()).await?;
    result
}

async fn serve_store(
    config: &Config,
    store: impl Store + Clone,
    lines: OperationLog,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let service = service(store.clone(), lines, shutdown.clone())?;
    serve(&config.service, service, || store.is_ready(), shutdown).await
}

/// Makes the gRPC service of an audit, which prints a line for each operation.
///
/// # Errors
/// When the descriptors cannot be read.
pub fn service(
    store: impl Store + Clone,
    lines: OperationLog,
    shutdown: CancellationToken,
) -> Result<Service, ServeError> {
    let audit = Arc::new(AuditGrpc::new(store, lines, shutdown));
    let server = AuditServiceServer::from_arc(Arc::clone(&audit));
    Service::new(SERVICE_NAME, DESCRIPTORS, CALLERS, server, AuditUnary(audit))
}
