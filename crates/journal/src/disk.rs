//! The files under a journal. Tests put a disk in their place that loses, tears and refuses what it
//! was given.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use redb::{Builder, Database, DatabaseError, StorageBackend, backends::FileBackend};

/// What a journal asks of the disk that holds its files.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Whether the files are in memory, so that nothing waits for them.
    fn is_in_memory(&self) -> bool;
    /// Makes a directory and those above it, unless they are there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes durable which files a directory has.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing, and makes it if it is not there.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;
    /// Opens a file of tables, and makes it if it is not there. One process at a time may have the file
    /// open.
    fn open_tables(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError>;
    /// Empties a file if its content is worthless, and says whether it did. Nothing is done to a file that
    /// is longer than `longest` bytes, or that another process has open as tables.
    fn empty(&self, path: &Path, longest: u64, is_worthless: fn(&[u8]) -> bool) -> io::Result<bool>;
    /// Removes a file. Until the directory is synced, a cut of the power may bring the file back.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system of the machine. What is made is for its owner alone: the files have what peers did, and from
/// which address.
#[derive(Debug)]
pub(crate) struct FileSystem;

impl Disk for FileSystem {
    fn is_in_memory(&self) -> bool {
        false
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(FileBackend::new(file(path)?).map_err(io::Error::other)?))
    }

    fn open_tables(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
        builder.create_with_backend(FileBackend::new(file(path)?)?)
    }

    fn empty(&self, path: &Path, longest: u64, is_worthless: fn(&[u8]) -> bool) -> io::Result<bool> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        // redb takes the same lock (flock) on a file that it opens, first of all.
        file.try_lock()?;
        if file.metadata()?.len() > longest {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let worthless = is_worthless(&bytes);
        if worthless {
            file.set_len(0)?;
        }
        Ok(worthless)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

fn file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_is_emptied_only_if_it_is_short_and_nobody_has_it_open() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("tables");
        let tables = FileSystem.open_tables(&Builder::new(), &path).unwrap();
        assert!(FileSystem.empty(&path, u64::MAX, |_| true).is_err(), "the file is open");
        drop(tables);
        let length = fs::metadata(&path).unwrap().len();
        assert!(!FileSystem.empty(&path, length - 1, |_| true).unwrap(), "the file is too long");
        assert!(!FileSystem.empty(&path, length, |_| false).unwrap(), "the content is worth something");
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
        assert!(FileSystem.empty(&path, length, |_| true).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    /// Bug: every account of the machine could copy the state, and read the audit from the copy.
    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("data");
        FileSystem.create_directory(&data).unwrap();
        FileSystem.open(&data.join("segment")).unwrap();
        FileSystem.open_tables(&Builder::new(), &data.join("tables")).unwrap();
        for path in [&data, &data.join("segment"), &data.join("tables")] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
    }
}
