//! `lonja export` and `lonja import`: everything that an index keeps, out of one store and into another.
//!
//! An export is read through the code of the console, whether the index runs (`--console`), or is a
//! directory or a Redis of its own. An import fills a store that nobody sees yet, and shows it at its end.

mod export;
mod fill;
mod line;
mod original;
mod source;
mod target;

use std::path::PathBuf;

use anyhow::bail;
use lonja_audit::AuditConfig;
use lonja_catalog::CatalogConfig;
use lonja_redis::StoreUrl;
use tokio_util::sync::CancellationToken;

use crate::console_client::ConsoleAt;

/// Settings of `lonja export`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExportConfig {
    #[command(flatten)]
    store: StoreAt,
    #[command(flatten)]
    console: ConsoleAt,
}

/// Settings of `lonja import`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ImportConfig {
    /// An export (- for standard input), or the directory with the original server's users.csv
    #[arg(value_name = "FILE")]
    from: PathBuf,
    #[command(flatten)]
    store: StoreAt,
    #[command(flatten)]
    catalog: CatalogConfig,
    #[command(flatten)]
    audit: AuditConfig,
}

/// A store that no service in this process uses.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StoreAt {
    /// The data directory of `lonja up`, which must not be running
    #[arg(long, value_name = "DIR", group = "kept")]
    data_dir: Option<PathBuf>,
    /// The Redis of the services.
    #[arg(
        help = "The Redis of the services: redis://[USER:PASSWORD@]HOST[:PORT] or \
                redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]",
        long,
        value_name = "URL",
        group = "kept"
    )]
    store: Option<StoreUrl>,
    /// What every key in Redis begins with
    #[arg(long, env = "LONJA_REDIS_PREFIX", value_name = "PREFIX", default_value = "lonja")]
    redis_prefix: String,
}

/// Prints everything that an index keeps.
pub(crate) async fn export(config: ExportConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    match shutdown.run_until_cancelled(Box::pin(export::run(config))).await {
        Some(result) => result,
        None => bail!("interrupted: the export is not complete, and has no last line that says \"end\""),
    }
}

/// Fills an empty store.
pub(crate) async fn import(config: ImportConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    match shutdown.run_until_cancelled(Box::pin(target::import(config))).await {
        Some(result) => result,
        None => bail!("interrupted: run the import again"),
    }
}
