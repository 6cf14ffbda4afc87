//! Where sockets are opened, and nowhere else.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that the system may hold for us until we accept them.
const BACKLOG: u32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{}", explain(*address, error))]
pub struct ListenError {
    address: SocketAddr,
    // Told in the message, and so not as its source.
    error: io::Error,
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use: stop what listens there or choose another port",
        io::ErrorKind::PermissionDenied => "not permitted: choose a port from 1024 on",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => return format!("cannot listen on {address}: {error}"),
    };
    format!("cannot listen on {address}: {advice}")
}

/// Listens for TCP connections on an address; port 0 lets the system choose.
///
/// # Errors
/// Says in one line why it cannot be done and what to do.
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
