//! GET_PART, with which one Lonja peer asks another for the size, the time and the hash of a
//! published file, and for a range of the file's bytes (docs/protocol.md 6.1).

use crate::{
    field::{FieldError, Filename, WIDTH_NAME},
    reading::{self, Encoding},
};

/// The operation code of GET_PART. The code is as long as GET_FILE, because original peers read
/// nine bytes: a code and its NUL.
pub const NAME: &str = "GET_PART";

/// Status 3: the hash of the file is being computed; ask again in a moment.
pub const STATUS_NOT_YET: u8 = 3;

/// Size of the offset and the length behind the filename, in bytes.
const RANGE: usize = 16;
/// The largest size of a GET_PART request, in bytes.
pub const MAX_REQUEST: usize = NAME.len() + 1 + WIDTH_NAME + RANGE;

/// The offset that asks for the values of the file's blocks instead of the file's bytes.
pub const OFFSET_OF_VALUES: u64 = u64::MAX;
/// Size of a block, in bytes.
pub const BLOCK: u64 = 4 << 20;
/// The largest number of blocks whose values are given: those of a file of 4 TiB.
pub const MAX_BLOCKS: u64 = 1 << 20;

/// Size of an encoded [`Head`], in bytes.
pub const HEAD: usize = 8 + 8 + HASH;
/// Size of a BLAKE3 hash, in bytes.
pub const HASH: usize = 32;

/// A request for a range of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The name of the file that is asked for.
    pub filename: Filename,
    /// The first byte that is asked for, counted from 0; or [`OFFSET_OF_VALUES`].
    pub offset: u64,
    /// The largest number of bytes to send; 0 asks only for the [`Head`].
    pub length: u64,
}

/// What a reply says about the file, before the bytes of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Size of the whole file, in bytes.
    pub size: u64,
    /// When the file was last modified, in seconds since 1970, as the owner's file system has it.
    pub modified: i64,
    /// The BLAKE3 hash of the whole file.
    pub hash: [u8; HASH],
}

/// What the bytes that have arrived on a connection are so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// The request is complete.
    Complete(Part),
    /// The operation is not GET_PART.
    UnknownOperation,
    /// The filename is bad.
    Bad(FieldError),
}

/// Decodes `bytes`, which are all bytes that have arrived on a connection so far.
#[must_use]
pub fn decode(bytes: &[u8]) -> Progress {
    match reading::operation_code(bytes) {
        Ok(None) => return Progress::Incomplete,
        Ok(Some(code)) if code == NAME.as_bytes() => {}
        Ok(Some(_)) | Err(_) => return Progress::UnknownOperation,
    }
    let rest = &bytes[NAME.len() + 1..];
    let Some(end) = rest.iter().position(|byte| *byte == 0) else {
        return if rest.len() < WIDTH_NAME {
            Progress::Incomplete
        } else {
            Progress::Bad(FieldError::TooLong)
        };
    };
    let filename = match Filename::from_bytes(&rest[..end]) {
        Ok(filename) => filename,
        Err(error) => return Progress::Bad(error),
    };
    let Some(([offset, length], _)) = rest[end + 1..].as_chunks().0.split_first_chunk() else {
        return Progress::Incomplete;
    };
    Progress::Complete(Part {
        filename,
        offset: u64::from_be_bytes(*offset),
        length: u64::from_be_bytes(*length),
    })
}

impl Part {
    /// Appends the request's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(NAME.as_bytes());
        out.push(0);
        reading::encode_field(self.filename.as_str(), WIDTH_NAME, Encoding::Terminated, out);
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }
}

impl Head {
    /// The number of blocks whose values say what each block is: 0 for a file of one block, whose hash
    /// says that, and for a file of more than [`MAX_BLOCKS`].
    #[must_use]
    pub fn blocks(&self) -> u64 {
        let blocks = self.size.div_ceil(BLOCK);
        if blocks > 1 && blocks <= MAX_BLOCKS { blocks } else { 0 }
    }

