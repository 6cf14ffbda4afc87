//! The registry's terms.

use std::net::Ipv4Addr;

use lonja_proto::SessionId;

/// Where others dial a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address that others can reach.
    pub address: Ipv4Addr,
    /// The port that the user listens on.
    pub port: u16,
}

/// A user's time online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its name, for ever.
    pub id: SessionId,
    /// Whose it is.
    pub username: Box<str>,
    /// Where others dial the user.
    pub endpoint: Endpoint,
    /// When it was opened, in milliseconds of the Unix epoch.
    pub opened_at_ms: i64,
}
