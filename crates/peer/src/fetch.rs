//! Asking another peer for a file (docs/protocol.md 6).

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lonja_wire::{
    Filename, get_file,
    get_part::{self, Head, Part},
    reply,
};

pub use crate::hash::Tree;
use crate::{
    interrupt::{Interrupt, Watched},
    pipe::Pipe,
};

/// How long connecting to a peer may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a peer may take to send the next bytes, of its answer or of a file.
const STALL: Duration = Duration::from_secs(20);
/// How long a peer may take to compute the hash of a file, which it computes once.
const HASHING: Duration = Duration::from_secs(600);
/// How long a peer that has sent as much as it announced may take to send more.
const MORE: Duration = Duration::from_millis(500);
/// How long a peer may take to send what the blocks are. Without that, the copy is checked at its end.
const VALUES: Duration = Duration::from_secs(60);
/// How long to wait before asking again whether the hash has been computed.
const AGAIN: Duration = Duration::from_millis(500);

/// What stands for a status where there is none.
const NO_STATUS: u8 = u8::MAX;

/// A peer that a file is copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The peer's username, as messages show it.
    pub user: String,
    /// The address at which the peer serves files.
    pub address: SocketAddr,
}

/// Why a peer does not give a file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The peer answered with status 1: no such file, or the file is not published.
    #[error("{0} does not publish that file, or does not have it any more")]
    NoFile(String),
    /// The peer answered with another failure, or did not compute the file's hash in time.
    #[error("{0} cannot give that file")]
    Refused(String),
    /// The peer's answer does not begin with a status.
    #[error("{0} answers in a form that this peer cannot read: ask its owner for the file in another way")]
    Foreign(String),
    /// The peer sent something else than a block of the file.
    #[error("{0} sends bytes that are not those of the file")]
    Wrong(String),
    /// The file is not the one that the peer described when the copy began.
    #[error("the file of {0} has changed since the copy began: copy it again")]
    Changed(String),
    /// The connection could not be opened, or it broke.
    #[error("no answer from {0}: {1}")]
    Io(String, #[source] io::Error),
    /// The interrupt was raised, for example by Ctrl-C.
    #[error("stopped")]
    Interrupted,
}

/// The bytes of a file, or of a part of a file, as they come from a peer.
#[derive(Debug)]
pub struct Incoming {
    stream: TcpStream,
    pipe: Option<Pipe>,
    interrupt: Interrupt,
    source: String,
    _watched: Watched,
}

/// Why bytes were not moved to a file.
#[derive(Debug)]
pub enum MoveError {
    /// The bytes did not come.
    Fetch(FetchError),
    /// The bytes could not be written.
    Write(io::Error),
}

impl Incoming {
    /// Reads bytes that have arrived, and gives how many; 0 at the end of the stream.
    ///
    /// # Errors
    /// When nothing arrives for too long, the connection breaks, or the interrupt is raised.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FetchError> {
        self.wait(|stream| stream.read(buffer))
    }

    /// Moves bytes that have arrived, at most `most`, into `file` from `offset` on, and gives how
    /// many; 0 at the end of the stream. On Linux, the bytes are not copied to this process.
    ///
    /// # Errors
    /// When [`Self::read`] would fail, or the bytes cannot be written.
    pub fn move_to(&mut self, file: &File, offset: u64, most: u64) -> Result<u64, MoveError> {
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => Pipe::new().map_err(|error| MoveError::Fetch(self.broken(error)))?,
        };
        let moved = self.wait(|stream| pipe.fill(stream, most)).map_err(MoveError::Fetch)?;
        pipe.empty(file, offset, moved).map_err(MoveError::Write)?;
        self.pipe = Some(pipe);
        Ok(moved)
    }

    /// Whether more bytes arrive within [`MORE`].
    ///
    /// # Errors
    /// When the connection breaks, or the interrupt is raised.
    pub(crate) fn has_more(&mut self) -> Result<bool, FetchError> {
        let limit = |stream: &TcpStream, limit| stream.set_read_timeout(Some(limit));
        limit(&self.stream, MORE).map_err(|error| self.broken(error))?;
        let more = self.wait(|stream| match stream.peek(&mut [0]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(0)
            }
            more => more,
        })?;
        limit(&self.stream, STALL).map_err(|error| self.broken(error))?;
        Ok(more > 0)
    }

    fn wait<T>(&mut self, mut read: impl FnMut(&mut TcpStream) -> io::Result<T>) -> Result<T, FetchError> {
        loop {
            let read = read(&mut self.stream);
            // An interrupt ends the stream. That end must not be taken for the end of the file.
            if self.interrupt.is_raised() {
                return Err(FetchError::Interrupted);
            }
            match read {
                // The wait was interrupted by a signal, which another thread handles.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| self.broken(error)),
            }
        }
    }

    fn broken(&self, error: io::Error) -> FetchError {
        FetchError::Io(self.source.clone(), patient(error))
    }
}

