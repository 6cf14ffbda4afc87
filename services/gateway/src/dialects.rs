//! Settings that say in which dialect peers read replies: by the network they are in, or by the
//! address at which they connect (docs/compatibility.md).

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use lonja_chassis::networks;
use lonja_wire::Dialect;

/// Rules `CIDR=DIALECT`, separated by commas; there may be none. For each peer the first rule that
/// matches counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dialects(Vec<(IpNet, Dialect)>);

/// The error for a text that is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not CIDR=DIALECT, such as 10.1.0.0/16=text; DIALECT is {}", Dialect::CHOICES)]
pub struct BadDialectRule;

impl FromStr for Dialects {
    type Err = BadDialectRule;

    fn from_str(text: &str) -> Result<Self, BadDialectRule> {
        let rule = |text: &str| {
            let (network, dialect) = text.split_once('=').ok_or(BadDialectRule)?;
            let network = networks::network(network).map_err(|_| BadDialectRule)?;
            Ok((network, dialect.parse().map_err(|_| BadDialectRule)?))
        };
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self(texts.map(rule).collect::<Result<_, _>>()?))
    }
}

impl Dialects {
    /// The dialect that the rules say for a peer at this address; `None` if no rule does.
    pub(crate) fn of(&self, peer: IpAddr) -> Option<Dialect> {
        let peer = peer.to_canonical();
        self.0.iter().find(|(network, _)| network.contains(&peer)).map(|(_, dialect)| *dialect)
    }
}

/// An address for peers, written `ADDR` or `DIALECT=ADDR`, where `DIALECT` is a dialect or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    /// The address and port that the gateway listens on.
    pub address: SocketAddr,
    /// What all peers that connect here read; `None` if peers show what they read.
    pub dialect: Option<Dialect>,
}

/// The error for a text that is not an address for peers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not ADDR or DIALECT=ADDR, such as 0.0.0.0:5050 or byte=0.0.0.0:5051; DIALECT is auto, {}",
    Dialect::CHOICES
)]
pub struct BadPeerAddress;

impl FromStr for PeerAddress {
    type Err = BadPeerAddress;

    fn from_str(text: &str) -> Result<Self, BadPeerAddress> {
        let (dialect, address) = text.split_once('=').unwrap_or(("auto", text));
        let dialect = match dialect {
            "auto" => None,
            dialect => Some(dialect.parse().map_err(|_| BadPeerAddress)?),
        };
        Ok(Self { address: address.parse().map_err(|_| BadPeerAddress)?, dialect })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let dialects: Dialects = "10.1.2.3=byte, 10.1.0.0/16=text,::1=names".parse().unwrap();
        let of = |peer: &str| dialects.of(peer.parse().unwrap());
        assert_eq!(of("10.1.2.3"), Some(Dialect::Byte));
        assert_eq!(of("::ffff:10.1.9.9"), Some(Dialect::Text));
        assert_eq!(of("::1"), Some(Dialect::Names));
        assert_eq!(of("10.2.0.1"), None);
        assert_eq!("".parse(), Ok(Dialects::default()));
        for bad in ["text", "10.1.0.0/16=", "10.1.0.0/33=text", "10.1.0.0/16=auto", "host=text"] {
            assert_eq!(bad.parse::<Dialects>(), Err(BadDialectRule), "{bad}");
        }
    }

    #[test]
    fn an_address_may_be_for_one_dialect() {
        let address: SocketAddr = "0.0.0.0:5051".parse().unwrap();
        for (text, dialect) in [
            ("0.0.0.0:5051", None),
            ("auto=0.0.0.0:5051", None),
            ("byte=0.0.0.0:5051", Some(Dialect::Byte)),
            ("2020=0.0.0.0:5051", Some(Dialect::Names)),
        ] {
            assert_eq!(text.parse(), Ok(PeerAddress { address, dialect }), "{text}");
        }
        for bad in ["", "5051", "byte=", "padded=0.0.0.0:5051", "byte=5051"] {
            assert_eq!(bad.parse::<PeerAddress>(), Err(BadPeerAddress), "{bad}");
        }
    }
}
