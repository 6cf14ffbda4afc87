//! `lonja up` and the bare server, loaded in turn.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    load::{Asked, Figures, Load, load, prepare},
    process::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, a release build
    #[arg(long, default_value = "target/release/lonja")]
    lonja: PathBuf,
    /// Where its data goes; on the disk that a real installation would use
    #[arg(long, default_value = "target")]
    data: PathBuf,
    /// Pairs of runs for each row; the median counts
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections at one time
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    connections: Vec<usize>,
    /// Rows to measure, of those that are printed; all if not given
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Beside an announce to this opentracker (Debian has it) instead of the bare server
    #[arg(long, value_name = "PROGRAM")]
    opentracker: Option<PathBuf>,
}

/// The figures of one run.
#[derive(Debug, Clone, Copy)]
struct Run {
    per_second: f64,
    cpu_us: f64,
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Run {
    fn new(figures: &Figures, cpu: Duration) -> Self {
        let latency = |quantile| figures.latency.value_at_quantile(quantile) as f64;
        Self {
            per_second: figures.per_second(),
            cpu_us: cpu.as_secs_f64() * 1e6 / figures.requests.max(1) as f64,
            p50: latency(0.5),
            p99: latency(0.99),
            p999: latency(0.999),
        }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    println!(
        "{} pairs of {} s; medians; ratios are lonja / bare, pair by pair",
        config.pairs, config.seconds
    );
    println!(
        "{:<16} {:>5} | {:>8} {:>8} {:>6} | {:>6} {:>6} {:>6} | {:>7} {:>7} {:>7} | {:>6} {:>9}",
        "",
        "conns",
        "lonja/s",
        "bare/s",
        "ratio",
        "cpu us",
        "bare",
        "ratio",
        "p50 us",
        "p99 us",
        "p99.9",
        "p99 x",
        "MB/s"
    );
    let rows = [
        ("register", Asked::Register, 0),
        ("publish", Asked::Publish, 0),
        ("list-users-10", Asked::ListUsers, 10),
        ("list-users-1000", Asked::ListUsers, 1000),
        ("list-users-10000", Asked::ListUsers, 10_000),
    ];
    for (name, operation, online) in rows {
        if !config.only.is_empty() && !config.only.iter().any(|only| only == name) {
            continue;
        }
        for &connections in &config.connections {
            row(config, name, &Load { operation, online, connections, seconds: config.seconds })?;
        }
    }
    Ok(())
}

/// Long lists are compared with a plain copy of as many bytes, others with one byte.
fn bare_reply(load: &Load) -> usize {
    if load.reply() > 10_000 { load.reply() } else { 1 }
}

/// What Lonja is compared with: a server, what it is asked, and the bytes of its reply.
fn beside(config: &Config, shape: &Load, data: &Path) -> anyhow::Result<(Server, Load, usize)> {
    if let Some(program) = &config.opentracker {
        let announce = Load { operation: Asked::Announce, ..*shape };
        return Ok((Server::opentracker(program, data)?, announce, announce.reply()));
    }
    let answer = bare_reply(shape);
    let program = std::env::current_exe()?;
    let bare = Server::start(Command::new(program).args(["bare", "--answer", &answer.to_string()]))?;
    Ok((bare, *shape, answer))
}

fn row(config: &Config, name: &str, shape: &Load) -> anyhow::Result<()> {
    let data = TempDir::new_in(&config.data)?;
    let lonja = Server::lonja(&config.lonja, data.path(), &[])?;
    let others_data = TempDir::new()?;
    let (bare, asked, answer) = beside(config, shape, others_data.path())?;
    prepare(lonja.port, shape)?;
    let mut pairs = Vec::new();
    // The first pair warms up and does not count.
    for _ in 0..=config.pairs {
        pairs.push((measure(&lonja, shape, shape.reply())?, measure(&bare, &asked, answer)?));
    }
    pairs.remove(0);
    let of = |figure: fn(&(Run, Run)) -> f64| median(pairs.iter().map(figure).collect());
    println!(
        "{:<16} {:>5} | {:>8.0} {:>8.0} {:>6.2} | {:>6.1} {:>6.1} {:>6.2} | {:>7.0} {:>7.0} {:>7.0} | {:>6.2} {:>9.1}",
        name,
        shape.connections,
        of(|(lonja, _)| lonja.per_second),
        of(|(_, bare)| bare.per_second),
        of(|(lonja, bare)| lonja.per_second / bare.per_second),
        of(|(lonja, _)| lonja.cpu_us),
        of(|(_, bare)| bare.cpu_us),
        of(|(lonja, bare)| lonja.cpu_us / bare.cpu_us),
        of(|(lonja, _)| lonja.p50),
        of(|(lonja, _)| lonja.p99),
        of(|(lonja, _)| lonja.p999),
        of(|(lonja, bare)| lonja.p99 / bare.p99),
        of(|(lonja, _)| lonja.per_second) * shape.reply() as f64 / 1e6,
    );
    Ok(())
}

fn measure(server: &Server, shape: &Load, reply: usize) -> anyhow::Result<Run> {
    let before = server.cpu()?;
    let figures = load(server.port, shape, reply)?;
    Ok(Run::new(&figures, server.cpu()? - before))
}
