//! The BLAKE3 hash of a file, computed on several processors. The hash of a file that grows is
//! computed while the file grows.
//!
//! The hash is the root of a binary tree over the file's bytes. The subtrees over aligned blocks do
//! not depend on each other, so threads share them out. The threads take one block after the other,
//! so that the file is still read from front to back.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::Arc,
    thread::{self, JoinHandle},
};

use blake3::{
    Hash, Hasher,
    hazmat::{
        ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
    },
};
use parking_lot::{Condvar, Mutex};

use crate::interrupt::Interrupt;

/// The size of a block, in bytes: a power of two.
const BLOCK: u64 = 16 << 20;
/// The largest number of bytes that are read at a time. A processor's cache holds several such
/// pieces.
const PIECE: usize = 64 << 10;
/// The largest number of threads that hash one file.
const THREADS: usize = 8;

/// Computes the hash of the first `size` bytes of a file.
///
/// # Errors
/// When the bytes cannot be read or are not all there, or the interrupt is raised.
pub(crate) fn of_file(file: &Arc<File>, size: u64, interrupt: &Interrupt) -> io::Result<Hash> {
    Blocks::new(Arc::clone(file), size, size).hash(threads(), interrupt)
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS))
}

/// The hash of a file that grows to a known size. A thread hashes each block as soon as the block
/// is there, so that little is left to hash, or to read again, when the file is whole.
#[derive(Debug)]
pub(crate) struct Growing {
    blocks: Arc<Blocks>,
    follower: Option<JoinHandle<()>>,
}

impl Growing {
    /// Begins to hash a file that grows to `size` bytes, of which `there` bytes are there.
    pub(crate) fn new(file: Arc<File>, size: u64, there: u64) -> Self {
        let blocks = Arc::new(Blocks::new(file, size, there));
        let follow = {
            let blocks = Arc::clone(&blocks);
            move || {
                be_patient();
                blocks.hash_until_the_end(&Interrupt::default());
            }
        };
        // If no thread can be started, everything is hashed at the end.
        let follower = (size > BLOCK).then(|| thread::Builder::new().spawn(follow).ok()).flatten();
        Self { blocks, follower }
    }

    /// Tells the hash that the first `there` bytes of the file are there now.
    pub(crate) fn has_grown(&self, there: u64) {
        self.blocks.have_grown(there);
    }

    /// The hash of the file, of which all bytes must be there.
    ///
    /// # Errors
    /// When [`of_file`] would fail.
    pub(crate) fn finish(&self, interrupt: &Interrupt) -> io::Result<Hash> {
        let more = threads() - usize::from(self.follower.is_some());
        self.blocks.hash(more.max(1), interrupt)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.blocks.stop();
        if let Some(follower) = self.follower.take() {
            // The thread does not panic, and ends after the block that it is hashing.
            let _ = follower.join();
        }
    }
}

/// Gives this thread the lowest priority, so that it does not hold up the thread that receives the
/// bytes. Outside Linux, a priority is not for a single thread, so nothing is done.
fn be_patient() {
    #[cfg(target_os = "linux")]
    // If the priority cannot be changed, the copy is slower.
    let _ = rustix::process::setpriority_process(None, 19);
}

/// The blocks of a file, for threads to take.
#[derive(Debug)]
struct Blocks {
    file: Arc<File>,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The number of bytes of the file that are there.
    there: u64,
    /// For each block that was taken, the value of the subtree over it, once that is computed.
    values: Vec<Option<ChainingValue>>,
    failed: Option<io::ErrorKind>,
}

