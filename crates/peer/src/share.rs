//! Sharing a directory: every file below it is published for as long as it is there.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use cap_std::fs::{Dir, DirEntry};
use lonja_wire::{Description, Filename, Operation, Outcome, Username};
use notify::{RecursiveMode, Watcher as _};

use crate::{
    CommandError,
    data_dir::DataDir,
    names::composed,
    partial::is_part,
    peer::{Peer, PeerError},
    signals::on_signal,
    text::visible,
};

/// How long nothing must have changed in the directory before it is looked at again.
const QUIET: Duration = Duration::from_millis(200);
/// How long after the first change the directory is looked at again, even if it keeps changing.
const BUSY: Duration = Duration::from_secs(2);
/// How often the directory and the session are looked at, even if no change was noticed.
const CHECK: Duration = Duration::from_secs(30);
/// How long to wait after the index did not answer. The wait is twice as long after each further
/// failure in a row, up to [`CHECK`].
const RETRY: Duration = Duration::from_secs(2);
/// How many files in a row the index may refuse before no more files are tried for now.
const NOT_TAKEN: u32 = 3;

/// An event, which is printed on standard output.
#[derive(Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Serving { user: &'a str, address: SocketAddr },
    Published { filename: &'a str },
    Withdrawn { filename: &'a str },
}

/// Shares a directory as a user, with one description for all files.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    peer: &'a mut Peer,
    user: Username,
    description: Description,
    json: bool,
    /// The names of which standard error has said that they are not published.
    left_out: HashSet<String>,
    /// How many attempts in a row have failed. Standard error has told of the first.
    failures: u32,
}

/// What was found below the directory.
#[derive(Debug, Default)]
struct Seen {
    /// The files, by the names that they are published under.
    files: BTreeMap<String, Filename>,
    /// The composed paths of folders that could not be read: what was below them may be there
    /// still.
    unseen: Vec<PathBuf>,
}

impl Seen {
    fn is_gone(&self, name: &str) -> bool {
        !self.files.contains_key(name) && !self.unseen.iter().any(|below| Path::new(name).starts_with(below))
    }
}

impl<'a> Share<'a> {
    /// A share as the user `user`, who is not connected yet.
    pub(crate) fn new(peer: &'a mut Peer, user: Username, description: Description, json: bool) -> Self {
        Self { peer, user, description, json, left_out: HashSet::new(), failures: 0 }
    }

    /// Shares the files below a directory until a signal ends the sharing.
    ///
    /// # Errors
    /// When sharing cannot begin, or standard output cannot be written. A later failure at the
    /// index is tried again instead.
    pub(crate) fn run(&mut self, directory: &Path) -> Result<(), CommandError> {
        let (changes, changed) = mpsc::sync_channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        let (end, wake, interrupt) = (Arc::clone(&ended), changes.clone(), self.peer.interrupt().clone());
        on_signal(move |_| {
            if end.swap(true, Ordering::SeqCst) {
                // A second signal ends the process at once, whatever holds up the sharing.
                process::exit(1);
            }
            interrupt.raise();
            // If the channel is full, what is in it wakes the receiver as well.
            let _ = wake.try_send(());
        })?;
        let now = self.peer.now();
        match self.peer.register(&now, self.user.as_str()) {
            Ok(()) => {}
            Err(error) if error.is(Outcome::AlreadyRegistered) => {}
            Err(error) => return Err(error.into()),
        }
        self.peer.connect(&now, self.user.as_str())?;
        let _watcher = watch(directory, changes);
        let result = self.follow(&changed, &ended);
        self.peer.interrupt().reset();
        self.peer.leave();
        result
    }

