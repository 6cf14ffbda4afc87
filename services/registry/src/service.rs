//! The registry's gRPC service: it checks requests, asks the store and makes responses.

use std::{iter, net::Ipv4Addr, sync::Arc};

use lonja_chassis::fold::fold;
use lonja_proto::{
    SessionId,
    registry::{self as proto, registry_service_server::RegistryService},
};
use lonja_rpc::{Pages, page_size};
use metrics::gauge;
use tonic::{Request, Response, Status};

use crate::{
    model::{Endpoint, Only, Registered, Session},
    store::Store,
};

/// The largest size of a username, in bytes.
const MAX_USERNAME: usize = 255;
/// The number of sessions in a page of the whole list, when the caller does not say.
const PAGE: usize = 512;
/// The largest number of sessions in a page of the whole list.
const MAX_PAGE: usize = 4096;
/// The number of sessions in a page of found sessions, when the caller does not say.
const FOUND_PAGE: usize = 50;
/// The largest number of sessions in a page of found sessions.
const MAX_FOUND_PAGE: usize = 1000;
/// The largest number of sessions or users that one call may ask about.
const MAX_KEYS: usize = 1000;
/// The largest size of a dialect's name, in bytes.
const MAX_DIALECT: usize = 16;

/// Answers `lonja.registry.v1` from a store.
#[derive(Debug)]
pub(crate) struct RegistryGrpc<S> {
    store: S,
}

impl<S: Store> RegistryGrpc<S> {
    /// Makes a service on this store.
    pub(crate) fn new(store: S) -> Self {
        Self { store }
    }
}

fn username(name: &str) -> Result<&str, Status> {
    if name.is_empty() || name.len() > MAX_USERNAME {
        return Err(Status::invalid_argument("username: 1 to 255 bytes"));
    }
    Ok(name)
}

fn endpoint(endpoint: Option<proto::Endpoint>) -> Result<Endpoint, Status> {
    let endpoint = endpoint.ok_or_else(|| Status::invalid_argument("endpoint: missing"))?;
    let port = u16::try_from(endpoint.port).ok().filter(|port| *port > 0);
    Ok(Endpoint {
        address: Ipv4Addr::from_bits(endpoint.ipv4),
        port: port.ok_or_else(|| Status::invalid_argument("port: 1 to 65535"))?,
    })
}

fn dialect(name: &str) -> Result<&str, Status> {
    if name.len() > MAX_DIALECT || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Status::invalid_argument("dialect: at most 16 letters and digits"));
    }
    Ok(name)
}

/// For whom a request is carried out.
fn only(only_for: Option<proto::OnlyFor>) -> Only {
    only_for.map_or(Only::Any, |proto::OnlyFor { ipv4, as_owner }| {
        let address = Ipv4Addr::from_bits(ipv4);
        if as_owner { Only::Owner(address) } else { Only::At(address) }
    })
}

fn owner(ipv4: u32) -> Option<Ipv4Addr> {
    (ipv4 != 0).then(|| Ipv4Addr::from_bits(ipv4))
}

/// Sessions that a call asks about, each with its user.
fn keys(sessions: Vec<proto::SessionKey>) -> Result<Vec<(String, SessionId)>, Status> {
    if sessions.len() > MAX_KEYS {
        return Err(Status::invalid_argument("sessions: at most 1000"));
    }
    let parse = |key: proto::SessionKey| Ok((key.username, session_id(&key.session_id)?));
    sessions.into_iter().map(parse).collect()
}

fn session_id(text: &str) -> Result<SessionId, Status> {
    text.parse().map_err(|_| Status::invalid_argument("session_id: not a ULID"))
}

