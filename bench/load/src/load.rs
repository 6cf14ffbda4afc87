//! The load: a number of connections at one time. Each asks one request, reads the reply, and makes
//! way for the next.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use lonja_wire::{
    Command, Encoding, Request,
    reply::{LIST_HEADER, USER_ENTRY},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

/// The number of loopback addresses that are dialled in turn, so that ports do not run out.
const ADDRESSES: u64 = 8;
/// The largest number of bytes that are read at once.
pub const BUFFER: usize = 65_536;
/// The number of users who publish in turn.
const PUBLISHERS: u64 = 64;

/// Settings of `lonja-bench load`.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Port of the server
    #[arg(long)]
    port: u16,
    #[command(flatten)]
    load: Load,
    /// Load a bare server: prepare nothing, and expect one byte in each reply
    #[arg(long)]
    bare: bool,
}

/// What to ask, at how many connections, and for how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Load {
    /// Operation to ask for
    #[arg(long, value_enum)]
    pub operation: Asked,
    /// Users online for list-users
    #[arg(long, default_value_t = 10)]
    pub online: u64,
    /// Connections at one time
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Seconds of the load
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Send each field of a request in a segment of its own, as original peers do
    #[arg(long)]
    pub field_by_field: bool,
}

/// The operation that a load asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Asked {
    /// Register users who are new
    Register,
    /// Publish files that are new
    Publish,
    /// List the users who are online
    ListUsers,
    /// Have peers announce themselves, for an opentracker only
    Announce,
}

impl Load {
    /// The load of an operation that needs nobody online, each request in one segment.
    #[must_use]
    pub fn new(operation: Asked, connections: usize, seconds: f64) -> Self {
        Self { operation, online: 0, connections, seconds, field_by_field: false }
    }

    /// The length of a reply in bytes.
    pub fn reply(&self) -> usize {
        match self.operation {
            Asked::Register | Asked::Publish => 1,
            Asked::Announce => 163,
            Asked::ListUsers => LIST_HEADER + self.online.min(9999) as usize * USER_ENTRY,
        }
    }
}

/// The results of a load.
#[derive(Debug)]
pub struct Figures {
    /// How many requests were answered.
    pub requests: u64,
    /// How long the load took.
    pub elapsed: Duration,
    /// Microseconds from connecting to the end of the reply.
    pub latency: Histogram<u64>,
}

impl Figures {
    /// How many requests were answered in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

/// Loads a server, and prints the results.
///
/// # Errors
/// When a request is not answered as it should be.
pub fn run(config: &Config) -> anyhow::Result<()> {
    if !config.bare {
        prepare(config.port, &config.load)?;
    }
    let reply = if config.bare { 1 } else { config.load.reply() };
    let figures = load(config.port, &config.load, reply)?;
    println!(
        "{:.0} requests/s, p50 {} us, p99 {} us, p99.9 {} us",
        figures.per_second(),
        figures.latency.value_at_quantile(0.5),
        figures.latency.value_at_quantile(0.99),
        figures.latency.value_at_quantile(0.999),
    );
    Ok(())
}

/// The number of the next request. No two requests of this process have the same number, so that no
/// two register the same user or publish the same file.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The bytes of a request as original peers send it.
///
/// # Errors
/// When the name is none that a user may have.
pub fn encode(username: &str, command: Command) -> anyhow::Result<Vec<u8>> {
    let request =
        Request { datetime: "12/05/2024 10:00:00".parse()?, username: Some(username.parse()?), command };
    let mut bytes = Vec::new();
    request.encode(Encoding::Terminated, &mut bytes);
    Ok(bytes)
}

fn request(asked: Asked, number: u64) -> anyhow::Result<Vec<u8>> {
    match asked {
        Asked::Register => encode(&format!("user-{number:x}"), Command::Register),
        Asked::Publish => {
            let filename = format!("file-{number:x}.txt").parse()?;
            let command = Command::Publish(filename, "made by the load generator".parse()?);
            encode(&format!("publisher-{}", number % PUBLISHERS), command)
        }
        Asked::ListUsers => encode("online-0", Command::ListUsers),
        Asked::Announce => Ok(announce(number)),
    }
}

/// The only torrent that opentracker is told to track.
pub const TORRENT: &str = "lonja-bench-torrent-";

fn announce(number: u64) -> Vec<u8> {
    format!(
        "GET /announce?info_hash={TORRENT}&peer_id={number:020}&port=6881&uploaded=0&downloaded=0\
         &left=0&compact=1&event=started HTTP/1.0\r\n\r\n"
    )
    .into()
}

/// Registers and connects the users that the load needs.
///
/// # Errors
/// When a request is not answered as it should be.
pub fn prepare(port: u16, load: &Load) -> anyhow::Result<()> {
    let users: Vec<_> = match load.operation {
        Asked::Register | Asked::Announce => return Ok(()),
        Asked::Publish => (0..PUBLISHERS).map(|number| format!("publisher-{number}")).collect(),
        Asked::ListUsers => (0..load.online).map(|number| format!("online-{number}")).collect(),
    };
    let listening: lonja_wire::Port = std::num::NonZeroU16::new(50_085).context("a port")?.into();
    let steps = |name: &String| -> anyhow::Result<[Vec<u8>; 2]> {
        Ok([encode(name, Command::Register)?, encode(name, Command::Connect(listening))?])
    };
    let users: Rc<Vec<_>> = Rc::new(users.iter().map(steps).collect::<Result<_, _>>()?);
    let next = Rc::new(AtomicU64::new(0));
    drive(64, || {
        let (users, next) = (Rc::clone(&users), Rc::clone(&next));
        async move {
            let mut buffer = vec![0; BUFFER];
            while let Some(steps) = users.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                for step in steps {
                    exchange(port, step, 1, &mut buffer).await?;
                }
            }
            Ok(())
        }
    })?;
    Ok(())
}

