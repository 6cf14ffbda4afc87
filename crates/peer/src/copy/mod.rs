//! Copies a file from other peers to a target. The target gets the whole file, checked where that
//! is possible, or nothing at all.

mod many;
mod text;

use std::{fs::File, io, path::Path, thread, time::Duration};

use lonja_wire::{Filename, get_part::Head, is_harmful};

use self::text::Announced;
use crate::{
    fetch::{Described, FetchError, Incoming, MoveError, Source},
    interrupt::Interrupt,
    partial::{KeepError, Target, Verified},
    progress::Progress,
};

/// How many attempts in a row may bring no byte before a copy is given up for now.
const ATTEMPTS: u32 = 4;
/// How long to wait after the first attempt that brings no byte; each further wait is twice as
/// long.
const PAUSE: Duration = Duration::from_millis(250);
/// How often a copy is begun, if the file becomes another one each time.
const CHANGES: u32 = 3;

/// What is known about a copy that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Size of the copy, in bytes.
    pub bytes: u64,
    /// The BLAKE3 hash that the peer announced and that the copy has; `None` from an original peer,
    /// which announces no hash.
    pub hash: Option<blake3::Hash>,
    /// How many bytes were there from an earlier attempt.
    pub resumed: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The peer does not give the file.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The copy cannot be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// What the peer sent does not have the hash that it announced.
    #[error("the copy from {0} does not have the announced hash and was removed; try again")]
    Wrong(String),
    /// A block that the peer sent is not the file's. What came before is kept.
    #[error(
        "{0} sent bytes that are not those of the file; the first {1} bytes are right and kept: copy from another user"
    )]
    WrongBlock(String, u64),
    /// The file changes faster than it is copied.
    #[error("the file of {0} changed during each attempt; try again later")]
    Changing(String),
    /// The peers have different files of that name.
    #[error("{0} and {1} have different files of this name; copy from one of them")]
    Different(String, String),
    /// One of several peers is an original one.
    #[error("{0} is an original peer; copy from it without other users")]
    Original(String),
}

/// What to copy, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The name of the file, as its owner has published it.
    pub filename: &'a Filename,
    /// Where the copy goes.
    pub target: &'a Target,
    /// The interrupt that stops the copy.
    pub interrupt: &'a Interrupt,
    /// Shows how far the copy is.
    pub progress: &'a Progress,
}

