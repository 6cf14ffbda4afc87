//! gRPC between services: the same client across the network and within a process.

mod batch;
mod channel;
mod measured;
mod server;

pub use channel::{Channel, ChannelError};
pub use server::{ServeError, routes, serve};
