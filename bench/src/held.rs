//! Peers that send one byte a second: what each costs, and what other peers notice.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use lonja_load::{
    load::{Asked, Load, load},
    process::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Connections that send a byte a second
    #[arg(long, default_value_t = 5000)]
    held: usize,
    /// Connections that send whole requests
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 7.0)]
    seconds: f64,
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let data = TempDir::new_in("target")?;
    let lonja = Server::lonja(&config.lonja, data.path(), &["--max-connections-per-address", "16384"])?;
    let honest = Load::new(Asked::Register, config.connections, config.seconds);
    load(lonja.port, &Load { seconds: 1.0, ..honest }, 1)?;
    let before = lonja.resident_kib()?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let held = runtime.block_on(open(lonja.port, config.held))?;
    let each = (lonja.resident_kib()? as f64 - before as f64) / config.held as f64;
    let slow = runtime.spawn(send_slowly(held));
    let figures = load(lonja.port, &honest, 1)?;
    slow.abort();
    println!(
        "{} connections held at {each:.1} KiB each; meanwhile at {} connections {:.0} requests/s, \
         p50 {} us, p99 {} us, p99.9 {} us",
        config.held,
        config.connections,
        figures.per_second(),
        figures.latency.value_at_quantile(0.5),
        figures.latency.value_at_quantile(0.99),
        figures.latency.value_at_quantile(0.999),
    );
    Ok(())
}

async fn open(port: u16, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"P").await?;
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(held)
}

async fn send_slowly(mut held: Vec<TcpStream>) {
    for byte in b"UBLISH and a long time nothing" {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for stream in &mut held {
            // The gateway cuts a connection at its deadline: then an error is expected.
            let _ = stream.write_all(&[*byte]).await;
        }
    }
}
