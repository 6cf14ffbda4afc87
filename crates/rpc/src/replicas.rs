//! The replicas of a service behind one name. Each call goes to the replica that has the fewest
//! calls under way. The name is looked up again and again: a replica that has come gets calls, a
//! replica that has gone gets none.

use std::{
    collections::HashMap,
    error::Error,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, request::Parts};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};
use tonic::{
    Status,
    body::Body,
    transport::{self, Endpoint},
};
use tower::{Service, ServiceExt as _};

use crate::{dial::Dial, names::Names};

/// How often the name of a service is looked up.
const REFRESH: Duration = Duration::from_secs(3);
/// How long to wait after a lookup that failed.
const RETRY: Duration = Duration::from_millis(500);
/// How long the message of a request may take to be whole. The message is in memory already, unless
/// the request streams.
const WHOLE: Duration = Duration::from_millis(100);
/// How long a replica that could not be reached is left alone while there are others.
const AVOIDED: Duration = Duration::from_secs(1);

/// A function that makes the channel to an address.
type Connect = dyn Fn(SocketAddr) -> transport::Channel + Send + Sync;

/// The replicas that a service has now. Clones share the same replicas.
#[derive(Debug, Clone)]
pub(crate) struct Replicas {
    current: watch::Receiver<Arc<[Arc<Replica>]>>,
    turn: Arc<AtomicUsize>,
    _lookups: Option<Arc<AbortOnDrop>>,
}

#[derive(Debug)]
struct Replica {
    address: SocketAddr,
    channel: transport::Channel,
    under_way: AtomicUsize,
    unreachable: Mutex<Option<Instant>>,
}

/// An attempt to send a call to a replica.
pub(crate) struct Attempt {
    replicas: Arc<[Arc<Replica>]>,
    /// The replica that the call goes to.
    replica: Arc<Replica>,
    /// The addresses of the replicas at which the call has failed already.
    tried: Vec<SocketAddr>,
    /// Whether this is the second attempt at the same replica.
    again: bool,
}

impl Attempt {
    /// The channel to the replica.
    pub(crate) fn channel(&self) -> transport::Channel {
        self.replica.channel.clone()
    }

    /// Counts the call as under way at the replica, until the value is dropped.
    pub(crate) fn under_way(&self) -> UnderWay {
        UnderWay::begin(&self.replica)
    }
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Replicas {
    /// Finds the replicas behind the host of `uri`, by asking a name server unless the host is an
    /// IP address.
    pub(crate) fn new(uri: &Uri, names: &Names, settings: fn(Endpoint) -> Endpoint, dial: Dial) -> Self {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or_default();
        let origin = uri.clone();
        let connect = move |address: SocketAddr| {
            // An address and a port always make an endpoint, so the fallback is never used.
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let endpoint = endpoint.unwrap_or_else(|_| Endpoint::from(origin.clone()));
            let endpoint = settings(endpoint).origin(origin.clone());
            dial.channel(&endpoint, address)
        };
        let turn = Arc::default();
        if let Ok(ip) = host.parse() {
            let only: Arc<[_]> = [Replica::new(SocketAddr::new(ip, port), &connect)].into();
            return Self { current: watch::channel(only).1, turn, _lookups: None };
        }
        let (found, current) = watch::channel(Arc::from([]));
        let lookups = look_up(names.clone(), host, port, Box::new(connect), found);
        let lookups = Arc::new(AbortOnDrop(tokio::spawn(lookups)));
        Self { current, turn, _lookups: Some(lookups) }
    }

    /// How many replicas there are now.
    pub(crate) fn count(&self) -> usize {
        self.current.borrow().len()
    }

    /// Sends a call to one replica, or to others after it. The request is collected whole first, so
    /// that it can be sent again: a request that streams is refused.
    async fn call_one(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let whole = time::timeout(WHOLE, body.collect()).await;
        let body = whole.map_err(|_| Status::unimplemented("a request that streams is not supported"))?;
        let body = body?.to_bytes();
        let mut attempt = self.first().await?;
        loop {
            let _under_way = attempt.under_way();
            match attempt.channel().oneshot(copy(&parts, &body)).await {
                Ok(response) => return Ok(response),
                Err(error) => attempt = self.another(attempt, &error)?,
            }
        }
    }

    /// Chooses the replica that a call goes to first. While no replica is known this waits, until
    /// the caller's deadline ends it.
    pub(crate) async fn first(&self) -> Result<Attempt, Status> {
        let mut current = self.current.clone();
        let known = current.wait_for(|replicas| !replicas.is_empty()).await;
        let replicas = known.map_err(|_| Status::unavailable("the channel is closed"))?.clone();
        let replica = Arc::clone(self.choose(&replicas, &[]));
        Ok(Attempt { replicas, replica, tried: Vec::new(), again: false })
    }

    /// Chooses where a call goes that failed with `error` and certainly did not reach a service: to
    /// the same replica over a new connection if the old one was ending, or to a replica that was
    /// not tried yet.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the call may have reached a service, or every replica was tried.
    pub(crate) fn another(&self, failed: Attempt, error: &(dyn Error + 'static)) -> Result<Attempt, Status> {
        let Attempt { replicas, replica, mut tried, again } = failed;
        let never_sent = was_never_sent(error);
        // A service ends connections that have reached a certain age, so the replica may be well.
        if never_sent && !again && !causes(error).any(|cause| cause.is::<tonic::ConnectError>()) {
            return Ok(Attempt { replicas, replica, tried, again: true });
        }
        if never_sent {
            replica.avoid();
        }
        tried.push(replica.address);
        if !never_sent || tried.len() >= replicas.len() {
            return Err(Status::unavailable(innermost(error)));
        }
        let replica = Arc::clone(self.choose(&replicas, &tried));
        Ok(Attempt { replicas, replica, tried, again: false })
    }

    /// Chooses the replica with the fewest calls under way; replicas with equally few take turns. A
    /// replica that was tried, or that could not be reached a moment ago, is chosen only if there
    /// is no other.
    fn choose<'a>(&self, replicas: &'a [Arc<Replica>], tried: &[SocketAddr]) -> &'a Arc<Replica> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % replicas.len();
        let (before, after) = replicas.split_at(first);
        let in_turn = || after.iter().chain(before);
        let rank = |replica: &&Arc<Replica>| {
            let tried = tried.contains(&replica.address);
            (tried, replica.is_avoided(), replica.under_way.load(Ordering::Relaxed))
        };
        in_turn().min_by_key(rank).unwrap_or(&replicas[first])
    }
}

