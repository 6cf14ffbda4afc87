//! A page of the files that match a query.

use std::collections::HashMap;

use lonja_proto::{
    catalog::{FoundFile, SearchFilesRequest, SearchFilesResponse},
    console::{File, WatchFilesRequest, WatchFilesResponse},
};
use tonic::Status;

use crate::{
    backend::{Backend, in_time},
    users::address,
    watch::Watched,
};

pub(crate) struct Files {
    backend: Backend,
    /// Whose files; empty: anyone's.
    username: String,
    request: SearchFilesRequest,
}

impl Files {
    pub(crate) fn new(backend: Backend, request: WatchFilesRequest) -> Self {
        let WatchFilesRequest { query, username, offset, page_size } = request;
        let request = SearchFilesRequest { query, offset, page_size, ..SearchFilesRequest::default() };
        Self { backend, username, request }
    }

    /// Narrows the request to the session that the user has now; says whether there is one.
    async fn narrow(&mut self) -> Result<bool, Status> {
        let sessions = self.backend.look_up(vec![self.username.clone()]).await?;
        let Some(session) = sessions.into_iter().next() else { return Ok(false) };
        if session.session_id != self.request.session_id {
            self.request.session_id = session.session_id;
            self.request.known_revision.clear();
        }
        Ok(true)
    }

    /// What was found, without what sessions left behind that are over.
    async fn of_users_online(&mut self, found: SearchFilesResponse) -> Result<WatchFilesResponse, Status> {
        let mut usernames: Vec<_> = found.files.iter().map(|file| file.username.clone()).collect();
        usernames.sort_unstable();
        usernames.dedup();
        let sessions = match usernames.is_empty() {
            true => Vec::new(),
            false => self.backend.look_up(usernames).await?,
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
        if found.not_modified {
            return Ok(None);
        }
        self.of_users_online(found).await.map(Some)
    }

    fn beat() -> WatchFilesResponse {
        WatchFilesResponse { beat: true, ..WatchFilesResponse::default() }
    }
}
