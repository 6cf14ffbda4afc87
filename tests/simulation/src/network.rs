//! The simulated network as the gateway and gRPC ask for it.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use lonja_gateway::{PeerSocket, PeerStream};
use lonja_rpc::{Connection, Dial};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// A socket of the simulated network at which peers connect.
pub(crate) struct Socket(TcpListener);

/// A connection of the simulated network.
#[derive(Debug)]
pub(crate) struct Link(Option<TcpStream>);

impl Link {
    fn stream(&mut self) -> &mut TcpStream {
        self.0.as_mut().unwrap_or_else(|| unreachable!("only a dropped link has lost its stream"))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        ENDING.with_borrow_mut(|last| {
            if let Some(last) = last {
                last.extend(self.0.take());
            }
        });
    }
}

thread_local! {
    /// The connections of a host that is being killed; `None` while no host is.
    static ENDING: RefCell<Option<Vec<TcpStream>>> = const { RefCell::new(None) };
}

/// Kills a host by `kill`. A runtime that is dropped drops its tasks in an order that other runtimes of the
/// process have a part in, so the host's connections wait for its [`EndOfHost`].
pub(crate) fn killing<T>(kill: impl FnOnce() -> T) -> T {
    ENDING.set(Some(Vec::new()));
    let killed = kill();
    ENDING.set(None);
    killed
}

/// Ends the connections of a host that is killed, in their order, when this value is dropped: the host's first task,
/// which ends last, has the value.
pub(crate) struct EndOfHost;

impl Drop for EndOfHost {
    fn drop(&mut self) {
        let mut last = ENDING.take().unwrap_or_default();
        last.sort_by_key(|stream| (stream.local_addr().ok(), stream.peer_addr().ok()));
    }
}

impl Socket {
    pub(crate) async fn listen(port: u16) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", port)).await?))
    }

    /// The connections that come, for a gRPC server.
    pub(crate) fn connections(self) -> impl Stream<Item = io::Result<Link>> + Send {
        stream::unfold(self, async |socket| {
            let accepted = socket.0.accept().await;
            Some((accepted.map(|(stream, _)| Link(Some(stream))), socket))
        })
    }
}

/// How services are dialled in the simulated network.
pub(crate) fn dial() -> Dial {
    Dial::By(Arc::new(|address| {
        Box::pin(async move {
            let connection: Box<dyn Connection> = Box::new(Link(Some(TcpStream::connect(address).await?)));
            Ok(TokioIo::new(connection))
        })
    }))
}

impl PeerSocket for Socket {
    type Stream = Link;

    async fn accept(&self) -> io::Result<(Link, SocketAddr)> {
        self.0.accept().await.map(|(stream, address)| (Link(Some(stream)), address))
    }
}

impl PeerStream for Link {
    fn other_end(&self) -> io::Result<SocketAddr> {
        self.0.as_ref().ok_or(io::ErrorKind::NotConnected)?.peer_addr()
    }

    fn read_arrived(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match pin!(self.stream().read(room)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    async fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        self.stream().write(bytes).await
    }

    async fn error(&mut self) -> io::Error {
        std::future::pending().await
    }
}

impl Connected for Link {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.stream()).poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream()).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()).poll_shutdown(context)
    }
}
