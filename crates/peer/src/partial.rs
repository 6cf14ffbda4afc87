//! Partial copies. A copy grows in a file of its own, in the folder of its target, and gets the
//! target's name when it is whole.

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use lonja_wire::get_part::{BLOCK, Head};
use rustix::fs::OFlags;
use tempfile::{NamedTempFile, TempPath};

use crate::{
    hash::{self, Growing, Tree},
    interrupt::Interrupt,
    locked,
};

/// How many bytes of the target's name are in the name of a partial copy, at most.
const NAME: usize = 100;

/// Why a copy cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A file has the target's name already, and may not be replaced.
    #[error("{} is there already; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// Another process copies the same file to the same target.
    #[error("{} is being copied by another process", .0.display())]
    Busy(PathBuf),
    /// The copy cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The path of the copy.
        path: PathBuf,
        /// Why the copy cannot be written.
        source: io::Error,
    },
}

/// Where a copy goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The path that the copy gets when it is whole.
    pub path: PathBuf,
    /// Whether the copy may replace a file that is at this path.
    pub overwrite: bool,
}

impl Target {
    /// Checks that the copy may have its path.
    ///
    /// # Errors
    /// [`KeepError::Exists`] if a file is there that may not be replaced.
    pub fn check(&self) -> Result<(), KeepError> {
        if !self.overwrite && self.path.symlink_metadata().is_ok() {
            Err(KeepError::Exists(self.path.clone()))
        } else {
            Ok(())
        }
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Begins a copy of a file whose size and hash are not known. The copy is removed unless it is
    /// finished.
    ///
    /// # Errors
    /// When a file is there that may not be replaced, or the folder cannot be written.
    pub fn begin(&self) -> Result<Unverified, KeepError> {
        self.check()?;
        let mut builder = tempfile::Builder::new();
        // A temporary file is for its owner alone; a copy gets the mode of other new files.
        builder.prefix(".lonja-").suffix(".part").permissions(Permissions::from_mode(0o666));
        let file = builder.tempfile_in(self.directory());
        Ok(Unverified { file: file.map_err(|source| self.write(source))? })
    }

    /// Begins a copy of a file whose hash is known, or goes on with an earlier partial copy. With a
    /// tree, each block is checked when the block is there. The partial copy stays for another time unless
    /// it is finished or discarded.
    ///
    /// # Errors
    /// When a file is there that may not be replaced, the copy cannot be written, or another
    /// process writes it.
    pub fn resume(&self, head: &Head, tree: Option<Arc<Tree>>) -> Result<Verified, KeepError> {
        self.check()?;
        let path = self.directory().join(part_name(&self.path, head));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        // Others may write in the folder too, so a link of theirs is not followed.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = locked::open(&options, &path).map_err(|source| self.write(source))?;
        let file = file.ok_or_else(|| KeepError::Busy(self.path.clone()))?;
        let length = file.metadata().map_err(|source| self.write(source))?.len();
        // Whoever had the partial copy may just have finished the copy.
        if let Err(error) = self.check() {
            if length == 0 {
                // If the file stays, it is in nobody's way.
                let _ = std::fs::remove_file(&path);
            }
            return Err(error);
        }
        let mut verified = Verified::new(path, file, length, *head, tree);
        if length > head.size {
            verified.cut(0).map_err(|source| self.write(source))?;
        }
        Ok(verified)
    }

    fn write(&self, source: io::Error) -> KeepError {
        KeepError::Write { path: self.path.clone(), source }
    }

    /// Gives a whole copy its name.
    fn name(&self, file: &File, temporary: TempPath) -> Result<(), (KeepError, TempPath)> {
        if let Err(source) = file.sync_all() {
            return Err((self.write(source), temporary));
        }
        let named = if self.overwrite {
            temporary.persist(&self.path)
        } else {
            temporary.persist_noclobber(&self.path)
        };
        named.map_err(|failed| match failed.error.kind() {
            io::ErrorKind::AlreadyExists => (KeepError::Exists(self.path.clone()), failed.path),
            _ => (self.write(failed.error), failed.path),
        })
    }
}

/// A partial copy of a file whose hash is not known, so that the copy cannot be checked.
#[derive(Debug)]
pub struct Unverified {
    file: NamedTempFile,
}

impl Unverified {
    /// The file that the copy grows in.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives the copy, which must be whole, its name.
    ///
    /// # Errors
    /// When the copy cannot be flushed or named.
    pub fn finish(self, target: &Target) -> Result<(), KeepError> {
        let (file, temporary) = self.file.into_parts();
        target.name(&file, temporary).map_err(|(error, _)| error)
    }
}

/// A partial copy that is checked before it gets its name.
#[derive(Debug)]
pub struct Verified {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
    head: Head,
    tree: Option<Arc<Tree>>,
    /// The hash of what is there; `None` if each block was checked before it was appended.
    hash: Option<Growing>,
}

impl Verified {
    /// A copy of the file that `head` describes, in an open file that has its first `length` bytes.
    #[must_use]
    pub fn new(path: PathBuf, file: File, length: u64, head: Head, tree: Option<Arc<Tree>>) -> Self {
        let file = Arc::new(file);
        let hash = Some(Growing::new(Arc::clone(&file), head.size, length, tree.clone()));
        Self { path, file, length, head, tree, hash }
    }

