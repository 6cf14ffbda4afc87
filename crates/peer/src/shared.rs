//! What a user shares: published names, and the files of these names below a directory.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt as _},
};
use lonja_wire::Filename;
use parking_lot::{Condvar, Mutex};
use rustix::{fs::OFlags, io::Errno};

use crate::{
    hash::{self, Tree},
    interrupt::Interrupt,
    names::{composed, is_same},
};

/// How long a caller waits for a hash before it is told to ask again.
const HASH_WAIT: Duration = Duration::from_secs(2);
/// The largest number of files that wait to be hashed, the file that is being hashed included.
const HASHES: usize = 8;

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is not published, not there, not a regular file, or not below the directory.
    #[error("no such file is published")]
    NoFile,
    /// The file cannot be opened or read at the moment.
    #[error(transparent)]
    Io(io::Error),
}

/// A directory of which some files are published. No other file of the directory is served, and no
/// file outside, whatever links are made in the directory meanwhile.
#[derive(Debug)]
pub struct SharedFiles {
    directory: Dir,
    /// The published files by their composed names, each with its hash if that was asked for.
    published: Mutex<HashMap<String, Option<Hashed>>>,
    /// Gives the published names, if processes other than this one publish.
    list: Option<List>,
    hashed: Condvar,
    hashers: Mutex<Vec<JoinHandle<()>>>,
    /// The lock that is held while a hash is computed, so that one file is hashed at a time.
    one: Mutex<()>,
}

/// A function that gives the names of all published files.
struct List(Box<dyn Fn() -> Vec<String> + Send + Sync>);

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("List")
    }
}

/// The hash of a file in the state that `stamp` identifies.
#[derive(Debug, Clone)]
struct Hashed {
    stamp: Stamp,
    /// The hash, and what each block is; `None` while that is being computed.
    tree: Option<Arc<Tree>>,
}

/// What changes when a file changes: its inode, its size, or the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file that was opened to be served.
#[derive(Debug)]
pub struct Opened {
    /// The open file.
    pub file: File,
    /// Size of the file when it was opened, in bytes.
    pub size: u64,
    /// When the file was last modified, in seconds since 1970.
    pub modified: i64,
    stamp: Stamp,
}

