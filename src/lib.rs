//! The command line of `lonja`: a subcommand for each service, for all services in one process, for
//! a peer, and for what an operator asks a running service.

mod admin;
mod audit;
mod console_client;
mod health;
mod transfer;
mod up;

use std::{
    io,
    num::NonZeroUsize,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use lonja_chassis::shutdown;
use lonja_telemetry::traces;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag::register_conditional_shutdown,
};
use tokio::runtime::{self, Runtime};
use tokio_util::sync::CancellationToken;

/// A peer-to-peer file-sharing index: existing peers connect to it unchanged
#[derive(Debug, Parser)]
#[command(name = "lonja", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to log on standard error: error, warn, info, debug, or target=level pairs
    #[arg(long, global = true, env = "LONJA_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// Threads that serve; if not given, as many as there are processors. A service in a process of
    /// its own takes one thread if there are only one or two processors, which other services need
    /// too
    #[arg(long, global = true, env = "LONJA_WORKERS", value_name = "N")]
    workers: Option<NonZeroUsize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every service in this process, with an embedded store
    Up(up::Config),
    /// Run the gateway: the port that peers connect to
    Gateway(lonja_gateway::Config),
    /// Run the registry: users and sessions
    Registry(lonja_registry::Config),
    /// Run the catalog: what each session published
    Catalog(lonja_catalog::Config),
    /// Run the audit, which records every operation in order; or print what is recorded
    Audit(AuditCommand),
    /// Look at every user of a running index, and disconnect, free or remove one
    Admin(admin::Config),
    /// Print everything that an index keeps, as JSON lines: a backup, or a way to another store
    Export(transfer::ExportConfig),
    /// Fill an empty store with an export, or with the files of the original server
    Import(transfer::ImportConfig),
    /// Run the datetime service: the SOAP service that peers ask for the time
    Datetime(lonja_datetime::Config),
    /// Run the console: the page that shows the index live
    Console(lonja_console::Config),
    /// Run a peer: a shell, or one command for scripts
    Peer(lonja_peer::Config),
    /// Ask a service whether it is ready; exit 0 if it is
    Health(health::Config),
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
struct AuditCommand {
    #[command(flatten)]
    service: lonja_audit::Config,
    /// Print what is recorded, instead of running the audit
    #[command(subcommand)]
    look: Option<audit::Look>,
}

/// The definition of the command line, from which man pages and completions are made.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command of the command line to its end, and gives the exit code of the process.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    if let Command::Peer(config) = cli.command {
        return lonja_peer::run(config);
    }
    match runtime(&cli).map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(start(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lonja: {}", line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error as one line. Some errors name their cause in their own text, which is not said twice.
fn line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

fn runtime(cli: &Cli) -> io::Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let default = match cli.command {
        Command::Up(_) => processors,
        _ if processors <= 2 => 1,
        _ => processors,
    };
    match cli.workers.map_or(default, NonZeroUsize::get) {
        // With one thread, no task ever has to wake another thread.
        1 => runtime::Builder::new_current_thread().enable_all().build(),
        workers => runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    }
}

async fn start(cli: Cli) -> anyhow::Result<()> {
    if let Command::Health(config) = cli.command {
        return health::run(config).await;
    }
    let _written_at_the_end = lonja_telemetry::init(&cli.log)?;
    // Each connection needs a descriptor. If the system grants too few, accepting waits.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let shutdown = CancellationToken::new();
    if let Command::Export(_) | Command::Import(_) = cli.command {
        end_at_once_on_signal().context("signal handlers")?;
        return Box::pin(serve(cli.command, shutdown)).await;
    }
    let exporter = traces::init(cli.command.service())?;
    let signals = shutdown::on_signal(shutdown.clone()).context("signal handlers")?;
    let result = tokio::select! {
        result = Box::pin(serve(cli.command, shutdown)) => result,
        never = signals => match never {},
    };
    if let Some(exporter) = exporter {
        tokio::task::spawn_blocking(|| exporter.finish()).await?;
    }
    result
}

/// Has a signal end the process at once, even while it waits for a pipe. Without a handler, the first process of a
/// container takes no signal but SIGKILL.
fn end_at_once_on_signal() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        register_conditional_shutdown(signal, 128 + signal, Arc::new(AtomicBool::new(true)))?;
    }
    Ok(())
}

impl Command {
    /// The name of the command's service in traces.
    fn service(&self) -> &'static str {
        match self {
            Self::Up(_) => "lonja",
            Self::Gateway(_) => "lonja-gateway",
            Self::Registry(_) => "lonja-registry",
            Self::Catalog(_) => "lonja-catalog",
            Self::Audit(_) => "lonja-audit",
            Self::Datetime(_) => "lonja-datetime",
            Self::Console(_) => "lonja-console",
            Self::Peer(_) => "lonja-peer",
            Self::Health(_) => "lonja-health",
            Self::Admin(_) => "lonja-admin",
            Self::Export(_) => "lonja-export",
            Self::Import(_) => "lonja-import",
        }
    }
}

async fn serve(command: Command, shutdown: CancellationToken) -> anyhow::Result<()> {
    match command {
        Command::Up(config) => Box::pin(up::run(config, shutdown)).await?,
        Command::Gateway(config) => lonja_gateway::run(config, shutdown).await?,
        Command::Registry(config) => lonja_registry::run(config, shutdown).await?,
        Command::Catalog(config) => lonja_catalog::run(config, shutdown).await?,
        Command::Audit(AuditCommand { look: Some(look), .. }) => audit::run(look, shutdown).await?,
        Command::Audit(config) => lonja_audit::run(config.service, shutdown).await?,
        Command::Datetime(config) => lonja_datetime::run(config, shutdown).await?,
        Command::Console(config) => lonja_console::run(config, shutdown).await?,
        Command::Health(config) => health::run(config).await?,
        Command::Admin(config) => admin::run(config).await?,
        Command::Export(config) => transfer::export(config).await?,
        Command::Import(config) => transfer::import(config).await?,
        // `run` runs a peer before it comes here, because a peer has threads of its own.
        Command::Peer(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: "cannot read FILE: No such file or directory: No such file or directory".
    #[test]
    fn a_cause_is_said_once() {
        let cause = io::Error::from(io::ErrorKind::NotFound);
        let said = format!("cannot read the file: {cause}");
        let error = anyhow::Error::new(cause);
        assert_eq!(line(&error.context(said.clone())), said);
        let error = anyhow::anyhow!("the disk is full").context("cannot write").context("no backup");
        assert_eq!(line(&error), "no backup: cannot write: the disk is full");
    }
}
