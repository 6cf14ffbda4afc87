//! Copies from peers of other authors that write everything as strings (docs/protocol.md 6).
//!
//! Such a peer sends a NUL behind the status, then the size of the file as decimal digits and a NUL,
//! then the bytes. An original peer sends the bytes alone. Only the number of bytes that follow tells
//! both apart for certain, since a file may begin with any bytes.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// The largest size of what a peer of strings sends before the bytes of a file: a NUL, twenty digits,
/// a NUL.
const PREFIX: usize = 22;
/// How many bytes are moved at one time.
const PIECE: usize = 1 << 20;

/// What the first bytes behind a status announce, if a peer of strings has sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    /// The number of bytes before those of the file.
    pub(super) prefix: u64,
    /// The size of the file, in bytes.
    pub(super) size: u64,
}

impl Announced {
    /// Reads the first bytes of what has been received.
    pub(super) fn read(received: &File) -> io::Result<Option<Self>> {
        let mut first = [0; PREFIX];
        let mut read = 0;
        while read < PREFIX {
            match received.read_at(&mut first[read..], read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        Ok(Self::parse(&first[..read]))
    }

    fn parse(first: &[u8]) -> Option<Self> {
        let digits = first.strip_prefix(b"\0")?;
        let end = digits.iter().position(|byte| *byte == 0).filter(|end| *end > 0)?;
        let digits = std::str::from_utf8(&digits[..end]).ok()?;
        let size = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())??;
        Some(Self { prefix: end as u64 + 2, size })
    }

    /// The number of bytes behind the status, if a peer of strings has sent the whole file.
    pub(super) fn whole(self) -> u64 {
        self.prefix.saturating_add(self.size)
    }
}

/// Moves the bytes of a file to the beginning of what has been received.
pub(super) fn strip(received: &File, announced: Announced) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut moved = 0;
    loop {
        match received.read_at(&mut piece, announced.prefix + moved)? {
            0 => break,
            read => {
                received.write_all_at(&piece[..read], moved)?;
                moved += read as u64;
            }
        }
    }
    received.set_len(moved)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_size_is_announced_by_digits_between_two_nuls() {
        let announced = |prefix, size| Some(Announced { prefix, size });
        for (first, expected) in [
            (&b"\x005\0hello"[..], announced(3, 5)),
            (b"\x000\0", announced(3, 0)),
            (b"\x0018446744073709551615\0", announced(22, u64::MAX)),
            (b"\x0018446744073709551616\0", None),
            (b"", None),
            (b"\0", None),
            (b"\0\0", None),
            (b"hello", None),
            (b"\x005", None),
            (b"\0+5\0hello", None),
            (b"5\0hello", None),
        ] {
            assert_eq!(Announced::parse(first), expected, "{first:?}");
        }
    }

    #[test]
    fn what_was_received_is_moved_to_the_beginning() {
        let bytes: Vec<u8> = (0..3 * PIECE + 17).map(|number| number as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "\0{}\0", bytes.len()).unwrap();
        file.write_all(&bytes).unwrap();
        let announced = Announced::read(&file).unwrap().unwrap();
        assert_eq!(announced.whole(), file.metadata().unwrap().len());
        strip(&file, announced).unwrap();
        let mut read = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }
}
