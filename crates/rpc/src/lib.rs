//! gRPC between services: the same client across the network and within a process, and what a server
//! puts around its services.

mod batch;
mod callers;
mod channel;
mod held;
mod measured;
mod names;
mod replicas;
mod spans;
mod tls;
mod unary;

pub use batch::BatchServer;
pub use callers::{Allowed, Callers};
pub use channel::{Channel, ChannelError};
pub use held::{HELD_AT_MOST, in_time};
pub use measured::{Measured, SERVER_DURATION};
pub use names::{BadNameServer, NameServer, Names};
pub use spans::Traced;
pub use tls::{Caller, Secured, Tls, TlsConfig, TlsError};
pub use unary::{Unary, unknown};
