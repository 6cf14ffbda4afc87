//! Five processes on loopback that make the same system as `lonja up`.

use std::net::SocketAddr;
use std::process::Command;

use lonja_rpc::{Channel, Dial, Names};
use lonja_testing::RedisServer;
use tempfile::TempDir;

use crate::process::{Process, lonja, until_free};

/// The process of a service, which can be killed and started again at the same address.
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    role: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Service {
    fn start(role: &'static str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_at("127.0.0.1:0", role, arguments, environment)
    }

    pub(crate) fn start_at(
        listen: &str,
        role: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut command = Self::command(role, listen, &arguments);
        let mut process = Process::spawn(command.envs(environment.clone()));
        let address = process.address(&format!("lonja.{role}"));
        Self { process, address, role, arguments, environment }
    }

    fn command(role: &str, listen: &str, arguments: &[String]) -> Command {
        let mut command = lonja();
        command.args([role, "--listen", listen]).args(arguments);
        command
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::remote(&self.url(), &Names::new(None).unwrap(), Dial::Plain).unwrap()
    }

    /// Starts the service again after a kill, once no connection of another test has its port.
    pub(crate) fn restart(&mut self) {
        until_free(self.address);
        let mut command = Self::command(self.role, &self.address.to_string(), &self.arguments);
        self.process = Process::spawn(command.envs(self.environment.clone()));
        self.process.address(&format!("lonja.{}", self.role));
    }
}

/// The five processes, and the Redis that they use, if any.
pub(crate) struct Cluster {
    pub(crate) registry: Service,
    pub(crate) catalog: Service,
    pub(crate) audit: Service,
    pub(crate) gateway: Service,
    pub(crate) peers: SocketAddr,
    pub(crate) datetime: SocketAddr,
    pub(crate) redis: Option<RedisServer>,
    _data: TempDir,
    _datetime: Process,
}

impl Cluster {
    /// Starts the five processes. Each service that keeps state has files of its own.
    pub(crate) fn start() -> Self {
        let data = TempDir::new().unwrap();
        let store = format!("embedded:{}", data.path().display());
        Self::on(&store, None, data, &[])
    }

    /// Starts the five processes on one Redis.
    pub(crate) fn on_redis() -> Self {
        let redis = RedisServer::start();
        Self::on(&redis.url(), Some(redis), TempDir::new().unwrap(), &[])
    }

    pub(crate) fn on(
        store: &str,
        redis: Option<RedisServer>,
        data: TempDir,
        environment: &[(&str, &str)],
    ) -> Self {
        Self::on_stores([store; 3], redis, data, environment)
    }

    /// Starts the five processes with these stores of registry, catalog and audit, in this order.
    pub(crate) fn on_stores(
        stores: [&str; 3],
        redis: Option<RedisServer>,
        data: TempDir,
        environment: &[(&str, &str)],
    ) -> Self {
        let [of_registry, of_catalog, of_audit] = stores.map(|store| ["--store", store]);
        let registry = Service::start("registry", &of_registry, environment);
        let catalog = Service::start("catalog", &of_catalog, environment);
        let audit = Service::start("audit", &of_audit, environment);
        let mut datetime_process = Process::spawn(lonja().args(["datetime", "--listen", "127.0.0.1:0"]));
        let datetime = datetime_process.address("lonja.datetime");
        let (registry_url, catalog_url, audit_url) = (registry.url(), catalog.url(), audit.url());
        let gateway = Service::start(
            "gateway",
            &[
                "--registry",
                &registry_url,
                "--catalog",
                &catalog_url,
                "--audit",
                &audit_url,
                "--sweep-interval",
                "0.3",
            ],
            environment,
        );
        let peers = gateway.address;
        Self {
            registry,
            catalog,
            audit,
            gateway,
            peers,
            datetime,
            redis,
            _data: data,
            _datetime: datetime_process,
        }
    }
}

/// Runs a test on each kind of store.
pub(crate) fn on_each_store(test: impl Fn(Cluster)) {
    test(Cluster::start());
    test(Cluster::on_redis());
}
