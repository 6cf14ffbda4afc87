//! A connection to Redis that is made when it is needed, and made anew when it fails.

use std::{
    borrow::Cow,
    fmt, io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use opentelemetry::KeyValue;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _, Pipeline,
    RedisResult, RetryMethod, ScriptInvocation, ServerErrorKind,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};

use crate::{outage::Outage, store_url::StoreUrl};
use lonja_telemetry::traces::{Parent, Part, names};

/// How long making a connection may take, and how long one attempt may wait for its answer.
const ATTEMPT: Duration = Duration::from_millis(500);
/// The shortest and the longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Why Redis did not do what was asked.
#[derive(Debug, Clone)]
pub struct RedisError(String);

impl RedisError {
    pub(crate) fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }

    /// The error for a record that no version of Lonja has written.
    #[must_use]
    pub fn malformed(record: &str) -> Self {
        Self(format!("a record cannot be read: {record:?}"))
    }

    /// The error for a call that nobody answers any more, because the task that would answer has
    /// ended.
    #[must_use]
    pub fn closed() -> Self {
        Self("the service is ending".to_owned())
    }
}

impl std::error::Error for RedisError {}

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis: {}", self.0)
    }
}

enum Target {
    Single(Client),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

struct Slot {
    /// The number of the connection. Each new connection has a higher number.
    number: u64,
    connection: Option<Connection>,
}

struct SharedConnections {
    target: Target,
    prefix: String,
    service: &'static str,
    slot: Mutex<Slot>,
    /// Whether Redis could be written when it was last checked.
    ready: AtomicBool,
    outage: Outage,
}

/// A service's access to its keys in Redis. Clones share one connection.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<SharedConnections>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.shared.prefix).field(&self.shared.service).finish()
    }
}

impl Redis {
    /// Gives access to the keys `PREFIX:SERVICE:...` of a Redis. Nothing is sent yet: Redis may
    /// start later.
    ///
    /// # Errors
    /// When `url` is not the address of a Redis.
    pub fn new(url: &StoreUrl, prefix: &str, service: &'static str) -> Result<Self, RedisError> {
        let target = match url {
            StoreUrl::Embedded(_) => {
                return Err(RedisError::new("the store is embedded and not a Redis: give redis://HOST"));
            }
            StoreUrl::Redis(node) => Target::Single(Client::open(node.clone()).map_err(RedisError::new)?),
            StoreUrl::RedisCluster(nodes) => {
                let nodes: RedisResult<Vec<_>> =
                    nodes.iter().map(|node| node.clone().into_connection_info()).collect();
                let client = ClusterClient::builder(nodes.map_err(RedisError::new)?)
                    .connection_timeout(ATTEMPT)
                    .response_timeout(ATTEMPT)
                    // The number of attempts is bounded by `attempt_until_deadline`.
                    .retries(1)
                    .build();
                Target::Cluster(Box::new(client.map_err(RedisError::new)?))
            }
        };
        let slot = Mutex::new(Slot { number: 0, connection: None });
        Ok(Self {
            shared: Arc::new(SharedConnections {
                target,
                prefix: prefix.to_owned(),
                service,
                slot,
                ready: AtomicBool::new(true),
                outage: Outage::default(),
            }),
        })
    }

    /// The full name of a key: `PREFIX:SERVICE:{SHARD}:NAME`.
    #[must_use]
    pub fn key(&self, shard: u16, name: &str) -> String {
        let SharedConnections { prefix, service, .. } = &*self.shared;
        format!("{prefix}:{service}:{{{shard}}}:{name}")
    }

