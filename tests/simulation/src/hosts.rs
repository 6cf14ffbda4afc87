//! The hosts of a world: what runs on each, on the disk that it has.

use std::time::Duration;

use clap::Parser;
use lonja_chassis::{
    grpc::{Service, serve_connections},
    operation_log::OperationLog,
    service::Backends,
};
use lonja_gateway::{Gateway, GatewayConfig, PeerListener};
use lonja_journal::{JournalBuilder, OpenError, simulation::LyingDisk};
use lonja_proto::{audit::AuditClient, catalog::CatalogClient, registry::RegistryClient};
use lonja_rpc::{Channel, Names};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::network::{EndOfHost, Socket, dial};

/// The port of peers.
pub(crate) const PEERS: u16 = 5050;
/// The port of gRPC.
const GRPC: u16 = 50051;
/// How often a journal commits what waits.
const COMMIT: Duration = Duration::from_millis(5);

/// How soon a service that could not start is started again.
const AGAIN: Duration = Duration::from_millis(200);

/// The names of the hosts that keep state.
pub(crate) const SERVICES: [&str; 3] = ["registry", "catalog", AUDIT];
/// The name of the host that keeps records.
pub(crate) const AUDIT: &str = "audit";
/// The names of the gateways.
pub(crate) const GATEWAYS: [&str; 2] = ["gateway-0", "gateway-1"];

/// How a host ends. An error ends the world.
pub(crate) type Ran = Result<(), Box<dyn std::error::Error>>;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    gateway: GatewayConfig,
    #[command(flatten)]
    catalog: lonja_catalog::CatalogConfig,
    #[command(flatten)]
    audit: lonja_audit::AuditConfig,
}

fn settings() -> Settings {
    Settings::parse_from(["lonja", "--no-operation-log", "--sweep-interval", "2"])
}

/// Clients of the three services, for a gateway or a judge.
pub(crate) fn backends(names: &Names) -> anyhow::Result<Backends> {
    let channel = |host: &str| {
        let address = format!("http://{}:{GRPC}", turmoil::lookup(host));
        Channel::remote(&address, names, dial())
    };
    Ok(Backends {
        registry: RegistryClient::remote(channel(SERVICES[0])?),
        catalog: CatalogClient::remote(channel(SERVICES[1])?),
        audit: AuditClient::remote(channel(SERVICES[2])?),
    })
}

pub(crate) async fn gateway(names: Names) -> Ran {
    let _end = EndOfHost;
    let gateway = Gateway::new(settings().gateway, backends(&names)?, None, OperationLog::off());
    let peers = PeerListener::on(Socket::listen(PEERS).await?);
    Ok(gateway.serve_on(vec![peers], CancellationToken::new()).await?)
}

/// Opens a journal. A service whose disk cannot be written does not start; whoever watches over the service
/// tries again.
async fn journal(disk: &LyingDisk) -> Result<JournalBuilder, OpenError> {
    loop {
        match JournalBuilder::open_simulated(disk) {
            Err(OpenError::Unusable(..)) => time::sleep(AGAIN).await,
            opened => return opened,
        }
    }
}

pub(crate) async fn registry(disk: LyingDisk) -> Ran {
    let _end = EndOfHost;
    let mut journal = journal(&disk).await?;
    let store = lonja_registry::store::EmbeddedStore::open(&mut journal)?;
    serve(journal, lonja_registry::service(store)?).await
}

pub(crate) async fn catalog(disk: LyingDisk) -> Ran {
    let _end = EndOfHost;
    let mut journal = journal(&disk).await?;
    let store = lonja_catalog::store::EmbeddedStore::open(&mut journal, &settings().catalog)?;
    let (service, _search) = lonja_catalog::service(store)?;
    serve(journal, service).await
}

pub(crate) async fn audit(disk: LyingDisk) -> Ran {
    let _end = EndOfHost;
    let mut journal = journal(&disk).await?;
    let store = lonja_audit::store::EmbeddedStore::open(&mut journal, &settings().audit)?;
    let service = lonja_audit::service(store, OperationLog::off(), CancellationToken::new())?;
    serve(journal, service).await
}

async fn serve(journal: JournalBuilder, service: Service) -> Ran {
    let connections = Socket::listen(GRPC).await?.connections();
    tokio::select! {
        served = serve_connections(connections, service, None, CancellationToken::new()) => Ok(served?),
        () = journal.commit_every(COMMIT) => Ok(()),
    }
}
