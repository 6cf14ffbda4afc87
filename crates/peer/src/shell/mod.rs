//! The shell, as the original peers have it (docs/protocol.md 7).

mod input;
mod line;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use lonja_wire::{Datetime, Operation, get_file};
use parking_lot::Mutex;

use self::{
    input::{Input, Typed},
    line::{COMMANDS, Line},
};
use crate::{
    CommandError,
    copy::{Job, target_path},
    index::reply_text,
    partial::Target,
    peer::{Peer, PeerError},
    progress::Progress,
    signals::{Signal, on_signal},
    text::visible,
};

/// How long a command that is under way may take to end after a signal has told the shell to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs the shell until QUIT or the end of standard input. Gives whether every command of a script
/// was carried out, and always true at a terminal.
///
/// # Errors
/// When standard input cannot be read or standard output cannot be written.
pub(crate) fn run(peer: Peer) -> io::Result<bool> {
    let terminal = io::stdin().is_terminal();
    let interrupt = peer.interrupt().clone();
    let peer = Arc::new(Mutex::new(peer));
    let ended = Arc::clone(&peer);
    let modes = input::Modes::save();
    on_signal(move |signal| {
        interrupt.raise();
        if let (true, Signal::Interrupt) = (terminal, signal) {
            return;
        }
        // The command that is under way has been stopped, and while the peer is locked no other
        // command begins. A command that is blocked because nobody reads its output is not waited
        // for any longer.
        if let Some(mut peer) = ended.try_lock_for(PATIENCE) {
            interrupt.reset();
            peer.leave();
        }
        modes.restore();
        process::exit(match signal {
            Signal::Interrupt => 1,
            Signal::End(number) => 128 + number,
        });
    })?;
    let mut shell = Shell { peer, offered: Vec::new() };
    let mut input = Input::new(terminal);
    let mut all_done = true;
    let result = loop {
        match input.next(&shell.known()) {
            Ok(Typed::Line(line)) => match shell.run(&line) {
                Ok(Done::Yes) => {}
                Ok(Done::No) => all_done = false,
                Ok(Done::Quit) => break Ok(()),
                Err(error) => break Err(error),
            },
            Ok(Typed::Nothing) => {}
            Ok(Typed::Bad) => {
                all_done = false;
                if let Err(error) =
                    writeln!(io::stdout(), "Syntax error. The line is too long, or not UTF-8.")
                {
                    break Err(error);
                }
            }
            Ok(Typed::End) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let mut peer = shell.peer.lock();
    peer.interrupt().reset();
    peer.leave();
    result?;
    writeln!(io::stdout(), "+++ FINISHED +++")?;
    // A person at a terminal has seen what failed.
    Ok(all_done || terminal)
}

struct Shell {
    peer: Arc<Mutex<Peer>>,
    /// The names of the files that the last LIST_CONTENT listed.
    offered: Vec<String>,
}

/// Whether a command was carried out.
enum Done {
    Yes,
    No,
    Quit,
}

/// Names that can be completed.
#[derive(Debug, Default, Clone)]
struct Known {
    /// The folder of the files that can be published.
    directory: PathBuf,
    users: Vec<String>,
    published: Vec<String>,
    offered: Vec<String>,
}

impl Shell {
    fn known(&self) -> Known {
        let peer = self.peer.lock();
        let published = peer.user().map(|user| peer.published(user)).unwrap_or_default();
        Known {
            directory: peer.folder().to_owned(),
            users: peer.listed_users(),
            published: published.iter().map(|file| file.filename.clone()).collect(),
            offered: self.offered.clone(),
        }
    }

    fn run(&mut self, line: &str) -> io::Result<Done> {
        let line = match Line::parse(line) {
            Ok(line) => line,
            Err(error) => {
                writeln!(io::stdout(), "{error}")?;
                return Ok(Done::No);
            }
        };
        let peer = Arc::clone(&self.peer);
        let mut peer = peer.lock();
        peer.interrupt().reset();
        match line {
            Line::Empty => Ok(Done::Yes),
            Line::Quit => Ok(Done::Quit),
            Line::Help => help(),
            Line::GetFile { user, remote, local, refresh, force } => {
                get_file(&mut peer, &user, &remote, Path::new(&local), (refresh, force))
            }
            Line::Register(name) => {
                tell(&mut peer, Operation::Register, |peer, now| peer.register(now, &name))
            }
            Line::Unregister(name) => {
                tell(&mut peer, Operation::Unregister, |peer, now| peer.unregister(now, &name))
            }
            Line::Connect(name) => tell(&mut peer, Operation::Connect, |peer, now| peer.connect(now, &name)),
            Line::Disconnect(name) => {
                tell(&mut peer, Operation::Disconnect, |peer, now| peer.disconnect(now, &name))
            }
            Line::Publish(file, description) => {
                tell(&mut peer, Operation::Publish, |peer, now| peer.publish(now, &file, &description))
            }
            Line::Delete(file) => tell(&mut peer, Operation::Delete, |peer, now| peer.delete(now, &file)),
            Line::ListUsers => list(&mut peer, Operation::ListUsers, |peer, now| {
                let users = peer.list_users(now)?;
                Ok(users.iter().map(ToString::to_string).collect())
            }),
            Line::ListContent(name) => list(&mut peer, Operation::ListContent, |peer, now| {
                let files = peer.list_content(now, &name)?;
                self.offered = files.iter().map(|file| file.filename.to_string()).collect();
                Ok(files.iter().map(ToString::to_string).collect())
            }),
        }
    }
}

fn tell(
    peer: &mut Peer,
    operation: Operation,
    carry_out: impl FnOnce(&mut Peer, &Datetime) -> Result<(), PeerError>,
) -> io::Result<Done> {
    list(peer, operation, |peer, now| carry_out(peer, now).map(|()| Vec::new()))
}

/// Carries out an operation and prints what a person expects: the time, how the operation went, and
/// the rows that it lists.
fn list(
    peer: &mut Peer,
    operation: Operation,
    carry_out: impl FnOnce(&mut Peer, &Datetime) -> Result<Vec<String>, PeerError>,
) -> io::Result<Done> {
    let mut out = io::stdout().lock();
    let now = peer.now();
    writeln!(out, "{}", visible(now.as_str()))?;
    match carry_out(peer, &now) {
        Ok(rows) => {
            writeln!(out, "{}", reply_text(operation, 0))?;
            for row in rows {
                writeln!(out, "{}", visible(&row))?;
            }
            Ok(Done::Yes)
        }
        Err(error) => {
            writeln!(out, "{}", reply_text(operation, error.status(operation)))?;
            if !matches!(error, PeerError::Refused { .. }) {
                complain!("lonja: {error}");
            }
            Ok(Done::No)
        }
    }
}

fn get_file(
    peer: &mut Peer,
    user: &str,
    remote: &str,
    local: &Path,
    (refresh, force): (bool, bool),
) -> io::Result<Done> {
    let mut copy = || -> Result<(), CommandError> {
        if refresh {
            let now = peer.now();
            peer.list_users(&now)?;
        }
        let source = peer.source(user)?;
        let filename = peer.offered_name(user, remote)?;
        let target = &Target { path: target_path(Some(local), &filename), overwrite: force };
        let progress = Progress::on_terminal();
        let interrupt = &peer.interrupt().clone();
        Job { filename: &filename, target, interrupt, progress: &progress }.copy(&source)?;
        Ok(())
    };
    let result = copy();
    let Err(error) = result else {
        writeln!(io::stdout(), "{} OK", get_file::NAME)?;
        return Ok(Done::Yes);
    };
    let (status, reply) = error.get_file_reply();
    writeln!(io::stdout(), "{reply}")?;
    if status != get_file::STATUS_NO_FILE {
        complain!("lonja: {error}");
    }
    Ok(Done::No)
}

fn help() -> io::Result<Done> {
    let mut out = io::stdout().lock();
    for (_, usage, what) in COMMANDS {
        writeln!(out, "{usage}\n    {what}")?;
    }
    writeln!(out, "A name with spaces is written in double quotes.")?;
    Ok(Done::Yes)
}
