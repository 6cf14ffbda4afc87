//! A peer that does what the original does: the peer makes a connection for each request, reads the reply,
//! and closes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, bail};
use lonja_wire::{
    Command, Datetime, Description, Encoding, Filename, Port, Request, Username,
    reply::{FILE_ENTRY, USER_ENTRY, read_count, read_file, read_status, read_user},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time,
};
use turmoil::net::TcpStream;

use crate::{
    history::{Asked, Told},
    hosts::PEERS,
};

/// How many users there are.
pub(crate) const USERS: usize = 2;
/// How long a peer waits for its reply: longer than any gateway takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);

/// The datetime that a peer claims in its request of this number.
pub(crate) fn datetime(number: usize) -> String {
    format!("12/05/2024 {:02}:{:02}:{:02}", number / 3600, number / 60 % 60, number % 60)
}

fn request(user: usize, asked: Asked, number: usize) -> anyhow::Result<Vec<u8>> {
    let username = Username::from_bytes(name(user).as_bytes())?;
    let filename = |file: u8| Filename::from_bytes(file.to_string().as_bytes());
    let command = match asked {
        Asked::Register => Command::Register,
        Asked::Unregister => Command::Unregister,
        Asked::Connect => Command::Connect(Port::from_bytes(b"6000")?),
        Asked::Disconnect => Command::Disconnect,
        Asked::Publish(file) => Command::Publish(filename(file)?, Description::from_bytes(b"a file")?),
        Asked::Delete(file) => Command::Delete(filename(file)?),
        Asked::Users => Command::ListUsers,
        Asked::Files(of) => Command::ListContent(Some(name(of).parse()?)),
        Asked::Owner(of) => Command::GetFile(Some(name(of).parse()?)),
        Asked::OwnerOf(file) => Command::GetFile(Some(file.to_string().parse()?)),
    };
    let datetime = Datetime::from_bytes(datetime(number).as_bytes())?;
    let mut bytes = Vec::new();
    Request { datetime, username: Some(username), command }.encode(Encoding::Terminated, &mut bytes);
    Ok(bytes)
}

/// How a peer sends a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    Whole,
    /// In two pieces, of which the first has this many bytes.
    InPieces(usize),
    /// As a peer that dies when it has sent this many bytes, and after this long. If its reply has arrived by
    /// then, the connection is reset.
    Dying(usize, Duration),
}

/// Asks a gateway, and gives what the peer is told.
pub(crate) async fn ask(
    gateway: &str,
    user: usize,
    asked: Asked,
    number: usize,
    manner: Manner,
) -> anyhow::Result<Told> {
    let bytes = request(user, asked, number)?;
    let mut stream = TcpStream::connect((gateway, PEERS)).await?;
    match manner {
        Manner::Whole => stream.write_all(&bytes).await?,
        Manner::InPieces(first) => {
            let (first, rest) = bytes.split_at(first.min(bytes.len()));
            stream.write_all(first).await?;
            time::sleep(Duration::from_millis(20)).await;
            stream.write_all(rest).await?;
        }
        Manner::Dying(first, after) => {
            stream.write_all(&bytes[..first.min(bytes.len())]).await?;
            time::sleep(after).await;
            bail!("the peer has died");
        }
    }
    let status = read_status(stream.read_u8().await?)?;
    match asked {
        Asked::Files(_) if status == 0 => files(&mut stream).await,
        Asked::Users if status == 0 => users(&mut stream).await,
        _ => Ok(Told::Status(status)),
    }
}

async fn count(stream: &mut TcpStream) -> anyhow::Result<u32> {
    let mut count = [0; 4];
    stream.read_exact(&mut count).await?;
    Ok(read_count(count, Encoding::Terminated)?)
}

async fn files(stream: &mut TcpStream) -> anyhow::Result<Told> {
    let mut files = BTreeSet::new();
    for _ in 0..count(stream).await? {
        let mut entry = [0; FILE_ENTRY];
        stream.read_exact(&mut entry).await?;
        let file = read_file(&entry)?.filename.as_str().parse().context("the name of a file")?;
        if !files.insert(file) {
            return Ok(NEVER_RIGHT);
        }
    }
    Ok(Told::Files(files))
}

/// What a peer is told by a list that has an entry twice: a status that no operation has.
const NEVER_RIGHT: Told = Told::Status(u8::MAX);

/// Reads who is connected. Users whom only judges ask for are left out.
async fn users(stream: &mut TcpStream) -> anyhow::Result<Told> {
    let mut users = BTreeSet::new();
    for _ in 0..count(stream).await? {
        let mut entry = [0; USER_ENTRY];
        stream.read_exact(&mut entry).await?;
        let user = number(read_user(&entry)?.username.as_str())?;
        if !users.insert(user) {
            return Ok(NEVER_RIGHT);
        }
    }
    users.retain(|user| *user < USERS);
    Ok(Told::Users(users))
}

/// The number of the user of this name.
pub(crate) fn number(name: &str) -> anyhow::Result<usize> {
    name.strip_prefix("user-").and_then(|number| number.parse().ok()).context("the name of a user")
}

pub(crate) fn name(user: usize) -> String {
    format!("user-{user}")
}
