//! The store of a registry that is one of several processes: everything is in Redis. redis.lua has
//! the rules and the layout of the keys.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use futures_util::future::try_join_all;
use lonja_chassis::clock::unix_ms;
use lonja_proto::{Failure, Reason, SessionId, registry::CheckResult};
use lonja_redis::{
    KeyMove, Redis, RedisChange, RedisChanges, RedisChangesDriver, RedisError, Reply, SHARDS, shard,
};
use parking_lot::Mutex;
use redis::cmd;
use tokio::sync::Semaphore;

use super::{Listing, RemoteSession, Statistics, Store};
use crate::{
    check::Check,
    model::{Endpoint, Only, OpenSession, Registered, Session},
};

const SCRIPT: &str = include_str!("redis.lua");
/// The names of a shard's keys, in the script's order.
const KEYS: [&str; 5] = ["users", "online", "revision", "owners", "checks"];
/// How often a record of a check is written again that somebody else has changed meanwhile.
const ATTEMPTS: usize = 5;

/// Users and sessions in Redis. All clones are the same store.
#[derive(Debug, Clone)]
pub struct RedisStore {
    redis: Redis,
    changes: RedisChanges,
    list: Arc<List>,
}

impl RedisStore {
    /// Makes a store in this Redis, and the driver that has to run for changes to be sent.
    #[must_use]
    pub fn new(redis: Redis) -> (Self, RedisChangesDriver) {
        let (changes, driver) = RedisChanges::new(&redis, SCRIPT);
        (Self { redis, changes, list: Arc::default() }, driver)
    }

    /// The moves that would bring everything that this store holds to another store, which is empty.
    #[must_use]
    pub fn moves(&self, to: &Self) -> Vec<KeyMove> {
        let names = |shard| KEYS.map(|name| (shard, name.to_owned()));
        let names: Vec<_> = (0..SHARDS).flat_map(names).collect();
        KeyMove::between(&self.redis, &to.redis, &names)
    }

    async fn change(
        &self,
        operation: &str,
        username: &str,
        id: &str,
        detail: &str,
        only: Only,
    ) -> Result<Option<SessionId>, Failure> {
        self.submit([operation, username, id, detail, &rule(only)]).await
    }

    /// Has the script decide about the user whose name is the second argument.
    async fn submit(&self, arguments: [&str; 5]) -> Result<Option<SessionId>, Failure> {
        let username = arguments[1];
        let shard = shard(username.as_bytes());
        let keys = KEYS.map(|name| self.redis.key(shard, name)).to_vec();
        let arguments = arguments.map(|argument| argument.into()).to_vec();
        let reply = self.changes.submit(RedisChange { shard, keys, arguments }).await;
        match reply.map_err(Failure::unavailable)? {
            Reply::Done(session) => parse_id(&session),
            Reply::Refused(name) => Err(Failure::refused(&name)),
        }
    }

    /// The user's session; `None` for a user who is not connected. Refused: `UserNotFound`.
    async fn find(&self, username: &str) -> Result<Option<SessionId>, Failure> {
        let mut get = cmd("HGET");
        get.arg(self.redis.key(shard(username.as_bytes()), "users")).arg(username);
        let session: Option<String> = self.redis.query(&get).await.map_err(Failure::unavailable)?;
        parse_id(&session.ok_or(Reason::UserNotFound)?)
    }

    async fn record(&self, username: &str) -> Result<Option<Record>, RedisError> {
        let mut get = cmd("HGET");
        get.arg(self.redis.key(shard(username.as_bytes()), "online")).arg(username);
        let record: Option<String> = self.redis.query(&get).await?;
        record.map(|record| Record::parse(&record)).transpose()
    }

    async fn owner(&self, username: &str) -> Result<Option<Ipv4Addr>, RedisError> {
        let mut get = cmd("HGET");
        get.arg(self.redis.key(shard(username.as_bytes()), "owners")).arg(username);
        let owner: Option<String> = self.redis.query(&get).await?;
        owner.as_deref().map(parse_owner).transpose()
    }

    async fn connected(&self, username: &str) -> Result<OpenSession, Failure> {
        match self.record(username).await.map_err(Failure::unavailable)? {
            Some(Record { id, endpoint, dialect, .. }) => Ok(OpenSession { id, endpoint, dialect }),
            None => {
                self.find(username).await?;
                Err(Failure::Refused(Reason::SessionNotFound))
            }
        }
    }

