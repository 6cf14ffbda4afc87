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
use lonja_wire::get_part::{BLOCK, HASH, Head};
use parking_lot::{Condvar, Mutex};

use crate::interrupt::Interrupt;

/// The largest number of bytes that are read at a time. A processor's cache holds several such
/// pieces.
const PIECE: usize = 64 << 10;
/// The largest number of threads that hash one file.
const THREADS: usize = 8;

/// What each block of a file is. A block can be checked without the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The hash of the whole file.
    pub(crate) hash: Hash,
    /// The value of the subtree over each block; none if the file has only one block.
    values: Vec<ChainingValue>,
}

impl Tree {
    /// Reads the values of the blocks of the file that `head` describes. `None` if they are not of a file
    /// with that hash. A file of one block has no values.
    #[must_use]
    pub(crate) fn read(head: &Head, values: &[u8]) -> Option<Self> {
        let (values, rest) = values.as_chunks::<HASH>();
        let is_complete = rest.is_empty() && values.len() as u64 == head.blocks();
        let hash = Hash::from_bytes(head.hash);
        let is_right = if values.is_empty() { head.size <= BLOCK } else { root(values, head.size) == hash };
        (is_complete && is_right).then(|| Self { hash, values: values.to_vec() })
    }

    /// The values of all blocks, one after the other.
    pub(crate) fn values(&self) -> &[u8] {
        self.values.as_flattened()
    }

