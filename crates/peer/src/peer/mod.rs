//! What a peer does at the index: the operations, and the JSON files that it keeps of their
//! results.

mod error;
mod session;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use lonja_wire::{
    Command, Datetime, Description, Filename, Operation, Outcome, Username,
    reply::{FileEntry, UserEntry},
};

use crate::{
    clock::Clock,
    data_dir::{DataDir, DataError, ListedUser, PublishedFile},
    fetch::Source,
    index::{Asker, Index, Listed},
    interrupt::Interrupt,
    names::{self, composed, other_spellings},
    shared::SharedFiles,
};
pub(crate) use error::PeerError;
use session::Session;

/// Settings of a peer: whom it asks, what it serves and where, and where it keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The index that the peer asks.
    pub(crate) index: Index,
    /// The URL of the SOAP service that gives the time.
    pub(crate) datetime: String,
    /// The directory of the JSON files that the peer keeps.
    pub(crate) data_dir: PathBuf,
    /// The directory whose files the peer serves.
    pub(crate) shared: PathBuf,
    /// Whether the peer serves the files that its JSON file of published files names, which other
    /// processes write, instead of the files that it publishes itself.
    pub(crate) serves_what_others_publish: bool,
    /// The address to serve files at; port 0 lets the system choose.
    pub(crate) bind: SocketAddr,
}

/// A peer: the user that it acts as, and the sessions that it has open.
#[derive(Debug)]
pub(crate) struct Peer {
    settings: Settings,
    clock: Clock,
    data: DataDir,
    interrupt: Interrupt,
    user: Option<Username>,
    sessions: BTreeMap<Username, Session>,
}

impl Peer {
    /// A peer that acts as no user and has no session yet.
    #[must_use]
    pub(crate) fn new(settings: Settings, interrupt: Interrupt) -> Self {
        let clock = Clock::new(&settings.datetime);
        let data = DataDir::new(settings.data_dir.clone());
        Self { settings, clock, data, interrupt, user: None, sessions: BTreeMap::new() }
    }

