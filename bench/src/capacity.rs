//! What each kind of request costs, what users, sessions and files take, and whether the sum of that is what
//! a load of many peers costs: the figures of docs/capacity.md.

use std::{
    cell::Cell,
    ops::Range,
    path::PathBuf,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use lonja_wire::{
    Command,
    reply::{FILE_ENTRY, LIST_HEADER, USER_ENTRY},
};
use tempfile::TempDir;
use tokio::time;

use crate::services::Stack;
use lonja_load::{
    load::{BUFFER, drive, encode, exchange},
    process::Server,
};

/// Records of the audit have a bound of their own, so they are kept out of what a user takes.
const FEW_RECORDS: [&str; 2] = ["--max-audit-records", "1000"];
/// How many requests of a kind are asked alone.
const ALONE: u64 = 1000;
/// How many users are away while others come and go.
const AWAY: u64 = 20;
/// How many lists of users are asked for at a time.
const LISTS: u64 = 500;
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
    let up = || {
        let data = TempDir::new_in("target")?;
        let arguments = [&["--max-connections-per-address", "16384"], &FEW_RECORDS[..]].concat();
        let server = Server::lonja(&config.lonja, data.path(), &arguments)?;
        anyhow::Ok(Index::Up { server, _data: data })
    };
    let services = || anyhow::Ok(Index::Services(Stack::lonja(&config.lonja, None, &FEW_RECORDS)?));
    for (shape, index) in [("lonja up", up()?), ("the services", services()?)] {
        println!("\n{shape}: {} users with {FILES} files each", config.users);
        USERS.0.store(config.users, std::sync::atomic::Ordering::Relaxed);
        let idle = idle(config, &index)?;
        let costs = costs(config, &index)?;
        for &classes in &config.classes {
            loaded(config, &index, classes, &costs, idle)?;
        }
    }
    Ok(())
}

/// The share of a processor that an index takes that nobody asks anything.
fn idle(config: &Config, index: &Index) -> anyhow::Result<f64> {
    let before = index.cpu()?;
    thread::sleep(Duration::from_secs_f64(config.seconds));
    let share = |after: Duration, before: Duration| (after - before).as_secs_f64() / config.seconds;
    let each = index.cpu()?.into_iter().zip(before).map(|((name, now), (_, then))| (name, share(now, then)));
    let each: Vec<_> = each.collect();
    let parts = each.iter().map(|(name, share)| format!("{name} {:.2} %", share * 100.0));
    println!("idle: {}", parts.collect::<Vec<_>>().join(", "));
    Ok(each.iter().map(|(_, share)| share).sum())
}

/// What one request of a kind costs, all processes together.
struct Cost {
    kind: Kind,
    /// When nothing else is asked at the same time, so that nothing is shared with others.
    alone: Duration,
}

/// What an index has used so far.
struct Used {
    cpu: Vec<(&'static str, Duration)>,
    commands: u64,
    at: Instant,
}

impl Used {
    fn so_far(index: &Index) -> anyhow::Result<Self> {
        Ok(Self { cpu: index.cpu()?, commands: index.redis_commands()?, at: Instant::now() })
    }

