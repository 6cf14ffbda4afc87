//! gRPC between services: the same client across the network and within a process, and what a server
//! puts around its services.

mod batch;
mod callers;
mod channel;
mod dial;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod held;
mod measured;
mod method;
mod names;
mod replicas;
mod spans;
mod target;
mod tls;
mod unary;

pub use batch::{BatchServer, BatchServiceServer, Holds};
pub use callers::{Allowed, Callers};
pub use channel::{Channel, ChannelError};
pub use dial::{Connection, Dial, Dialled};
pub use held::{HELD_AT_MOST, in_time};
pub use measured::{Measured, SERVER_DURATION};
pub use method::Method;
pub use names::{BadNameServer, NameServer, Names};
pub use spans::Traced;
pub use target::{Pages, Target, local, local_stream, page_size};
pub use tls::{BadContent, BadIdentity, Caller, Secured, Tls, TlsConfig, TlsError};
pub use unary::{Unary, serialized, unknown};
