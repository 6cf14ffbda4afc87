//! Serving HTTP within limits: on connections, and on how long a caller may take.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::shutdown;

/// Bytes of a page that is fetched, at most.
const PAGE: usize = 64 << 10;
/// Connections at one time; further ones wait for their turn.
const CONNECTIONS: usize = 1024;
/// How long a caller may take to send the head of a request,
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may last in all.
const CONNECTION: Duration = Duration::from_secs(30);
/// Calls that one connection may have open over HTTP/2.
const STREAMS: u32 = 64;
/// How often a caller over HTTP/2 is asked for a sign of life, and how soon it must come.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long to wait before the next attempt when accepting fails, for want of
/// descriptors most likely.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves pages over HTTP/1.1, a connection for each, until shutdown; requests in flight
/// then get the drain time to finish.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    accept(listener, &shutdown, |stream| serve_page(stream, router.clone(), shutdown.clone())).await;
}

/// Serves pages and streams that last, over HTTP/1.1 and HTTP/2, until shutdown. Who serves
/// a stream is to end it then.
pub async fn serve_streams(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    accept(listener, &shutdown, |stream| serve_stream(stream, router.clone(), shutdown.clone())).await;
}

/// Accepts connections until shutdown, and has each served.
async fn accept<F>(listener: TcpListener, shutdown: &CancellationToken, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = serve(stream);
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
    shutdown::within_drain(shutdown, connections.wait()).await;
}

/// A page that cannot be fetched: one line that says why.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The address is none.
    #[error("{0:?} is no page: use http://HOST:PORT/PATH")]
    Address(String),
    /// Nobody listens there, or the connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What is there speaks something else.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Fetches a small page; gives its status and its text.
///
/// # Errors
/// When there is no answer. It waits for as long as that takes.
pub async fn get(url: &str) -> Result<(u16, String), GetError> {
    let bad = || GetError::Address(url.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?.clone();
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::get(path).header("host", authority.as_str());
    let request = request.body(String::new()).map_err(|_| bad())?;
    let fetch = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), PAGE).await;
        Ok((status, String::from_utf8_lossy(&body.unwrap_or_default()).into_owned()))
    };
    let (page, _) = tokio::join!(fetch, connection);
    page
}

async fn serve_page(stream: TcpStream, router: Router, shutdown: CancellationToken) {
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

async fn serve_stream(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    // An answer may be a few bytes, and is looked at while it comes.
    let _ = stream.set_nodelay(true);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut http2 = server.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    http2.keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Whatever ended it, the caller knows: there is nobody else to tell.
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = shutdown::within_drain(&shutdown, connection).await;
}
