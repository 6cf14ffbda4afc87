//! The store of a catalog that is one of several processes: everything is in Redis. redis.lua has
//! the rules and the layout of the keys.

use std::time::Duration;

use futures_util::future::try_join_all;
use lonja_proto::{Failure, SessionId};
use lonja_redis::{
    KeyMove, Redis, RedisChange, RedisChanges, RedisChangesDriver, RedisError, Reply, SHARDS, shard,
};
use redis::{
    FromRedisValue, cmd,
    streams::{StreamId, StreamRangeReply},
};

use super::{Cursor, File, FileChange, Listed, Statistics, Store};
use crate::CatalogConfig;

const SCRIPT: &str = include_str!("redis.lua");

/// The largest number of changes of a shard that are read at once.
const CHANGES: usize = 512;

/// Published lists in Redis. All clones are the same store.
#[derive(Debug, Clone)]
pub struct RedisStore {
    redis: Redis,
    changes: RedisChanges,
    max_files: usize,
}

impl RedisStore {
    /// Makes a store in this Redis, and the driver that has to run for changes to be sent.
    #[must_use]
    pub fn new(redis: Redis, config: &CatalogConfig) -> (Self, RedisChangesDriver) {
        let (changes, driver) = RedisChanges::new(&redis, SCRIPT);
        (Self { redis, changes, max_files: config.max_files_per_session }, driver)
    }

    /// The moves that would bring everything that this store holds to another store, which is empty.
    /// Tombstones stay behind. The keys by which the files of sessions are found come first.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn moves(&self, to: &Self) -> Result<Vec<KeyMove>, Failure> {
        let shared = |shard| ["sessions", "totals", "changes"].map(|name| (shard, name.to_owned()));
        let mut names: Vec<_> = (0..SHARDS).flat_map(shared).collect();
        let files = |(id, _): (SessionId, String)| (shard(&id.to_bytes()), format!("files:{id}"));
        names.extend(self.sessions().await?.into_iter().map(files));
        Ok(KeyMove::between(&self.redis, &to.redis, &names))
    }

    /// The key of what a session has published.
    fn files(&self, session: SessionId) -> String {
        self.redis.key(shard(&session.to_bytes()), &format!("files:{session}"))
    }

    async fn change(&self, operation: &str, session: SessionId, details: [&str; 3]) -> Result<(), Failure> {
        let (shard, id) = (shard(&session.to_bytes()), session.to_string());
        let [username, filename, description] = details;
        let others = [&format!("ended:{id}"), "sessions", "totals", "changes"];
        let others = others.map(|name| self.redis.key(shard, name));
        let keys = [self.files(session)].into_iter().chain(others).collect();
        let limit = self.max_files.to_string();
        let arguments = [operation, &id, username, filename, description, &limit];
        let arguments = arguments.map(|argument| argument.into()).to_vec();
        let reply = self.changes.submit(RedisChange { shard, keys, arguments }).await;
        match reply.map_err(Failure::unavailable)? {
            Reply::Done(_) => Ok(()),
            Reply::Refused(name) => Err(Failure::refused(&name)),
        }
    }

    /// Gives changes of a shard behind the change number `from`, and the number of the last of
    /// these changes. `None` means that some changes are not known any more, or that the shard has
    /// gone back to an earlier state.
    async fn changes_of(&self, shard: u16, from: u64) -> Result<Option<(Vec<FileChange>, u64)>, Failure> {
        let mut read = redis::pipe();
        read.cmd("HGET").arg(self.redis.key(shard, "totals")).arg("changes");
        let range = read.cmd("XRANGE").arg(self.redis.key(shard, "changes"));
        range.arg(format!("({from}")).arg("+").arg("COUNT").arg(CHANGES);
        let (newest, entries): (Option<u64>, StreamRangeReply) =
            self.redis.query_pipeline(&read).await.map_err(Failure::unavailable)?;
        let is_next = |(entry, number): (&StreamId, u64)| entry.id == format!("{number}-0");
        let (newest, mut numbered) = (newest.unwrap_or_default(), entries.ids.iter().zip(from + 1..));
        // Changes may have been made between the two answers, so entries may go beyond `newest`.
        if newest < from || (newest > from && entries.ids.is_empty()) || !numbered.all(is_next) {
            return Ok(None);
        }
        let behind = from + entries.ids.len() as u64;
        let changes = entries.ids.iter().map(parse_change).collect::<Result<_, _>>()?;
        Ok(Some((changes, behind)))
    }

    /// Sends one command about a key to every shard, and gives the answers in order.
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
    const MAX_LAG: Duration = Duration::from_millis(250);

    async fn publish(&self, session: SessionId, username: &str, file: File) -> Result<(), Failure> {
        self.change("publish", session, [username, &file.filename, &file.description]).await
    }

    async fn delete(&self, session: SessionId, filename: &str) -> Result<(), Failure> {
        self.change("delete", session, ["", filename, ""]).await
    }

    async fn list(&self, session: SessionId) -> Result<Vec<Listed>, Failure> {
        let mut get = cmd("HGETALL");
        get.arg(self.files(session));
        let files: Vec<(String, String)> = self.redis.query(&get).await.map_err(Failure::unavailable)?;
        let mut files: Vec<_> = files.into_iter().map(parse).collect::<Result<_, _>>()?;
        files.sort_unstable_by_key(|listed| listed.order);
        Ok(files)
    }

    async fn has(&self, session: SessionId, filename: &str) -> Result<bool, Failure> {
        let mut exists = cmd("HEXISTS");
        exists.arg(self.files(session)).arg(filename);
        self.redis.query(&exists).await.map_err(Failure::unavailable)
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

    async fn newest(&self) -> Result<Cursor, Failure> {
        let newest: Vec<Option<u64>> = self.of_each_shard("HGET", "totals", Some("changes")).await?;
        Ok(Cursor(newest.into_iter().map(Option::unwrap_or_default).collect()))
    }

    async fn changes(&self, from: &Cursor) -> Result<Option<(Vec<FileChange>, Cursor)>, Failure> {
        let read = (0..SHARDS).zip(&from.0).map(|(shard, from)| self.changes_of(shard, *from));
        let (mut changes, mut behind) = (Vec::new(), Vec::new());
        for shard in try_join_all(read).await? {
            let Some((some, last)) = shard else { return Ok(None) };
            changes.extend(some);
            behind.push(last);
        }
        Ok(Some((changes, Cursor(behind))))
    }

    async fn statistics(&self) -> Result<Statistics, Failure> {
        let sessions: Vec<u64> = self.of_each_shard("HLEN", "sessions", None).await?;
        let files: Vec<Option<u64>> = self.of_each_shard("HGET", "totals", Some("files")).await?;
        Ok(Statistics { sessions: sessions.iter().sum(), files: files.into_iter().flatten().sum() })
    }

    async fn is_ready(&self) -> bool {
        self.redis.is_ready().await
    }

    fn is_restarting(&self) -> bool {
        self.redis.is_restarting()
    }
}

