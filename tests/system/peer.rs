//! The trait of peers that tests drive through their shells as a person would, and the Python peer.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::{eventually, repository};

/// Gives a command that runs Python with zeep, which `make test` installs.
pub(crate) fn python() -> Command {
    let python = repository(".venv/bin/python");
    assert!(python.exists(), "this test needs Python with zeep in .venv: run `make .venv/made`");
    Command::new(python)
}

/// A peer with a shell that reads commands.
pub(crate) trait Shell {
    /// Starts a peer that has its files in `directory`.
    fn start(peers: SocketAddr, datetime: SocketAddr, directory: &Path) -> Self;

    /// Types a command, and gives the lines that the peer printed. The datetime before them is
    /// checked and left out.
    fn run(&mut self, command: &str) -> Vec<String>;

    /// Types QUIT and checks the farewell.
    fn quit(self);
}

/// A Python peer at its prompt.
pub(crate) struct Peer {
    child: Child,
    stdin: ChildStdin,
    output: Arc<Mutex<String>>,
    read: usize,
}

const PROMPT: &str = "c> ";

impl Peer {
    /// Waits for the next prompt, and gives what was printed before it.
    fn until_prompt(&mut self) -> String {
        let printed = eventually("a prompt", || {
            let output = self.output.lock().unwrap();
            output[self.read..].ends_with(PROMPT).then(|| output[self.read..].to_owned())
        });
        self.read += printed.len();
        printed.strip_suffix(PROMPT).unwrap().to_owned()
    }
}

impl Shell for Peer {
    fn start(peers: SocketAddr, datetime: SocketAddr, directory: &Path) -> Self {
        let mut child = python()
            .arg(repository("examples/peer.py"))
            .args(["-s", &peers.ip().to_string(), "-p", &peers.port().to_string(), "--pause", "0.02"])
            .args(["--datetime", &format!("http://{datetime}/?wsdl")])
            .current_dir(directory)
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let mut stdout = child.stdout.take().unwrap();
        let kept = Arc::clone(&output);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut piece) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        });
        let stdin = child.stdin.take().unwrap();
        let mut peer = Self { child, stdin, output, read: 0 };
        peer.until_prompt();
        peer
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        writeln!(self.stdin, "{command}").unwrap();
        let printed = self.until_prompt();
        without_datetime(command, printed.lines().map(str::to_owned).collect())
    }

    fn quit(mut self) {
        writeln!(self.stdin, "QUIT").unwrap();
        assert!(self.child.wait().unwrap().success());
        eventually("the farewell", || {
            self.output.lock().unwrap().ends_with("+++ FINISHED +++\n").then_some(())
        });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks the datetime in the first of a command's lines, and gives the lines behind it. A
/// GET_FILE prints no datetime.
pub(crate) fn without_datetime(command: &str, mut lines: Vec<String>) -> Vec<String> {
    if !command.starts_with("GET_FILE") {
        let datetime = lines.remove(0);
        assert!(is_datetime(&datetime), "no datetime before the reply to {command}: {datetime:?} {lines:?}");
    }
    lines
}

/// Whether a text has the form `dd/mm/yyyy hh:mm:ss`.
pub(crate) fn is_datetime(text: &str) -> bool {
    let form = "00/00/0000 00:00:00";
    let same = |(is, should): (char, char)| is == should || (should == '0' && is.is_ascii_digit());
    text.len() == form.len() && text.chars().zip(form.chars()).all(same)
}
