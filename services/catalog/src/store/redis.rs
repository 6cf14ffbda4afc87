//! The store of a catalog that is one of several processes: everything is in Redis. The
//! rules are in redis.lua, beside the layout of the keys.

use futures_util::future::try_join_all;
use lonja_chassis::redis::{Change, Changes, ChangesDriver, Redis, RedisError, Reply, SHARDS, shard};
use lonja_proto::{Failure, SessionId};
use redis::{FromRedisValue, cmd};

use super::{File, Statistics, Store};
use crate::CatalogConfig;

const SCRIPT: &str = include_str!("redis.lua");

/// Published lists in Redis. Clones share them.
#[derive(Debug, Clone)]
pub struct RedisStore {
    redis: Redis,
    changes: Changes,
    max_files: usize,
}

impl RedisStore {
    /// The catalog's keys in this Redis, and what has to run for changes to be sent.
    #[must_use]
    pub fn new(redis: Redis, config: &CatalogConfig) -> (Self, ChangesDriver) {
        let (changes, driver) = Changes::new(&redis, SCRIPT);
        (Self { redis, changes, max_files: config.max_files_per_session }, driver)
    }

    async fn change(&self, operation: &str, session: SessionId, details: [&str; 3]) -> Result<(), Failure> {
        let (shard, id) = (shard(&session.to_bytes()), session.to_string());
        let [username, filename, description] = details;
        let keys = [&format!("files:{id}"), &format!("ended:{id}"), "sessions", "totals"];
        let keys = keys.map(|name| self.redis.key(shard, name)).to_vec();
        let limit = self.max_files.to_string();
        let arguments = [operation, &id, username, filename, description, &limit];
        let arguments = arguments.map(|argument| argument.into()).to_vec();
        let reply = self.changes.submit(Change { shard, keys, arguments }).await;
        match reply.map_err(Failure::unavailable)? {
            Reply::Done(_) => Ok(()),
            Reply::Refused(name) => Err(Failure::refused(&name)),
        }
    }

    /// Asks every shard the same of a key.
    async fn of_each_shard<T: FromRedisValue>(
        &self,
        command: &str,
        key: &str,
        field: Option<&str>,
    ) -> Result<Vec<T>, Failure> {
        let ask = |shard| async move {
            let mut ask = cmd(command);
            ask.arg(self.redis.key(shard, key));
            ask.arg(field);
            self.redis.query(&ask).await
        };
        try_join_all((0..SHARDS).map(ask)).await.map_err(Failure::unavailable)
    }
}

impl Store for RedisStore {
    async fn publish(&self, session: SessionId, username: &str, file: File) -> Result<(), Failure> {
        self.change("publish", session, [username, &file.filename, &file.description]).await
    }

    async fn delete(&self, session: SessionId, filename: &str) -> Result<(), Failure> {
        self.change("delete", session, ["", filename, ""]).await
    }

    async fn list(&self, session: SessionId) -> Result<Vec<File>, Failure> {
        let mut get = cmd("HGETALL");
        get.arg(self.redis.key(shard(&session.to_bytes()), &format!("files:{session}")));
        let files: Vec<(String, String)> = self.redis.query(&get).await.map_err(Failure::unavailable)?;
        let mut files: Vec<_> = files.into_iter().map(parse).collect::<Result<_, _>>()?;
        files.sort_unstable_by_key(|(order, _)| *order);
        Ok(files.into_iter().map(|(_, file)| file).collect())
    }

    async fn end_session(&self, session: SessionId) -> Result<(), Failure> {
        self.change("end", session, [""; 3]).await
    }

    async fn sessions(&self) -> Result<Vec<(SessionId, String)>, Failure> {
        let shards: Vec<Vec<(String, String)>> = self.of_each_shard("HGETALL", "sessions", None).await?;
        let parse =
            |(id, username): (String, String)| Ok((id.parse().map_err(|_| malformed(&id))?, username));
        shards.into_iter().flatten().map(parse).collect()
    }

    async fn statistics(&self) -> Result<Statistics, Failure> {
        let sessions: Vec<u64> = self.of_each_shard("HLEN", "sessions", None).await?;
        let files: Vec<Option<u64>> = self.of_each_shard("HGET", "totals", Some("files")).await?;
        Ok(Statistics { sessions: sessions.iter().sum(), files: files.into_iter().flatten().sum() })
    }

    async fn is_ready(&self) -> bool {
        self.redis.is_ready().await
    }
}

fn malformed(record: &str) -> Failure {
    Failure::unavailable(RedisError::malformed(record))
}

/// A record is `ORDER DESCRIPTION`.
fn parse((filename, record): (String, String)) -> Result<(u64, File), Failure> {
    let read = || {
        let (order, description) = record.split_once(' ')?;
        Some((order.parse().ok()?, description.to_owned()))
    };
    let (order, description) = read().ok_or_else(|| malformed(&record))?;
    Ok((order, File { filename, description }))
}

#[cfg(test)]
mod tests {
    use lonja_chassis::store_url::StoreUrl;
    use lonja_testing::{RedisCluster, RedisServer};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::store::contract;

    fn open(url: &str) -> RedisStore {
        let url: StoreUrl = url.parse().unwrap();
        let redis = Redis::new(&url, &RedisServer::fresh_prefix(), "catalog").unwrap();
        let (store, driver) =
            RedisStore::new(redis, &CatalogConfig { max_files_per_session: contract::MAX_FILES });
        tokio::spawn(driver.run(CancellationToken::new()));
        store
    }

    mod single {
        use super::*;

        contract::suite!(|| {
            let server = RedisServer::shared();
            (open(&server.url()), server)
        });
    }

    mod cluster {
        use super::*;

        contract::suite!(|| {
            let cluster = RedisCluster::shared();
            (open(&cluster.url()), cluster)
        });
    }
}
