//! What a peer keeps between starts: the two JSON files of the original peers
//! (docs/protocol.md 6), and a marker of each session that is open.

use std::{
    fmt::Write as _,
    fs::{File, Permissions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lonja_wire::{Username, reply::UserEntry};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::locked;

/// The largest size of a file name that every file system takes, in bytes.
const NAME_MAX: usize = 255;
/// How long to wait for another process to unlock the directory.
const LOCK: Duration = Duration::from_secs(2);
/// The beginning of the name of each marker, and of each file that is being written.
const MARKER: &str = ".lonja-session";
/// The size of a marker, in bytes: enough for a host name and [`PORTS`] ports.
const MARKER_BYTES: usize = 1024;
/// The largest number of ports that a marker remembers.
const PORTS: usize = 64;
/// The beginning of the name of each file of listed users.
const LISTED: &str = "listusers";
/// The beginning of the name of each file of published files.
const PUBLISHED: &str = "published";

/// A row of `listusers-<username>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedUser {
    /// The name of a connected user.
    #[serde(rename = "Username")]
    pub(crate) username: String,
    /// The IPv4 address at which others dial the user.
    #[serde(rename = "IP address")]
    pub(crate) address: String,
    /// The port at which others dial the user.
    #[serde(rename = "Port")]
    pub(crate) port: String,
}

/// A row of `published-<username>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedFile {
    /// The name under which others ask for the file.
    #[serde(rename = "Filename")]
    pub(crate) filename: String,
    /// What the owner says about the file.
    #[serde(rename = "Description")]
    pub(crate) description: String,
}

impl From<&UserEntry> for ListedUser {
    fn from(entry: &UserEntry) -> Self {
        Self {
            username: entry.username.to_string(),
            address: entry.address.to_string(),
            port: entry.port.to_string(),
        }
    }
}

/// Why a file of the directory cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; use --data-dir to choose another folder", path.display())]
pub(crate) struct DataError {
    path: PathBuf,
    source: io::Error,
}

/// The directory where a peer keeps its JSON files and markers. For an original peer that is the
/// working directory.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// A session that a peer has opened and not closed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenSession {
    /// The index that has the session, as HOST:PORT.
    pub(crate) index: String,
    /// The ports at which the index may list the session: the port of each attempt to open it that
    /// may have succeeded.
    pub(crate) ports: Vec<u16>,
    /// Whether the session is being closed, to be opened again with what it has published.
    #[serde(default)]
    pub(crate) replacing: bool,
    /// Whether the process that opened the session serves only what that process publishes itself,
    /// and nothing that the JSON file of published files names.
    #[serde(default)]
    pub(crate) only_own: bool,
}

impl OpenSession {
    /// A session that is opened at `port`, or that an `earlier` attempt has opened.
    pub(crate) fn at(index: String, earlier: Option<&Self>, port: u16, only_own: bool) -> Self {
        let mut ports = earlier.map(|earlier| earlier.ports.clone()).unwrap_or_default();
        ports.retain(|earlier| *earlier != port);
        // The first port is the port of the session that was open; the others are of later
        // attempts.
        if ports.len() >= PORTS {
            ports.remove(1);
        }
        ports.push(port);
        Self { index, ports, replacing: earlier.is_some_and(|earlier| earlier.replacing), only_own }
    }
}

/// A file that stands for an open session. One process holds it at a time.
#[derive(Debug)]
pub(crate) struct Marker {
    path: PathBuf,
    file: File,
}

