//! Where an import goes: a data directory, or a Redis. Either is filled where nobody looks, and then
//! takes its place all at once. An import that was killed has changed nothing; the next begins anew.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use lonja_audit::store::{Position, Store as _};
use lonja_catalog::store::Store as _;
use lonja_proto::SessionId;
use lonja_redis::{KeyMove, Redis, RedisChangesDriver, RedisError, StoreUrl};
use lonja_registry::store::Store as _;

use super::{
    AUDIT, CATALOG, ImportConfig, StoreAt,
    fill::fill,
    line::{Counts, Line},
    must_answer, original,
    source::{Lines, Place},
};
use crate::up::{self, Stores};

type BoxedLines = Box<dyn Iterator<Item = anyhow::Result<(Place, Line)>> + Send>;

/// Fills an empty store, and says on standard output with how much.
pub(crate) async fn import(config: ImportConfig) -> anyhow::Result<()> {
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
    // Where a link leads, the directory can be replaced.
    let directory = &fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
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
    let _alone = alone_beside(directory)?;
    clear(&staging)?;
    let (stores, journal) = up::open_stores(&staging, &CATALOG, &AUDIT)?;
    let filled = fill(&stores, lines).await;
    drop(stores);
    tokio::task::spawn_blocking(move || journal.close()).await?;
    let shown = filled.and_then(|counts| {
        show(&staging, directory)?;
        Ok(counts)
    });
    if shown.is_err() {
        // The error says why nothing was imported; what is left behind is removed by the next import.
        let _ = clear(&staging);
    }
    shown
}

/// Makes the finished import the data directory.
fn show(staging: &Path, directory: &Path) -> anyhow::Result<()> {
    let shown = fs::rename(staging, directory).and_then(|()| File::open(parent(directory))?.sync_all());
    shown.with_context(|| {
        let (from, to) = (staging.display(), directory.display());
        format!("cannot rename {from} to {to}, which must be missing or empty, and no mount point")
    })
}

/// Takes a lock on the directory that holds the data directory, so that no two imports are made there at one
/// time. Fails at once if another import has the lock.
fn alone_beside(directory: &Path) -> anyhow::Result<File> {
    let parent = parent(directory);
    let unusable = || format!("cannot use {}", parent.display());
    fs::create_dir_all(parent).with_context(unusable)?;
    let lock = File::open(parent).with_context(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("another import into {} is under way: wait until it has ended", parent.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(unusable),
    }
}

/// The directory beside the data directory in which the import is made.
fn staging(directory: &Path) -> anyhow::Result<PathBuf> {
    let name = directory.file_name().with_context(|| format!("{} has no name", directory.display()))?;
    let mut staging = OsString::from(name);
    staging.push(".import");
    Ok(directory.with_file_name(staging))
}

fn parent(directory: &Path) -> &Path {
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
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

const BESIDE_ANOTHER: &str = "another import was made at the same time: run this one again when it has ended";

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
    fn open(url: &StoreUrl, prefix: &str) -> Result<(Self, [RedisChangesDriver; 2]), RedisError> {
        let redis = Redis::new(url, prefix, "registry")?;
        let (registry, first) = lonja_registry::store::RedisStore::new(redis.clone());
        let catalog = Redis::new(url, prefix, "catalog")?;
        let (catalog, second) = lonja_catalog::store::RedisStore::new(catalog, &CATALOG);
        let audit = lonja_audit::store::RedisStore::new(Redis::new(url, prefix, "audit")?, &AUDIT);
        Ok((Self { redis, stores: Stores { registry, catalog, audit } }, [first, second]))
    }

    async fn must_be_empty(&self, url: &StoreUrl) -> anyhow::Result<()> {
        let Stores { registry, catalog, audit } = &self.stores;
        let (registered, published) = (registry.statistics().await?, catalog.statistics().await?);
        let is_silent = audit.read(Position::default()).await?.is_empty();
        if registered.users == 0 && published.sessions == 0 && is_silent {
            return Ok(());
        }
        bail!(
            "{url} holds an index already, or is in use: stop its gateways, or choose another Redis or another \
             --redis-prefix"
        )
    }

    /// Fails if somebody else has written beside this import.
    async fn must_hold(&self, counts: Counts) -> anyhow::Result<()> {
        let Stores { registry, catalog, .. } = &self.stores;
        let (registered, published) = (registry.statistics().await?, catalog.statistics().await?);
        let held = (registered.users, registered.sessions, published.files);
        ensure!(held == (counts.users, counts.sessions, counts.files), BESIDE_ANOTHER);
        Ok(())
    }

    async fn moves(&self, to: &Self) -> anyhow::Result<Vec<KeyMove>> {
        let (from, to) = (&self.stores, &to.stores);
        let mut moves = from.audit.moves(&to.audit);
        moves.extend(from.catalog.moves(&to.catalog).await?);
        moves.extend(from.registry.moves(&to.registry));
        Ok(moves)
    }

    /// Removes what an import that did not come to its end has left.
    async fn clear(&self, shown: &Self) -> anyhow::Result<()> {
        Ok(self.redis.remove_keys(&self.moves(shown).await?).await?)
    }

    /// Moves everything to where services look, at the end of an import.
    async fn show(&self, shown: &Self, url: &StoreUrl) -> anyhow::Result<()> {
        let moved = self.redis.move_keys(&self.moves(shown).await?).await;
        moved.with_context(|| format!("the import stays unseen in {url}, and the next one shows it"))
    }
}

async fn into_redis(config: &ImportConfig, url: &StoreUrl, prefix: &str) -> anyhow::Result<()> {
    let (shown, _) = Keys::open(url, prefix)?;
    let (staged, [first, second]) = Keys::open(url, &format!("{prefix}.import"))?;
    let import = async {
        must_answer(&staged.redis, url).await?;
        if staged.redis.is_complete().await? {
            staged.show(&shown, url).await?;
            println!("{url} holds now what an import had brought that was cut short at its very end");
            println!("nothing of {} was imported", config.from.display());
            return Ok(());
        }
        shown.must_be_empty(url).await?;
        let lines = lines(&config.from)?;
        let writer = SessionId::fresh().to_string();
        staged.redis.claim(&writer).await?;
        // What was completed before this claim is being shown, and must not be cleared.
        ensure!(!staged.redis.is_complete().await?, BESIDE_ANOTHER);
        let filled = async {
            staged.clear(&shown).await?;
            let counts = fill(&staged.stores, lines).await?;
            staged.must_hold(counts).await?;
            shown.must_be_empty(url).await?;
            Ok::<_, anyhow::Error>(counts)
        };
        let counts = match filled.await {
            Ok(counts) => counts,
            Err(error) if staged.redis.is_claimed_by(&writer).await? => {
                // The error says why nothing was imported; the next import clears what is left.
                let _ = staged.clear(&shown).await;
                let _ = staged.redis.release(&writer).await;
                return Err(error);
            }
            Err(_) => bail!(BESIDE_ANOTHER),
        };
        ensure!(staged.redis.set_complete(&writer).await?, BESIDE_ANOTHER);
        staged.show(&shown, url).await?;
        println!("imported {counts} into {url}");
        Ok(())
    };
    first.run_while(second.run_while(import)).await
}
