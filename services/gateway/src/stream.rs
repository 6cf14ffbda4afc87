//! The stream of a peer's connection: what the gateway asks of a stream, writing a reply, and ending.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Buf;
use rustix::net::SendFlags;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest},
    net::{TcpListener, TcpStream},
    time::{self, Instant},
};

/// How long a peer may read nothing of its reply before sending is given up.
const STALL: Duration = Duration::from_secs(5);
/// How long a reply may take before the peer's rate is checked against [`SLOWEST`].
const PATIENCE: Duration = Duration::from_secs(10);
/// How many bytes of a reply a peer must have taken for each second past [`PATIENCE`]. A slow peer holds a part of
/// the memory for lists.
const SLOWEST: f64 = 32.0 * 1024.0;
/// How long a peer may take to close after its reply, and the largest number of bytes from the peer
/// that are read and thrown away meanwhile. Closing on unread input would reset the connection, and
/// the reply could be lost with it.
pub(crate) const LINGER: (Duration, usize) = (Duration::from_secs(2), 16 << 20);

/// How to send the last bytes of a reply: they wait for the end of the stream, and both leave in one
/// packet. On systems other than Linux they leave in two.
#[cfg(target_os = "linux")]
const MORE_COMES: SendFlags = SendFlags::MORE.union(SendFlags::NOSIGNAL);
#[cfg(not(target_os = "linux"))]
const MORE_COMES: SendFlags = SendFlags::empty();

/// A socket at which peers connect. A simulated network has its own.
pub trait PeerSocket: Send + Sync + 'static {
    /// The connections that the socket accepts.
    type Stream: PeerStream;

    /// Waits for a connection, and gives the connection and the address that it comes from.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

/// What the gateway does with a peer's connection, besides reading and shutting down.
pub trait PeerStream: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {
    /// The address at the other end.
    fn other_end(&self) -> io::Result<SocketAddr>;

    /// Reads what has arrived, without waiting.
    fn read_arrived(&mut self, room: &mut [u8]) -> io::Result<usize>;

    /// Sends bytes, and gives how many were sent. `ends` says that the caller shuts the stream down behind
    /// these bytes, so that they may wait to leave together with the end of the stream.
    fn send(&mut self, bytes: &[u8], ends: bool) -> impl Future<Output = io::Result<usize>> + Send;

    /// Waits until the connection has an error, such as a reset, and takes the error.
    fn error(&mut self) -> impl Future<Output = io::Error> + Send;
}

impl PeerSocket for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept().await
    }
}

impl PeerStream for TcpStream {
    fn other_end(&self) -> io::Result<SocketAddr> {
        self.peer_addr()
    }

    fn read_arrived(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.try_read(room)
    }

    async fn send(&mut self, bytes: &[u8], ends: bool) -> io::Result<usize> {
        let flags = if ends { MORE_COMES } else { SendFlags::NOSIGNAL };
        self.async_io(Interest::WRITABLE, || Ok(rustix::net::send(&*self, bytes, flags)?)).await
    }

    async fn error(&mut self) -> io::Error {
        match self.ready(Interest::ERROR).await.and_then(|_| self.take_error()) {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => std::future::pending().await,
        }
    }
}

/// Sends the bytes of a reply to a peer that takes them fast enough. `ends` says that the caller shuts the stream
/// down behind the reply.
pub(crate) async fn write(stream: &mut impl PeerStream, mut reply: impl Buf, ends: bool) -> io::Result<()> {
    let begin = Instant::now();
    let (mut now, mut sent) = (begin, 0);
    while reply.has_remaining() {
        let by_rate = begin + PATIENCE + Duration::from_secs_f64(sent as f64 / SLOWEST);
        let written = time::timeout_at(by_rate.min(now + STALL), stream.send(reply.chunk(), ends)).await??;
        reply.advance(written);
        sent += written;
        if reply.has_remaining() {
            now = Instant::now();
        }
    }
    Ok(())
}

/// Reads and throws away what the peer sends, until it closes too or has sent as much as [`LINGER`]
/// allows.
pub(crate) async fn linger(stream: &mut impl PeerStream, scratch: &mut [u8]) -> io::Result<()> {
    let mut left = LINGER.1;
    while left > 0 {
        match stream.read(scratch).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::ReadBuf;

    use super::*;

    /// A peer that takes some bytes of its reply, and then nothing for a while.
    struct Slow {
        bytes: usize,
        pause: Duration,
    }

    impl PeerStream for Slow {
        fn other_end(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::NotConnected.into())
        }

        fn read_arrived(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        async fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
            time::sleep(self.pause).await;
            Ok(bytes.len().min(self.bytes))
        }

        async fn error(&mut self) -> io::Error {
            std::future::pending().await
        }
    }

    impl AsyncRead for Slow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// How long sending 4 MiB takes, and whether they were sent.
    async fn sending(bytes: usize, pause: Duration) -> (Duration, bool) {
        let begin = Instant::now();
        let sent = write(&mut Slow { bytes, pause }, &[0; 4 << 20][..], true).await;
        (begin.elapsed(), sent.is_ok())
    }

    /// Bug: a peer that took a byte now and then held a list, and its part of the memory for lists, for hours.
    #[tokio::test(start_paused = true)]
    async fn a_reply_goes_to_a_peer_that_takes_it_fast_enough() {
        let (took, sent) = sending(48 << 10, Duration::from_secs(1)).await;
        assert!(sent && took > Duration::from_secs(80), "{took:?}");
        let (took, sent) = sending(1, Duration::from_secs(4)).await;
        assert!(!sent && took <= PATIENCE + Duration::from_secs(1), "{took:?}");
        let (took, sent) = sending(16 << 10, Duration::from_secs(1)).await;
        assert!(!sent && took < 3 * PATIENCE, "{took:?}");
        let (took, sent) = sending(1 << 20, Duration::from_secs(6)).await;
        assert!(!sent && took <= STALL, "{took:?}");
    }
}