    /// The record of the last check of a user's session; empty if there is none.
    async fn check_record(&self, username: &str) -> Result<String, RedisError> {
        let mut get = cmd("HGET");
        get.arg(self.redis.key(shard(username.as_bytes()), "checks")).arg(username);
        Ok(self.redis.query::<Option<String>>(&get).await?.unwrap_or_default())
    }

    /// Replaces the record of a check, if the session is open and the record is still the one that was seen.
    async fn keep_check(
        &self,
        username: &str,
        session: SessionId,
        seen: &str,
        check: Check,
    ) -> Result<bool, Failure> {
        let Check { at_ms, reached_at_ms, refusals } = check;
        let (id, record) = (session.to_string(), format!("{session} {at_ms} {reached_at_ms} {refusals}"));
        Ok(self.submit(["check", username, &id, seen, &record]).await?.is_some())
    }

    /// The hashes of this name in all shards, as one.
    async fn all(&self, name: &str) -> Result<HashMap<String, String>, RedisError> {
        let read = |shard| async move {
            let mut get = cmd("HGETALL");
            get.arg(self.redis.key(shard, name));
            self.redis.query::<Fields>(&get).await
        };
        Ok(try_join_all((0..SHARDS).map(read)).await?.into_iter().flatten().collect())
    }

    async fn count(&self, name: &str) -> Result<u64, RedisError> {
        let count = |shard| async move {
            let mut len = cmd("HLEN");
            len.arg(self.redis.key(shard, name));
            self.redis.query::<u64>(&len).await
        };
        Ok(try_join_all((0..SHARDS).map(count)).await?.into_iter().sum())
    }
}

/// Reads a record of the key `checks`, which redis.lua describes. Of another session nothing is known.
fn parse_check(record: &str, session: SessionId) -> Check {
    let read = || {
        let mut fields = record.split(' ');
        let is_of_session = fields.next()?.parse() == Ok(session);
        let at_ms = fields.next()?.parse().ok()?;
        let reached_at_ms = fields.next()?.parse().ok()?;
        let refusals = fields.next()?.parse().ok()?;
        is_of_session.then_some(Check { at_ms, reached_at_ms, refusals })
    };
    read().unwrap_or_default()
}

fn parse_owner(text: &str) -> Result<Ipv4Addr, RedisError> {
    text.parse().map_err(|_| RedisError::malformed(text))
}

fn parse_id(text: &str) -> Result<Option<SessionId>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Failure::unavailable(format!("redis: not a session id: {text}")))
}

/// How the script is told which session may end.
fn only_session(only: Only) -> String {
    match only {
        Only::Session(id) => id.to_string(),
        _ => String::new(),
    }
}

/// How the script is told who may ask.
fn rule(only: Only) -> String {
    match only {
        Only::Any | Only::Session(_) => String::new(),
        Only::At(asker) => format!("at {asker}"),
        Only::Owner(asker) => format!("owner {asker}"),
    }
}

impl Store for RedisStore {
    async fn register(&self, username: &str, owner: Option<Ipv4Addr>) -> Result<(), Failure> {
        let only = owner.map_or(Only::Any, Only::Owner);
        self.change("register", username, "", "", only).await.map(|_| ())
    }

    async fn unregister(&self, username: &str, only: Only) -> Result<Option<SessionId>, Failure> {
        self.change("unregister", username, &only_session(only), "", only).await
    }

    async fn open_session(
        &self,
        username: &str,
        endpoint: Endpoint,
        only: Only,
    ) -> Result<SessionId, Failure> {
        let id = SessionId::fresh();
        let endpoint = format!("{} {}", endpoint.address, endpoint.port);
        self.change("open", username, &id.to_string(), &endpoint, only).await.map(|_| id)
    }

    async fn close_session(&self, username: &str, only: Only) -> Result<SessionId, Failure> {
        let ended = self.change("close", username, &only_session(only), "", only).await?;
        ended.ok_or(Failure::Refused(Reason::SessionNotFound))
    }

    async fn session(&self, username: &str, only: Only) -> Result<OpenSession, Failure> {
        let session = self.connected(username).await?;
        let owner = match only {
            Only::Owner(_) => self.owner(username).await.map_err(Failure::unavailable)?,
            _ => None,
        };
        only.check(Some((session.id, session.endpoint.address)), owner)?;
        Ok(session)
    }

    async fn note_dialect(&self, username: &str, dialect: &str, only: Only) -> Result<(), Failure> {
        self.change("note", username, "", dialect, only).await.map(|_| ())
    }