impl Source {
    /// Asks a peer for the [`Head`] of a file, and with `values` for what each block of the file is, and waits
    /// until the peer has computed that; `None` if the peer is an original peer. An older Lonja peer does not
    /// say what the blocks are.
    ///
    /// # Errors
    /// When the peer does not have the file or does not answer, or the interrupt is raised.
    pub fn head(
        &self,
        filename: &Filename,
        values: bool,
        interrupt: &Interrupt,
    ) -> Result<Option<Described>, FetchError> {
        let end = Instant::now() + HASHING;
        let (offset, length) = if values { (get_part::OFFSET_OF_VALUES, u64::MAX) } else { (0, 0) };
        loop {
            match self.ask_part(filename, offset, length, interrupt)? {
                Answer::Head(head, mut incoming) => {
                    let tree = if values { read_values(&head, &mut incoming)? } else { None };
                    return Ok(Some(Described { head, tree }));
                }
                Answer::NoFile => return Err(FetchError::NoFile(self.user.clone())),
                Answer::NotYet if Instant::now() < end => thread::sleep(AGAIN),
                Answer::NotYet => return Err(FetchError::Refused(self.user.clone())),
                Answer::Unknown => return Ok(None),
            }
        }
    }

    /// Asks a Lonja peer for a part of a file, and for the [`Head`] that the file has now.
    ///
    /// # Errors
    /// When the peer does not give the part, or the interrupt is raised.
    pub fn part(
        &self,
        filename: &Filename,
        offset: u64,
        length: u64,
        interrupt: &Interrupt,
    ) -> Result<(Head, Incoming), FetchError> {
        match self.ask_part(filename, offset, length, interrupt)? {
            Answer::Head(head, incoming) => Ok((head, incoming)),
            Answer::NoFile => Err(FetchError::NoFile(self.user.clone())),
            Answer::NotYet | Answer::Unknown => Err(FetchError::Refused(self.user.clone())),
        }
    }

    /// Asks any peer for a whole file. Nothing in the reply tells whether the whole file came.
    ///
    /// # Errors
    /// When the peer does not give the file, or the interrupt is raised.
    pub fn whole(&self, filename: &Filename, interrupt: &Interrupt) -> Result<Incoming, FetchError> {
        let mut request = Vec::new();
        get_file::encode(filename, &mut request);
        let mut incoming = self.send(&request, interrupt)?;
        match self.status(&mut incoming)? {
            Some(0) => Ok(incoming),
            Some(get_file::STATUS_NO_FILE) => Err(FetchError::NoFile(self.user.clone())),
            Some(NO_STATUS) => Err(FetchError::Foreign(self.user.clone())),
            Some(_) => Err(FetchError::Refused(self.user.clone())),
            None => Err(self.cut()),
        }
    }

    /// The error of a peer that closes before its reply is complete.
    pub(crate) fn cut(&self) -> FetchError {
        self.io(io::Error::other("the connection was closed before the reply was complete"))
    }

