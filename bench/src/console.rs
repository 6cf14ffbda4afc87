//! The console of a large index: how soon it shows what was asked for, and what it costs
//! the peers when somebody looks.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use lonja_proto::console::{
    WatchFilesRequest, WatchFilesResponse, WatchOperationsRequest, WatchOverviewRequest, WatchUsersRequest,
    console_service_client::ConsoleServiceClient,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Streaming, transport::Channel};

use crate::{compare::median, services::Stack};
use lonja_load::{
    load::{Asked, Load, fill, load},
    process::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Users online
    #[arg(long, default_value_t = 100_000)]
    users: u64,
    /// Files that each user publishes
    #[arg(long, default_value_t = 10)]
    files: u64,
    /// Searches of each kind
    #[arg(long, default_value_t = 200)]
    searches: usize,
    /// Pairs of runs with and without somebody who looks; the median counts
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measure only this kind of index
    #[arg(long)]
    only: Option<Kind>,
    /// Script that opens the page in a browser; it is run with node
    #[arg(long, default_value = "tests/browser/measure.mjs")]
    browser: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// `lonja up`
    Up,
    /// The services on Redis
    Services,
}

/// A running index with a console.
struct Index {
    peers: u16,
    console: String,
    servers: Vec<Server>,
    /// The services on Redis that the console asks; `None` in `lonja up`.
    stack: Option<Stack>,
    _data: TempDir,
}

impl Index {
    fn start(config: &Config, kind: Kind) -> anyhow::Result<Self> {
        let data = TempDir::new_in("target")?;
        if kind == Kind::Up {
            let server = Server::lonja(&config.lonja, data.path(), &["--no-operation-log"])?;
            let (peers, console) = (server.port, server.console.clone().context("no console")?);
            return Ok(Self { peers, console, servers: vec![server], stack: None, _data: data });
        }
        let stack = Stack::lonja(&config.lonja, None, &[])?;
        let peers = stack.port();
        let console = Server::start(
            Command::new(&config.lonja)
                .args(["console", "--listen", "127.0.0.1:0", "--registry", &stack.urls[0]])
                .args(["--catalog", &stack.urls[1], "--audit", &stack.urls[2]]),
        )?;
        let url = format!("http://127.0.0.1:{}", console.port);
        Ok(Self { peers, console: url, servers: vec![console], stack: Some(stack), _data: data })
    }

    /// CPU time of all processes of the index so far.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let own = self.servers.iter().map(Server::cpu).sum::<anyhow::Result<Duration>>()?;
        Ok(own + self.stack.as_ref().map_or(Ok(Duration::ZERO), Stack::cpu)?)
    }
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    for kind in [Kind::Up, Kind::Services] {
        if config.only.is_none_or(|only| only == kind) {
            measure(config, kind)?;
        }
    }
    Ok(())
}

fn measure(config: &Config, kind: Kind) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let index = Index::start(config, kind)?;
    let name = if kind == Kind::Up { "lonja up" } else { "services on Redis" };
    let files = config.users * config.files;
    println!("{name}: {} users online, {files} files", config.users);
    let began = Instant::now();
    fill(index.peers, config.users, config.files)?;
    let filled = began.elapsed();
    let behind = runtime.block_on(until_found(&index.console, files))?;
    println!(
        "  filled in {:.0} s; the last file was found {} ms later; {} MiB resident",
        filled.as_secs_f64(),
        behind.as_millis(),
        index.servers.iter().map(Server::resident_kib).sum::<anyhow::Result<u64>>()? / 1024,
    );
    searches(config, &runtime, &index.console)?;
    browser(&config.browser, &index.console)?;
    cost(config, &runtime, &index)
}

async fn client(console: &str) -> anyhow::Result<ConsoleServiceClient<Channel>> {
    Ok(ConsoleServiceClient::connect(console.to_owned()).await?)
}

async fn first(
    client: &mut ConsoleServiceClient<Channel>,
    request: WatchFilesRequest,
) -> anyhow::Result<WatchFilesResponse> {
    let mut answers = client.watch_files(request).await?.into_inner();
    answers.message().await?.context("no answer")
}

