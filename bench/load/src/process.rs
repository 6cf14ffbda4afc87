//! A server under measurement: a process of its own, whose CPU time can be read.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::load::TORRENT;

/// Rates of an address that no load meets. They are counted as others are, so what is measured has their cost.
pub const HIGH_RATES: [(&str, &str); 2] =
    [("LONJA_MAX_REGISTRATIONS_PER_ADDRESS", "4294967295"), ("LONJA_MAX_REQUESTS_PER_ADDRESS", "4294967295")];

/// A server under measurement, which ends when this value is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The port that peers connect to.
    pub port: u16,
    /// The URL of the console, in `lonja up`.
    pub console: Option<String>,
}

impl Server {
    /// Starts a server and reads the port from the line that it prints.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        Ok(Self::start_and_read(command, 1)?.0)
    }

    /// Starts a server and reads `lines` lines that it prints; the first one ends with its port.
    fn start_and_read(command: &mut Command, lines: usize) -> anyhow::Result<(Self, Vec<String>)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let lines: Vec<_> = stdout.by_ref().lines().take(lines).collect::<Result<_, _>>()?;
        let line = lines.first().cloned().unwrap_or_default();
        let port = line.trim().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        // The lines that the server prints for operations are read and thrown away, as by a
        // terminal.
        thread::spawn(move || {
            let mut sink = [0; 65_536];
            while stdout.read(&mut sink).is_ok_and(|read| read > 0) {}
        });
        match port {
            Some(port) => Ok((Self { child, port, console: None }, lines)),
            None => bail!("{:?} did not say where it listens: {line}", command.get_program()),
        }
    }

    /// Starts `lonja up` on a directory, on ports that the system chooses.
    pub fn lonja(program: &Path, data: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(["up", "--gateway-listen", "0.0.0.0:0", "--datetime-listen", "127.0.0.1:0"]);
        command.args(["--console-listen", "127.0.0.1:0", "--data-dir"]).arg(data).args(arguments);
        command.envs(HIGH_RATES);
        let (mut server, lines) = Self::start_and_read(&mut command, 3)?;
        let url = lines.last().and_then(|line| line.split_whitespace().last());
        server.console = url.map(|url| url.trim_end_matches('/').to_owned());
        Ok(server)
    }

    /// Starts opentracker, a tracker in C that answers one request per connection from memory.
    /// Debian's build tracks only the torrents that a list names.
    pub fn opentracker(program: &Path, directory: &Path) -> anyhow::Result<Self> {
        let torrent: String = TORRENT.bytes().map(|byte| format!("{byte:02x}")).collect();
        fs::write(directory.join("torrents"), torrent + "\n")?;
        // opentracker becomes another user before it reads the list.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let number = port.to_string();
        let child = Command::new(program)
            .args(["-i", "0.0.0.0", "-p", &number, "-P", &number, "-w", "/torrents", "-d"])
            .arg(directory.canonicalize()?)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let server = Self { child, port, console: None };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("{} does not listen", program.display())
    }

    /// Ends the server as an operator does, with SIGTERM, and waits until it has ended.
    pub fn terminate(mut self) -> anyhow::Result<()> {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    /// The memory in use by the server, in KiB.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        resident_kib(self.child.id())
    }

    /// CPU time of all threads of the server so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu(self.child.id())
    }
}

/// The memory in use by a process, in KiB.
pub fn resident_kib(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// CPU time of all threads of a process so far.
pub fn cpu(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
