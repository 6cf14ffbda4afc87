//! The files under a journal. Tests put a disk in their place that loses, tears and refuses what it
//! was given.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    path::Path,
};

use redb::{Builder, Database, DatabaseError, StorageBackend, backends::FileBackend};

/// What a journal asks of the disk that holds its files.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Makes a directory and those above it, unless they are there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes durable which files a directory has.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing, and makes it if it is not there.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;
    /// Opens a file of tables, and makes it if it is not there. One process at a time may have the file
    /// open.
    fn open_tables(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system of the machine.
#[derive(Debug)]
pub(crate) struct FileSystem;

impl Disk for FileSystem {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn open_tables(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
        builder.create(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}
