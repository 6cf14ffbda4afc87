//! How the index of a world is spread over hosts.

use std::time::Duration;

/// The ways in which an index is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Two gateways, a registry, a catalog and an audit, each on a host of its own.
    Services,
    /// All in one process with one journal, as in `lonja up`.
    OneProcess,
}

/// The name of the host that keeps records, where each service has a host of its own.
pub(crate) const AUDIT: &str = "audit";
/// The names of the services that keep state, and of their hosts where each has a host of its own.
pub(crate) const SERVICES: [&str; 3] = ["registry", "catalog", AUDIT];
/// The names of the gateways that have a host of their own.
pub(crate) const GATEWAYS: [&str; 2] = ["gateway-0", "gateway-1"];
/// The name of the host of an index in one process.
pub(crate) const INDEX: &str = "index";

/// The port of gRPC, where each service has a host of its own. In one process the services have this port and
/// the next two, in the order of [`SERVICES`].
pub(crate) const GRPC: u16 = 50051;

impl Shape {
    /// The hosts at which peers ask.
    pub(crate) fn gateways(self) -> &'static [&'static str] {
        match self {
            Self::Services => &GATEWAYS,
            Self::OneProcess => &[INDEX],
        }
    }

    /// The hosts that keep state, each on a disk of its own.
    pub(crate) fn keepers(self) -> &'static [&'static str] {
        match self {
            Self::Services => &SERVICES,
            Self::OneProcess => &[INDEX],
        }
    }

    /// The hosts that a gateway asks.
    pub(crate) fn asked_by_gateways(self) -> &'static [&'static str] {
        match self {
            Self::Services => &SERVICES,
            Self::OneProcess => &[],
        }
    }

    /// The host and the port of each of [`SERVICES`].
    pub(crate) fn addresses(self) -> [(&'static str, u16); 3] {
        match self {
            Self::Services => SERVICES.map(|host| (host, GRPC)),
            Self::OneProcess => [(INDEX, GRPC), (INDEX, GRPC + 1), (INDEX, GRPC + 2)],
        }
    }

    /// Whether the records are kept on the disk of this host.
    pub(crate) fn keeps_records(self, host: &str) -> bool {
        match self {
            Self::Services => host == AUDIT,
            Self::OneProcess => host == INDEX,
        }
    }

    /// How long after an outage of the audit a gateway may take to store records again: the longest pause
    /// between two attempts, and across a network the time in which the pings of a cut connection fail.
    pub(crate) fn recovery(self) -> Duration {
        match self {
            Self::Services => Duration::from_secs(15),
            Self::OneProcess => Duration::from_secs(2),
        }
    }
}
