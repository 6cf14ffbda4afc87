//! Filling empty stores with the lines of an export.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use lonja_audit::store::Batch;
use lonja_proto::{Failure, SessionId, audit::OperationRecord};
use lonja_registry::Endpoint;
use lonja_wire::{Description, Dialect, Filename, Printable, Username};

use super::{
    line::{self, Counts, Line},
    source::Place,
};
use crate::up::Stores;

/// The number of lines that are written at one time.
const AT_ONCE: usize = 2048;

/// Writes lines to stores, and gives how much it was.
pub(super) async fn fill<R, C, A>(
    stores: &Stores<R, C, A>,
    lines: impl Iterator<Item = anyhow::Result<(Place, Line)>>,
) -> anyhow::Result<Counts>
where
    R: lonja_registry::store::Store,
    C: lonja_catalog::store::Store,
    A: lonja_audit::store::Store,
{
    let writer = SessionId::fresh().to_string();
    let mut filling = Filling { stores, writer, recorded: 0, part: Part::default(), owner: None, order: 0 };
    let mut counts = Counts::default();
    for line in lines {
        let (place, line) = line?;
        counts.add(&line);
        filling.add(place, line)?;
        if filling.part.lines == AT_ONCE {
            filling.write().await?;
        }
    }
    filling.write().await?;
    Ok(counts)
}

/// Lines that are checked and not written yet.
#[derive(Default)]
struct Part {
    lines: usize,
    users: Vec<(Place, String, Option<Ipv4Addr>)>,
    sessions: Vec<(Place, Opening)>,
    files: Vec<(Place, SessionId, String, lonja_catalog::store::File)>,
    records: Vec<OperationRecord>,
}

/// A session, with its place in the list of sessions and the dialect that was noted.
struct Opening {
    session: lonja_registry::Session,
    order: u64,
    dialect: String,
}

struct Filling<'a, R, C, A> {
    stores: &'a Stores<R, C, A>,
    /// The writer of the records, for the audit.
    writer: String,
    /// The number of records that are written.
    recorded: u64,
    part: Part,
    /// The user of the last line of a user, and the user's session.
    owner: Option<(String, Option<SessionId>)>,
    /// The order of the last session.
    order: u64,
}

impl<R, C, A> Filling<'_, R, C, A>
where
    R: lonja_registry::store::Store,
    C: lonja_catalog::store::Store,
    A: lonja_audit::store::Store,
{
    fn add(&mut self, place: Place, line: Line) -> anyhow::Result<()> {
        self.part.lines += 1;
        match line {
            Line::User(user) => self.add_user(place, user),
            Line::File(file) => self.add_file(place, file),
            Line::Operation(record) => {
                let record = record.try_into().map_err(|error| anyhow::anyhow!("{place}: {error}"))?;
                self.part.records.push(record);
                Ok(())
            }
            // A reader of lines gives no such line.
            Line::LonjaExport(_) | Line::End(_) => bail!("{place}: not expected here"),
        }
    }

    fn add_user(&mut self, place: Place, user: line::User) -> anyhow::Result<()> {
        user.name.parse::<Username>().with_context(|| format!("{place}: the name of the user"))?;
        let mut id = None;
        if let Some(session) = user.session {
            let opening = self.opening(&user.name, session).with_context(|| place.to_string())?;
            id = Some(opening.session.id);
            self.part.sessions.push((place.clone(), opening));
        }
        self.owner = Some((user.name.clone(), id));
        self.part.users.push((place, user.name, user.owner));
        Ok(())
    }

    fn opening(&mut self, username: &str, session: line::Session) -> anyhow::Result<Opening> {
        let line::Session { id, address, opened_at, dialect } = session;
        let address: SocketAddrV4 = address.parse().context("the address: not IPV4:PORT")?;
        if address.port() == 0 {
            bail!("the address: port 0 cannot be dialled");
        }
        if !dialect.is_empty() {
            dialect.parse::<Dialect>().context("the dialect")?;
        }
        let opened_at_ms = opened_at.as_millisecond();
        let since_epoch = u64::try_from(opened_at_ms).context("opened_at: before 1970")? * 1000;
        self.order = since_epoch.max(self.order + 1);
        let session = lonja_registry::Session {
            id: id.parse().context("the id of the session")?,
            username: username.into(),
            endpoint: Endpoint { address: *address.ip(), port: address.port() },
            opened_at_ms,
        };
        Ok(Opening { session, order: self.order, dialect })
    }

    fn add_file(&mut self, place: Place, file: line::File) -> anyhow::Result<()> {
        let Some((username, Some(session))) = &self.owner else {
            bail!("{place}: a file without a connected user before it");
        };
        file.name.parse::<Filename>().with_context(|| format!("{place}: the name of the file"))?;
        file.description.parse::<Description>().with_context(|| format!("{place}: the description"))?;
        let file = lonja_catalog::store::File { filename: file.name, description: file.description };
        self.part.files.push((place, *session, username.clone(), file));
        Ok(())
    }

    /// Writes what has been added: users before their sessions, and sessions before their files.
    async fn write(&mut self) -> anyhow::Result<()> {
        let Part { users, sessions, files, records, .. } = std::mem::take(&mut self.part);
        let Stores { registry, catalog, audit } = self.stores;
        let register = async |(place, username, owner): (Place, String, _)| {
            registry.register(&username, owner).await.map_err(|error| failed(&place, &username, error))
        };
        all(join_all(users.into_iter().map(register)).await)?;
        let restore = async |(place, opening): (Place, Opening)| {
            let Opening { session, order, dialect } = opening;
            let restored = registry.restore_session(&session, order, &dialect).await;
            restored.map_err(|error| failed(&place, &session.username, error))
        };
        all(join_all(sessions.into_iter().map(restore)).await)?;
        let publish = async |(place, session, username, file): (Place, _, String, _)| {
            let published = catalog.publish(session, &username, file).await;
            published.map_err(|error| failed(&place, &username, error))
        };
        all(join_all(files.into_iter().map(publish)).await)?;
        let count = records.len() as u64;
        let batch = Batch { writer_id: self.writer.clone(), first_sequence: self.recorded + 1, records };
        if count > 0 {
            audit.record(batch).await.map_err(|error| anyhow::anyhow!("the operations: {}", said(error)))?;
        }
        self.recorded += count;
        Ok(())
    }
}

fn all(results: Vec<anyhow::Result<()>>) -> anyhow::Result<()> {
    results.into_iter().collect()
}

fn failed(place: &Place, username: &str, failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("{place}: the user {}: {}", Printable(username), said(failure))
}

fn said(failure: Failure) -> String {
    tonic::Status::from(failure).message().to_owned()
}
