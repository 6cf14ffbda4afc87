//! The command-line peer: the shell that the original peers have, commands for scripts,
//! serving files to other peers and copying from them.
//!
//! A peer waits for one thing at a time, so this crate uses threads and blocking sockets. `peer`
//! is what a peer does at the index, `serve` what it does for other peers, and `copy` what it
//! gets from other peers; `shell`, `commands` and `share` are the three ways to use a peer.
//! docs/protocol.md is the source of every rule.

#[macro_use]
mod text;

mod clock;
mod commands;
pub mod copy;
mod data_dir;
pub mod fetch;
mod hash;
mod index;
pub mod interrupt;
mod locked;
mod names;
pub mod partial;
mod peer;
mod pipe;
pub mod progress;
pub mod serve;
mod share;
pub mod shared;
mod shell;
mod signals;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use lonja_wire::get_file;

use self::{
    commands::Command,
    copy::CopyError,
    fetch::FetchError,
    index::Index,
    interrupt::Interrupt,
    peer::{Peer, PeerError, Settings},
};

/// Settings of the peer. Options may stand before the command or behind it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Without a command, lonja peer is a shell; type HELP there to list its commands.\n\
    Exit status: 0 done, 1 not done (standard error says why), 2 wrong usage.")]
pub struct Config {
    /// Host of the index
    #[arg(
        short,
        long,
        global = true,
        env = "LONJA_PEER_SERVER",
        value_name = "HOST",
        default_value = "localhost"
    )]
    server: String,
    /// Port of the index
    #[arg(short, long, global = true, env = "LONJA_PEER_PORT", value_name = "PORT", default_value_t = 5050)]
    port: u16,
    /// URL of the SOAP service to ask for the time; port 8000 of the index's host if not given
    #[arg(long, global = true, env = "LONJA_PEER_DATETIME", value_name = "URL")]
    datetime: Option<String>,
    /// User to act as
    #[arg(long = "as", id = "as", global = true, env = "LONJA_PEER_AS", value_name = "USER")]
    user: Option<String>,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Address to serve files at; without a port, the system chooses one
    #[arg(long, global = true, env = "LONJA_PEER_BIND", value_name = "ADDR[:PORT]", default_value = "0.0.0.0", value_parser = bind)]
    bind: SocketAddr,
    /// Folder of the JSON files that the peer keeps; the shell and connect also serve files from it
    #[arg(long, global = true, env = "LONJA_PEER_DATA_DIR", value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Usage(&'static str),
}

impl CommandError {
    /// The status of a GET_FILE that fails with this error, and the line that the shell of an
    /// original peer prints then.
    fn get_file_reply(&self) -> (u8, String) {
        let (status, reason) = match self {
            Self::Copy(CopyError::Fetch(FetchError::NoFile(_))) => {
                (get_file::STATUS_NO_FILE, ", FILE DOES NOT EXIST")
            }
            _ => (get_file::STATUS_FAILED, ""),
        };
        (status, format!("{} FAIL{reason}", get_file::NAME))
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Runs a peer until its command or its shell has ended, and gives the exit code of the process.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    let (user, json) = (config.user, config.json);
    let shared = config.command.as_ref().and_then(Command::shared).unwrap_or(&config.data_dir).to_owned();
    let serves_what_others_publish = config.command.as_ref().is_some_and(Command::serves_what_others_publish);
    let settings = Settings {
        serves_what_others_publish,
        datetime: config.datetime.unwrap_or_else(|| format!("http://{}:8000/", config.server)),
        index: Index { server: config.server, port: config.port },
        data_dir: config.data_dir,
        shared,
        bind: config.bind,
    };
    let mut peer = Peer::new(settings, Interrupt::default());
    let result = match (config.command, user) {
        (Some(command), user) => {
            command.user(user).and_then(|user| commands::run(command, &mut peer, &user, json)).map(|()| true)
        }
        (None, user) => user
            .map_or(Ok(()), |user| peer.set_user(&user).map(drop))
            .map_err(CommandError::from)
            .and_then(|()| Ok(shell::run(peer)?)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of standard output has closed it, so there is nobody to tell.
        Err(CommandError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            complain!("lonja: {}{}", text::visible(&error.to_string()), hint(&error));
            error.exit_code()
        }
    }
}

/// What a person can do about an error, as the end of its message; empty if there is no advice.
fn hint(error: &CommandError) -> &'static str {
    use lonja_wire::Outcome::{AlreadyConnected, Failed, NotConnected, NotRegistered};
    match error {
        CommandError::Peer(error) if error.is(NotRegistered) => "; lonja peer register USER adds it",
        CommandError::Peer(error) if error.is(AlreadyConnected) => {
            "; lonja peer disconnect USER ends that session"
        }
        CommandError::Peer(error) if error.is(NotConnected) => {
            "; lonja peer connect or lonja peer share opens a session"
        }
        CommandError::Peer(error) if error.is(Failed) => {
            "; the index gives no reason: whoever runs the index can look for it in the log"
        }
        _ => "",
    }
}

fn bind(text: &str) -> Result<SocketAddr, String> {
    let any_port = || text.parse().map(|ip: Ipv4Addr| SocketAddr::new(IpAddr::V4(ip), 0));
    match text.parse() {
        Ok(address @ SocketAddr::V4(_)) => Ok(address),
        _ => any_port().map_err(|_| "use an IPv4 address, with :PORT to choose the port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use lonja_wire::{Operation, Outcome};

    use super::*;

    /// Bug: whom the index refused without a reason was told to do what the person had just done.
    #[test]
    fn advice_is_given_only_where_the_reply_has_a_reason() {
        let hint = |operation: Operation, outcome| {
            hint(&PeerError::Refused { operation, status: operation.status(outcome) }.into())
        };
        for operation in Operation::ALL {
            assert!(hint(operation, Outcome::Failed).contains("no reason"), "{operation:?}");
        }
        assert!(hint(Operation::Connect, Outcome::NotRegistered).contains("peer register"));
        assert!(hint(Operation::Connect, Outcome::AlreadyConnected).contains("peer disconnect"));
        assert!(hint(Operation::Publish, Outcome::NotConnected).contains("peer connect"));
        assert_eq!(hint(Operation::Publish, Outcome::AlreadyPublished), "");
    }
}
