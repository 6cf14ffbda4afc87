//! Sharing a directory: every file below it is published for as long as it is there.

mod event;
mod listing;
mod look;

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use cap_std::fs::Dir;
use lonja_wire::{Description, Filename, Operation, Outcome, Username};
use notify::{RecursiveMode, Watcher as _};

use crate::{
    CommandError,
    peer::{Peer, PeerError},
    shared::SharedFiles,
    signals::on_signal,
};
use event::Event;
use listing::{Listing, Stopped};
use look::{Looker, Seen};

/// How long nothing must have changed in the directory before it is looked at again.
const QUIET: Duration = Duration::from_millis(200);
/// How long after the first change the directory is looked at again, even if it keeps changing.
const BUSY: Duration = Duration::from_secs(2);
/// How often the directory is looked at, even if no change was noticed.
const LOOK: Duration = Duration::from_secs(30);
/// How often the index is asked whether it still has the session. The index records each question, and the questions
/// of a class of shares must not fill the audit.
const CHECK: Duration = Duration::from_secs(300);
/// How long to wait after the index did not answer. The wait is twice as long after each further
/// failure in a row, up to [`LOOK`].
const RETRY: Duration = Duration::from_secs(2);
/// How many files in a row the index may refuse before no more files are tried for now.
const NOT_TAKEN: u32 = 3;

/// Shares a directory as a user, with one description for all files.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    listing: Listing<'a>,
    looker: Looker,
    /// How many attempts in a row have failed. Standard error has told of the first.
    failures: u32,
}

impl<'a> Share<'a> {
    /// A share as the user `user`, who is not connected yet.
    pub(crate) fn new(peer: &'a mut Peer, user: Username, description: Description, json: bool) -> Self {
        let listing = Listing { peer, user, description, json };
        Self { listing, looker: Looker::default(), failures: 0 }
    }

    /// Shares the files below a directory until a signal ends the sharing.
    ///
    /// # Errors
    /// When sharing cannot begin, or standard output cannot be written. A later failure at the
    /// index is tried again instead.
    pub(crate) fn run(&mut self, directory: &Path) -> Result<(), CommandError> {
        let (changes, changed) = mpsc::sync_channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        let (end, wake, interrupt) =
            (Arc::clone(&ended), changes.clone(), self.listing.peer.interrupt().clone());
        on_signal(move |_| {
            if end.swap(true, Ordering::SeqCst) {
                // A second signal ends the process at once, whatever holds up the sharing.
                process::exit(1);
            }
            interrupt.raise();
            // If the channel is full, what is in it wakes the receiver as well.
            let _ = wake.try_send(());
        })?;
        let now = self.listing.peer.now();
        match self.listing.peer.register(&now, self.listing.user.as_str()) {
            Ok(()) => {}
            Err(error) if error.is(Outcome::AlreadyRegistered) => {}
            Err(error) => return Err(error.into()),
        }
        self.listing.peer.connect(&now, self.listing.user.as_str())?;
        let _watcher = watch(directory, changes);
        let result = self.follow(&changed, &ended);
        self.listing.peer.interrupt().reset();
        self.listing.peer.leave();
        result
    }

    /// Keeps the list at the index equal to what is in the directory, until `ended`.
    fn follow(&mut self, changed: &Receiver<()>, ended: &AtomicBool) -> Result<(), CommandError> {
        let (address, shared) = self.serving()?;
        Event::Serving { user: self.listing.user.as_str(), address }.print(self.listing.json)?;
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
                let check = wait < LOOK || checked.elapsed() >= CHECK;
                if check {
                    checked = Instant::now();
                }
                wait = self.reconcile(shared.directory(), check)?;
            }
        }
        Ok(())
    }

    fn serving(&self) -> Result<(SocketAddr, Arc<SharedFiles>), PeerError> {
        // The user has just been connected, so there is a session.
        self.listing
            .peer
            .serving(&self.listing.user)
            .ok_or(PeerError::NotListed(self.listing.user.to_string()))
    }

    /// Publishes what is new in the directory and withdraws what is gone. Gives how long to wait
    /// before the next time.
    fn reconcile(&mut self, directory: &Dir, check: bool) -> io::Result<Duration> {
        let seen = self.looker.look(directory);
        let reconciled = self.reconcile_with(&seen, check);
        match reconciled {
            Ok(()) => {
                if std::mem::take(&mut self.failures) > 0 {
                    complain!("lonja: the index answers again");
                }
                Ok(LOOK)
            }
            // Nobody reads standard output any more, so the sharing ends.
            Err(Stopped::Output(error)) => Err(error),
            Err(Stopped::Again) => Ok(QUIET),
            Err(Stopped::Peer(error)) => {
                // A failure that a signal has caused is not told.
                if self.failures == 0 && !self.listing.peer.interrupt().is_raised() {
                    complain!("lonja: {error}; trying again");
                }
                let wait = RETRY.saturating_mul(2_u32.saturating_pow(self.failures)).min(LOOK);
                self.failures += 1;
                Ok(wait)
            }
        }
    }

    fn reconcile_with(&mut self, seen: &Seen, check: bool) -> Result<(), Stopped> {
        if check {
            self.listing.check()?;
        }
        let published = self.listing.published();
        let known: HashSet<_> = published.iter().map(String::as_str).collect();
        let result = self.bring_up_to_date(
            published.iter().filter(|name| seen.is_gone(name)),
            seen.files.iter().filter(|(name, _)| !known.contains(name.as_str())).map(|(_, new)| new),
        );
        self.listing.keep_if_changed(&published);
        result
    }

    fn bring_up_to_date<'n>(
        &mut self,
        gone: impl Iterator<Item = &'n String>,
        new: impl Iterator<Item = &'n Filename>,
    ) -> Result<(), Stopped> {
        for gone in gone {
            self.listing.withdraw(gone)?;
        }
        let mut not_taken = None;
        let mut in_a_row = 0;
        for new in new {
            match self.listing.publish(new) {
                Err(Stopped::Peer(error @ PeerError::Refused { operation: Operation::Publish, .. })) => {
                    self.looker.leave_out(
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
                    self.looker.note_published(new.as_str());
                    in_a_row = 0;
                }
            }
        }
        not_taken.map_or(Ok(()), |error| Err(error.into()))
    }
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
            complain!("lonja: cannot watch the directory, looking every {} s: {error}", LOOK.as_secs());
        })
        .ok()
}
