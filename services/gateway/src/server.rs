//! Accepts peers within limits, and finishes their requests at shutdown.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lonja_chassis::{
    net::{ListenError, listen},
    networks::Networks,
    operation_log::OperationLog,
    places::{Place, Places},
    service::{Backends, Running},
    shutdown,
    unit_of_work::Ledger,
};
use lonja_origin::{Advertise, Rates};
use lonja_presence::Presence;
use lonja_recorder::Recorder;
use lonja_telemetry::throttle::Throttle;
use lonja_wire::Dialect;
use tokio::{
    net::TcpListener,
    sync::OwnedSemaphorePermit,
    task::{JoinError, JoinHandle},
    time,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    GatewayConfig,
    connection::{self, ConnectionContext, Input, Origin},
    dialects::PeerAddress,
    learning::Doubts,
    lists::Lists,
    metrics::Metrics,
    operations::Operations,
    ownership::Ownership,
    proxy,
    stream::{PeerSocket, PeerStream},
    sweeper::sweep_until,
};

/// How long to wait after an error of accepting, which most likely means that descriptors ran out.
const PAUSE: Duration = Duration::from_millis(50);

/// Bounds the log of bad PROXY headers.
static BAD_HEADERS: Throttle = Throttle::events();

/// Bounds the log of addresses that are not allowed.
static NOT_ALLOWED: Throttle = Throttle::events();

/// A socket at which peers connect, and the dialect that they all read, if the setting names one.
#[derive(Debug)]
pub struct PeerListener<L = TcpListener> {
    socket: L,
    dialect: Option<Dialect>,
}

impl PeerListener {
    /// Listens on an address for peers.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn new(address: PeerAddress) -> Result<Self, ListenError> {
        Ok(Self { socket: listen(address.address)?, dialect: address.dialect })
    }
}

impl<L: PeerSocket> PeerListener<L> {
    /// Takes a socket that listens already, for peers that show what they read.
    pub fn on(socket: L) -> Self {
        Self { socket, dialect: None }
    }
}

/// Writes the address, and the dialect if all peers here read the same.
impl fmt::Display for PeerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.socket.local_addr().map_err(|_| fmt::Error)?;
        match self.dialect {
            Some(dialect) => write!(f, "{address} for {}", dialect.name()),
            None => write!(f, "{address}"),
        }
    }
}

/// A gateway that is ready to serve.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<ConnectionContext>,
    places: Arc<Places>,
    trusted_proxies: Networks,
    backend: Backends,
    sweep_interval: Duration,
    check_peers: Duration,
}

impl Gateway {
    /// A gateway that calls the services of `backend`, and writes a line for each operation to
    /// `lines`. Where the services share a journal, records are entered in the audit's `ledger`.
    #[must_use]
    pub fn new(
        config: GatewayConfig,
        backend: Backends,
        ledger: Option<Arc<dyn Ledger>>,
        lines: OperationLog,
    ) -> Self {
        let operations = Operations {
            backend: backend.clone(),
            advertise: Advertise::new(&config.advertise),
            ownership: Ownership::new(config.own_names, config.operators),
            lists: Lists::default(),
        };
        let shared = ConnectionContext {
            operations,
            recorder: Recorder::new(ledger),
            lines,
            metrics: Metrics::new(),
            dialects: config.dialect,
            doubts: Doubts::default(),
            rates: Rates::new(config.max_registrations_per_address, config.max_requests_per_address),
            request_timeout: config.request_timeout,
        };
        Self {
            shared: Arc::new(shared),
            places: Places::new(
                config.max_connections.get(),
                config.max_connections_per_address.get(),
                config.allow,
            ),
            trusted_proxies: config.trusted_proxies,
            backend,
            sweep_interval: config.sweep_interval,
            check_peers: config.check_peers,
        }
    }

    /// Serves the peers that connect to `listeners` until shutdown. Then requests in flight have
    /// [`shutdown::DRAIN`] to finish, and their records are delivered.
    ///
    /// # Errors
    /// When a task of the gateway panicked.
    pub fn serve(self, listeners: Vec<PeerListener>, shutdown: CancellationToken) -> Running {
        Box::pin(async { Ok(self.serve_on(listeners, shutdown).await?) })
    }

    /// Does what [`Self::serve`] does, on sockets of any kind.
    ///
    /// # Errors
    /// When a task of the gateway panicked.
    pub async fn serve_on<L: PeerSocket>(
        self,
        listeners: Vec<PeerListener<L>>,
        shutdown: CancellationToken,
    ) -> Result<(), JoinError> {
        let finished = CancellationToken::new();
        let recorder = self.shared.recorder.clone();
        let audit = self.backend.audit.clone();
        let presence = Presence::new(self.backend.clone(), self.check_peers);
        let expired = self.shared.recorder.clone();
        // The sweeper, the checks of peers, the recorder and the accept loop have a task each, so that
        // waking one of them does not poll the others.
        let sweep = sweep_until(shutdown.clone(), self.sweep_interval, self.backend.clone());
        let check = presence.check_until(shutdown.clone(), move |record| {
            let recorder = expired.clone();
            async move { recorder.record(record).await }
        });
        // Records are delivered until both parts that record have ended, even by a panic.
        let ends = Arc::new(finished.clone().drop_guard());
        let check = {
            let ends = Arc::clone(&ends);
            async move {
                let _ends = ends;
                check.await;
            }
        };
        let deliver = {
            let finished = finished.clone();
            async move { recorder.deliver(audit, finished).await }
        };
        let tasks = [
            spawn(&shutdown, sweep),
            spawn(&shutdown, check),
            spawn(&shutdown, deliver),
            spawn(&shutdown, self.serve_peers(listeners, shutdown.clone(), ends)),
        ];
        let mut ended = Ok(());
        for task in tasks {
            ended = ended.and(task.await);
        }
        ended
    }

