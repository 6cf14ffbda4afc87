//! What Lonja's tests and benchmarks share: Redis servers and a name server on free ports, a peer that lies, a
//! receiver of traces, and a certificate authority. Failures panic, because nothing of this is shipped.
#![allow(clippy::panic, clippy::expect_used, clippy::unwrap_used, reason = "a test that fails panics")]

mod authority;
mod dns;
mod liar;
mod redis;
mod traces;

pub use authority::{Authority, Identity};
pub use dns::NameServer;
pub use liar::{Lie, liar};
pub use redis::{RedisCluster, RedisServer};
pub use traces::TraceReceiver;
