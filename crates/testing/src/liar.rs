//! A peer that sends bytes that are not those of the file.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use lonja_wire::get_part;

/// The number of bytes with which a reply to GET_PART says what the file is.
const HEADING: usize = 1 + get_part::HEAD;

/// What a liar changes of what an honest peer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The byte of the file at this offset.
    ByteAt(u64),
    /// The first byte of each range.
    EachRange,
    /// The file's size, which becomes 0; the hash stays.
    Empty,
}

/// Starts a peer on a port of its own that passes on what the honest peer answers, with one change. Gives the
/// peer's address. The peer ends with the process.
///
/// # Panics
/// When no port is free.
#[must_use]
pub fn liar(honest: SocketAddr, lie: Lie) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for caller in listener.incoming() {
            // A caller that is gone needs no answer.
            let _ = caller.and_then(|caller| relay(caller, honest, lie));
        }
    });
    address
}

fn relay(mut caller: TcpStream, honest: SocketAddr, lie: Lie) -> io::Result<()> {
    let mut request = vec![0; get_part::MAX_REQUEST];
    let length = caller.read(&mut request)?;
    let mut owner = TcpStream::connect(honest)?;
    owner.write_all(&request[..length])?;
    let mut reply = Vec::new();
    owner.read_to_end(&mut reply)?;
    if lie == Lie::Empty {
        reply.truncate(HEADING);
        reply[1..9].fill(0);
    } else if let get_part::Progress::Complete(part) = get_part::decode(&request[..length])
        && part.offset != get_part::OFFSET_OF_VALUES
    {
        let behind = match lie {
            Lie::ByteAt(offset) => offset.checked_sub(part.offset),
            Lie::EachRange => Some(0),
            Lie::Empty => None,
        };
        let byte = behind.and_then(|behind| reply.get_mut(HEADING + behind as usize));
        byte.into_iter().for_each(|byte| *byte ^= 1);
    }
    caller.write_all(&reply)
}
