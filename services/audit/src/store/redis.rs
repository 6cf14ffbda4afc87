//! The store of an audit that is one of several processes: everything is in Redis. redis.lua has
//! the rules and the layout of the keys.

use std::{sync::Arc, time::Duration};

use lonja_proto::{Failure, audit::OperationRecord};
use lonja_redis::{KeyMove, Redis, RedisError};
use prost::Message as _;
use redis::{Script, cmd, streams::StreamRangeReply};
use tokio::time;

use super::{Batch, Position, Store};
use crate::AuditConfig;

const SCRIPT: &str = include_str!("redis.lua");
/// The shard of all keys. The audit has only one shard, because all records have one order.
const SHARD: u16 = 0;
/// The largest number of stream entries that are read at once.
const ENTRIES: usize = 256;
/// How long a waiting reader pauses before it looks again, and how long it waits at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Records in Redis. All clones are the same store.
#[derive(Debug, Clone)]
pub struct RedisStore {
    redis: Redis,
    script: Arc<Script>,
    max_records: u64,
}

impl RedisStore {
    /// Makes a store in this Redis.
    #[must_use]
    pub fn new(redis: Redis, config: &AuditConfig) -> Self {
        Self { redis, script: Arc::new(Script::new(SCRIPT)), max_records: config.max_audit_records }
    }

    /// The moves that would bring every record of this store to another store, which is empty.
    #[must_use]
    pub fn moves(&self, to: &Self) -> Vec<KeyMove> {
        let names = ["records", "newest", "writers"].map(|name| (SHARD, name.to_owned()));
        KeyMove::between(&self.redis, &to.redis, &names)
    }

    fn key(&self, name: &str) -> String {
        self.redis.key(SHARD, name)
    }

    async fn newest(&self) -> Result<u64, RedisError> {
        let mut get = cmd("GET");
        get.arg(self.key("newest"));
        Ok(self.redis.query::<Option<u64>>(&get).await?.unwrap_or_default())
    }
}

impl Store for RedisStore {
    async fn record(&self, batch: Batch) -> Result<usize, Failure> {
        let mut call = self.script.prepare_invoke();
        call.key(self.key("records")).key(self.key("newest")).key(self.key("writers"));
        call.arg(&batch.writer_id).arg(batch.first_sequence).arg(self.max_records);
        for record in &batch.records {
            call.arg(record.encode_length_delimited_to_vec());
        }
        self.redis.call(&call).await.map_err(Failure::unavailable)
    }

    async fn read(&self, from: Position) -> Result<Vec<(Position, OperationRecord)>, Failure> {
        let mut start = from;
        loop {
            let mut range = cmd("XRANGE");
            range.arg(self.key("records")).arg(start.row).arg("+").arg("COUNT").arg(ENTRIES);
            let entries: StreamRangeReply = self.redis.query(&range).await.map_err(Failure::unavailable)?;
            let Some(last) = entries.ids.last() else { return Ok(Vec::new()) };
            let behind_last = Position { row: row(&last.id)? + 1, index: 0 };
            let mut found = Vec::new();
            for entry in &entries.ids {
                let row = row(&entry.id)?;
                let skip = if row == start.row { start.index } else { 0 };
                let bytes: Vec<u8> = entry.get("r").unwrap_or_default();
                let records = decode(&bytes)?;
                let placed =
                    records.into_iter().zip(1..).map(|(record, index)| (Position { row, index }, record));
                found.extend(placed.filter(|(behind, _)| behind.index > skip));
            }
            if !found.is_empty() {
                return Ok(found);
            }
            start = behind_last;
        }
    }

    async fn end(&self) -> Result<Position, Failure> {
        let newest = self.newest().await.map_err(Failure::unavailable)?;
        Ok(Position { row: newest + 1, index: 0 })
    }

    async fn wait_beyond(&self, position: Position) {
        let comes = async {
            // While Redis does not answer, nothing is new.
            while !self.newest().await.is_ok_and(|newest| newest >= position.row) {
                time::sleep(WAIT.0).await;
            }
        };
        // When the time is up, the reader looks again all the same.
        let _ = time::timeout(WAIT.1, comes).await;
    }

    async fn is_ready(&self) -> bool {
        self.redis.is_ready().await
    }
}

/// The number in an entry's id, which is `NUMBER-0`.
fn row(id: &str) -> Result<u64, Failure> {
    let number = id.split_once('-').and_then(|(number, _)| number.parse().ok());
    number.ok_or_else(|| Failure::unavailable(RedisError::malformed(id)))
}

fn decode(mut bytes: &[u8]) -> Result<Vec<OperationRecord>, Failure> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(OperationRecord::decode_length_delimited(&mut bytes).map_err(Failure::unavailable)?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use lonja_redis::StoreUrl;
    use lonja_testing::{RedisCluster, RedisServer};

    use super::*;
    use crate::store::contract;

    fn open(url: &str) -> RedisStore {
        let url: StoreUrl = url.parse().unwrap();
        let redis = Redis::new(&url, &RedisServer::fresh_prefix(), "audit").unwrap();
        RedisStore::new(redis, &AuditConfig { max_audit_records: 10_000 })
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
