//! Unary calls that wait at the same moment travel in one message (`lonja.batch.v1`).
//!
//! Most of the cost of a small call is HTTP/2, at both ends and whatever the call asks. The client
//! puts calls in a queue and sends those that wait there together. The server has each call
//! answered by its service, and no call waits for a slower one for longer than [`GATHER`]. Each call
//! has the spans, durations and refusals that it would have alone.

mod client;
mod conversation;
#[cfg(test)]
mod echo;
#[allow(
    missing_docs,
    clippy::all,
    unused_qualifications,
    unreachable_pub,
    reason = "generated code; the proto carries the documentation"
)]
mod generated {
    include!("generated/lonja.batch.v1.rs");
}
mod server;

use std::time::Duration;

pub(crate) use client::Batch;
pub(crate) use generated::UnaryCall;
pub use generated::batch_service_server::BatchServiceServer;
#[cfg(feature = "fuzzing")]
pub(crate) use generated::{ConverseRequest, ConverseResponse};
pub use server::{BatchServer, Holds};

/// How long the answers of a batch are gathered before those that have come are sent, and how long a batch has
/// its replica alone before the next batch is sent there too. Most batches are answered whole by then. A call that
/// takes longer holds up nobody else.
const GATHER: Duration = Duration::from_millis(1);