    /// Keeps the list at the index equal to what is in the directory, until `ended`.
    fn follow(&mut self, changed: &Receiver<()>, ended: &AtomicBool) -> Result<(), CommandError> {
        let (address, shared) = self.serving()?;
        self.tell(&Event::Serving { user: self.user.as_str(), address })?;
        let mut wait = self.reconcile(shared.directory(), false)?;
        let mut checked = Instant::now();
        while !ended.load(Ordering::SeqCst) {
            match changed.recv_timeout(wait) {
                Ok(()) => {
                    let end = Instant::now() + BUSY;
                    while Instant::now() < end
                        && !ended.load(Ordering::SeqCst)
                        && changed.recv_timeout(QUIET).is_ok()
                    {}
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The thread for signals keeps a sender, so the channel stays open.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !ended.load(Ordering::SeqCst) {
                // The session is checked when that is due, even in a directory in which something
                // always changes.
                let check = wait < CHECK || checked.elapsed() >= CHECK;
                if check {
                    checked = Instant::now();
                }
                wait = self.reconcile(shared.directory(), check)?;
            }
        }
        Ok(())
    }

    fn serving(&self) -> Result<(SocketAddr, Arc<crate::shared::Shared>), PeerError> {
        // The user has just been connected, so there is a session.
        self.peer.serving(&self.user).ok_or(PeerError::NotListed(self.user.to_string()))
    }

    /// Publishes what is new in the directory and withdraws what is gone. Gives how long to wait
    /// before the next time.
    fn reconcile(&mut self, directory: &Dir, check: bool) -> io::Result<Duration> {
        let seen = self.look(directory);
        let reconciled = self.reconcile_with(&seen, check);
        match reconciled {
            Ok(()) => {
                if std::mem::take(&mut self.failures) > 0 {
                    complain!("lonja: the index answers again");
                }
                Ok(CHECK)
            }
            // Nobody reads standard output any more, so the sharing ends.
            Err(Stopped::Output(error)) => Err(error),
            Err(Stopped::Again) => Ok(QUIET),
            Err(Stopped::Peer(error)) => {
                // A failure that a signal has caused is not told.
                if self.failures == 0 && !self.peer.interrupt().is_raised() {
                    complain!("lonja: {error}; trying again");
                }
                let wait = RETRY.saturating_mul(2_u32.saturating_pow(self.failures)).min(CHECK);
                self.failures += 1;
                Ok(wait)
            }
        }
    }

    fn reconcile_with(&mut self, seen: &Seen, check: bool) -> Result<(), Stopped> {
        if check {
            self.check()?;
        }
        let published: Vec<_> =
            self.peer.published(&self.user).iter().map(|file| file.filename.clone()).collect();
        let known: HashSet<_> = published.iter().map(String::as_str).collect();
        let result = self.bring_up_to_date(
            published.iter().filter(|name| seen.is_gone(name)),
            seen.files.iter().filter(|(name, _)| !known.contains(name.as_str())).map(|(_, new)| new),
        );
        let now = self.peer.published(&self.user);
        if !now.iter().map(|file| &file.filename).eq(&published) {
            self.peer.keep_published(&self.user);
        }
        result
    }

    fn bring_up_to_date<'n>(
        &mut self,
        gone: impl Iterator<Item = &'n String>,
        new: impl Iterator<Item = &'n Filename>,
    ) -> Result<(), Stopped> {
        for gone in gone {
            self.withdraw(gone)?;
        }
        let mut not_taken = None;
        let mut in_a_row = 0;
        for new in new {
            match self.publish(new) {
                Err(Stopped::Peer(error @ PeerError::Refused { operation: Operation::Publish, .. })) => {
                    self.leave_out(
                        new.as_str(),
                        "the index refused it; the session may have reached its limit of files",
                    );
                    not_taken = Some(error);
                    in_a_row += 1;
                    if in_a_row == NOT_TAKEN {
                        break;
                    }
                }
                published => {
                    published?;
                    self.left_out.remove(new.as_str());
                    in_a_row = 0;
                }
            }
        }
        not_taken.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Checks that the index still has the session, and opens the session again if not.
    fn check(&mut self) -> Result<(), Stopped> {
        let now = self.peer.recent();
        match self.peer.check_session(&now, &self.user) {
            Ok(()) => Ok(()),
            Err(error) => self.reconnect(error),
        }
    }

    fn reconnect(&mut self, error: PeerError) -> Result<(), Stopped> {
        let now = self.peer.recent();
        let unregistered = error.is(Outcome::NotRegistered);
        if !unregistered && !error.is(Outcome::NotConnected) {
            return Err(error.into());
        }
        complain!("lonja: the index has no session of {} any more: connecting again", self.user);
        if unregistered {
            self.peer.register(&now, self.user.as_str())?;
        }
        let connected = self.peer.connect(&now, self.user.as_str());
        if connected.as_ref().is_err_and(PeerError::is_unknown) {
            // There may be a new session, in which everything has to be published again.
            self.peer.forget_published(&self.user);
        }
        Ok(connected?)
    }

    fn publish(&mut self, filename: &Filename) -> Result<(), Stopped> {
        let now = self.peer.recent();
        match self.peer.publish_unkept(&now, &self.user, filename, &self.description) {
            Ok(()) => {}
            // The answer to an earlier attempt was lost.
            Err(error) if error.is(Outcome::AlreadyPublished) => {}
            Err(error) => {
                // In the session that was opened again, everything has to be published again.
                self.reconnect(error)?;
                return Err(Stopped::Again);
            }
        }
        Ok(self.tell(&Event::Published { filename: filename.as_str() })?)
    }

    fn withdraw(&mut self, name: &str) -> Result<(), Stopped> {
        let now = self.peer.recent();
        let Ok(filename) = name.parse() else { return Ok(()) };
        match self.peer.delete_unkept(&now, &self.user, &filename) {
            Err(error) if !error.is(Outcome::NotPublished) => return Err(error.into()),
            _ => {}
        }
        Ok(self.tell(&Event::Withdrawn { filename: name })?)
    }

    fn tell(&self, event: &Event<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, event)?;
            return writeln!(out);
        }
        match event {
            Event::Serving { user, address } => writeln!(out, "{} serves at {address}", visible(user)),
            Event::Published { filename } => writeln!(out, "published {}", visible(filename)),
            Event::Withdrawn { filename } => writeln!(out, "withdrawn {}", visible(filename)),
        }
    }

