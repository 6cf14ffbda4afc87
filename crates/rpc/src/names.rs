//! The addresses behind a name, as DNS has them now.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};

/// The longest time that an answer is used without asking again. Some name servers of container
/// engines allow ten minutes, for addresses that change in seconds.
const BELIEVED: Duration = Duration::from_secs(1);
/// How long a name server may take to answer.
const DEADLINE: Duration = Duration::from_secs(1);
/// How often a name server that has not answered is asked again.
const ATTEMPTS: usize = 2;

/// A name server to ask instead of the system's: `IP` or `IP:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(SocketAddr);

/// A text that is not the address of a name server.
#[derive(Debug, thiserror::Error)]
#[error("not the address of a name server: use IP or IP:PORT")]
pub struct BadNameServer;

impl FromStr for NameServer {
    type Err = BadNameServer;

    fn from_str(text: &str) -> Result<Self, BadNameServer> {
        let with_port = text.parse();
        let address = with_port.or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)));
        address.map(Self).map_err(|_| BadNameServer)
    }
}

/// Looks up the addresses of hosts. Clones share one resolver.
#[derive(Debug, Clone)]
pub struct Names(Arc<TokioResolver>);

impl Names {
    /// Makes a resolver that asks `server`, or the name servers of the system if `server` is
    /// `None`.
    ///
    /// # Errors
    /// When the resolver cannot be made.
    pub fn new(server: Option<NameServer>) -> io::Result<Self> {
        let mut builder = match server {
            Some(NameServer(server)) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.into());
                let config = ResolverConfig::from_name_servers(vec![server]);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            // On a machine without name servers, services are given by their IP addresses.
            None => Resolver::builder_tokio().unwrap_or_else(|error| {
                tracing::warn!(%error, "no name servers are configured on this machine");
                Resolver::builder_with_config(
                    ResolverConfig::from_name_servers(Vec::new()),
                    TokioRuntimeProvider::default(),
                )
            }),
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.positive_max_ttl = Some(BELIEVED);
        options.negative_max_ttl = Some(BELIEVED);
        options.timeout = DEADLINE;
        options.attempts = ATTEMPTS;
        Ok(Self(Arc::new(builder.build().map_err(io::Error::other)?)))
    }

    /// Looks up the addresses of a host. There is at least one; they are sorted, without
    /// duplicates.
    ///
    /// # Errors
    /// When the host has no address, or no name server answers.
    pub async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = self.0.lookup_ip(host).await.map_err(io::Error::other)?;
        let mut addresses: Vec<_> = found.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_has_an_address_and_perhaps_a_port() {
        assert_eq!("10.0.0.1".parse::<NameServer>().unwrap().0, "10.0.0.1:53".parse().unwrap());
        assert_eq!("10.0.0.1:8600".parse::<NameServer>().unwrap().0, "10.0.0.1:8600".parse().unwrap());
        assert_eq!("::1".parse::<NameServer>().unwrap().0, "[::1]:53".parse().unwrap());
        assert!("dns.example".parse::<NameServer>().is_err());
    }

    #[tokio::test]
    async fn this_machine_has_an_address() {
        let names = Names::new(None).unwrap();
        assert_eq!(names.addresses("localhost").await.unwrap()[0], IpAddr::from([127, 0, 0, 1]));
    }
}
