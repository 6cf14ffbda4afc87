//! A peer in Rust that speaks the protocol over a real socket.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use lonja_wire::{
    Command, Encoding, Request,
    reply::{FILE_ENTRY, FileEntry, USER_ENTRY, UserEntry, read_count, read_file, read_status, read_user},
};

pub(crate) const DATETIME: &str = "12/05/2024 10:00:00";

/// The bytes of a request.
pub(crate) fn bytes(username: &str, command: Command, encoding: Encoding) -> Vec<u8> {
    let username = (!username.is_empty()).then(|| username.parse().unwrap());
    let request = Request { datetime: DATETIME.parse().unwrap(), username, command };
    let mut bytes = Vec::new();
    request.encode(encoding, &mut bytes);
    bytes
}

pub(crate) fn connect(peers: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(peers).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Connects to the gateway from this loopback address.
pub(crate) fn connect_from(address: [u8; 4], peers: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        socket.connect(peers).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends bytes and reads the whole reply. The connection stays open for writing, as
/// peers leave it.
pub(crate) fn exchange(peers: SocketAddr, request: &[u8]) -> Vec<u8> {
    exchange_in(peers, &[request])
}

/// Sends a request in these segments and reads the whole reply.
pub(crate) fn exchange_in(peers: SocketAddr, segments: &[&[u8]]) -> Vec<u8> {
    let mut stream = connect(peers);
    for segment in segments {
        stream.write_all(segment).unwrap();
    }
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    // A peer that waits for the end of the stream gets a NUL behind its status.
    if let [_, 0] = reply[..] {
        reply.pop();
    }
    reply
}

/// Sends bytes, then the end of the stream, and reads the whole reply.
pub(crate) fn exchange_all(peers: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(peers);
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    reply
}

/// Sends a request in the terminated encoding and gives the status; `None` if there was no whole
/// answer.
pub(crate) fn try_ask(peers: SocketAddr, username: &str, command: Command) -> Option<u8> {
    ask_or_why(peers, username, command).ok()
}

/// Sends a request in the terminated encoding and gives the status, or what was in the way of an
/// answer.
pub(crate) fn ask_or_why(peers: SocketAddr, username: &str, command: Command) -> Result<u8, String> {
    let at = |step: &str| {
        let step = step.to_owned();
        move |error: std::io::Error| format!("{step}: {error}")
    };
    let mut stream = TcpStream::connect(peers).map_err(at("connecting"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(at("setting up"))?;
    stream.write_all(&bytes(username, command, Encoding::Terminated)).map_err(at("sending"))?;
    let mut status = [0];
    stream.read_exact(&mut status).map_err(at("reading"))?;
    read_status(status[0]).map_err(|error| error.to_string())
}

/// Sends a request in the terminated encoding and gives the status.
pub(crate) fn ask(peers: SocketAddr, username: &str, command: Command) -> u8 {
    try_ask(peers, username, command).expect("an answer")
}

pub(crate) fn register(peers: SocketAddr, username: &str) -> u8 {
    ask(peers, username, Command::Register)
}

/// Registers a user, and tries up to three times while that fails: the machine may stand still for
/// longer than the gateway waits during one of many requests.
pub(crate) fn register_again(peers: SocketAddr, username: &str) -> u8 {
    (0..3).map(|_| register(peers, username)).find(|status| *status != 2).unwrap_or(2)
}

pub(crate) fn connect_as(peers: SocketAddr, username: &str, port: u16) -> u8 {
    ask(peers, username, Command::Connect(std::num::NonZeroU16::new(port).unwrap().into()))
}

pub(crate) fn publish(peers: SocketAddr, username: &str, filename: &str) -> u8 {
    ask(peers, username, publish_command(filename))
}

pub(crate) fn publish_command(filename: &str) -> Command {
    Command::Publish(filename.parse().unwrap(), "a description".parse().unwrap())
}

/// Sends a LIST_USERS. Gives the connected users, or the status if it is not 0.
pub(crate) fn list_users(
    peers: SocketAddr,
    username: &str,
    encoding: Encoding,
) -> Result<Vec<UserEntry>, u8> {
    let reply = exchange(peers, &bytes(username, Command::ListUsers, encoding));
    entries::<USER_ENTRY, _>(&reply, encoding, |entry| read_user(entry).unwrap())
}

/// Sends a LIST_CONTENT. Gives what `remote` has published, or the status if it is not 0.
pub(crate) fn list_content(
    peers: SocketAddr,
    username: &str,
    remote: &str,
    encoding: Encoding,
) -> Result<Vec<FileEntry>, u8> {
    let command = Command::ListContent(Some(remote.parse().unwrap()));
    let reply = exchange(peers, &bytes(username, command, encoding));
    entries::<FILE_ENTRY, _>(&reply, encoding, |entry| read_file(entry).unwrap())
}

fn entries<const N: usize, T>(
    reply: &[u8],
    encoding: Encoding,
    read: impl Fn(&[u8; N]) -> T,
) -> Result<Vec<T>, u8> {
    let status = read_status(reply[0]).unwrap();
    if status != 0 {
        assert_eq!(reply.len(), 1);
        return Err(status);
    }
    let count = read_count(reply[1..5].try_into().unwrap(), encoding).unwrap();
    let (entries, rest) = reply[5..].as_chunks::<N>();
    assert!(rest.is_empty() && entries.len() == count as usize, "{count} entries in {} bytes", reply.len());
    Ok(entries.iter().map(read).collect())
}