    /// Whether these bytes are the block with this number, counted from 0.
    pub(crate) fn holds(&self, block: u64, bytes: &[u8]) -> bool {
        if self.values.is_empty() {
            return block == 0 && blake3::hash(bytes) == self.hash;
        }
        if bytes.is_empty() || bytes.len() as u64 > BLOCK || block >= self.values.len() as u64 {
            return false;
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(block * BLOCK);
        hasher.update(bytes);
        self.is_value(block, &hasher.finalize_non_root())
    }

    fn is_value(&self, block: u64, value: &ChainingValue) -> bool {
        usize::try_from(block).is_ok_and(|block| self.values.get(block) == Some(value))
    }
}

/// The hash of a file of several blocks.
fn root(blocks: &[ChainingValue], size: u64) -> Hash {
    let left = left_subtree_len(size);
    let right = merge(blocks, left, size - left);
    merge_subtrees_root(&merge(blocks, 0, left), &right, Mode::Hash)
}

/// Computes the hash of the first `size` bytes of a file, and the values of its blocks.
///
/// # Errors
/// When the bytes cannot be read or are not all there, or the interrupt is raised.
pub(crate) fn of_file(file: &Arc<File>, size: u64, interrupt: &Interrupt) -> io::Result<Tree> {
    Blocks::new(Arc::clone(file), size, size, None).hash(threads(), interrupt)
}

/// The number of blocks, from the first on, that are right in the first `there` bytes of a file. A block
/// that is not whole is not right.
///
/// # Errors
/// When the bytes cannot be read, or the interrupt is raised.
pub(crate) fn right_blocks(
    file: &Arc<File>,
    there: u64,
    head: &Head,
    tree: &Arc<Tree>,
    interrupt: &Interrupt,
) -> io::Result<u64> {
    if tree.values.is_empty() {
        // A file of one block is copied again sooner than the block is checked.
        return Ok(0);
    }
    let is_whole = there == head.size;
    let blocks = if is_whole { there.div_ceil(BLOCK) } else { there / BLOCK };
    let end = if is_whole { there } else { blocks * BLOCK };
    let checked = Blocks::new(Arc::clone(file), end, end, Some(Arc::clone(tree)));
    checked.hash_with(threads(), interrupt);
    let state = checked.state.lock();
    state.failed.map_or_else(|| Ok(state.proven()), |kind| Err(kind.into()))
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
    /// Begins to hash a file that grows to `size` bytes, of which `there` bytes are there. With a tree,
    /// each block is compared with what it should be.
    pub(crate) fn new(file: Arc<File>, size: u64, there: u64, tree: Option<Arc<Tree>>) -> Self {
        let blocks = Arc::new(Blocks::new(file, size, there, tree));
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

    /// Once a block was found wrong: the number of blocks, from the first on, that are proven right.
    pub(crate) fn right_before_a_wrong_one(&self) -> Option<u64> {
        let state = self.blocks.state.lock();
        state.wrong.map(|_| state.proven())
    }

    /// The hash of the file, of which all bytes must be there.
    ///
    /// # Errors
    /// When [`of_file`] would fail, or a block is wrong.
    pub(crate) fn finish(&self, interrupt: &Interrupt) -> io::Result<Hash> {
        let more = threads() - usize::from(self.follower.is_some());
        Ok(self.blocks.hash(more.max(1), interrupt)?.hash)
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
    /// What the blocks should be, if that is known.
    tree: Option<Arc<Tree>>,
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
    /// The first of the blocks that were found wrong. No block behind it is hashed any more.
    wrong: Option<usize>,
}

impl State {
    /// The number of blocks, from the first on, that have been hashed. If blocks are compared, these are right.
    fn proven(&self) -> u64 {
        self.values.iter().take_while(|value| value.is_some()).count() as u64
    }

    /// Whether a thread still hashes one of the blocks that were taken. What is behind a wrong block does not
    /// count.
    fn is_at_work(&self) -> bool {
        let counted = self.wrong.unwrap_or(self.values.len());
        self.failed.is_none() && self.values[..counted].contains(&None)
    }
}

impl Blocks {
    fn new(file: Arc<File>, size: u64, there: u64, tree: Option<Arc<Tree>>) -> Self {
        let state = State { there, values: Vec::new(), failed: None, wrong: None };
        Self { file, size, tree, state: Mutex::new(state), changed: Condvar::new() }
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
    fn hash(&self, threads: usize, interrupt: &Interrupt) -> io::Result<Tree> {
        if self.size <= BLOCK {
            let mut hasher = Hasher::new();
            update(&mut hasher, &mut vec![0; PIECE], &self.file, 0, self.size)?;
            return Ok(Tree { hash: hasher.finalize(), values: Vec::new() });
        }
        self.hash_with(threads, interrupt);
        let state = self.state.lock();
        let wrong = state.wrong.map(|_| io::ErrorKind::InvalidData);
        if let Some(kind) = state.failed.or(wrong) {
            return Err(kind.into());
        }
        let values: Vec<_> = state.values.iter().flatten().copied().collect();
        Ok(Tree { hash: root(&values, self.size), values })
    }

    /// Hashes all blocks with `threads` threads, the calling thread included.
    fn hash_with(&self, threads: usize, interrupt: &Interrupt) {
        thread::scope(|scope| {
            for _ in 1..threads {
                // If a thread cannot be started, fewer threads do the work.
                let _ = thread::Builder::new().spawn_scoped(scope, || self.hash_until_the_end(interrupt));
            }
            self.hash_until_the_end(interrupt);
        });
        let mut state = self.state.lock();
        while state.is_at_work() {
            // The follower is the slower one.
            self.changed.wait(&mut state);
        }
    }

    /// Hashes one block after the other until none is left, one is wrong, or hashing has failed.
    fn hash_until_the_end(&self, interrupt: &Interrupt) {
        let mut piece = vec![0; PIECE];
        while let Some((index, length)) = self.take() {
            let value = if interrupt.is_raised() {
                Err(io::ErrorKind::Interrupted.into())
            } else {
                self.subtree(&mut piece, index as u64 * BLOCK, length)
            };
            self.have_hashed(index, value);
        }
    }

    fn have_hashed(&self, index: usize, value: io::Result<ChainingValue>) {
        let mut state = self.state.lock();
        match value {
            Ok(value) if self.tree.as_ref().is_some_and(|tree| !tree.is_value(index as u64, &value)) => {
                state.wrong = Some(state.wrong.map_or(index, |wrong| wrong.min(index)));
            }
            Ok(value) => state.values[index] = Some(value),
            Err(error) => state.failed = state.failed.or(Some(error.kind())),
        }
        self.changed.notify_all();
    }

    /// Waits until the bytes of the next block are there, and gives the index and the length of the block.
    /// `None` if there is no next block, a block was found wrong, or hashing has failed.
    fn take(&self) -> Option<(usize, u64)> {
        let mut state = self.state.lock();
        loop {
            let index = state.values.len();
            let start = index as u64 * BLOCK;
            if state.failed.is_some() || state.wrong.is_some() || start >= self.size {
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
            let tree = of_file(&file, size, &Interrupt::default()).unwrap();
            assert_eq!(tree.hash, blake3::hash(&content[..size as usize]), "{size}");
            let head = Head { size, modified: 0, hash: *tree.hash.as_bytes() };
            assert_eq!(Tree::read(&head, tree.values()).as_ref(), Some(&tree), "{size}");
            for (number, block) in content[..size as usize].chunks(BLOCK as usize).enumerate() {
                assert!(tree.holds(number as u64, block), "{number} of {size}");
                assert!(!tree.holds(number as u64 + 1, block) && !tree.holds(number as u64, &block[1..]));
            }
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
        let growing = Growing::new(Arc::clone(&file), size, there, None);
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
        drop(Growing::new(Arc::clone(&file), 10 * BLOCK, 5, None));
        // A size that a peer made up takes no memory.
        drop(Growing::new(Arc::clone(&file), u64::MAX, 5, None));
        // The file is shorter than `has_grown` says.
        let growing = Growing::new(file, 10 * BLOCK, 5, None);
        growing.has_grown(10 * BLOCK);
        assert_eq!(growing.finish(&Interrupt::default()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn slower_threads_prove_the_blocks_before_a_wrong_one() {
        let mut content = content();
        let size = content.len() as u64;
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(&content, 0).unwrap();
        let tree = Arc::new(of_file(&file, size, &Interrupt::default()).unwrap());
        content[BLOCK as usize] ^= 1;
        file.write_all_at(&content, 0).unwrap();
        let blocks = Blocks::new(file, size, size, Some(tree));
        let (first, length) = blocks.take().unwrap();
        thread::scope(|scope| {
            let others = scope.spawn(|| {
                blocks.hash_with(1, &Interrupt::default());
                blocks.state.lock().proven()
            });
            let mut state = blocks.state.lock();
            while state.wrong.is_none() {
                blocks.changed.wait(&mut state);
            }
            drop(state);
            blocks.have_hashed(first, blocks.subtree(&mut vec![0; PIECE], 0, length));
            assert_eq!(others.join().unwrap(), 1);
        });
    }

    #[test]
    fn a_wrong_block_is_found_and_those_before_are_right() {
        let mut content = content();
        let size = content.len() as u64;
        let head = Head { size, modified: 0, hash: *blake3::hash(&content).as_bytes() };
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(&content, 0).unwrap();
        let tree = Arc::new(of_file(&file, size, &Interrupt::default()).unwrap());
        let right = |there| right_blocks(&file, there, &head, &tree, &Interrupt::default()).unwrap();
        assert_eq!([0, BLOCK - 1, BLOCK, 3 * BLOCK + 5, size - 1, size].map(right), [0, 0, 1, 3, 5, 6]);
        content[3 * BLOCK as usize + 7] ^= 1;
        file.write_all_at(&content, 0).unwrap();
        assert_eq!([BLOCK, 3 * BLOCK + 8, size].map(right), [1, 3, 3]);
        let growing = Growing::new(Arc::clone(&file), size, size, Some(Arc::clone(&tree)));
        assert_eq!(growing.finish(&Interrupt::default()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(growing.right_before_a_wrong_one(), Some(3));
        // Values of another file are not taken.
        let mut values = tree.values().to_vec();
        values[5] ^= 1;
        assert_eq!(Tree::read(&head, &values), None);
        assert_eq!(Tree::read(&head, &tree.values()[32..]), None);
        assert_eq!(Tree::read(&head, &[]), None, "a file of several blocks needs its values");
    }
}
