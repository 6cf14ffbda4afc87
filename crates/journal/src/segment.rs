//! A segment of the write-ahead log: a file of frames. Once the table file holds the rows of a
//! segment, the segment is used again and written from its beginning.
//!
//! A frame starts at a multiple of eight bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 8 | number of this use of the segment, higher than that of any use before |
//! | 8 | random number of this use, so that nobody can write a frame in advance |
//! | 4 | length of the payload |
//! | 4 | CRC32 of the 28 bytes before and the payload |

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io,
};

use redb::StorageBackend;

const MAGIC: [u8; 8] = *b"lonjawal";
const HEADER: usize = 32;
const ALIGNMENT: usize = 8;

#[derive(Debug)]
pub(crate) struct Segment {
    file: Box<dyn StorageBackend>,
    position: u64,
    generation: u64,
    nonce: u64,
    buffer: Vec<u8>,
    /// Whether the last append failed, so that its frame may be on disk all the same.
    failed: bool,
}

/// What a segment holds when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The number of the use of the segment that wrote `payloads`.
    pub(crate) generation: u64,
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Payloads of frames behind the end of `payloads`: frames of an older use, or frames behind a
    /// place that is damaged.
    pub(crate) beyond: Vec<Vec<u8>>,
    /// Whether something else wrote the file: its first bytes are neither those of [`MAGIC`] nor zeros, and no cut
    /// of the power leaves a segment so.
    pub(crate) is_foreign: bool,
}

impl Segment {
    /// Reads a segment. A file that is shorter than `size` bytes is filled with zeros up to this length,
    /// so that an append changes no metadata.
    pub(crate) fn open(file: Box<dyn StorageBackend>, size: u64) -> io::Result<(Self, Found)> {
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        file.read(0, &mut bytes)?;
        let found = scan(&bytes);
        let is_new = (bytes.len() as u64) < size;
        // After a failed sync, the system may read from memory what the disk does not have. So what was read is
        // written and synced once more, before anything that follows from it is durable.
        if is_new || found.generation > 0 || !found.beyond.is_empty() {
            bytes.resize(bytes.len().max(usize::try_from(size).map_err(io::Error::other)?), 0);
            file.write(0, &bytes)?;
            file.sync_data()?;
        }
        Ok((Self { file, position: 0, generation: 0, nonce: 0, buffer: Vec::new(), failed: false }, found))
    }

    /// Begins a new use of the segment. Its old content is overwritten from the next append on.
    pub(crate) fn restart(&mut self, generation: u64) {
        self.position = 0;
        self.failed = false;
        self.generation = generation;
        // Each new `RandomState` has keys of its own, which the system seeds.
        self.nonce = RandomState::new().build_hasher().finish();
    }

    /// Appends a frame and makes it durable. After an error the next frame takes its place.
    pub(crate) fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.buffer.clear();
        self.buffer.extend_from_slice(&MAGIC);
        self.buffer.extend_from_slice(&self.generation.to_le_bytes());
        self.buffer.extend_from_slice(&self.nonce.to_le_bytes());
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&checksum(&self.buffer, payload).to_le_bytes());
        self.buffer.extend_from_slice(payload);
        self.buffer.resize(self.buffer.len().next_multiple_of(ALIGNMENT), 0);
        self.failed = true;
        self.file.write(self.position, &self.buffer)?;
        self.file.sync_data()?;
        self.failed = false;
        self.position += self.buffer.len() as u64;
        Ok(())
    }

    /// Whether the next frame must come into this segment: the frame that could not be written may be on
    /// disk all the same, and only a frame in its place makes sure that nobody reads it.
    pub(crate) fn must_go_on(&self) -> bool {
        self.failed
    }

    /// How many bytes were written in this use of the segment.
    pub(crate) fn len(&self) -> u64 {
        self.position
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

struct Frame<'a> {
    generation: u64,
    nonce: u64,
    payload: &'a [u8],
}

fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let number = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes);
    let short = |at: usize| header[at..at + 4].try_into().map(u32::from_le_bytes);
    if header[..8] != MAGIC {
        return None;
    }
    let payload = rest.get(..short(24).ok()? as usize)?;
    (checksum(&header[..28], payload) == short(28).ok()?).then_some(Frame {
        generation: number(8).ok()?,
        nonce: number(16).ok()?,
        payload,
    })
}

