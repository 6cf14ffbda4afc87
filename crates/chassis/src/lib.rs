//! What every service of Lonja shares: settings, sockets and places for connections, serving gRPC and HTTP,
//! health, admin endpoints, the operation log, shutdown, and a change and its record in one commit.

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
