//! Where a service keeps its state, as a person writes it for `--store`.

use std::{fmt, path::PathBuf, str::FromStr};

use redis::{ConnectionInfo, IntoConnectionInfo as _};

/// A store: `embedded:DIR`, `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` or
/// `redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]`.
#[derive(Clone)]
pub enum StoreUrl {
    /// Files in a directory.
    Embedded(PathBuf),
    /// One Redis server.
    Redis(ConnectionInfo),
    /// Some nodes of a Redis Cluster; the others are found through them.
    RedisCluster(Vec<ConnectionInfo>),
}

/// The reason why a text is not a store.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{0}; give embedded:DIR, redis://[USER:PASSWORD@]HOST[:PORT] or redis+cluster://HOST[:PORT],HOST[:PORT]"
)]
pub struct InvalidStoreUrl(String);

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        let node = |url: String| {
            // The part that is wrong may be the password, so the error repeats nothing of the text.
            url.into_connection_info().map_err(|_| InvalidStoreUrl("not the address of a Redis".to_owned()))
        };
        if let Some(directory) = text.strip_prefix("embedded:") {
            if directory.is_empty() {
                return Err(InvalidStoreUrl("a directory is missing".to_owned()));
            }
            return Ok(Self::Embedded(directory.into()));
        }
        if let Some(rest) = text.strip_prefix("redis+cluster://") {
            let (credentials, hosts) = rest.rsplit_once('@').map_or((None, rest), |(c, h)| (Some(c), h));
            let url = |host: &str| match credentials {
                Some(credentials) => format!("redis://{credentials}@{host}"),
                None => format!("redis://{host}"),
            };
            let nodes = hosts.split(',').map(|host| node(url(host))).collect::<Result<_, _>>()?;
            return Ok(Self::RedisCluster(nodes));
        }
        if text.starts_with("redis://") {
            return Ok(Self::Redis(node(text.to_owned())?));
        }
        Err(InvalidStoreUrl("unknown kind of store".to_owned()))
    }
}

/// Writes the store without its user and password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(directory) => write!(f, "embedded:{}", directory.display()),
            Self::Redis(node) => write!(f, "redis://{}", node.addr()),
            Self::RedisCluster(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
                write!(f, "redis+cluster://{}", nodes.join(","))
            }
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_shown_without_their_passwords() {
        for (text, shown) in [
            ("embedded:some/where", "embedded:some/where"),
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://registry:se:cret@10.0.0.1:7000/2", "redis://10.0.0.1:7000"),
            ("redis+cluster://u:p@a:7000,b", "redis+cluster://a:7000,b:6379"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        for text in ["", "embedded:", "redis:/x", "mysql://u:secret@h", "redis://u:secret@h:port"] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