    /// Looks for files below the directory.
    fn look(&mut self, directory: &Dir) -> Seen {
        let mut seen = Seen::default();
        let mut directories = vec![PathBuf::new()];
        while let Some(below) = directories.pop() {
            let path = if below.as_os_str().is_empty() { Path::new(".") } else { &below };
            let entries = match directory.read_dir(path) {
                Ok(entries) => entries,
                // The folder may be gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.leave_out(&path.to_string_lossy(), &error.to_string());
                    seen.unseen.push(composed_path(&below));
                    continue;
                }
            };
            for entry in entries {
                let Ok(entry) = entry else {
                    seen.unseen.push(composed_path(&below));
                    continue;
                };
                let path = below.join(entry.file_name());
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => directories.push(path),
                    Ok(kind) if kind.is_file() => self.add(path, &entry, &mut seen.files),
                    // A link counts if it leads to a file below the directory.
                    Ok(kind)
                        if kind.is_symlink() && directory.metadata(&path).is_ok_and(|to| to.is_file()) =>
                    {
                        self.add(path, &entry, &mut seen.files);
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(_) => seen.unseen.push(composed_path(&path)),
                }
            }
        }
        seen
    }

    fn add(&mut self, path: PathBuf, entry: &DirEntry, files: &mut BTreeMap<String, Filename>) {
        let own = entry.file_name();
        if own.to_str().is_some_and(|name| DataDir::is_own(name) || is_part(name)) {
            return;
        }
        let Some(name) = path.to_str() else {
            return self.leave_out(&path.to_string_lossy(), "its name is not UTF-8");
        };
        let published = composed(name);
        match published.parse() {
            Ok(_) if files.contains_key(&published) => {
                self.leave_out(name, "another file has an equal name, with accents encoded differently");
            }
            Ok(filename) => {
                files.insert(published, filename);
            }
            Err(error) => self.leave_out(name, &format!("its name is {error}")),
        }
    }

    fn leave_out(&mut self, name: &str, why: &str) {
        if self.left_out.insert(name.to_owned()) {
            complain!("lonja: {} is not published: {why}", visible(name));
        }
    }
}

/// A path with its parts composed, as the names of published files are.
fn composed_path(path: &Path) -> PathBuf {
    path.to_str().map_or_else(|| path.to_owned(), |path| composed(path).into())
}

/// Sends a message for changes below a directory, for as long as the watcher lives. Without a
/// watcher (`None`), changes are found when the directory is compared with the index.
fn watch(directory: &Path, changes: SyncSender<()>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // If the channel is full, the directory will be looked at anyway.
            let _ = changes.try_send(());
        }
    });
    let watching = watcher.and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(|error| {
            complain!("lonja: cannot watch the directory, looking every {} s: {error}", CHECK.as_secs());
        })
        .ok()
}

/// Why the directory and the index were not compared to the end.
#[derive(Debug)]
enum Stopped {
    Peer(PeerError),
    Output(io::Error),
    /// A new session has been opened, so everything has to be compared again.
    Again,
}

impl From<PeerError> for Stopped {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_could_look_at_is_not_gone() {
        let files = [("a".to_owned(), "a".parse().unwrap())].into();
        let mut seen = Seen { files, unseen: vec!["sub".into()] };
        assert!(!seen.is_gone("a") && !seen.is_gone("sub/b") && !seen.is_gone("sub"));
        assert!(seen.is_gone("b") && seen.is_gone("subway"));
        // The directory itself could not be read.
        seen.unseen.push(PathBuf::new());
        assert!(!seen.is_gone("b"));
    }
}
