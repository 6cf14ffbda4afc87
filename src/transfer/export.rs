//! Writing an export.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, bail};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use lonja_chassis::{operation_log::OperationLog, service::Backends};
use lonja_proto::console::{ExportIndexRequest, ExportIndexResponse, ExportedEntry};
use lonja_redis::{Redis, StoreUrl};
use tokio_util::sync::CancellationToken;

use super::{
    AUDIT, CATALOG, ExportConfig, StoreAt,
    line::{Counts, Heading, Line, VERSION},
    must_answer,
};
use crate::{console_client::ConsoleAt, up};

/// Prints everything that an index keeps, and says on standard error how much it was.
pub(crate) async fn export(config: ExportConfig) -> anyhow::Result<()> {
    let counts = match &config.store {
        StoreAt { data_dir: Some(directory), .. } => from_directory(directory).await?,
        StoreAt { store: Some(url), redis_prefix, .. } => from_redis(url, redis_prefix).await?,
        _ => from_console(&config.console).await?,
    };
    eprintln!("exported {counts}");
    Ok(())
}

async fn from_console(console: &ConsoleAt) -> anyhow::Result<Counts> {
    let answer = console.client()?.export_index(console.request(ExportIndexRequest {})?).await;
    let mut pages = answer.map_err(|status| console.explain(&status))?.into_inner();
    let mut export = Export::begin()?;
    while let Some(page) = console.next(pages.message()).await? {
        export.write(page)?;
    }
    export.end()
}

async fn from_directory(directory: &Path) -> anyhow::Result<Counts> {
    let file = format!("{}.redb", up::JOURNAL);
    if !directory.join(&file).exists() {
        bail!(
            "{} has no {file}: give the --data-dir of `lonja up`, or export from a running index with --console",
            directory.display()
        );
    }
    let opened = up::open(directory, &CATALOG, &AUDIT, &OperationLog::off(), &CancellationToken::new())?;
    let counts = from_services(opened.services).await;
    tokio::task::spawn_blocking(move || opened.journal.close()).await?;
    counts
}

async fn from_redis(url: &StoreUrl, prefix: &str) -> anyhow::Result<Counts> {
    let redis = |service| Redis::new(url, prefix, service);
    let of_registry = redis("registry")?;
    must_answer(&of_registry, url).await?;
    let (registry, _) = lonja_registry::store::RedisStore::new(of_registry);
    let (catalog, _) = lonja_catalog::store::RedisStore::new(redis("catalog")?, &CATALOG);
    let audit = lonja_audit::store::RedisStore::new(redis("audit")?, &AUDIT);
    let services = Backends {
        registry: lonja_registry::client(registry),
        catalog: lonja_catalog::client(catalog).0,
        audit: lonja_audit::client(audit, OperationLog::off(), CancellationToken::new()),
    };
    from_services(services).await
}

async fn from_services(services: Backends) -> anyhow::Result<Counts> {
    let mut pages = lonja_console::export(services, ());
    let mut export = Export::begin()?;
    while let Some(page) = pages.try_next().await.map_err(|status| anyhow::anyhow!("{}", status.message()))? {
        export.write(page)?;
    }
    export.end()
}

/// An export that is being written to standard output.
struct Export {
    out: BufWriter<io::StdoutLock<'static>>,
    counts: Counts,
}

impl Export {
    fn begin() -> anyhow::Result<Self> {
        let out = BufWriter::new(io::stdout().lock());
        let mut export = Self { out, counts: Counts::default() };
        export.line(&Line::LonjaExport(Heading { version: VERSION, made_at: Timestamp::now() }))?;
        Ok(export)
    }

    fn write(&mut self, page: ExportIndexResponse) -> anyhow::Result<()> {
        for ExportedEntry { entry } in page.entries {
            // What a newer console adds, this program does not know how to write.
            let entry = entry.context("the console is newer than this lonja: use the lonja that it runs")?;
            let line = Line::from(entry);
            self.counts.add(&line);
            self.line(&line)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn end(mut self) -> anyhow::Result<Counts> {
        self.line(&Line::End(self.counts))?;
        self.out.flush()?;
        Ok(self.counts)
    }
}
