//! From a socket to a file by way of a pipe, which is how Linux moves bytes that no
//! process looks at (splice). Elsewhere they are copied.

use std::{fs::File, io, net::TcpStream};

/// Bytes that are moved at a time.
const PIECE: usize = 1 << 20;

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::OwnedFd;

    use rustix::{
        io::retry_on_intr,
        pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice},
    };

    use super::{File, PIECE, TcpStream, io};

    /// A pipe with some bytes in it, or none.
    #[derive(Debug)]
    pub(crate) struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Pipe {
        /// An empty pipe.
        pub(crate) fn new() -> io::Result<Self> {
            let (read, write) = pipe()?;
            // If so much is not allowed, less is moved at a time.
            let _ = fcntl_setpipe_size(&write, PIECE);
            Ok(Self { read, write })
        }

        /// Takes what has arrived, at most so many bytes; 0 at the end.
        pub(crate) fn fill(&self, stream: &TcpStream, most: u64) -> io::Result<u64> {
            let most = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
            Ok(splice(stream, None, &self.write, None, most, SpliceFlags::MOVE)? as u64)
        }

        /// Puts all that it has in a file.
        pub(crate) fn empty(&self, file: &File, mut offset: u64, bytes: u64) -> io::Result<()> {
            let end = offset + bytes;
            while offset < end {
                let rest = usize::try_from(end - offset).unwrap_or(PIECE);
                let moved = retry_on_intr(|| {
                    splice(&self.read, None, file, Some(&mut offset), rest, SpliceFlags::MOVE)
                })?;
                if moved == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::{cell::RefCell, io::Read as _, os::unix::fs::FileExt as _};

    use super::{File, PIECE, TcpStream, io};

    /// A buffer with some bytes in it, or none.
    #[derive(Debug)]
    pub(crate) struct Pipe(RefCell<Vec<u8>>);

    impl Pipe {
        /// An empty buffer.
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self(RefCell::new(vec![0; PIECE])))
        }

        /// Takes what has arrived, at most so many bytes; 0 at the end.
        pub(crate) fn fill(&self, mut stream: &TcpStream, most: u64) -> io::Result<u64> {
            let most = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
            Ok(stream.read(&mut self.0.borrow_mut()[..most])? as u64)
        }

        /// Puts all that it has in a file.
        pub(crate) fn empty(&self, file: &File, offset: u64, bytes: u64) -> io::Result<()> {
            let bytes = usize::try_from(bytes).unwrap_or(PIECE).min(PIECE);
            file.write_all_at(&self.0.borrow()[..bytes], offset)
        }
    }
}

pub(crate) use system::Pipe;
