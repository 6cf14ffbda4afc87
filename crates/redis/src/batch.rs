//! Changes that wait at the same moment travel in one script call.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metrics::histogram;
use opentelemetry::KeyValue;
use redis::Script;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::{Redis, RedisError, connection::Request};
use lonja_telemetry::traces::{Parent, Part, names};

/// The largest number of changes that may wait for Redis.
const QUEUE: usize = 16_384;
/// The largest number of changes in one call. Redis does nothing else during a call.
const BATCH: usize = 256;
/// While this many calls are under way, no further batch is sent. More calls at one time would be
/// smaller, and each would cost the same.
const IN_FLIGHT: usize = 1;

/// The Lua code that every script ends with. `apply(k, a)` decides and applies the change whose
/// keys begin at `KEYS[k]` and whose arguments begin at `ARGV[a]`, sets `changed` if it changed
/// anything, and gives `+` and a result or `-` and the name of a reason.
const HARNESS: &str = r"
local known = redis.call('GET', KEYS[1])
if known then return cmsgpack.unpack(known) end
local replies = {}
for i = 0, tonumber(ARGV[1]) - 1 do
  replies[i + 1] = apply(2 + i * KEYS_EACH, 2 + i * ARGS_EACH)
end
if changed then redis.call('SET', KEYS[1], cmsgpack.pack(replies), 'PX', 10000) end
return replies
";

/// A change that a script decides.
#[derive(Debug)]
pub struct RedisChange {
    /// The shard of the change's keys.
    pub shard: u16,
    /// The keys of the change: `KEYS_EACH` of them, as the script says.
    pub keys: Vec<String>,
    /// The arguments of the change: `ARGS_EACH` of them, as the script says.
    pub arguments: Vec<Vec<u8>>,
}

/// What a script answers to a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The change was carried out, with this result.
    Done(String),
    /// The change was refused, for the reason of this name.
    Refused(String),
}

#[derive(Debug)]
struct Pending {
    change: RedisChange,
    since: Instant,
    /// The place in a trace that the change belongs to.
    parent: Option<Parent>,
    answer: oneshot::Sender<Result<Reply, RedisError>>,
}

/// A queue in which changes wait until they are sent. Clones share one queue.
#[derive(Debug, Clone)]
pub struct RedisChanges {
    queue: mpsc::Sender<Pending>,
}

/// Sends the changes that wait in the queue of a [`RedisChanges`].
#[derive(Debug)]
pub struct RedisChangesDriver {
    redis: Redis,
    script: Script,
    waiting: mpsc::Receiver<Pending>,
}

impl RedisChanges {
    /// Makes a queue for changes that `script` decides, and the driver that sends them. The script
    /// is Lua code that defines `KEYS_EACH`, `ARGS_EACH` and `apply`.
    #[must_use]
    pub fn new(redis: &Redis, script: &str) -> (Self, RedisChangesDriver) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        // With the first line, Redis refuses the whole script when memory is full, rather than stop
        // in the middle of the script.
        let script = Script::new(&format!("#!lua\nlocal changed = false\n{script}{HARNESS}"));
        (Self { queue }, RedisChangesDriver { redis: redis.clone(), script, waiting })
    }

    /// Has Redis decide and apply a change, once, even if the call with the change is sent again.
    ///
    /// # Errors
    /// When Redis does not answer in time (it is not known then whether the change was applied), or
    /// too many changes wait (nothing is changed then).
    pub async fn submit(&self, change: RedisChange) -> Result<Reply, RedisError> {
        let (answer, reply) = oneshot::channel();
        let pending = Pending { change, since: Instant::now(), parent: Parent::current(), answer };
        self.queue.try_send(pending).map_err(|_| RedisError::new("too many changes wait"))?;
        reply.await.unwrap_or_else(|_| Err(RedisError::closed()))
    }
}

impl RedisChangesDriver {
    /// Sends changes while `work` runs, and then those that still wait.
    pub async fn run_while<T>(self, work: impl Future<Output = T>) -> T {
        let finished = CancellationToken::new();
        let work = async {
            let result = work.await;
            finished.cancel();
            result
        };
        tokio::join!(work, self.run(finished.clone())).0
    }

