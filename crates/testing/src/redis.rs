//! Redis servers and clusters that a test starts as processes of its own.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take to start or to answer, and a cluster to come together.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis server with its files in a directory of its own. The server ends when this value is
/// dropped.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    port: u16,
    directory: TempDir,
    start: Start,
}

/// How a server is started, and started again.
#[derive(Debug)]
enum Start {
    Arguments(Vec<String>),
    Script { script: PathBuf, environment: Vec<(String, String)> },
}

impl Start {
    fn spawn(&self, directory: &Path, port: u16) -> Child {
        let mut command = match self {
            Self::Arguments(arguments) => {
                let mut command = Command::new("redis-server");
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]);
                command.arg(directory).args(arguments);
                command
            }
            Self::Script { script, environment } => {
                let mut command = Command::new("sh");
                command.arg(script).env("LONJA_REDIS_PORT", port.to_string());
                command.env("LONJA_REDIS_BIND", "127.0.0.1").env("LONJA_REDIS_DIR", directory);
                command.envs(environment.iter().cloned());
                command
            }
        };
        let log = fs::File::create(directory.join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is missing: install it with `apt-get install redis-server`")
    }
}

impl RedisServer {
    /// Starts a server that makes every command durable before it answers.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server as [`Self::start`] does, with further options of `redis-server`.
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let mut arguments: Vec<String> =
            ["--appendonly", "yes", "--appendfsync", "always", "--save", ""].map(str::to_owned).to_vec();
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        Self::start_as(Start::Arguments(arguments))
    }

    fn start_as(start: Start) -> Self {
        let directory = TempDir::new().unwrap();
        // Another process may take the port between the search for a free one and the start.
        for _ in 0..10 {
            let port = free_port();
            let mut child = start.spawn(directory.path(), port);
            if answers(&mut child, port) {
                return Self { child, port, directory, start };
            }
        }
        panic!("redis-server does not start: install it with `apt-get install redis-server`");
    }

    /// Starts a server with a script that reads `LONJA_REDIS_PORT`, `LONJA_REDIS_BIND` and
    /// `LONJA_REDIS_DIR` from its environment. `passwords` are further variables, each with its
    /// value.
    #[must_use]
    pub fn start_by(script: &Path, passwords: &[(&str, &str)]) -> Self {
        let environment = passwords.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::start_as(Start::Script { script: script.to_owned(), environment: environment.collect() })
    }

    /// A server that tests share while any of them runs. Each test needs a prefix of its own for
    /// its keys.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
        share(&SHARED, Self::start)
    }

    /// The port on which the server listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the server, as the URL of a store.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The directory of the server's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A prefix for keys that nothing else in this process uses.
    #[must_use]
    pub fn fresh_prefix() -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The id of the server's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the server, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the server a signal by name, as `kill -s` takes it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Starts a killed server again, on the same port and with the same files.
    pub fn restart(&mut self) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            self.child = self.start.spawn(self.directory.path(), self.port);
            if answers(&mut self.child, self.port) {
                return;
            }
        }
        panic!("redis-server does not start again on port {}", self.port);
    }

    /// Sends a command and returns the answer in the encoding of Redis, such as `+OK`.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        send(self.port, command).expect("redis answers")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Redis Cluster of three nodes on loopback. The nodes end when this value is dropped.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes, each with a third of the slots.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts three nodes and joins them.
    #[must_use]
    pub fn start() -> Self {
        // The timeout is long, so that no node is given up when the machine stands still for a
        // moment.
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "15000"];
        let bus = |server: &RedisServer| server.port + 10_000;
        let nodes: Vec<_> = (0..3).map(|_| RedisServer::start_with(&options)).collect();
        let slots = ["0 5460", "5461 10922", "10923 16383"];
        for (node, slots) in nodes.iter().zip(slots) {
            assert!(node.command(&format!("CLUSTER ADDSLOTSRANGE {slots}")).starts_with("+OK"));
        }
        for (epoch, node) in nodes.iter().enumerate() {
            let _ = node.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", epoch + 1));
            let first = &nodes[0];
            let _ = node.command(&format!("CLUSTER MEET 127.0.0.1 {} {}", first.port, bus(first)));
        }
        let started = Instant::now();
        let is_joined = |node: &RedisServer| {
            let info = node.command("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        while !nodes.iter().all(is_joined) {
            assert!(started.elapsed() < PATIENCE, "the cluster does not come together");
            thread::sleep(Duration::from_millis(50));
        }
        Self { nodes }
    }

    /// A cluster that tests share while any of them runs. Each test needs a prefix of its own for
    /// its keys.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
        share(&SHARED, Self::start)
    }

    /// The addresses of the nodes, as the URL of a store.
    #[must_use]
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }
}

/// Returns the value that tests share, or starts it if no test has it. A test that panicked while
/// it held the lock has started nothing: the next test starts the value then.
fn share<T>(shared: &Mutex<Weak<T>>, start: impl FnOnce() -> T) -> Arc<T> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let fresh = Arc::new(start());
        *shared = Arc::downgrade(&fresh);
        fresh
    })
}

/// Finds a free port, low enough that the port of the cluster's bus, which is 10,000 higher,
/// exists.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The system chooses ports from 32,768 on: it gives nobody a lower one by itself.
        let port = 10_000 + port % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until a server answers. `false` if its process ends instead, or does not answer in time.
fn answers(child: &mut Child, port: u16) -> bool {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        // A server that wants a password first is up as well.
        let is_up = |answer: String| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH");
        if send(port, "PING").is_some_and(is_up) {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

fn send(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut bytes = vec![0; 65_536];
    let read = stream.read(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
}
