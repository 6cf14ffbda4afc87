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

use anyhow::Context as _;
use lonja_audit::AuditConfig;
use lonja_catalog::CatalogConfig;
use lonja_redis::{Redis, StoreUrl};

pub(crate) use self::{export::export, target::import};
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
        env = "LONJA_OPERATOR_STORE",
        hide_env_values = true,
        value_name = "URL",
        group = "kept"
    )]
    store: Option<StoreUrl>,
    /// What every key in Redis begins with
    #[arg(long, env = "LONJA_REDIS_PREFIX", value_name = "PREFIX", default_value = "lonja")]
    redis_prefix: String,
}

/// Fails, and says what to do, if a Redis does not answer.
async fn must_answer(redis: &Redis, url: &StoreUrl) -> anyhow::Result<()> {
    let answered = redis.is_complete().await.map(|_| ());
    answered.with_context(|| format!("cannot use {url}: start it, or check the address, user and password"))
}

/// The sizes that limit a store when it runs do not matter here: what an index has kept is kept.
const CATALOG: CatalogConfig = CatalogConfig { max_files_per_session: usize::MAX };
const AUDIT: AuditConfig = AuditConfig { max_audit_records: u64::MAX };
