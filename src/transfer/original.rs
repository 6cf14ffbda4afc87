//! The files of the original server: `users.csv`, `connected.csv` and `files/USER.csv`, with `;` between
//! the fields of a line.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs, io,
    net::SocketAddrV4,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use csv::{ReaderBuilder, StringRecord};
use jiff::Timestamp;
use lonja_proto::SessionId;

use super::{
    line::{File, Line, Session, User},
    source::Place,
};

/// The file that every directory of the original server has.
pub(super) const USERS: &str = "users.csv";

/// Reads the users, who is connected and from where, and what they publish. Sessions begin now, because
/// the files do not say when they began.
pub(super) fn read(directory: &Path) -> anyhow::Result<Vec<anyhow::Result<(Place, Line)>>> {
    let mut sessions = HashMap::new();
    for (place, row) in rows(&directory.join("connected.csv"), true)? {
        let [name, address, port] = fields(&place, &row, "USER;ADDRESS;PORT")?;
        let address = format!("{address}:{port}");
        if address.parse::<SocketAddrV4>().is_err() {
            bail!("{place}: {address:?} is not an IPv4 address and a port");
        }
        match sessions.entry(name.clone()) {
            Entry::Occupied(_) => bail!("{place}: {name:?} is connected twice"),
            Entry::Vacant(entry) => entry.insert(Session {
                id: SessionId::fresh().to_string(),
                address,
                opened_at: Timestamp::now(),
                dialect: String::new(),
            }),
        };
    }
    let mut lines = Vec::new();
    for (place, row) in rows(&directory.join(USERS), false)? {
        let [name] = fields(&place, &row, "USER")?;
        let session = sessions.remove(&name);
        let files = if session.is_some() { files(directory, &name)? } else { Vec::new() };
        lines.push(Ok((place, Line::User(User { name, session, owner: None }))));
        lines.extend(files.into_iter().map(Ok));
    }
    if let Some(name) = sessions.keys().next() {
        bail!("connected.csv has {name:?}, who is not in {USERS}");
    }
    Ok(lines)
}

/// What a connected user publishes. Of a user who is not connected, the file is what was left behind.
fn files(directory: &Path, name: &str) -> anyhow::Result<Vec<(Place, Line)>> {
    if name.contains(['/', '\\']) || name == ".." {
        bail!("{name:?} cannot be the name of a file in {}", directory.join("files").display());
    }
    let rows = rows(&directory.join("files").join(format!("{name}.csv")), true)?;
    let file = |(place, row): (Place, StringRecord)| {
        let [name, description] = fields(&place, &row, "FILE;DESCRIPTION")?;
        Ok((place, Line::File(File { name, description })))
    };
    rows.into_iter().map(file).collect()
}

/// The lines of a file with their fields; nothing if the file may be missing and is.
fn rows(path: &Path, may_be_missing: bool) -> anyhow::Result<Vec<(Place, StringRecord)>> {
    let text = match fs::read(path) {
        Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let file: Arc<str> = path.display().to_string().into();
    let mut reader = ReaderBuilder::new();
    let mut reader =
        reader.has_headers(false).delimiter(b';').quoting(false).flexible(true).from_reader(&*text);
    let row = |row: csv::Result<StringRecord>| {
        let row = row.with_context(|| file.to_string())?;
        let line = row.position().map_or(0, csv::Position::line) as usize;
        Ok((Place { file: Arc::clone(&file), line }, row))
    };
    reader.records().map(row).collect()
}

/// The first `N` fields of a line. Of two fields, the second takes whatever follows, because a description may have
/// a `;`. Otherwise further fields are an error.
fn fields<const N: usize>(place: &Place, row: &StringRecord, form: &str) -> anyhow::Result<[String; N]> {
    let mut fields: Vec<String> = row.iter().map(str::to_owned).collect();
    if fields.len() > N && N == 2 {
        fields = vec![fields[0].clone(), fields[1..].join(";")];
    }
    fields.try_into().map_err(|_| anyhow::anyhow!("{place}: not {form}"))
}