    /// The number of bytes that answer a range: none if the range begins past the end of the file.
    #[must_use]
    pub fn bytes_of(&self, offset: u64, length: u64) -> u64 {
        self.size.saturating_sub(offset).min(length)
    }

    /// The head as bytes, which stand behind the status of a reply.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.modified.to_be_bytes());
        bytes[16..].copy_from_slice(&self.hash);
        bytes
    }

    /// Reads a head from the bytes that stand behind the status of a reply.
    #[must_use]
    pub fn decode(bytes: &[u8; HEAD]) -> Self {
        let (numbers, hash) = bytes.split_at(16);
        let mut head = Self { size: 0, modified: 0, hash: [0; HASH] };
        if let [size, modified] = numbers.as_chunks().0 {
            head.size = u64::from_be_bytes(*size);
            head.modified = i64::from_be_bytes(*modified);
        }
        head.hash.copy_from_slice(hash);
        head
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(part: &Part) -> Vec<u8> {
        let mut bytes = Vec::new();
        part.encode(&mut bytes);
        bytes
    }

    #[test]
    fn golden_bytes_split_anywhere() {
        let part = Part { filename: "a b.txt".parse().unwrap(), offset: 258, length: u64::MAX };
        let bytes = encoded(&part);
        assert_eq!(bytes, b"GET_PART\0a b.txt\0\0\0\0\0\0\0\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff");
        for split in 0..bytes.len() {
            assert_eq!(decode(&bytes[..split]), Progress::Incomplete, "{split}");
        }
        assert_eq!(decode(&bytes), Progress::Complete(part));
    }

    #[test]
    fn what_no_request_can_be_is_refused() {
        assert_eq!(decode(b"GET_FILE\0a\0"), Progress::UnknownOperation);
        assert_eq!(decode(b"GET_PART\0\0"), Progress::Bad(FieldError::Empty));
        assert_eq!(decode(b"GET_PART\0a\nb\0"), Progress::Bad(FieldError::ControlCharacter));
        let long = [b"GET_PART\0".as_slice(), &[b'a'; 256]].concat();
        assert_eq!(decode(&long), Progress::Bad(FieldError::TooLong));
        assert_eq!(decode(&long[..long.len() - 1]), Progress::Incomplete);
    }

    #[test]
    fn golden_head() {
        let head = Head { size: 258, modified: -1, hash: [7; HASH] };
        let bytes = head.encode();
        assert_eq!(&bytes[..16], b"\0\0\0\0\0\0\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(bytes[16..], [7; HASH]);
        assert_eq!(Head::decode(&bytes), head);
        assert_eq!((head.bytes_of(0, u64::MAX), head.bytes_of(250, 4), head.bytes_of(250, 40)), (258, 4, 8));
        assert_eq!(head.bytes_of(300, 1), 0);
        assert_eq!(head.bytes_of(OFFSET_OF_VALUES, u64::MAX), 0);
        let blocks = |size| Head { size, modified: 0, hash: [0; HASH] }.blocks();
        assert_eq!([0, BLOCK, BLOCK + 1, 2 * BLOCK, u64::MAX].map(blocks), [0, 0, 2, 2, 0]);
        assert_eq!([MAX_BLOCKS * BLOCK, MAX_BLOCKS * BLOCK + 1].map(blocks), [MAX_BLOCKS, 0]);
    }

    proptest! {
        #[test]
        fn every_request_comes_back(name in "[^\\x00-\\x1f\\x7f-\\x9f]{1,60}", offset: u64, length: u64) {
            let part = Part { filename: name.parse().unwrap(), offset, length };
            let bytes = encoded(&part);
            prop_assert!(bytes.len() <= MAX_REQUEST);
            prop_assert_eq!(decode(&bytes), Progress::Complete(part));
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let _ = decode(&[b"GET_PART\0".as_slice(), &bytes].concat());
        }
    }
}