    fn ask_part(
        &self,
        filename: &Filename,
        offset: u64,
        length: u64,
        interrupt: &Interrupt,
    ) -> Result<Answer, FetchError> {
        let mut request = Vec::new();
        Part { filename: filename.clone(), offset, length }.encode(&mut request);
        let mut attempts = 0;
        let (status, mut incoming) = loop {
            let mut incoming = self.send(&request, interrupt)?;
            attempts += 1;
            match self.status(&mut incoming) {
                // An original peer answers "any other failure", or closes the connection before it
                // has read the whole request, which resets the connection. A Lonja peer that is
                // just ending may reset the connection too, but not twice.
                Err(FetchError::Io(_, error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    if attempts == 2 {
                        break (None, incoming);
                    }
                }
                status => break (status?, incoming),
            }
        };
        match status {
            Some(0) => {}
            Some(get_file::STATUS_NO_FILE) => return Ok(Answer::NoFile),
            Some(get_part::STATUS_NOT_YET) => return Ok(Answer::NotYet),
            _ => return Ok(Answer::Unknown),
        }
        let mut head = [0; get_part::HEAD];
        let mut read = 0;
        while read < head.len() {
            match incoming.read(&mut head[read..])? {
                0 => return Err(self.cut()),
                more => read += more,
            }
        }
        Ok(Answer::Head(Head::decode(&head), incoming))
    }

    fn send(&self, request: &[u8], interrupt: &Interrupt) -> Result<Incoming, FetchError> {
        let send = || {
            let stream = TcpStream::connect_timeout(&self.address, CONNECT)?;
            let watched = interrupt.watch(&stream)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(STALL))?;
            stream.set_write_timeout(Some(STALL))?;
            (&stream).write_all(request)?;
            Ok((stream, watched))
        };
        match send() {
            Ok((stream, watched)) => Ok(Incoming {
                stream,
                pipe: None,
                interrupt: interrupt.clone(),
                source: self.user.clone(),
                _watched: watched,
            }),
            Err(_) if interrupt.is_raised() => Err(FetchError::Interrupted),
            Err(error) => Err(self.io(error)),
        }
    }

    /// Reads the status of an answer; `None` if the peer closes without an answer, [`NO_STATUS`] if
    /// the answer does not begin with a status.
    fn status(&self, incoming: &mut Incoming) -> Result<Option<u8>, FetchError> {
        let mut status = [0];
        match incoming.read(&mut status)? {
            0 => Ok(None),
            _ => Ok(Some(reply::read_status(status[0]).unwrap_or(NO_STATUS))),
        }
    }

    fn io(&self, error: io::Error) -> FetchError {
        FetchError::Io(self.user.clone(), patient(error))
    }
}

/// What a Lonja peer says about a file.
#[derive(Debug, Clone)]
pub struct Described {
    /// Size, time and hash of the file.
    pub head: Head,
    /// What each block of the file is; `None` if the peer does not say, or what it says does not fit the hash.
    pub tree: Option<Arc<Tree>>,
}

fn read_values(head: &Head, incoming: &mut Incoming) -> Result<Option<Arc<Tree>>, FetchError> {
    // The number of blocks is bounded, whatever size the peer has made up.
    let length = usize::try_from(head.blocks()).unwrap_or_default() * get_part::HASH;
    let mut values = Vec::new();
    let mut piece = [0; 8192];
    let end = Instant::now() + VALUES;
    while values.len() < length && Instant::now() < end {
        let most = piece.len().min(length - values.len());
        match incoming.read(&mut piece[..most])? {
            0 => break,
            read => values.extend_from_slice(&piece[..read]),
        }
    }
    Ok(Tree::read(head, &values).map(Arc::new))
}

enum Answer {
    Head(Head, Incoming),
    NoFile,
    NotYet,
    /// The answer of an original peer, which does not know GET_PART.
    Unknown,
}

/// Replaces the error of a read that took too long with an error that says so.
fn patient(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "nothing came for too long"),
        _ => error,
    }
}
