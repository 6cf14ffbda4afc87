//! The names under which browsers may call the console.
//!
//! Any web page can have its own name lead to this machine, and then call the console as if the
//! console were the page's own origin (DNS rebinding). So a browser must call the console by an
//! address, by `localhost` or by a name that is allowed, unless a token guards the console. Only
//! HTTP/1.1 is checked, because no browser speaks HTTP/2 in the clear.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

/// The names that are allowed besides addresses and `localhost`.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Arc<[String]>);

impl FromStr for Hosts {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(|name| name.trim().to_lowercase());
        Ok(Self(names.filter(|name| !name.is_empty()).collect()))
    }
}

impl Hosts {
    fn allow(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_matches(['[', ']']).to_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.0.contains(&name)
    }
}

/// Refuses a request under a name that is not allowed; the answer says how to allow the name.
pub(crate) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if request.version() == Version::HTTP_2 || host.is_some_and(|host| hosts.allow(host)) {
        return next.run(request).await;
    }
    let refusal = "this console is not known by that name: allow it with LONJA_CONSOLE_HOSTS, or set a \
                   LONJA_CONSOLE_TOKEN\n";
    (StatusCode::MISDIRECTED_REQUEST, refusal).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_known_names_are_allowed() {
        let hosts: Hosts = "console.example.com, Other".parse().unwrap();
        for host in [
            "127.0.0.1:8080",
            "192.168.1.2",
            "[::1]:8080",
            "localhost:8080",
            "LOCALHOST",
            "console.example.com",
            "Console.Example.Com:443",
            "other:1",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b"] {
            assert!(!hosts.allow(host), "{host}");
        }
    }
}
