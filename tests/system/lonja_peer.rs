//! `lonja peer`, driven through its shell and by its commands.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

use serde_json::Value;

use crate::{
    peer::{Shell, without_datetime},
    process::{Index, Process, lonja},
};

/// A command that does not exist. The shell's answer to it marks the end of what the command before
/// it printed.
const NO_COMMAND: &str = "END_OF_OUTPUT";

/// Gives a command that runs `lonja peer` in a directory, for this index and this clock.
pub(crate) fn peer(peers: SocketAddr, datetime: SocketAddr, directory: &Path) -> Command {
    let mut command = lonja();
    command
        .args(["peer", "-s", &peers.ip().to_string(), "-p", &peers.port().to_string()])
        .args(["--datetime", &format!("http://{datetime}/?wsdl")])
        .current_dir(directory);
    command
}

/// The exit code and the output of one command of `lonja peer`, such as `lonja peer users`.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// Parses standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs one command of `lonja peer` to its end.
pub(crate) fn say(index: &Index, directory: &Path, arguments: &[&str]) -> Said {
    let output = peer(index.peers, index.datetime, directory).args(arguments).output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Starts `lonja peer share`, and waits until it has published as many files as `files` says.
pub(crate) fn share(index: &Index, data: &Path, shared: &Path, name: &str, files: usize) -> Process {
    share_at((index.peers, index.datetime), data, shared, name, files)
}

/// Starts `lonja peer share` with the addresses of an index and a clock, and waits as `share` does.
pub(crate) fn share_at(
    (peers, datetime): (SocketAddr, SocketAddr),
    data: &Path,
    shared: &Path,
    name: &str,
    files: usize,
) -> Process {
    let mut command = peer(peers, datetime, data);
    command.args(["share", "--as", name, "--bind", "127.0.0.1"]).arg(shared);
    let process = Process::spawn(&mut command);
    crate::eventually("the files are published", || {
        let published = process.stdout().iter().filter(|line| line.starts_with("published ")).count();
        (published == files).then_some(())
    });
    process
}

/// The shell of `lonja peer`, which reads commands from a pipe.
pub(crate) struct LonjaPeer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl LonjaPeer {
    /// Closes the pipe and waits for the end of the shell. Gives its exit status and the last lines
    /// that it printed.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        drop(self.stdin.take());
        let rest = self.stdout.by_ref().map_while(Result::ok).collect();
        (self.child.wait().unwrap(), rest)
    }

    /// Sends the shell a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

impl Shell for LonjaPeer {
    fn start(peers: SocketAddr, datetime: SocketAddr, directory: &Path) -> Self {
        let mut command = peer(peers, datetime, directory);
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, stdout }
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        let stdin = self.stdin.as_mut().unwrap();
        write!(stdin, "{command}\n{NO_COMMAND}\n").unwrap();
        let end = format!("Error: command {NO_COMMAND} not valid.");
        let lines = self.stdout.by_ref().map(Result::unwrap).take_while(|line| *line != end).collect();
        without_datetime(command, lines)
    }

    fn quit(mut self) {
        writeln!(self.stdin.as_mut().unwrap(), "QUIT").unwrap();
        let (status, rest) = self.end();
        assert_eq!(rest, ["+++ FINISHED +++"]);
        // At least NO_COMMAND was refused, and a shell that has refused a command exits with 1.
        assert_eq!(status.code(), Some(1));
    }
}

impl Drop for LonjaPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