impl DataDir {
    /// Keeps files in the directory `path`.
    #[must_use]
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Whether a file of this name is one that a peer keeps.
    #[must_use]
    pub(crate) fn is_own(name: &str) -> bool {
        let stem = [LISTED, PUBLISHED].iter().any(|begin| {
            name.strip_prefix(begin).is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".json"))
        });
        stem || name.starts_with(MARKER)
    }

    /// Reads the users that were listed last for the user `of`.
    ///
    /// # Errors
    /// When there is no such list, or it cannot be read.
    pub(crate) fn listed_users(&self, of: Option<&Username>) -> Result<Vec<ListedUser>, DataError> {
        self.read(LISTED, of)
    }

    /// Writes the users that were listed for the user `of`.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub(crate) fn keep_listed_users(
        &self,
        of: Option<&Username>,
        rows: &[ListedUser],
    ) -> Result<(), DataError> {
        self.write(LISTED, of, rows)
    }

    /// Reads what the user `by` has published.
    ///
    /// # Errors
    /// When there is no such list, or it cannot be read.
    pub(crate) fn published(&self, by: &Username) -> Result<Vec<PublishedFile>, DataError> {
        self.read(PUBLISHED, Some(by))
    }

    /// Writes what the user `by` has published.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub(crate) fn keep_published(&self, by: &Username, rows: &[PublishedFile]) -> Result<(), DataError> {
        self.write(PUBLISHED, Some(by), rows)
    }

    /// Changes the list of what the user `by` has published, while no other process changes it.
    ///
    /// # Errors
    /// When the list cannot be written, or another process keeps the directory locked.
    pub(crate) fn change_published(
        &self,
        by: &Username,
        change: impl FnOnce(&mut Vec<PublishedFile>),
    ) -> Result<(), DataError> {
        let _locked = self.lock()?;
        // Where there is no list yet, or none that can be read, a new one begins.
        let mut rows = self.published(by).unwrap_or_default();
        change(&mut rows);
        self.keep_published(by, &rows)
    }

    /// Locks the directory until the file that is returned is dropped.
    fn lock(&self) -> Result<File, DataError> {
        let path = self.directory().to_owned();
        let lock = || {
            let directory = File::open(&path)?;
            let end = Instant::now() + LOCK;
            loop {
                match directory.try_lock() {
                    Ok(()) => return Ok(directory),
                    Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(LOCK / 100),
                    Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
                    Err(TryLockError::Error(error)) => return Err(error),
                }
            }
        };
        lock().map_err(|source| DataError { path: path.clone(), source })
    }

    fn directory(&self) -> &Path {
        if self.0.as_os_str().is_empty() { Path::new(".") } else { &self.0 }
    }

    /// Takes the marker of a user's session; `None` if another process has it.
    ///
    /// # Errors
    /// When the marker cannot be made.
    pub(crate) fn marker(&self, user: &Username) -> Result<Option<Marker>, DataError> {
        // Another process may be looking whether the marker is taken.
        let _locked = self.lock()?;
        let path = self.path(MARKER, Some(user));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        match locked::open(&options, &path) {
            Ok(file) => Ok(file.map(|file| Marker { path, file })),
            Err(source) => Err(DataError { path, source }),
        }
    }

    /// The session of a user that another process has open; `None` if no other process has one.
    ///
    /// # Errors
    /// When the marker of the session cannot be read.
    pub(crate) fn session_elsewhere(&self, user: &Username) -> Result<Option<OpenSession>, DataError> {
        let path = self.path(MARKER, Some(user));
        let look = || {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
            match file.try_lock_shared() {
                // The process that has left the marker behind is gone.
                Ok(()) => Ok(None),
                Err(TryLockError::WouldBlock) => Ok(Some(serde_json::from_reader(&file)?)),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        let _locked = self.lock()?;
        look().map_err(|source| DataError { path: path.clone(), source })
    }

    fn path(&self, begin: &str, user: Option<&Username>) -> PathBuf {
        self.0.join(file_name(begin, user.map_or("", Username::as_str)))
    }

    fn read<T: DeserializeOwned>(&self, begin: &str, of: Option<&Username>) -> Result<T, DataError> {
        let path = self.path(begin, of);
        let read = || Ok(serde_json::from_reader(io::BufReader::new(File::open(&path)?))?);
        read().map_err(|source| DataError { path: path.clone(), source })
    }

    fn write<T: Serialize>(&self, begin: &str, of: Option<&Username>, rows: &[T]) -> Result<(), DataError> {
        let path = self.path(begin, of);
        let write = || {
            // The new list replaces the old list at once, because others may read it at any time.
            let mut builder = tempfile::Builder::new();
            builder.prefix(MARKER).permissions(Permissions::from_mode(0o666));
            let mut file = builder.tempfile_in(self.directory())?;
            file.write_all(python_json(rows)?.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|source| DataError { path: path.clone(), source })
    }
}

impl Marker {
    /// The session that a killed peer has left behind, if any.
    #[must_use]
    pub(crate) fn left_behind(&self) -> Option<OpenSession> {
        serde_json::from_reader(&self.file).ok()
    }

    /// Writes down the session that the marker stands for.
    ///
    /// # Errors
    /// When the marker cannot be written.
    pub(crate) fn mark(&mut self, session: &OpenSession) -> Result<(), DataError> {
        let write = || {
            let mut text = serde_json::to_string(session)?;
            // The text always has the same length, so that one write replaces the text before.
            text.extend(std::iter::repeat_n(' ', MARKER_BYTES.saturating_sub(text.len())));
            self.file.write_all_at(text.as_bytes(), 0)?;
            self.file.sync_all()
        };
        write().map_err(|source| DataError { path: self.path.clone(), source })
    }

    /// Removes the marker, because its session is closed.
    pub(crate) fn clear(self) {
        // If the marker stays, the next start finds a session that is not open any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The file name for a user, as the original peers make it. Where they cannot create the file,
/// because the user's name has a slash or is too long, the file name is one that no other user has.
fn file_name(begin: &str, user: &str) -> String {
    let name = format!("{begin}-{user}.json");
    if !user.contains(['/', '\\']) && name.len() <= NAME_MAX {
        return name;
    }
    let mut safe = user.replace(['/', '\\'], "_");
    while safe.len() > NAME_MAX / 2 {
        safe.pop();
    }
    format!("{begin}-{safe}-{:.16}.json", blake3::hash(user.as_bytes()).to_hex())
}

/// The rows as Python's `json.dump(rows, file, indent=4)` writes them: in ASCII.
fn python_json(rows: &(impl Serialize + ?Sized)) -> io::Result<String> {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    rows.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        // Only strings hold other characters, and JSON writes them there as UTF-16 escapes.
        if character.is_ascii() && character != '\u{7f}' {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    Ok(ascii)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn user(name: &str) -> Username {
        name.parse().unwrap()
    }

    #[test]
    fn the_files_are_as_python_writes_them() {
        let directory = TempDir::new().unwrap();
        let data = DataDir::new(directory.path().to_owned());
        let rows = [PublishedFile { filename: "año \"1\".txt".into(), description: "🐟".into() }];
        data.keep_published(&user("alice"), &rows).unwrap();
        let text = std::fs::read_to_string(directory.path().join("published-alice.json")).unwrap();
        assert_eq!(
            text,
            "[\n    {\n        \"Filename\": \"a\\u00f1o \\\"1\\\".txt\",\n        \"Description\": \"\\ud83d\\udc1f\"\n    }\n]"
        );
        assert_eq!(data.published(&user("alice")).unwrap(), rows);
        data.keep_published(&user("alice"), &[]).unwrap();
        assert_eq!(std::fs::read(directory.path().join("published-alice.json")).unwrap(), b"[]");
        let listed = [ListedUser { username: "bob".into(), address: "127.0.0.1".into(), port: "80".into() }];
        data.keep_listed_users(None, &listed).unwrap();
        assert_eq!(data.listed_users(None).unwrap(), listed);
        let text = std::fs::read_to_string(directory.path().join("listusers-.json")).unwrap();
        assert!(text.contains(
            "\"Username\": \"bob\",\n        \"IP address\": \"127.0.0.1\",\n        \"Port\": \"80\""
        ));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn no_name_leaves_the_directory_or_is_too_long() {
        let long = "ñ".repeat(127);
        for name in ["../../etc/passwd", "a/b", "..", &long] {
            let file = file_name(PUBLISHED, name);
            assert!(!file.contains('/') && file.len() <= NAME_MAX && DataDir::is_own(&file), "{file}");
        }
        assert_ne!(file_name(PUBLISHED, "a/b"), file_name(PUBLISHED, "a_b"));
        assert_ne!(file_name(PUBLISHED, &long), file_name(PUBLISHED, &format!("{long}x")));
        assert!(!DataDir::is_own("published.json") && !DataDir::is_own("hello.txt"));
    }

    #[test]
    fn a_marker_is_held_by_one_and_tells_what_was_left_behind() {
        let directory = TempDir::new().unwrap();
        let data = DataDir::new(directory.path().to_owned());
        let mut marker = data.marker(&user("alice")).unwrap().unwrap();
        assert_eq!(marker.left_behind(), None);
        assert!(data.marker(&user("alice")).unwrap().is_none());
        let session = OpenSession::at("localhost:5050".into(), None, 50_085, true);
        marker.mark(&session).unwrap();
        assert_eq!(data.session_elsewhere(&user("alice")).unwrap(), Some(session.clone()));
        // The marker is dropped as by a kill.
        drop(marker);
        assert_eq!(data.session_elsewhere(&user("alice")).unwrap(), None);
        let marker = data.marker(&user("alice")).unwrap().unwrap();
        assert_eq!(marker.left_behind(), Some(session));
        marker.clear();
        assert_eq!(data.marker(&user("alice")).unwrap().unwrap().left_behind(), None);
    }
}