/// Has `users` users register, connect and publish `files` files each.
///
/// # Errors
/// When a request is not answered as it should be.
pub fn fill(port: u16, users: u64, files: u64) -> anyhow::Result<()> {
    let listening: lonja_wire::Port = std::num::NonZeroU16::new(50_085).context("a port")?.into();
    let next = Rc::new(AtomicU64::new(0));
    drive(64, || {
        let next = Rc::clone(&next);
        async move {
            let mut buffer = vec![0; BUFFER];
            loop {
                let user = next.fetch_add(1, Ordering::Relaxed);
                if user >= users {
                    return Ok(());
                }
                let name = format!("online-{user}");
                exchange(port, &encode(&name, Command::Register)?, 1, &mut buffer).await?;
                exchange(port, &encode(&name, Command::Connect(listening))?, 1, &mut buffer).await?;
                for file in 0..files {
                    let filename = format!("report {user:x}-{file:x}.pdf").parse()?;
                    let command = Command::Publish(filename, "made by the load generator".parse()?);
                    exchange(port, &encode(&name, command)?, 1, &mut buffer).await?;
                }
            }
        }
    })?;
    Ok(())
}

/// Loads a server. Every reply must begin with the status 0 and be `reply` bytes long.
///
/// # Errors
/// When a request is not answered so.
pub fn load(port: u16, load: &Load, reply: usize) -> anyhow::Result<Figures> {
    let (asked, field_by_field) = (load.operation, load.field_by_field);
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(load.seconds);
    let latencies = drive(load.connections, || async move {
        let mut latency = Histogram::<u64>::new(3)?;
        let mut buffer = vec![0; BUFFER];
        while Instant::now() < end {
            let bytes = request(asked, NEXT.fetch_add(1, Ordering::Relaxed))?;
            let began = Instant::now();
            if field_by_field {
                exchange_field_by_field(port, &bytes, reply, &mut buffer).await?;
            } else {
                exchange(port, &bytes, reply, &mut buffer).await?;
            }
            latency.record(began.elapsed().as_micros() as u64)?;
        }
        Ok(latency)
    })?;
    let elapsed = started.elapsed();
    warn_of_dropped_packets();
    let mut latency = Histogram::<u64>::new(3)?;
    for part in latencies {
        latency.add(part)?;
    }
    Ok(Figures { requests: latency.len(), elapsed, latency })
}

/// Warns once when the kernel's table of tracked connections is nearly full: a full table drops
/// packets, and then sending them again is measured.
fn warn_of_dropped_packets() {
    static SAID: Once = Once::new();
    let read = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok()?.trim().parse().ok()
    };
    if let (Some(count), Some(max)) = (read("count"), read("max"))
        && count > max / 10 * 9
    {
        SAID.call_once(|| {
            eprintln!(
                "the kernel tracks {count} connections of {max} and drops packets when there are more: \
                 flush the rules of firewall and Docker, or raise net.netfilter.nf_conntrack_max"
            );
        });
    }
}

/// Runs a number of tasks on one thread and returns the result of each.
///
/// # Errors
/// When a task fails.
pub fn drive<T: 'static, F>(tasks: usize, task: impl Fn() -> F) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = anyhow::Result<T>> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let tasks: Vec<_> = (0..tasks).map(|_| tokio::task::spawn_local(task())).collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await??);
        }
        Ok(results)
    })
}

/// Opens a connection, sends a request, reads the reply and closes, as peers do.
///
/// # Errors
/// When nobody listens, the connection breaks, or the reply does not begin with the status 0 or is not `reply`
/// bytes long.
pub async fn exchange(port: u16, request: &[u8], reply: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut stream = dial(port).await?;
    stream.write_all(request).await?;
    read_reply(stream, reply, buffer).await
}

/// Does what [`exchange`] does, and sends each field of the request in a segment of its own.
async fn exchange_field_by_field(
    port: u16,
    request: &[u8],
    reply: usize,
    buffer: &mut [u8],
) -> anyhow::Result<()> {
    let mut stream = dial(port).await?;
    stream.set_nodelay(true)?;
    for field in request.split_inclusive(|byte| *byte == 0) {
        stream.write_all(field).await?;
    }
    read_reply(stream, reply, buffer).await
}

async fn dial(port: u16) -> anyhow::Result<TcpStream> {
    static DIALLED: AtomicU64 = AtomicU64::new(0);
    let host =
        Ipv4Addr::from_bits(0x7f00_0001 + (DIALLED.fetch_add(1, Ordering::Relaxed) % ADDRESSES) as u32);
    let stream = TcpStream::connect(SocketAddr::from((host, port))).await;
    if stream.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        bail!(
            "no server at {host}:{port}: the load dials 127.0.0.1 to 127.0.0.{ADDRESSES}, so have the server listen \
             on 0.0.0.0"
        );
    }
    Ok(stream?)
}

async fn read_reply(mut stream: TcpStream, reply: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut read = 0;
    let mut status = None;
    while read < reply {
        match stream.read(buffer).await? {
            0 => break,
            more => {
                status.get_or_insert(buffer[0]);
                read += more;
            }
        }
    }
    // The intervals in opentracker's replies are random and have three or four digits.
    let right = match status {
        Some(b'0') => read == reply,
        Some(b'H') => read.abs_diff(reply) <= 1,
        _ => false,
    };
    ensure!(
        right,
        "answered {status:?} in {read} bytes, not {reply} (if it is a running lonja, start it without rates: \
         LONJA_MAX_REGISTRATIONS_PER_ADDRESS=0 LONJA_MAX_REQUESTS_PER_ADDRESS=0)"
    );
    Ok(())
}
