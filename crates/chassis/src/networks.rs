//! Networks, as settings name them.

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// Networks, separated by commas; there may be none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// The error for a text that is not a network, with the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network, such as 10.0.0.0/8 or 192.168.1.7")]
pub struct BadNetwork(String);

/// Reads a network, or an address as the network of that address alone.
///
/// # Errors
/// When the text is neither.
pub fn network(text: &str) -> Result<IpNet, BadNetwork> {
    let address = text.parse::<IpAddr>().map(IpNet::from).ok();
    address.or_else(|| text.parse().ok()).ok_or_else(|| BadNetwork(text.to_owned()))
}

/// The address that stands for a host: of IPv6 the network of 64 bits, in which the host chooses addresses.
#[must_use]
pub fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl FromStr for Networks {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self(texts.map(network).collect::<Result<_, _>>()?))
    }
}

impl Networks {
    /// Whether the list has no network.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the networks has the address.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        let networks: Networks = "10.0.0.0/8, 192.168.1.7,".parse().unwrap();
        assert!(networks.contain([10, 1, 2, 3].into()) && networks.contain([192, 168, 1, 7].into()));
        assert!(!networks.contain([192, 168, 1, 8].into()) && !networks.contain([11, 0, 0, 1].into()));
        assert_eq!("".parse(), Ok(Networks::default()));
        assert!("nowhere".parse::<Networks>().is_err());
    }
}
