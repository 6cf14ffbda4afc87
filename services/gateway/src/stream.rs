//! Writing a reply to a peer's stream, and ending the stream.

use std::{io, time::Duration};

use bytes::Buf;
use rustix::net::SendFlags;
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::TcpStream,
    time,
};

/// How long a peer may read nothing of its reply before sending is given up.
const STALL: Duration = Duration::from_secs(5);
/// How long a peer may take to close after its reply, and the largest number of bytes from the peer
/// that are read and thrown away meanwhile. Closing on unread input would reset the connection, and
/// the reply could be lost with it.
pub(crate) const LINGER: (Duration, usize) = (Duration::from_secs(2), 16 << 20);

/// How to send a reply: its last bytes wait for the end of the stream, and both leave in one
/// packet. On systems other than Linux they leave in two.
#[cfg(target_os = "linux")]
pub(crate) const MORE_COMES: SendFlags = SendFlags::MORE.union(SendFlags::NOSIGNAL);
#[cfg(not(target_os = "linux"))]
pub(crate) const MORE_COMES: SendFlags = SendFlags::empty();

/// Sends the bytes of a reply, and leaves the stream open for more.
pub(crate) async fn write(stream: &mut TcpStream, mut reply: impl Buf, flags: SendFlags) -> io::Result<()> {
    while reply.has_remaining() {
        let write = || Ok(rustix::net::send(&*stream, reply.chunk(), flags)?);
        let written = time::timeout(STALL, stream.async_io(Interest::WRITABLE, write)).await??;
        reply.advance(written);
    }
    Ok(())
}

/// Reads and throws away what the peer sends, until it closes too or has sent as much as [`LINGER`]
/// allows.
pub(crate) async fn linger(stream: &mut TcpStream, scratch: &mut [u8]) -> io::Result<()> {
    let mut left = LINGER.1;
    while left > 0 {
        match stream.read(scratch).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}
