//! Serving HTTP with limits on the number of connections and on the time that a caller may take.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use lonja_telemetry::throttle::Throttle;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{networks::Networks, places::Places, shutdown};

/// The largest size of a page whose text [`get`] gives, in bytes.
const PAGE: usize = 64 << 10;
/// The largest number of connections that a listener serves at one time; further ones wait.
const CONNECTIONS: usize = 1024;
/// The largest number of connections that a listener of pages serves at one time from one address; further ones are
/// closed. So one host cannot have all of them.
const OF_ONE_ADDRESS: usize = CONNECTIONS / 2;
/// Bounds the log of connections that were closed for want of a place.
static REFUSED: Throttle = Throttle::events();
/// How long a caller may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection of [`serve`] may last in all.
const CONNECTION: Duration = Duration::from_secs(30);
/// The largest number of calls that a connection may have open over HTTP/2.
const STREAMS: u32 = 64;
/// How long a connection of [`serve_streams`] may be without a call, and how long a call may wait
/// for the beginning of its answer.
const IDLE: Duration = Duration::from_secs(30);
/// How long a caller's system may accept nothing of an answer. Over HTTP/2, a caller that answers
/// pings but reads nothing of a stream keeps its place.
const STALL: Duration = Duration::from_secs(30);
/// How often a caller over HTTP/2 is pinged, and how long it may take to answer a ping.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be accepted, most likely because the process has
/// no file descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// The address of the caller, as the socket has it: an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct Caller(pub SocketAddr);

/// Serves pages over HTTP/1.1, one request on each connection, until shutdown. Requests in flight
/// then get [`shutdown::DRAIN`] to finish.
///
/// The future is boxed, so that hyper is compiled here and not once more in each caller's crate.
pub fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let places = Places::new(CONNECTIONS, OF_ONE_ADDRESS, Networks::default());
        accept(listener, &places, &shutdown, |stream, caller| {
            serve_page(stream, caller, router.clone(), shutdown.clone())
        })
        .await;
    })
}

/// Serves pages and long-lived streams over HTTP/1.1 and HTTP/2, until shutdown. Whoever answers
/// with a stream must end the stream then.
///
/// The future is boxed for the reason that [`serve`] gives.
pub fn serve_streams(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        // Behind an ingress, all who look at the console have one address.
        let places = Places::new(CONNECTIONS, CONNECTIONS, Networks::default());
        accept(listener, &places, &shutdown, |stream, caller| {
            serve_stream(stream, caller, router.clone(), shutdown.clone())
        })
        .await;
    })
}

/// Accepts connections until shutdown, and has each served.
async fn accept<F>(
    listener: TcpListener,
    places: &Arc<Places>,
    shutdown: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let accept = async {
        loop {
            let Some(one_of_all) = places.one_of_all().await else { return };
            match listener.accept().await {
                Ok((stream, caller)) => {
                    let Some(place) = places.take(one_of_all, caller.ip()) else {
                        if let Some(suppressed) = REFUSED.admit() {
                            tracing::warn!(%caller, suppressed, "too many HTTP connections from one address");
                        }
                        continue;
                    };
                    let connection = serve(stream, caller);
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

/// Why a page cannot be fetched, as one line.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The text is not the address of a page.
    #[error("{0:?} is not the address of a page: use http://HOST:PORT/PATH")]
    Address(String),
    /// Nobody listens there, or the connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The other end does not speak HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Fetches a page, and gives the page's status code and text. The text is empty if the page is larger than
/// 64 KiB, or if the connection breaks within the page.
///
/// # Errors
/// When `url` is not an address, or no answer comes. The call has no deadline.
pub fn get(url: &str) -> BoxFuture<'_, Result<(u16, String), GetError>> {
    Box::pin(fetch(url))
}

async fn fetch(url: &str) -> Result<(u16, String), GetError> {
    let bad = || GetError::Address(url.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?.clone();
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header("host", authority.as_str());
    let request = request.body(String::new()).map_err(|_| bad())?;
    let fetch = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), PAGE).await;
        Ok((status, String::from_utf8_lossy(&body.unwrap_or_default()).into_owned()))
    };
    let (page, _) = tokio::join!(fetch, connection);
    page
}

async fn serve_page(stream: TcpStream, caller: SocketAddr, router: Router, shutdown: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Caller(caller));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A connection that is kept open takes another caller's place.
        .keep_alive(false)
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let limit = time::sleep(CONNECTION);
    tokio::select! {
        // The caller knows why the connection ended, and nobody else has to be told.
        _ = connection.as_mut() => return,
        () = limit => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = shutdown::within_drain(&shutdown, connection).await;
}

async fn serve_stream(stream: TcpStream, caller: SocketAddr, router: Router, shutdown: CancellationToken) {
    // A stream may send a few bytes at a time, and its reader wants them at once.
    let _ = stream.set_nodelay(true);
    limit_stall(&stream);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut http2 = server.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    http2.keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    let calls = Calls::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Caller(caller));
        answer(router.clone(), request, calls.begin())
    });
    let connection = server.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // The caller knows why the connection ended, and nobody else has to be told.
        _ = connection.as_mut() => return,
        () = calls.are_none_for(IDLE) => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = shutdown::within_drain(&shutdown, connection).await;
}

