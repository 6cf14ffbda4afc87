//! A service for the tests of batches.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    Allowed, BatchServer, BatchServiceServer, Dial, Method, Names, Unary, replicas::Replicas, unknown,
};

pub(super) const ECHO: &str = "/test.EchoService/Echo";
pub(super) const HOLD: &str = "/test.EchoService/Hold";

/// A service that gives a request back at once (`ECHO`), or holds it until it is let go
/// (`HOLD`).
#[derive(Default)]
pub(super) struct Echo {
    pub(super) taken: Notify,
    pub(super) let_go: Notify,
    pub(super) restarting: AtomicBool,
}

#[tonic::async_trait]
impl Unary for Echo {
    fn method(&self, path: &str) -> Option<Method> {
        [ECHO, HOLD].into_iter().find(|known| *known == path).map(Method::new)
    }

    async fn answer(&self, method: Method, request: Bytes) -> Result<Bytes, Status> {
        match method.path() {
            ECHO => Ok(request),
            HOLD => {
                self.taken.notify_one();
                self.let_go.notified().await;
                Ok(request)
            }
            _ => Err(unknown()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test needs no backlog")]
pub(super) async fn listen(address: impl tokio::net::ToSocketAddrs) -> TcpListener {
    TcpListener::bind(address).await.unwrap()
}

/// A server of batches that [`Echo`] answers.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) echo: Arc<Echo>,
    pub(super) shutdown: CancellationToken,
    pub(super) server: JoinHandle<()>,
}

pub(super) fn serve(listener: TcpListener) -> Running {
    serve_with(listener, Server::builder())
}

pub(super) fn serve_with(listener: TcpListener, mut settings: Server) -> Running {
    let (echo, shutdown) = (Arc::new(Echo::default()), CancellationToken::new());
    let restarting = Arc::clone(&echo);
    let holds = Arc::new(move || restarting.restarting.load(Ordering::Relaxed));
    let batch = BatchServer::new(Arc::clone(&echo) as Arc<dyn Unary>, holds, Allowed(None), shutdown.clone());
    let address = listener.local_addr().unwrap();
    let server = settings
        .add_service(BatchServiceServer::new(batch))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.clone().cancelled_owned());
    let server = tokio::spawn(async move { server.await.unwrap() });
    Running { address, echo, shutdown, server }
}

pub(super) fn replicas(address: SocketAddr) -> Replicas {
    let uri = format!("http://{address}").parse().unwrap();
    Replicas::new(&uri, &Names::new(None).unwrap(), |endpoint| endpoint, Dial::Plain)
}