    async fn free(&self, username: &str) -> Result<(), Failure> {
        self.change("free", username, "", "", Only::Any).await.map(|_| ())
    }

    async fn remote_session(&self, username: &str, remote: &str) -> Result<RemoteSession, Failure> {
        let dialect = self.connected(username).await?.dialect;
        let session = self.find(remote).await.map_err(|failure| match failure {
            Failure::Refused(Reason::UserNotFound) => Failure::Refused(Reason::RemoteUserNotFound),
            other => other,
        })?;
        Ok(RemoteSession { session, dialect })
    }

    async fn list(&self, username: Option<&str>, known_revision: &str) -> Result<Listing, Failure> {
        let dialect = match username {
            Some(username) => self.connected(username).await?.dialect,
            None => Box::default(),
        };
        let (revision, sessions) = self.list.current(&self.redis).await.map_err(Failure::unavailable)?;
        let current = revision == known_revision;
        Ok(Listing { revision, sessions: (!current).then(|| sessions.to_vec()), dialect })
    }

    async fn look_up(&self, usernames: &[String]) -> Result<Vec<Arc<Session>>, Failure> {
        let look_up = async |username: &String| {
            let record = self.record(username).await?;
            Ok(record.map(|record| record.session(username.as_str().into())))
        };
        let found: Result<Vec<_>, RedisError> = try_join_all(usernames.iter().map(look_up)).await;
        Ok(found.map_err(Failure::unavailable)?.into_iter().flatten().collect())
    }