impl SharedFiles {
    /// Opens a directory, of which no file is published yet.
    ///
    /// # Errors
    /// When the path is no directory, or the directory cannot be opened.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let directory = Dir::open_ambient_dir(directory, ambient_authority())?;
        Ok(Self {
            directory,
            published: Mutex::default(),
            list: None,
            hashed: Condvar::new(),
            hashers: Mutex::default(),
            one: Mutex::default(),
        })
    }

    /// Lets `list` say what is published, each time that a file is asked for.
    #[must_use]
    pub(crate) fn following(self, list: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { list: Some(List(Box::new(list))), ..self }
    }

    /// The directory below which the files are.
    #[must_use]
    pub fn directory(&self) -> &Dir {
        &self.directory
    }

    /// Publishes a file, so that it is served. The file need not be there yet.
    pub fn publish(&self, filename: &Filename) {
        self.published.lock().entry(composed(filename.as_str())).or_default();
    }

    /// Stops serving a file.
    pub fn withdraw(&self, filename: &str) {
        self.published.lock().remove(&composed(filename));
    }

    /// Stops serving all files.
    pub fn withdraw_all(&self) {
        self.published.lock().clear();
    }

    /// Opens a published file.
    ///
    /// # Errors
    /// When the file may not be served, or cannot be opened.
    pub fn open(&self, filename: &Filename) -> Result<Opened, OpenError> {
        let mut published = self.published.lock();
        if let Some(List(list)) = &self.list {
            let listed: HashSet<_> = list().iter().map(|name| composed(name)).collect();
            published.retain(|name, _| listed.contains(name));
            for name in listed {
                published.entry(name).or_default();
            }
        }
        if !published.contains_key(&composed(filename.as_str())) {
            return Err(OpenError::NoFile);
        }
        drop(published);
        let path = Path::new(filename.as_str());
        match self.open_below(path) {
            Err(OpenError::NoFile) if !filename.as_str().is_ascii() => {
                self.open_below(&self.spelled_on_disk(path).ok_or(OpenError::NoFile)?)
            }
            opened => opened,
        }
    }

    /// Finds the path on disk whose parts are canonically equal to the parts of `path`, which is
    /// not there.
    fn spelled_on_disk(&self, path: &Path) -> Option<PathBuf> {
        let mut found = PathBuf::new();
        for part in path.components() {
            let below = if found.as_os_str().is_empty() { Path::new(".") } else { &found };
            let part = part.as_os_str().to_str()?;
            let mut names = self.directory.read_dir(below).ok()?.flatten().map(|entry| entry.file_name());
            let name = names.find(|name| name.to_str().is_some_and(|name| is_same(name, part)))?;
            found.push(name);
        }
        Some(found)
    }

    /// Opens a file, published or not, that is below the directory.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be opened.
    pub fn open_below(&self, path: &Path) -> Result<Opened, OpenError> {
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(OpenError::NoFile);
        }
        let mut options = OpenOptions::new();
        options.read(true);
        // Without this flag, opening a pipe would wait for a writer.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = match self.directory.open_with(path, &options) {
            Ok(file) => file.into_std(),
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
                return Err(OpenError::Io(error));
            }
            // The file is not there, not readable, or a link that leads out: the caller need not
            // know which.
            Err(_) => return Err(OpenError::NoFile),
        };
        let metadata = file.metadata().map_err(OpenError::Io)?;
        if !metadata.is_file() {
            return Err(OpenError::NoFile);
        }
        Ok(Opened { file, size: metadata.len(), modified: metadata.mtime(), stamp: Stamp::of(&metadata) })
    }

    /// The hash of a file that was opened, and the value of each of its blocks. Another thread computes
    /// hashes, one file at a time. `None` if the hash is not there in time (`HASH_WAIT`), too many files
    /// wait for their hashes (`HASHES`), or the file has changed or is withdrawn meanwhile.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn hash(
        self: &Arc<Self>,
        filename: &Filename,
        opened: Opened,
        stop: &Interrupt,
    ) -> io::Result<Option<Arc<Tree>>> {
        let end = Instant::now() + HASH_WAIT;
        let name = composed(filename.as_str());
        let stamp = opened.stamp;
        let mut opened = Some(opened);
        let mut published = self.published.lock();
        loop {
            let Some(known) = published.get_mut(&name) else { return Ok(None) };
            match (&known, opened.take()) {
                (Some(hashed), rest) if hashed.stamp == stamp => {
                    if hashed.tree.is_some() {
                        return Ok(hashed.tree.clone());
                    }
                    opened = rest;
                }
                (_, Some(file)) => {
                    let mut hashers = self.hashers.lock();
                    hashers.retain(|hasher| !hasher.is_finished());
                    if hashers.len() >= HASHES {
                        return Ok(None);
                    }
                    let (shared, name, stop) = (Arc::clone(self), name.clone(), stop.clone());
                    let hashing = thread::Builder::new().name("hash".to_owned());
                    let hashing = hashing.spawn(move || shared.compute(&name, file, &stop))?;
                    *known = Some(Hashed { stamp, tree: None });
                    hashers.push(hashing);
                }
                // Hashing has failed, or the file has become another one.
                (_, None) => return Ok(None),
            }
            if self.hashed.wait_until(&mut published, end).timed_out() {
                return Ok(None);
            }
        }
    }

    fn compute(&self, name: &str, opened: Opened, stop: &Interrupt) {
        let stamp = opened.stamp;
        let is_wanted = |known: &Option<Hashed>| known.as_ref().is_some_and(|hashed| hashed.stamp == stamp);
        let tree = {
            let _one = self.one.lock();
            if !self.published.lock().get(name).is_some_and(is_wanted) {
                // The file has become another one meanwhile, or is not published any more.
                return;
            }
            hash::of_file(&Arc::new(opened.file), opened.size, stop)
        };
        if let Some(known) = self.published.lock().get_mut(name)
            && is_wanted(known)
        {
            *known = tree.ok().map(|tree| Hashed { stamp, tree: Some(Arc::new(tree)) });
        }
        self.hashed.notify_all();
    }

    /// Waits for the threads that compute hashes, after they were told to stop.
    pub(crate) fn join(&self) {
        let hashers = std::mem::take(&mut *self.hashers.lock());
        for hasher in hashers {
            // There is nobody to tell of a panic.
            let _ = hasher.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    fn name(text: &str) -> Filename {
        text.parse().unwrap()
    }

    fn is_served(shared: &SharedFiles, filename: &str) -> bool {
        shared.publish(&name(filename));
        shared.open(&name(filename)).is_ok()
    }

    #[test]
    fn only_what_is_published_and_below_the_directory_is_served() {
        let outside = TempDir::new().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let directory = outside.path().join("shared");
        fs::create_dir_all(directory.join("sub")).unwrap();
        fs::write(directory.join("a.txt"), "a").unwrap();
        fs::write(directory.join("sub/b.txt"), "b").unwrap();
        symlink("../secret", directory.join("out")).unwrap();
        symlink(outside.path().join("secret"), directory.join("absolute")).unwrap();
        symlink("sub/b.txt", directory.join("in")).unwrap();
        symlink("..", directory.join("up")).unwrap();
        let shared = SharedFiles::new(&directory).unwrap();
        assert!(matches!(shared.open(&name("a.txt")), Err(OpenError::NoFile)));
        for inside in ["a.txt", "sub/b.txt", "./a.txt", "in"] {
            assert!(is_served(&shared, inside), "{inside}");
        }
        let absolute = directory.join("a.txt");
        for refused in [
            "../secret",
            "sub/../a.txt",
            "out",
            "absolute",
            "up/secret",
            "sub",
            ".",
            "none",
            absolute.to_str().unwrap(),
        ] {
            assert!(!is_served(&shared, refused), "{refused}");
        }
        shared.withdraw("a.txt");
        assert!(shared.open(&name("a.txt")).is_err());
    }

    #[test]
    fn a_file_is_served_however_its_name_is_spelled() {
        let directory = TempDir::new().unwrap();
        let shared = SharedFiles::new(directory.path()).unwrap();
        let (whole, parts) = ("\u{e9}t\u{e9}", "e\u{301}te\u{301}");
        for (on_disk, published, asked) in
            [(parts, whole, parts), (parts, whole, whole), (whole, parts, whole)]
        {
            let path = directory.path().join(on_disk);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(on_disk), "").unwrap();
            shared.publish(&name(&format!("{published}/{published}")));
            assert!(shared.open(&name(&format!("{asked}/{asked}"))).is_ok(), "{on_disk:?} {asked:?}");
            shared.withdraw(&format!("{asked}/{asked}"));
            assert!(shared.open(&name(&format!("{asked}/{asked}"))).is_err());
            fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let directory = TempDir::new().unwrap();
        let made = std::process::Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap();
        assert!(made.success());
        assert!(!is_served(&SharedFiles::new(directory.path()).unwrap(), "pipe"));
    }

    #[test]
    fn a_hash_is_that_of_the_file_as_it_is_now() {
        let directory = TempDir::new().unwrap();
        let shared = Arc::new(SharedFiles::new(directory.path()).unwrap());
        shared.publish(&name("a"));
        for content in ["one", "another"] {
            fs::write(directory.path().join("a"), content).unwrap();
            for _ in 0..2 {
                let opened = shared.open(&name("a")).unwrap();
                assert_eq!(opened.size, content.len() as u64);
                let tree = shared.hash(&name("a"), opened, &Interrupt::default()).unwrap().unwrap();
                assert_eq!(tree.hash, blake3::hash(content.as_bytes()));
            }
        }
    }
}