pub(crate) fn scan(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 0;
    let mut nonce = None;
    while let Some(frame) = bytes.get(at..).and_then(frame) {
        if *nonce.get_or_insert(frame.nonce) != frame.nonce {
            break;
        }
        found.generation = frame.generation;
        found.payloads.push(frame.payload.to_vec());
        at += (HEADER + frame.payload.len()).next_multiple_of(ALIGNMENT);
    }
    // A write that was cut short leaves a part of the first bytes.
    found.is_foreign = bytes.iter().zip(MAGIC).any(|(byte, magic)| *byte != magic && *byte != 0);
    let places = (at..bytes.len()).step_by(ALIGNMENT);
    found.beyond = places.filter_map(|at| Some(frame(&bytes[at..])?.payload.to_vec())).collect();
    found
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tempfile::TempDir;

    use super::*;
    use crate::disk::{Disk as _, FileSystem};

    fn open(path: &Path) -> (Segment, Found) {
        Segment::open(FileSystem.open(path).unwrap(), 4096).unwrap()
    }

    fn payloads(path: &Path) -> Vec<Vec<u8>> {
        open(path).1.payloads
    }

    #[test]
    fn what_was_appended_is_found() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("wal");
        let (mut segment, found) = open(&path);
        assert!(found.payloads.is_empty());
        segment.restart(7);
        for payload in [&b"one"[..], b"", b"three three three"] {
            segment.append(payload).unwrap();
        }
        let found = open(&path).1;
        assert_eq!(found.payloads, [&b"one"[..], b"", b"three three three"]);
        assert_eq!(found.generation, 7);
        assert!(found.beyond.is_empty());
    }

    #[test]
    fn a_frame_that_was_cut_anywhere_was_never_written() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("wal");
        let (mut segment, _) = open(&path);
        segment.restart(1);
        segment.append(b"whole").unwrap();
        let start = segment.len() as usize;
        segment.append(b"in two pieces").unwrap();
        let end = segment.len() as usize;
        let bytes = fs::read(&path).unwrap();
        // The last three bytes are padding, so cutting there loses nothing.
        for cut in start..end - 3 {
            let mut cut_off = bytes.clone();
            cut_off[cut..end].fill(0);
            let found = scan(&cut_off);
            assert_eq!(found.payloads, [b"whole"], "cut at {cut}");
            assert!(found.beyond.is_empty());
        }
    }

    #[test]
    fn a_new_use_hides_the_frames_of_the_one_before() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("wal");
        let (mut segment, _) = open(&path);
        segment.restart(1);
        for _ in 0..3 {
            segment.append(b"old").unwrap();
        }
        segment.restart(2);
        segment.append(b"new").unwrap();
        let found = open(&path).1;
        assert_eq!(found.payloads, [b"new"]);
        assert_eq!((found.generation, found.beyond.len()), (2, 2));
    }

    #[test]
    fn frames_beyond_damage_are_told_apart() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("wal");
        let (mut segment, _) = open(&path);
        segment.restart(1);
        for payload in [b"first", b"other", b"third"] {
            segment.append(payload).unwrap();
        }
        let mut bytes = fs::read(&path).unwrap();
        let second = bytes.windows(5).position(|bytes| bytes == b"other").unwrap();
        bytes[second] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(payloads(&path), [b"first"]);
        assert_eq!(open(&path).1.beyond, [b"third"]);
    }

    /// Bug (world 569): where a first write was cut short within eight bytes, the file was taken for one that
    /// something else had written.
    #[test]
    fn a_first_write_that_was_cut_anywhere_is_no_foreign_file() {
        for cut in 0..=MAGIC.len() {
            let mut bytes = vec![0; 4096];
            bytes[..cut].copy_from_slice(&MAGIC[..cut]);
            assert!(!scan(&bytes).is_foreign, "{cut}");
        }
        assert!(scan(b"PK\x03\x04 something else").is_foreign && !scan(b"").is_foreign);
    }
}
