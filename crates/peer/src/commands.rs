//! Commands for scripts: one operation, its result on standard output, and an exit status.

use std::{
    fmt::Display,
    io::{self, Write as _},
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    process,
    sync::mpsc::{self, Receiver},
};

use lonja_wire::{Command as Request, Filename, Operation, Outcome, Username, get_file};
use serde_json::{Value, json};

use crate::{
    CommandError,
    copy::{Copied, Job, target_path},
    fetch::Source,
    index::reply_text,
    names,
    partial::Target,
    peer::{Peer, PeerError},
    progress::Progress,
    share::Share,
    signals::on_signal,
    text::visible,
};

/// A command for scripts. A command is also understood under its name in the shell.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    /// Add a user
    #[command(alias = "REGISTER")]
    Register {
        /// User to add; the user of --as if not given
        user: Option<String>,
    },
    /// Remove a user and end its session
    #[command(alias = "UNREGISTER")]
    Unregister {
        /// User to remove; the user of --as if not given
        user: Option<String>,
    },
    /// Open a session, and serve the user's published files from --data-dir until interrupted
    ///
    /// With a PORT, the session is for another program, which serves files at that port of this
    /// machine, and the command ends at once. `connect PORT --as USER` is another way to write
    /// `connect USER PORT`.
    #[command(alias = "CONNECT")]
    Connect {
        /// User to open a session for, and perhaps the port at which another program serves files
        #[arg(value_names = ["USER", "PORT"], num_args = 1..=2)]
        what: Vec<String>,
    },
    /// End a user's session, wherever it was opened
    #[command(alias = "DISCONNECT")]
    Disconnect {
        /// User whose session to end; the user of --as if not given
        user: Option<String>,
    },
    /// Publish a file in the session that the user of --as has open
    #[command(alias = "PUBLISH")]
    Publish {
        /// Name of the file
        file: String,
        /// Description of the file, in one or more words
        description: Vec<String>,
    },
    /// Stop publishing a file
    #[command(alias = "DELETE")]
    Delete {
        /// Name of the file
        file: String,
    },
    /// List the users who are online
    #[command(aliases = ["list_users", "LIST_USERS"])]
    Users,
    /// List the files that a user offers
    #[command(aliases = ["list_content", "LIST_CONTENT"])]
    Content {
        /// User whose files to list
        user: String,
    },
    /// Copy a file from a user
    #[command(aliases = ["get_file", "GET_FILE"])]
    Get {
        /// User, file, and perhaps the path of the copy; with --from, only the file
        #[arg(value_names = ["USER", "FILE", "COPY"], num_args = 1..=3, required = true)]
        what: Vec<String>,
        /// User to copy from; repeat --from to copy from several users at one time, who must have
        /// the same file
        #[arg(long, value_name = "USER")]
        from: Vec<String>,
        /// Path of the copy; the file's own name if not given
        #[arg(short, long, value_name = "PATH")]
        output: Option<PathBuf>,
        /// Replace a file that has the path of the copy
        #[arg(long)]
        force: bool,
    },
    /// Offer every file below a directory, until interrupted
    Share {
        /// Directory to offer
        directory: PathBuf,
        /// Description that every file gets
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
}

impl Command {
    /// The directory that the command serves files from, if the command names one.
    #[must_use]
    pub(crate) fn shared(&self) -> Option<&Path> {
        match self {
            Self::Share { directory, .. } => Some(directory),
            _ => None,
        }
    }