    /// The interrupt that stops the peer's requests.
    #[must_use]
    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The directory whose files the peer serves.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        &self.settings.shared
    }

    /// The user that the peer acts as, if any.
    #[must_use]
    pub(crate) fn user(&self) -> Option<&Username> {
        self.user.as_ref()
    }

    /// Acts from now on as a user who was registered before.
    ///
    /// # Errors
    /// When the name is not a valid username.
    pub(crate) fn set_user(&mut self, name: &str) -> Result<Username, PeerError> {
        let user = username(name)?;
        self.user = Some(user.clone());
        Ok(user)
    }

    /// The time for a request, as [`Clock::now`] gives it.
    pub(crate) fn now(&mut self) -> Datetime {
        self.clock.now()
    }

    /// The time for one of many requests in a row, as [`Clock::recent`] gives it.
    pub(crate) fn recent(&mut self) -> Datetime {
        self.clock.recent()
    }

    /// Registers a user, and acts as that user from now on.
    ///
    /// # Errors
    /// When the name is taken, or the index does not answer.
    pub(crate) fn register(&mut self, now: &Datetime, name: &str) -> Result<(), PeerError> {
        let user = username(name)?;
        self.ask(now, Some(&user), Command::Register)?;
        self.user = Some(user);
        Ok(())
    }

    /// Unregisters a user, which ends the user's session.
    ///
    /// # Errors
    /// When there is no such user, or the index does not answer.
    pub(crate) fn unregister(&mut self, now: &Datetime, name: &str) -> Result<(), PeerError> {
        let user = username(name)?;
        self.ask(now, Some(&user), Command::Unregister)?;
        self.close(&user);
        Ok(())
    }

    /// Publishes a file of the user that the peer acts as, and adds the file to the user's JSON
    /// file.
    ///
    /// # Errors
    /// When the index refuses or does not answer, or when the process that serves the user's files
    /// would not serve this file.
    pub(crate) fn publish(&mut self, now: &Datetime, name: &str, description: &str) -> Result<(), PeerError> {
        let filename = filename(&composed(name))?;
        let description = composed(description);
        let description = description.parse().map_err(|error| PeerError::Field("description", error))?;
        let Some(user) = self.user.clone() else {
            return self.ask(now, None, Command::Publish(filename, description));
        };
        self.check_is_served(&user)?;
        let published = self.publish_unkept(now, &user, &filename, &description);
        if published.as_ref().err().is_none_or(|error| error.is(Outcome::AlreadyPublished)) {
            let file = PublishedFile { filename: filename.to_string(), description: description.to_string() };
            self.keep_published_or(&user, |files| {
                files.retain(|kept| kept.filename != file.filename);
                files.push(file);
            });
        }
        published
    }

    /// Checks that whoever serves the user's files would serve a file that this process publishes.
    /// Where the files are served is known only of processes with the same directory of data.
    fn check_is_served(&self, user: &Username) -> Result<(), PeerError> {
        if self.sessions.contains_key(user) {
            return Ok(());
        }
        match self.data.session_elsewhere(user)? {
            Some(session) if session.only_own && session.index == self.settings.index.to_string() => {
                Err(PeerError::ServedElsewhere(user.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Publishes a file, and serves it from then on. The file is not in the JSON file before
    /// [`Self::keep_published`].
    ///
    /// # Errors
    /// When the index refuses or does not answer.
    pub(crate) fn publish_unkept(
        &mut self,
        now: &Datetime,
        user: &Username,
        filename: &Filename,
        description: &Description,
    ) -> Result<(), PeerError> {
        let published = self.ask(now, Some(user), Command::Publish(filename.clone(), description.clone()));
        // The index may list the file already, because of an attempt whose answer was lost.
        let listed = published.as_ref().err().is_none_or(|error| error.is(Outcome::AlreadyPublished));
        if listed && let Some(session) = self.sessions.get_mut(user) {
            session.shared.publish(filename);
            if session.files.iter().all(|file| file.filename != filename.as_str()) {
                let (filename, description) = (filename.to_string(), description.to_string());
                session.files.push(PublishedFile { filename, description });
            }
        }
        published
    }

    /// Forgets what a session of this process has published. The files are served on.
    pub(crate) fn forget_published(&mut self, user: &Username) {
        if let Some(session) = self.sessions.get_mut(user) {
            session.files.clear();
        }
    }

    /// Withdraws a file of the user that the peer acts as, whichever spelling of the file's name is
    /// published.
    ///
    /// # Errors
    /// When the index refuses or does not answer.
    pub(crate) fn delete(&mut self, now: &Datetime, name: &str) -> Result<(), PeerError> {
        let user = self.user.clone();
        let delete = |peer: &mut Self, name: &str| match &user {
            Some(user) => peer.delete_unkept(now, user, &filename(name)?),
            None => peer.ask(now, None, Command::Delete(filename(name)?)),
        };
        self.in_any_spelling(name, Outcome::NotPublished, delete)?;
        if let Some(user) = user {
            self.keep_published_or(&user, |files| files.retain(|kept| !names::is_same(&kept.filename, name)));
        }
        Ok(())
    }

    /// Writes what the user's session in this process has published to the user's JSON file. If this process
    /// has no session of the user, `change` is made to the file. A process that has the session may serve
    /// what the file names.
    fn keep_published_or(&self, user: &Username, change: impl FnOnce(&mut Vec<PublishedFile>)) {
        if self.sessions.contains_key(user) {
            self.keep_published(user);
        } else {
            say_if_not(self.data.change_published(user, change));
        }
    }

    /// Carries out an operation with a name that a person typed. As long as the index does not know
    /// the name (`unknown`), the operation is repeated with the next spelling of it.
    fn in_any_spelling<T>(
        &mut self,
        typed: &str,
        unknown: Outcome,
        carry_out: impl Fn(&mut Self, &str) -> Result<T, PeerError>,
    ) -> Result<T, PeerError> {
        let mut done = carry_out(self, &composed(typed));
        for spelling in other_spellings(typed) {
            if !done.as_ref().is_err_and(|error| error.is(unknown)) {
                break;
            }
            done = carry_out(self, &spelling);
        }
        done
    }

    /// Withdraws a file. The file is in the JSON file until [`Self::keep_published`].
    ///
    /// # Errors
    /// When the index refuses or does not answer.
    pub(crate) fn delete_unkept(
        &mut self,
        now: &Datetime,
        user: &Username,
        filename: &Filename,
    ) -> Result<(), PeerError> {
        let deleted = self.ask(now, Some(user), Command::Delete(filename.clone()));
        let gone = deleted.as_ref().err().is_none_or(|error| error.is(Outcome::NotPublished));
        if gone && let Some(session) = self.sessions.get_mut(user) {
            session.shared.withdraw(filename.as_str());
            session.files.retain(|file| file.filename != filename.as_str());
        }
        deleted
    }

    /// The files that the user's session in this process has published.
    #[must_use]
    pub(crate) fn published(&self, user: &Username) -> &[PublishedFile] {
        self.sessions.get(user).map_or(&[], |session| &session.files)
    }

    /// The address at which the user's session in this process serves, and what it serves.
    #[must_use]
    pub(crate) fn serving(&self, user: &Username) -> Option<(SocketAddr, Arc<SharedFiles>)> {
        self.sessions.get(user).map(|session| (session.server.address(), Arc::clone(&session.shared)))
    }

    /// Writes what the user's session in this process has published to the user's JSON file. The
    /// index knows the files already: if the JSON file cannot be written, standard error says so.
    pub(crate) fn keep_published(&self, user: &Username) {
        if let Some(session) = self.sessions.get(user) {
            say_if_not(self.data.keep_published(user, &session.files));
        }
    }

    /// Asks for the connected users, and keeps them in the JSON file.
    ///
    /// # Errors
    /// When the index refuses or does not answer.
    pub(crate) fn list_users(&mut self, now: &Datetime) -> Result<Vec<UserEntry>, PeerError> {
        let listed = self.settings.index.list_users(self.asker(now), &self.interrupt)?;
        let users = listed_or(Operation::ListUsers, listed)?;
        let rows: Vec<_> = users.iter().map(ListedUser::from).collect();
        say_if_not(self.data.keep_listed_users(self.user.as_ref(), &rows));
        Ok(users)
    }

    /// Asks for the files that a user has published.
    ///
    /// # Errors
    /// When the index refuses or does not answer.
    pub(crate) fn list_content(&mut self, now: &Datetime, of: &str) -> Result<Vec<FileEntry>, PeerError> {
        self.in_any_spelling(of, Outcome::RemoteNotRegistered, |peer, of| {
            let of = of.parse().map_err(|error| PeerError::Field("username", error))?;
            let listed = peer.settings.index.list_content(peer.asker(now), &of, &peer.interrupt)?;
            listed_or(Operation::ListContent, listed)
        })
    }

    /// The name under which a user has published the file whose name a person typed: the typed
    /// name, or a canonically equal name if that is published instead.
    ///
    /// # Errors
    /// When the typed name is not a valid filename.
    pub(crate) fn offered_name(&mut self, of: &str, typed: &str) -> Result<Filename, PeerError> {
        let typed = composed(typed);
        if !typed.is_ascii() {
            let now = self.recent();
            // Where the list cannot be had, the owner is asked for the composed name.
            let offered = self.list_content(&now, of).unwrap_or_default();
            if let Some(file) = names::find(&offered, &typed, |file| file.filename.as_str()) {
                return Ok(file.filename.clone());
            }
        }
        filename(&typed)
    }

    /// Checks that the index has a session of the user.
    ///
    /// # Errors
    /// When the index has no such session, or does not answer.
    pub(crate) fn check_session(&self, now: &Datetime, user: &Username) -> Result<(), PeerError> {
        // Nobody has the empty name, so a connected user gets the short answer that there is no
        // such user.
        match self.ask(now, Some(user), Command::ListContent(None)) {
            Err(error) if error.is(Outcome::RemoteNotRegistered) => Ok(()),
            answer => answer,
        }
    }

    /// Where a user serves files, according to the last list of users.
    ///
    /// # Errors
    /// When the user was not listed.
    pub(crate) fn source(&self, user: &str) -> Result<Source, PeerError> {
        let listed = self.data.listed_users(self.user.as_ref())?;
        let row = names::find(&listed, user, |row| &row.username);
        let address = row.and_then(|row| {
            let ip: IpAddr = row.address.parse().ok()?;
            Some(SocketAddr::new(ip, row.port.parse().ok()?))
        });
        match address {
            Some(address) => Ok(Source { user: crate::text::visible(user), address }),
            None => Err(PeerError::NotListed(crate::text::visible(user))),
        }
    }

    /// The names of the users that were listed last.
    #[must_use]
    pub(crate) fn listed_users(&self) -> Vec<String> {
        let listed = self.data.listed_users(self.user.as_ref()).unwrap_or_default();
        listed.into_iter().map(|row| row.username).collect()
    }

    fn asker(&self, now: &Datetime) -> Asker {
        Asker { datetime: now.clone(), username: self.user.clone() }
    }

    /// Sends a request that is answered with a status alone.
    ///
    /// # Errors
    /// When the index refuses or does not answer.
    pub(crate) fn ask(
        &self,
        now: &Datetime,
        user: Option<&Username>,
        command: Command,
    ) -> Result<(), PeerError> {
        let operation = command.operation();
        let asker = Asker { datetime: now.clone(), username: user.cloned() };
        match self.settings.index.ask(&asker.request(command), &self.interrupt)? {
            0 => Ok(()),
            status => Err(PeerError::Refused { operation, status }),
        }
    }
}

fn say_if_not(kept: Result<(), DataError>) {
    if let Err(error) = kept {
        complain!("lonja: {error}");
    }
}

fn username(name: &str) -> Result<Username, PeerError> {
    composed(name).parse().map_err(|error| PeerError::Field("username", error))
}

fn filename(name: &str) -> Result<Filename, PeerError> {
    name.parse().map_err(|error| PeerError::Field("file name", error))
}

fn listed_or<T>(operation: Operation, listed: Listed<T>) -> Result<Vec<T>, PeerError> {
    listed.map_err(|status| PeerError::Refused { operation, status })
}