impl Service<Request<Body>> for Replicas {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().call_one(request))
    }
}

impl Replica {
    fn new(address: SocketAddr, connect: &Connect) -> Arc<Self> {
        Arc::new(Self {
            address,
            channel: connect(address),
            under_way: AtomicUsize::new(0),
            unreachable: Mutex::new(None),
        })
    }

    fn avoid(&self) {
        *self.unreachable.lock() = Some(Instant::now());
    }

    fn is_avoided(&self) -> bool {
        self.unreachable.lock().is_some_and(|since| since.elapsed() < AVOIDED)
    }
}

/// Counts a call as under way at a replica, until this value is dropped.
pub(crate) struct UnderWay(Arc<Replica>);

impl UnderWay {
    fn begin(replica: &Arc<Replica>) -> Self {
        replica.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(replica))
    }

    /// Has calls avoid this replica for a moment, if there are others.
    pub(crate) fn avoid(&self) {
        self.0.avoid();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks a name up again and again, until nobody uses the replicas any more. While no name server
/// answers, the known replicas stay.
async fn look_up(
    names: Names,
    host: String,
    port: u16,
    connect: Box<Connect>,
    found: watch::Sender<Arc<[Arc<Replica>]>>,
) {
    let mut failing = false;
    while !found.is_closed() {
        let pause = match names.addresses(&host).await {
            Ok(addresses) => {
                failing = false;
                let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
                replace(&found, addresses, &connect, &host);
                REFRESH
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(host, %error, "the name of a service cannot be looked up: trying again");
                }
                RETRY
            }
        };
        time::sleep(pause).await;
    }
}

fn replace(
    found: &watch::Sender<Arc<[Arc<Replica>]>>,
    addresses: Vec<SocketAddr>,
    connect: &Connect,
    host: &str,
) {
    let known = found.borrow().clone();
    if known.iter().map(|replica| replica.address).eq(addresses.iter().copied()) {
        return;
    }
    tracing::info!(host, ?addresses, "a service is at these addresses now");
    let mut known: HashMap<_, _> =
        known.iter().map(|replica| (replica.address, Arc::clone(replica))).collect();
    let replicas = addresses.into_iter().map(|address| {
        // A replica that is known already keeps its connection.
        known.remove(&address).unwrap_or_else(|| Replica::new(address, connect))
    });
    found.send_replace(replicas.collect());
}

/// Copies a request, so that the copy can be sent to another replica.
fn copy(parts: &Parts, body: &Bytes) -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(body.clone())));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers.clone();
    *request.extensions_mut() = parts.extensions.clone();
    request
}

