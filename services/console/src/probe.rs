//! Finds out whether services that the console does not call are ready.

use std::{str::FromStr, time::Duration};

use lonja_chassis::{health::Health, http};
use lonja_proto::console::ServiceHealth;
use tokio::time;

/// How long a page may take to answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// How to find out whether a service is ready.
#[derive(Debug, Clone)]
pub enum Probe {
    /// The URL of a page that answers 200 while the service is ready.
    Page(String),
    /// The health of this process, for a service that runs in it.
    Here(Health),
}

/// Services by name, each with its probe.
#[derive(Debug, Clone, Default)]
pub struct Probes(pub Vec<(String, Probe)>);

/// The error for a text that is not a list of names with pages.
#[derive(Debug, thiserror::Error)]
#[error("use NAME=http://HOST:PORT/PATH, separated by commas")]
pub struct BadProbe;

impl FromStr for Probes {
    type Err = BadProbe;

    fn from_str(text: &str) -> Result<Self, BadProbe> {
        let probe = |part: &str| {
            let (name, url) = part.trim().split_once('=').ok_or(BadProbe)?;
            if name.is_empty() || !url.starts_with("http://") {
                return Err(BadProbe);
            }
            Ok((name.to_owned(), Probe::Page(url.to_owned())))
        };
        text.split(',').filter(|part| !part.trim().is_empty()).map(probe).collect::<Result<_, _>>().map(Self)
    }
}

impl Probe {
    pub(crate) async fn ask(&self, name: &str) -> ServiceHealth {
        let problem = match self {
            Self::Here(health) if health.ready() => String::new(),
            Self::Here(_) => "not ready".to_owned(),
            Self::Page(url) => match time::timeout(DEADLINE, http::get(url)).await {
                Ok(Ok((200, _))) => String::new(),
                Ok(Ok((status, _))) => format!("{url} says {status}"),
                Ok(Err(error)) => format!("{url}: {error}"),
                Err(_) => format!("{url} does not answer"),
            },
        };
        ServiceHealth { name: name.to_owned(), ready: problem.is_empty(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_names_with_pages() {
        let probes: Probes = "gateway=http://gateway:9090/readyz, datetime=http://d:1/".parse().unwrap();
        assert_eq!(probes.0.len(), 2);
        assert_eq!(probes.0[1].0, "datetime");
        assert!("".parse::<Probes>().unwrap().0.is_empty());
        for bad in ["gateway", "=http://a:1/", "a=ftp://b", "a=b,c=http://d:1/"] {
            assert!(bad.parse::<Probes>().is_err(), "{bad}");
        }
    }
}
