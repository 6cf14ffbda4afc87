//! `lonja peer` in a terminal, with the keys that a person presses.

use std::{
    fs,
    io::{Read as _, Write},
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use lonja_wire::Command;
use portable_pty::{Child, CommandBuilder, PtySize, native_pty_system};
use tempfile::TempDir;

use crate::{eventually, process::Index, wire};

/// What a terminal sends for Ctrl-C.
const CTRL_C: &str = "\x03";
/// What a terminal sends for Ctrl-D.
const CTRL_D: &str = "\x04";
/// What a terminal sends for the Up key.
const UP: &str = "\x1b[A";

struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    screen: Arc<Mutex<String>>,
    seen: usize,
}

impl Terminal {
    fn start(index: &Index, directory: &TempDir) -> Self {
        let pair =
            native_pty_system().openpty(PtySize { rows: 24, cols: 100, ..PtySize::default() }).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_lonja"));
        command.args(["peer", "-s", "127.0.0.1", "-p", &index.peers.port().to_string()]);
        command.args(["--datetime", &format!("http://{}/?wsdl", index.datetime)]);
        command.cwd(directory.path());
        command.env("TERM", "xterm");
        command.env("XDG_STATE_HOME", directory.path().join("state"));
        let child = pair.slave.spawn_command(command).unwrap();
        let mut output = pair.master.try_clone_reader().unwrap();
        let keyboard = pair.master.take_writer().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&screen);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut piece) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
            }
            // If this end were closed earlier, the child would lose its terminal.
            drop(pair.master);
        });
        Self { child, keyboard, screen, seen: 0 }
    }

    fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Waits until `text` is shown, behind everything that was waited for before.
    fn shows(&mut self, text: &str) {
        let screen = Arc::clone(&self.screen);
        let seen = self.seen;
        let at = eventually(&format!("{text:?} is shown"), || screen.lock().unwrap()[seen..].find(text));
        self.seen += at + text.len();
    }

    /// Types a command, and waits for `reply` and the next prompt.
    fn run(&mut self, command: &str, reply: &str) {
        self.keys(&format!("{command}\r"));
        self.shows(reply);
        self.shows("c> ");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the terminal:\n{}", self.screen.lock().unwrap());
        }
    }
}

#[test]
fn a_person_types_completes_and_recalls() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("hello.txt"), "hello").unwrap();
    let mut terminal = Terminal::start(&index, &directory);
    terminal.shows("c> ");
    // The Tab key completes a command, and then the name of a file in the directory.
    terminal.run("reg\t alice", "REGISTER OK");
    terminal.run("conn\t alice", "CONNECT OK");
    terminal.run("pub\t hel\t a greeting", "PUBLISH OK");
    terminal.run("LIST_CONTENT alice", "hello.txt \"a greeting\"");
    // The Up key brings back the line before.
    terminal.run(UP, "hello.txt \"a greeting\"");
    terminal.run("LIST_USERS", "alice 127.0.0.1 ");
    // A line that is given up with Ctrl-C is not run; the shell goes on.
    terminal.keys(&format!("QUIT{CTRL_C}"));
    terminal.shows("c> ");
    terminal.run("GET_FILE al\t he\t copy.txt", "GET_FILE OK");
    terminal.keys(CTRL_D);
    terminal.shows("+++ FINISHED +++");
    assert!(terminal.child.wait().unwrap().success());
    assert_eq!(wire::ask(index.peers, "alice", Command::ListUsers), 2);
    let history = fs::read_to_string(directory.path().join("state/lonja/peer-history")).unwrap();
    assert!(history.contains("LIST_CONTENT alice\n"), "{history}");
}

#[test]
fn ctrl_c_stops_a_copy_and_not_the_shell() {
    let index = Index::start();
    let directory = TempDir::new().unwrap();
    // A peer that begins to send a file and then sends nothing more.
    let slow = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = slow.local_addr().unwrap().port();
    let held = thread::spawn(move || {
        let mut callers = Vec::new();
        while callers.len() < 2 {
            let (mut caller, _) = slow.accept().unwrap();
            let mut asked = [0; 9];
            caller.read_exact(&mut asked).unwrap();
            let answer: &[u8] = if &asked == b"GET_FILE\0" { b"0half of it" } else { b"2" };
            caller.write_all(answer).unwrap();
            callers.push(caller);
        }
        callers
    });
    assert_eq!(wire::register(index.peers, "slow"), 0);
    assert_eq!(wire::connect_as(index.peers, "slow", port), 0);
    let mut terminal = Terminal::start(&index, &directory);
    terminal.shows("c> ");
    terminal.run("REGISTER alice", "REGISTER OK");
    terminal.run("CONNECT alice", "CONNECT OK");
    terminal.keys("GET_FILE --refresh slow file copy.txt\r");
    // The progress of a copy whose size is not known: 10 bytes have come.
    terminal.shows("10 B");
    terminal.keys(CTRL_C);
    terminal.shows("GET_FILE FAIL");
    terminal.shows("lonja: stopped");
    terminal.shows("c> ");
    drop(held.join().unwrap());
    terminal.run("LIST_USERS", "LIST_USERS OK");
    terminal.keys("QUIT\r");
    terminal.shows("+++ FINISHED +++");
    // A command failed, but the person at the terminal has seen that: the exit code is still 0.
    assert_eq!(terminal.child.wait().unwrap().exit_code(), 0);
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("copy") || name.contains(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