/// Waits until search finds `files` files, for 60 s at most, and returns how long that took.
async fn until_found(console: &str, files: u64) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut client = client(console).await?;
    let mut found = 0;
    while began.elapsed() < Duration::from_secs(60) {
        found = first(&mut client, WatchFilesRequest::default()).await?.total;
        if found == files {
            return Ok(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("search knows of {found} files, not {files}")
}

/// Searches as people type them, from one that every file matches to one that none matches: each
/// with a name for the output, a query and a username.
fn queries(number: u64) -> [(&'static str, String, String); 9] {
    let user = format!("online-{number}");
    [
        ("no word", String::new(), String::new()),
        ("a word of every file", "report".to_owned(), String::new()),
        ("the middle of a word", "enerat".to_owned(), String::new()),
        ("one letter", "e".to_owned(), String::new()),
        ("a few letters", format!("{:x}", number % 256), String::new()),
        ("two words", format!("report {:x}", number), String::new()),
        ("four words of every file", "report made load online".to_owned(), String::new()),
        ("the files of a user", String::new(), user),
        ("no such word", format!("nothing{number}"), String::new()),
    ]
}

fn searches(config: &Config, runtime: &Runtime, console: &str) -> anyhow::Result<()> {
    let mut all = Histogram::<u64>::new(3)?;
    let mut kinds: Vec<(&str, Histogram<u64>)> = Vec::new();
    runtime.block_on(async {
        let mut client = client(console).await?;
        for round in 0..config.searches as u64 {
            let number = round * 7919 % config.users;
            for (kind, (name, query, username)) in queries(number).into_iter().enumerate() {
                let request = WatchFilesRequest { query, username, offset: 0, page_size: 50 };
                let began = Instant::now();
                first(&mut client, request).await?;
                let taken = began.elapsed().as_micros() as u64;
                if kinds.len() <= kind {
                    kinds.push((name, Histogram::new(3)?));
                }
                kinds[kind].1.record(taken)?;
                all.record(taken)?;
            }
        }
        anyhow::Ok(())
    })?;
    let ms = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    println!("  search: p50 {:.1} ms, p99 {:.1} ms of all", ms(&all, 0.5), ms(&all, 0.99));
    for (name, histogram) in &kinds {
        println!("    {name:<24} p50 {:>6.1} ms, p99 {:>6.1} ms", ms(histogram, 0.5), ms(histogram, 0.99));
    }
    Ok(())
}

/// Has the script measure the page in a real browser, and prints what it says.
fn browser(script: &Path, console: &str) -> anyhow::Result<()> {
    let output = Command::new("node").arg(script).arg(console).output().context("node")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{}: {said}{}", script.display(), String::from_utf8_lossy(&output.stderr));
    }
    said.lines().for_each(|line| println!("  {line}"));
    Ok(())
}

/// The view that somebody looks at.
#[derive(Debug, Clone, Copy)]
enum Looking {
    Overview,
    Users,
    Files,
    Activity,
}

/// Follows the stream of a view and throws its messages away, until the task is aborted.
fn look(runtime: &Runtime, console: &str, at: Looking) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    async fn drain<T>(mut answers: Streaming<T>) {
        while answers.message().await.is_ok_and(|answer| answer.is_some()) {}
    }
    runtime.block_on(async {
        let mut client = client(console).await?;
        Ok(match at {
            Looking::Overview => {
                let request = WatchOverviewRequest { past_seconds: 300 };
                tokio::spawn(drain(client.watch_overview(request).await?.into_inner()))
            }
            Looking::Users => {
                let request = WatchUsersRequest { page_size: 50, ..WatchUsersRequest::default() };
                tokio::spawn(drain(client.watch_users(request).await?.into_inner()))
            }
            Looking::Files => {
                let request = WatchFilesRequest { page_size: 50, ..WatchFilesRequest::default() };
                tokio::spawn(drain(client.watch_files(request).await?.into_inner()))
            }
            Looking::Activity => {
                let request = WatchOperationsRequest {
                    newest: 200,
                    sample_size: 50,
                    ..WatchOperationsRequest::default()
                };
                tokio::spawn(drain(client.watch_operations(request).await?.into_inner()))
            }
        })
    })
}

/// Measures what peers get while somebody looks at a view, beside what they get while nobody does.
fn cost(config: &Config, runtime: &Runtime, index: &Index) -> anyhow::Result<()> {
    let shape = Load::new(Asked::Register, 64, config.seconds);
    println!("  {} pairs of {} s, REGISTER, 64 connections", config.pairs, config.seconds);
    for at in [Looking::Overview, Looking::Users, Looking::Files, Looking::Activity] {
        let run = || -> anyhow::Result<(f64, f64)> {
            let before = index.cpu()?;
            let figures = load(index.peers, &shape, 1)?;
            let cpu = (index.cpu()? - before).as_secs_f64() * 1e6 / figures.requests as f64;
            Ok((figures.per_second(), cpu))
        };
        let mut pairs = Vec::new();
        // The first pair warms up and does not count.
        for _ in 0..=config.pairs {
            let alone = run()?;
            let looking = look(runtime, &index.console, at)?;
            let watched = run()?;
            looking.abort();
            pairs.push((watched, alone));
        }
        pairs.remove(0);
        type Pair = ((f64, f64), (f64, f64));
        let of = |figure: fn(&Pair) -> f64| median(pairs.iter().map(figure).collect());
        println!(
            "    {:<9} {:.0}/s and {:.0}/s without, ratio {:.2}; CPU {:.0} and {:.0} us",
            format!("{at:?}"),
            of(|(watched, _)| watched.0),
            of(|(_, alone)| alone.0),
            of(|(watched, alone)| watched.0 / alone.0),
            of(|(watched, _)| watched.1),
            of(|(_, alone)| alone.1),
        );
    }
    Ok(())
}
