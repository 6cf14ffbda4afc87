//! A page of the users online.

use std::net::Ipv4Addr;

use lonja_chassis::service::Backends;
use lonja_proto::{
    console::{User, WatchUsersRequest, WatchUsersResponse},
    registry::{Endpoint, FindSessionsRequest, IdentifiedSession},
};
use prost_types::Timestamp;
use tonic::Status;

use crate::{backend::in_time, watch::Watched};

pub(crate) struct Users {
    backend: Backends,
    request: FindSessionsRequest,
}

impl Users {
    pub(crate) fn new(backend: Backends, request: WatchUsersRequest) -> Self {
        let WatchUsersRequest { query, offset, page_size } = request;
        let request = FindSessionsRequest { query, offset, page_size, known_revision: String::new() };
        Self { backend, request }
    }
}

impl Watched for Users {
    type Answer = WatchUsersResponse;

    async fn look(&mut self) -> Result<Option<WatchUsersResponse>, Status> {
        let found = self.backend.registry.find_sessions(self.request.clone());
        let found = in_time("registry", found).await?;
        self.request.known_revision = found.revision;
        if found.not_modified {
            return Ok(None);
        }
        let users = found.sessions.into_iter().map(user).collect();
        Ok(Some(WatchUsersResponse { beat: false, total: found.total, users }))
    }

    fn beat() -> WatchUsersResponse {
        WatchUsersResponse { beat: true, ..WatchUsersResponse::default() }
    }
}

fn user(found: IdentifiedSession) -> User {
    let session = found.session.unwrap_or_default();
    let (seconds, ms) = (session.opened_at_ms.div_euclid(1000), session.opened_at_ms.rem_euclid(1000));
    User {
        username: session.username,
        address: address(session.endpoint),
        online_since: Some(Timestamp { seconds, nanos: ms as i32 * 1_000_000 }),
    }
}

/// An endpoint as `address:port`, or an empty text without an endpoint.
pub(crate) fn address(endpoint: Option<Endpoint>) -> String {
    endpoint.map(|at| format!("{}:{}", Ipv4Addr::from_bits(at.ipv4), at.port)).unwrap_or_default()
}
