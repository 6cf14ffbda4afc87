//! Files that one process has at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// Opens the file at a path and locks it; `None` if another process has the file locked.
///
/// # Errors
/// When the file cannot be opened or locked.
pub(crate) fn open(options: &OpenOptions, path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = options.open(path)?;
        match try_lock(&file, path)? {
            Lock::Had => return Ok(Some(file)),
            Lock::Busy => return Ok(None),
            Lock::Moved => {}
        }
    }
}

/// What came of an attempt to lock a file.
#[derive(Debug, PartialEq, Eq)]
enum Lock {
    /// This process has the file.
    Had,
    /// Another process has the file.
    Busy,
    /// The process that had the file has moved or removed the file since the file was opened, so another
    /// process would not find this lock.
    Moved,
}

fn try_lock(file: &File, path: &Path) -> io::Result<Lock> {
    match file.try_lock() {
        Ok(()) if is_at(file, path) => Ok(Lock::Had),
        Ok(()) => Ok(Lock::Moved),
        Err(TryLockError::WouldBlock) => Ok(Lock::Busy),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), path.symlink_metadata()) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_that_was_moved_before_it_was_locked_is_not_had() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a");
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let first = open(&options, &path).unwrap().unwrap();
        assert!(open(&options, &path).unwrap().is_none());
        let (second, third) = (options.open(&path).unwrap(), options.open(&path).unwrap());
        assert_eq!(try_lock(&second, &path).unwrap(), Lock::Busy);
        fs::rename(&path, directory.path().join("b")).unwrap();
        drop(first);
        assert_eq!(try_lock(&second, &path).unwrap(), Lock::Moved);
        drop(second);
        let new = open(&options, &path).unwrap().unwrap();
        assert_eq!(try_lock(&third, &path).unwrap(), Lock::Moved);
        assert!(is_at(&new, &path) && !is_at(&third, &path));
    }
}