    async fn serve_peers<L: PeerSocket>(
        self,
        listeners: Vec<PeerListener<L>>,
        shutdown: CancellationToken,
        ends: Arc<DropGuard>,
    ) {
        let _ends = ends;
        let connections = TaskTracker::new();
        let accept = listeners.iter().map(|listener| self.accept(listener, &connections));
        shutdown.run_until_cancelled(join_all(accept)).await;
        drop(listeners);
        connections.close();
        if shutdown::within_drain(&shutdown, connections.wait()).await.is_none() {
            tracing::warn!(connections = connections.len(), "connections did not end in time");
        }
    }

    async fn accept<L: PeerSocket>(&self, listener: &PeerListener<L>, connections: &TaskTracker) {
        let dialect = listener.dialect;
        loop {
            let Some(one_of_all) = self.places.one_of_all().await else { return };
            match listener.socket.accept().await {
                Ok((stream, proxy)) if self.trusted_proxies.contain(proxy.ip()) => {
                    let (shared, places) = (Arc::clone(&self.shared), Arc::clone(&self.places));
                    let proxy = Origin { peer: proxy, dialect };
                    connections.spawn(converse_through(stream, proxy, one_of_all, places, shared));
                }
                Ok((stream, peer)) => {
                    if let Some(place) = place(&self.places, one_of_all, peer, &self.shared) {
                        let shared = Arc::clone(&self.shared);
                        let origin = Origin { peer, dialect };
                        connections.spawn(converse(stream, origin, Input::new(), place, shared));
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Spawns a part of the gateway. When the part panics, the process shuts down: otherwise the gateway would go on without
/// that part, and nobody would know.
fn spawn(shutdown: &CancellationToken, part: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let ends = shutdown.clone().drop_guard();
    tokio::spawn(async move {
        part.await;
        ends.disarm();
    })
}

/// Takes a place for a peer. If the peer's address may not connect, or has too many connections, counts the
/// refused connection and gives `None`.
fn place(
    places: &Arc<Places>,
    one_of_all: OwnedSemaphorePermit,
    peer: SocketAddr,
    shared: &ConnectionContext,
) -> Option<Place> {
    if !places.allow(peer.ip()) {
        shared.metrics.not_allowed.increment(1);
        if let Some(suppressed) = NOT_ALLOWED.admit() {
            tracing::warn!(%peer, suppressed, "refused a connection: the address is in no network of --allow");
        }
        return None;
    }
    let place = places.take(one_of_all, peer.ip());
    if place.is_none() {
        shared.metrics.refused.increment(1);
        tracing::debug!(%peer, "too many connections from one address");
    }
    place
}

async fn converse(
    stream: impl PeerStream,
    origin: Origin,
    input: Input,
    place: Place,
    shared: Arc<ConnectionContext>,
) {
    shared.metrics.open.increment(1);
    connection::serve(stream, origin, input, &shared).await;
    shared.metrics.open.decrement(1);
    drop(place);
}

/// Serves a connection from a trusted proxy, which begins with a PROXY header.
async fn converse_through(
    mut stream: impl PeerStream,
    Origin { peer: proxy, dialect }: Origin,
    one_of_all: OwnedSemaphorePermit,
    places: Arc<Places>,
    shared: Arc<ConnectionContext>,
) {
    let mut input = Input::new();
    let header = proxy::peer(&mut stream, proxy, &mut input);
    match time::timeout(shared.request_timeout, header).await {
        Ok(Ok(peer)) => {
            if let Some(place) = place(&places, one_of_all, peer, &shared) {
                converse(stream, Origin { peer, dialect }, input, place, shared).await;
            }
        }
        Ok(Err(bad)) => {
            shared.metrics.bad_proxy_headers.increment(1);
            if let Some(suppressed) = BAD_HEADERS.admit() {
                tracing::warn!(%proxy, %bad, suppressed, "bad PROXY header from a trusted proxy");
            }
        }
        Err(_) => shared.metrics.timed_out.increment(1),
    }
}

/// Whether an error only says that a connection was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: when the checks of peers or the delivery of records panicked, the gateway went on without them.
    #[tokio::test]
    async fn a_part_that_panics_shuts_the_process_down() {
        let shutdown = CancellationToken::new();
        spawn(&shutdown, async {}).await.unwrap();
        assert!(!shutdown.is_cancelled(), "a part that has nothing to do");
        let part = spawn(&shutdown, async { panic!("a part of the gateway") });
        shutdown.cancelled().await;
        assert!(part.await.unwrap_err().is_panic());
    }
}
