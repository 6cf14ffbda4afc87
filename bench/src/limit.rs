//! The limit: what the kernel takes for a request. Each thread accepts, reads, answers and closes, one
//! connection after the other, without a runtime.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType, bind, listen, recv, send, shutdown, socket,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// How many threads accept and answer, each one connection at a time
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    listen(&socket, 4096)?;
    let listener = TcpListener::from(socket);
    println!("peers connect to  {}", listener.local_addr()?);
    thread::scope(|scope| {
        for _ in 0..config.threads {
            scope.spawn(|| {
                while let Ok((stream, _)) = listener.accept() {
                    // A peer that breaks its connection ends that connection only.
                    let _ = serve(stream);
                }
            });
        }
    });
    Ok(())
}

/// Reads a terminated request of three fields, which ends at its third NUL, and answers with the end
/// of the stream in the same packet.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 1044];
    let mut len = 0;
    while bytes[..len].iter().filter(|byte| **byte == 0).count() < 3 {
        match stream.read(&mut bytes[len..])? {
            0 => return Ok(()),
            more => len += more,
        }
    }
    send(&stream, b"0", SendFlags::MORE | SendFlags::NOSIGNAL)?;
    shutdown(&stream, Shutdown::Write)?;
    // Input that is left unread would break the connection.
    let _ = recv(&stream, &mut bytes, RecvFlags::DONTWAIT);
    Ok(())
}
