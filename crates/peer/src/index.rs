//! Asking the index: one connection for one request and one reply.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use lonja_wire::{
    Command, Datetime, Encoding, Operation, Outcome, Request, Username,
    reply::{self, BadReply, FileEntry, UserEntry},
};

use crate::interrupt::Interrupt;

/// How long connecting to one address of the index may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the index may take to send the next bytes of a reply, or to take the next bytes of a
/// request. The index itself gives up on its services after 2 s.
const REPLY: Duration = Duration::from_secs(10);
/// The largest number of entries in a list that a peer reads.
const LIST: u32 = 1_000_000;
/// The largest number of entries for which memory is reserved before they have arrived.
const EXPECTED: u32 = 1024;

/// The address of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    /// The host of the index, as a name or an IPv4 address.
    pub(crate) server: String,
    /// The TCP port of the index.
    pub(crate) port: u16,
}

/// Why the index gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// The connection could not be opened, or it broke.
    #[error("no answer from the index at {0}: {1}")]
    Io(Index, #[source] io::Error),
    /// What answered is no index.
    #[error("{0} does not answer like an index: {1}; check --server and --port")]
    Reply(Index, #[source] BadReply),
}

/// The answer to a request for a list: the list, or the status of a refusal.
pub(crate) type Listed<T> = Result<Vec<T>, u8>;

impl std::fmt::Display for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.server, self.port)
    }
}

impl Index {
    /// Sends a request that is answered with a status alone, and gives that status.
    ///
    /// # Errors
    /// When the index gives no such answer.
    pub(crate) fn ask(&self, request: &Request, interrupt: &Interrupt) -> Result<u8, IndexError> {
        self.exchange(request, interrupt, |_| Ok(())).map(|answer| answer.err().unwrap_or(0))
    }

    /// Asks for the connected users.
    ///
    /// # Errors
    /// When the index gives no answer.
    pub(crate) fn list_users(
        &self,
        asker: Asker,
        interrupt: &Interrupt,
    ) -> Result<Listed<UserEntry>, IndexError> {
        self.exchange(&asker.request(Command::ListUsers), interrupt, |stream| list(stream, reply::read_user))
    }

    /// Asks for the files that the user `of` has published.
    ///
    /// # Errors
    /// When the index gives no answer.
    pub(crate) fn list_content(
        &self,
        asker: Asker,
        of: &Username,
        interrupt: &Interrupt,
    ) -> Result<Listed<FileEntry>, IndexError> {
        let command = Command::ListContent(Some(of.clone()));
        self.exchange(&asker.request(command), interrupt, |stream| list(stream, reply::read_file))
    }

    fn exchange<T>(
        &self,
        request: &Request,
        interrupt: &Interrupt,
        read: impl FnOnce(&mut io::BufReader<&TcpStream>) -> Result<T, ReplyError>,
    ) -> Result<Result<T, u8>, IndexError> {
        let exchange = || {
            let stream = self.connect()?;
            stream.set_read_timeout(Some(REPLY))?;
            stream.set_write_timeout(Some(REPLY))?;
            let _watched = interrupt.watch(&stream)?;
            let mut bytes = Vec::new();
            // In the padded encoding, a list of more than 9,999 entries arrives whole.
            request.encode(Encoding::Padded, &mut bytes);
            (&stream).write_all(&bytes)?;
            let mut stream = io::BufReader::new(&stream);
            match reply::read_status(read_array::<1>(&mut stream)?[0])? {
                0 => read(&mut stream).map(Ok),
                status => Ok(Err(status)),
            }
        };
        exchange().map_err(|error| match error {
            ReplyError::Io(error) => IndexError::Io(self.clone(), error),
            ReplyError::Bad(error) => IndexError::Reply(self.clone(), error),
        })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut addresses: Vec<_> = (self.server.as_str(), self.port).to_socket_addrs()?.collect();
        // Other peers dial the IPv4 address that the index sees this peer at, so IPv4 is tried
        // first.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The user and the time of a request.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    /// The time that the request names.
    pub(crate) datetime: Datetime,
    /// The user who asks; `None` before a name is registered or connected.
    pub(crate) username: Option<Username>,
}

impl Asker {
    /// Makes a request by this user at this time.
    #[must_use]
    pub(crate) fn request(self, command: Command) -> Request {
        Request { datetime: self.datetime, username: self.username, command }
    }
}

enum ReplyError {
    Io(io::Error),
    Bad(BadReply),
}

impl From<io::Error> for ReplyError {
    fn from(error: io::Error) -> Self {
        Self::Io(match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            io::ErrorKind::UnexpectedEof => {
                io::Error::other("the connection was closed before the reply was complete")
            }
            _ => error,
        })
    }
}

