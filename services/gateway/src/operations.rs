//! The operations: which services each one calls, and what the answers mean (docs/protocol.md 4).

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lonja_chassis::service::Backends;
use lonja_origin::Advertise;
use lonja_proto::{
    Reason,
    catalog::{DeleteFileRequest, EndSessionRequest, File, HasFileRequest, PublishFileRequest},
    registry::{
        CloseSessionRequest, Endpoint, GetRemoteSessionRequest, GetSessionRequest, GetSessionResponse,
        NoteDialectRequest, OnlyFor, OpenSessionRequest, RegisterUserRequest, UnregisterUserRequest,
    },
};
use lonja_telemetry::throttle::Throttle;
use lonja_wire::{Command, Description, Dialect, Filename, Operation, Outcome, Port, Request, Username};
use tokio::time;
use tonic::Status;

use crate::{
    backend::NotDone,
    companion::Companion,
    lists::{Lists, Rendered, Strings},
    ownership::Ownership,
};

/// How long the catalog may take to remove what an ended session published. The session is over
/// even if the catalog does not answer: then the sweeper tells the catalog again.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long a list may take before the registry is asked whether calls are held.
const DOUBT: Duration = Duration::from_millis(500);

/// How long the registry may take to keep a peer's dialect. The peer waits meanwhile.
const NOTE: Duration = Duration::from_millis(500);

/// Bounds the log of peers whose address is doubtful or cannot be listed.
static DOUBTFUL: Throttle = Throttle::events();
/// Bounds the log of ended sessions that the catalog did not remove.
static FAREWELLS: Throttle = Throttle::events();
/// Bounds the log of dialects that the registry did not keep.
static NOTES: Throttle = Throttle::events();

/// What the reply to an operation that succeeded says.
#[derive(Debug)]
pub(crate) enum Content {
    /// Nothing but the status.
    Status,
    /// A list with fields of fixed width.
    List(Arc<Rendered>),
    /// A list of strings.
    Strings(Strings),
    /// Where the owner of a file is.
    Owner(Ipv4Addr, u16),
}

/// What is known of how a peer reads replies before the registry is asked for its user's session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hints {
    /// What a setting says.
    pub(crate) set: Option<Dialect>,
    /// Whether an original peer may have sent the request.
    pub(crate) is_original: bool,
}

impl Hints {
    /// The dialect of a list, if the dialect is not the one that the request's encoding says.
    fn of_list(self, noted: Option<Dialect>) -> Option<Dialect> {
        // Of the peers whose requests cannot be an original peer's, none reads an original's lists.
        self.set.or(noted).or((!self.is_original).then_some(Dialect::Text))
    }
}

/// The result of an operation that succeeded.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) content: Content,
    /// The dialect of the reply, if the operation came to know more than [`Hints::set`].
    pub(crate) dialect: Option<Dialect>,
}

impl Done {
    /// A status, and nothing that was learned.
    pub(crate) const STATUS: Self = Self { content: Content::Status, dialect: None };
}

/// Carries out the requests of peers.
#[derive(Debug)]
pub(crate) struct Operations {
    pub(crate) backend: Backends,
    pub(crate) advertise: Advertise,
    pub(crate) ownership: Ownership,
    pub(crate) lists: Lists,
}

impl Operations {
    /// Carries out a request of the peer at this address. `companion` goes with the change that the request
    /// makes.
    pub(crate) async fn carry_out(
        &self,
        request: &Request,
        peer: SocketAddr,
        hints: Hints,
        companion: &Companion,
    ) -> Result<Done, NotDone> {
        let Some(username) = &request.username else {
            return Err(NotDone(Outcome::NotRegistered));
        };
        match &request.command {
            Command::Register => self.register(username, peer, companion).await,
            Command::Unregister => self.unregister(username, peer, companion).await,
            Command::Connect(port) => self.connect(username, peer, *port, companion).await,
            Command::Disconnect => self.disconnect(username, peer, companion).await,
            Command::Publish(filename, description) => {
                self.publish(username, peer, filename, description, companion).await
            }
            Command::Delete(filename) => self.delete(username, peer, filename, companion).await,
            Command::ListUsers => self.list_users(username, hints).await,
            Command::ListContent(remote) => self.list_content(username, remote.as_ref(), hints).await,
            Command::GetFile(second) => self.get_file(username, second.as_ref()).await,
        }
    }

    async fn register(
        &self,
        username: &Username,
        peer: SocketAddr,
        companion: &Companion,
    ) -> Result<Done, NotDone> {
        let owner = self.ownership.owner(peer, &self.advertise);
        let request = RegisterUserRequest { username: username.to_string(), owner };
        companion.with(self.backend.registry.register_user(request)).await?;
        Ok(Done::STATUS)
    }

