//! How long a large index takes to be imported into each store and exported from it, and what the peers
//! of an index notice while the index is exported.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use lonja_testing::RedisServer;
use serde_json::json;
use tempfile::TempDir;

use lonja_load::{
    load::{Asked, Load, load, prepare},
    process::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Users of the index
    #[arg(long, default_value_t = 100_000)]
    users: u64,
    /// Users who are connected, each with an equal part of the files
    #[arg(long, default_value_t = 1000)]
    sessions: u64,
    /// Files of all users together
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// Operations in the audit
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// Connections that publish while the index is exported
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    ensure!(
        (1..=config.users).contains(&config.sessions),
        "--sessions must be at least 1 and at most --users"
    );
    // Files are in memory where there is such a place, since the disk is not what is measured here.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { TempDir::new_in(memory)? } else { TempDir::new_in("target")? };
    let place = |name: &str| directory.path().join(name);
    let import = |arguments: &[&str]| timed(&config.lonja, "import", arguments, Stdio::null());
    let export =
        |arguments: &[&str], to: &str| timed(&config.lonja, "export", arguments, File::create(to)?.into());
    write(config, &place("first")).context("cannot write the first export")?;

    let (first, files) = (text(&place("first"))?, text(&place("files"))?);
    println!("import into files: {:.1} s", import(&[&first, "--data-dir", &files])?);
    let from_files = text(&place("from-files"))?;
    println!("export of files:   {:.1} s", export(&["--data-dir", &files], &from_files)?);

    let redis = RedisServer::start_with(&["--appendonly", "no"]);
    let url = redis.url();
    println!("import into Redis: {:.1} s", import(&[&from_files, "--store", &url])?);
    let from_redis = text(&place("from-redis"))?;
    println!("export of Redis:   {:.1} s", export(&["--store", &url], &from_redis)?);
    drop(redis);
    for other in [&from_files, &from_redis] {
        same(&first, other)?;
    }
    println!("every line says the same");
    notice(config, &files, &place("running"))
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("the directory's name is no text")?.to_owned())
}

/// Writes an export, in the format of docs/operations.md.
fn write(config: &Config, path: &Path) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut line = |value: serde_json::Value| writeln!(file, "{value}");
    line(json!({"lonja_export": {"version": 1, "made_at": "2026-01-01T00:00:00Z"}}))?;
    let away = config.users - config.sessions;
    // An export has the users who are away by name.
    for user in 0..away {
        line(json!({"user": {"name": format!("user-{user:09}")}}))?;
    }
    let mut files = 0;
    for session in 0..config.sessions {
        let second = session % 60;
        line(json!({"user": {"name": format!("online-{session}"), "session": {
            "id": format!("01KB0QJ5Y5GEMRRKBC{session:08}"),
            "address": "127.0.0.1:50085",
            "opened_at": format!("2026-01-01T{:02}:{:02}:{second:02}Z", session / 3600 % 24, session / 60 % 60),
        }}}))?;
        let upto = config.files * (session + 1) / config.sessions;
        for number in files..upto {
            let (name, description) = (format!("report {number}.pdf"), "made by the load generator");
            line(json!({"file": {"name": name, "description": description}}))?;
        }
        files = upto;
    }
    for operation in 0..config.operations {
        let (minute, second) = (operation / 60 % 60, operation % 60);
        line(json!({"operation": {
            "handled_at": format!("2026-01-01T{:02}:{minute:02}:{second:02}Z", operation / 3600 % 24),
            "operation": "PUBLISH",
            "username": format!("online-{}", operation % config.sessions),
            "subject": format!("report {operation}.pdf"),
            "status": 0,
            "peer_address": "127.0.0.1:41822",
            "claimed_datetime": format!("01/01/2026 00:{minute:02}:{second:02}"),
            "trace_id": "",
            "dialect": "char",
        }}))?;
    }
    let (users, sessions, operations) = (config.users, config.sessions, config.operations);
    line(json!({"end": {"users": users, "sessions": sessions, "files": files, "operations": operations}}))?;
    Ok(file.flush()?)
}

/// Runs `lonja NAME` to its end. Gives the seconds that the command took.
fn timed(lonja: &Path, name: &str, arguments: &[&str], output: Stdio) -> anyhow::Result<f64> {
    let began = Instant::now();
    let status = Command::new(lonja).arg(name).args(arguments).stdout(output).status()?;
    ensure!(status.success(), "lonja {name} {} failed", arguments.join(" "));
    Ok(began.elapsed().as_secs_f64())
}

/// Checks that two exports say the same in each line, but for the first, which says when an export was made.
fn same(one: &str, other: &str) -> anyhow::Result<()> {
    let mut lines = read(one)?.zip(read(other)?);
    let differ = lines.position(|(one, two)| !matches!((one, two), (Ok(one), Ok(two)) if one == two));
    ensure!(differ.is_none(), "line {} of {one} and {other} differ", differ.unwrap_or_default() + 2);
    ensure!(read(one)?.count() == read(other)?.count(), "{one} and {other} have different lengths");
    Ok(())
}

fn read(path: &str) -> anyhow::Result<impl Iterator<Item = anyhow::Result<serde_json::Value>>> {
    let lines = BufReader::new(File::open(path)?).lines().skip(1);
    Ok(lines.map(|line| Ok(serde_json::from_str(&line?)?)))
}

/// Measures what the peers of an index in use notice of an export.
fn notice(config: &Config, data: &str, output: &Path) -> anyhow::Result<()> {
    let server = Server::lonja(&config.lonja, Path::new(data), &["--no-operation-log"])?;
    let console = server.console.as_deref().context("lonja up has no console")?;
    let shape = Load::new(Asked::Publish, config.connections, 1.0);
    prepare(server.port, &shape)?;
    let mut quiet = Histogram::<u64>::new(3)?;
    for _ in 0..5 {
        quiet.add(load(server.port, &shape, 1)?.latency)?;
    }
    let began = Instant::now();
    let mut export = Command::new(&config.lonja)
        .args(["export", "--console", console])
        .stdout(File::create(output)?)
        .spawn()?;
    let mut exporting = Histogram::<u64>::new(3)?;
    let status = loop {
        exporting.add(load(server.port, &Load { seconds: 0.2, ..shape }, 1)?.latency)?;
        if let Some(status) = export.try_wait()? {
            break status;
        }
    };
    ensure!(status.success(), "the export of the running index failed");
    let seconds = began.elapsed().as_secs_f64();
    let p99 = |latency: &Histogram<u64>| latency.value_at_quantile(0.99) as f64 / 1000.0;
    println!(
        "export of an index in use: {seconds:.1} s, {} lines; PUBLISH at {} connections: p99 {:.1} ms before, {:.1} ms \
         meanwhile ({} requests, none failed)",
        fs::read_to_string(output)?.lines().count(),
        config.connections,
        p99(&quiet),
        p99(&exporting),
        exporting.len()
    );
    server.terminate()
}
