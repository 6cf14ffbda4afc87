//! What a registered user costs: bytes on disk, bytes in memory, time to start.

use std::{fs, path::PathBuf, time::Instant};

use tempfile::TempDir;

use lonja_load::{
    load::{Asked, Load, load},
    process::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Users to register
    #[arg(long, default_value_t = 1_000_000)]
    users: u64,
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let data = TempDir::new_in("target")?;
    // Audit records are not measured here: they have a bound of their own.
    let arguments = ["--max-audit-records", "1000", "--no-operation-log"];
    let lonja = Server::lonja(&config.lonja, data.path(), &arguments)?;
    let before = lonja.resident_kib()?;
    let mut users = 0;
    while users < config.users {
        let shape = Load::new(Asked::Register, 256, 5.0);
        users += load(lonja.port, &shape, 1)?.requests;
    }
    let memory = (lonja.resident_kib()? - before) * 1024 / users;
    lonja.terminate()?;
    let disk = fs::metadata(data.path().join("lonja.redb"))?.len() / users;
    let started = Instant::now();
    let lonja = Server::lonja(&config.lonja, data.path(), &arguments)?;
    println!(
        "{users} users: {disk} bytes each on disk, {memory} bytes each in memory; \
         the next start took {:.2} s",
        started.elapsed().as_secs_f64()
    );
    drop(lonja);
    Ok(())
}
