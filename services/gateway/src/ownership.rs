//! Whose name it is: who may act for a user (docs/operations.md, `--own-names`).

use std::net::SocketAddr;

use lonja_chassis::networks::Networks;
use lonja_origin::Advertise;
use lonja_proto::registry::Endpoint;
use lonja_telemetry::throttle::Throttle;
use lonja_wire::{Outcome, Printable, Username};
use metrics::{Counter, counter};

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

    /// Whether anyone may act for anyone.
    pub(crate) fn is_off(&self) -> bool {
        self.rule == OwnNames::Off
    }

    /// Refuses a peer that is not where the user's session is.
    pub(crate) fn check(
        &self,
        username: &Username,
        endpoint: Option<&Endpoint>,
        peer: SocketAddr,
        advertise: &Advertise,
    ) -> Result<(), NotDone> {
        if self.is_off() || self.operators.contain(peer.ip()) {
            return Ok(());
        }
        let asks = advertise.peer(peer.ip()).map(|advertised| advertised.address.to_bits());
        let is_there = |endpoint: &Endpoint| asks == Some(endpoint.ipv4);
        if endpoint.is_some_and(is_there) {
            return Ok(());
        }
        self.refused.increment(1);
        if let Some(suppressed) = NOT_OWNED.admit() {
            tracing::warn!(%peer, username = %Printable(username.as_str()), suppressed, "a peer asks for a user of another address");
        }
        Err(NotDone(Outcome::Failed))
    }
}
