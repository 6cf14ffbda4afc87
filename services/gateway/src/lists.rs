//! Lists as peers get them: rendered once, within a bound on memory.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use lonja_proto::{
    catalog::{self, catalog_service_client::CatalogServiceClient},
    registry::{self, registry_service_client::RegistryServiceClient},
};
use lonja_rpc::Channel;
use lonja_telemetry::throttle::Throttle;
use lonja_wire::{
    Dialect, Encoding, Operation, Outcome,
    reply::{FILE_ENTRY, LIST_HEADER, USER_ENTRY, list_header, push_file, push_user},
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::backend::NotDone;

/// A peer may ask for a list that is too large again and again; not each time has to be logged.
static TOO_LARGE: Throttle = Throttle::events();

/// The largest number of bytes of rendered lists that are held at one time. Peers that read slowly
/// keep their lists in memory.
const BUDGET: usize = 256 << 20;
/// The unit in which the budget is counted, in bytes.
const UNIT: usize = 4096;

/// A list as a whole reply for the terminated encoding, with header and entries in one buffer. When
/// they are sent from two buffers, a long list takes the processor three times as long to copy,
/// because source and target are never aligned to one another.
#[derive(Debug)]
pub(crate) struct Rendered {
    count: u32,
    reply: Bytes,
    _budget: Option<OwnedSemaphorePermit>,
}

impl Rendered {
    fn new(count: u32, mut reply: Vec<u8>, budget: Option<OwnedSemaphorePermit>) -> Self {
        let (header, _) = list_header(count, Encoding::Terminated);
        reply[..LIST_HEADER].copy_from_slice(&header);
        Self { count, reply: reply.into(), _budget: budget }
    }

    /// How many entries the list has.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The entries, each with fields of fixed width.
    fn entries(&self) -> &[u8] {
        &self.reply[LIST_HEADER..]
    }

    /// The reply in two pieces, and how many entries of the list the reply has.
    pub(crate) fn reply(&self, encoding: Encoding) -> (Bytes, Bytes, u32) {
        let (header, sent) = list_header(self.count, encoding);
        let entry = (self.reply.len() - LIST_HEADER) / (self.count as usize).max(1);
        let end = LIST_HEADER + sent as usize * entry;
        match encoding {
            Encoding::Terminated => (self.reply.slice(..end), Bytes::new(), sent),
            Encoding::Padded => (Bytes::copy_from_slice(&header), self.reply.slice(LIST_HEADER..end), sent),
        }
    }
}

/// A list as a whole reply in a dialect that has its lists as strings.
#[derive(Debug)]
pub(crate) struct Strings {
    pub(crate) reply: Bytes,
    _budget: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct UserList {
    revision: String,
    rendered: Arc<Rendered>,
}

/// Renders lists, and keeps the last list of users. While nobody comes or goes, the registry only
/// confirms that this list is current, and sends no entries.
#[derive(Debug)]
pub(crate) struct Lists {
    budget: Arc<Semaphore>,
    users: Mutex<Arc<UserList>>,
}

impl Default for Lists {
    fn default() -> Self {
        let users = UserList { revision: String::new(), rendered: Self::empty() };
        Self { budget: Arc::new(Semaphore::new(BUDGET / UNIT)), users: Mutex::new(Arc::new(users)) }
    }
}

impl Lists {
    /// The list of the connected users, as the user `username` asks for it, and the dialect that was
    /// noted for that user.
    pub(crate) async fn users(
        &self,
        registry: &mut RegistryServiceClient<Channel>,
        username: String,
    ) -> Result<(Arc<Rendered>, Option<Dialect>), NotDone> {
        let known = Arc::clone(&self.users.lock());
        let request =
            registry::ListSessionsRequest { username, known_revision: known.revision.clone(), page_size: 0 };
        let mut pages = registry.list_sessions(request).await?.into_inner();
        let first = pages.message().await?.ok_or_else(cut_short)?;
        let dialect = Dialect::from_name(&first.dialect);
        if first.not_modified {
            return Ok((Arc::clone(&known.rendered), dialect));
        }
        let (total, revision) = (first.total, first.revision);
        let (mut entries, budget) = self.buffer(total, USER_ENTRY).await?;
        let mut page = first.sessions;
        loop {
            for session in page {
                let endpoint = session.endpoint.unwrap_or_default();
                let port = u16::try_from(endpoint.port).unwrap_or_default();
                push_user(&session.username, Ipv4Addr::from_bits(endpoint.ipv4), port, &mut entries);
            }
            match pages.message().await? {
                Some(next) => page = next.sessions,
                None => break,
            }
        }
        let rendered = Arc::new(finish(total, USER_ENTRY, entries, budget)?);
        *self.users.lock() = Arc::new(UserList { revision, rendered: Arc::clone(&rendered) });
        Ok((rendered, dialect))
    }

    /// The list of the files that a session has published.
    pub(crate) async fn files(
        &self,
        catalog: &mut CatalogServiceClient<Channel>,
        session_id: String,
    ) -> Result<Arc<Rendered>, NotDone> {
        let request = catalog::ListFilesRequest { session_id, page_size: 0 };
        let mut pages = catalog.list_files(request).await?.into_inner();
        let first = pages.message().await?.ok_or_else(cut_short)?;
        let total = first.total;
        let (mut entries, budget) = self.buffer(total, FILE_ENTRY).await?;
        let mut page = first.files;
        loop {
            for file in page {
                push_file(&file.filename, &file.description, &mut entries);
            }
            match pages.message().await? {
                Some(next) => page = next.files,
                None => break,
            }
        }
        Ok(Arc::new(finish(total, FILE_ENTRY, entries, budget)?))
    }

    /// A list in a dialect that has its lists as strings; `None` for any other dialect.
    pub(crate) async fn strings(
        &self,
        dialect: Dialect,
        operation: Operation,
        list: &Rendered,
    ) -> Result<Option<Strings>, NotDone> {
        if dialect.fixed().is_some() {
            return Ok(None);
        }
        // Strings are never longer than the fields of fixed width that hold them.
        let budget = self.reserve(list.count, list.reply.len()).await?;
        Ok(dialect
            .list(operation, list.entries())
            .map(|reply| Strings { reply: reply.into(), _budget: budget }))
    }

    /// The list without entries.
    pub(crate) fn empty() -> Arc<Rendered> {
        Arc::new(Rendered::new(0, vec![0; LIST_HEADER], None))
    }

    /// A buffer for a list of `total` entries, with room for the header at its beginning. Waits
    /// until the budget has enough bytes left.
    async fn buffer(&self, total: u32, entry: usize) -> Result<(Vec<u8>, OwnedSemaphorePermit), NotDone> {
        let bytes = LIST_HEADER + total as usize * entry;
        let permit = self.reserve(total, bytes).await?;
        let mut reply = Vec::with_capacity(bytes);
        reply.resize(LIST_HEADER, 0);
        Ok((reply, permit))
    }

    /// Takes `bytes` of the budget for a list of `total` entries. Waits until that much is left.
    async fn reserve(&self, total: u32, bytes: usize) -> Result<OwnedSemaphorePermit, NotDone> {
        if bytes > BUDGET {
            if let Some(suppressed) = TOO_LARGE.admit() {
                tracing::warn!(entries = total, suppressed, "a list is larger than the memory for lists");
            }
            return Err(NotDone(Outcome::Failed));
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget).acquire_many_owned(units).await;
        // The semaphore is never closed.
        permit.map_err(|_| NotDone(Outcome::Failed))
    }
}

fn cut_short() -> Status {
    Status::data_loss("a list ended before all its entries came")
}

fn finish(
    total: u32,
    entry: usize,
    entries: Vec<u8>,
    budget: OwnedSemaphorePermit,
) -> Result<Rendered, Status> {
    if entries.len() != LIST_HEADER + total as usize * entry {
        return Err(cut_short());
    }
    Ok(Rendered::new(total, entries, Some(budget)))
}
