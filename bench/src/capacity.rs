//! What each kind of request costs, what users, sessions and files take, and whether the sum of that is what
//! a load of many peers costs: the figures of docs/capacity.md.

use std::{
    cell::Cell,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use lonja_wire::{
    Command,
    reply::{FILE_ENTRY, LIST_HEADER, USER_ENTRY},
};
use tempfile::TempDir;
use tokio::time;

use crate::{
    load::{BUFFER, drive, encode, exchange},
    process::Server,
    services::Stack,
};

/// The files that each user publishes.
const FILES: u64 = 4;
/// The peers of a class, which is what a load is counted in.
const CLASS: u64 = 200;
/// How often a peer of a class asks for what, in an hour.
const HOURLY: [(Kind, f64); 6] = [
    (Kind::Connect, 1.0),
    (Kind::Disconnect, 1.0),
    (Kind::Publish, 4.0),
    (Kind::Delete, 4.0),
    (Kind::ListUsers, 20.0),
    (Kind::ListContent, 20.0),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Users of which each registers, connects and publishes
    #[arg(long, default_value_t = 20_000)]
    users: u64,
    /// Seconds of each load of many peers
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How many classes the loads have
    #[arg(long, value_delimiter = ',', default_value = "10,100")]
    classes: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Register,
    Connect,
    Publish,
    ListContent,
    ListUsers,
    Delete,
    Disconnect,
    Unregister,
}

impl Kind {
    /// The number-th request of this kind, and the length of its reply where `online` users are listed.
    fn request(self, number: u64, online: u64) -> anyhow::Result<(Vec<u8>, usize)> {
        let (user, file) = (format!("user-{}", number % USERS.get()), number / USERS.get());
        let filename = || format!("report {file}.pdf").parse();
        let list = |entries: u64, size: usize| LIST_HEADER + entries.min(9999) as usize * size;
        let (command, reply) = match self {
            Self::Register => (Command::Register, 1),
            Self::Connect => {
                (Command::Connect(std::num::NonZeroU16::new(50_085).context("a port")?.into()), 1)
            }
            Self::Publish => (Command::Publish(filename()?, "made by the load generator".parse()?), 1),
            Self::ListContent => (Command::ListContent(Some(user.parse()?)), list(FILES, FILE_ENTRY)),
            Self::ListUsers => (Command::ListUsers, list(online, USER_ENTRY)),
            Self::Delete => (Command::Delete(filename()?), 1),
            Self::Disconnect => (Command::Disconnect, 1),
            Self::Unregister => (Command::Unregister, 1),
        };
        Ok((encode(&user, command)?, reply))
    }
}

struct Users(std::sync::atomic::AtomicU64);

impl Users {
    fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// The number of users, which requests go round.
static USERS: Users = Users(std::sync::atomic::AtomicU64::new(1));

/// An index in one of its two shapes.
enum Index {
    Up { server: Server, _data: TempDir },
    Services(Stack),
}

impl Index {
    fn port(&self) -> u16 {
        match self {
            Self::Up { server, .. } => server.port,
            Self::Services(stack) => stack.port(),
        }
    }

    /// CPU time of each process so far.
    fn cpu(&self) -> anyhow::Result<Vec<(&'static str, Duration)>> {
        match self {
            Self::Up { server, .. } => Ok(vec![("lonja up", server.cpu()?)]),
            Self::Services(stack) => stack.cpu_of_each(),
        }
    }

    /// Memory in use by each process, in KiB.
    fn resident_kib(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        match self {
            Self::Up { server, .. } => Ok(vec![("lonja up", server.resident_kib()?)]),
            Self::Services(stack) => stack.resident_kib_of_each(),
        }
    }

    /// The commands that Redis has carried out so far, those of scripts included.
    fn redis_commands(&self) -> anyhow::Result<u64> {
        match self {
            Self::Up { .. } => Ok(0),
            Self::Services(stack) => stack.redis_commands(),
        }
    }
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    USERS.0.store(config.users, std::sync::atomic::Ordering::Relaxed);
    let up = || {
        let data = TempDir::new_in("target")?;
        let server = Server::lonja(&config.lonja, data.path(), &["--max-connections-per-address", "16384"])?;
        anyhow::Ok(Index::Up { server, _data: data })
    };
    let services = || anyhow::Ok(Index::Services(Stack::lonja(&config.lonja, None)?));
    for (shape, index) in [("lonja up", up()?), ("the services", services()?)] {
        println!("\n{shape}: {} users with {FILES} files each, 64 connections", config.users);
        let costs = costs(config, &index)?;
        for &classes in &config.classes {
            loaded(config, &index, classes, &costs)?;
        }
    }
    Ok(())
}

/// What one request of a kind costs, all processes together.
struct Cost {
    kind: Kind,
    cpu: Duration,
}

fn costs(config: &Config, index: &Index) -> anyhow::Result<Vec<Cost>> {
    let users = config.users;
    let mut costs = Vec::new();
    let mut memory = index.resident_kib()?;
    let phases = [
        (Kind::Register, users, Some("user")),
        (Kind::Connect, users, Some("session")),
        (Kind::Publish, users * FILES, Some("file")),
        (Kind::ListContent, users, None),
        (Kind::ListUsers, 2000, None),
        (Kind::Delete, users * FILES, None),
        (Kind::Disconnect, users, None),
        (Kind::Unregister, users, None),
    ];
    for (kind, count, adds) in phases {
        let (cpu, commands, began) = (index.cpu()?, index.redis_commands()?, Instant::now());
        ask_all(index.port(), kind, count, users)?;
        let elapsed = began.elapsed();
        let each: Vec<_> = index
            .cpu()?
            .iter()
            .zip(&cpu)
            .map(|((name, now), (_, before))| (*name, (*now - *before) / count as u32))
            .collect();
        let sum: Duration = each.iter().map(|(_, cpu)| *cpu).sum();
        let parts = each.iter().map(|(name, cpu)| format!("{name} {:.1}", cpu.as_nanos() as f64 / 1000.0));
        let commands = (index.redis_commands()? - commands) as f64 / count as f64;
        println!(
            "{kind:?}: {:.0} requests/s, CPU {:.1} us ({}), {commands:.2} Redis commands",
            count as f64 / elapsed.as_secs_f64(),
            sum.as_nanos() as f64 / 1000.0,
            parts.collect::<Vec<_>>().join(", ")
        );
        if let Some(what) = adds {
            let now = index.resident_kib()?;
            let each = now.iter().zip(&memory).map(|((name, now), (_, before))| {
                format!("{name} {:.0} B", (now.saturating_sub(*before) * 1024) as f64 / count as f64)
            });
            println!("  memory of each {what}: {}", each.collect::<Vec<_>>().join(", "));
            memory = now;
        }
        costs.push(Cost { kind, cpu: sum });
    }
    Ok(costs)
}

/// Asks `count` requests of a kind at 64 connections.
fn ask_all(port: u16, kind: Kind, count: u64, online: u64) -> anyhow::Result<()> {
    let next = Rc::new(Cell::new(0));
    drive(64, || {
        let next = Rc::clone(&next);
        async move {
            let mut buffer = vec![0; BUFFER];
            loop {
                let number = next.get();
                if number >= count {
                    return Ok(());
                }
                next.set(number + 1);
                let (request, reply) = kind.request(number, online)?;
                exchange(port, &request, reply, &mut buffer).await?;
            }
        }
    })?;
    Ok(())
}

/// Loads an index as so many classes do, and compares what that costs with the sum of the costs.
fn loaded(config: &Config, index: &Index, classes: u64, costs: &[Cost]) -> anyhow::Result<()> {
    let online = classes * CLASS;
    USERS.0.store(online, std::sync::atomic::Ordering::Relaxed);
    for kind in [Kind::Register, Kind::Connect] {
        ask_all(index.port(), kind, online, online)?;
    }
    ask_all(index.port(), Kind::Publish, online * FILES, online)?;
    let cost = |kind| costs.iter().find(|cost| cost.kind == kind).map_or(Duration::ZERO, |cost| cost.cpu);
    let rate = |hourly: f64| hourly * online as f64 / 3600.0;
    // A LIST_USERS costs what its list is long, so it is measured at this length.
    let lists = 500;
    let before = total(index)?;
    ask_all(index.port(), Kind::ListUsers, lists, online)?;
    let list = (total(index)? - before) / lists as u32;
    let expected: f64 = HOURLY
        .iter()
        .map(|(kind, hourly)| {
            let cost = if *kind == Kind::ListUsers { list } else { cost(*kind) };
            rate(*hourly) * cost.as_secs_f64()
        })
        .sum();
    let before = total(index)?;
    let (asked, late) = ask_steadily(config, index.port(), online)?;
    let used = (total(index)? - before).as_secs_f64() / config.seconds;
    println!(
        "{classes} classes, {online} peers online, {:.0} requests/s: {:.1} % of a processor, {:.1} % expected; one \
         LIST_USERS {:.0} us; p99 {:.1} ms",
        asked as f64 / config.seconds,
        used * 100.0,
        expected * 100.0,
        list.as_nanos() as f64 / 1000.0,
        late.as_secs_f64() * 1000.0
    );
    // Some of the users have just disconnected.
    ask_all(index.port(), Kind::Unregister, online, online)
}

fn total(index: &Index) -> anyhow::Result<Duration> {
    Ok(index.cpu()?.iter().map(|(_, cpu)| *cpu).sum())
}

/// Asks at the rate of a class, however long the answers take. Gives the number of requests, and the 99th
/// percentile of the times until an answer.
fn ask_steadily(config: &Config, port: u16, online: u64) -> anyhow::Result<(u64, Duration)> {
    let asked = Rc::new(Cell::new(0));
    let kinds = Cell::new(0);
    let times = drive(HOURLY.len(), || {
        let (kind, hourly) = HOURLY[kinds.get()];
        kinds.set(kinds.get() + 1);
        let asked = Rc::clone(&asked);
        let seconds = config.seconds;
        async move {
            let pause = Duration::from_secs_f64(3600.0 / (hourly * online as f64));
            let mut clock = time::interval(pause);
            let end = Instant::now() + Duration::from_secs_f64(seconds);
            let mut requests = Vec::new();
            let mut number = 0;
            while Instant::now() < end {
                clock.tick().await;
                // Files and sessions come and go: a DELETE takes what a PUBLISH has brought, and so on.
                let behind = online * FILES + number;
                let (bytes, reply) = match kind {
                    Kind::Publish | Kind::Delete => kind.request(behind, online)?,
                    // Who has disconnected comes back a while later.
                    Kind::Connect => kind.request(number.saturating_sub(20), online)?,
                    _ => kind.request(number, online)?,
                };
                number += 1;
                asked.set(asked.get() + 1);
                requests.push(tokio::task::spawn_local(async move {
                    let began = Instant::now();
                    let mut buffer = vec![0; BUFFER];
                    // A user who is away just now is refused, which costs the same.
                    let _ = exchange(port, &bytes, reply, &mut buffer).await;
                    began.elapsed()
                }));
            }
            let mut times = Vec::new();
            for request in requests {
                times.push(request.await?);
            }
            Ok(times)
        }
    })?;
    let mut times: Vec<_> = times.into_iter().flatten().collect();
    times.sort_unstable();
    let late = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    Ok((asked.get(), late))
}
