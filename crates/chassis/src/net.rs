//! The only place where services open the sockets that they listen on.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// The largest number of connections that the system holds until a service accepts them.
const BACKLOG: u32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{}", explain(*address, error))]
pub struct ListenError {
    address: SocketAddr,
    // The message contains this error, so it is not given as the source as well.
    error: io::Error,
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use: stop what listens there or choose another port",
        io::ErrorKind::PermissionDenied => "not permitted: choose port 1024 or higher",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => return format!("cannot listen on {address}: {error}"),
    };
    format!("cannot listen on {address}: {advice}")
}

/// Listens for TCP connections on an address; port 0 lets the system choose.
///
/// # Errors
/// When the address cannot be listened on. The error says in one line why, and what to do.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the connections of the run before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| ListenError { address, error })
}
