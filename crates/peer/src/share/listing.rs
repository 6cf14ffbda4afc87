//! The list of what a user publishes, as the index has it.

use std::io;

use lonja_wire::{Description, Filename, Outcome, Username};

use super::event::Event;
use crate::peer::{Peer, PeerError};

/// A user's list at the index, with one description for all files.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) peer: &'a mut Peer,
    pub(super) user: Username,
    pub(super) description: Description,
    pub(super) json: bool,
}

/// Why the directory and the index were not compared to the end.
#[derive(Debug)]
pub(super) enum Stopped {
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

impl Listing<'_> {
    /// The names of the files that are published, as far as this peer knows.
    pub(super) fn published(&self) -> Vec<String> {
        self.peer.published(&self.user).iter().map(|file| file.filename.clone()).collect()
    }

    /// Keeps on disk what is published now, if that is not `before`.
    pub(super) fn keep_if_changed(&self, before: &[String]) {
        if !self.peer.published(&self.user).iter().map(|file| &file.filename).eq(before) {
            self.peer.keep_published(&self.user);
        }
    }

    /// Checks that the index still has the session, and opens the session again if not.
    pub(super) fn check(&mut self) -> Result<(), Stopped> {
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

    /// Publishes a file. A session that is gone is opened again first.
    pub(super) fn publish(&mut self, filename: &Filename) -> Result<(), Stopped> {
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
        Ok(Event::Published { filename: filename.as_str() }.print(self.json)?)
    }

    /// Takes a file off the list.
    pub(super) fn withdraw(&mut self, name: &str) -> Result<(), Stopped> {
        let now = self.peer.recent();
        let Ok(filename) = name.parse() else { return Ok(()) };
        match self.peer.delete_unkept(&now, &self.user, &filename) {
            Err(error) if !error.is(Outcome::NotPublished) => return Err(error.into()),
            _ => {}
        }
        Ok(Event::Withdrawn { filename: name }.print(self.json)?)
    }
}