    /// What one of `count` requests has used since then. Gives the processor time, and prints the parts.
    fn each(&self, index: &Index, what: &str, count: u64) -> anyhow::Result<Duration> {
        let now = Self::so_far(index)?;
        let each: Vec<_> = now
            .cpu
            .iter()
            .zip(&self.cpu)
            .map(|((name, now), (_, before))| (*name, (*now - *before) / count as u32))
            .collect();
        let sum: Duration = each.iter().map(|(_, cpu)| *cpu).sum();
        let us = |cpu: Duration| cpu.as_nanos() as f64 / 1000.0;
        let parts = each.iter().map(|(name, cpu)| format!("{name} {:.0}", us(*cpu)));
        println!(
            "{what}: {:.0} requests/s, CPU {:.0} us ({}), {:.2} Redis commands",
            count as f64 / (now.at - self.at).as_secs_f64(),
            us(sum),
            parts.collect::<Vec<_>>().join(", "),
            (now.commands - self.commands) as f64 / count as f64
        );
        Ok(sum)
    }
}

/// What each kind of request costs alone, and at 64 connections.
fn costs(config: &Config, index: &Index) -> anyhow::Result<Vec<Cost>> {
    let users = config.users;
    let mut costs = Vec::new();
    let mut memory = index.resident_kib()?;
    let phases = [
        (Kind::Register, users, Some("user")),
        (Kind::Connect, users, Some("session")),
        (Kind::Publish, users * FILES, Some("file")),
        (Kind::ListContent, users, None),
        (Kind::Delete, users * FILES, None),
        (Kind::Disconnect, users, None),
        (Kind::Unregister, users, None),
    ];
    for (kind, count, adds) in phases {
        let few = count.min(ALONE);
        let used = Used::so_far(index)?;
        ask_all(index.port(), kind, 0..few, 1)?;
        let alone = used.each(index, &format!("{kind:?}, alone"), few)?;
        if count > few {
            let used = Used::so_far(index)?;
            ask_all(index.port(), kind, few..count, 64)?;
            used.each(index, &format!("{kind:?}, at 64 connections"), count - few)?;
        }
        if let Some(what) = adds {
            let now = index.resident_kib()?;
            let each = now.iter().zip(&memory).map(|((name, now), (_, before))| {
                format!("{name} {:.0} B", (now.saturating_sub(*before) * 1024) as f64 / count as f64)
            });
            println!("  memory of each {what}: {}", each.collect::<Vec<_>>().join(", "));
            memory = now;
        }
        costs.push(Cost { kind, alone });
    }
    Ok(costs)
}

/// Asks requests of a kind, by number.
fn ask_all(port: u16, kind: Kind, numbers: Range<u64>, connections: usize) -> anyhow::Result<()> {
    let next = Rc::new(Cell::new(numbers.start));
    let end = numbers.end;
    drive(connections, || {
        let next = Rc::clone(&next);
        async move {
            let mut buffer = vec![0; BUFFER];
            loop {
                let number = next.get();
                if number >= end {
                    return Ok(());
                }
                next.set(number + 1);
                let (request, reply) = kind.request(number, USERS.get())?;
                exchange(port, &request, reply, &mut buffer).await?;
            }
        }
    })?;
    Ok(())
}

/// What a LIST_USERS of all who are online costs alone: if nobody has come or gone since the last, and if
/// somebody has.
fn lists(index: &Index, online: u64, costs: &[Cost]) -> anyhow::Result<(Duration, Duration)> {
    let used = Used::so_far(index)?;
    ask_all(index.port(), Kind::ListUsers, 0..LISTS, 1)?;
    let same = used.each(index, &format!("ListUsers of {online}"), LISTS)?;
    let used = Used::so_far(index)?;
    for number in 0..LISTS {
        // One of them goes and comes back, so two of three requests are not lists.
        let user = online - 1;
        ask_all(index.port(), Kind::Disconnect, user..user + 1, 1)?;
        ask_all(index.port(), Kind::Connect, user..user + 1, 1)?;
        ask_all(index.port(), Kind::ListUsers, number..number + 1, 1)?;
    }
    let all = used.each(index, &format!("ListUsers of {online}, Disconnect and Connect before"), LISTS)?;
    let changes = cost(costs, Kind::Disconnect) + cost(costs, Kind::Connect);
    Ok((same, all.saturating_sub(changes)))
}

fn cost(costs: &[Cost], kind: Kind) -> Duration {
    costs.iter().find(|cost| cost.kind == kind).map_or(Duration::ZERO, |cost| cost.alone)
}

/// Loads an index as so many classes do, and compares what that costs with the sum of the costs.
fn loaded(config: &Config, index: &Index, classes: u64, costs: &[Cost], idle: f64) -> anyhow::Result<()> {
    let online = classes * CLASS;
    USERS.0.store(online, std::sync::atomic::Ordering::Relaxed);
    println!("{classes} classes, {online} peers online");
    for (kind, count) in [(Kind::Register, online), (Kind::Connect, online), (Kind::Publish, online * FILES)]
    {
        ask_all(index.port(), kind, 0..count, 64)?;
    }
    let (same, changed) = lists(index, online, costs)?;
    let rate = |kind: Kind| {
        let hourly = HOURLY.iter().find(|(of, _)| *of == kind).map_or(0.0, |(_, hourly)| *hourly);
        hourly * online as f64 / 3600.0
    };
    // The part of the lists that are asked for after somebody has come or gone.
    let changes = rate(Kind::Connect) + rate(Kind::Disconnect);
    let is_changed = changes / (changes + rate(Kind::ListUsers));
    let list = same.as_secs_f64() * (1.0 - is_changed) + changed.as_secs_f64() * is_changed;
    let of_kind = |kind| if kind == Kind::ListUsers { list } else { cost(costs, kind).as_secs_f64() };
    let asked: f64 = HOURLY.iter().map(|(kind, _)| rate(*kind) * of_kind(*kind)).sum();
    // Those who come back first have gone before.
    ask_all(index.port(), Kind::Disconnect, online - AWAY..online, 64)?;
    let (before, began) = (total(index)?, Instant::now());
    let steady = ask_steadily(config, index.port(), online)?;
    let seconds = began.elapsed().as_secs_f64();
    let used = (total(index)? - before).as_secs_f64() / seconds;
    println!(
        "  {:.0} requests/s, of which {} changes were refused: {:.1} % of a processor, {:.1} % expected; p99 {:.1} ms",
        steady.times.len() as f64 / seconds,
        steady.refused,
        used * 100.0,
        (idle + asked) * 100.0,
        steady.late().as_secs_f64() * 1000.0
    );
    ask_all(index.port(), Kind::Unregister, 0..online, 64)
}

fn total(index: &Index) -> anyhow::Result<Duration> {
    Ok(index.cpu()?.iter().map(|(_, cpu)| *cpu).sum())
}

/// What came of a steady load.
struct Steady {
    /// The times until an answer, sorted.
    times: Vec<Duration>,
    refused: usize,
}

impl Steady {
    /// The 99th percentile of the times.
    fn late(&self) -> Duration {
        self.times.get(self.times.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Asks at the rate of a class, however long the answers take.
fn ask_steadily(config: &Config, port: u16, online: u64) -> anyhow::Result<Steady> {
    let kinds = Cell::new(0);
    let answers = drive(HOURLY.len(), || {
        let (kind, hourly) = HOURLY[kinds.get()];
        kinds.set(kinds.get() + 1);
        let seconds = config.seconds;
        async move {
            let mut clock = time::interval(Duration::from_secs_f64(3600.0 / (hourly * online as f64)));
            let end = Instant::now() + Duration::from_secs_f64(seconds);
            let mut requests = Vec::new();
            for number in 0.. {
                clock.tick().await;
                if Instant::now() >= end {
                    break;
                }
                let (bytes, reply) = kind.request(of_steady(kind, number, online), online)?;
                requests.push(tokio::task::spawn_local(async move {
                    let began = Instant::now();
                    let mut buffer = vec![0; BUFFER];
                    // How long a list is changes while users come and go.
                    let is_list = matches!(kind, Kind::ListUsers | Kind::ListContent);
                    let is_done = exchange(port, &bytes, reply, &mut buffer).await.is_ok() || is_list;
                    (began.elapsed(), is_done)
                }));
            }
            let mut answers = Vec::new();
            for request in requests {
                answers.push(request.await?);
            }
            Ok(answers)
        }
    })?;
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    let mut times: Vec<_> = answers.iter().map(|(time, _)| *time).collect();
    times.sort_unstable();
    Ok(Steady { times, refused: answers.iter().filter(|(_, is_done)| !is_done).count() })
}

/// The number of the request that a steady load makes as its number-th of a kind, so that each finds what it needs:
/// whoever connects has gone before, and a file that is deleted was published a while ago.
fn of_steady(kind: Kind, number: u64, online: u64) -> u64 {
    // Those who stay ask for lists, and change their files.
    let staying = online / 2;
    match kind {
        Kind::Publish => online * FILES + number % staying + number / staying * online,
        Kind::Delete => number % staying + number / staying * online,
        Kind::Connect if number < AWAY => online - AWAY + number,
        Kind::Connect => staying + (number - AWAY) % (staying - AWAY),
        Kind::Disconnect => staying + number % (staying - AWAY),
        _ => number % staying,
    }
}