    /// Sends changes until `finished` is cancelled, and then those that still wait.
    pub fn run(self, finished: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.send_until(finished))
    }

    async fn send_until(self, finished: CancellationToken) {
        let Self { redis, script, mut waiting } = self;
        let script = Arc::new(script);
        let mut calls = FuturesUnordered::new();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = calls.next() => {}
                taken = waiting.recv_many(&mut batch, BATCH), if calls.len() < IN_FLIGHT => {
                    if taken == 0 {
                        break;
                    }
                    for group in groups(std::mem::take(&mut batch), redis.is_cluster()) {
                        calls.push(call(redis.clone(), Arc::clone(&script), group));
                    }
                }
                () = finished.cancelled(), if !waiting.is_closed() => waiting.close(),
            }
        }
        while calls.next().await.is_some() {}
    }
}

/// Splits a batch into groups that may travel in one call: in a cluster, the changes of one shard.
fn groups(batch: Vec<Pending>, by_shard: bool) -> Vec<Vec<Pending>> {
    if !by_shard {
        return vec![batch];
    }
    let mut groups: HashMap<u16, Vec<Pending>> = HashMap::new();
    for pending in batch {
        groups.entry(pending.change.shard).or_default().push(pending);
    }
    groups.into_values().collect()
}

async fn call(redis: Redis, script: Arc<Script>, mut group: Vec<Pending>) {
    // A change that has waited past its deadline is dropped, which fails it for whoever asked.
    let now = Instant::now();
    group.retain(|pending| now < redis.deadline(pending.since));
    let Some(first) = group.first() else { return };
    let mut invocation = script.prepare_invoke();
    invocation.key(redis.key(first.change.shard, &format!("batch:{}", Ulid::generate())));
    invocation.arg(group.len());
    for Pending { change, .. } in &group {
        for key in &change.keys {
            invocation.key(key);
        }
        for argument in &change.arguments {
            invocation.arg(argument);
        }
    }
    let request = Request::Script(&invocation);
    let part = group.iter().any(|pending| pending.parent.is_some()).then(|| redis.part(&request));
    let replies = redis.attempt_untraced(first.since, &request).await.and_then(|value| {
        let replies: Vec<String> = redis::from_redis_value(value).map_err(RedisError::new)?;
        if replies.len() == group.len() {
            Ok(replies)
        } else {
            Err(RedisError::new("a script gave another number of replies than there were changes"))
        }
    });
    histogram!("lonja_redis_batch_changes").record(group.len() as f64);
    if let Some(part) = part {
        record(part, &group, replies.as_ref().err());
    }
    match replies {
        Ok(replies) => {
            for (pending, reply) in group.into_iter().zip(replies) {
                // Whoever asked may have given up waiting.
                let _ = pending.answer.send(read(&reply));
            }
        }
        Err(error) => {
            for pending in group {
                let _ = pending.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Records the call in the trace of each change. All records but the first have a link to the first
/// trace.
fn record(mut part: Part, group: &[Pending], error: Option<&RedisError>) {
    part.error = error.map(RedisError::to_string);
    if group.len() > 1 {
        part.attributes.push(KeyValue::new(names::DB_OPERATION_BATCH_SIZE, group.len() as i64));
    }
    let parents: Vec<_> = group.iter().filter_map(|pending| pending.parent.as_ref()).collect();
    for (index, parent) in parents.iter().enumerate() {
        parent.record(part.clone(), parents.first().copied().filter(|_| index > 0));
    }
}

fn read(reply: &str) -> Result<Reply, RedisError> {
    match reply.split_at_checked(1) {
        Some(("+", result)) => Ok(Reply::Done(result.to_owned())),
        Some(("-", reason)) => Ok(Reply::Refused(reason.to_owned())),
        _ => Err(RedisError::new("a script gave a reply that is not known")),
    }
}

#[cfg(test)]
mod tests {
    use lonja_testing::RedisServer;
    use tokio::time::{self, Duration};

    use super::*;
    use crate::outage::DEADLINE;

    /// A script whose changes add to a number, and are refused above ten.
    const SUMS: &str = r"
local KEYS_EACH, ARGS_EACH = 1, 1
local function apply(k, a)
  if tonumber(redis.call('GET', KEYS[k]) or 0) + ARGV[a] > 10 then return '-TOO_MUCH' end
  changed = true
  return '+' .. redis.call('INCRBY', KEYS[k], ARGV[a])
end
";

    fn redis() -> (Redis, Arc<RedisServer>) {
        let server = RedisServer::shared();
        let redis = Redis::new(&server.url().parse().unwrap(), &RedisServer::fresh_prefix(), "sums").unwrap();
        (redis, server)
    }

    fn add(redis: &Redis, shard: u16, number: u32) -> RedisChange {
        RedisChange { shard, keys: vec![redis.key(shard, "sum")], arguments: vec![number.to_string().into()] }
    }

    fn pending(shard: u16) -> (Pending, oneshot::Receiver<Result<Reply, RedisError>>) {
        let (answer, reply) = oneshot::channel();
        let change = RedisChange { shard, keys: Vec::new(), arguments: Vec::new() };
        (Pending { change, since: Instant::now(), parent: None, answer }, reply)
    }

    #[tokio::test]
    async fn changes_of_one_shard_stay_together_and_in_order_in_a_cluster() {
        let batch = || [3, 1, 3, 2, 1, 3].into_iter().map(|shard| pending(shard).0).collect::<Vec<_>>();
        assert_eq!(groups(batch(), false).len(), 1);
        let mut sizes: Vec<_> =
            groups(batch(), true).iter().map(|group| (group[0].change.shard, group.len())).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [(1, 2), (2, 1), (3, 3)]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_that_wait_together_are_decided_in_order() {
        let (redis, _server) = redis();
        let (changes, driver) = RedisChanges::new(&redis, SUMS);
        let all =
            futures_util::future::join_all([4, 5, 6, 1].map(|number| changes.submit(add(&redis, 0, number))));
        let finished = CancellationToken::new();
        let (replies, ()) = tokio::join!(
            async {
                let replies = all.await;
                finished.cancel();
                replies
            },
            driver.run(finished.clone()),
        );
        let replies: Vec<_> = replies.into_iter().map(Result::unwrap).collect();
        let done = |sum: &str| Reply::Done(sum.to_owned());
        assert_eq!(replies, [done("4"), done("9"), Reply::Refused("TOO_MUCH".to_owned()), done("10")]);
    }

    /// An answer that is lost has the batch sent again, under the same key.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_that_is_sent_again_is_applied_once() {
        let (redis, _server) = redis();
        let script = Script::new(&format!("#!lua\nlocal changed = false\n{SUMS}{HARNESS}"));
        let mut invocation = script.prepare_invoke();
        invocation.key(redis.key(0, "batch:1")).arg(2);
        for number in [3, 9] {
            invocation.key(redis.key(0, "sum")).arg(number);
        }
        for _ in 0..3 {
            let replies: Vec<String> = redis.call(&invocation).await.unwrap();
            assert_eq!(replies, ["+3", "-TOO_MUCH"]);
        }
        let mut get = redis::cmd("GET");
        get.arg(redis.key(0, "sum"));
        assert_eq!(redis.query::<u32>(&get).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_has_waited_too_long_is_not_sent() {
        let nowhere = "redis://127.0.0.1:1".parse().unwrap();
        let redis = Redis::new(&nowhere, "test", "sums").unwrap();
        let (late, reply) = pending(0);
        time::sleep(DEADLINE + Duration::from_millis(1)).await;
        call(redis, Arc::new(Script::new("return 1")), vec![late]).await;
        // The caller is told that nobody answers, and nothing was sent.
        assert!(reply.await.is_err());
    }

    #[tokio::test]
    async fn a_queue_that_is_full_refuses_at_once() {
        let redis = Redis::new(&"redis://127.0.0.1:1".parse().unwrap(), "test", "sums").unwrap();
        let (changes, _driver) = RedisChanges::new(&redis, SUMS);
        let waiting: Vec<_> = (0..QUEUE)
            .map(|_| {
                let mut waiting = Box::pin(changes.submit(add(&redis, 0, 1)));
                assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
                waiting
            })
            .collect();
        let error = changes.submit(add(&redis, 0, 1)).await.unwrap_err();
        assert_eq!(error.to_string(), "redis: too many changes wait");
        drop(waiting);
    }

    #[test]
    fn replies_are_results_or_reasons() {
        assert_eq!(read("+abc").unwrap(), Reply::Done("abc".to_owned()));
        assert_eq!(read("-USER_EXISTS").unwrap(), Reply::Refused("USER_EXISTS".to_owned()));
        for unknown in ["", "abc", "é"] {
            assert!(read(unknown).is_err(), "{unknown}");
        }
    }
}
