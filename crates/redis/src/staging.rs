//! Keys that are written under a prefix of their own, and are then all moved to where services look.
//!
//! A mark says that everything is written. After a kill before the mark, nothing counts; after a kill
//! behind the mark, the move is done again to its end. Whoever writes claims the prefix first: of several writers
//! only the last to claim can set the mark.

use std::collections::BTreeMap;

use redis::{Script, cmd};

use crate::{Redis, RedisError};

/// Gives a key that another would replace.
const CHECK: &str = r"
for i = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i], KEYS[i + 1]) == 2 then return KEYS[i + 1] end
end
";
/// Moves keys that are still there. A key that was moved before is left alone, so the script may be called
/// again.
const MOVE: &str = r"
for i = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('RENAME', KEYS[i], KEYS[i + 1]) end
end
";
/// Ends a script that has found nothing in the way.
const DONE: &str = "return ''";
/// Sets the mark if the writer's claim stands, and says whether it does.
const COMPLETE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('SET', KEYS[2], 1)
return true
";
/// Removes the writer's claim if it stands.
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
";
/// The number of keys that one command removes.
const REMOVED_AT_ONCE: usize = 1000;

/// A key that is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMove {
    /// The shard of the key, before and after.
    pub shard: u16,
    /// What the key is called now.
    pub from: String,
    /// What the key is called after the move.
    pub to: String,
}

impl KeyMove {
    /// The moves of a service's keys, given by shard and name, from one prefix to another.
    #[must_use]
    pub fn between(from: &Redis, to: &Redis, names: &[(u16, String)]) -> Vec<Self> {
        let key_move = |(shard, name): &(u16, String)| Self {
            shard: *shard,
            from: from.key(*shard, name),
            to: to.key(*shard, name),
        };
        names.iter().map(key_move).collect()
    }
}

impl Redis {
    fn mark(&self) -> String {
        self.key(0, "complete")
    }

    fn claim_key(&self) -> String {
        self.key(0, "claim")
    }

    /// Claims the prefix for a writer. Earlier claims do not stand any more.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn claim(&self, writer: &str) -> Result<(), RedisError> {
        self.query(cmd("SET").arg(self.claim_key()).arg(writer)).await
    }

    /// Whether a writer's claim stands: nobody has claimed the prefix since.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn is_claimed_by(&self, writer: &str) -> Result<bool, RedisError> {
        let claimed: Option<String> = self.query(cmd("GET").arg(self.claim_key())).await?;
        Ok(claimed.as_deref() == Some(writer))
    }

    /// Takes a writer's claim back, if it stands.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn release(&self, writer: &str) -> Result<(), RedisError> {
        let script = Script::new(RELEASE);
        let mut call = script.prepare_invoke();
        call.key(self.claim_key()).arg(writer);
        self.call(&call).await
    }

    /// Says in a mark that everything is written, if the writer's claim stands. Gives whether it does.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn set_complete(&self, writer: &str) -> Result<bool, RedisError> {
        let script = Script::new(COMPLETE);
        let mut call = script.prepare_invoke();
        call.key(self.claim_key()).key(self.mark()).arg(writer);
        let stands: Option<u8> = self.call(&call).await?;
        Ok(stands.is_some())
    }

    /// Whether [`Self::set_complete`] has set the mark, and [`Self::move_keys`] has not come to its end.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn is_complete(&self) -> Result<bool, RedisError> {
        self.query(cmd("EXISTS").arg(self.mark())).await
    }

    /// Moves keys, and then removes the mark and the claim. On one server all keys move at the same moment; in a
    /// cluster, the keys of each shard do.
    ///
    /// # Errors
    /// When Redis does not answer in time (calling again goes on), or a key would replace another.
    pub async fn move_keys(&self, moves: &[KeyMove]) -> Result<(), RedisError> {
        let mut calls: BTreeMap<u16, Vec<&KeyMove>> = BTreeMap::new();
        for one in moves {
            calls.entry(if self.is_cluster() { one.shard } else { 0 }).or_default().push(one);
        }
        // All shards are looked at before any of them is moved, and each again at the moment of its move.
        for code in [format!("{CHECK}{DONE}"), format!("{CHECK}{MOVE}{DONE}")] {
            let script = Script::new(&code);
            for moves in calls.values() {
                let mut call = script.prepare_invoke();
                moves.iter().for_each(|one| {
                    call.key(&one.from).key(&one.to);
                });
                let in_the_way: String = self.call(&call).await?;
                if !in_the_way.is_empty() {
                    let why = "remove this key, or choose another --redis-prefix";
                    return Err(RedisError::new(format!("{in_the_way} is in use already: {why}")));
                }
            }
        }
        self.query(cmd("DEL").arg(self.mark()).arg(self.claim_key())).await
    }

    /// Removes the keys that were to move.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn remove_keys(&self, moves: &[KeyMove]) -> Result<(), RedisError> {
        let mut shards: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        moves.iter().for_each(|one| shards.entry(one.shard).or_default().push(&one.from));
        for mut keys in shards.into_values() {
            // The keys by which others are found come last, so that a removal that is cut short can go on.
            keys.reverse();
            for keys in keys.chunks(REMOVED_AT_ONCE) {
                self.query::<()>(cmd("UNLINK").arg(keys)).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lonja_testing::RedisServer;

    use super::*;

    #[tokio::test]
    async fn of_several_writers_only_the_last_to_claim_can_complete() {
        let server = RedisServer::shared();
        let redis =
            Redis::new(&server.url().parse().unwrap(), &RedisServer::fresh_prefix(), "registry").unwrap();
        assert!(!redis.set_complete("nobody").await.unwrap());
        redis.claim("first").await.unwrap();
        redis.claim("second").await.unwrap();
        assert!(!redis.is_claimed_by("first").await.unwrap());
        assert!(!redis.set_complete("first").await.unwrap());
        redis.release("first").await.unwrap();
        assert!(!redis.is_complete().await.unwrap());
        assert!(redis.set_complete("second").await.unwrap());
        // A script whose answer was lost is called once more.
        assert!(redis.set_complete("second").await.unwrap());
        assert!(redis.is_complete().await.unwrap());
        redis.move_keys(&[]).await.unwrap();
        assert!(!redis.is_complete().await.unwrap());
        assert!(!redis.is_claimed_by("second").await.unwrap());
        redis.claim("third").await.unwrap();
        redis.release("third").await.unwrap();
        assert!(!redis.set_complete("third").await.unwrap());
    }
}
