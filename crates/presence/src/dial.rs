//! One call of a peer, which must not hurt the peer.
//!
//! An original peer serves one caller at a time, and may fall over a caller that says nothing. So the call
//! is a whole GET_FILE (docs/protocol.md 6) of a file that cannot exist, and its answer is waited for.

use std::{io, net::SocketAddrV4, time::Duration};

use lonja_wire::{Filename, get_file};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

/// How long a machine may take to answer a connection, and to take the request.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the answer is waited for: a peer may be busy with a long copy.
const ANSWER: Duration = Duration::from_secs(600);
/// A path that no peer has. Debian names `/nonexistent` as the home of those who have none.
const NOBODYS: &str = "/nonexistent/lonja-check";

/// What came of dialling.
pub(crate) enum Dialled {
    /// A connection was accepted.
    Reached(Conversation),
    /// The connection was refused: nobody listens.
    Refused,
    /// The connection failed in another way, or nothing answered in time: nothing is known of the peer.
    Silent,
}

/// A connection on which a request was sent that is not answered yet.
pub(crate) struct Conversation(TcpStream);

/// Connects to a peer and sends a request.
pub(crate) async fn dial(address: SocketAddrV4) -> Dialled {
    match time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(mut stream)) => {
            let mut request = Vec::new();
            if let Ok(filename) = NOBODYS.parse::<Filename>() {
                get_file::encode(&filename, &mut request);
            }
            // Whoever accepts and then resets was there all the same.
            let _ = time::timeout(CONNECT, stream.write_all(&request)).await;
            Dialled::Reached(Conversation(stream))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Dialled::Refused,
        Ok(Err(_)) | Err(_) => Dialled::Silent,
    }
}

impl Conversation {
    /// Waits until the peer has answered, for [`ANSWER`] at most. Nobody needs the answer, but a peer may be
    /// written so that it fails when it answers a connection that is closed.
    pub(crate) async fn finish(mut self) {
        let mut answer = [0; 64];
        let _ = time::timeout(ANSWER, self.0.read(&mut answer)).await;
    }
}
