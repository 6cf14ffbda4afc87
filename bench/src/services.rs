//! The five services and Redis beside the bare chain, and the services with traces beside those
//! without.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use lonja_testing::RedisServer;

use crate::{compare::in_pairs, sink::Sink};
use lonja_load::{
    load::{Asked, Load, load},
    process::{HIGH_RATES, Server},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The lonja to measure, built with `--profile dist`
    #[arg(long, default_value = "target/dist/lonja")]
    lonja: PathBuf,
    /// Compare with the services of this other lonja instead of with the chain, and leave out
    /// traces
    #[arg(long, value_name = "PROGRAM")]
    other: Option<PathBuf>,
    /// Pairs of runs for each row; the median counts
    #[arg(long, default_value_t = 31)]
    pairs: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Connections at one time
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    connections: Vec<usize>,
}

/// The processes that peers load. Peers connect to the last of the `servers`.
pub(crate) struct Stack {
    servers: Vec<Server>,
    redis: RedisServer,
    /// The URLs of registry, catalog and audit, in this order; empty for the chain.
    pub(crate) urls: Vec<String>,
}

/// The services in the order in which [`Stack::lonja`] starts them.
const NAMES: [&str; 5] = ["registry", "catalog", "audit", "datetime", "gateway"];

const EVERY_SECOND: [&str; 2] = ["--appendfsync", "everysec"];

impl Stack {
    fn chain() -> anyhow::Result<Self> {
        let redis = RedisServer::start_with(&EVERY_SECOND);
        let program = env::current_exe()?;
        let back = Server::start(Command::new(&program).args(["chain-back", "--redis", &redis.url()]))?;
        let address = format!("http://127.0.0.1:{}", back.port);
        let front = Server::start(Command::new(&program).args(["chain-front", "--back", &address]))?;
        Ok(Self { servers: vec![back, front], redis, urls: Vec::new() })
    }

    /// Starts the services, with further `audit` options for the audit.
    pub(crate) fn lonja(lonja: &Path, traces: Option<&Sink>, audit: &[&str]) -> anyhow::Result<Self> {
        let redis = RedisServer::start_with(&EVERY_SECOND);
        let mut servers = Vec::new();
        let mut urls = Vec::new();
        let command = |role: &str| {
            let mut command = Command::new(lonja);
            command.args([role, "--listen", "0.0.0.0:0"]);
            command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").envs(HIGH_RATES);
            if let Some(traces) = traces {
                command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &traces.endpoint);
                command.env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
                command.env("OTEL_TRACES_SAMPLER_ARG", "0.1");
            }
            command
        };
        for role in ["registry", "catalog", "audit"] {
            let mut command = command(role);
            if role == "audit" {
                command.arg("--no-operation-log").args(audit);
            }
            let server = Server::start(command.args(["--store", &redis.url()]))?;
            urls.push(format!("http://127.0.0.1:{}", server.port));
            servers.push(server);
        }
        servers.push(Server::start(&mut command("datetime"))?);
        // The gateway prints no operations, because the chain prints none.
        let places =
            ["--no-operation-log", "--registry", &urls[0], "--catalog", &urls[1], "--audit", &urls[2]];
        servers.push(Server::start(command("gateway").args(places))?);
        Ok(Self { servers, redis, urls })
    }

    pub(crate) fn port(&self) -> u16 {
        self.servers.last().map_or(0, |server| server.port)
    }

    /// CPU time of each process so far.
    pub(crate) fn cpu_of_each(&self) -> anyhow::Result<Vec<(&'static str, Duration)>> {
        let cpu = |(name, server): (&'static str, &Server)| Ok((name, server.cpu()?));
        let mut each: Vec<_> =
            NAMES.into_iter().zip(&self.servers).map(cpu).collect::<anyhow::Result<_>>()?;
        each.push(("Redis", lonja_load::process::cpu(self.redis.id())?));
        Ok(each)
    }

    /// Memory in use by each process, in KiB.
    pub(crate) fn resident_kib_of_each(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        let memory = |(name, server): (&'static str, &Server)| Ok((name, server.resident_kib()?));
        let mut each: Vec<_> =
            NAMES.into_iter().zip(&self.servers).map(memory).collect::<anyhow::Result<_>>()?;
        each.push(("Redis", lonja_load::process::resident_kib(self.redis.id())?));
        Ok(each)
    }

    /// The commands that Redis has carried out so far, those of scripts included.
    pub(crate) fn redis_commands(&self) -> anyhow::Result<u64> {
        let statistics = self.redis.command("INFO commandstats");
        let calls = statistics.lines().filter_map(|line| line.split("calls=").nth(1)?.split(',').next());
        calls.map(|calls| Ok(calls.parse::<u64>()?)).sum()
    }

    /// CPU time of all processes of the stack so far, Redis included.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let servers = self.servers.iter().map(Server::cpu).sum::<anyhow::Result<Duration>>()?;
        Ok(servers + lonja_load::process::cpu(self.redis.id())?)
    }
}

pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let traces = Sink::start()?;
    println!("{} pairs of {} s, REGISTER; medians; ratios pair by pair", config.pairs, config.seconds);
    for &connections in &config.connections {
        let services = Stack::lonja(&config.lonja, None, &[])?;
        if let Some(other) = &config.other {
            let other = Stack::lonja(other, None, &[])?;
            compare(config, connections, "services / other", &services, &other)?;
            continue;
        }
        compare(config, connections, "services / chain", &services, &Stack::chain()?)?;
        let traced = Stack::lonja(&config.lonja, Some(&traces), &[])?;
        compare(config, connections, "traced / untraced", &traced, &services)?;
    }
    Ok(())
}

fn compare(
    config: &Config,
    connections: usize,
    what: &str,
    one: &Stack,
    other: &Stack,
) -> anyhow::Result<()> {
    let shape = Load::new(Asked::Register, connections, config.seconds);
    let measure = |stack: &Stack| -> anyhow::Result<(f64, f64, f64)> {
        let before = stack.cpu()?;
        let figures = load(stack.port(), &shape, 1)?;
        let cpu = (stack.cpu()? - before).as_secs_f64() * 1e6 / figures.requests as f64;
        Ok((figures.per_second(), cpu, figures.latency.value_at_quantile(0.99) as f64))
    };
    let pairs = in_pairs(config.pairs, || measure(one), || measure(other))?;
    type Pair = ((f64, f64, f64), (f64, f64, f64));
    let of = |figure: fn(&Pair) -> f64| crate::compare::median(pairs.iter().map(figure).collect());
    println!(
        "{what:<18} {connections:>4} connections: {:>6.0}/s and {:>6.0}/s, ratio {:.3}; \
         CPU {:.0} and {:.0} us; p99 {:.1} and {:.1} ms",
        of(|(one, _)| one.0),
        of(|(_, other)| other.0),
        of(|(one, other)| one.0 / other.0),
        of(|(one, _)| one.1),
        of(|(_, other)| other.1),
        of(|(one, _)| one.2 / 1000.0),
        of(|(_, other)| other.2 / 1000.0),
    );
    Ok(())
}
