//! `lonja up` and another server, loaded in turn.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use tempfile::TempDir;

use lonja_load::{
    load::{Asked, Figures, Load, load, prepare},
    process::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Directory for the servers' data, on the disk that a real installation would use
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
    /// Rows to measure, by their names in the output; all if not given
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Compare with announces to this opentracker (Debian has it) instead of with the bare server
    #[arg(long, value_name = "PROGRAM", group = "beside")]
    opentracker: Option<PathBuf>,
    /// Compare with this other lonja instead of with the bare server
    #[arg(long, value_name = "PROGRAM", group = "beside")]
    other: Option<PathBuf>,
    /// Compare with the limit, what the kernel alone takes, instead of with the bare server; for
    /// register only
    #[arg(long, group = "beside")]
    limit: bool,
}

/// What is asked in a row of the output.
struct Row {
    name: &'static str,
    operation: Asked,
    online: u64,
    field_by_field: bool,
}

const ROWS: [Row; 6] = [
    Row { name: "register", operation: Asked::Register, online: 0, field_by_field: false },
    Row { name: "register-fields", operation: Asked::Register, online: 0, field_by_field: true },
    Row { name: "publish", operation: Asked::Publish, online: 0, field_by_field: false },
    Row { name: "list-users-10", operation: Asked::ListUsers, online: 10, field_by_field: false },
    Row { name: "list-users-1000", operation: Asked::ListUsers, online: 1000, field_by_field: false },
    Row { name: "list-users-10000", operation: Asked::ListUsers, online: 10_000, field_by_field: false },
];

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
        "{} pairs of {} s; medians; ratios are lonja / beside, pair by pair",
        config.pairs, config.seconds
    );
    println!(
        "{:<16} {:>5} | {:>8} {:>8} {:>6} | {:>6} {:>6} {:>6} | {:>7} {:>7} {:>7} | {:>6} {:>6} {:>9}",
        "",
        "conns",
        "lonja/s",
        "beside/s",
        "ratio",
        "cpu us",
        "beside",
        "ratio",
        "p50 us",
        "p99 us",
        "p99.9",
        "p50 x",
        "p99 x",
        "MB/s"
    );
    let is_asked = |name: &str| config.only.is_empty() || config.only.iter().any(|only| only == name);
    // The limit answers a byte, whatever it is asked, and an announce is one field.
    let can_measure = |row: &Row| match config {
        Config { limit: true, .. } => row.operation == Asked::Register,
        Config { opentracker: Some(_), .. } => !row.field_by_field,
        _ => true,
    };
    let asked: Vec<_> = ROWS.iter().filter(|row| is_asked(row.name) && can_measure(row)).collect();
    ensure!(!asked.is_empty(), "nothing to measure: rows are {}", ROWS.map(|row| row.name).join(", "));
    for &&Row { name, operation, online, field_by_field } in &asked {
        for &connections in &config.connections {
            let load = Load { online, field_by_field, ..Load::new(operation, connections, config.seconds) };
            row(config, name, &load)?;
        }
    }
    Ok(())
}

/// The number of bytes that the bare server answers: as many as Lonja for a long list, otherwise
/// one.
fn bare_reply(load: &Load) -> usize {
    if load.reply() > 10_000 { load.reply() } else { 1 }
}

/// What Lonja is compared with: a server, the load for it, and the length of its reply in bytes.
fn beside(config: &Config, shape: &Load, data: &Path) -> anyhow::Result<(Server, Load, usize)> {
    if let Some(program) = &config.opentracker {
        let announce = Load { operation: Asked::Announce, ..*shape };
        return Ok((Server::opentracker(program, data)?, announce, announce.reply()));
    }
    if let Some(program) = &config.other {
        return Ok((Server::lonja(program, data, &[])?, *shape, shape.reply()));
    }
    let program = std::env::current_exe()?;
    if config.limit {
        return Ok((Server::start(Command::new(program).arg("limit"))?, *shape, 1));
    }
    let answer = bare_reply(shape);
    let bare = Server::start(Command::new(program).args(["bare", "--answer", &answer.to_string()]))?;
    Ok((bare, *shape, answer))
}

fn row(config: &Config, name: &str, shape: &Load) -> anyhow::Result<()> {
    let data = TempDir::new_in(&config.data)?;
    let lonja = Server::lonja(&config.lonja, data.path(), &[])?;
    let others_data = TempDir::new_in(&config.data)?;
    let (beside, asked, answer) = beside(config, shape, others_data.path())?;
    prepare(lonja.port, shape)?;
    if config.other.is_some() {
        prepare(beside.port, shape)?;
    }
    let one = || measure(&lonja, shape, shape.reply());
    let other = || measure(&beside, &asked, answer);
    let pairs = in_pairs(config.pairs, one, other)?;
    let of = |figure: fn(&(Run, Run)) -> f64| median(pairs.iter().map(figure).collect());
    println!(
        "{:<16} {:>5} | {:>8.0} {:>8.0} {:>6.2} | {:>6.1} {:>6.1} {:>6.2} | {:>7.0} {:>7.0} {:>7.0} | {:>6.2} {:>6.2} {:>9.1}",
        name,
        shape.connections,
        of(|(lonja, _)| lonja.per_second),
        of(|(_, beside)| beside.per_second),
        of(|(lonja, beside)| lonja.per_second / beside.per_second),
        of(|(lonja, _)| lonja.cpu_us),
        of(|(_, beside)| beside.cpu_us),
        of(|(lonja, beside)| lonja.cpu_us / beside.cpu_us),
        of(|(lonja, _)| lonja.p50),
        of(|(lonja, _)| lonja.p99),
        of(|(lonja, _)| lonja.p999),
        of(|(lonja, beside)| lonja.p50 / beside.p50),
        of(|(lonja, beside)| lonja.p99 / beside.p99),
        of(|(lonja, _)| lonja.per_second) * shape.reply() as f64 / 1e6,
    );
    Ok(())
}

/// Measures two things in pairs. Their order changes from pair to pair, since the first of a pair
/// may find the machine in another state than the second.
pub(crate) fn in_pairs<T>(
    pairs: usize,
    one: impl Fn() -> anyhow::Result<T>,
    other: impl Fn() -> anyhow::Result<T>,
) -> anyhow::Result<Vec<(T, T)>> {
    let mut measured = Vec::new();
    // The first pair warms up and does not count.
    for pair in 0..=pairs {
        if pair % 2 == 0 {
            measured.push((one()?, other()?));
        } else {
            let other = other()?;
            measured.push((one()?, other));
        }
    }
    measured.remove(0);
    Ok(measured)
}

fn measure(server: &Server, shape: &Load, reply: usize) -> anyhow::Result<Run> {
    let before = server.cpu()?;
    let figures = load(server.port, shape, reply)?;
    Ok(Run::new(&figures, server.cpu()? - before))
}
