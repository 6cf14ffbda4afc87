//! The operations: which services each one calls, and what the answers mean (docs/protocol.md 4).

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lonja_chassis::throttle::Throttle;
use lonja_proto::{
    catalog::{
        DELETE_FILE, DeleteFileRequest, END_SESSION, EndSessionRequest, File, PUBLISH_FILE,
        PublishFileRequest,
    },
    registry::{
        CLOSE_SESSION, CloseSessionRequest, Endpoint, GET_REMOTE_SESSION, GET_SESSION,
        GetRemoteSessionRequest, GetSessionRequest, OPEN_SESSION, OpenSessionRequest, REGISTER_USER,
        RegisterUserRequest, UNREGISTER_USER, UnregisterUserRequest,
    },
};
use lonja_wire::{Command, Description, Filename, Outcome, Port, Request, Username};
use tokio::time;

use crate::{
    advertise::Advertise,
    backend::{Backend, NotDone},
    lists::{Lists, Rendered},
};

/// How long the catalog may take to remove what an ended session published. The session is over
/// even if the catalog does not answer: then the sweeper tells the catalog again.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long a list may take before the registry is asked whether calls are held.
const DOUBT: Duration = Duration::from_millis(500);

/// Bounds the log of peers whose address is doubtful or cannot be listed.
static DOUBTFUL: Throttle = Throttle::events();
/// Bounds the log of ended sessions that the catalog did not remove.
static FAREWELLS: Throttle = Throttle::events();

/// The result of an operation that succeeded: a list, if the operation returns one.
pub(crate) type Done = Option<Arc<Rendered>>;

/// Carries out the requests of peers.
#[derive(Debug)]
pub(crate) struct Operations {
    pub(crate) backend: Backend,
    pub(crate) advertise: Advertise,
    pub(crate) lists: Lists,
}

impl Operations {
    /// Carries out a request of the peer at this address.
    pub(crate) async fn carry_out(&self, request: &Request, peer: SocketAddr) -> Result<Done, NotDone> {
        let Some(username) = &request.username else {
            return Err(NotDone(Outcome::NotRegistered));
        };
        match &request.command {
            Command::Register => self.register(username).await,
            Command::Unregister => self.unregister(username).await,
            Command::Connect(port) => self.connect(username, peer, *port).await,
            Command::Disconnect => self.disconnect(username).await,
            Command::Publish(filename, description) => self.publish(username, filename, description).await,
            Command::Delete(filename) => self.delete(username, filename).await,
            Command::ListUsers => self.list_users(username).await,
            Command::ListContent(remote) => self.list_content(username, remote.as_ref()).await,
        }
    }

    async fn register(&self, username: &Username) -> Result<Done, NotDone> {
        let request = RegisterUserRequest { username: username.to_string() };
        self.backend.registry.call_unary(&REGISTER_USER, request).await?;
        Ok(None)
    }

    async fn unregister(&self, username: &Username) -> Result<Done, NotDone> {
        let request = UnregisterUserRequest { username: username.to_string() };
        let ended = self.backend.registry.call_unary(&UNREGISTER_USER, request).await?;
        if !ended.ended_session_id.is_empty() {
            self.forget(ended.ended_session_id).await;
        }
        Ok(None)
    }

    async fn connect(&self, username: &Username, peer: SocketAddr, port: Port) -> Result<Done, NotDone> {
        let IpAddr::V4(seen) = peer.ip().to_canonical() else {
            if let Some(suppressed) = DOUBTFUL.admit() {
                tracing::warn!(%peer, suppressed, "a peer without an IPv4 address cannot be listed");
            }
            return Err(NotDone(Outcome::Failed));
        };
        let advertised = self.advertise.address(seen);
        if advertised.doubtful
            && let Some(suppressed) = DOUBTFUL.admit()
        {
            tracing::warn!(
                %seen,
                suppressed,
                "a peer is listed at the default gateway's address, where others may not reach it: \
                 say which address to list with --advertise gateway=IPV4"
            );
        }
        let endpoint = Endpoint { ipv4: advertised.address.to_bits(), port: port.get().into() };
        let request = OpenSessionRequest { username: username.to_string(), endpoint: Some(endpoint) };
        self.backend.registry.call_unary(&OPEN_SESSION, request).await?;
        Ok(None)
    }

    async fn disconnect(&self, username: &Username) -> Result<Done, NotDone> {
        let request = CloseSessionRequest { username: username.to_string() };
        let ended = self.backend.registry.call_unary(&CLOSE_SESSION, request).await?;
        self.forget(ended.ended_session_id).await;
        Ok(None)
    }

    async fn publish(
        &self,
        username: &Username,
        filename: &Filename,
        description: &Description,
    ) -> Result<Done, NotDone> {
        let session_id = self.session(username).await?;
        let file = File { filename: filename.to_string(), description: description.to_string() };
        let request = PublishFileRequest { session_id, username: username.to_string(), file: Some(file) };
        self.backend.catalog.call_unary(&PUBLISH_FILE, request).await?;
        Ok(None)
    }

    async fn delete(&self, username: &Username, filename: &Filename) -> Result<Done, NotDone> {
        let session_id = self.session(username).await?;
        let request = DeleteFileRequest { session_id, filename: filename.to_string() };
        self.backend.catalog.call_unary(&DELETE_FILE, request).await?;
        Ok(None)
    }

    async fn list_users(&self, username: &Username) -> Result<Done, NotDone> {
        let mut registry = self.backend.registry_client();
        self.list_or_hold(username, self.lists.users(&mut registry, username.to_string())).await
    }

    async fn list_content(&self, username: &Username, remote: Option<&Username>) -> Result<Done, NotDone> {
        let request = GetRemoteSessionRequest {
            username: username.to_string(),
            remote_username: remote.map(Username::to_string).unwrap_or_default(),
        };
        let remote = self.backend.registry.call_unary(&GET_REMOTE_SESSION, request).await?;
        if remote.session_id.is_empty() {
            return Ok(Some(Lists::empty()));
        }
        let mut catalog = self.backend.catalog_client();
        self.list_or_hold(username, self.lists.files(&mut catalog, remote.session_id)).await
    }

    /// Waits for a list. Lists come on streams of their own, and a service says only on a stream of
    /// batches that it holds calls. So after [`DOUBT`] the registry is asked for the session in a
    /// batch: if the registry holds calls, the channel hears so.
    async fn list_or_hold(
        &self,
        username: &Username,
        list: impl Future<Output = Result<Arc<Rendered>, NotDone>>,
    ) -> Result<Done, NotDone> {
        let asking = async {
            time::sleep(DOUBT).await;
            let _ = self.session(username).await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            list = list => list.map(Some),
            never = asking => match never {},
        }
    }

    async fn session(&self, username: &Username) -> Result<String, NotDone> {
        let request = GetSessionRequest { username: username.to_string() };
        Ok(self.backend.registry.call_unary(&GET_SESSION, request).await?.session_id)
    }

    async fn forget(&self, session_id: String) {
        let farewell = self.backend.catalog.call_unary(&END_SESSION, EndSessionRequest { session_id });
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