    async fn ended(&self, sessions: &[(String, SessionId)]) -> Result<Vec<SessionId>, Failure> {
        let is_live = async |(username, id): &(String, SessionId)| match self.find(username).await {
            Ok(session) => Ok(session == Some(*id)),
            Err(Failure::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        };
        let live = try_join_all(sessions.iter().map(is_live)).await?;
        Ok(sessions.iter().zip(live).filter(|(_, live)| !live).map(|((_, id), _)| *id).collect())
    }

    async fn users(&self) -> Result<Vec<Registered>, Failure> {
        let (mut offline, mut online) = (Vec::new(), Vec::new());
        // One shard after the other: Redis answers nobody else while it reads one.
        for shard in 0..SHARDS {
            let (users, sessions) = users_of(&self.redis, shard).await.map_err(Failure::unavailable)?;
            offline.extend(users);
            online.extend(sessions);
        }
        offline.sort_unstable_by(|one, other| one.username.cmp(&other.username));
        online.sort_unstable_by_key(|(order, user)| (*order, user.session.as_ref().map(|one| one.id)));
        Ok(offline.into_iter().chain(online.into_iter().map(|(_, user)| user)).collect())
    }

    async fn user(&self, username: &str) -> Result<Option<Registered>, Failure> {
        let mut read = redis::pipe();
        read.atomic();
        for name in ["users", "online", "owners"] {
            read.cmd("HGET").arg(self.redis.key(shard(username.as_bytes()), name)).arg(username);
        }
        let (user, online, owner): (Option<String>, Option<String>, Option<String>) =
            self.redis.query_pipeline(&read).await.map_err(Failure::unavailable)?;
        if user.is_none() {
            return Ok(None);
        }
        let owner = owner.as_deref().map(parse_owner).transpose().map_err(Failure::unavailable)?;
        let Some(record) = online else { return Ok(Some(Registered::offline(username.into(), owner))) };
        let record = Record::parse(&record).map_err(Failure::unavailable)?;
        let dialect = record.dialect.clone();
        Ok(Some(Registered::online(record.session(username.into()), &dialect, owner)))
    }

    async fn restore_session(&self, session: &Session, order: u64, dialect: &str) -> Result<(), Failure> {
        let Session { id, username, endpoint, .. } = session;
        let (id, space) = (id.to_string(), if dialect.is_empty() { "" } else { " " });
        let record = format!("{order} {id} {} {}{space}{dialect}", endpoint.address, endpoint.port);
        self.change("restore", username, &id, &record, Only::Any).await.map(|_| ())
    }

    async fn take_checks(&self, interval_ms: u64, limit: usize) -> Result<Vec<Arc<Session>>, Failure> {
        let (_, sessions) = self.list.current(&self.redis).await.map_err(Failure::unavailable)?;
        let records = self.all("checks").await.map_err(Failure::unavailable)?;
        let now = unix_ms();
        let due = sessions.iter().filter_map(|session| {
            let record = records.get(&*session.username).map(String::as_str).unwrap_or_default();
            let check = parse_check(record, session.id);
            check.is_due(session, now, interval_ms).then_some((session, record, check))
        });
        let take = async |(session, record, check): (&Arc<Session>, &str, Check)| {
            let taken = Check { at_ms: now, ..check };
            let is_taken = self.keep_check(&session.username, session.id, record, taken).await?;
            Ok::<_, Failure>(is_taken.then(|| Arc::clone(session)))
        };
        Ok(try_join_all(due.take(limit).map(take)).await?.into_iter().flatten().collect())
    }

    async fn note_check(
        &self,
        username: &str,
        session: SessionId,
        result: CheckResult,
    ) -> Result<Check, Failure> {
        for _ in 0..ATTEMPTS {
            let record = self.check_record(username).await.map_err(Failure::unavailable)?;
            let check = parse_check(&record, session).after(result, unix_ms());
            if self.keep_check(username, session, &record, check).await? {
                return Ok(check);
            }
        }
        // The session is over, or others are checking the same session all the time.
        Ok(Check::default())
    }

    async fn checks(&self, sessions: &[(String, SessionId)]) -> Result<Vec<Check>, Failure> {
        let look_up = async |(username, id): &(String, SessionId)| {
            Ok::<_, RedisError>(parse_check(&self.check_record(username).await?, *id))
        };
        try_join_all(sessions.iter().map(look_up)).await.map_err(Failure::unavailable)
    }

    async fn statistics(&self) -> Result<Statistics, Failure> {
        let counts = try_join_all(["users", "online"].map(|name| self.count(name))).await;
        let counts = counts.map_err(Failure::unavailable)?;
        Ok(Statistics { users: counts[0], sessions: counts[1] })
    }

    async fn is_ready(&self) -> bool {
        self.redis.is_ready().await
    }

    fn is_restarting(&self) -> bool {
        self.redis.is_restarting()
    }
}

/// The list of all sessions as it was last read. A shard is read again only when its revision has
/// changed.
#[derive(Debug)]
struct List {
    known: Mutex<Arc<Known>>,
    /// The permit of the one caller that reads. Other callers wait, and then use the result of a
    /// read that began after they had asked.
    reading: Semaphore,
    reads: Mutex<Reads>,
}

/// How many reads of the list have begun, and the number of the last one that ended. A caller is
/// content with any read whose number is larger than `begun` was when the caller asked.
#[derive(Debug, Default)]
struct Reads {
    begun: u64,
    ended: u64,
}

/// The list as it was last read.
#[derive(Debug, Clone, Default)]
struct Known {
    shards: Vec<KnownShard>,
    revision: String,
    sessions: Arc<[Arc<Session>]>,
}

#[derive(Debug, Clone, Default)]
struct KnownShard {
    revision: Option<u64>,
    /// The sessions with their ORDER (redis.lua), oldest first.
    sessions: Vec<(u64, Arc<Session>)>,
}

impl Default for List {
    fn default() -> Self {
        let known = Known { shards: vec![KnownShard::default(); SHARDS.into()], ..Known::default() };
        Self { known: Mutex::new(Arc::new(known)), reading: Semaphore::new(1), reads: Mutex::default() }
    }
}

impl List {
    /// Gives the revision and the sessions of the list as it was at some moment after the call.
    async fn current(&self, redis: &Redis) -> Result<(String, Arc<[Arc<Session>]>), RedisError> {
        let needed = self.reads.lock().begun + 1;
        // The semaphore is never closed.
        let _one = self.reading.acquire().await.map_err(|_| RedisError::closed())?;
        if self.reads.lock().ended < needed {
            let number = {
                let mut reads = self.reads.lock();
                reads.begun += 1;
                reads.begun
            };
            self.read(redis).await?;
            self.reads.lock().ended = number;
        }
        let known = self.known.lock();
        Ok((known.revision.clone(), Arc::clone(&known.sessions)))
    }

