//! Five processes on loopback that make the same system as `lonja up`.

use std::{net::SocketAddr, path::Path, process::Command};

use lonja_chassis::rpc::Channel;
use tempfile::TempDir;

use crate::process::{Process, lonja};

/// A service that can be killed and started again at the same address.
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    role: &'static str,
}

impl Service {
    fn start(role: &'static str, data: &Path) -> Self {
        let mut process = Process::spawn(&mut Self::command(role, "127.0.0.1:0", data));
        let address = process.address(&format!("lonja.{role}"));
        Self { process, address, role }
    }

    fn command(role: &str, listen: &str, data: &Path) -> Command {
        let mut command = lonja();
        command.args([role, "--listen", listen, "--data-dir"]).arg(data);
        command
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::remote(&self.url()).unwrap()
    }

    /// Starts it again after a kill.
    pub(crate) fn restart(&mut self, data: &Path) {
        self.process = Process::spawn(&mut Self::command(self.role, &self.address.to_string(), data));
        self.process.address(&format!("lonja.{}", self.role));
    }
}

/// All five, on one data directory.
pub(crate) struct Cluster {
    pub(crate) registry: Service,
    pub(crate) catalog: Service,
    pub(crate) audit: Service,
    pub(crate) datetime: SocketAddr,
    pub(crate) gateway: Process,
    pub(crate) peers: SocketAddr,
    pub(crate) data: TempDir,
    _datetime: Process,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let data = TempDir::new().unwrap();
        let registry = Service::start("registry", data.path());
        let catalog = Service::start("catalog", data.path());
        let audit = Service::start("audit", data.path());
        let mut datetime_process = Process::spawn(lonja().args(["datetime", "--listen", "127.0.0.1:0"]));
        let datetime = datetime_process.address("lonja.datetime");
        let mut gateway = Process::spawn(lonja().args([
            "gateway",
            "--listen",
            "127.0.0.1:0",
            "--registry",
            &registry.url(),
            "--catalog",
            &catalog.url(),
            "--audit",
            &audit.url(),
            "--sweep-interval",
            "0.3",
        ]));
        let peers = gateway.address("lonja.gateway");
        Self { registry, catalog, audit, datetime, gateway, peers, data, _datetime: datetime_process }
    }
}
