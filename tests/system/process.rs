//! Running `lonja` as a person does, and killing it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::eventually;

/// Gives a command that runs the `lonja` under test, with pipes for its output.
pub(crate) fn lonja() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lonja"));
    // Settings of the person who runs the tests must not change what is tested.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("LONJA_") || name.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    // A test is one address, and asks for more than a class.
    for rate in ["LONJA_MAX_REGISTRATIONS_PER_ADDRESS", "LONJA_MAX_REQUESTS_PER_ADDRESS"] {
        command.env(rate, "0");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running process and what it has printed so far.
pub(crate) struct Process {
    child: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let stdout = collect(child.stdout.take().expect("standard output"));
        let stderr = collect(child.stderr.take().expect("standard error"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits for a line on standard output that begins with `begins`, and gives the address in it.
    pub(crate) fn address(&mut self, begins: &str) -> SocketAddr {
        eventually(begins, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended with {status}: {:?}", self.stderr());
            }
            let line = self.stdout().into_iter().find(|line| line.starts_with(begins))?;
            let digits = |text: &str| text.trim_start_matches("http://").split('/').next().map(str::to_owned);
            line.split_whitespace().filter_map(digits).find_map(|word| word.parse().ok())
        })
    }

    /// Ends the process as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the process a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until the process has ended.
    pub(crate) fn end(&mut self) -> ExitStatus {
        eventually("the process ends", || self.child.try_wait().unwrap())
    }

    /// The resident memory of the process, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- standard error of the process:\n{}", self.stderr().join("\n"));
        }
    }
}

fn collect(output: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            kept.lock().unwrap().push(line);
        }
    });
    lines
}

/// Waits until a process can listen on this address: a connection of another test may have its
/// port for a while.
pub(crate) fn until_free(address: SocketAddr) {
    eventually("a port is free", || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).ok()
    });
}

/// A running `lonja up` with a data directory of its own.
pub(crate) struct Index {
    pub(crate) process: Process,
    pub(crate) peers: SocketAddr,
    pub(crate) datetime: SocketAddr,
    pub(crate) console: SocketAddr,
    data: Arc<TempDir>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Index {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::start_in(TempDir::new().unwrap(), arguments, Vec::new())
    }

    /// Starts an index with its data in a directory, and with more in its environment.
    pub(crate) fn start_in(
        data: TempDir,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> Self {
        Self::start_on(Arc::new(data), arguments, environment)
    }

    fn start_on(data: Arc<TempDir>, arguments: Vec<String>, environment: Vec<(String, String)>) -> Self {
        arguments.iter().filter_map(|argument| argument.parse().ok()).for_each(until_free);
        let mut command = lonja();
        command.args(["up", "--data-dir"]).arg(data.path()).args(&arguments).envs(environment.clone());
        for option in ["--gateway-listen", "--datetime-listen", "--console-listen"] {
            if !arguments.iter().any(|argument| argument == option) {
                command.args([option, "127.0.0.1:0"]);
            }
        }
        let mut process = Process::spawn(&mut command);
        let peers = process.address("peers connect to");
        let datetime = process.address("time over SOAP");
        let console = process.address("console");
        Self { process, peers, datetime, console, data, arguments, environment }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Starts the index again on the same data. An index that still runs is killed first.
    pub(crate) fn restart(self) -> Self {
        self.restart_with(&[])
    }

    /// Starts the index again as [`Self::restart`] does, with further arguments.
    pub(crate) fn restart_with(self, further: &[&str]) -> Self {
        let (data, mut arguments) = (Arc::clone(&self.data), self.arguments.clone());
        arguments.extend(further.iter().map(|argument| (*argument).to_owned()));
        let environment = self.environment.clone();
        drop(self);
        Self::start_on(data, arguments, environment)
    }

    /// The value of a metric; 0 if the metric is not there. `name` includes its labels, as they
    /// stand in the line of the metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = http_get(self.console, "/metrics").1;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Sends a GET request, and gives the status and the body of the answer.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

/// Sends the text of an HTTP request unchanged, and gives the status and the body of the answer.
pub(crate) fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
