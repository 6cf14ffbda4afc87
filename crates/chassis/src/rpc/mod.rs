//! gRPC between services: the same client across the network and within a process.

mod batch;
mod channel;
mod measured;
mod names;
mod replicas;
mod server;

pub use channel::{Channel, ChannelError};
pub use names::{BadNameServer, NameServer, Names};
pub use server::{ServeError, routes, serve};