    /// Keeps the blocks that are right, up to the first that is not, and stops hashing: the blocks that are
    /// still to come are checked by whoever appends them. A copy without a tree stays as it is.
    ///
    /// # Errors
    /// When the copy cannot be read or cut, or the interrupt is raised.
    pub(crate) fn keep_right_blocks(&mut self, interrupt: &Interrupt) -> io::Result<()> {
        let Some(tree) = self.tree.clone() else { return Ok(()) };
        if self.head.size == 0 {
            // There is no block to check, so the hash is.
            return Ok(());
        }
        self.hash = None;
        let right = hash::right_blocks(&self.file, self.length, &self.head, &tree, interrupt)?;
        let length = (right * BLOCK).min(self.length);
        self.file.set_len(length)?;
        self.length = length;
        Ok(())
    }

    /// Once a block was found wrong: the first byte that is not proven right.
    pub(crate) fn wrong(&self) -> Option<u64> {
        Some(self.hash.as_ref()?.right_before_a_wrong_one()? * BLOCK)
    }

    /// Removes the bytes from `length` on.
    ///
    /// # Errors
    /// When the bytes cannot be removed.
    pub(crate) fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.length = length;
        self.hash = Some(Growing::new(Arc::clone(&self.file), self.head.size, length, self.tree.clone()));
        Ok(())
    }