    /// Whether this is a Redis Cluster, where one command may name only keys of one shard.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.shared.target, Target::Cluster(_))
    }

    /// Sends a command that reads. After a failure the command is sent again, until its deadline.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let value = self.attempt(Request::Command(command)).await?;
        redis::from_redis_value(value).map_err(RedisError::new)
    }

    /// Sends commands on keys of one shard, as one transaction if `pipeline` is atomic. After a
    /// failure they are sent again, until their deadline.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn query_pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RedisError> {
        let value = self.attempt(Request::Pipeline(pipeline)).await?;
        redis::from_redis_value(value).map_err(RedisError::new)
    }

    /// Calls a script that may be called twice to the same effect. After a failure the script is
    /// called again, until its deadline.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn call<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let value = self.attempt(Request::Script(call)).await?;
        redis::from_redis_value(value).map_err(RedisError::new)
    }

    /// Whether Redis went away a few seconds ago and calls wait until Redis is back.
    #[must_use]
    pub fn is_restarting(&self) -> bool {
        self.shared.outage.is_on()
    }

    /// Checks whether Redis can be written, by writing a key of its own.
    pub async fn is_ready(&self) -> bool {
        let mut set = redis::cmd("SET");
        set.arg(self.key(0, "probe")).arg(1).arg("EX").arg(60);
        let why = match time::timeout(ATTEMPT, self.query::<()>(&set)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("redis does not answer".to_owned()),
        };
        // This is logged only when the state changes: health is asked every second.
        if self.shared.ready.swap(why.is_none(), Ordering::Relaxed)
            && let Some(why) = &why
        {
            tracing::warn!("{why}: start it, or check the address, user and password in --store");
        }
        why.is_none()
    }

    /// Begins the record of a call, for the traces that the call belongs to.
    pub(crate) fn part(&self, request: &Request<'_>) -> Part {
        let operation = request.operation();
        let mut attributes = vec![
            KeyValue::new(names::DB_SYSTEM_NAME, "redis"),
            KeyValue::new(names::DB_OPERATION_NAME, operation.clone()),
        ];
        let mut name = operation;
        if let Request::Script(_) = request {
            attributes.push(KeyValue::new(names::DB_STORED_PROCEDURE_NAME, self.shared.service));
            name = format!("{name} {}", self.shared.service).into();
        }
        if let Request::Pipeline(pipeline) = request {
            attributes.push(KeyValue::new(names::DB_OPERATION_BATCH_SIZE, pipeline.len() as i64));
        }
        Part { name, began: SystemTime::now(), attributes, error: None }
    }

    /// Sends a request until its deadline, and records it in the trace in which this code runs, if
    /// any. The future is boxed, so that the client of Redis is compiled here and not once more in
    /// each service's crate.
    fn attempt<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<redis::Value, RedisError>> {
        Box::pin(async move {
            let since = Instant::now();
            let Some(parent) = Parent::current() else { return self.attempt_untraced(since, &request).await };
            let mut part = self.part(&request);
            let answer = self.attempt_untraced(since, &request).await;
            part.error = answer.as_ref().err().map(RedisError::to_string);
            parent.record(part, None);
            answer
        })
    }

    /// Sends a request that has waited since `since`, until its deadline.
    pub(crate) async fn attempt_untraced(
        &self,
        since: Instant,
        request: &Request<'_>,
    ) -> Result<redis::Value, RedisError> {
        let started = Instant::now();
        let answer = self.attempt_until_deadline(since, request).await;
        metrics::histogram!("lonja_store_duration_seconds", "store" => "redis").record(started.elapsed());
        answer
    }

    /// The deadline of a request that has waited since `since`. An outage that begins later moves the
    /// deadline, so callers ask again when the deadline has passed.
    pub(crate) fn deadline(&self, since: Instant) -> Instant {
        self.shared.outage.deadline(since)
    }

    async fn attempt_until_deadline(
        &self,
        since: Instant,
        request: &Request<'_>,
    ) -> Result<redis::Value, RedisError> {
        let last = parking_lot::Mutex::new(None);
        let mut attempts = pin!(self.attempts(request, &last));
        loop {
            let deadline = self.deadline(since);
            if let Ok(answer) = time::timeout_at(deadline, &mut attempts).await {
                return answer;
            }
            if self.deadline(since) <= Instant::now() {
                let error = last.lock().take();
                return Err(error.unwrap_or_else(|| RedisError::new("no answer in time")));
            }
        }
    }

    /// Sends a request again and again, until it is answered or no further attempt can succeed. `last`
    /// gets the error of the last attempt.
    async fn attempts(
        &self,
        request: &Request<'_>,
        last: &parking_lot::Mutex<Option<RedisError>>,
    ) -> Result<redis::Value, RedisError> {
        let mut pause = PAUSE.0;
        loop {
            let error = match self.attempt_once(request).await {
                Ok(value) => {
                    self.shared.outage.ends();
                    return Ok(value);
                }
                Err(error) => error,
            };
            if !is_worth_another(&error) {
                return Err(RedisError::new(error));
            }
            if is_of_a_restart(&error) {
                self.shared.outage.begins();
            }
            *last.lock() = Some(RedisError::new(&error));
            time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE.1);
        }
    }

    async fn attempt_once(&self, request: &Request<'_>) -> RedisResult<redis::Value> {
        let (number, connection) =
            time::timeout(2 * ATTEMPT, self.connection()).await.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time").into())
            })?;
        let answer = match connection {
            Connection::Single(connection) => request.send(connection).await,
            Connection::Cluster(connection) => request.send(connection).await,
        };
        if let Err(error) = &answer
            && is_of_the_connection(error)
        {
            let mut slot = self.shared.slot.lock().await;
            if slot.number == number {
                slot.connection = None;
            }
        }
        answer
    }

    async fn connection(&self) -> RedisResult<(u64, Connection)> {
        let mut slot = self.shared.slot.lock().await;
        if let Some(connection) = &slot.connection {
            return Ok((slot.number, connection.clone()));
        }
        let connection = match &self.shared.target {
            Target::Single(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(ATTEMPT))
                    .set_response_timeout(Some(ATTEMPT));
                Connection::Single(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Target::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        };
        slot.number += 1;
        slot.connection = Some(connection.clone());
        Ok((slot.number, connection))
    }
}

