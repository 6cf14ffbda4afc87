//! Where an import goes: a data directory, or a Redis. Either is filled where nobody looks, and then
//! takes its place all at once. An import that was killed has changed nothing; the next begins anew.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use lonja_audit::store::{Position, Store as _};
use lonja_catalog::store::Store as _;
use lonja_redis::{KeyMove, Redis, RedisChangesDriver, RedisError, StoreUrl};
use lonja_registry::store::Store as _;

use super::{
    ImportConfig, StoreAt,
    fill::fill,
    line::{Counts, Line},
    original,
    source::{Lines, Place},
};
use crate::up::{self, Stores};

type BoxedLines = Box<dyn Iterator<Item = anyhow::Result<(Place, Line)>> + Send>;

/// Fills a store, and says how much it was.
pub(super) async fn import(config: ImportConfig) -> anyhow::Result<()> {
    match &config.store {
        StoreAt { data_dir: Some(directory), .. } => {
            let counts = into_directory(&config, directory).await?;
            println!("imported {counts} into {}", directory.display());
        }
        StoreAt { store: Some(url), redis_prefix, .. } => into_redis(&config, url, redis_prefix).await?,
        _ => bail!("where to? Give --data-dir DIR or --store URL"),
    }
    Ok(())
}

fn lines(from: &Path) -> anyhow::Result<BoxedLines> {
    if from.join(original::USERS).exists() {
        return Ok(Box::new(original::read(from)?.into_iter()));
    }
    if from.is_dir() {
        bail!("{} has no {}", from.display(), original::USERS);
    }
    Ok(Box::new(Lines::open(from)?))
}

async fn into_directory(config: &ImportConfig, directory: &Path) -> anyhow::Result<Counts> {
    let is_empty = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).context(format!("cannot read {}", directory.display())),
    };
    if !is_empty {
        bail!("{} is not empty: choose another --data-dir, or move it away", directory.display());
    }
    let lines = lines(&config.from)?;
    let staging = staging(directory)?;
    clear(&staging)?;
    let (stores, journal) = up::open_stores(&staging, &config.catalog, &config.audit)?;
    let filled = fill(&stores, lines).await;
    drop(stores);
    tokio::task::spawn_blocking(move || journal.close()).await?;
    let counts = match filled {
        Ok(counts) => counts,
        Err(error) => {
            // The error says why nothing was imported; what is left behind is removed by the next import.
            let _ = clear(&staging);
            return Err(error);
        }
    };
    let shown = fs::rename(&staging, directory).and_then(|()| match parent(directory) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    });
    shown.with_context(|| format!("cannot rename {} to {}", staging.display(), directory.display()))?;
    Ok(counts)
}

/// The directory beside the data directory in which the import is made.
fn staging(directory: &Path) -> anyhow::Result<PathBuf> {
    let name = directory.file_name().with_context(|| format!("{} has no name", directory.display()))?;
    let mut staging = OsString::from(name);
    staging.push(".import");
    Ok(directory.with_file_name(staging))
}

fn parent(directory: &Path) -> Option<&Path> {
    let parent = directory.parent()?;
    Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

/// Removes what an import that was killed has left. Files of others are never removed.
fn clear(staging: &Path) -> anyhow::Result<()> {
    let ignore_missing = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let clear = || {
        for ending in ["redb", "wal0", "wal1"] {
            ignore_missing(fs::remove_file(staging.join(format!("{}.{ending}", up::JOURNAL))))?;
        }
        ignore_missing(fs::remove_dir(staging))
    };
    clear().with_context(|| format!("cannot remove {}: move it away", staging.display()))
}

type RedisStores = Stores<
    lonja_registry::store::RedisStore,
    lonja_catalog::store::RedisStore,
    lonja_audit::store::RedisStore,
>;

/// Stores in a Redis under some prefix.
struct Keys {
    redis: Redis,
    stores: RedisStores,
}

impl Keys {
    /// The stores, and what has to run for registry and catalog to be changed.
    fn open(
        config: &ImportConfig,
        url: &StoreUrl,
        prefix: &str,
    ) -> Result<(Self, [RedisChangesDriver; 2]), RedisError> {
        let redis = Redis::new(url, prefix, "registry")?;
        let (registry, first) = lonja_registry::store::RedisStore::new(redis.clone());
        let catalog = Redis::new(url, prefix, "catalog")?;
        let (catalog, second) = lonja_catalog::store::RedisStore::new(catalog, &config.catalog);
        let audit = Redis::new(url, prefix, "audit")?;
        let audit = lonja_audit::store::RedisStore::new(audit, &config.audit);
        Ok((Self { redis, stores: Stores { registry, catalog, audit } }, [first, second]))
    }

    async fn is_empty(&self) -> anyhow::Result<bool> {
        let Stores { registry, catalog, audit } = &self.stores;
        let (registered, published) = (registry.statistics().await?, catalog.statistics().await?);
        let is_silent = audit.read(Position::default()).await?.is_empty();
        Ok(registered.users == 0 && published.sessions == 0 && is_silent)
    }

    async fn moves(&self, to: &Self) -> anyhow::Result<Vec<KeyMove>> {
        let (from, to) = (&self.stores, &to.stores);
        let mut moves = from.audit.moves(&to.audit);
        moves.extend(from.catalog.moves(&to.catalog).await?);
        moves.extend(from.registry.moves(&to.registry));
        Ok(moves)
    }
}

async fn into_redis(config: &ImportConfig, url: &StoreUrl, prefix: &str) -> anyhow::Result<()> {
    let (shown, _) = Keys::open(config, url, prefix)?;
    let (staged, [first, second]) = Keys::open(config, url, &format!("{prefix}.import"))?;
    let import = async {
        if staged.redis.is_complete().await? {
            staged.redis.move_keys(&staged.moves(&shown).await?).await?;
            println!("{url} holds now what an import had brought that was cut short at its very end");
            println!("nothing of {} was imported", config.from.display());
            return Ok(());
        }
        if !shown.is_empty().await? {
            bail!("{url} holds an index already: choose another Redis or another --redis-prefix");
        }
        let lines = lines(&config.from)?;
        staged.redis.remove_keys(&staged.moves(&shown).await?).await?;
        let counts = fill(&staged.stores, lines).await?;
        staged.redis.set_complete().await?;
        staged.redis.move_keys(&staged.moves(&shown).await?).await?;
        println!("imported {counts} into {url}");
        Ok(())
    };
    first.run_while(second.run_while(import)).await
}