impl From<BadReply> for ReplyError {
    fn from(error: BadReply) -> Self {
        Self::Bad(error)
    }
}

fn read_array<const N: usize>(stream: &mut impl io::Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn list<T, const N: usize>(
    stream: &mut impl io::Read,
    read: fn(&[u8; N]) -> Result<T, BadReply>,
) -> Result<Vec<T>, ReplyError> {
    let count = reply::read_count(read_array(stream)?, Encoding::Padded)?;
    if count > LIST {
        return Err(ReplyError::Io(io::Error::other("the list has more than 1,000,000 entries")));
    }
    let mut entries = Vec::with_capacity(count.min(EXPECTED) as usize);
    for _ in 0..count {
        entries.push(read(&read_array(stream)?)?);
    }
    Ok(entries)
}

/// What an original peer prints for a status (docs/protocol.md 7). A status that the operation does
/// not have counts as "any other failure".
#[must_use]
pub(crate) fn reply_text(operation: Operation, status: u8) -> String {
    use Operation::{Connect, Delete, Disconnect, ListContent, ListUsers, Publish, Register, Unregister};
    let name = operation.name();
    let failed = operation.status(Outcome::Failed);
    let reason = match (operation, status) {
        (_, 0) => return format!("{name} OK"),
        (_, status) if status >= failed => return format!("{name} FAIL"),
        (Operation::GetFile, _) => "FILE DOES NOT EXIST",
        (Register, _) => return "USERNAME IN USE".to_owned(),
        (Unregister, _) => return "USER DOES NOT EXIST".to_owned(),
        (_, 1) => "USER DOES NOT EXIST",
        (Connect, _) => "USER ALREADY CONNECTED",
        (Disconnect | ListUsers, _) | (Publish | Delete | ListContent, 2) => "USER NOT CONNECTED",
        (Publish, _) => "CONTENT ALREADY PUBLISHED",
        (Delete, _) => "CONTENT NOT PUBLISHED",
        (ListContent, _) => "REMOTE USER DOES NOT EXIST",
    };
    format!("{name} FAIL, {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_words() {
        let table: [(Operation, &[&str]); 8] = [
            (Operation::Register, &["REGISTER OK", "USERNAME IN USE", "REGISTER FAIL", "REGISTER FAIL"]),
            (Operation::Unregister, &["UNREGISTER OK", "USER DOES NOT EXIST", "UNREGISTER FAIL"]),
            (
                Operation::Connect,
                &[
                    "CONNECT OK",
                    "CONNECT FAIL, USER DOES NOT EXIST",
                    "CONNECT FAIL, USER ALREADY CONNECTED",
                    "CONNECT FAIL",
                ],
            ),
            (
                Operation::Disconnect,
                &[
                    "DISCONNECT OK",
                    "DISCONNECT FAIL, USER DOES NOT EXIST",
                    "DISCONNECT FAIL, USER NOT CONNECTED",
                    "DISCONNECT FAIL",
                ],
            ),
            (
                Operation::Publish,
                &[
                    "PUBLISH OK",
                    "PUBLISH FAIL, USER DOES NOT EXIST",
                    "PUBLISH FAIL, USER NOT CONNECTED",
                    "PUBLISH FAIL, CONTENT ALREADY PUBLISHED",
                    "PUBLISH FAIL",
                ],
            ),
            (
                Operation::Delete,
                &[
                    "DELETE OK",
                    "DELETE FAIL, USER DOES NOT EXIST",
                    "DELETE FAIL, USER NOT CONNECTED",
                    "DELETE FAIL, CONTENT NOT PUBLISHED",
                    "DELETE FAIL",
                ],
            ),
            (
                Operation::ListUsers,
                &[
                    "LIST_USERS OK",
                    "LIST_USERS FAIL, USER DOES NOT EXIST",
                    "LIST_USERS FAIL, USER NOT CONNECTED",
                    "LIST_USERS FAIL",
                ],
            ),
            (
                Operation::ListContent,
                &[
                    "LIST_CONTENT OK",
                    "LIST_CONTENT FAIL, USER DOES NOT EXIST",
                    "LIST_CONTENT FAIL, USER NOT CONNECTED",
                    "LIST_CONTENT FAIL, REMOTE USER DOES NOT EXIST",
                    "LIST_CONTENT FAIL",
                ],
            ),
        ];
        for (operation, texts) in table {
            for (status, text) in (0..).zip(texts) {
                assert_eq!(reply_text(operation, status), *text);
            }
            assert!(reply_text(operation, 9).ends_with(" FAIL"));
        }
    }
}
