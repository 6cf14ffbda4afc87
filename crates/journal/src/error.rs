//! Why a journal's files cannot be used, and why a command was not carried out.

use std::{
    cell::Cell,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Once,
};

use crate::state::Row;

/// Why a data directory cannot be used, as one line that also says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the file open.
    #[error("{} is in use by another lonja: stop it or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    /// The directory or a file in it cannot be created, read or written.
    #[error("{} cannot be used: {}: {}", .0.display(), .1, advice(.1))]
    Unusable(PathBuf, #[source] io::Error),
    /// The content of the files is damaged.
    #[error("{} is damaged ({}): restore its directory from a backup, or move that directory away to start empty", .0.display(), .1)]
    Damaged(PathBuf, #[source] Damage),
    /// A thread cannot be started.
    #[error("the journal's threads cannot be started: {0}")]
    Thread(#[source] io::Error),
}

impl OpenError {
    /// The error for a file that cannot be read, or whose content is damaged.
    pub(crate) fn of(path: &Path, what: Damage) -> Self {
        match what {
            Damage::Tables(redb::Error::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                Self::Unusable(path.to_owned(), error)
            }
            what => Self::Damaged(path.to_owned(), what),
        }
    }
}

/// What a person can do about a file or directory that cannot be used.
fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::{
        AlreadyExists, FileTooLarge, IsADirectory, NotADirectory, QuotaExceeded, StorageFull,
    };
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => "make room on its disk",
        AlreadyExists | NotADirectory | IsADirectory => "name a directory of its own with --data-dir",
        _ => "make it writable or choose another --data-dir",
    }
}

/// What is wrong with the content of a journal's files.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// redb cannot read its file.
    #[error(transparent)]
    Tables(#[from] redb::Error),
    /// redb panicked over its file, with this message.
    #[error("the structure of the file cannot be read: {0}")]
    Structure(String),
    /// A row is shorter than its checksum.
    #[error("a row is too short")]
    Short,
    /// The bytes of a row are not those that were written.
    #[error("a checksum does not match")]
    Checksum,
    /// A row is whole and cannot be decoded.
    #[error(transparent)]
    Row(#[from] prost::DecodeError),
    /// A row between others is not there.
    #[error("row {0} is missing")]
    Missing(Row),
    /// A file of the write-ahead log is not there, or is shorter than it was.
    #[error("changes that are not in this file are in {}, which is missing or cut short", .0.display())]
    Lost(PathBuf),
    /// A file of the write-ahead log was written by something else.
    #[error("it does not begin as a write-ahead log does")]
    Foreign,
}

impl From<Damage> for redb::Error {
    fn from(damage: Damage) -> Self {
        match damage {
            Damage::Tables(error) => error,
            other => Self::Corrupted(other.to_string()),
        }
    }
}

/// Why a command could not be carried out. Causes are kept as text: everyone who waited for a commit
/// gets a clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum JournalError {
    /// The change could not be written. If the process ends now, the next start may find the change
    /// or may not.
    Write(String),
    /// The file could not be read.
    Read(String),
    /// More commands wait than there is room for.
    Overloaded,
    /// The journal has been closed.
    Closed,
}

impl std::error::Error for JournalError {}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(error) => {
                write!(
                    f,
                    "the data directory cannot be written: {error}: check its disk for space and errors"
                )
            }
            Self::Read(error) => {
                write!(f, "the table file cannot be read: {error}: check its disk for errors")
            }
            Self::Overloaded => {
                f.write_str("too many commands wait for the write-ahead log: try again later")
            }
            Self::Closed => f.write_str("the journal is closed: the service is ending"),
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is turned into an error, so that the panic hook says nothing.
    static IS_SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Does what redb may panic over, since its file may be damaged, and turns a panic into an error, so that a person
/// sees one line. Panics of other threads are reported as ever.
pub(crate) fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, Damage> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_SILENT.get() {
                usual(panic);
            }
        }));
    });
    let before = IS_SILENT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    IS_SILENT.set(before);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Damage::Structure(text.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    /// Bug: who had a full disk was told to choose another directory, and so to begin with an empty index.
    #[test]
    fn the_advice_is_about_what_is_wrong() {
        use io::ErrorKind::{NotADirectory, PermissionDenied, StorageFull};
        let told = |kind: io::ErrorKind| OpenError::Unusable("data".into(), kind.into()).to_string();
        assert_eq!(told(StorageFull), "data cannot be used: no storage space: make room on its disk");
        assert!(told(NotADirectory).ends_with("name a directory of its own with --data-dir"));
        assert!(told(PermissionDenied).ends_with("make it writable or choose another --data-dir"));
    }

    /// Bug: of two openings at one time, the second put back the silent hook of the first, and no
    /// panic was reported any more.
    #[test]
    fn only_the_thread_that_opens_is_silent_and_only_while_it_opens() {
        let (begun, wait) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            without_panic(|| {
                begun.send(IS_SILENT.get()).unwrap();
                ended.recv().unwrap();
            })
        });
        assert!(wait.recv().unwrap());
        assert!(!IS_SILENT.get(), "while another thread opens");
        let broken: Result<(), Damage> = without_panic(|| panic!("redb has found damage"));
        assert!(matches!(broken, Err(Damage::Structure(text)) if text == "redb has found damage"));
        assert!(!IS_SILENT.get());
        end.send(()).unwrap();
        assert!(other.join().unwrap().is_ok());
    }
}