impl Job<'_> {
    /// Copies from one peer. If that is a Lonja peer, the copy is checked, and can be resumed.
    ///
    /// # Errors
    /// When there is no copy.
    pub fn copy(&self, source: &Source) -> Result<Copied, CopyError> {
        self.target.check()?;
        let copied = self.verified_or_not(source);
        self.progress.end();
        copied
    }

    /// Copies from several Lonja peers that have the same file, at one time.
    ///
    /// # Errors
    /// When there is no copy.
    pub fn copy_from_all(&self, sources: &[Source]) -> Result<Copied, CopyError> {
        if let [source] = sources {
            return self.copy(source);
        }
        self.target.check()?;
        let copied = many::copy(self, sources);
        self.progress.end();
        copied
    }

    fn verified_or_not(&self, source: &Source) -> Result<Copied, CopyError> {
        for _ in 0..CHANGES {
            let Some(described) = source.head(self.filename, true, self.interrupt)? else {
                return self.unverified(source);
            };
            if let Some(copied) = self.verified(source, described)? {
                return Ok(copied);
            }
        }
        Err(CopyError::Changing(source.user.clone()))
    }

    fn unverified(&self, source: &Source) -> Result<Copied, CopyError> {
        let mut incoming = source.whole(self.filename, self.interrupt)?;
        let copy = self.target.begin()?;
        self.progress.begin(None, 0);
        let bytes = self.receive_whole(source, &mut incoming, copy.file())?;
        copy.finish(self.target)?;
        Ok(Copied { bytes, hash: None, resumed: 0 })
    }

    /// Makes a checked copy of the file that a peer has described. `None` if the file has become another one
    /// meanwhile.
    fn verified(&self, source: &Source, described: Described) -> Result<Option<Copied>, CopyError> {
        let Described { head, tree } = described;
        let mut copy = self.target.resume(&head, tree)?;
        let mut resumed = copy.length();
        loop {
            self.progress.begin(Some(head.size), copy.length());
            if !self.complete(source, &head, &mut copy)? {
                // What others have sent is not given up because this peer has another file now.
                if resumed == 0 {
                    copy.discard();
                }
                return Ok(None);
            }
            if self.is_right(&copy)? {
                copy.finish(self.target)?;
                return Ok(Some(copied(&head, resumed)));
            }
            // From the first byte on that is not proven right, the copy comes once more.
            let right = copy.wrong().unwrap_or(0);
            let is_of_source = right >= resumed;
            copy.cut(right).map_err(|error| self.cannot_write(error))?;
            if is_of_source {
                return self.blame(source, &head, copy, resumed);
            }
            resumed = right;
        }
    }

    /// Finds out why a peer has sent a wrong block: its file has changed (`None`), or the peer is to blame.
    /// The blocks before are kept for another attempt.
    fn blame(
        &self,
        source: &Source,
        head: &Head,
        copy: Verified,
        resumed: u64,
    ) -> Result<Option<Copied>, CopyError> {
        let now = source.head(self.filename, false, self.interrupt)?;
        if now.is_some_and(|now| !is_same(&now.head, head)) {
            if resumed == 0 {
                copy.discard();
            }
            return Ok(None);
        }
        if copy.length() == 0 {
            copy.discard();
            return Err(CopyError::Wrong(source.user.clone()));
        }
        Err(CopyError::WrongBlock(source.user.clone(), copy.length()))
    }

    /// Appends what is missing, with as many connections as that takes, until a block is found wrong.
    /// False if the file has become another one.
    fn complete(&self, source: &Source, head: &Head, copy: &mut Verified) -> Result<bool, CopyError> {
        let mut attempt = 0;
        while !copy.is_whole() && copy.wrong().is_none() {
            let before = copy.length();
            match self.append(source, head, copy) {
                Ok(same) if !same => return Ok(false),
                Err(error) if !is_passing(&error) => return Err(error),
                _ if copy.is_whole() || copy.wrong().is_some() => {}
                _ if copy.length() > before => attempt = 0,
                failed => {
                    attempt += 1;
                    if attempt == ATTEMPTS {
                        failed?;
                        return Err(source.cut().into());
                    }
                    thread::sleep(PAUSE * 2_u32.pow(attempt - 1));
                }
            }
        }
        Ok(true)
    }

    /// Appends what one connection brings. False if the file has become another one.
    fn append(&self, source: &Source, head: &Head, copy: &mut Verified) -> Result<bool, CopyError> {
        let (now, mut incoming) =
            source.part(self.filename, copy.length(), copy.missing(), self.interrupt)?;
        if !is_same(&now, head) {
            return Ok(false);
        }
        self.receive_verified(&mut incoming, copy)?;
        Ok(true)
    }

    /// Writes what a peer sends that announces no hash to a file, from the file's beginning on, and
    /// gives the size of what was sent. The peer may be an original one, or one that writes everything
    /// as strings.
    ///
    /// # Errors
    /// When the connection breaks, the file cannot be written, or the interrupt is raised.
    pub fn receive_whole(
        &self,
        source: &Source,
        incoming: &mut Incoming,
        file: &File,
    ) -> Result<u64, CopyError> {
        let mut bytes = 0;
        let mut announced = None;
        loop {
            match self.moved(incoming.move_to(file, bytes, u64::MAX))? {
                0 => break,
                more => bytes += more,
            }
            announced = Announced::read(file).map_err(|error| self.cannot_write(error))?;
            let is_all = announced.is_some_and(|announced| announced.whole() == bytes);
            // A peer that has said how much it sends may leave the end to who asks.
            if is_all && !incoming.has_more()? {
                break;
            }
        }
        match announced {
            Some(announced) if announced.whole() == bytes => {
                text::strip(file, announced).map_err(|error| self.cannot_write(error))?;
                Ok(announced.size)
            }
            Some(announced) if announced.whole() > bytes => Err(source.cut().into()),
            // A file of an original peer, whatever it begins with.
            _ => Ok(bytes),
        }
    }

    /// Appends bytes of `incoming` to a copy, until the copy is whole, a block is wrong, or the bytes end.
    ///
    /// # Errors
    /// When the connection breaks, the file cannot be written, or the interrupt is raised.
    pub fn receive_verified(&self, incoming: &mut Incoming, copy: &mut Verified) -> Result<(), CopyError> {
        while !copy.is_whole() && copy.wrong().is_none() {
            match self.moved(incoming.move_to(copy.file(), copy.length(), copy.missing()))? {
                0 => return Ok(()),
                more => copy.has_grown(more),
            }
        }
        Ok(())
    }

    /// Whether a copy is whole and has the hash that was announced.
    ///
    /// # Errors
    /// When the copy cannot be read, or the interrupt is raised.
    pub fn is_right(&self, copy: &Verified) -> Result<bool, CopyError> {
        self.progress.check();
        copy.is_right(self.interrupt).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => FetchError::Interrupted.into(),
            _ => self.cannot_write(error),
        })
    }

    fn moved(&self, moved: Result<u64, MoveError>) -> Result<u64, CopyError> {
        let bytes = moved.map_err(|error| match error {
            MoveError::Fetch(error) => error.into(),
            MoveError::Write(error) => self.cannot_write(error),
        })?;
        self.progress.add(bytes);
        Ok(bytes)
    }

    fn cannot_write(&self, source: io::Error) -> CopyError {
        KeepError::Write { path: self.target.path.clone(), source }.into()
    }
}

