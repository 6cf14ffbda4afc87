//! How fast one peer copies a file from another over loopback, beside iperf3 and a plain Python
//! copy.
//!
//! The copies overwrite the same existing file in memory (`/dev/shm`), since a copy to a new file
//! measures how fast the host hands out pages. One row shows the copy to a new file as well. At the end the file
//! is copied from several peers, of which one lies.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    rc::Rc,
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use lonja_peer::{
    copy::Job,
    fetch::{Described, Source},
    interrupt::Interrupt,
    partial::{Target, Verified},
    progress::Progress,
};
use lonja_testing::{Lie, liar};
use lonja_wire::Command;
use tempfile::TempDir;

use lonja_load::{
    load::{drive, encode, exchange},
    process::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Bytes of the file
    #[arg(long, default_value_t = 2 << 30)]
    bytes: u64,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

const NAME: &str = "file";
/// The user who copies from several others.
const READER: &str = "reader";

/// A Python program that serves a file and copies it, in pieces of 8 KiB as the original peers do.
const PYTHON: &str = "
import os, socket, sys
source, target, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
listener = socket.create_server(('127.0.0.1', 0))
if os.fork() == 0:
    caller, _ = listener.accept()
    with caller, open(source, 'rb') as file:
        while piece := file.read(8192):
            caller.sendall(piece)
    os._exit(0)
copied = 0
with socket.create_connection(listener.getsockname()) as sock, open(target, 'r+b') as file:
    while piece := sock.recv(8192):
        file.write(piece)
        copied += len(piece)
os.wait()
assert copied == size
";

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let directory = TempDir::new_in("/dev/shm").context("needs memory at /dev/shm")?;
    let shared = directory.path().join("shared");
    fs::create_dir(&shared)?;
    fill(&shared.join(NAME), config.bytes)?;
    let target = directory.path().join("copy");
    fill(&target, config.bytes)?;
    let index = Server::lonja(&config.lonja, &directory.path().join("data"), &["--no-operation-log"])?;
    let peer = SharingPeer::start(&config.lonja, index.port, "bench", &shared, directory.path())?;
    let lonja = Lonja { source: Source { user: "bench".to_owned(), address: peer.address }, target };

    // The names of the measurements, in the order in which each round makes them.
    let names = ["iperf3, 256 KiB", "Python, 8 KiB", "unverified", "verified", "verified, a new file"];
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for _ in 0..config.rounds {
        seconds[0].push(iperf3(config.bytes)?);
        seconds[1].push(timed(|| python(&shared.join(NAME), &lonja.target, config.bytes))?);
        seconds[2].push(timed(|| lonja.unverified(config.bytes))?);
        seconds[3].push(timed(|| lonja.verified())?);
        seconds[4].push(timed(|| lonja.new_file())?);
    }
    println!("{} bytes over loopback, {} rounds; medians", config.bytes, config.rounds);
    let medians: Vec<_> = seconds.iter_mut().map(|times| config.bytes as f64 / median(times) / 1e9).collect();
    for (name, speed) in names.iter().zip(&medians) {
        println!("{name:22} {speed:5.2} GB/s");
    }
    println!("unverified / iperf3 {:.2}", medians[2] / medians[0]);
    println!("unverified / Python {:.2}", medians[2] / medians[1]);
    println!("verified / unverified {:.2}", medians[3] / medians[2]);
    println!("verified / iperf3 {:.2}", medians[3] / medians[0]);
    drop(peer);
    beside_a_liar(config, &index, &shared, directory.path())
}

/// Copies the file from three honest peers, and from these and a fourth that lies, by turns.
fn beside_a_liar(config: &Config, index: &Server, shared: &Path, directory: &Path) -> anyhow::Result<()> {
    let honest = ["one", "two", "three"];
    let start = |name: &&str| SharingPeer::start(&config.lonja, index.port, name, shared, directory);
    let peers: Vec<_> = honest.iter().map(start).collect::<anyhow::Result<_>>()?;
    for (name, lie) in [("liar", Lie::EachRange), ("once", Lie::ByteAt(config.bytes / 2))] {
        join(index.port, name, liar(peers[0].address, lie).port())?;
    }
    ask(index.port, READER, Command::Register)?;
    let (mut alone, mut slower) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..config.rounds {
        let copy = |names: &[&str]| timed(|| get(config, index.port, names, directory));
        let honestly = copy(&honest)?;
        alone.push(honestly);
        for (liar, slower) in ["liar", "once"].iter().zip(&mut slower) {
            slower.push(copy(&[&[*liar], &honest[..]].concat())? / honestly);
        }
    }
    println!("from three honest peers {:.2} s", median(&mut alone));
    for (what, times) in ["whose every range is wrong", "of whose bytes one is wrong"].iter().zip(&mut slower)
    {
        println!("from these and one {what}: {:.2} times that, round by round", median(times));
    }
    Ok(())
}

/// Has a user connect who shares the file at this port.
fn join(index: u16, name: &str, port: u16) -> anyhow::Result<()> {
    let port: lonja_wire::Port = std::num::NonZeroU16::new(port).context("a port")?.into();
    let publish = Command::Publish(NAME.parse()?, "a file".parse()?);
    [Command::Register, Command::Connect(port), publish]
        .into_iter()
        .try_for_each(|step| ask(index, name, step))
}