/// Whether a call certainly did not reach a service, so that another replica may be asked: there
/// was no connection, or the connection was being closed.
fn was_never_sent(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.is::<tonic::ConnectError>()
            || cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || cause
                .downcast_ref::<h2::Error>()
                .is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// The text of the innermost cause of an error: the transport's own text is only "transport error".
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

#[cfg(test)]
mod tests {
    use std::{fmt, io};

    use super::*;

    /// Replicas at these ports, none of which is connected to.
    fn replicas(ports: &[u16]) -> Replicas {
        let connect = |_| Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let all = ports.iter().map(|port| Replica::new(([127, 0, 0, 1], *port).into(), &connect));
        let all: Arc<[_]> = all.collect();
        Replicas { current: watch::channel(all).1, turn: Arc::default(), _lookups: None }
    }

    fn port(attempt: &Attempt) -> u16 {
        attempt.replica.address.port()
    }

    /// An error with a cause, as the transport makes them.
    #[derive(Debug)]
    struct Outer(Box<dyn Error + Send + Sync>);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("transport error")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    fn not_connected() -> Outer {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        Outer(Box::new(tonic::ConnectError(Box::new(refused))))
    }

    /// The error of a connection that its service is ending.
    fn ending() -> Outer {
        Outer(Box::new(h2::Error::from(h2::Reason::REFUSED_STREAM)))
    }

    /// The error of a connection that broke while a call was under way.
    fn cut() -> Outer {
        Outer(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))
    }

    #[tokio::test]
    async fn replicas_take_turns_and_the_least_busy_comes_first() {
        let replicas = replicas(&[1, 2, 3]);
        let mut chosen = Vec::new();
        for _ in 0..6 {
            chosen.push(port(&replicas.first().await.unwrap()));
        }
        assert_eq!(chosen, [1, 2, 3, 1, 2, 3]);
        let all = replicas.current.borrow().clone();
        let _busy = [UnderWay::begin(&all[0]), UnderWay::begin(&all[1])];
        for _ in 0..3 {
            assert_eq!(port(&replicas.first().await.unwrap()), 3);
        }
        let _busier = [UnderWay::begin(&all[2]), UnderWay::begin(&all[2])];
        let counted = [1, 2].contains(&port(&replicas.first().await.unwrap()));
        assert!(counted, "a call under way is counted until it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_cannot_be_reached_is_left_alone_for_a_second() {
        let replicas = replicas(&[1, 2]);
        let first = replicas.first().await.unwrap();
        assert_eq!(port(&first), 1);
        let second = replicas.another(first, &not_connected()).unwrap();
        assert_eq!(port(&second), 2);
        for _ in 0..4 {
            assert_eq!(port(&replicas.first().await.unwrap()), 2);
        }
        time::sleep(AVOIDED).await;
        let mut chosen = Vec::new();
        for _ in 0..2 {
            chosen.push(port(&replicas.first().await.unwrap()));
        }
        chosen.sort_unstable();
        assert_eq!(chosen, [1, 2]);
    }

    #[tokio::test]
    async fn a_call_is_sent_again_only_if_it_was_certainly_not_sent() {
        let replicas = replicas(&[1, 2]);
        let first = replicas.first().await.unwrap();
        let status = replicas.another(first, &cut()).err().unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.message(), "connection reset");
    }

    #[tokio::test]
    async fn a_connection_that_ends_of_age_is_made_again_to_the_same_replica_once() {
        let replicas = replicas(&[1, 2]);
        let first = replicas.first().await.unwrap();
        let again = replicas.another(first, &ending()).unwrap();
        assert_eq!((port(&again), again.again), (1, true));
        let other = replicas.another(again, &ending()).unwrap();
        assert_eq!((port(&other), other.again), (2, false));
        let last = replicas.another(other, &ending()).unwrap();
        assert_eq!((port(&last), last.again), (2, true));
        let all_tried = replicas.another(last, &ending()).err().unwrap();
        assert_eq!(all_tried.code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn while_no_replica_is_known_a_call_waits_for_one() {
        let (found, current) = watch::channel(Arc::from([]));
        let waiting = Replicas { current, turn: Arc::default(), _lookups: None };
        let first = tokio::spawn(async move { waiting.first().await.map(|attempt| port(&attempt)) });
        tokio::task::yield_now().await;
        found.send_replace(replicas(&[7]).current.borrow().clone());
        assert_eq!(first.await.unwrap().unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_streams_is_refused() {
        let never = http_body_util::StreamBody::new(tokio_stream::pending::<Result<_, Status>>());
        let frames = never.map_frame(|frame: http_body::Frame<Bytes>| frame);
        let request = Request::post("/lonja.audit.v1.AuditService/Stream").body(Body::new(frames)).unwrap();
        let refused = replicas(&[1]).call_one(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unimplemented);
    }

    #[tokio::test]
    async fn replicas_that_stay_keep_their_connections() {
        let connect: Box<Connect> = Box::new(|_| Endpoint::from_static("http://127.0.0.1:1").connect_lazy());
        let (found, current) = watch::channel(replicas(&[1, 2]).current.borrow().clone());
        let before = current.borrow().clone();
        let at = |ports: &[u16]| ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
        replace(&found, at(&[2, 3]), &connect, "registry");
        let after = current.borrow().clone();
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        assert_eq!(after[1].address.port(), 3);
    }
}