    /// Whether this command serves what other commands publish.
    #[must_use]
    pub(crate) fn serves_what_others_publish(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// The user that the command names, or else the user that `--as` names (`named`).
    ///
    /// # Errors
    /// When neither names a user.
    pub(crate) fn user(&self, named: Option<String>) -> Result<String, CommandError> {
        let own = match self {
            Self::Register { user } | Self::Unregister { user } | Self::Disconnect { user } => user.clone(),
            Self::Connect { what } => match what.as_slice() {
                // `connect PORT --as USER`
                [port] if named.is_some() && is_number(port) => None,
                [user, ..] => Some(user.clone()),
                [] => None,
            },
            _ => return named.ok_or(CommandError::Usage("name the user with --as USER")),
        };
        own.or(named).ok_or(CommandError::Usage("name the user: USER or --as USER"))
    }
}

/// Whether a word is meant as a port, possible or not.
fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// The port at which another program serves files, if `connect` names a port.
fn port(what: &[String], user: &str) -> Result<Option<NonZeroU16>, CommandError> {
    let behind_the_user = what.strip_prefix(&[user.to_owned()]).unwrap_or(what);
    let port = behind_the_user.first().map(|port| port.parse());
    port.transpose().map_err(|_| CommandError::Usage("PORT must be a number from 1 to 65535"))
}

/// Runs a command as the user `name`.
///
/// # Errors
/// When the command was not carried out.
pub(crate) fn run(command: Command, peer: &mut Peer, name: &str, json: bool) -> Result<(), CommandError> {
    let user = peer.set_user(name)?;
    let told = Told { json };
    if let Command::Share { directory, description } = command {
        let description = description.parse().map_err(|error| PeerError::Field("description", error))?;
        return Share::new(peer, user, description, json).run(&directory);
    }
    let interrupt = peer.interrupt().clone();
    let (end, ended) = mpsc::sync_channel(1);
    on_signal(move |_| {
        if interrupt.is_raised() {
            // A second signal ends the process at once, whatever holds up the command.
            process::exit(1);
        }
        interrupt.raise();
        // One message in the channel is enough, because only one command waits for it.
        let _ = end.try_send(());
    })?;
    // Before anybody is asked for anything.
    let serves_at = if let Command::Connect { what } = &command { port(what, name)? } else { None };
    let now = peer.now();
    let result = match command {
        Command::Register { .. } => told.status(Operation::Register, peer.register(&now, name)),
        Command::Unregister { .. } => told.status(Operation::Unregister, peer.unregister(&now, name)),
        Command::Connect { .. } => match serves_at {
            Some(port) => {
                told.status(Operation::Connect, peer.ask(&now, Some(&user), Request::Connect(port.into())))
            }
            None => {
                let connected = told.status(Operation::Connect, peer.connect(&now, name));
                connected.inspect(|()| serve(peer, &user, &ended))
            }
        },
        Command::Disconnect { .. } => told.status(Operation::Disconnect, peer.disconnect(&now, name)),
        Command::Publish { file, description } => {
            told.status(Operation::Publish, peer.publish(&now, &file, &description.join(" ")))
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
        Command::Get { mut what, from, mut output, force } => {
            if let (3, None) = (what.len(), &output) {
                output = what.pop().map(PathBuf::from);
            }
            let (from, file) = sources(what, from)?;
            told.copy(get(peer, &user, &from, &file, output.as_deref(), force))
        }
        Command::Share { .. } => Ok(()),
    };
    // A session that was opened for this command ends with the command, carried out or not.
    peer.interrupt().reset();
    peer.leave();
    result
}

/// Serves what `user` has published until a signal comes.
fn serve(peer: &Peer, user: &Username, ended: &Receiver<()>) {
    if let Some((address, _)) = peer.serving(user) {
        let folder = visible(&peer.folder().to_string_lossy());
        complain!("lonja: {user} serves published files from {folder} at {address}; Ctrl-C ends it");
    }
    // This fails only if the thread for signals, which has the sender, is gone.
    let _ = ended.recv();
}

/// The users to copy from, and the file to copy, from the arguments of `get`.
fn sources(mut what: Vec<String>, from: Vec<String>) -> Result<(Vec<String>, String), CommandError> {
    let file = what.pop().unwrap_or_default();
    if what.len() > 1 {
        return Err(CommandError::Usage("give the path of the copy once: as COPY or with --output"));
    }
    match (what.pop(), from.is_empty()) {
        (Some(user), true) => Ok((vec![user], file)),
        (None, false) => Ok((from, file)),
        (Some(_), false) => Err(CommandError::Usage("give one FILE with --from, or USER and FILE without")),
        (None, true) => Err(CommandError::Usage("give USER and FILE, or FILE and --from USER")),
    }
}

/// Asks for a list that only a connected user may have. A user who is not connected is connected
/// until the command ends.
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
    let typed: Filename = file.parse().map_err(|error| PeerError::Field("file name", error))?;
    // A target that cannot be used is refused before anybody is asked for anything.
    let target = |filename| Target { path: target_path(output, filename), overwrite: force };
    target(&typed).check().map_err(crate::copy::CopyError::from)?;
    let online = connected(peer, user, Peer::list_users)?;
    let filename = peer.offered_name(from.first().map_or("", String::as_str), file)?;
    let target = target(&filename);
    let path = target.path.clone();
    let source = |name: &String| {
        let entry = names::find(&online, name, |entry| entry.username.as_str());
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

/// Prints how a command went, as lines or as JSON.
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

    /// Prints the lines, or a JSON object with the operation, the status, what a shell would print,
    /// and what is listed.
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
                    complain!("lonja: the copy is not verified: an original peer sends no hash");
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