    /// The number of bytes that are there.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends bytes, and leaves out what is past the size of the file that is copied.
    ///
    /// # Errors
    /// When the bytes cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = usize::try_from(self.missing()).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        self.file.write_all_at(bytes, self.length)?;
        self.has_grown(bytes.len() as u64);
        Ok(())
    }

    /// The file that the copy grows in, behind the bytes that are there.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Counts `bytes` bytes that were written to [`Self::file`] behind the bytes that were there.
    pub fn has_grown(&mut self, bytes: u64) {
        self.length += bytes;
        if let Some(hash) = &self.hash {
            hash.has_grown(self.length);
        }
    }

    /// Whether every byte is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.length == self.head.size
    }

    /// The number of bytes that are missing.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.head.size - self.length
    }

    /// Whether the copy is whole and has the hash that was announced.
    ///
    /// # Errors
    /// When the copy cannot be read, or hashing is interrupted.
    pub fn is_right(&self, interrupt: &Interrupt) -> io::Result<bool> {
        if !self.is_whole() {
            return Ok(false);
        }
        let Some(hash) = &self.hash else { return Ok(true) };
        match hash.finish(interrupt) {
            Ok(hash) => Ok(hash == blake3::Hash::from_bytes(self.head.hash)),
            Err(_) if hash.right_before_a_wrong_one().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the partial copy.
    pub fn discard(self) {
        // If the file stays, the next attempt finds again that it is wrong.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Gives the copy, which must be right, its name.
    ///
    /// # Errors
    /// When the copy cannot be flushed or named.
    pub fn finish(self, target: &Target) -> Result<(), KeepError> {
        let temporary = TempPath::try_from_path(&self.path).map_err(|source| target.write(source))?;
        target.name(&self.file, temporary).map_err(|(error, temporary)| {
            // The copy took long to come: it stays, so that another attempt may give it its name.
            let _ = temporary.keep();
            error
        })
    }
}

/// The name of a partial copy. It contains the hash, so that another file of the same name has
/// another partial copy.
fn part_name(target: &Path, head: &Head) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut end = name.len().min(NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}.{:.16}.part", &name[..end], blake3::Hash::from_bytes(head.hash).to_hex())
}

/// Whether a file of this name is a partial copy.
#[must_use]
pub fn is_part(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".part")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn head(content: &[u8]) -> Head {
        Head { size: content.len() as u64, modified: 0, hash: *blake3::hash(content).as_bytes() }
    }

    fn target(directory: &TempDir, overwrite: bool) -> Target {
        Target { path: directory.path().join("copy"), overwrite }
    }

    fn names(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_copy_goes_on_where_it_was_cut() {
        let directory = TempDir::new().unwrap();
        let target = target(&directory, false);
        let content = b"hello world";
        let mut part = target.resume(&head(content), None).unwrap();
        part.append(&content[..4]).unwrap();
        assert!(matches!(target.resume(&head(content), None), Err(KeepError::Busy(_))));
        drop(part);
        let mut part = target.resume(&head(content), None).unwrap();
        assert_eq!(part.length(), 4);
        part.append(&content[4..]).unwrap();
        assert!(part.is_right(&Interrupt::default()).unwrap());
        part.finish(&target).unwrap();
        assert_eq!(names(&directory), ["copy"]);
        assert_eq!(fs::read(&target.path).unwrap(), content);
    }

    #[test]
    fn wrong_bytes_are_found_and_cleared() {
        let directory = TempDir::new().unwrap();
        let target = target(&directory, false);
        let mut part = target.resume(&head(b"hello"), None).unwrap();
        part.append(b"hellO and more").unwrap();
        assert!(part.is_whole() && !part.is_right(&Interrupt::default()).unwrap());
        part.cut(0).unwrap();
        part.append(b"hello").unwrap();
        assert!(part.is_right(&Interrupt::default()).unwrap());
        part.discard();
        assert!(names(&directory).is_empty());
    }

    #[test]
    fn nothing_is_replaced_unless_it_may_be() {
        let directory = TempDir::new().unwrap();
        let careful = target(&directory, false);
        let copy = careful.begin().unwrap();
        copy.file().write_all_at(b"new", 0).unwrap();
        // The file appears while the copy is under way.
        fs::write(&careful.path, "old").unwrap();
        assert!(matches!(copy.finish(&careful), Err(KeepError::Exists(_))));
        assert!(matches!(careful.begin(), Err(KeepError::Exists(_))));
        assert!(matches!(careful.resume(&head(b"new"), None), Err(KeepError::Exists(_))));
        assert_eq!(fs::read(&careful.path).unwrap(), b"old");
        let forced = target(&directory, true);
        let copy = forced.begin().unwrap();
        copy.file().write_all_at(b"new", 0).unwrap();
        copy.finish(&forced).unwrap();
        assert_eq!(fs::read(&careful.path).unwrap(), b"new");
        assert_eq!(names(&directory), ["copy"]);
    }
}
