//! The sessions of a peer: how a session begins and ends, and how a session that a killed peer has
//! left behind is replaced.

use std::{num::NonZeroU16, sync::Arc};

use lonja_wire::{Command, Datetime, Outcome, Username};

use super::{Peer, PeerError, say_if_not, username};
use crate::{
    data_dir::{Marker, OpenSession, PublishedFile},
    index::Asker,
    serve::Server,
    shared::SharedFiles,
    text::visible,
};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) server: Server,
    pub(super) shared: Arc<SharedFiles>,
    pub(super) files: Vec<PublishedFile>,
    /// The marker of the session; `None` if another process has it.
    marker: Option<Marker>,
}

impl Peer {
    /// Opens a session, serves its files, and acts as its user from now on. A session that this
    /// peer left behind when it was killed is replaced, and what it had published is published
    /// again.
    ///
    /// # Errors
    /// When the index refuses, or files cannot be served.
    pub(crate) fn connect(&mut self, now: &Datetime, name: &str) -> Result<(), PeerError> {
        let user = username(name)?;
        if self.sessions.contains_key(&user) {
            return self.connect_again(now, &user);
        }
        let mut marker = self.data.marker(&user)?;
        let left = marker.as_ref().and_then(Marker::left_behind);
        let left = left.filter(|session| session.index == self.settings.index.to_string());
        let opened = self.open(now, &user, &mut marker, left.as_ref());
        match opened {
            Ok((server, shared, again)) => {
                self.sessions.insert(user.clone(), Session { server, shared, files: Vec::new(), marker });
                self.user = Some(user.clone());
                if self.publish_again(&user, &again) {
                    self.keep_published(&user);
                }
                Ok(())
            }
            Err(error) => {
                // The marker stays if a session was left behind, or if the index may have opened
                // one although its answer was lost: the next attempt replaces that session.
                if left.is_none()
                    && !error.is_unknown()
                    && let Some(marker) = marker
                {
                    marker.clear();
                }
                Err(error)
            }
        }
    }

    /// Starts a server, and opens a session at the index with the server's port. Gives also the
    /// files that are to be published again.
    fn open(
        &self,
        now: &Datetime,
        user: &Username,
        marker: &mut Option<Marker>,
        left: Option<&OpenSession>,
    ) -> Result<(Server, Arc<SharedFiles>, Vec<PublishedFile>), PeerError> {
        let path = &self.settings.shared;
        let shared =
            SharedFiles::new(path).map_err(|source| PeerError::Share { path: path.clone(), source })?;
        let shared = Arc::new(if self.settings.serves_what_others_publish {
            let (data, user) = (self.data.clone(), user.clone());
            shared.following(move || {
                let published = data.published(&user).unwrap_or_default();
                published.into_iter().map(|file| file.filename).collect()
            })
        } else {
            shared
        });
        let server = Server::start(self.settings.bind, Arc::clone(&shared));
        let server = server.map_err(|error| PeerError::Serve(self.settings.bind, error))?;
        let port = server.address().port();
        let index = self.settings.index.to_string();
        let only_own = !self.settings.serves_what_others_publish;
        let session = OpenSession::at(index.clone(), left, port, only_own);
        // The marker is written before the index knows of the session, so that the session is known
        // again whenever this process is killed.
        if let Some(marker) = marker {
            marker.mark(&session)?;
        }
        let again = match self.connect_at(now, user, port) {
            Err(error) if error.is(Outcome::AlreadyConnected) => {
                let Some(left) = left else { return Err(error) };
                if !self.is_listed(now, user, &left.ports)? {
                    return Err(error);
                }
                if let Some(marker) = marker {
                    marker.mark(&OpenSession { replacing: true, ..session })?;
                }
                self.ask(now, Some(user), Command::Disconnect)?;
                self.connect_at(now, user, port)?;
                let again = self.data.published(user).unwrap_or_default();
                complain!(
                    "lonja: replaced the session of {user} that was left behind, {} files",
                    again.len()
                );
                again
            }
            // An earlier replacement was cut short after the session had been closed.
            Ok(()) if left.is_some_and(|left| left.replacing) => {
                self.data.published(user).unwrap_or_default()
            }
            connected => connected.map(|()| Vec::new())?,
        };
        if let Some(marker) = marker {
            // The session is open. A marker that cannot be written is no reason to end the session.
            say_if_not(marker.mark(&OpenSession::at(index, None, port, only_own)));
        }
        Ok((server, shared, again))
    }