fn copied(head: &Head, resumed: u64) -> Copied {
    Copied { bytes: head.size, hash: Some(blake3::Hash::from_bytes(head.hash)), resumed }
}

/// Whether two answers are about the same bytes.
fn is_same(now: &Head, head: &Head) -> bool {
    (now.size, now.hash) == (head.size, head.hash)
}

/// Whether another attempt may succeed where this one has failed.
fn is_passing(error: &CopyError) -> bool {
    matches!(error, CopyError::Fetch(FetchError::Io(..) | FetchError::Refused(_)))
}

/// The local name for a file of another peer: the last part of its name there, without anything
/// that a terminal, a shell or a directory listing would take for something else.
#[must_use]
pub fn local_name(filename: &str) -> String {
    let last = filename.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or_default();
    let name: String = last.chars().filter(|character| !is_harmful(*character)).collect();
    match name.trim_start_matches(['.', '-', ' ']) {
        "" => "file".to_owned(),
        name => name.to_owned(),
    }
}

/// The path of a copy: as told; if a directory was told, the file's own name in it; if nothing was
/// told, the file's own name in the working directory.
#[must_use]
pub fn target_path(told: Option<&Path>, filename: &Filename) -> std::path::PathBuf {
    let name = local_name(filename.as_str());
    match told {
        None => name.into(),
        Some(path) if path.is_dir() => path.join(name),
        Some(path) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_stay_where_they_are() {
        for (theirs, ours) in [
            ("hello.txt", "hello.txt"),
            ("año 1.txt", "año 1.txt"),
            ("sub/dir/b.txt", "b.txt"),
            ("../../etc/passwd", "passwd"),
            ("/etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            (".bashrc", "bashrc"),
            ("-rf", "rf"),
            ("..", "file"),
            ("/", "file"),
            ("a\u{202e}txt.exe", "atxt.exe"),
        ] {
            assert_eq!(local_name(theirs), ours);
        }
    }
}