    async fn unregister(
        &self,
        username: &Username,
        peer: SocketAddr,
        companion: &Companion,
    ) -> Result<Done, NotDone> {
        let only_for = self.only_for(peer);
        let request = UnregisterUserRequest { username: username.to_string(), only_for };
        let ended = companion.with(self.backend.registry.unregister_user(request)).await;
        let ended = self.ownership.judged(ended, username, peer)?;
        if !ended.ended_session_id.is_empty() {
            self.forget(ended.ended_session_id).await;
        }
        Ok(Done::STATUS)
    }

    async fn connect(
        &self,
        username: &Username,
        peer: SocketAddr,
        port: Port,
        companion: &Companion,
    ) -> Result<Done, NotDone> {
        let Some(advertised) = self.advertise.peer(peer.ip()) else {
            if let Some(suppressed) = DOUBTFUL.admit() {
                tracing::warn!(%peer, suppressed, "a peer without an IPv4 address cannot be listed");
            }
            return Err(NotDone(Outcome::Failed));
        };
        if advertised.doubtful
            && let Some(suppressed) = DOUBTFUL.admit()
        {
            tracing::warn!(
                seen = %peer.ip().to_canonical(),
                suppressed,
                "a peer is listed at the default gateway's address, where others may not reach it: \
                 say which address to list with --advertise gateway=IPV4"
            );
        }
        let endpoint = Endpoint { ipv4: advertised.address.to_bits(), port: port.get().into() };
        // Only an owner keeps others from connecting the user. Without owners, a CONNECT for a connected user is
        // answered with "already connected", whoever asks.
        let only_for = self.only_for(peer).filter(|only| only.as_owner);
        let endpoint = Some(endpoint);
        let request = OpenSessionRequest { username: username.to_string(), endpoint, only_for };
        let opened = companion.with(self.backend.registry.open_session(request)).await;
        self.ownership.judged(opened, username, peer)?;
        Ok(Done::STATUS)
    }

    async fn disconnect(
        &self,
        username: &Username,
        peer: SocketAddr,
        companion: &Companion,
    ) -> Result<Done, NotDone> {
        let only_for = self.only_for(peer);
        let request = CloseSessionRequest { username: username.to_string(), only_for, only_session: None };
        let ended = companion.with(self.backend.registry.close_session(request)).await;
        let ended = self.ownership.judged(ended, username, peer)?;
        self.forget(ended.ended_session_id).await;
        Ok(Done::STATUS)
    }

    fn only_for(&self, peer: SocketAddr) -> Option<OnlyFor> {
        self.ownership.only_for(peer, &self.advertise)
    }

    async fn publish(
        &self,
        username: &Username,
        peer: SocketAddr,
        filename: &Filename,
        description: &Description,
        companion: &Companion,
    ) -> Result<Done, NotDone> {
        self.change(username, peer, companion, |session_id| {
            let file = File { filename: filename.to_string(), description: description.to_string() };
            let request = PublishFileRequest { session_id, username: username.to_string(), file: Some(file) };
            self.backend.catalog.publish_file(request)
        })
        .await
    }

    async fn delete(
        &self,
        username: &Username,
        peer: SocketAddr,
        filename: &Filename,
        companion: &Companion,
    ) -> Result<Done, NotDone> {
        self.change(username, peer, companion, |session_id| {
            let request = DeleteFileRequest { session_id, filename: filename.to_string() };
            self.backend.catalog.delete_file(request)
        })
        .await
    }

