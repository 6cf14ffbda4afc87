//! Serving HTTP/1.1 within limits: on connections, and on how long a caller may take.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::shutdown;

/// Connections at one time; further ones wait for their turn.
const CONNECTIONS: usize = 1024;
/// How long a caller may take to send the head of a request,
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may last in all.
const CONNECTION: Duration = Duration::from_secs(30);
/// How long to wait before the next attempt when accepting fails, for want of
/// descriptors most likely.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until shutdown; requests in flight then get the drain time to finish.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = serve_connection(stream, router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    time::sleep(PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
    drop(listener);
    connections.close();
    shutdown::within_drain(&shutdown, connections.wait()).await;
}

async fn serve_connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A connection that is kept open takes another caller's place.
        .keep_alive(false)
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let limit = time::sleep(CONNECTION);
    tokio::select! {
        // Whatever ended it, the caller knows: there is nobody else to tell.
        _ = connection.as_mut() => return,
        () = limit => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = shutdown::within_drain(&shutdown, connection).await;
}