fn id(id: Option<SessionId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn endpoint_message(endpoint: Endpoint) -> proto::Endpoint {
    proto::Endpoint { ipv4: endpoint.address.to_bits(), port: endpoint.port.into() }
}

fn session(session: &Session) -> proto::Session {
    proto::Session {
        username: session.username.to_string(),
        endpoint: Some(endpoint_message(session.endpoint)),
        opened_at_ms: session.opened_at_ms,
    }
}

fn identified(one: &Arc<Session>) -> proto::IdentifiedSession {
    proto::IdentifiedSession { session_id: one.id.to_string(), session: Some(session(one)) }
}

fn registered(user: Registered) -> proto::RegisteredUser {
    proto::RegisteredUser {
        username: user.username.into(),
        session: user.session.as_ref().map(identified),
        dialect: user.dialect.into(),
        owner: user.owner.map(Ipv4Addr::to_bits).unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl<S: Store> RegistryService for RegistryGrpc<S> {
    type ListSessionsStream = Pages<proto::ListSessionsResponse>;
    type ListUsersStream = Pages<proto::ListUsersResponse>;

    async fn register_user(
        &self,
        request: Request<proto::RegisterUserRequest>,
    ) -> Result<Response<proto::RegisterUserResponse>, Status> {
        let request = request.get_ref();
        self.store.register(username(&request.username)?, owner(request.owner)).await?;
        Ok(Response::new(proto::RegisterUserResponse {}))
    }

    async fn unregister_user(
        &self,
        request: Request<proto::UnregisterUserRequest>,
    ) -> Result<Response<proto::UnregisterUserResponse>, Status> {
        let request = request.into_inner();
        let ended = self.store.unregister(username(&request.username)?, only(request.only_for)).await?;
        Ok(Response::new(proto::UnregisterUserResponse { ended_session_id: id(ended) }))
    }

    async fn open_session(
        &self,
        request: Request<proto::OpenSessionRequest>,
    ) -> Result<Response<proto::OpenSessionResponse>, Status> {
        let request = request.into_inner();
        let opened = self
            .store
            .open_session(username(&request.username)?, endpoint(request.endpoint)?, only(request.only_for))
            .await?;
        Ok(Response::new(proto::OpenSessionResponse { session_id: opened.to_string() }))
    }

    async fn close_session(
        &self,
        request: Request<proto::CloseSessionRequest>,
    ) -> Result<Response<proto::CloseSessionResponse>, Status> {
        let request = request.into_inner();
        let only = match request.only_session {
            Some(id) => Only::Session(session_id(&id)?),
            None => only(request.only_for),
        };
        let ended = self.store.close_session(username(&request.username)?, only).await?;
        Ok(Response::new(proto::CloseSessionResponse { ended_session_id: ended.to_string() }))
    }

    async fn get_session(
        &self,
        request: Request<proto::GetSessionRequest>,
    ) -> Result<Response<proto::GetSessionResponse>, Status> {
        let request = request.get_ref();
        let session = self.store.session(username(&request.username)?, only(request.only_for)).await?;
        Ok(Response::new(proto::GetSessionResponse {
            session_id: session.id.to_string(),
            endpoint: Some(endpoint_message(session.endpoint)),
            dialect: session.dialect.into(),
        }))
    }

    async fn note_dialect(
        &self,
        request: Request<proto::NoteDialectRequest>,
    ) -> Result<Response<proto::NoteDialectResponse>, Status> {
        let request = request.get_ref();
        let only = only(request.only_for);
        self.store.note_dialect(username(&request.username)?, dialect(&request.dialect)?, only).await?;
        Ok(Response::new(proto::NoteDialectResponse {}))
    }

    async fn free_user(
        &self,
        request: Request<proto::FreeUserRequest>,
    ) -> Result<Response<proto::FreeUserResponse>, Status> {
        self.store.free(username(&request.get_ref().username)?).await?;
        Ok(Response::new(proto::FreeUserResponse {}))
    }

    async fn get_remote_session(
        &self,
        request: Request<proto::GetRemoteSessionRequest>,
    ) -> Result<Response<proto::GetRemoteSessionResponse>, Status> {
        let request = request.get_ref();
        // An empty remote name is not checked here: the store says that nobody has this name.
        let remote =
            self.store.remote_session(username(&request.username)?, &request.remote_username).await?;
        let session_id = id(remote.session);
        Ok(Response::new(proto::GetRemoteSessionResponse { session_id, dialect: remote.dialect.into() }))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        let request = request.get_ref();
        let asker = (!request.username.is_empty()).then_some(request.username.as_str());
        let listing = self.store.list(asker, &request.known_revision).await?;
        let (revision, dialect) = (listing.revision, listing.dialect.into());
        let Some(sessions) = listing.sessions else {
            let not_modified = true;
            let page = proto::ListSessionsResponse { revision, not_modified, dialect, ..Default::default() };
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(page)))));
        };
        let size = page_size(request.page_size, PAGE, MAX_PAGE);
        Ok(Response::new(Box::pin(tokio_stream::iter(pages(revision, dialect, sessions, size)))))
    }

    async fn find_ended_sessions(
        &self,
        request: Request<proto::FindEndedSessionsRequest>,
    ) -> Result<Response<proto::FindEndedSessionsResponse>, Status> {
        let keys = keys(request.into_inner().sessions)?;
        let ended = self.store.ended(&keys).await?;
        let ended_session_ids = ended.iter().map(SessionId::to_string).collect();
        Ok(Response::new(proto::FindEndedSessionsResponse { ended_session_ids }))
    }

    async fn look_up_sessions(
        &self,
        request: Request<proto::LookUpSessionsRequest>,
    ) -> Result<Response<proto::LookUpSessionsResponse>, Status> {
        let usernames = &request.get_ref().usernames;
        if usernames.len() > MAX_KEYS {
            return Err(Status::invalid_argument("usernames: at most 1000"));
        }
        let sessions = self.store.look_up(usernames).await?.iter().map(identified).collect();
        Ok(Response::new(proto::LookUpSessionsResponse { sessions }))
    }

    async fn find_sessions(
        &self,
        request: Request<proto::FindSessionsRequest>,
    ) -> Result<Response<proto::FindSessionsResponse>, Status> {
        let request = request.get_ref();
        let listing = self.store.list(None, &request.known_revision).await?;
        let revision = listing.revision;
        let Some(sessions) = listing.sessions else {
            let response = proto::FindSessionsResponse { revision, not_modified: true, ..Default::default() };
            return Ok(Response::new(response));
        };
        let (mut query, mut username) = (String::new(), String::new());
        fold(&request.query, &mut query);
        let matching = |one: &&Arc<Session>| {
            username.clear();
            fold(&one.username, &mut username);
            username.contains(&query)
        };
        let found: Vec<_> = sessions.iter().rev().filter(matching).collect();
        let size = page_size(request.page_size, FOUND_PAGE, MAX_FOUND_PAGE);
        let page = found.iter().skip(request.offset as usize).take(size);
        Ok(Response::new(proto::FindSessionsResponse {
            revision,
            not_modified: false,
            total: found.len() as u64,
            sessions: page.map(|one| identified(one)).collect(),
        }))
    }

    async fn list_users(
        &self,
        request: Request<proto::ListUsersRequest>,
    ) -> Result<Response<Self::ListUsersStream>, Status> {
        let users = match request.get_ref().username.as_str() {
            "" => self.store.users().await?,
            name => self.store.user(username(name)?).await?.into_iter().collect(),
        };
        let mut users = users.into_iter().map(registered);
        let pages = iter::from_fn(move || {
            let users: Vec<_> = users.by_ref().take(MAX_KEYS).collect();
            (!users.is_empty()).then_some(Ok(proto::ListUsersResponse { users }))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(pages))))
    }

    async fn take_checks(
        &self,
        request: Request<proto::TakeChecksRequest>,
    ) -> Result<Response<proto::TakeChecksResponse>, Status> {
        let proto::TakeChecksRequest { interval_ms, limit } = *request.get_ref();
        let limit = (limit as usize).clamp(1, MAX_KEYS);
        let sessions = self.store.take_checks(interval_ms, limit).await?.iter().map(identified).collect();
        Ok(Response::new(proto::TakeChecksResponse { sessions }))
    }

    async fn note_check(
        &self,
        request: Request<proto::NoteCheckRequest>,
    ) -> Result<Response<proto::NoteCheckResponse>, Status> {
        let request = request.get_ref();
        let (username, session) = (username(&request.username)?, session_id(&request.session_id)?);
        let check = self.store.note_check(username, session, request.result()).await?;
        Ok(Response::new(proto::NoteCheckResponse { refusals: check.refusals }))
    }

    async fn look_up_checks(
        &self,
        request: Request<proto::LookUpChecksRequest>,
    ) -> Result<Response<proto::LookUpChecksResponse>, Status> {
        let checks = self.store.checks(&keys(request.into_inner().sessions)?).await?;
        let reached_at_ms = checks.iter().map(|check| check.reached_at_ms).collect();
        Ok(Response::new(proto::LookUpChecksResponse { reached_at_ms }))
    }

    async fn get_statistics(
        &self,
        _: Request<proto::GetStatisticsRequest>,
    ) -> Result<Response<proto::GetStatisticsResponse>, Status> {
        let statistics = self.store.statistics().await?;
        gauge!("lonja_registry_users").set(statistics.users as f64);
        gauge!("lonja_registry_sessions").set(statistics.sessions as f64);
        Ok(Response::new(proto::GetStatisticsResponse {
            users: statistics.users,
            sessions: statistics.sessions,
        }))
    }
}

/// Splits a list into pages, which are made as they are asked for. An empty list gives one empty
/// page.
fn pages(
    revision: String,
    dialect: String,
    sessions: Vec<Arc<Session>>,
    size: usize,
) -> impl Iterator<Item = Result<proto::ListSessionsResponse, Status>> + Send {
    let total = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
    (0..sessions.len().div_ceil(size).max(1)).map(move |page| {
        let rest = &sessions[page * size..];
        Ok(proto::ListSessionsResponse {
            revision: revision.clone(),
            not_modified: false,
            total,
            sessions: rest[..rest.len().min(size)].iter().map(|one| session(one)).collect(),
            dialect: if page == 0 { dialect.clone() } else { String::new() },
        })
    })
}
