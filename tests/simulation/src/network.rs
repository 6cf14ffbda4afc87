//! The simulated network as the gateway and gRPC ask for it.

use std::{
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
pub(crate) struct Link(TcpStream);

impl Socket {
    pub(crate) async fn listen(port: u16) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", port)).await?))
    }

    /// The connections that come, for a gRPC server.
    pub(crate) fn connections(self) -> impl Stream<Item = io::Result<Link>> + Send {
        stream::unfold(self, async |socket| {
            let accepted = socket.0.accept().await;
            Some((accepted.map(|(stream, _)| Link(stream)), socket))
        })
    }
}

/// How services are dialled in the simulated network.
pub(crate) fn dial() -> Dial {
    Dial::By(Arc::new(|address| {
        Box::pin(async move {
            let connection: Box<dyn Connection> = Box::new(Link(TcpStream::connect(address).await?));
            Ok(TokioIo::new(connection))
        })
    }))
}

impl PeerSocket for Socket {
    type Stream = Link;

    async fn accept(&self) -> io::Result<(Link, SocketAddr)> {
        self.0.accept().await.map(|(stream, address)| (Link(stream), address))
    }
}

impl PeerStream for Link {
    fn other_end(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    fn read_arrived(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match pin!(self.0.read(room)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    async fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        self.0.write(bytes).await
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
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
