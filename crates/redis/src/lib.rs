//! What the Redis stores share: a connection that is made again when it fails, commands that are
//! sent again until their deadline, and changes that travel in batches.
//!
//! Every key of a service begins with `PREFIX:SERVICE:{SHARD}:`. Keys that change together
//! have one shard and so one slot of a Redis Cluster. A change is decided and applied by a
//! script, so it is atomic; the script remembers the batch, so a batch that is sent again
//! after its answer was lost is applied once.

mod batch;
mod connection;
mod outage;
mod staging;
mod store_url;

pub use batch::{RedisChange, RedisChanges, RedisChangesDriver, Reply};
pub use connection::{Redis, RedisError};
pub use staging::KeyMove;
pub use store_url::{InvalidStoreUrl, StoreUrl};

/// The number of shards of a service's keys. The number is a part of the layout: another number
/// would move every key.
pub const SHARDS: u16 = 16;

/// The shard of a name, by CRC32, so that every process and version finds the same shard.
#[must_use]
pub fn shard(name: &[u8]) -> u16 {
    (crc32fast::hash(name) % u32::from(SHARDS)) as u16
}
