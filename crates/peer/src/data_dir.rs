//! What a peer keeps between starts: the two JSON files of the original peers
//! (docs/protocol.md 6), and a marker of each session that is open.

use std::{
    fmt::Write as _,
    fs::{File, Permissions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lonja_wire::{Username, reply::UserEntry};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes of a file name that every file system takes.
const NAME_MAX: usize = 255;
/// How long another process may have the directory locked.
const LOCK: Duration = Duration::from_secs(2);
/// Begins the names of the markers.
const MARKER: &str = ".lonja-session";
/// Bytes of a marker: a host name, and some ports.
const MARKER_BYTES: usize = 1024;
/// Ports that a marker remembers, at most.
const PORTS: usize = 64;
/// Begins the names of the users that were listed last.
const LISTED: &str = "listusers";
/// Begins the names of what is published.
const PUBLISHED: &str = "published";

/// A row of `listusers-<username>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedUser {
    /// Who is connected.
    #[serde(rename = "Username")]
    pub(crate) username: String,
    /// Where others dial it.
    #[serde(rename = "IP address")]
    pub(crate) address: String,
    /// On which port.
    #[serde(rename = "Port")]
    pub(crate) port: String,
}

/// A row of `published-<username>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedFile {
    /// The name to ask for.
    #[serde(rename = "Filename")]
    pub(crate) filename: String,
    /// What its owner says of it.
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

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; use --data-dir to choose another folder", path.display())]
pub(crate) struct DataError {
    path: PathBuf,
    source: io::Error,
}

/// The directory, which is the working directory of an original peer.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// A session that a peer has opened and not closed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenSession {
    /// At which index.
    pub(crate) index: String,
    /// On which ports it may be listed: of each attempt to open it that may have succeeded.
    pub(crate) ports: Vec<u16>,
    /// It is being closed, to be opened again with what it has published.
    #[serde(default)]
    pub(crate) replacing: bool,
}

impl OpenSession {
    /// One that is opened at this port, or is one of an earlier attempt.
    pub(crate) fn at(index: String, earlier: Option<&Self>, port: u16) -> Self {
        let mut ports = earlier.map(|earlier| earlier.ports.clone()).unwrap_or_default();
        ports.retain(|earlier| *earlier != port);
        // The first is that of the session that was open; the others are of later attempts.
        if ports.len() >= PORTS {
            ports.remove(1);
        }
        ports.push(port);
        Self { index, ports, replacing: earlier.is_some_and(|earlier| earlier.replacing) }
    }
}

/// The marker of a session, held by one process at a time.
#[derive(Debug)]
pub(crate) struct Marker {
    path: PathBuf,
    file: File,
}

impl DataDir {
    /// That directory.
    #[must_use]
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Whether a file of that name is one of a peer's own.
    #[must_use]
    pub(crate) fn is_own(name: &str) -> bool {
        let stem = [LISTED, PUBLISHED].iter().any(|begin| {
            name.strip_prefix(begin).is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".json"))
        });
        stem || name.starts_with(MARKER)
    }

    /// Who was listed last.
    ///
    /// # Errors
    /// When there is no such list.
    pub(crate) fn listed_users(&self, of: Option<&Username>) -> Result<Vec<ListedUser>, DataError> {
        self.read(LISTED, of)
    }

    /// Keeps who was listed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep_listed_users(
        &self,
        of: Option<&Username>,
        rows: &[ListedUser],
    ) -> Result<(), DataError> {
        self.write(LISTED, of, rows)
    }

    /// What was published last.
    ///
    /// # Errors
    /// When there is no such list.
    pub(crate) fn published(&self, by: &Username) -> Result<Vec<PublishedFile>, DataError> {
        self.read(PUBLISHED, Some(by))
    }

    /// Keeps what is published.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep_published(&self, by: &Username, rows: &[PublishedFile]) -> Result<(), DataError> {
        self.write(PUBLISHED, Some(by), rows)
    }

    /// Changes what is published, while no other process changes it.
    ///
    /// # Errors
    /// When it cannot be read or written, or another process does not finish.
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

    /// Locks the directory until the file that is given is dropped.
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
    /// When it cannot be made.
    pub(crate) fn marker(&self, user: &Username) -> Result<Option<Marker>, DataError> {
        let path = self.path(MARKER, Some(user));
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(|source| DataError { path: path.clone(), source })?;
            match file.try_lock() {
                // Removed by whoever had it before: this is a file that nobody else sees.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Some(Marker { path, file })),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(DataError { path, source }),
            }
        }
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
            // In a piece, as others may read it at any time.
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
    /// The session that a killed peer has left behind.
    #[must_use]
    pub(crate) fn left_behind(&self) -> Option<OpenSession> {
        serde_json::from_reader(&self.file).ok()
    }

    /// Writes down which session it stands for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn mark(&mut self, session: &OpenSession) -> Result<(), DataError> {
        let write = || {
            let mut text = serde_json::to_string(session)?;
            // Always as long, so that it takes the place of another in one write.
            text.extend(std::iter::repeat_n(' ', MARKER_BYTES.saturating_sub(text.len())));
            self.file.write_all_at(text.as_bytes(), 0)?;
            self.file.sync_all()
        };
        write().map_err(|source| DataError { path: self.path.clone(), source })
    }

    /// The session is closed.
    pub(crate) fn clear(self) {
        // If it stays, the next start finds a session that is not open any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), path.metadata()) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

/// A file name for a user, as the original peers make it. What they could not create, a
/// name with a slash or too long a one, is one here that no other user has.
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

/// As Python's `json.dump(rows, file, indent=4)` writes it: in ASCII.
fn python_json(rows: &(impl Serialize + ?Sized)) -> io::Result<String> {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    rows.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        // Only strings hold others, and there this is how JSON writes them.
        match character.is_ascii() && character != '\u{7f}' {
            true => ascii.push(character),
            false => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
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
        let session = OpenSession::at("localhost:5050".into(), None, 50_085);
        marker.mark(&session).unwrap();
        // Dropped as by a kill.
        drop(marker);
        let marker = data.marker(&user("alice")).unwrap().unwrap();
        assert_eq!(marker.left_behind(), Some(session));
        marker.clear();
        assert_eq!(data.marker(&user("alice")).unwrap().unwrap().left_behind(), None);
    }
}
