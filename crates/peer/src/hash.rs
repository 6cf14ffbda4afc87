//! The BLAKE3 hash of a file, computed on all processors.
//!
//! The hash is that of a binary tree over the file's bytes. Its subtrees over aligned
//! blocks do not depend on each other: threads take one after the other, so that the file
//! is still read from front to back.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use blake3::{
    Hash, Hasher,
    hazmat::{
        ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
    },
};

use crate::interrupt::Interrupt;

/// Bytes of a block: a power of two.
const BLOCK: u64 = 16 << 20;
/// Bytes that are read at a time.
const PIECE: usize = 512 << 10;
/// Threads, at most.
const THREADS: usize = 8;

/// The hash of the first `size` bytes.
///
/// # Errors
/// When they cannot be read, are not all there, or it is interrupted.
pub(crate) fn of_file(file: &File, size: u64, interrupt: &Interrupt) -> io::Result<Hash> {
    if size <= BLOCK {
        let mut hasher = Hasher::new();
        update(&mut hasher, &mut vec![0; PIECE], file, 0, size)?;
        return Ok(hasher.finalize());
    }
    let blocks = subtrees(file, size, interrupt)?;
    let left = left_subtree_len(size);
    Ok(merge_subtrees_root(&merge(&blocks, 0, left), &merge(&blocks, left, size - left), Mode::Hash))
}

/// The value of the subtree over each block.
fn subtrees(file: &File, size: u64, interrupt: &Interrupt) -> io::Result<Vec<ChainingValue>> {
    let count = size.div_ceil(BLOCK);
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS));
    let next = AtomicU64::new(0);
    let some_of_them = || -> io::Result<Vec<(u64, ChainingValue)>> {
        let mut values = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= count {
                return Ok(values);
            }
            if interrupt.is_raised() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let offset = block * BLOCK;
            let mut hasher = Hasher::new();
            hasher.set_input_offset(offset);
            update(&mut hasher, &mut piece, file, offset, BLOCK.min(size - offset))?;
            values.push((block, hasher.finalize_non_root()));
        }
    };
    let mut all = thread::scope(|scope| {
        // Where no thread can be had, fewer do it.
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, some_of_them).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut all = some_of_them()?;
        for other in others {
            // It does not panic.
            all.extend(other.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?);
        }
        io::Result::Ok(all)
    })?;
    all.sort_unstable_by_key(|(block, _)| *block);
    Ok(all.into_iter().map(|(_, value)| value).collect())
}

/// The value of the subtree over a range that begins at a block.
fn merge(blocks: &[ChainingValue], offset: u64, length: u64) -> ChainingValue {
    if length <= BLOCK {
        // There is one for each block of the file.
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
            // A signal that is for another thread.
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

    #[test]
    fn it_is_the_hash_of_the_bytes_whatever_the_size() {
        let mut content = vec![0; 5 * BLOCK as usize + 1234];
        Hasher::new().update(b"seed").finalize_xof().fill(&mut content);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
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
}
