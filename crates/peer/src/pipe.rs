//! Moves bytes from a socket to a file. On Linux the bytes go through a pipe (splice) and are never
//! copied to this process. On other systems they are copied through a buffer.

use std::{fs::File, io, net::TcpStream};

/// The largest number of bytes that are moved at a time.
const PIECE: usize = 1 << 20;

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::OwnedFd;

    use rustix::{
        io::retry_on_intr,
        pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice},
    };

    use super::{File, PIECE, TcpStream, io};

    /// A pipe for bytes on their way from a socket to a file.
    #[derive(Debug)]
    pub(crate) struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Pipe {
        /// Makes an empty pipe.
        pub(crate) fn new() -> io::Result<Self> {
            let (read, write) = pipe()?;
            // If a pipe of this size is not allowed, fewer bytes are moved at a time.
            let _ = fcntl_setpipe_size(&write, PIECE);
            Ok(Self { read, write })
        }

        /// Fills the pipe with at most `most` bytes that have arrived, and gives how many it took;
        /// 0 at the end of the stream.
        pub(crate) fn fill(&self, stream: &TcpStream, most: u64) -> io::Result<u64> {
            let most = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
            Ok(splice(stream, None, &self.write, None, most, SpliceFlags::MOVE)? as u64)
        }

        /// Writes the pipe's content, which is `bytes` long, to a file from `offset` on.
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

    /// A buffer for bytes on their way from a socket to a file.
    #[derive(Debug)]
    pub(crate) struct Pipe(RefCell<Vec<u8>>);

    impl Pipe {
        /// Makes an empty buffer.
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self(RefCell::new(vec![0; PIECE])))
        }

        /// Fills the buffer with at most `most` bytes that have arrived, and gives how many it
        /// took; 0 at the end of the stream.
        pub(crate) fn fill(&self, mut stream: &TcpStream, most: u64) -> io::Result<u64> {
            let most = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
            Ok(stream.read(&mut self.0.borrow_mut()[..most])? as u64)
        }

        /// Writes the buffer's content, which is `bytes` long, to a file from `offset` on.
        pub(crate) fn empty(&self, file: &File, offset: u64, bytes: u64) -> io::Result<()> {
            let bytes = usize::try_from(bytes).unwrap_or(PIECE).min(PIECE);
            file.write_all_at(&self.0.borrow()[..bytes], offset)
        }
    }
}

pub(crate) use system::Pipe;
