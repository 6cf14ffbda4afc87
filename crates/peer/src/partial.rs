//! The file that a copy grows in, beside the one that it becomes.

use std::{
    fs::{File, Permissions, TryLockError},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use lonja_wire::get_part::Head;
use rustix::fs::OFlags;
use tempfile::{NamedTempFile, TempPath};

use crate::{hash::Growing, interrupt::Interrupt};

/// Bytes of the target's name in that of a partial copy, at most.
const NAME: usize = 100;

/// Why a copy cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file is there already.
    #[error("{} is there already; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// Another process copies the same.
    #[error("{} is being copied by another process", .0.display())]
    Busy(PathBuf),
    /// It cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where a copy goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name that it gets when it is whole.
    pub path: PathBuf,
    /// Whether a file that has the name now gives way.
    pub overwrite: bool,
}

impl Target {
    /// Whether the copy may have its name.
    ///
    /// # Errors
    /// [`KeepError::Exists`] if it may not.
    pub fn check(&self) -> Result<(), KeepError> {
        match !self.overwrite && self.path.symlink_metadata().is_ok() {
            true => Err(KeepError::Exists(self.path.clone())),
            false => Ok(()),
        }
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Begins a copy of which nothing is known but the bytes to come. It goes away unless
    /// it is finished.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn begin(&self) -> Result<Unverified, KeepError> {
        self.check()?;
        let mut builder = tempfile::Builder::new();
        // As any other file is made, not for its owner alone.
        builder.prefix(".lonja-").suffix(".part").permissions(Permissions::from_mode(0o666));
        let file = builder.tempfile_in(self.directory());
        Ok(Unverified { file: file.map_err(|source| self.write(source))? })
    }

    /// Begins, or goes on with, a copy of a file of which the hash is known. What is there
    /// stays for another time unless it is finished or found wrong.
    ///
    /// # Errors
    /// When it cannot be written there, or another process does so.
    pub fn resume(&self, head: &Head) -> Result<Verified, KeepError> {
        self.check()?;
        let path = self.directory().join(part_name(&self.path, head));
        let open = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            // Others may write in that directory too.
            let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path)?;
            match file.try_lock() {
                Ok(()) => {
                    let length = file.metadata()?.len();
                    Ok(Some((file, length)))
                }
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        let file = open().map_err(|source| self.write(source))?;
        let (file, length) = file.ok_or_else(|| KeepError::Busy(self.path.clone()))?;
        let mut verified = Verified::new(path, file, length, *head);
        if length > head.size {
            verified.clear().map_err(|source| self.write(source))?;
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
        let named = match self.overwrite {
            true => temporary.persist(&self.path),
            false => temporary.persist_noclobber(&self.path),
        };
        named.map_err(|failed| match failed.error.kind() {
            io::ErrorKind::AlreadyExists => (KeepError::Exists(self.path.clone()), failed.path),
            _ => (self.write(failed.error), failed.path),
        })
    }
}

/// A copy that nothing can be checked against.
#[derive(Debug)]
pub struct Unverified {
    file: NamedTempFile,
}

impl Unverified {
    /// Where it grows.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The copy is whole: it gets its name.
    ///
    /// # Errors
    /// When it cannot be flushed or named.
    pub fn finish(self, target: &Target) -> Result<(), KeepError> {
        let (file, temporary) = self.file.into_parts();
        target.name(&file, temporary).map_err(|(error, _)| error)
    }
}

/// A copy that is checked before it gets its name.
#[derive(Debug)]
pub struct Verified {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
    head: Head,
    hash: Growing,
}

impl Verified {
    /// A copy in an open file of which so many bytes are there.
    #[must_use]
    pub fn new(path: PathBuf, file: File, length: u64, head: Head) -> Self {
        let file = Arc::new(file);
        let hash = Growing::new(Arc::clone(&file), head.size, length);
        Self { path, file, length, head, hash }
    }

    /// Bytes that are there.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends bytes; what is past the size is left out.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = usize::try_from(self.missing()).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        self.file.write_all_at(bytes, self.length)?;
        self.has_grown(bytes.len() as u64);
        Ok(())
    }

    /// Where it grows, behind the bytes that are there.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// So many more bytes have been written behind those that were there.
    pub fn has_grown(&mut self, bytes: u64) {
        self.length += bytes;
        self.hash.has_grown(self.length);
    }

    /// Whether every byte is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.length == self.head.size
    }

    /// Bytes that are missing.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.head.size - self.length
    }

    /// Whether what is there is what was announced.
    ///
    /// # Errors
    /// When it cannot be read, or that is interrupted.
    pub fn is_right(&self, interrupt: &Interrupt) -> io::Result<bool> {
        Ok(self.is_whole() && self.hash.finish(interrupt)? == blake3::Hash::from_bytes(self.head.hash))
    }

    /// Forgets what is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        self.hash = Growing::new(Arc::clone(&self.file), self.head.size, 0);
        Ok(())
    }

    /// Removes it.
    pub fn discard(self) {
        // If it stays, the next copy finds it wrong again.
        let _ = std::fs::remove_file(&self.path);
    }

    /// The copy is right: it gets its name.
    ///
    /// # Errors
    /// When it cannot be flushed or named.
    pub fn finish(self, target: &Target) -> Result<(), KeepError> {
        let temporary = TempPath::try_from_path(&self.path).map_err(|source| target.write(source))?;
        target.name(&self.file, temporary).map_err(|(error, temporary)| {
            // It took long to come here: it may be named by another attempt.
            let _ = temporary.keep();
            error
        })
    }
}

/// The name of a partial copy: another file of the same name has another.
fn part_name(target: &Path, head: &Head) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut end = name.len().min(NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}.{:.16}.part", &name[..end], blake3::Hash::from_bytes(head.hash).to_hex())
}

/// Whether a file is a partial copy.
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
        let mut part = target.resume(&head(content)).unwrap();
        part.append(&content[..4]).unwrap();
        assert!(matches!(target.resume(&head(content)), Err(KeepError::Busy(_))));
        drop(part);
        let mut part = target.resume(&head(content)).unwrap();
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
        let mut part = target.resume(&head(b"hello")).unwrap();
        part.append(b"hellO and more").unwrap();
        assert!(part.is_whole() && !part.is_right(&Interrupt::default()).unwrap());
        part.clear().unwrap();
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
        // It appears while the copy is under way.
        fs::write(&careful.path, "old").unwrap();
        assert!(matches!(copy.finish(&careful), Err(KeepError::Exists(_))));
        assert!(matches!(careful.begin(), Err(KeepError::Exists(_))));
        assert!(matches!(careful.resume(&head(b"new")), Err(KeepError::Exists(_))));
        assert_eq!(fs::read(&careful.path).unwrap(), b"old");
        let forced = target(&directory, true);
        let copy = forced.begin().unwrap();
        copy.file().write_all_at(b"new", 0).unwrap();
        copy.finish(&forced).unwrap();
        assert_eq!(fs::read(&careful.path).unwrap(), b"new");
        assert_eq!(names(&directory), ["copy"]);
    }
}