impl Blocks {
    fn new(file: Arc<File>, size: u64, there: u64) -> Self {
        let state = State { there, values: Vec::new(), failed: None };
        Self { file, size, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn have_grown(&self, there: u64) {
        let mut state = self.state.lock();
        // Threads wait for whole blocks.
        let more = there / BLOCK > state.there / BLOCK || there == self.size;
        state.there = there;
        if more {
            self.changed.notify_all();
        }
    }

    fn stop(&self) {
        self.state.lock().failed.get_or_insert(io::ErrorKind::Interrupted);
        self.changed.notify_all();
    }

    /// Computes the hash of all blocks with `threads` threads, the calling thread included.
    fn hash(&self, threads: usize, interrupt: &Interrupt) -> io::Result<Hash> {
        if self.size <= BLOCK {
            let mut hasher = Hasher::new();
            update(&mut hasher, &mut vec![0; PIECE], &self.file, 0, self.size)?;
            return Ok(hasher.finalize());
        }
        thread::scope(|scope| {
            for _ in 1..threads {
                // If a thread cannot be started, fewer threads do the work.
                let _ = thread::Builder::new().spawn_scoped(scope, || self.hash_until_the_end(interrupt));
            }
            self.hash_until_the_end(interrupt);
        });
        let mut state = self.state.lock();
        while state.failed.is_none() && state.values.contains(&None) {
            // Another thread still hashes one of the last blocks.
            self.changed.wait(&mut state);
        }
        if let Some(kind) = state.failed {
            return Err(kind.into());
        }
        let blocks: Vec<_> = state.values.iter().flatten().copied().collect();
        let left = left_subtree_len(self.size);
        let right = merge(&blocks, left, self.size - left);
        Ok(merge_subtrees_root(&merge(&blocks, 0, left), &right, Mode::Hash))
    }

    /// Hashes one block after the other until none is left or one fails.
    fn hash_until_the_end(&self, interrupt: &Interrupt) {
        let mut piece = vec![0; PIECE];
        while let Some((index, length)) = self.take() {
            let value = if interrupt.is_raised() {
                Err(io::ErrorKind::Interrupted.into())
            } else {
                self.subtree(&mut piece, index as u64 * BLOCK, length)
            };
            let mut state = self.state.lock();
            match value {
                Ok(value) => state.values[index] = Some(value),
                Err(error) => state.failed = state.failed.or(Some(error.kind())),
            }
            self.changed.notify_all();
        }
    }

    /// Waits until the bytes of the next block are there, and gives its index and length. `None` if
    /// there is no next block, or hashing has failed.
    fn take(&self) -> Option<(usize, u64)> {
        let mut state = self.state.lock();
        loop {
            let index = state.values.len();
            let start = index as u64 * BLOCK;
            if state.failed.is_some() || start >= self.size {
                return None;
            }
            let length = BLOCK.min(self.size - start);
            if start + length <= state.there {
                state.values.push(None);
                return Some((index, length));
            }
            self.changed.wait(&mut state);
        }
    }

    fn subtree(&self, piece: &mut [u8], offset: u64, length: u64) -> io::Result<ChainingValue> {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(offset);
        update(&mut hasher, piece, &self.file, offset, length)?;
        Ok(hasher.finalize_non_root())
    }
}

/// The value of the subtree over a range that begins where a block begins.
fn merge(blocks: &[ChainingValue], offset: u64, length: u64) -> ChainingValue {
    if length <= BLOCK {
        // There is a value for each block of the file.
        return usize::try_from(offset / BLOCK)
            .ok()
            .and_then(|index| blocks.get(index))
            .copied()
            .unwrap_or_default();
    }
    let left = left_subtree_len(length);
    let right = merge(blocks, offset + left, length - left);
    merge_subtrees_non_root(&merge(blocks, offset, left), &right, Mode::Hash)
}

fn update(
    hasher: &mut Hasher,
    piece: &mut [u8],
    file: &File,
    mut offset: u64,
    length: u64,
) -> io::Result<()> {
    let end = offset + length;
    while offset < end {
        let most = usize::try_from(end - offset).unwrap_or(PIECE).min(piece.len());
        match file.read_at(&mut piece[..most], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                hasher.update(&piece[..read]);
                offset += read as u64;
            }
            // The read was interrupted by a signal, which another thread handles.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The bytes of several blocks and of a part of one.
    fn content() -> Vec<u8> {
        let mut content = vec![0; 5 * BLOCK as usize + 1234];
        Hasher::new().update(b"seed").finalize_xof().fill(&mut content);
        content
    }

    #[test]
    fn it_is_the_hash_of_the_bytes_whatever_the_size() {
        let content = content();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let file = Arc::new(file);
        let block = BLOCK;
        let sizes = [0, 1, 1024, 1025, block - 1, block, block + 1, 2 * block, 2 * block + 1, 3 * block];
        for size in sizes.into_iter().chain([4 * block + 5, content.len() as u64]) {
            let hash = of_file(&file, size, &Interrupt::default()).unwrap();
            assert_eq!(hash, blake3::hash(&content[..size as usize]), "{size}");
        }
        let missing = of_file(&file, content.len() as u64 + 1, &Interrupt::default()).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::UnexpectedEof);
        let stopped = Interrupt::default();
        stopped.raise();
        assert_eq!(of_file(&file, 2 * block, &stopped).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn it_follows_a_file_that_grows() {
        let content = content();
        let size = content.len() as u64;
        let file = Arc::new(tempfile::tempfile().unwrap());
        let there = BLOCK + 5;
        file.write_all_at(&content[..there as usize], 0).unwrap();
        let growing = Growing::new(Arc::clone(&file), size, there);
        let mut offset = there;
        for piece in content[there as usize..].chunks(3_333_333) {
            file.write_all_at(piece, offset).unwrap();
            offset += piece.len() as u64;
            growing.has_grown(offset);
        }
        for _ in 0..2 {
            assert_eq!(growing.finish(&Interrupt::default()).unwrap(), blake3::hash(&content));
        }
    }

    #[test]
    fn what_is_cut_is_not_waited_for() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        drop(Growing::new(Arc::clone(&file), 10 * BLOCK, 5));
        // A size that a peer made up takes no memory.
        drop(Growing::new(Arc::clone(&file), u64::MAX, 5));
        // The file is shorter than `has_grown` says.
        let growing = Growing::new(file, 10 * BLOCK, 5);
        growing.has_grown(10 * BLOCK);
        assert_eq!(growing.finish(&Interrupt::default()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
