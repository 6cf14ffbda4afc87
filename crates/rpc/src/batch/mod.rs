//! Unary calls that wait at the same moment travel as one (`lonja.batch.v1`).
//!
//! Most of the cost of a small call is HTTP/2, at both ends and whatever the call asks. The client
//! puts calls in a queue and sends those that wait there together. The server has each call
//! answered by its service. Each call has the spans, durations and refusals that it would have
//! alone.

mod client;
mod conversation;
mod server;

pub(crate) use client::Batch;
pub use server::BatchServer;
