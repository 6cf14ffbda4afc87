//! gRPC between services: the same client across the network and within a process.

mod batch;
mod callers;
mod channel;
mod conversation;
mod held;
mod measured;
mod names;
mod replicas;
mod server;
mod spans;
mod tls;
mod unary;

pub use callers::Callers;
pub use channel::{Channel, ChannelError};
pub use held::{HELD_AT_MOST, in_time};
pub use names::{BadNameServer, NameServer, Names};
pub use server::{ServeError, Service, health, reflection, serve};
pub use tls::{Tls, TlsConfig, TlsError};
pub use unary::{Unary, unknown};