    /// Has the catalog change what the user's session has published. If the session ends between the
    /// registry's answer and the catalog's, the registry is asked again: the user may have another session
    /// by then, or not be registered any more.
    async fn change<A, F>(
        &self,
        username: &Username,
        peer: SocketAddr,
        companion: &Companion,
        change: impl Fn(String) -> F,
    ) -> Result<Done, NotDone>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let mut ended = String::new();
        loop {
            let only_for = self.only_for(peer);
            let request = GetSessionRequest { username: username.to_string(), only_for };
            let session = self.backend.registry.get_session(request).await;
            let session = self.ownership.judged(session, username, peer)?;
            let GetSessionResponse { session_id, dialect, .. } = session;
            if session_id == ended {
                return Err(NotDone(Outcome::NotConnected));
            }
            let dialect = Dialect::from_name(&dialect);
            companion.note(dialect);
            match companion.with(change(session_id.clone())).await {
                Err(status) if Reason::try_from(&status) == Ok(Reason::SessionEnded) => ended = session_id,
                changed => {
                    changed?;
                    return Ok(Done { dialect, ..Done::STATUS });
                }
            }
        }
    }

    async fn list_users(&self, username: &Username, hints: Hints) -> Result<Done, NotDone> {
        let ask = |request| self.backend.registry.list_sessions(request);
        let users = self.lists.users(ask, username.to_string());
        let (list, noted) = self.list_or_hold(username, users).await?;
        self.listed(Operation::ListUsers, list, hints.of_list(noted)).await
    }

    async fn list_content(
        &self,
        username: &Username,
        remote: Option<&Username>,
        hints: Hints,
    ) -> Result<Done, NotDone> {
        let request = GetRemoteSessionRequest {
            username: username.to_string(),
            remote_username: remote.map(Username::to_string).unwrap_or_default(),
        };
        let remote = self.backend.registry.get_remote_session(request).await?;
        let dialect = hints.of_list(Dialect::from_name(&remote.dialect));
        let list = if remote.session_id.is_empty() {
            Lists::empty()
        } else {
            let ask = |request| self.backend.catalog.list_files(request);
            self.list_or_hold(username, self.lists.files(ask, remote.session_id)).await?
        };
        self.listed(Operation::ListContent, list, dialect).await
    }

    async fn listed(
        &self,
        operation: Operation,
        list: Arc<Rendered>,
        dialect: Option<Dialect>,
    ) -> Result<Done, NotDone> {
        let strings = match dialect {
            Some(dialect) => self.lists.strings(dialect, operation, &list).await?,
            None => None,
        };
        let content = strings.map_or(Content::List(list), Content::Strings);
        Ok(Done { content, dialect })
    }

    /// Says where the owner of a file is. Some peers name the asker and the owner, others the owner
    /// and the file (docs/protocol.md 4).
    async fn get_file(&self, first: &Username, second: Option<&Username>) -> Result<Done, NotDone> {
        let second = second.ok_or(NotDone(Outcome::OwnerNotConnected))?;
        let owner = match self.session(second).await {
            Ok(owner) => owner,
            Err(NotDone(Outcome::NotRegistered)) => {
                let first = self.session(first).await.map_err(of_owner)?;
                if !looks_like_a_file(second) && !self.has_published(&first.session_id, second).await? {
                    return Err(NotDone(Outcome::OwnerNotConnected));
                }
                first
            }
            Err(other) => return Err(of_owner(other)),
        };
        let Endpoint { ipv4, port } = owner.endpoint.unwrap_or_default();
        let port = u16::try_from(port).unwrap_or_default();
        Ok(Done { content: Content::Owner(Ipv4Addr::from_bits(ipv4), port), dialect: None })
    }

    /// Whether a session has published a file of this name.
    async fn has_published(&self, session_id: &str, name: &Username) -> Result<bool, NotDone> {
        let request = HasFileRequest { session_id: session_id.to_owned(), filename: name.to_string() };
        Ok(self.backend.catalog.has_file(request).await?.published)
    }

    /// Keeps in the user's session that the user's peer reads this dialect; `None` forgets what was
    /// kept. A user without a session needs nothing to be kept, and a peer that may not act for the user
    /// changes nothing.
    pub(crate) async fn note(&self, username: &Username, peer: SocketAddr, dialect: Option<Dialect>) {
        let dialect = dialect.map(Dialect::name).unwrap_or_default().to_owned();
        let only_for = self.only_for(peer);
        let request = NoteDialectRequest { username: username.to_string(), dialect, only_for };
        let noted = time::timeout(NOTE, self.backend.registry.note_dialect(request)).await;
        let error = match noted {
            Ok(Ok(_)) => return,
            Ok(Err(status)) if Reason::try_from(&status).is_ok() => return,
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "the service does not answer".to_owned(),
        };
        if let Some(suppressed) = NOTES.admit() {
            tracing::warn!(
                error,
                suppressed,
                "how a peer reads replies was not kept: its lists may be wrong"
            );
        }
    }

    /// Waits for a list. Lists come on streams of their own, and a service says only on a stream of
    /// batches that it holds calls. So after [`DOUBT`] the registry is asked for the session in a
    /// batch: if the registry holds calls, the client learns that.
    async fn list_or_hold<T>(
        &self,
        username: &Username,
        list: impl Future<Output = Result<T, NotDone>>,
    ) -> Result<T, NotDone> {
        let asking = async {
            time::sleep(DOUBT).await;
            let _ = self.session(username).await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            list = list => list,
            never = asking => match never {},
        }
    }

    async fn session(&self, username: &Username) -> Result<GetSessionResponse, NotDone> {
        let request = GetSessionRequest { username: username.to_string(), only_for: None };
        Ok(self.backend.registry.get_session(request).await?)
    }

    async fn forget(&self, session_id: String) {
        let farewell = self.backend.catalog.end_session(EndSessionRequest { session_id });
        let error = match time::timeout(FAREWELL, farewell).await {
            Ok(Ok(_)) => return,
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "the service does not answer".to_owned(),
        };
        if let Some(suppressed) = FAREWELLS.admit() {
            tracing::warn!(
                error,
                suppressed,
                "the catalog was not told that a session ended: the sweeper will tell it"
            );
        }
    }
}

/// Whether a name is more likely a file's than a user's: the name has an extension or a path.
fn looks_like_a_file(name: &Username) -> bool {
    name.as_str().contains(['.', '/', '\\'])
}

/// The outcome of GET_FILE when the owner's session is not there.
fn of_owner(NotDone(outcome): NotDone) -> NotDone {
    match outcome {
        Outcome::NotRegistered | Outcome::NotConnected => NotDone(Outcome::OwnerNotConnected),
        other => NotDone(other),
    }
}
