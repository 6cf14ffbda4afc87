//! What Lonja's tests share: Redis servers and a name server that a test starts itself on free
//! ports, and a receiver of traces. Failures panic, because this crate is for tests only.
#![allow(clippy::panic, clippy::expect_used, clippy::unwrap_used, reason = "a test that fails panics")]

mod dns;
mod redis;
mod traces;

pub use dns::NameServer;
pub use redis::{RedisCluster, RedisServer};
pub use traces::TraceReceiver;
