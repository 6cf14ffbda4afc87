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
use tower::{Service, ServiceExt as _, service_fn};

use crate::{names::Names, tls::Tls};

/// How often the name of a service is looked up.
const REFRESH: Duration = Duration::from_secs(3);
/// How long to wait after a lookup that failed.
const RETRY: Duration = Duration::from_millis(500);
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
    /// IP address. With `secure`, the replicas must show a certificate for the name in `secure`.
    pub(crate) fn new(
        uri: &Uri,
        names: &Names,
        settings: fn(Endpoint) -> Endpoint,
        secure: Option<(Tls, &'static str)>,
    ) -> Self {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or_default();
        let origin = uri.clone();
        let connect = move |address: SocketAddr| {
            // An address and a port always make an endpoint, so the fallback is never used.
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let endpoint = endpoint.unwrap_or_else(|_| Endpoint::from(origin.clone()));
            let endpoint = settings(endpoint).origin(origin.clone());
            match secure.clone() {
                None => endpoint.connect_lazy(),
                Some((tls, name)) => endpoint.connect_with_connector_lazy(service_fn(move |_| {
                    let tls = tls.clone();
                    async move { tls.connect(address, name).await }
                })),
            }
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

    async fn call_one(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
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
