//! A page of the users online.

use std::net::Ipv4Addr;

use lonja_chassis::service::Backends;
use lonja_proto::{
    console::{User, WatchUsersRequest, WatchUsersResponse},
    registry::{Endpoint, FindSessionsRequest, IdentifiedSession, LookUpChecksRequest, SessionKey},
};
use prost_types::Timestamp;
use tonic::Status;

use crate::{backend::in_time, watch::Watched};

pub(crate) struct Users {
    backend: Backends,
    request: FindSessionsRequest,
    /// The page as it was last found, without what changes at every check of a peer.
    page: Vec<IdentifiedSession>,
    total: u64,
}

impl Users {
    pub(crate) fn new(backend: Backends, request: WatchUsersRequest) -> Self {
        let WatchUsersRequest { query, offset, page_size } = request;
        let request = FindSessionsRequest { query, offset, page_size, known_revision: String::new() };
        Self { backend, request, page: Vec::new(), total: 0 }
    }

    /// When the peers of the page were last reached, in milliseconds of the Unix epoch; 0 is never.
    async fn reached_at_ms(&self) -> Result<Vec<i64>, Status> {
        let key = |found: &IdentifiedSession| SessionKey {
            username: found.session.as_ref().map(|session| session.username.clone()).unwrap_or_default(),
            session_id: found.session_id.clone(),
        };
        let request = LookUpChecksRequest { sessions: self.page.iter().map(key).collect() };
        Ok(in_time("registry", self.backend.registry.look_up_checks(request)).await?.reached_at_ms)
    }
}

impl Watched for Users {
    type Answer = WatchUsersResponse;

    async fn look(&mut self) -> Result<Option<WatchUsersResponse>, Status> {
        let found = self.backend.registry.find_sessions(self.request.clone());
        let found = in_time("registry", found).await?;
        if !found.not_modified {
            (self.page, self.total) = (found.sessions, found.total);
        }
        self.request.known_revision = found.revision;
        let reached_at_ms = self.reached_at_ms().await?;
        let users =
            self.page.iter().zip(reached_at_ms).map(|(found, reached)| user(found, reached)).collect();
        Ok(Some(WatchUsersResponse { beat: false, total: self.total, users }))
    }

    fn beat() -> WatchUsersResponse {
        WatchUsersResponse { beat: true, ..WatchUsersResponse::default() }
    }
}

fn user(found: &IdentifiedSession, reached_at_ms: i64) -> User {
    let session = found.session.clone().unwrap_or_default();
    User {
        username: session.username,
        address: address(session.endpoint),
        online_since: Some(moment(session.opened_at_ms)),
        last_seen: (reached_at_ms != 0).then(|| moment(reached_at_ms)),
    }
}

fn moment(unix_ms: i64) -> Timestamp {
    let (seconds, ms) = (unix_ms.div_euclid(1000), unix_ms.rem_euclid(1000));
    Timestamp { seconds, nanos: ms as i32 * 1_000_000 }
}

/// An endpoint as `address:port`, or an empty text without an endpoint.
pub(crate) fn address(endpoint: Option<Endpoint>) -> String {
    endpoint.map(|at| format!("{}:{}", Ipv4Addr::from_bits(at.ipv4), at.port)).unwrap_or_default()
}
