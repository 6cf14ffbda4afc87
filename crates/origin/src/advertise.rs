//! The address under which a peer is listed (docs/protocol.md 6).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::Ipv4Net;

/// The peers that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Network(Ipv4Net),
    /// Peers that are seen at the address of this machine's default gateway.
    DefaultGateway,
}

/// `CIDR=IPV4`: peers seen from CIDR are listed at IPV4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    source: Source,
    listed: Ipv4Addr,
}

/// Rules, separated by commas; there may be none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl FromStr for Rules {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self(texts.map(str::parse).collect::<Result<_, _>>()?))
    }
}

/// The error for a text that is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not CIDR=IPV4, such as 172.17.0.1/32=192.168.1.10 or gateway=127.0.0.1")]
pub struct BadRule;

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let (source, listed) = text.split_once('=').ok_or(BadRule)?;
        let source = match source {
            "gateway" => Source::DefaultGateway,
            network => Source::Network(match network.parse::<Ipv4Addr>() {
                Ok(address) => address.into(),
                Err(_) => network.parse().map_err(|_| BadRule)?,
            }),
        };
        Ok(Self { source, listed: listed.parse().map_err(|_| BadRule)? })
    }
}

/// The rules, with the default gateway of this machine looked up.
#[derive(Debug, Clone)]
pub struct Advertise {
    rules: Vec<(Ipv4Net, Ipv4Addr)>,
    /// The address of this machine's default gateway. A container sees peers on its own host at
    /// this address, so the address is most likely not the peer's own.
    default_gateway: Option<Ipv4Addr>,
}

/// The address under which a peer is listed, and whether that address is doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertised {
    /// The address to list.
    pub address: Ipv4Addr,
    /// Whether `address` is the default gateway's and no rule replaces it.
    pub doubtful: bool,
}

impl Advertise {
    /// Prepares rules for this machine. For each peer the first rule that matches counts.
    #[must_use]
    pub fn new(rules: &Rules) -> Self {
        Self::with_gateway(&rules.0, default_gateway())
    }

    fn with_gateway(rules: &[Rule], default_gateway: Option<Ipv4Addr>) -> Self {
        let resolve = |rule: &Rule| {
            let network = match rule.source {
                Source::Network(network) => Some(network),
                Source::DefaultGateway => default_gateway.map(Ipv4Net::from),
            };
            if network.is_none() {
                tracing::warn!("an --advertise rule is for the default gateway, but this machine has none");
            }
            network.map(|network| (network, rule.listed))
        };
        Self { rules: rules.iter().filter_map(resolve).collect(), default_gateway }
    }

    /// The address under which a peer that connects from `seen` is listed; `None` if `seen` is no IPv4 address.
    #[must_use]
    pub fn peer(&self, seen: IpAddr) -> Option<Advertised> {
        match seen.to_canonical() {
            IpAddr::V4(seen) => Some(self.address(seen)),
            IpAddr::V6(_) => None,
        }
    }

    /// The address under which a peer that connects from the IPv4 address `seen` is listed.
    fn address(&self, seen: Ipv4Addr) -> Advertised {
        match self.rules.iter().find(|(network, _)| network.contains(&seen)) {
            Some((_, listed)) => Advertised { address: *listed, doubtful: false },
            None => Advertised { address: seen, doubtful: Some(seen) == self.default_gateway },
        }
    }
}

fn default_gateway() -> Option<Ipv4Addr> {
    parse_routes(&fs::read_to_string("/proc/net/route").ok()?)
}

/// Finds the default gateway in Linux' table of routes (`/proc/net/route`).
fn parse_routes(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (destination, gateway) = (columns.next()?, columns.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        // The kernel prints the bytes of the address as a number in the byte order of the machine.
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = rules(&["10.0.0.7=1.1.1.1", "10.0.0.0/8=2.2.2.2", "gateway=127.0.0.1"]);
        let advertise = Advertise::with_gateway(&rules, Some(BRIDGE));
        for (seen, listed) in [
            ([10, 0, 0, 7], [1, 1, 1, 1]),
            ([10, 9, 9, 9], [2, 2, 2, 2]),
            ([172, 17, 0, 1], [127, 0, 0, 1]),
            ([192, 168, 1, 5], [192, 168, 1, 5]),
        ] {
            let expected = Advertised { address: listed.into(), doubtful: false };
            assert_eq!(advertise.address(seen.into()), expected);
        }
    }

    #[test]
    fn the_default_gateway_without_a_rule_is_doubtful() {
        let advertise = Advertise::with_gateway(&[], Some(BRIDGE));
        assert!(advertise.address(BRIDGE).doubtful);
        assert!(!advertise.address(Ipv4Addr::LOCALHOST).doubtful);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for text in ["", "gateway", "10.0.0.0/33=1.1.1.1", "10.0.0.0/8=host", "::1=127.0.0.1"] {
            assert_eq!(text.parse::<Rule>(), Err(BadRule), "{text:?}");
        }
    }

    #[test]
    fn the_default_gateway_is_read_from_the_table_of_routes() {
        let routes = "Iface\tDestination\tGateway\tFlags\n\
                      eth0\t000011AC\t00000000\t0001\n\
                      eth0\t00000000\t010011AC\t0003\n";
        #[cfg(target_endian = "little")]
        assert_eq!(parse_routes(routes), Some(Ipv4Addr::new(172, 17, 0, 1)));
        assert_eq!(parse_routes("Iface\tDestination\tGateway\n"), None);
    }
}
