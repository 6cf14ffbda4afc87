//! Commands for scripts: one operation, its result on standard output, and an exit status.

use std::{
    fmt::Display,
    io::{self, Write as _},
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    process,
};

use lonja_wire::{Command as Request, Filename, Operation, Outcome, Username, get_file};
use serde_json::{Value, json};

use crate::{
    CommandError,
    copy::{Copied, Job, target_path},
    fetch::Source,
    index::reply_text,
    partial::Target,
    peer::{Peer, PeerError},
    progress::Progress,
    share::Share,
    signals::on_signal,
    text::visible,
};

/// A command.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    /// Add the user
    Register,
    /// Remove the user and end its session
    Unregister,
    /// Open a session for something else that serves files at a port of this machine
    Connect {
        /// The port that others dial
        #[arg(value_name = "PORT")]
        serves_at: NonZeroU16,
    },
    /// End the session, wherever it was opened
    Disconnect,
    /// Add a file to the list of a session that is open
    Publish {
        /// Its name
        file: String,
        /// What it is
        #[arg(default_value = "")]
        description: String,
    },
    /// Take a file off that list
    Delete {
        /// Its name
        file: String,
    },
    /// List who is online
    Users,
    /// List what a user offers
    Content {
        /// Whose files
        user: String,
    },
    /// Copy a file from a user
    Get {
        /// Whose file, and which; only which with --from
        #[arg(value_names = ["USER", "FILE"], num_args = 1..=2, required = true)]
        what: Vec<String>,
        /// Copy from these users, who have the same file, at one time
        #[arg(long, value_name = "USER")]
        from: Vec<String>,
        /// Where to; the file's own name if not given
        #[arg(short, long, value_name = "PATH")]
        output: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Offer every file below a directory, until interrupted
    Share {
        /// The directory
        directory: PathBuf,
        /// What its files are
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
}

impl Command {
    /// The directory that it serves from, if it serves.
    #[must_use]
    pub(crate) fn shared(&self) -> Option<&Path> {
        match self {
            Self::Share { directory, .. } => Some(directory),
            _ => None,
        }
    }
}

/// Runs a command as that user.
///
/// # Errors
/// When it was not carried out.
pub(crate) fn run(command: Command, peer: &mut Peer, name: &str, json: bool) -> Result<(), CommandError> {
    let user = peer.set_user(name)?;
    let told = Told { json };
    if let Command::Share { directory, description } = command {
        let description = description.parse().map_err(|error| PeerError::Field("description", error))?;
        return Share::new(peer, user, description, json).run(&directory);
    }
    let interrupt = peer.interrupt().clone();
    on_signal(move |_| {
        if interrupt.is_raised() {
            // Whatever holds it up, a second signal is meant.
            process::exit(1);
        }
        interrupt.raise();
    })?;
    let now = peer.now();
    let result = match command {
        Command::Register => told.status(Operation::Register, peer.register(&now, name)),
        Command::Unregister => told.status(Operation::Unregister, peer.unregister(&now, name)),
        Command::Connect { serves_at } => {
            told.status(Operation::Connect, peer.ask(&now, Some(&user), Request::Connect(serves_at.into())))
        }
        Command::Disconnect => told.status(Operation::Disconnect, peer.disconnect(&now, name)),
        Command::Publish { file, description } => {
            told.status(Operation::Publish, peer.publish(&now, &file, &description))
        }
        Command::Delete { file } => told.status(Operation::Delete, peer.delete(&now, &file)),
        Command::Users => {
            let users = connected(peer, &user, Peer::list_users);
            told.rows(Operation::ListUsers, "users", users, |user| {
                json!({
                    "username": user.username.as_str(),
                    "address": user.address,
                    "port": user.port.get(),
                })
            })
        }
        Command::Content { user: of } => {
            let files = connected(peer, &user, |peer, now| peer.list_content(now, &of));
            told.rows(Operation::ListContent, "files", files, |file| {
                json!({ "filename": file.filename.as_str(), "description": file.description.as_str() })
            })
        }
        Command::Get { what, from, output, force } => {
            let (from, file) = sources(what, from)?;
            told.copy(get(peer, &user, &from, &file, output.as_deref(), force))
        }
        Command::Share { .. } => Ok(()),
    };
    // A session that was opened for this command alone ends with it, however it ended.
    peer.interrupt().reset();
    peer.leave();
    result
}

/// From whom, and what.
fn sources(mut what: Vec<String>, from: Vec<String>) -> Result<(Vec<String>, String), CommandError> {
    let file = what.pop().unwrap_or_default();
    match (what.pop(), from.is_empty()) {
        (Some(user), true) => Ok((vec![user], file)),
        (None, false) => Ok((from, file)),
        (Some(_), false) => Err(CommandError::Usage("give one FILE with --from, or USER and FILE without")),
        (None, true) => Err(CommandError::Usage("give USER and FILE, or FILE and --from USER")),
    }
}

/// Does what only a connected user may. One who is not is connected meanwhile.
fn connected<T>(
    peer: &mut Peer,
    user: &Username,
    mut list: impl FnMut(&mut Peer, &lonja_wire::Datetime) -> Result<T, PeerError>,
) -> Result<T, PeerError> {
    let now = peer.recent();
    match list(peer, &now) {
        Err(error) if error.is(Outcome::NotConnected) => {
            peer.connect(&now, user.as_str())?;
            list(peer, &now)
        }
        listed => listed,
    }
}

fn get(
    peer: &mut Peer,
    user: &Username,
    from: &[String],
    file: &str,
    output: Option<&Path>,
    force: bool,
) -> Result<(PathBuf, Copied), CommandError> {
    let filename: Filename = file.parse().map_err(|error| PeerError::Field("file name", error))?;
    let path = target_path(output, &filename);
    let target = Target { path: path.clone(), overwrite: force };
    // Before anybody is asked for anything.
    target.check().map_err(crate::copy::CopyError::from)?;
    let online = connected(peer, user, Peer::list_users)?;
    let source = |name: &String| {
        let entry = online.iter().find(|entry| entry.username.as_str() == name);
        let address = entry.map(|entry| SocketAddr::new(entry.address.into(), entry.port.get()));
        let user = visible(name);
        match address {
            Some(address) => Ok(Source { user, address }),
            None => Err(PeerError::NotListed(user)),
        }
    };
    let sources = from.iter().map(source).collect::<Result<Vec<_>, _>>()?;
    let progress = Progress::on_terminal();
    let interrupt = &peer.interrupt().clone();
    let job = Job { filename: &filename, target: &target, interrupt, progress: &progress };
    let copied = job.copy_from_all(&sources)?;
    Ok((path, copied))
}

/// Says how it went.
struct Told {
    json: bool,
}

impl Told {
    fn status(&self, operation: Operation, result: Result<(), PeerError>) -> Result<(), CommandError> {
        self.reply(operation, result.map(|()| (vec![reply_text(operation, 0)], json!({}))))
    }

    fn rows<T: Display>(
        &self,
        operation: Operation,
        name: &str,
        rows: Result<Vec<T>, PeerError>,
        row: impl Fn(&T) -> Value,
    ) -> Result<(), CommandError> {
        self.reply(
            operation,
            rows.map(|rows| {
                let list: Vec<_> = rows.iter().map(row).collect();
                (rows.iter().map(|row| visible(&row.to_string())).collect(), json!({ name: list }))
            }),
        )
    }

    /// Prints lines, or as JSON the operation, the status, what a shell would print, and
    /// what is listed.
    fn reply(
        &self,
        operation: Operation,
        result: Result<(Vec<String>, Value), PeerError>,
    ) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        if self.json {
            let status = result.as_ref().err().map_or(0, |error| error.status(operation));
            let mut object = json!({
                "operation": operation.name(),
                "status": status,
                "reply": reply_text(operation, status),
            });
            if let (Ok((_, more)), Some(object)) = (&result, object.as_object_mut()) {
                object.extend(more.as_object().cloned().unwrap_or_default());
            }
            writeln!(out, "{object}")?;
        } else if let Ok((lines, _)) = &result {
            for line in lines {
                writeln!(out, "{line}")?;
            }
        }
        Ok(result.map(|_| ())?)
    }

    fn copy(&self, result: Result<(PathBuf, Copied), CommandError>) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        match (&result, self.json) {
            (Ok((path, copied)), true) => {
                let object = json!({
                    "operation": get_file::NAME,
                    "status": 0,
                    "reply": format!("{} OK", get_file::NAME),
                    "path": path.to_string_lossy(),
                    "bytes": copied.bytes,
                    "resumed": copied.resumed,
                    "blake3": copied.hash.map(|hash| hash.to_hex().to_string()),
                });
                writeln!(out, "{object}")?;
            }
            (Ok((path, copied)), false) => {
                writeln!(out, "{}", visible(&path.to_string_lossy()))?;
                if copied.hash.is_none() {
                    complain!("lonja: copied from an original peer, which gives nothing to check it against");
                }
            }
            (Err(error), true) => {
                let (status, reply) = error.get_file_reply();
                let object = json!({ "operation": get_file::NAME, "status": status, "reply": reply });
                writeln!(out, "{object}")?;
            }
            (Err(_), false) => {}
        }
        result.map(|_| ())
    }
}
