//! A page of the files that match a query.

use std::{collections::HashMap, time::Duration};

use lonja_chassis::{fold::spellings, service::Backends};
use lonja_proto::{
    catalog::{FoundFile, SearchFilesRequest, SearchFilesResponse},
    console::{File, WatchFilesRequest, WatchFilesResponse},
};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    backend::{in_time, look_up},
    users::address,
    watch::Watched,
};

/// How long the registry's answer about which users are online is used before it is asked again.
const ONLINE: Duration = Duration::from_secs(2);

pub(crate) struct Files {
    backend: Backends,
    /// The user whose files are searched; empty for the files of everyone.
    username: String,
    request: SearchFilesRequest,
    /// The last answer of the search.
    found: SearchFilesResponse,
    /// When the registry was asked which users in `found` are online.
    looked_up: Instant,
}

impl Files {
    pub(crate) fn new(backend: Backends, request: WatchFilesRequest) -> Self {
        let WatchFilesRequest { query, username, offset, page_size } = request;
        let request = SearchFilesRequest { query, offset, page_size, ..SearchFilesRequest::default() };
        let found = SearchFilesResponse::default();
        Self { backend, username, request, found, looked_up: Instant::now() }
    }

    /// Narrows the request to the user's present session, and returns whether the user has a
    /// session.
    async fn narrow(&mut self) -> Result<bool, Status> {
        let sessions = look_up(&self.backend.registry, spellings(&self.username)).await?;
        let Some(session) = sessions.into_iter().next() else { return Ok(false) };
        if session.session_id != self.request.session_id {
            self.request.session_id = session.session_id;
            self.request.known_revision.clear();
        }
        Ok(true)
    }

    /// The last answer of the search, without files of sessions that are over.
    async fn of_users_online(&mut self) -> Result<WatchFilesResponse, Status> {
        let found = self.found.clone();
        self.looked_up = Instant::now();
        let mut usernames: Vec<_> = found.files.iter().map(|file| file.username.clone()).collect();
        usernames.sort_unstable();
        usernames.dedup();
        let sessions = if usernames.is_empty() {
            Vec::new()
        } else {
            look_up(&self.backend.registry, usernames).await?
        };
        let addresses: HashMap<_, _> = sessions
            .into_iter()
            .map(|online| (online.session_id, address(online.session.unwrap_or_default().endpoint)))
            .collect();
        let online = |FoundFile { session_id, username, file }| {
            let address = addresses.get(&session_id)?.clone();
            let file: lonja_proto::catalog::File = file?;
            Some(File { filename: file.filename, description: file.description, username, address })
        };
        let files = found.files.into_iter().filter_map(online).collect();
        Ok(WatchFilesResponse { beat: false, total: found.total, files })
    }
}

impl Watched for Files {
    type Answer = WatchFilesResponse;

    async fn look(&mut self) -> Result<Option<WatchFilesResponse>, Status> {
        if !self.username.is_empty() && !self.narrow().await? {
            return Ok(Some(WatchFilesResponse::default()));
        }
        let found = in_time("catalog", self.backend.catalog.search_files(self.request.clone())).await?;
        self.request.known_revision.clone_from(&found.revision);
        if !found.not_modified {
            self.found = found;
        } else if self.looked_up.elapsed() < ONLINE {
            return Ok(None);
        }
        self.of_users_online().await.map(Some)
    }

    fn beat() -> WatchFilesResponse {
        WatchFilesResponse { beat: true, ..WatchFilesResponse::default() }
    }
}