/// Has the system close the connection of a caller that accepts nothing for [`STALL`]. Only Linux
/// can: on other systems nothing but the protocol's own limits ends such a connection.
fn limit_stall(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Ok(stall) = STALL.as_millis().try_into() {
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, stall);
    }
}

/// Answers a call. The call is under way until the last part of its answer has been passed on.
async fn answer(
    router: Router,
    request: Request<Incoming>,
    call: Call,
) -> Result<Response<Body>, Infallible> {
    let Ok(answer) = time::timeout(IDLE, router.oneshot(request.map(Body::new))).await else {
        let mut late = Response::new(Body::empty());
        *late.status_mut() = StatusCode::REQUEST_TIMEOUT;
        return Ok(late);
    };
    Ok(answer?.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _under_way = &call;
            frame
        }))
    }))
}

/// The number of calls that a connection has under way.
#[derive(Default)]
struct Calls {
    number: watch::Sender<usize>,
}

/// A call that is under way until this value is dropped.
struct Call {
    number: watch::Sender<usize>,
}

impl Calls {
    fn begin(&self) -> Call {
        self.number.send_modify(|number| *number += 1);
        Call { number: self.number.clone() }
    }

    /// Returns once no call has been under way for `idle`.
    async fn are_none_for(&self, idle: Duration) {
        let mut number = self.number.subscribe();
        loop {
            let is_idle = *number.borrow_and_update() == 0;
            // Waits for any change and not for a number: a call may begin and end unseen in
            // between. `self` holds the sender, so `changed` cannot fail.
            match time::timeout(idle, number.changed()).await {
                Err(_) if is_idle => return,
                _ => {}
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.number.send_modify(|number| *number -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_call_ends() {
        let calls = Calls::default();
        let first = calls.begin();
        let second = calls.begin();
        let idle = calls.are_none_for(IDLE);
        let mut idle = std::pin::pin!(idle);
        for call in [first, second] {
            assert!(time::timeout(10 * IDLE, idle.as_mut()).await.is_err());
            drop(call);
        }
        // Calls that are over at once count as well.
        for _ in 0..10 {
            assert!(time::timeout(IDLE / 2, idle.as_mut()).await.is_err());
            drop(calls.begin());
        }
        assert!(time::timeout(2 * IDLE, idle).await.is_ok());
    }

    /// Bug: a host that opened 1,024 connections and said nothing kept the time service from everybody else.
    #[tokio::test]
    async fn one_address_cannot_have_all_connections() {
        let listener = crate::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        // A test has fewer descriptors than a listener has connections.
        let places = Places::new(8, 4, Networks::default());
        let served = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                let serve = |stream, caller| serve_page(stream, caller, Router::new(), shutdown.clone());
                accept(listener, &places, &shutdown, serve).await;
            }
        });
        let dial = async |from: [u8; 4]| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            socket.connect(address).await.unwrap()
        };
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(dial([127, 0, 0, 2]).await);
        }
        assert_eq!(held[7].read(&mut [0]).await.unwrap_or_default(), 0, "it is closed");
        let mut other = dial([127, 0, 0, 3]).await;
        other.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        other.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 404"), "{text}");
        drop(held);
        shutdown.cancel();
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_says_nothing_is_let_go() {
        let listener = crate::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve_streams(listener, Router::new(), shutdown.clone()));
        let (mut silent, mut slow) =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        // These bytes may be the beginning of an HTTP/2 connection.
        slow.write_all(b"PRI").await.unwrap();
        // Once a later connection is answered, both have been accepted.
        let mut quick = TcpStream::connect(address).await.unwrap();
        quick.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        quick.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 404"), "{text}");
        time::pause();
        for stream in [&mut silent, &mut slow] {
            let read = time::timeout(10 * IDLE, stream.read(&mut [0; 64])).await;
            assert_eq!(read.unwrap().unwrap_or_default(), 0);
        }
        shutdown.cancel();
        served.await.unwrap();
    }
}