fn malformed(record: &str) -> Failure {
    Failure::unavailable(RedisError::malformed(record))
}

/// Reads a record of the key `files:SESSION`, which is `ORDER DESCRIPTION`.
fn parse((filename, record): (String, String)) -> Result<Listed, Failure> {
    let read = || {
        let (order, description) = record.split_once(' ')?;
        Some((order.parse().ok()?, description.to_owned()))
    };
    let (order, description) = read().ok_or_else(|| malformed(&record))?;
    Ok(Listed { order, file: File { filename, description } })
}

/// Reads an entry of the stream of changes. redis.lua writes the entry's fields.
fn parse_change(entry: &StreamId) -> Result<FileChange, Failure> {
    let session = |operation| entry.get::<String>(operation)?.parse().ok();
    let read = || {
        if let Some(session) = session("publish") {
            let file = File { filename: entry.get("filename")?, description: entry.get("description")? };
            let listed = Listed { order: entry.get("order")?, file };
            return Some(FileChange::Published(session, entry.get::<String>("username")?.into(), listed));
        }
        if let Some(session) = session("delete") {
            return Some(FileChange::Deleted(session, entry.get("filename")?));
        }
        session("end").map(FileChange::Ended)
    };
    read().ok_or_else(|| malformed(&entry.id))
}

#[cfg(test)]
mod tests {
    use lonja_redis::StoreUrl;
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

    #[tokio::test]
    async fn a_replica_that_fell_too_far_behind_is_told() {
        let server = RedisServer::shared();
        let store = open(&server.url());
        let session = SessionId::fresh();
        let start = store.newest().await.unwrap();
        let publish = async |number: usize| {
            let file = contract::file(&number.to_string());
            store.publish(session, "alice", file).await.unwrap();
            store.delete(session, &number.to_string()).await.unwrap();
        };
        for hundred in 0..50 {
            futures_util::future::join_all((0..100).map(|one| publish(100 * hundred + one))).await;
        }
        assert_eq!(store.changes(&start).await, Ok(None));
        let ahead = Cursor(vec![1 << 40; SHARDS.into()]);
        assert_eq!(store.changes(&ahead).await, Ok(None), "the store has gone back");
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