fn ask(index: u16, name: &str, command: Command) -> anyhow::Result<()> {
    let request = Rc::new(encode(name, command)?);
    drive(1, || {
        let request = Rc::clone(&request);
        async move { exchange(index, &request, 1, &mut [0; 16]).await }
    })?;
    Ok(())
}

/// Copies the file with `lonja peer get`. A peer whose every range is wrong must be named.
fn get(config: &Config, index: u16, from: &[&str], directory: &Path) -> anyhow::Result<()> {
    let target = directory.join("got");
    let mut get = process::Command::new(&config.lonja);
    get.args(["peer", "--as", READER, "-p", &index.to_string(), "--data-dir"]).arg(directory);
    get.args(["get", NAME, "-o"]).arg(&target);
    from.iter().for_each(|name| _ = get.args(["--from", name]));
    let output = get.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the copy failed: {said}");
    let named = "liar sends bytes that are not those of the file, and is asked no more";
    ensure!(!from.contains(&"liar") || said.contains(named), "the liar was not found out: {said}");
    fs::remove_file(&target)?;
    Ok(())
}

/// Fills a file with bytes that do not repeat within any buffer.
fn fill(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut left = bytes;
    let mut number = 0_u64;
    while left > 0 {
        let piece: Vec<u8> = (0..1 << 17).flat_map(|index: u64| (number + index).to_le_bytes()).collect();
        let piece = &piece[..piece.len().min(usize::try_from(left)?)];
        file.write_all(piece)?;
        left -= piece.len() as u64;
        number += 1 << 17;
    }
    Ok(())
}

fn timed(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    run()?;
    Ok(begin.elapsed().as_secs_f64())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// How many seconds iperf3 takes for `bytes` bytes, by the speed of its receiving end.
fn iperf3(bytes: u64) -> anyhow::Result<f64> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let install = "needs iperf3: apt-get install iperf3";
    let server = ["-s", "-1", "-p", &port, "--forceflush"];
    let mut server =
        process::Command::new("iperf3").args(server).stdout(Stdio::piped()).spawn().context(install)?;
    let listening = BufReader::new(server.stdout.take().context("no output")?).lines();
    // The server says when it listens.
    if !listening.map_while(Result::ok).any(|line| line.contains("listening")) {
        bail!("iperf3 does not listen");
    }
    let client = ["-c", "127.0.0.1", "-p", &port, "-n", &bytes.to_string(), "-l", "256K", "-J"];
    let output = process::Command::new("iperf3").args(client).output()?;
    server.wait()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let speed = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 failed")? / 8.0;
    Ok(bytes as f64 / speed)
}

fn python(source: &Path, target: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut python = process::Command::new("python3");
    let status = python.args(["-c", PYTHON]).arg(source).arg(target).arg(bytes.to_string()).status()?;
    if !status.success() {
        bail!("the Python copy failed");
    }
    Ok(())
}

/// The peer that has the file: `lonja peer share`.
struct SharingPeer {
    child: Child,
    address: SocketAddr,
}

impl SharingPeer {
    fn start(program: &Path, index: u16, name: &str, shared: &Path, data: &Path) -> anyhow::Result<Self> {
        let mut child = process::Command::new(program)
            .args(["peer", "--as", name, "--bind", "127.0.0.1", "-p", &index.to_string(), "--data-dir"])
            .arg(data)
            .arg("share")
            .arg(shared)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let serving = lines.next().context("the peer does not serve")??;
        let address = serving.rsplit(' ').next().unwrap_or_default().parse()?;
        let published = lines.next().context("the peer does not publish")??;
        if published != format!("published {NAME}") {
            bail!("the peer says {published}");
        }
        Ok(Self { child, address })
    }
}

impl Drop for SharingPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peer that copies the file.
struct Lonja {
    source: Source,
    target: PathBuf,
}

impl Lonja {
    fn job<T>(&self, run: impl FnOnce(&Job<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let filename = NAME.parse()?;
        let target = Target { path: self.target.with_extension("new"), overwrite: true };
        let (interrupt, progress) = (Interrupt::default(), Progress::hidden());
        run(&Job { filename: &filename, target: &target, interrupt: &interrupt, progress: &progress })
    }

    fn existing(&self) -> anyhow::Result<File> {
        Ok(File::options().read(true).write(true).open(&self.target)?)
    }

    fn unverified(&self, bytes: u64) -> anyhow::Result<()> {
        self.job(|job| {
            let mut incoming = self.source.whole(job.filename, job.interrupt)?;
            let received = job.receive_whole(&self.source, &mut incoming, &self.existing()?)?;
            if received != bytes {
                bail!("{received} bytes came");
            }
            Ok(())
        })
    }

    fn verified(&self) -> anyhow::Result<()> {
        self.job(|job| {
            let described = self.source.head(job.filename, true, job.interrupt)?.context("no Lonja peer")?;
            let Described { head, tree } = described;
            let mut copy = Verified::new(self.target.clone(), self.existing()?, 0, head, tree);
            let (_, mut incoming) = self.source.part(job.filename, 0, head.size, job.interrupt)?;
            job.receive_verified(&mut incoming, &mut copy)?;
            if !job.is_right(&copy)? {
                bail!("the copy is wrong");
            }
            Ok(())
        })
    }

    /// Copies to a new file with all that `lonja peer get` does, and removes the copy.
    fn new_file(&self) -> anyhow::Result<()> {
        self.job(|job| {
            job.copy(&self.source)?;
            fs::remove_file(&job.target.path)?;
            Ok(())
        })
    }
}