    fn connect_at(&self, now: &Datetime, user: &Username, port: u16) -> Result<(), PeerError> {
        // A listener has a port other than 0.
        let port = NonZeroU16::new(port).unwrap_or(NonZeroU16::MAX);
        self.ask(now, Some(user), Command::Connect(port.into()))
    }

    /// Whether the index lists the user at one of these ports.
    fn is_listed(&self, now: &Datetime, user: &Username, ports: &[u16]) -> Result<bool, PeerError> {
        let asker = Asker { datetime: now.clone(), username: Some(user.clone()) };
        let listed = self.settings.index.list_users(asker, &self.interrupt)?.unwrap_or_default();
        Ok(listed.iter().any(|entry| entry.username == *user && ports.contains(&entry.port.get())))
    }

    /// Opens a session again that is open in this process, but that the index may have lost.
    fn connect_again(&mut self, now: &Datetime, user: &Username) -> Result<(), PeerError> {
        let Some(port) = self.sessions.get(user).map(|session| session.server.address().port()) else {
            return Ok(());
        };
        self.connect_at(now, user, port)?;
        if let Some(session) = self.sessions.get_mut(user) {
            session.files.clear();
            session.shared.withdraw_all();
        }
        self.user = Some(user.clone());
        self.keep_published(user);
        Ok(())
    }

    /// Publishes the files of a session that was left behind. False if the index did not answer for
    /// each file; the JSON file then has to stay as it is.
    fn publish_again(&mut self, user: &Username, files: &[PublishedFile]) -> bool {
        for (done, file) in files.iter().enumerate() {
            let now = self.clock.recent();
            let (Ok(filename), Ok(description)) = (file.filename.parse(), file.description.parse()) else {
                continue;
            };
            match self.publish_unkept(&now, user, &filename, &description) {
                Ok(()) => {}
                Err(PeerError::Index(error)) => {
                    let left = files.len() - done;
                    complain!("lonja: {left} files are not published again: {error}");
                    return false;
                }
                Err(error) => {
                    complain!("lonja: {} is not published again: {error}", visible(&file.filename));
                }
            }
        }
        true
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When there is no session, or the index does not answer. If the index may still list the
    /// session, its files are served on.
    pub(crate) fn disconnect(&mut self, now: &Datetime, name: &str) -> Result<(), PeerError> {
        let user = username(name)?;
        let disconnected = self.ask(now, Some(&user), Command::Disconnect);
        if is_closed(&disconnected) {
            self.close(&user);
        }
        disconnected
    }

    /// Ends all sessions of this process.
    pub(crate) fn leave(&mut self) {
        while let Some(user) = self.sessions.keys().next().cloned() {
            let now = self.clock.recent();
            let disconnected = self.ask(&now, Some(&user), Command::Disconnect);
            if is_closed(&disconnected) {
                self.close(&user);
                continue;
            }
            if let Err(error) = disconnected {
                complain!("lonja: {user} may stay connected: {error}");
            }
            // The marker stays, so that the next start replaces the session.
            self.sessions.remove(&user);
        }
    }

    pub(super) fn close(&mut self, user: &Username) {
        if let Some(session) = self.sessions.remove(user) {
            drop(session.server);
            if let Some(marker) = session.marker {
                marker.clear();
            }
        }
    }
}

/// Whether the index has no session of the user after this answer to DISCONNECT.
fn is_closed(disconnected: &Result<(), PeerError>) -> bool {
    let gone = |error: &PeerError| error.is(Outcome::NotConnected) || error.is(Outcome::NotRegistered);
    disconnected.as_ref().err().is_none_or(gone)
}
