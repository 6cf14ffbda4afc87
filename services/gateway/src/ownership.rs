//! Who may act for a user (docs/operations.md, `--own-names`).

use std::net::SocketAddr;

use lonja_chassis::networks::Networks;
use lonja_origin::Advertise;
use lonja_proto::{Reason, registry::OnlyFor};
use lonja_telemetry::throttle::Throttle;
use lonja_wire::{Outcome, Printable, Username};
use metrics::{Counter, counter};
use tonic::Status;

use crate::backend::NotDone;

/// Bounds the log of requests for names of others.
static NOT_OWNED: Throttle = Throttle::events();

/// Who may unregister and disconnect a user, and publish and delete for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OwnNames {
    /// Anyone, as in the original system
    Off,
    /// While the user is connected, only peers at the address at which the user is listed
    Connected,
    /// Only peers at the address that registered the user, which alone may connect the user too, until an
    /// operator frees the user
    Registered,
}

/// The rule, the networks of those who may act for anyone, and the count of requests that were refused.
pub(crate) struct Ownership {
    rule: OwnNames,
    operators: Networks,
    refused: Counter,
}

impl std::fmt::Debug for Ownership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ownership").field(&self.rule).finish()
    }
}

impl Ownership {
    /// The rule for all peers but those in the networks of `operators`.
    pub(crate) fn new(rule: OwnNames, operators: Networks) -> Self {
        Self { rule, operators, refused: counter!("lonja_gateway_requests_not_owned_total") }
    }

    /// What the registry has to check before a request of this peer is carried out; `None` lets the peer act for any
    /// user. A peer that cannot be listed has the address 0, which no user has.
    pub(crate) fn only_for(&self, peer: SocketAddr, advertise: &Advertise) -> Option<OnlyFor> {
        if self.rule == OwnNames::Off || self.operators.contain(peer.ip()) {
            return None;
        }
        let listed = advertise.peer(peer.ip());
        let ipv4 = listed.map(|advertised| advertised.address.to_bits()).unwrap_or_default();
        Some(OnlyFor { ipv4, as_owner: self.rule == OwnNames::Registered })
    }

    /// The address that owns the users whom this peer registers; 0 if they belong to no address.
    pub(crate) fn owner(&self, peer: SocketAddr, advertise: &Advertise) -> u32 {
        self.only_for(peer, advertise).filter(|only| only.as_owner).map(|only| only.ipv4).unwrap_or_default()
    }

    /// Gives the answer of the registry, and counts and logs a request for a user of another address.
    pub(crate) fn judged<T>(
        &self,
        answer: Result<T, Status>,
        username: &Username,
        peer: SocketAddr,
    ) -> Result<T, NotDone> {
        let status = match answer {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        if Reason::try_from(&status) != Ok(Reason::NotOwner) {
            return Err(status.into());
        }
        self.refused.increment(1);
        if let Some(suppressed) = NOT_OWNED.admit() {
            let username = Printable(username.as_str());
            tracing::warn!(
                %peer,
                %username,
                suppressed,
                "refused a request for a user of another address: if the peer may ask, add its network to --operators"
            );
        }
        Err(NotDone(Outcome::Failed))
    }
}
