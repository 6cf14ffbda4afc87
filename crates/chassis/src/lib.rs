//! What every service of Lonja shares: sockets, gRPC in one process or across the
//! network, health, admin endpoints, logs, shutdown, and the embedded store's journal.

pub mod admin;
pub mod clock;
mod contract;
pub mod fold;
pub mod grpc;
pub mod health;
pub mod http;
pub mod net;
pub mod networks;
pub mod operation_log;
pub mod places;
pub mod service;
pub mod shutdown;
pub mod unit_of_work;