pub(crate) enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
}

impl Request<'_> {
    fn operation(&self) -> Cow<'static, str> {
        match self {
            Self::Command(command) => {
                let name = command.args_iter().next();
                match name {
                    Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned().into(),
                    _ => "".into(),
                }
            }
            Self::Pipeline(_) => "MULTI".into(),
            Self::Script(_) => "EVALSHA".into(),
        }
    }

    async fn send(&self, mut connection: impl ConnectionLike + Send) -> RedisResult<redis::Value> {
        match self {
            Self::Command(command) => command.query_async(&mut connection).await,
            Self::Pipeline(pipeline) => pipeline.query_async(&mut connection).await,
            // This loads the script if a restarted Redis has lost it.
            Self::Script(script) => script.invoke_async(&mut connection).await,
        }
    }
}

fn is_of_the_connection(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
}

/// Whether an error is a sign that Redis is being restarted: Redis ends or refuses connections, or
/// reads its files. A Redis that says nothing is not being restarted.
fn is_of_a_restart(error: &redis::RedisError) -> bool {
    (is_of_the_connection(error) && !error.is_timeout())
        || matches!(
            error.kind(),
            ErrorKind::ClusterConnectionNotFound
                | ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                        // What a transaction gets from a Redis that reads its files.
                        | ServerErrorKind::ExecAbort
                        | ServerErrorKind::ClusterDown
                )
        )
}

/// Whether a later attempt may succeed. None can if Redis has understood the request and refused
/// it.
fn is_worth_another(error: &redis::RedisError) -> bool {
    is_of_the_connection(error)
        || is_of_a_restart(error)
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::NoScript
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
            )
        )
        || !matches!(error.retry_method(), RetryMethod::NoRetry)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use lonja_testing::RedisServer;

    use super::*;

    fn server(kind: ServerErrorKind) -> redis::RedisError {
        (ErrorKind::Server(kind), "said").into()
    }

    fn io(kind: io::ErrorKind) -> redis::RedisError {
        io::Error::from(kind).into()
    }

    /// What each kind of error is taken for: worth another attempt, and a sign of a restart.
    #[test]
    fn errors_are_told_apart() {
        for (error, again, restart) in [
            (io(io::ErrorKind::ConnectionRefused), true, true),
            (io(io::ErrorKind::ConnectionReset), true, true),
            (io(io::ErrorKind::UnexpectedEof), true, true),
            (io(io::ErrorKind::TimedOut), true, false),
            (server(ServerErrorKind::BusyLoading), true, true),
            (server(ServerErrorKind::ExecAbort), true, true),
            (server(ServerErrorKind::ClusterDown), true, true),
            (server(ServerErrorKind::NoScript), true, false),
            (server(ServerErrorKind::ReadOnly), true, false),
            (server(ServerErrorKind::MasterDown), true, false),
            (server(ServerErrorKind::TryAgain), true, false),
            (server(ServerErrorKind::ResponseError), false, false),
            (server(ServerErrorKind::NoPerm), false, false),
            // Passwords may be about to be loaded.
            ((ErrorKind::AuthenticationFailed, "said").into(), true, false),
            ((ErrorKind::UnexpectedReturnType, "said").into(), false, false),
        ] {
            assert_eq!((is_worth_another(&error), is_of_a_restart(&error)), (again, restart), "{error:?}");
        }
    }

    /// Bug: Redis answers a transaction with another error than a command while it reads its files.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_redis_that_reads_its_files_is_waited_for() {
        // 40 ms for each key, and callers are answered meanwhile.
        let often = ["--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"];
        let mut server = RedisServer::start_with(&[&["--key-load-delay", "40000"], &often[..]].concat());
        let url = server.url().parse().unwrap();
        let redis = Redis::new(&url, &RedisServer::fresh_prefix(), "registry").unwrap();
        for number in 0..50 {
            let mut set = redis::cmd("SET");
            set.arg(redis.key(0, &format!("key{number}"))).arg("x".repeat(2000));
            redis.query::<()>(&set).await.unwrap();
        }
        let _ = server.command("BGREWRITEAOF");
        let started = Instant::now();
        while !server.command("INFO persistence").contains("aof_rewrite_in_progress:0") {
            assert!(started.elapsed() < Duration::from_secs(20), "the files are not compact");
            time::sleep(Duration::from_millis(20)).await;
        }
        server.kill();
        let restarting = thread::spawn(move || {
            server.restart();
            server
        });
        let mut pipeline = redis::pipe();
        pipeline.atomic().get(redis.key(0, "key1")).get(redis.key(0, "key2"));
        let (first, second): (String, String) = redis.query_pipeline(&pipeline).await.unwrap();
        assert_eq!((first.len(), second.len()), (2000, 2000));
        restarting.join().unwrap();
    }
}
