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

use crate::{
    network::{EndOfHost, Socket, dial},
    shape::{GRPC, Shape},
};

/// The port of peers.
pub(crate) const PEERS: u16 = 5050;
/// How often a journal commits what waits.
const COMMIT: Duration = Duration::from_millis(5);

/// How soon a service that could not start is started again.
const AGAIN: Duration = Duration::from_millis(200);

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
pub(crate) fn backends(shape: Shape, names: &Names) -> anyhow::Result<Backends> {
    let channel = |(host, port)| {
        let address = format!("http://{}:{port}", turmoil::lookup(host));
        Channel::remote(&address, names, dial())
    };
    let [registry, catalog, audit] = shape.addresses();
    Ok(Backends {
        registry: RegistryClient::remote(channel(registry)?),
        catalog: CatalogClient::remote(channel(catalog)?),
        audit: AuditClient::remote(channel(audit)?),
    })
}

pub(crate) async fn gateway(names: Names) -> Ran {
    let _end = EndOfHost;
    let gateway =
        Gateway::new(settings().gateway, backends(Shape::Services, &names)?, None, OperationLog::off());
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
    serve(&disk, journal, lonja_registry::service(store)?).await
}

pub(crate) async fn catalog(disk: LyingDisk) -> Ran {
    let _end = EndOfHost;
    let mut journal = journal(&disk).await?;
    let store = lonja_catalog::store::EmbeddedStore::open(&mut journal, &settings().catalog)?;
    let (service, _search) = lonja_catalog::service(store)?;
    serve(&disk, journal, service).await
}

pub(crate) async fn audit(disk: LyingDisk) -> Ran {
    let _end = EndOfHost;
    let mut journal = journal(&disk).await?;
    let store = lonja_audit::store::EmbeddedStore::open(&mut journal, &settings().audit)?;
    let service = lonja_audit::service(store, OperationLog::off(), CancellationToken::new())?;
    serve(&disk, journal, service).await
}

async fn serve(disk: &LyingDisk, journal: JournalBuilder, service: Service) -> Ran {
    tokio::select! {
        served = serve_at(GRPC, service) => served,
        () = journal.commit_every(COMMIT, disk) => Ok(()),
    }
}

async fn serve_at(port: u16, service: Service) -> Ran {
    let connections = Socket::listen(port).await?.connections();
    Ok(serve_connections(connections, service, None, CancellationToken::new()).await?)
}

/// An index in one process, as `lonja up` puts it together. The services can be called across the network as
/// well, since judges do.
pub(crate) async fn index(disk: LyingDisk) -> Ran {
    let _end = EndOfHost;
    let mut journal = journal(&disk).await?;
    let registry = lonja_registry::store::EmbeddedStore::open(&mut journal)?;
    let catalog = lonja_catalog::store::EmbeddedStore::open(&mut journal, &settings().catalog)?;
    let audit = lonja_audit::store::EmbeddedStore::open(&mut journal, &settings().audit)?;
    let (lines, shutdown) = (OperationLog::off(), CancellationToken::new());
    let services = Backends {
        registry: lonja_registry::client(registry.clone()),
        catalog: lonja_catalog::client(catalog.clone()).0,
        audit: lonja_audit::client(audit.clone(), lines.clone(), shutdown.clone()),
    };
    let ledger = lonja_audit::ledger(audit.clone(), lines.clone());
    let gateway = Gateway::new(settings().gateway, services, Some(ledger), lines.clone());
    let peers = PeerListener::on(Socket::listen(PEERS).await?);
    let [(_, at_registry), (_, at_catalog), (_, at_audit)] = Shape::OneProcess.addresses();
    tokio::select! {
        // In an order that is the same each time.
        biased;
        served = gateway.serve_on(vec![peers], shutdown.clone()) => Ok(served?),
        served = serve_at(at_registry, lonja_registry::service(registry)?) => served,
        served = serve_at(at_catalog, lonja_catalog::service(catalog)?.0) => served,
        served = serve_at(at_audit, lonja_audit::service(audit, lines, shutdown)?) => served,
        () = journal.commit_every(COMMIT, &disk) => Ok(()),
    }
}
