//! What a peer shows by what it does behind a status (docs/protocol.md 3).
//!
//! An original peer closes as soon as it has the byte of the status. A peer of another author that
//! reads the status as a string waits for the string's NUL. Such a peer's session keeps that the
//! peer reads text, because lists need their form at once.

use std::{collections::HashMap, io, net::SocketAddr, time::Duration};

use lonja_wire::{Command, Dialect, Request, Username};
use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt as _, time};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    operations::Operations,
    stream::{LINGER, PeerStream, linger, write},
};

/// How long a peer has to close behind a status, and then behind the status's NUL.
const WAIT: Duration = Duration::from_millis(150);
/// How long to look for a reset behind the peer's end of the stream. A peer that is far away closes
/// before it has the NUL, so its reset comes [`WAIT`] after its end.
const LATE_RESET: Duration = Duration::from_millis(200);
/// How soon a tool that reads to the end of the stream closes behind that end. A peer that closes
/// later was not waiting for the end: it works before it closes, or closes when it asks again.
const TOOL: Duration = Duration::from_millis(30);
/// How long a request waits until it is known what its peer reads.
const UNTIL_KNOWN: Duration = Duration::from_millis(300);

/// What it takes to learn from peers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Learning<'a> {
    pub(crate) operations: &'a Operations,
    pub(crate) metrics: &'a Metrics,
    pub(crate) doubts: &'a Doubts,
    /// Where the peer is.
    pub(crate) peer: SocketAddr,
}

impl Learning<'_> {
    /// Waits behind a status until the peer closes, and sends a NUL to a peer that does not. The
    /// connection may be closed then.
    pub(crate) async fn watch(
        self,
        stream: &mut impl PeerStream,
        scratch: &mut [u8],
        request: Option<&Request>,
    ) {
        if time::timeout(WAIT, linger(stream, scratch)).await.is_err() {
            // Boxed, so that the task of any other connection stays small.
            Box::pin(self.learn(stream, scratch, request)).await;
        }
    }

    /// Takes back what was noted for the user: the user's peer has closed without reading all of a
    /// status in the noted dialect.
    pub(crate) async fn has_left_its_reply(self, request: &Request) {
        if let Some(user) = user_with_a_session(request) {
            self.operations.note(user, self.peer, None).await;
        }
    }

    /// Notes that the user's peer reads text, sends the NUL, and takes the note back if the peer was
    /// not waiting for the NUL.
    async fn learn(self, stream: &mut impl PeerStream, scratch: &mut [u8], request: Option<&Request>) {
        let Some(user) = request.and_then(user_with_a_session) else {
            let _ = self.waits_for_the_nul(stream, scratch).await;
            return;
        };
        let _doubt = self.doubts.begin(user);
        // Before the NUL, because the peer may ask for a list as soon as it has the NUL.
        self.operations.note(user, self.peer, Some(Dialect::Text)).await;
        // A connection that broke before the NUL was sent is that of a peer that has closed.
        let has_read = self.waits_for_the_nul(stream, scratch).await.unwrap_or(false);
        if !has_read || is_reset(stream).await {
            self.operations.note(user, self.peer, None).await;
        }
    }

    /// Sends a NUL, and gives whether the NUL was what the peer waited for.
    async fn waits_for_the_nul(self, stream: &mut impl PeerStream, scratch: &mut [u8]) -> io::Result<bool> {
        write(stream, b"\0".as_slice(), false).await?;
        self.metrics.statuses_as_strings.increment(1);
        if let Ok(closed) = time::timeout(WAIT, linger(stream, scratch)).await {
            return Ok(closed.is_ok());
        }
        stream.shutdown().await?;
        match time::timeout(TOOL, linger(stream, scratch)).await {
            // A tool that reads to the end of the stream closes now; a peer that was still working
            // when the NUL arrived resets the connection.
            Ok(_) => Ok(false),
            // A peer that has read the NUL and leaves its connection open, perhaps until its next request.
            Err(_) => Ok(!matches!(time::timeout(LINGER.0, linger(stream, scratch)).await, Ok(Err(_)))),
        }
    }
}

/// Whether a peer that has ended its stream resets the connection too, as the system of a peer that
/// closed without having read the NUL does.
async fn is_reset(stream: &mut impl PeerStream) -> bool {
    time::timeout(LATE_RESET, stream.error()).await.is_ok()
}

/// The user who asks, if the user may have a session after the request.
fn user_with_a_session(request: &Request) -> Option<&Username> {
    match request.command {
        Command::Register | Command::Unregister | Command::Disconnect => None,
        _ => request.username.as_ref(),
    }
}

/// The user who asks, if the answer is in the dialect that the user's session keeps.
fn user_with_a_dialect(request: &Request) -> Option<&Username> {
    match request.command {
        Command::Publish(..) | Command::Delete(_) | Command::ListUsers | Command::ListContent(_) => {
            request.username.as_ref()
        }
        _ => None,
    }
}

/// The users whose peers have had the NUL of a status, and have not shown yet whether they waited
/// for it. Their next requests wait until that is known.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// A token for each connection in doubt, cancelled when its doubt is over.
    of_users: Mutex<HashMap<Username, Vec<CancellationToken>>>,
}

/// A doubt about one connection of a user. The doubt ends when this value is dropped.
struct Doubt<'a> {
    doubts: &'a Doubts,
    user: &'a Username,
    is_over: CancellationToken,
}

impl Doubts {
    fn begin<'a>(&'a self, user: &'a Username) -> Doubt<'a> {
        let is_over = CancellationToken::new();
        self.of_users.lock().entry(user.clone()).or_default().push(is_over.clone());
        Doubt { doubts: self, user, is_over }
    }

    /// Returns when a request can be answered as the user's peer reads: it is known what the peer
    /// did on its connections before, or the peer has left one of them open for [`UNTIL_KNOWN`].
    pub(crate) async fn are_over(&self, request: &Request) {
        let Some(user) = user_with_a_dialect(request) else { return };
        let doubts = {
            let of_users = self.of_users.lock();
            if of_users.is_empty() {
                return;
            }
            of_users.get(user).cloned().unwrap_or_default()
        };
        let all = async {
            for is_over in &doubts {
                is_over.cancelled().await;
            }
        };
        let _ = time::timeout(UNTIL_KNOWN, all).await;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.is_over.cancel();
        let mut of_users = self.doubts.of_users.lock();
        if let Some(doubts) = of_users.get_mut(self.user) {
            doubts.retain(|is_over| !is_over.is_cancelled());
            if doubts.is_empty() {
                of_users.remove(self.user);
            }
        }
    }
}
