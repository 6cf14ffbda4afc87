//! Rules that say in which dialect peers read replies, by the network they are in (docs/compatibility.md).

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use lonja_wire::Dialect;

/// Rules `CIDR=FORM`, separated by commas; there may be none. For each peer the first rule that
/// matches counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dialects(Vec<(IpNet, Dialect)>);

/// The error for a text that is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not CIDR=FORM, such as 10.1.0.0/16=text; FORM is char, text, byte or names")]
pub struct BadDialectRule;

impl FromStr for Dialects {
    type Err = BadDialectRule;

    fn from_str(text: &str) -> Result<Self, BadDialectRule> {
        let rule = |text: &str| {
            let (network, dialect) = text.split_once('=').ok_or(BadDialectRule)?;
            let network = match network.parse::<IpAddr>() {
                Ok(address) => address.into(),
                Err(_) => network.parse().map_err(|_| BadDialectRule)?,
            };
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
}