    async fn read(&self, redis: &Redis) -> Result<(), RedisError> {
        let mut get = cmd("MGET");
        (0..SHARDS).for_each(|shard| {
            get.arg(redis.key(shard, "revision"));
        });
        let revisions: Vec<Option<u64>> = redis.query(&get).await?;
        let known = Arc::clone(&self.known.lock());
        let stale = (0..SHARDS).zip(&known.shards).zip(revisions);
        let stale = stale.filter(|((_, known), revision)| known.revision != *revision);
        let stale: Vec<u16> = stale.map(|((shard, _), _)| shard).collect();
        if stale.is_empty() && !known.revision.is_empty() {
            return Ok(());
        }
        let read = stale.into_iter().map(|shard| async move { Ok((shard, read_shard(redis, shard).await?)) });
        let mut shards = known.shards.clone();
        for (shard, sessions) in try_join_all(read).await? {
            shards[usize::from(shard)] = sessions;
        }
        *self.known.lock() = Arc::new(Known::new(shards));
        Ok(())
    }
}

impl Known {
    fn new(shards: Vec<KnownShard>) -> Self {
        let mut sessions: Vec<_> = shards.iter().flat_map(|shard| &shard.sessions).collect();
        sessions.sort_by_key(|(order, session)| (*order, session.id));
        let sessions = sessions.into_iter().map(|(_, session)| Arc::clone(session)).collect();
        let revisions = shards.iter().map(|shard| format!("{:x}", shard.revision.unwrap_or_default()));
        let revision = revisions.collect::<Vec<_>>().join(".");
        Self { shards, revision, sessions }
    }
}

async fn read_shard(redis: &Redis, shard: u16) -> Result<KnownShard, RedisError> {
    let mut read = redis::pipe();
    read.atomic();
    read.cmd("GET").arg(redis.key(shard, "revision"));
    read.cmd("HGETALL").arg(redis.key(shard, "online"));
    let (revision, online): (Option<u64>, Vec<(String, String)>) = redis.query_pipeline(&read).await?;
    let read = |(username, record): (String, String)| {
        let record = Record::parse(&record)?;
        Ok((record.order, record.session(username.into())))
    };
    let mut sessions: Vec<_> = online.into_iter().map(read).collect::<Result<_, RedisError>>()?;
    sessions.sort_unstable_by_key(|(order, _)| *order);
    Ok(KnownShard { revision, sessions })
}

/// The fields of a hash.
type Fields = Vec<(String, String)>;

/// The users of a shard: those who are not connected, and the others with their ORDER.
async fn users_of(
    redis: &Redis,
    shard: u16,
) -> Result<(Vec<Registered>, Vec<(u64, Registered)>), RedisError> {
    let mut read = redis::pipe();
    read.atomic();
    for name in ["users", "online", "owners"] {
        read.cmd("HGETALL").arg(redis.key(shard, name));
    }
    let (users, online, owners): (Fields, Fields, Fields) = redis.query_pipeline(&read).await?;
    let owners = owners.into_iter().map(|(username, owner)| Ok((username, parse_owner(&owner)?)));
    let owners: HashMap<String, Ipv4Addr> = owners.collect::<Result<_, RedisError>>()?;
    let offline = users.into_iter().filter(|(_, session)| session.is_empty()).map(|(username, _)| {
        let owner = owners.get(&username).copied();
        Registered::offline(username.into(), owner)
    });
    let read = |(username, record): (String, String)| {
        let (record, owner) = (Record::parse(&record)?, owners.get(&username).copied());
        let (order, dialect) = (record.order, record.dialect.clone());
        Ok((order, Registered::online(record.session(username.into()), &dialect, owner)))
    };
    Ok((offline.collect(), online.into_iter().map(read).collect::<Result<_, RedisError>>()?))
}

/// A value of the key `online`, which redis.lua writes.
struct Record {
    order: u64,
    id: SessionId,
    endpoint: Endpoint,
    dialect: Box<str>,
}

impl Record {
    fn parse(record: &str) -> Result<Self, RedisError> {
        let read = || {
            let mut fields = record.split(' ');
            let order = fields.next()?.parse().ok()?;
            let id = fields.next()?.parse().ok()?;
            let address: Ipv4Addr = fields.next()?.parse().ok()?;
            let port = fields.next()?.parse().ok()?;
            let dialect = fields.next().unwrap_or_default().into();
            Some(Self { order, id, endpoint: Endpoint { address, port }, dialect })
        };
        read().ok_or_else(|| RedisError::malformed(record))
    }

    fn session(self, username: Box<str>) -> Arc<Session> {
        let opened_at_ms = i64::try_from(self.order / 1000).unwrap_or(i64::MAX);
        Arc::new(Session { id: self.id, username, endpoint: self.endpoint, opened_at_ms })
    }
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
        let redis = Redis::new(&url, &RedisServer::fresh_prefix(), "registry").unwrap();
        let (store, driver) = RedisStore::new(redis);
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
